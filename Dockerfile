# One image for all servers and for `chatmesh migrate`; what runs is chosen by the arguments.
# tests/k8s/test_image.py does the same steps without Docker: it builds the wheel, installs it with
# requirements-run.lock into a fresh venv and starts every service from it.

# Pin by digest in your own pipeline (docker buildx imagetools inspect …): a tag may move.
FROM python:3.13.9-slim-trixie AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# The build backend: the same pins with hashes as everything else.
COPY requirements.lock requirements-run.lock ./
COPY tools/image_pins.py tools/
RUN python -m venv /build \
    && python tools/image_pins.py hatchling < requirements.lock > /tmp/build.lock \
    && /build/bin/pip install --require-hashes --only-binary :all: -r /tmp/build.lock
# Dependencies change rarely: a layer of their own.
RUN python -m venv /opt/chatmesh \
    && /opt/chatmesh/bin/pip install --require-hashes --only-binary :all: -r requirements-run.lock
COPY . .
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
    && /opt/chatmesh/bin/pip install --no-deps /dist/*.whl \
    && /opt/chatmesh/bin/pip uninstall --yes pip \
    && find /opt/chatmesh -name __pycache__ -prune -exec rm -r {} + \
    && /opt/chatmesh/bin/python -m compileall -q -j 0 /opt/chatmesh/lib

FROM python:3.13.9-slim-trixie
LABEL org.opencontainers.image.title="chatmesh" \
      org.opencontainers.image.licenses="Apache-2.0"
# No build tool, no package installer, no shell user; nothing is written at run time.
RUN pip uninstall --yes pip && rm -rf /root/.cache
COPY --from=build /opt/chatmesh /opt/chatmesh
ENV PATH=/opt/chatmesh/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1
USER 65532:65532
WORKDIR /
# No ENTRYPOINT: `python -m chat_svc`, `chatmesh migrate`. Signals reach the process itself.
STOPSIGNAL SIGTERM
CMD ["chatmesh", "--help"]
