# A static binary in an otherwise empty image.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY config config
# glibc linked in statically; since 2.34 it resolves the name of Redis without loading anything at run time.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && cp target/*/release/gema /gema

FROM scratch
COPY --from=build /gema /usr/bin/gema
# Whom to trust when Redis is behind TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 1000:1000
EXPOSE 6001 9601
HEALTHCHECK --interval=10s --timeout=5s CMD ["/usr/bin/gema", "health"]
ENTRYPOINT ["/usr/bin/gema"]
CMD ["start"]
