# A static binary in an otherwise empty image.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY config config
# glibc linked in statically: gema resolves no names, so nothing is loaded at run time.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && cp target/*/release/gema /gema

FROM scratch
COPY --from=build /gema /usr/bin/gema
USER 1000:1000
EXPOSE 6001 9601
HEALTHCHECK --interval=10s --timeout=5s CMD ["/usr/bin/gema", "health"]
ENTRYPOINT ["/usr/bin/gema"]
CMD ["start"]
