#!/usr/bin/env bash
# Set up .venv once, then check the code, pass every test and, where a container engine answers, test the container.
#   ./test.sh              all of it
#   ./test.sh --fast       checks, and the tests that take no long time: four to five minutes on two cores
#   ./test.sh container    the container alone
#   ./test.sh ARGUMENTS    checks, and pytest with these arguments
set -eu
cd "$(dirname "$(readlink -f "$0")")"
. ./setup.sh

engine=${CONTAINER_ENGINE:-docker}

test_container() {
    if ! timeout 20 "$engine" info >/dev/null 2>&1; then
        echo "no container engine answers ($engine): the container was not tested"
        return 0
    fi
    .venv/bin/python -m pytest -m container test/whole/test_container.py
}

test_on_every_core() { # a process each, of 2.5 GB at most; a file's tests stay together
    .venv/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"
}

make_venv requirements-dev.txt
if [ "${1:-}" = container ]; then
    test_container
    exit
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-logo
.venv/bin/shellcheck -x ./*.sh .ci/*
.venv/bin/hadolint --failure-threshold warning Dockerfile
case ${1:-} in
--fast) test_on_every_core -m "not container and not speed and not slow" ;;
'') test_on_every_core ;;
*) .venv/bin/python -m pytest "$@" ;;
esac
if [ "$#" -eq 0 ]; then
    .venv/bin/python -m pytest -m speed
    test_container
fi
