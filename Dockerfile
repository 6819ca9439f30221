# The algorithm as Grand Challenge runs it. BASE_IMAGE brings Python 3.11 or newer with pip and, for a GPU, a torch built
# for CUDA 12.6 (what the platform's T4 machines need), which is kept. Where it brings no torch, the pinned one comes from
# TORCH_INDEX: https://download.pytorch.org/whl/cu126 for a GPU.
# Targets: exec (the default) answers one case and exits; invoke serves many.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime

FROM ${BASE_IMAGE} AS build
# wheels/ may hold packages that are already built; without it they come from the index, and a compiler with them
ARG PIP_NO_INDEX=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_FIND_LINKS=/tmp/wheels PIP_NO_CACHE_DIR=1 PIP_QUIET=1 PIP_PYTHON=/opt/venv/bin/python
# the C code of pyradiomics-cuda, where nvcc is found too: it is what was measured
ENV SKBUILD_CMAKE_DEFINE=FORCE_DISABLE_CUDA=ON
# hadolint ignore=DL3002
USER root
COPY requirements.txt wheels* /tmp/wheels/
WORKDIR /tmp/wheels
RUN python3 -c 'import sys, pip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    || { echo "error: the base image needs python3 of 3.11 or newer with pip and venv: $(python3 --version 2>&1)" >&2; exit 1; }
RUN python3 -m venv --system-site-packages --without-pip /opt/venv
# hadolint ignore=DL3008
RUN python=$(python3 -c 'import sys; print("cp%d%d" % sys.version_info[:2])') \
    && header=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h \
    && if ! ls pyradiomics_cuda-*-"$python"-*.whl && ! { command -v gcc && ls "$header"; }; then \
        { apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev python3-dev; } \
        || { echo "error: the base image has no gcc with $header, nor an apt-get that brings them" >&2; exit 1; }; \
    fi
RUN /opt/venv/bin/python -c 'import torch' \
    || python3 -m pip install --extra-index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.txt)"
# the torch that is there stays: another build of it may not fit the GPU
RUN torch=$(/opt/venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))') \
    && sed "s/^torch==.*/torch==$torch/" requirements.txt >kept.txt && python3 -m pip install --requirement kept.txt

# what lay under a umask of 077 must be read by another user
FROM ${BASE_IMAGE} AS files
# hadolint ignore=DL3002
USER root
WORKDIR /opt/app
COPY LICENSE inference.py ./
COPY weights weights
COPY resources resources
COPY mmpl mmpl
RUN chmod -R a+rX .

FROM ${BASE_IMAGE} AS runtime
USER root
RUN groupadd --gid 10001 mmpl \
    && useradd --uid 10001 --gid mmpl --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mmpl
COPY --from=build /opt/venv /opt/venv
COPY --from=files /opt/app /opt/app
WORKDIR /opt/app
# everything that is written besides /output goes to /tmp
ENV HOME=/tmp USER=mmpl MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# the challenge's edition, by its file in resources/editions, hecktor-2025 where empty; and the tasks that this image
# answers: a list of the edition's, or all where empty
ARG MMPL_EDITION=
ARG MMPL_TASKS=
ENV MMPL_EDITION=${MMPL_EDITION} MMPL_TASKS=${MMPL_TASKS}
LABEL org.opencontainers.image.title="MMPL" \
      org.opencontainers.image.description="Segmentation, HPV status and recurrence risk of head-and-neck cancer from one PET/CT and one clinical record. Not for clinical use." \
      org.opencontainers.image.licenses="Apache-2.0"
USER mmpl
ENTRYPOINT ["/opt/venv/bin/python", "inference.py"]

FROM runtime AS invoke
LABEL org.grand-challenge.api-method="invoke"
CMD ["invoke"]

FROM runtime AS exec
