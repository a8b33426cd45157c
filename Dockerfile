# A static dnsd on an empty base, run by a user who may do one thing more than
# others: bind port 53.
#
#   docker build --build-arg VERSION=1.2.3 -t dnsd .
#
# Give settings as DNSD_… variables rather than as arguments: the health check
# then sees the same ones. GO_IMAGE is anything with Go and setcap, and BASE
# anything at all.
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE=scratch

FROM ${GO_IMAGE} AS build
# setcap; Debian's golang image lacks it.
RUN command -v setcap || (apt-get update && apt-get install -y --no-install-recommends libcap2-bin)
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X main.linkedVersion=${VERSION}" -o /out/usr/bin/dnsd ./cmd/dnsd
# The capability lies on the file and takes effect by itself (e): dnsd raises
# none. The kernel refuses to start such a file where the container may not have
# the capability ("operation not permitted"), as after cap_drop: ALL: add
# NET_BIND_SERVICE there, or build with FILE_CAPS= and listen above port 1023.
ARG FILE_CAPS=cap_net_bind_service=+ep
RUN if [ -n "${FILE_CAPS}" ]; then setcap "${FILE_CAPS}" /out/usr/bin/dnsd; fi
# /etc/dnsd is for the registry file, /var/lib/dnsd for the last known state.
RUN install -d -o 65532 -g 65532 -m 0750 /out/var/lib/dnsd && install -d /out/etc/dnsd /out/etc/ssl/certs \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

FROM ${BASE}
COPY --from=build /out/ /
USER 65532:65532
EXPOSE 53/udp 53/tcp
ENV DNSD_LISTEN=[::]:53 DNSD_STATE_DIR=/var/lib/dnsd
# A dnsd without a registry still forwards: not ready is no reason to restart it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/bin/dnsd", "healthcheck", "live"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/dnsd"]
