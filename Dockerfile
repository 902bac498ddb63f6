# vcut serve in a container, for NVIDIA GPUs: docker compose up, or
#
#   docker build --tag vcut_trt .
#   docker run --gpus all --publish 127.0.0.1:8000:8000 --volume "$PWD/build/svd-xt:/bundle:ro" --volume jobs:/jobs \
#     --volume "$PWD/keys.json:/keys.json:ro" vcut_trt
#
# Nobody has built this image yet: the project's own machines have no Docker engine. docs/serving.md says what was tested.

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/vcut
ENV PATH=/opt/vcut/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What the project needs changes seldom, its code often: two layers. torch's wheel brings the CUDA libraries.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir vcut_trt && touch vcut_trt/__init__.py \
 && pip install --constraint constraints.txt torch \
 && pip install --constraint constraints.txt ".[rtx,serve]" \
 && pip uninstall --yes vcut-trt
COPY vcut_trt vcut_trt
RUN pip install --no-deps .

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 vcut && install --directory --owner=vcut --group=vcut --mode=0700 /jobs
COPY --from=build /opt/vcut /opt/vcut
ENV PATH=/opt/vcut/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VCUT_TRT_CACHE=/jobs/cache
USER vcut
WORKDIR /home/vcut
VOLUME /jobs
EXPOSE 8000
STOPSIGNAL SIGTERM
# Ready: the engines are open. Opening them takes minutes on a cold disk.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["vcut"]
CMD ["serve", "/bundle", "--data", "/jobs", "--host", "0.0.0.0", "--port", "8000", "--keys", "/keys.json"]
