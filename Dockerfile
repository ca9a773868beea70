# check=error=true
# SPDX-License-Identifier: Apache-2.0
# Needs BuildKit. Built and tested as docs/releasing.md says; scripts/image.py makes all that is added to the base.

# Tags here, digests in a release: `make docker-release` looks both up and writes them into the image's labels.
# The builder's Python must be of the base's minor version (3.13): scripts/image.py refuses otherwise.
ARG BUILDER=python:3.13.9-slim-trixie
# glibc, for which grpcio has wheels on both architectures, and neither shell nor package manager. Its tags move with
# Debian's security updates, on purpose.
ARG RUNTIME=gcr.io/distroless/python3-debian13:nonroot

# On the builder's own architecture whatever the target: wheels are chosen, not compiled, so nothing is emulated.
FROM --platform=$BUILDPLATFORM ${BUILDER} AS layout
ARG TARGETPLATFORM
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements/ requirements/
COPY scripts/image.py scripts/image.py
COPY src/ src/
# The secret may give pip another index; without it pip uses its own.
RUN --mount=type=cache,target=/var/cache/pip,sharing=locked \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    PIP_CACHE_DIR=/var/cache/pip \
    python scripts/image.py /layout --platform "$TARGETPLATFORM" --python /usr/bin/python3.13

FROM ${RUNTIME}
ARG RUNTIME
ARG RUNTIME_DIGEST=""
ARG VERSION=0.0.0
ARG REVISION=""
LABEL org.opencontainers.image.title="keda-gpu-scaler" \
      org.opencontainers.image.description="A KEDA external scaler that reads the GPUs themselves" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/keda-gpu-scaler/keda-gpu-scaler" \
      org.opencontainers.image.documentation="https://github.com/keda-gpu-scaler/keda-gpu-scaler#readme" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${RUNTIME}" \
      org.opencontainers.image.base.digest="${RUNTIME_DIGEST}"
COPY --link --from=layout /layout/ /usr/local/

# A Python that is started by hand in the image writes no bytecode either; the command ignores the environment.
ENV PYTHONDONTWRITEBYTECODE=1
# The agents' pods set root: the kubelet's socket belongs to it. No HEALTHCHECK: the kubelet asks /livez and /readyz.
USER 65532:65532
EXPOSE 6000 8081 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["keda-gpu-scaler"]
CMD ["serve"]
