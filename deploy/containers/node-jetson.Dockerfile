# Node on a Jetson Orin with JetPack 6 (L4T r36). The agent runs on Ubuntu's Python 3.11; models may run on JetPack's own
# 3.10, which has its TensorRT: EDGEWISE_NODE_WORKER_PYTHON=/usr/bin/python3.10 (needs numpy and onnxruntime there).
# Build on the Jetson, in the project's root:  docker build -f deploy/containers/node-jetson.Dockerfile -t edgewise-node-jetson .
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3.11 python3.11-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python3.11 -m venv /opt/edgewise \
 && EDGEWISE_NATIVE=require /opt/edgewise/bin/pip install --no-cache-dir -c constraints.txt '.[node]'

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.11 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --groups video --home-dir /var/lib/edgewise --create-home edgewise
COPY --from=build /opt/edgewise /opt/edgewise
COPY --chmod=0755 deploy/containers/node-entry.sh /usr/local/bin/node-entry
ENV PATH=/opt/edgewise/bin:$PATH PYTHONDONTWRITEBYTECODE=1 EDGEWISE_NODE_IDENTITY=/var/lib/edgewise/identity
USER 10001:10001
VOLUME /var/lib/edgewise
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "deploy.health", "node"]
ENTRYPOINT ["node-entry"]
CMD ["--log", "json"]
