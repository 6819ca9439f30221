# shellcheck shell=bash
# Sourced by run.sh and test.sh: makes .venv with the pinned requirements of one file; does nothing if it has them.

make_venv() { # make_venv REQUIREMENTS
    local requirements=$1 python='' candidate missing='' wanted first
    for candidate in python3.11 python3; do
        if command -v "$candidate" >/dev/null && [ "$("$candidate" -c 'import sys; print(*sys.version_info[:2])')" = '3 11' ]; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || missing="$missing Python 3.11 (Debian: python3),"
    if [ -n "$python" ]; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing its venv (python3-venv),"
        "$python" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
            missing="$missing its headers (python3-dev),"
    fi
    command -v gcc >/dev/null || missing="$missing gcc (gcc, libc6-dev),"
    if [ -n "$missing" ]; then
        echo "error: this machine lacks${missing%,}" >&2
        return 1
    fi

    wanted=$(cat requirements.txt "$requirements" requirements-train.txt | sha256sum)
    # a venv made for more requirements serves fewer
    if [ -x .venv/bin/python ] && grep -qsxF "$wanted $requirements" .venv/installed; then
        return 0
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    echo "installing $requirements into .venv (a few minutes, once)"
    mapfile -t first < <(grep -E '^(torch|numpy|setuptools)==' requirements.txt)
    .venv/bin/pip install --quiet --disable-pip-version-check "${first[@]}"
    .venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation -r "$requirements"
    echo "$wanted $requirements" >>.venv/installed
}
