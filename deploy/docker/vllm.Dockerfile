# A VLM judge on vLLM. An environment of its own: vLLM pins its own PyTorch.
ARG BASE=docker.io/library/python:3.11.13-slim-bookworm
FROM ${BASE}
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1
COPY deploy/constraints/vllm.txt /opt/constraints/vllm.txt
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir -c /opt/constraints/vllm.txt vllm \
    && groupadd --gid 10001 tafs \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp tafs
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server"]
CMD ["--help"]
