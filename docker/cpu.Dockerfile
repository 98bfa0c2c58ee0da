# The environment of `make setup`, and rlpost as the command. Build from the root of a checkout:
#   docker build -f docker/cpu.Dockerfile -t rlpost:cpu .
FROM python:3.11-slim-bookworm
# A compiler: torch builds small kernels on demand. procps: Ray's own tools ask for ps.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make procps \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rlpost
COPY . .
RUN make setup && .venv/bin/rlpost rl experiment=quickstart --cfg job > /dev/null
# Also the address of the caches: what a run downloads stays in this directory.
ENV PATH=/opt/rlpost/.venv/bin:$PATH \
    RLPOST_CACHE=/opt/rlpost/.cache \
    HF_HOME=/opt/rlpost/.cache/huggingface \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0
WORKDIR /workspace
ENTRYPOINT ["rlpost"]
CMD ["--help"]
