# Gateway. Build in the project's root:  docker build -f deploy/containers/gateway.Dockerfile -t edgewise-gateway .
FROM python:3.12.8-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python -m venv /opt/edgewise \
 && EDGEWISE_NATIVE=require /opt/edgewise/bin/pip install --no-cache-dir -c constraints.txt '.[gateway,plan]'

FROM python:3.12.8-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/edgewise --create-home edgewise
COPY --from=build /opt/edgewise /opt/edgewise
ENV PATH=/opt/edgewise/bin:$PATH PYTHONDONTWRITEBYTECODE=1 EDGEWISE_STATE_DIR=/var/lib/edgewise
USER 10001:10001
VOLUME /var/lib/edgewise
EXPOSE 8420 8421 8422
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "deploy.health", "gateway"]
ENTRYPOINT ["edgewise", "gateway"]
CMD ["--listen", "0.0.0.0:8421", "--http-listen", "0.0.0.0:8420", "--log", "json"]
