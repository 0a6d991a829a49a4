# The server with its learner.
#   GPU:  docker build --build-arg VLLM=gpu -t upturn .
#   CPU:  docker build --build-arg PIP_EXTRA_INDEX_URL=... -t upturn .     (PyTorch's CPU index, which has torch 2.13.0+cpu)
FROM python:3.11-slim

ARG VLLM=cpu
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /upturn
COPY pyproject.toml README.md run.py constraints.txt ./
COPY server server
COPY learner learner
COPY clients clients
COPY env_adapters env_adapters
COPY migrations migrations
# run.py installs into /upturn/.venv, with placeholders for packages that break with a CPU torch.
RUN ACCELERATOR=$([ "$VLLM" = gpu ] && echo cuda || echo cpu) python run.py setup
ENV PATH=/upturn/.venv/bin:$PATH PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
# `docker stop` kills after 10 s, and the server lets calls in progress finish for up to 60 s: `docker run --stop-timeout 90`.
# Beyond loopback every request needs an API key; the first start prints the admin key once (`docker logs`).
CMD ["python", "-m", "server", "serve", "--host", "0.0.0.0", "--data-dir", "/data"]
