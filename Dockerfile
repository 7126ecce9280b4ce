# syntax=docker/dockerfile:1
# For people who have Docker; `make images` makes the same images without it.
#   docker build --target sidecar  -t ghcr.io/conch-rs/conch-sidecar:0.1.0  .
#   docker build --target operator -t ghcr.io/conch-rs/conch-operator:0.1.0 .
FROM rust:1.95-bookworm AS build
WORKDIR /conch
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/conch=/conch --remap-path-prefix=/usr/local/cargo=/cargo"
RUN target="$(uname -m)-unknown-linux-gnu" \
    && cargo build --locked --release --target "$target" --package conch-operator --package conch-sidecar \
    && mkdir -p /root-directory/etc \
    && printf 'root:x:0:0:root:/:/sbin/nologin\nconch:x:65532:65532:conch:/:/sbin/nologin\n' > /root-directory/etc/passwd \
    && printf 'root:x:0:\nconch:x:65532:\n' > /root-directory/etc/group \
    && cp "target/$target/release/conch-operator" "target/$target/release/conch-sidecar" /

FROM scratch AS sidecar
COPY --from=build /root-directory/ /
COPY --from=build /conch-sidecar /conch-sidecar
USER 65532:65532
ENTRYPOINT ["/conch-sidecar"]

FROM scratch AS operator
COPY --from=build /root-directory/ /
COPY --from=build /conch-operator /conch-operator
USER 65532:65532
ENTRYPOINT ["/conch-operator"]
