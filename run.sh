#!/usr/bin/env bash
# Set up .venv once, then answer one case in the challenge's layout: ./run.sh [INPUT [OUTPUT]]
set -eu
caller=$PWD
cd "$(dirname "$(readlink -f "$0")")"
. ./setup.sh

if [ "$#" -gt 2 ] || [ "${1:-}" = --help ]; then
    echo "usage: ./run.sh [INPUT [OUTPUT]]   (by default test/input and output of this folder)" >&2
    exit 2
fi
make_venv requirements.txt

MMPL_INPUT=test/input MMPL_OUTPUT=output
[ "$#" -lt 1 ] || MMPL_INPUT=$(as_caller_meant "$1")
[ "$#" -lt 2 ] || MMPL_OUTPUT=$(as_caller_meant "$2")
[ -z "${MMPL_WEIGHTS:-}" ] || MMPL_WEIGHTS=$(as_caller_meant "$MMPL_WEIGHTS")
export MMPL_INPUT MMPL_OUTPUT
export MMPL_PICTURE=$MMPL_OUTPUT/picture.png MMPL_REPORT=$MMPL_OUTPUT/report.json MMPL_PAGE=$MMPL_OUTPUT/report.html
export MMPL_TIME_BUDGET_S=${MMPL_TIME_BUDGET_S:-0} # the platform's limit of time does not hold here
exec .venv/bin/python inference.py
