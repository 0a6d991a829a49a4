# The server with its learner and the environments that need no browser and no Java.
#   CPU:  docker build -t upturn .
#   GPU:  docker build --build-arg ACCELERATOR=cuda -t upturn .
# ENVIRONMENTS=all adds Chromium (web) and Java (sciworld), about 0.7 GB.
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL name other indexes; with PyTorch's CPU index the CPU image is 5 GB smaller.

FROM python:3.11-slim AS build
ARG ACCELERATOR=cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# For jericho (TextWorld), which has no wheel.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /upturn
# Only what decides about packages: changed sources reuse this layer. The project itself is installed in place.
COPY run.py pyproject.toml constraints.txt README.md ./
COPY installation installation
COPY clients/python/pyproject.toml clients/python/README.md clients/python/
COPY clients/python/upturn/__init__.py clients/python/upturn/__init__.py
RUN ACCELERATOR=$ACCELERATOR UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 UV_COMPILE_BYTECODE=1 python3 run.py setup

FROM python:3.11-slim
ARG ACCELERATOR=cpu
ARG ENVIRONMENTS=basic
# On a GPU, Triton compiles its launchers while serving, with gcc.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libnuma1 util-linux \
        $([ "$ACCELERATOR" = cuda ] && echo gcc libc6-dev) \
        $([ "$ENVIRONMENTS" = all ] && echo chromium-headless-shell default-jre-headless) \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 upturn && install -d -o upturn -g upturn /data
WORKDIR /upturn
COPY --from=build /upturn/.venv .venv
COPY pyproject.toml README.md ./
COPY server server
COPY learner learner
COPY clients clients
COPY env_adapters env_adapters
COPY migrations migrations
ENV PATH=/upturn/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER upturn
VOLUME /data
EXPOSE 8000
# Loading a model takes minutes on few cores: failures count after ten.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]
# `docker stop` kills after 10 s, and the server lets calls in progress finish for up to 60 s:
# `docker run --stop-timeout 90`.
# Beyond loopback every request needs an API key; the first start prints the admin key once (`docker logs`).
CMD ["python", "-m", "server", "serve", "--host", "0.0.0.0", "--data-dir", "/data"]
