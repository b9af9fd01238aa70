//! The causes that `gema doctor` tells apart: one table with the name, sentence and fix of each.
//! Each step names a cause; `docs/doctor.md` shows the table, and a test compares them.

use crate::refusal::cause_table;

cause_table! {
    // Laravel's `.env`, and the configuration.
    EnvUnreadable "env_unreadable"
        "Laravel's .env cannot be read"
        "name the file with --env, and run this as a user who may read it";
    EnvCached "env_cached"
        "Laravel uses a cached configuration that is older than .env"
        "run php artisan config:clear, and restart the queue workers";
    EnvIncomplete "env_incomplete"
        "Laravel's .env does not name the app"
        "set PUSHER_APP_ID, PUSHER_APP_KEY and PUSHER_APP_SECRET";
    EnvNoHost "env_no_host"
        "Laravel's .env has no PUSHER_HOST, so Laravel publishes to pusher.com"
        "set PUSHER_HOST, PUSHER_PORT and PUSHER_SCHEME to the address of gema";
    EnvOtherPort "env_other_port"
        "Laravel's .env names another port than the server's"
        "change the port in .env, then run php artisan config:clear";
    EnvOtherScheme "env_other_scheme"
        "Laravel's .env names another scheme than the port speaks"
        "change the scheme in .env, then run php artisan config:clear";
    EnvOtherApp "env_other_app"
        "Laravel's .env names an app that the server does not have"
        "set PUSHER_APP_ID to the id of one of the server's apps, or add the app to the server";
    BroadcastLog "broadcast_log"
        "Laravel writes events to its log and publishes none"
        "set BROADCAST_CONNECTION=pusher (BROADCAST_DRIVER before Laravel 11), then run php artisan config:clear";
    BroadcastNull "broadcast_null"
        "Laravel throws events away"
        "set BROADCAST_CONNECTION=pusher (BROADCAST_DRIVER before Laravel 11), then run php artisan config:clear";
    BroadcastOther "broadcast_other"
        "Laravel publishes to another service"
        "set BROADCAST_CONNECTION=pusher (BROADCAST_DRIVER before Laravel 11), then run php artisan config:clear";
    BroadcastRedis "broadcast_redis_without_ingest"
        "Laravel publishes to Redis, and gema does not listen there"
        "set BROADCAST_CONNECTION=pusher, or ingest.prefixes to Laravel's REDIS_PREFIX and the app's id";
    ConfigurationFaults "configuration_faults"
        "gema's configuration has a fault"
        "run gema check with the same --config; it names each fault";
    // From the name to the server.
    NameNotResolved "name_not_resolved"
        "the name has no address"
        "correct the name, or add it to the DNS or to /etc/hosts";
    PortClosed "port_closed"
        "nothing listens on this port"
        "correct the port, or start the server or proxy there";
    PortSilent "port_silent"
        "the port does not answer"
        "let the firewall pass the port, or correct the address";
    ServerNotRunning "server_not_running"
        "gema does not run on this machine"
        "start it, for example with systemctl start gema, and look at its log";
    TlsOnPlainPort "tls_on_plain_port"
        "the address says TLS, but the port speaks plain HTTP"
        "use http:// and ws://, or set tls.cert_path in gema or ssl in the proxy";
    PlainOnTlsPort "plain_on_tls_port"
        "the address says plain HTTP, but the port speaks TLS"
        "use https:// and wss://";
    TlsFailed "tls_failed"
        "the TLS handshake fails"
        "look at the certificate and the TLS versions of the server or proxy";
    CertificateExpired "certificate_expired"
        "the certificate has expired"
        "renew the certificate, then reload the server or proxy";
    CertificateEarly "certificate_not_yet_valid"
        "the certificate is not valid yet"
        "set the clock of this machine, or wait";
    CertificateName "certificate_name"
        "the certificate is for another name"
        "use the name of the certificate, or get one for this name";
    CertificateSelfSigned "certificate_self_signed"
        "the certificate is signed by itself, so no client trusts it"
        "get one from an authority; to trust this one here, name its file in SSL_CERT_FILE";
    CertificateChain "certificate_chain"
        "the server does not send the certificates between its own and an authority"
        "name the file with the whole chain, such as fullchain.pem, in ssl_certificate or tls.cert_path";
    CertificateUntrusted "certificate_untrusted"
        "the certificate comes from an authority that this machine does not trust"
        "get one from a public authority, or name the authority's file in SSL_CERT_FILE";
    // Through the proxy.
    ProxyNoUpgrade "proxy_no_upgrade"
        "the proxy drops headers of the WebSocket handshake"
        "nginx: proxy_http_version 1.1, and proxy_set_header for Upgrade and Connection in the location of /app/; \
         other proxies: docs/proxies.md";
    ProxyNoApp "proxy_no_app"
        "the proxy does not forward /app/ to gema"
        "nginx: location /app/ { proxy_pass http://gema; } in the server block of this name and port; \
         other proxies: docs/proxies.md";
    ProxyNoApps "proxy_no_apps"
        "the proxy does not forward /apps/ to gema"
        "nginx: location /apps/ { proxy_pass http://gema; } in the server block of this name and port; \
         other proxies: docs/proxies.md";
    ProxyRewritesPath "proxy_rewrites_path"
        "the proxy changes the path or the query before gema sees it"
        "nginx: proxy_pass without a path or slash behind the port, and no rewrite; \
         other proxies: docs/proxies.md";
    PathPrefix "path_prefix"
        "gema serves its paths behind a prefix, and the address lacks it"
        "add server.path_prefix to --url, to wsPath in the page and to the path in config/broadcasting.php";
    ProxyBadGateway "proxy_bad_gateway"
        "the proxy runs, but gema does not answer it"
        "start gema, or correct the address in proxy_pass";
    ProxyRedirects "proxy_redirects"
        "the address redirects to another one, which neither Laravel nor a WebSocket follows"
        "use the address of the redirect";
    UnexpectedAnswer "unexpected_answer"
        "the answer is none of gema's"
        "look at the status and at who sent it, and compare the address with the server's";
    ProxyIdleTimeout "proxy_idle_timeout"
        "a silent connection is closed before the client sends its first ping"
        "nginx: proxy_read_timeout 300s; HAProxy: timeout tunnel 300s; \
         other proxies: above connections.activity_timeout_seconds";
    // The page's connection.
    UnknownKey "unknown_key"
        "no app of the server has this key"
        "set PUSHER_APP_KEY, and VITE_PUSHER_APP_KEY, to the key of the app; build the page again";
    AppIdAsKey "app_id_as_key"
        "the app's id is used in the place of its key"
        "set PUSHER_APP_KEY, and VITE_PUSHER_APP_KEY, to the key of the app; build the page again";
    AppDisabled "app_disabled"
        "the app is disabled"
        "set the app's enabled to true";
    TlsRequired "tls_required"
        "the app requires TLS, and gema takes this connection for one without"
        "use https, send X-Forwarded-Proto from the proxy, and name the proxy in server.trusted_proxies";
    OriginNotAllowed "origin_not_allowed"
        "the app takes no connections from pages of this origin"
        "add its host to allowed_origins of the app";
    ConnectionQuota "connection_quota"
        "the app has as many connections as it may"
        "raise max_connections of the app";
    ServerFull "server_full"
        "the server has as many connections as it may"
        "raise connections.connections_max, or the limit of open files";
    AddressFull "address_full"
        "this address has as many connections as it may"
        "raise connections.per_address_max; behind a proxy set server.trusted_proxies";
    HandshakeRate "handshake_rate"
        "this address opens connections too fast"
        "raise connections.handshakes_per_address_per_second; behind a proxy set server.trusted_proxies";
    ServerUnavailable "server_unavailable"
        "the server cannot answer now"
        "look at its log, at Redis or NATS, and at the database with the apps";
    NoAnswer "no_answer"
        "the connection opens, but nothing comes over it"
        "let the proxy pass WebSockets without buffering";
    // The signed API.
    UnknownApp "unknown_app"
        "the server does not have the app of this configuration"
        "reload or restart gema, or use the configuration that it runs with";
    WrongSecret "wrong_secret"
        "the secret is not the app's"
        "set PUSHER_APP_SECRET to the secret of the app, then run php artisan config:clear";
    OtherAppsSecret "other_apps_secret"
        "the secret belongs to another app"
        "give PUSHER_APP_ID, PUSHER_APP_KEY and PUSHER_APP_SECRET of one app";
    ReadRate "read_rate"
        "the app asks the API too often"
        "raise max_read_requests_per_second of the app";
    ClockOff "clock_off"
        "the clocks of this machine and of the server differ"
        "set both clocks, for example by NTP; timedatectl shows whether it runs";
    ServerDegraded "server_degraded"
        "the server runs, but not with everything"
        "look at its log, and at Redis, NATS and the database as the server reaches them";
    // Redis.
    RedisUnreachable "redis_unreachable"
        "Redis does not answer"
        "start Redis, or correct redis.host and redis.port";
    RedisPassword "redis_password"
        "Redis does not take the password"
        "correct redis.password, and redis.username if it is set";
    RedisRights "redis_rights"
        "the user of Redis lacks rights"
        "give the user the ACL of docs/several-nodes.md, with this cluster.name";
    RedisTooOld "redis_too_old"
        "Redis is too old"
        "install Redis 6.0 or later; 6.2 for webhooks in Redis, 7.0 for a Redis Cluster";
    RedisFull "redis_full"
        "Redis is out of memory"
        "raise its maxmemory, or find out who fills it";
    RedisReadOnly "redis_read_only"
        "this Redis is a replica and takes no changes"
        "name the master in redis.host, or the Sentinels in redis.sentinels";
    RedisOtherCluster "redis_other_cluster"
        "nodes with other apps use the same name in this Redis"
        "give each installation a cluster.name of its own";
    RedisSoketi "redis_soketi"
        "a Soketi server uses the same prefix in this Redis, and it and gema do not hear each other"
        "stop Soketi, or give gema another cluster.name";
    RedisFailed "redis_failed"
        "Redis refuses what gema needs"
        "look at the error and at the log of Redis";
    // NATS.
    NatsUnreachable "nats_unreachable"
        "NATS does not answer"
        "start nats-server, or correct nats.servers";
    NatsPassword "nats_password"
        "NATS does not let gema in"
        "correct nats.user and nats.password, or nats.token";
    NatsNoJetStream "nats_no_jetstream"
        "NATS runs without JetStream"
        "start nats-server with -js, or with jetstream {} in its configuration";
    NatsRights "nats_rights"
        "the user of NATS lacks rights"
        "give the user the subjects of docs/several-nodes.md, with this cluster.name and nats.prefix";
    NatsFailed "nats_failed"
        "NATS refuses what gema needs"
        "look at the error and at the log of nats-server";
    // Laravel's events.
    IngestPrefix "ingest_prefix"
        "Laravel publishes under another prefix than gema listens to"
        "set ingest.prefixes to Laravel's prefix and the app's id; redis-cli monitor shows the prefix";
    IngestOtherRedis "ingest_other_redis"
        "Laravel publishes to another Redis than gema listens to"
        "give Laravel and gema the same REDIS_HOST and REDIS_PORT";
    // The machine.
    OpenFiles "open_files"
        "the limit of open files is too low; each connection takes one"
        "systemd: LimitNOFILE=1048576; Docker: ulimits nofile; Supervisor: minfds=65536";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Cause::ALL.len());
        assert!(Cause::ALL.iter().all(|cause| !cause.sentence().is_empty() && !cause.remedy().is_empty()));
    }
}
