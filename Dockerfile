# `swwatch serve` in a container, for a CPU or for NVIDIA GPUs:
#
#   docker build -t swwatch:cpu .                        docker build -t swwatch:cuda --build-arg DEVICE=cuda .
#   docker run -p 127.0.0.1:8000:8000 -e SWWATCH_TOKEN=... swwatch:cpu
#   docker run -p 127.0.0.1:8000:8000 -e SWWATCH_TOKEN=... --gpus all -v models:/models swwatch:cuda --model /models/X
#
# Arguments after the image's name go to `swwatch serve`; compose.yaml has all of it in one file.
ARG DEVICE=cpu

# --- what differs: where Python and torch come from ---
FROM python:3.12-slim-bookworm AS base-cpu
RUN python3 -m venv /opt/venv
# the builds without CUDA: some 0.2 GB instead of 5
RUN /opt/venv/bin/python -m pip install --disable-pip-version-check --no-cache-dir --quiet \
    --index-url https://download.pytorch.org/whl/cpu torch==2.11.0 torchvision==0.26.0

# the wheels of torch bring CUDA's libraries; triton compiles small C files when the model starts
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS base-cuda
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

# --- what is the same ---
FROM base-${DEVICE}
ARG DEVICE
WORKDIR /app
COPY requirements.lock ./
RUN if [ "$DEVICE" = cpu ]; then sed -i -E '/^(nvidia-|cuda-|triton=)/d' requirements.lock; fi \
    && /opt/venv/bin/python -m pip install --disable-pip-version-check --no-cache-dir --quiet -r requirements.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs ./configs
COPY swwatch ./swwatch
RUN /opt/venv/bin/python -m pip install --disable-pip-version-check --no-cache-dir --quiet --no-deps --editable .

# checkpoints and the hub's cache, recorded sessions, videos that sessions may watch, the toy model of a first run
RUN useradd --uid 10001 --create-home swwatch \
    && mkdir -p /models /recordings /videos /app/output \
    && chown swwatch /models /recordings /app/output
USER swwatch
ENV PATH=/opt/venv/bin:$PATH HF_HOME=/models/hub PYTHONUNBUFFERED=1
VOLUME ["/models", "/recordings"]
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# reachable from outside the container, and so it wants a token: SWWATCH_TOKEN
ENTRYPOINT ["swwatch", "serve", "--host", "0.0.0.0", "--port", "8000", "--files", "/videos", "--record-folder", "/recordings"]
