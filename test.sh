#!/usr/bin/env bash
# Set up .venv once, then check the code and pass every test; arguments go to pytest.
set -eu
cd "$(dirname "$0")"
. ./setup.sh
make_venv requirements-dev.txt

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-logo
.venv/bin/python -m pytest "$@"
