# The server with its learner.
#   GPU:  docker build --build-arg VLLM=gpu -t upturn .
#   CPU:  docker build --build-arg PIP_EXTRA_INDEX_URL=... -t upturn .     (PyTorch's CPU index, for torch 2.13.0+cpu)
FROM python:3.11-slim

ARG VLLM=cpu
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /upturn
COPY pyproject.toml README.md run.py ./
COPY server server
COPY learner learner
COPY clients clients
COPY env_adapters env_adapters
COPY migrations migrations
# run.py knows how to install beside a CPU torch; the image needs no virtual environment of its own kind.
RUN ACCELERATOR=$([ "$VLLM" = gpu ] && echo cuda || echo cpu) python run.py setup
ENV PATH=/upturn/.venv/bin:$PATH PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
# Beyond loopback every request needs an API key; the first start prints an admin's, once (`docker logs`).
CMD ["python", "-m", "server", "serve", "--host", "0.0.0.0", "--data-dir", "/data"]
