# shellcheck shell=bash
# Sourced by the scripts beside it.
#
# as_caller_meant gives a path as it was meant where the script was called from, which is $caller.
# make_venv makes .venv with the pinned requirements of one file; does nothing if it has them.
# MMPL_PYTHON names the Python, of 3.11 to 3.13. Unasked, it is the one that .venv has or else the first that is found
# of 3.11, with which every figure was measured, 3.12 and 3.13.

# the C code of pyradiomics-cuda, where nvcc is found too: it is what was measured
export SKBUILD_CMAKE_DEFINE=FORCE_DISABLE_CUDA=ON

as_caller_meant() { # as_caller_meant PATH: absolute, but where the caller stands in this folder anyway
    # shellcheck disable=SC2154
    case $1 in /*) ;; *) [ "$caller" = "$PWD" ] || printf '%s/' "$caller" ;; esac
    printf '%s\n' "$1"
}

supported() { # supported PYTHON: its version, as 3.11; fails where it will not do
    "$1" -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(1); print("%d.%d" % v)' 2>/dev/null
}

make_venv() { # make_venv REQUIREMENTS
    local requirements=$1 python='' candidate missing='' version pins fits=''
    for candidate in .venv/bin/python python3.11 python3.12 python3.13 python3; do
        candidate=${MMPL_PYTHON:-$candidate}
        if version=$(supported "$candidate"); then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ] && [ -n "${MMPL_PYTHON:-}" ]; then
        echo "error: MMPL_PYTHON=$MMPL_PYTHON: not a Python of 3.11 to 3.13" >&2
        return 1
    fi

    pins=$(cat requirements*.txt | sha256sum)
    if [ -n "$python" ] && [ "$(supported .venv/bin/python)" = "$version" ] && grep -qsxF "$pins" .venv/installed; then
        fits=yes
        ! grep -qxF "$requirements" .venv/installed || return 0
    fi
    if [ -z "$python" ]; then
        missing="$missing Python 3.11 to 3.13 (Debian: python3),"
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing its Python's venv (python3-venv),"
        "$python" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
            missing="$missing its Python's headers (python3-dev),"
    fi
    command -v gcc >/dev/null || missing="$missing gcc (gcc, libc6-dev),"
    if [ -n "$missing" ]; then
        echo "error: this machine lacks${missing%,}" >&2
        return 1
    fi

    # other pins, or another Python: nothing of the former may stay beside them
    if [ -z "$fits" ]; then
        "$python" -m venv --clear .venv
        echo "$pins" >.venv/installed
    fi
    echo "installing $requirements into .venv, with Python $version (a few minutes, once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    printf '%s\n' requirements.txt "$requirements" >>.venv/installed # each file includes requirements.txt
}
