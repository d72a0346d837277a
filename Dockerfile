# The server. Build: docker build -t emogen .
# Run: docker run --read-only --tmpfs /tmp --cap-drop ALL -e EMOGEN_API_KEY=... -v emogen-data:/data -p 8000:8000 emogen
FROM python:3.11-slim

# A CPU build of PyTorch is a tenth of the size: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
WORKDIR /app
COPY requirements.lock constraints.txt pyproject.toml setup.cfg README.md LICENSE MANIFEST.in ./
COPY emogen emogen
COPY checkpoints checkpoints
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" --constraint constraints.txt torch \
      && pip install --no-cache-dir --constraint constraints.txt ".[serve,feedback,gguf]"; \
    else pip install --no-cache-dir --require-hashes --requirement requirements.lock && pip install --no-cache-dir --no-deps .; fi \
  && useradd --system --uid 10001 --no-create-home emogen && mkdir /data && chown emogen /data

USER 10001
ENV HOME=/data HF_HOME=/data/hub EMOGEN_DATA=/data/corpora OMP_WAIT_POLICY=PASSIVE
WORKDIR /data
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=3)"]
CMD ["emogen", "serve", "--host", "0.0.0.0", "--feedback", "/data/opinions.db"]
