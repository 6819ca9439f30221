#!/usr/bin/env bash
# Build and write what Grand Challenge takes: an image for each of the three tasks and, if asked, the model apart.
#   ./save.sh [--invoke] [--model] [FOLDER]     by default FOLDER is upload/
# --invoke writes images for the invoke API instead of exec, --model the weights as model.tar.gz, too.
# CONTAINER_ENGINE (docker), BASE_IMAGE and BUILD_OPTIONS are those of ./test.sh container.
set -euo pipefail
caller=$PWD
cd "$(dirname "$(readlink -f "$0")")"
. ./setup.sh

engine=${CONTAINER_ENGINE:-docker} api=exec model='' out=upload
for argument in "$@"; do
    case $argument in
        --invoke) api=invoke ;;
        --model) model=yes ;;
        -*)
            echo "usage: ./save.sh [--invoke] [--model] [FOLDER]" >&2
            exit 2
            ;;
        *) out=$(as_caller_meant "$argument") ;;
    esac
done
limit=$((10 * 1000 * 1000 * 1000)) # what the platform takes
declare -A answer=([segmentation]=images/tumor-lymph-node-segmentation/output.mha [survival]=rfs.json [hpv]=hpv-status.json)
options=()
[ -z "${BASE_IMAGE:-}" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
read -ra more <<<"${BUILD_OPTIONS:-}"
mkdir -p "$out"
check=$(mktemp -d)
trap 'rm -rf "$check" || :' EXIT # another user's files may stay

size_of() { stat -c %s "$1"; }

for task in segmentation survival hpv; do
    image=mmpl-$task archive=$out/mmpl-$task.tar.gz
    "$engine" build --quiet --target "$api" --tag "$image" --build-arg "MMPL_TASKS=$task" "${options[@]}" "${more[@]}" . >/dev/null
    "$engine" save "$image" | gzip -1 >"$archive.partial"
    size=$(size_of "$archive.partial")
    if [ "$size" -gt "$limit" ]; then
        rm "$archive.partial"
        echo "error: $archive would be $((size / 1000000)) MB, and the platform takes $((limit / 1000000)) MB" >&2
        exit 1
    fi
    # the file itself must load and answer, whatever the engine still holds
    "$engine" image rm "$image" >/dev/null
    gzip -dc "$archive.partial" | "$engine" load >/dev/null
    mkdir -m 777 "$check/$task"
    "$engine" run --rm --network none --entrypoint /opt/venv/bin/python --volume "$PWD/test/input:/input:ro" \
        --volume "$check/$task:/output" "$image" inference.py >"$check/log" || {
        cat "$check/log"
        exit 1
    }
    if [ ! -s "$check/$task/${answer[$task]}" ]; then
        echo "error: $archive loads, but leaves no ${answer[$task]}" >&2
        exit 1
    fi
    mv "$archive.partial" "$archive"
    echo "$archive: $((size / 1000000)) MB, loads and answers"
done
if [ -n "$model" ]; then
    tar -C weights -czf "$out/model.tar.gz" --owner 0 --group 0 .
    echo "$out/model.tar.gz: $(($(size_of "$out/model.tar.gz") / 1000000)) MB"
fi
