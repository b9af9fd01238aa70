# A static binary in an otherwise empty image.
FROM rust:1-slim-bookworm AS build
# make: for the allocator, which is written in C.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY .cargo .cargo
COPY src src
COPY benches benches
COPY config config
# Cargo reads the manifest of every dependency, those of tests included.
COPY tests/support tests/support
# For `gema --version`: docker build --build-arg GEMA_COMMIT=$(git rev-parse HEAD) .
ARG GEMA_COMMIT=
# glibc linked in statically; since 2.34 it resolves the name of Redis without loading anything at run time.
# Without names for debuggers, which nobody starts in this image; a panic names its file and line all the same.
# Kernels for aarch64 have pages of 4, 16 or 64 KiB. The allocator runs with those up to the size it was built for.
RUN if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi \
 && export CARGO_PROFILE_RELEASE_STRIP=symbols \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --features aws --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && mkdir -p /image/usr/bin /image/app \
 && cp target/*/release/gema /image/usr/bin/gema \
 && cd /image/usr/bin \
 && ln -s gema soketi && ln -s gema soketi-pm2 && ln -s gema node && ln -s gema wget \
 && ln -s gema pm2 && ln -s gema curl

FROM scratch
# Under the names that are called in Soketi's image, its Helm chart and Sail's health check, too.
COPY --from=build /image /
# Whom to trust when Redis is behind TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/bin
WORKDIR /app
USER 1000:1000
EXPOSE 6001 9601
HEALTHCHECK --interval=10s --timeout=5s CMD ["/usr/bin/gema", "health"]
ENTRYPOINT ["/usr/bin/gema"]
CMD ["start"]
