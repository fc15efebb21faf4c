# Node on a CPU. Build in the project's root:  docker build -f deploy/containers/node.Dockerfile -t edgewise-node .
FROM python:3.12.8-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python -m venv /opt/edgewise \
 && EDGEWISE_NATIVE=require /opt/edgewise/bin/pip install --no-cache-dir -c constraints.txt '.[node]'

FROM python:3.12.8-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/edgewise --create-home edgewise
COPY --from=build /opt/edgewise /opt/edgewise
COPY --chmod=0755 deploy/containers/node-entry.sh /usr/local/bin/node-entry
ENV PATH=/opt/edgewise/bin:$PATH PYTHONDONTWRITEBYTECODE=1 EDGEWISE_NODE_IDENTITY=/var/lib/edgewise/identity
USER 10001:10001
VOLUME /var/lib/edgewise
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "deploy.health", "node"]
ENTRYPOINT ["node-entry"]
CMD ["--log", "json"]
