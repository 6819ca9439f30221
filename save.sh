#!/usr/bin/env bash
# Build and write what Grand Challenge takes: an image for each of the three tasks of HECKTOR 2025, or one for all of
# HECKTOR 2026; and, if asked, the model apart.
#   ./save.sh [--edition hecktor-2026] [--invoke] [--model] [FOLDER]     by default FOLDER is upload/
# --invoke writes images for the invoke API instead of exec, --model the weights as model.tar.gz, too.
# CONTAINER_ENGINE (docker), BASE_IMAGE and BUILD_OPTIONS are those of ./test.sh container.
set -euo pipefail
caller=$PWD
cd "$(dirname "$(readlink -f "$0")")"
. ./setup.sh

engine=${CONTAINER_ENGINE:-docker} edition=hecktor-2025 api=exec model='' out=upload
while [ "$#" -gt 0 ]; do
    case $1 in
        --edition)
            edition=${2-}
            [ "$#" -eq 1 ] || shift
            ;;
        --invoke) api=invoke ;;
        --model) model=yes ;;
        -*)
            echo "usage: ./save.sh [--edition hecktor-2026] [--invoke] [--model] [FOLDER]" >&2
            exit 2
            ;;
        *) out=$(as_caller_meant "$1") ;;
    esac
    shift
done
case $edition in
    hecktor-2025) algorithms=(segmentation survival hpv) ;; # by the task that each answers
    hecktor-2026) algorithms=("$edition") ;;
    *)
        echo "error: no edition '$edition'; there are hecktor-2025, hecktor-2026" >&2
        exit 2
        ;;
esac
limit=$((10 * 1000 * 1000 * 1000)) # what the platform takes
options=()
[ -z "${BASE_IMAGE:-}" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
read -ra more <<<"${BUILD_OPTIONS:-}"
mkdir -p "$out"
check=$(mktemp -d)
trap 'rm -rf "$check" || :' EXIT # another user's files may stay

size_of() { stat -c %s "$1"; }

# paths of the answers that an image must leave
answers='
import os, yaml
answers = yaml.safe_load(open("resources/editions/" + os.environ["MMPL_EDITION"] + ".yaml"))["answers"]
for task in os.environ["MMPL_TASKS"].split() or answers:
    print(answers[task]["path"])
'
for algorithm in "${algorithms[@]}"; do
    image=mmpl-$algorithm archive=$out/mmpl-$algorithm.tar.gz tasks=$algorithm
    [ "$algorithm" != "$edition" ] || tasks='' # all
    "$engine" build --quiet --target "$api" --tag "$image" --build-arg "MMPL_EDITION=$edition" \
        --build-arg "MMPL_TASKS=$tasks" "${options[@]}" "${more[@]}" . >/dev/null
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
    mkdir -m 777 "$check/$algorithm"
    run=("$engine" run --rm --network none --entrypoint /opt/venv/bin/python)
    "${run[@]}" --volume "$PWD/test/input:/input:ro" --volume "$check/$algorithm:/output" "$image" inference.py \
        >"$check/log" || {
        cat "$check/log"
        exit 1
    }
    "${run[@]}" "$image" -c "$answers" >"$check/answers"
    while read -r answer; do
        if [ ! -s "$check/$algorithm/$answer" ]; then
            echo "error: $archive loads, but leaves no $answer" >&2
            exit 1
        fi
    done <"$check/answers"
    mv "$archive.partial" "$archive"
    echo "$archive: $((size / 1000000)) MB, loads and answers"
done
if [ -n "$model" ]; then
    tar -C weights -czf "$out/model.tar.gz" --owner 0 --group 0 .
    echo "$out/model.tar.gz: $(($(size_of "$out/model.tar.gz") / 1000000)) MB"
fi
