# The server with its learner and the environments that need no browser and no Java.
#   CPU:  docker build -t upturn .                              (the target cpu)
#   GPU:  docker build --target cuda -t upturn:cuda .
# --build-arg ENVIRONMENTS=all adds Chromium (web) and Java (sciworld), about 0.7 GB.
# --build-arg PIP_INDEX_URL=... and PIP_EXTRA_INDEX_URL=... name other indexes; with PyTorch's CPU index the CPU image is
# 5 GB smaller. An index that needs a password belongs in pip's configuration file, which no layer keeps:
#   docker build --secret id=pip,src=$HOME/.config/pip/pip.conf -t upturn .
# docs/operations/deploying.md says how to run it.

FROM python:3.11-slim-bookworm AS python

# What decides about packages, and nothing else: changed sources reuse the layers of packages.
FROM python AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# For jericho (TextWorld), which has no wheel.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /upturn
COPY run.py pyproject.toml constraints.txt README.md ./
COPY installation installation
COPY clients/python/pyproject.toml clients/python/README.md clients/python/
COPY clients/python/upturn/__init__.py clients/python/upturn/__init__.py
# The project itself is installed in place, and bytecode is compiled now, since nothing can be written to it later.
ENV UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 UV_COMPILE_BYTECODE=1

FROM packages AS packages-cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf ACCELERATOR=cpu python3 run.py setup

FROM packages AS packages-cuda
RUN --mount=type=secret,id=pip,target=/etc/pip.conf ACCELERATOR=cuda python3 run.py setup

# The project's own files.
FROM python AS project
WORKDIR /upturn
COPY pyproject.toml README.md ./
COPY server server
COPY learner learner
COPY clients clients
COPY env_adapters env_adapters
COPY migrations migrations
RUN python -m compileall -q --invalidation-mode unchecked-hash server learner clients env_adapters migrations

# What both images share, apart from Python packages and the project's own files, which change more often.
FROM python AS runtime
ARG ENVIRONMENTS=basic
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libnuma1 util-linux \
    && if [ "$ENVIRONMENTS" = all ]; then \
        apt-get install -y --no-install-recommends chromium-headless-shell default-jre-headless; \
    fi \
    && rm -rf /var/lib/apt/lists/*
# The user's home is the volume: there go the caches of every library (vLLM, Triton, Hugging Face, Matplotlib, the
# search index), so that the root file system can be read-only. Java reads the home from /etc/passwd.
RUN groupadd --gid 1000 upturn \
    && useradd --uid 1000 --gid upturn --home-dir /data --no-create-home upturn \
    && install -d -o upturn -g upturn /data
# Compiled kernels are loaded from their cache, and a tmpfs on /tmp forbids that unless it is mounted with `exec`.
ENV PATH=/upturn/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    TORCHINDUCTOR_CACHE_DIR=/data/.cache/torchinductor \
    UPTURN_HOST=0.0.0.0 \
    UPTURN_DATA_DIR=/data
WORKDIR /upturn
VOLUME /data
EXPOSE 8000
# Loading a model takes minutes on few cores: failures count after ten.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]
# `docker stop` kills after 10 s, and the server lets calls in progress finish for up to 60 s:
# `docker run --stop-timeout 90`.
# Beyond loopback every request needs an API key; the first start prints the admin key once (`docker logs`).
CMD ["python", "-m", "server", "serve"]

FROM runtime AS cuda
# Triton compiles its launchers while serving, with gcc.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /upturn/.venv .venv
COPY --from=project /upturn ./
USER 1000:1000

FROM runtime AS cpu
COPY --from=packages-cpu /upturn/.venv .venv
COPY --from=project /upturn ./
USER 1000:1000
