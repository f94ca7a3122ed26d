# Parity on an NVIDIA GPU: docker build -f ci/containers/cuda.Dockerfile -t portaloss-cuda .
#                          docker run --rm --gpus all portaloss-cuda
# With the report outside:  docker run --rm --gpus all -v "$PWD/reports:/reports" portaloss-cuda \
#                              -- --backend triton --require triton --json /reports/nvidia.json
# Benchmarks as well:       docker run --rm --gpus all -v "$PWD/reports:/reports" --entrypoint python3 portaloss-cuda \
#                              ci/gpu.py --out /reports
#
# Unproven: this recipe has not been built or run. Any image whose python has a CUDA build of torch >= 2.8 should do;
# it needs a C compiler too, with which triton builds its launchers ("devel" images have one).
ARG IMAGE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel
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
