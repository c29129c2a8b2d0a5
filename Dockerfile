# kbackupd in a container: docker build -t kbackupd . (docs/deployment.md says how to run it)
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The dependencies first and by hash: this layer is built again only when a lock changes. Wheels only: nothing here
# compiles, so no compiler is ever installed.
COPY requirements-runtime.lock requirements-build.lock ./
RUN python -m venv /opt/kbackupd \
 && /opt/kbackupd/bin/python -m pip install --require-hashes --only-binary=:all: -r requirements-runtime.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --only-binary=:all: -r requirements-build.lock
COPY pyproject.toml README.md ./
COPY kbackupd kbackupd
# pip itself stays behind too: what runs cannot install anything.
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
 && /opt/kbackupd/bin/python -m pip install --no-deps --no-index /tmp/wheel/*.whl \
 && /opt/kbackupd/bin/python -m pip check \
 && /opt/kbackupd/bin/python -m compileall -q /opt/kbackupd/lib \
 && /opt/kbackupd/bin/python -m pip uninstall --yes pip

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="kbackupd" \
      org.opencontainers.image.description="Continuous, verifiable backup of Apache Kafka to S3, and its restore" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes can tell that it is not root (runAsNonRoot). The directories are those of the defaults:
# control.socket, and storage.type filesystem.
RUN groupadd --system --gid 10001 kbackupd \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin kbackupd \
 && install -d -o 10001 -g 10001 -m 0750 /run/kbackupd /var/lib/kbackupd
COPY --from=build /opt/kbackupd /opt/kbackupd
# The variables only help to look into it: output as it comes, and a traceback in the log if the process is aborted.
ENV PATH=/opt/kbackupd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1
USER 10001:10001
WORKDIR /var/lib/kbackupd
EXPOSE 9464
# SIGTERM drains: allow more than backup.shutdown_timeout (30 s) for it, `docker stop` gives only 10 s by itself.
STOPSIGNAL SIGTERM
# The event loop turns; nothing else may restart a backup. Another observability.listen wants another check.
# Not urllib: it would ask the proxy that HTTP_PROXY names.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9464, timeout=8); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["kbackupd"]
CMD ["run", "--config", "/etc/kbackupd/kbackupd.yaml"]
