# CUDA, and what `make setup-gpu` installs. Build from the root of a checkout:
#   docker build -f docker/gpu.Dockerfile -t rlpost:gpu .
# The development image, because DeepSpeed and vLLM compile kernels with nvcc when first used.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        g++ make procps python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rlpost
COPY . .
RUN make setup-gpu PYTHON=python3.12 \
    && .venv/bin/rlpost rl experiment=quickstart --cfg job > /dev/null
ENV PATH=/opt/rlpost/.venv/bin:$PATH \
    RLPOST_CACHE=/opt/rlpost/.cache \
    HF_HOME=/opt/rlpost/.cache/huggingface \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0
WORKDIR /workspace
ENTRYPOINT ["rlpost"]
CMD ["--help"]
