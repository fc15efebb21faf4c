# Node on a PC with a GPU of NVIDIA (driver 560 or newer, NVIDIA Container Toolkit 1.19.1 or newer on the host).
# Build in the project's root:  docker build -f deploy/containers/node-rtx.Dockerfile -t edgewise-node-rtx .
FROM nvidia/cuda:12.6.3-base-ubuntu24.04 AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3.12 python3.12-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python3.12 -m venv /opt/edgewise \
 && EDGEWISE_NATIVE=require /opt/edgewise/bin/pip install --no-cache-dir -c constraints.txt '.[node,gpu]'

FROM nvidia/cuda:12.6.3-base-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.12 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/edgewise --create-home edgewise
COPY --from=build /opt/edgewise /opt/edgewise
COPY --chmod=0755 deploy/containers/node-entry.sh /usr/local/bin/node-entry
ENV PATH=/opt/edgewise/bin:$PATH PYTHONDONTWRITEBYTECODE=1 EDGEWISE_NODE_IDENTITY=/var/lib/edgewise/identity
# utility is NVML, which reads joules.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
VOLUME /var/lib/edgewise
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "deploy.health", "node"]
ENTRYPOINT ["node-entry"]
CMD ["--log", "json"]
