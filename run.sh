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
exec .venv/bin/python inference.py
