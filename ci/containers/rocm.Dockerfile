# Parity on an AMD GPU: docker build -f ci/containers/rocm.Dockerfile -t portaloss-rocm .
#                       docker run --rm $AMD portaloss-rocm
# where AMD="--device=/dev/kfd --device=/dev/dri --group-add video --ipc=host --security-opt seccomp=unconfined"
# With the report outside:  docker run --rm $AMD -v "$PWD/reports:/reports" portaloss-rocm \
#                              -- --backend triton --require triton --json /reports/amd.json
# Benchmarks as well:       docker run --rm $AMD -v "$PWD/reports:/reports" --entrypoint python3 portaloss-rocm \
#                              ci/gpu.py --out /reports
#
# Unproven: this recipe has not been built or run, and no kernel has run on an AMD GPU. "latest" is the newest ROCm;
# for a result that can be repeated, name a tag: --build-arg IMAGE=rocm/pytorch:TAG, with torch >= 2.8.
ARG IMAGE=rocm/pytorch:latest
FROM ${IMAGE}

# nox runs in the image's own python, so that it finds the image's torch and triton and leaves them as they are
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1
RUN python3 -m pip install "nox>=2025.2.9" virtualenv scipy ml_dtypes

WORKDIR /portaloss
COPY pyproject.toml noxfile.py README.md LICENSE MANIFEST.in ./
COPY ci ci
COPY portaloss portaloss
COPY reference reference

ENTRYPOINT ["python3", "-m", "nox", "-s", "parity"]
