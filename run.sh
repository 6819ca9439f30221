#!/usr/bin/env bash
# Set up .venv once, then answer one case in the challenge's layout: ./run.sh [INPUT [OUTPUT]]
set -eu
cd "$(dirname "$0")"
. ./setup.sh

if [ "$#" -gt 2 ] || [ "${1:-}" = --help ]; then
    echo "usage: ./run.sh [INPUT [OUTPUT]]   (by default test/input and output)" >&2
    exit 2
fi
make_venv requirements.txt

export MMPL_INPUT=${1:-test/input} MMPL_OUTPUT=${2:-output}
export MMPL_PICTURE=$MMPL_OUTPUT/picture.png MMPL_REPORT=$MMPL_OUTPUT/report.json
export MMPL_TIME_BUDGET_S=${MMPL_TIME_BUDGET_S:-0} # the platform's limit of time does not hold here
exec .venv/bin/python inference.py
