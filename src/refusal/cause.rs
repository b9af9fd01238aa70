//! The causes of refusals: one table with the name, code, sentence and remedy of each.
//! `Refusals::add` counts and logs by it. `docs/operation.md` shows the table, and a test compares them.

use crate::refusal::table::cause_table;

impl Cause {
    /// The HTTP status, close code, error code or status of the refused subscription, as the client gets it; `None` if
    /// the protocol has none.
    pub const fn code(self) -> Option<u16> {
        match self.code_and_label() {
            (0, _) => None,
            (code, _) => Some(code),
        }
    }

    /// Like `code`, but as the value of the label `code`.
    pub const fn code_label(self) -> &'static str {
        match self.code_and_label() {
            (0, _) => "",
            (_, label) => label,
        }
    }
}

cause_table! {
    // Before a request is parsed.
    TlsHandshake "tls_handshake" [0]
        "a TLS handshake failed or took too long"
        "look at detail; a client that does not know the certificate needs its whole chain in tls.cert_path";
    TlsOnPlainPort "tls_on_plain_port" [0]
        "a client speaks TLS to a port without"
        "set PUSHER_SCHEME=http or forceTLS: false there, or tls.cert_path here";
    PlainOnTlsPort "plain_on_tls_port" [400]
        "a client does not speak TLS, but this port does"
        "use https:// and wss:// there";
    InvalidHttp "invalid_http" [400]
        "a client sent something that is no HTTP request"
        "find out who speaks another protocol to this port, such as a health check of something else";
    SilentConnection "silent_connection" [0]
        "a connection that asked for nothing, or waited between requests, was closed to make room"
        "find out who opens them, raise the limit of open files, or name a proxy in server.trusted_proxies";
    ProxyHeader "proxy_header" [0]
        "a connection begins with a PROXY header that is not read"
        "set server.proxy_protocol = true and name the proxy in server.trusted_proxies, or switch it off in the proxy";
    ProxyHeaderMissing "proxy_header_missing" [0]
        "a trusted proxy sent no PROXY header"
        "let it send one, take its address out of server.trusted_proxies, or set server.proxy_protocol = false";
    AmbiguousHead "ambiguous_head" [400]
        "a request's head can be read in two ways"
        "send one Host and, if at all, Transfer-Encoding: chunked; look at the proxy between";
    TransferEncoding "transfer_encoding" [501]
        "a request's body has an encoding that is not known here"
        "send bodies as they are, or chunked";
    // Requests for unknown paths and methods.
    PathNotFound "path_not_found" [404]
        "a request was for a path that is not there"
        "use /app/KEY for WebSockets and /apps/ID/… for the API, behind server.path_prefix if it is set";
    MethodNotAllowed "method_not_allowed" [405]
        "a request was for a known path with another method"
        "use POST to publish and GET to ask";
    NoUpgrade "no_upgrade" [426]
        "a request for a WebSocket was no upgrade"
        "let the proxy pass the headers Upgrade and Connection, over HTTP/1.1";
    WebSocketVersion "websocket_version" [426]
        "a WebSocket of another version than 13 was asked for"
        "use a client that speaks RFC 6455";
    WebSocketKey "websocket_key" [400]
        "a request for a WebSocket had no usable Sec-WebSocket-Key"
        "let the proxy pass this header, and use a client that speaks RFC 6455";
    AddressHandshakes "address_handshakes" [429]
        "an address opens connections or asks for unknown apps too fast"
        "raise connections.handshakes_per_address_per_second; behind a proxy set server.trusted_proxies";
    // The operator's page.
    DashboardToken "dashboard_token" [401]
        "somebody asked for the operator's page with a wrong token"
        "log in with the value of dashboard.token or dashboard.operator_token";
    DashboardAttempts "dashboard_attempts" [429]
        "an address has tried too many wrong tokens for the operator's page"
        "wait a minute; behind a proxy set server.trusted_proxies";
    DashboardOrigin "dashboard_origin" [403]
        "a page of another origin asked the operator's page to act"
        "open the page at its own address, and let the proxy pass the header Host";
    DashboardRole "dashboard_role" [403]
        "a viewer of the operator's page asked for what only an operator may do"
        "log in with dashboard.operator_token";
    // Connections.
    ConnectPath "connect_path" [4005]
        "a WebSocket was for a path that is not there"
        "use /app/KEY, behind server.path_prefix if it is set; wsPath in pusher-js is what comes before /app";
    ConnectUnknownKey "connect_unknown_key" [4001]
        "a connection named a key that no app has"
        "use the key of one of the apps, or add it to apps.keys";
    ConnectAppId "app_id_as_key" [4001]
        "a client connects with an app id; clients need the app's key"
        "put the app's key into the page: PUSHER_APP_KEY, not PUSHER_APP_ID";
    ConnectUnavailable "connect_unavailable" [4100]
        "the app of a connection cannot be looked up now"
        "look for the reason in the lines about the app store; see app_store.timeout_seconds";
    ConnectDisabled "connect_disabled" [4003]
        "a connection was for an app that is disabled"
        "set the app's enabled to true";
    ConnectTls "connect_tls" [4000]
        "a connection came without TLS, which the app requires"
        "use wss://, name the proxy in server.trusted_proxies, or unset require_tls";
    ConnectProtocol "connect_protocol" [4007]
        "a connection asked for a protocol version that is not spoken here"
        "use a client of protocol 4 to 7";
    ConnectNoProtocol "connect_no_protocol" [4008]
        "a connection asked for no protocol version"
        "let the client send protocol=7, or unset connections.strict_protocol";
    ConnectVersion "connect_version" [4006]
        "a connection named a version that is none"
        "let the client send its version, or unset connections.strict_protocol";
    ConnectOrigin "connect_origin" [4009]
        "a connection came from a page of another origin"
        "add the origin to allowed_origins of the app";
    ConnectRawChannel "connect_raw_channel" [4009]
        "a raw client named a channel that the app does not list for such clients"
        "add it to raw_clients.channels of the app, or take it out of channels= in the page's URL";
    ConnectServerFull "connect_server_full" [4100]
        "the server has as many connections as it may"
        "raise connections.connections_max, or the limit of open files";
    ConnectAddress "address_connections" [4100]
        "an address has as many connections as it may"
        "raise connections.per_address_max; behind a proxy set server.trusted_proxies";
    ConnectAppFull "connect_app_full" [4004]
        "the app has as many connections as it may"
        "raise max_connections of the app";
    // Closed by the server.
    NotAuthorized "not_authorized_in_time" [4009]
        "a connection neither signed in nor joined a private channel in time"
        "sign in, raise user_authentication_timeout_seconds or unset enable_user_authentication";
    SlowReader "slow_reader" [4100]
        "a client took nothing of what waited for it for too long"
        "look at its network, or raise connections.slow_seconds, connections.outbox_bytes_max or connections.behind_seconds";
    SlowBacklog "slow_reader_backlog" [4100]
        "more waited for a client than may wait for anybody"
        "publish less at once, or raise connections.backlog_bytes_max";
    SlowMemory "slow_reader_memory" [4100]
        "what waits for all clients took too much memory, and a client was the slowest"
        "raise connections.waiting_bytes_max if there is memory";
    MessageTooBig "message_too_big" [1009]
        "a client's message is larger than allowed"
        "raise connections.message_bytes_max";
    MessageNotUtf8 "message_not_utf8" [1007]
        "a client's text message is not UTF-8"
        "correct the client";
    MessageNotDeflate "message_not_deflate" [1007]
        "a client's compressed message cannot be inflated"
        "correct the client, or unset connections.compression";
    BrokenFrame "broken_frame" [1002]
        "a client broke the WebSocket protocol"
        "correct the client, or the proxy between";
    // Messages.
    InvalidMessage "invalid_message" [0]
        "a client's message is none of Pusher's"
        "correct the client";
    ForeignMessage "foreign_message" [0]
        "a client's message has a type instead of an event"
        "remove the home-made heartbeat: Pusher's clients keep the connection alive by themselves";
    // Subscriptions.
    SubscribeName "subscribe_name" [400]
        "a subscription named a channel that cannot be"
        "use letters, digits and _-=@,.; and see max_channel_name_length";
    SubscribeNoAuth "subscribe_no_auth" [401]
        "a subscription to a private channel came without a signature"
        "let the client ask the application for one: authEndpoint of pusher-js";
    SubscribeFormat "subscribe_auth_format" [401]
        "a subscription's auth is not key:signature"
        "let the application answer as Pusher's libraries do";
    SubscribeUnknownKey "subscribe_unknown_key" [401]
        "a subscription was signed for a key that is none of this app's"
        "give page and application the same key: PUSHER_APP_KEY";
    SubscribeSignature "subscribe_signature" [401]
        "a subscription's signature is wrong"
        "give the application the app's secret: PUSHER_APP_SECRET";
    SubscribeMember "subscribe_member" [401]
        "a subscription to a presence channel has no usable member"
        "let the application sign channel_data with a user_id";
    SubscribeMemberTooLarge "subscribe_member_too_large" [413]
        "a member of a presence channel is too large"
        "raise max_presence_member_size_in_kb or max_presence_user_id_length";
    SubscribeGrant "subscribe_grant" [401]
        "a subscription's grant cannot be used"
        "look at detail, and let the application sign another one";
    SubscribeGrantTooLarge "subscribe_grant_too_large" [413]
        "a subscription's grant names too much"
        "name fewer patterns; one with a star stands for many channels";
    SubscribeNotAuthorized "subscribe_not_authorized" [401]
        "a subscription was for another user's own channel"
        "sign in as this user";
    SubscribeForbidden "subscribe_forbidden" [403]
        "a rule for channels does not allow a subscription"
        "join the channel that detail names, or change channel_rules";
    SubscribeFull "subscribe_channel_full" [403]
        "a presence channel has as many members as it may"
        "raise max_presence_members_per_channel";
    SubscribeTooMany "subscribe_too_many" [403]
        "a connection has joined as many channels as it may"
        "raise connections.channels_max";
    SubscribeRate "subscribe_rate" [429]
        "a connection joins channels too fast"
        "let the page join each channel once, or raise connections.subscriptions_per_second";
    SubscribeServerFull "subscribe_server_full" [503]
        "the server has as many channels as it may"
        "raise connections.channels_total_max";
    SubscribeTwice "subscribe_twice" [0]
        "a connection subscribed to a channel that it has joined already"
        "subscribe once in the page";
    UnsubscribeUnknown "unsubscribe_unknown" [0]
        "a connection left a channel that it has not joined"
        "subscribe before, or not at all";
    // Sign-ins.
    SignInFormat "sign_in_auth_format" [0]
        "a sign-in's auth is not key:signature"
        "let the application answer as Pusher's libraries do";
    SignInUnknownKey "sign_in_unknown_key" [0]
        "a sign-in was signed for a key that is none of this app's"
        "give page and application the same key: PUSHER_APP_KEY";
    SignInSignature "sign_in_signature" [0]
        "a sign-in's signature is wrong"
        "give the application the app's secret: PUSHER_APP_SECRET";
    SignInUser "sign_in_user" [0]
        "a sign-in has no usable user"
        "let the application sign user_data with an id that is a string";
    SignInAnother "sign_in_another_user" [0]
        "a connection is signed in as another user already"
        "open another connection";
    // Client events.
    ClientEventsDisabled "client_events_disabled" [0]
        "client events are off for this app"
        "set enable_client_messages of the app";
    ClientEventName "client_event_name" [0]
        "a client event's name does not begin with client-, or it has no channel"
        "use whisper() or trigger() of the client's library";
    ClientEventChannel "client_event_channel" [0]
        "a client event was for a channel that has none"
        "use a private or presence channel, or set allow_public_client_events";
    ClientEventNotSubscribed "client_event_not_subscribed" [0]
        "a client event was for a channel that the connection has not joined"
        "wait for the subscription to succeed";
    ClientEventForbidden "client_event_forbidden" [0]
        "a rule for channels does not allow a client event"
        "change client_events of the rule";
    ClientEventNameTooLong "client_event_name_too_long" [0]
        "a client event's name is too long"
        "raise max_event_name_length";
    ClientEventTooLarge "client_event_too_large" [0]
        "a client event's data is too large"
        "raise max_event_payload_in_kb";
    ClientEventRate "client_event_rate" [4301]
        "a connection sends client events too fast"
        "raise max_client_events_per_second";
    ClientEventOverload "client_event_overload" [0]
        "a client event was not taken, since the server cannot keep up"
        "look at its CPU, and at Redis or NATS where there are several nodes";
    // The API.
    ApiUnknownApp "api_unknown_app" [404]
        "a request was for an app that is not there"
        "use the id of one of the apps: PUSHER_APP_ID";
    ApiUnavailable "api_unavailable" [503]
        "the app of a request cannot be looked up now"
        "look for the reason in the lines about the app store; see app_store.timeout_seconds";
    ApiDisabled "api_disabled" [403]
        "a request was for an app that is disabled"
        "set the app's enabled to true";
    ApiUnsigned "api_unsigned" [401]
        "a request is not signed as Pusher's libraries do it"
        "look at detail; auth_key, auth_timestamp, auth_version=1.0, auth_signature and, with a body, body_md5 are needed";
    ApiUnknownKey "api_unknown_key" [401]
        "a request names a key that is none of its app's"
        "give the application id and key of one app: PUSHER_APP_ID, PUSHER_APP_KEY";
    ApiSignature "api_signature" [401]
        "a request's signature is wrong"
        "give the application the app's secret: PUSHER_APP_SECRET";
    ApiOtherBody "api_other_body" [401]
        "a request's body is not the one that was signed"
        "sign the body as it is sent, and let no proxy change it";
    ApiExpired "api_expired" [401]
        "a request's timestamp is too far from this server's time"
        "set both clocks; see http.timestamp_tolerance_seconds";
    ApiTimeout "api_timeout" [408]
        "a request's body did not come in time"
        "raise http.request_seconds";
    ApiBodyTooLarge "api_body_too_large" [413]
        "a request's body is too large"
        "raise http.request_bytes_max";
    ApiEventTooLarge "api_event_too_large" [413]
        "an event's data is too large"
        "raise max_event_payload_in_kb";
    ApiBody "api_body" [400]
        "a request's body cannot be used"
        "look at the answer, which names the fault";
    ApiChannel "api_channel" [400]
        "a request named a channel that cannot be"
        "use letters, digits and _-=@,.; and see max_channel_name_length";
    ApiInfo "api_info" [400]
        "a request asked for something that its channel has not"
        "look at detail";
    ApiForbidden "api_forbidden" [403]
        "a rule for channels does not allow an event"
        "use the channel that detail names, or change channel_rules";
    ApiIdempotencyKey "api_idempotency_key" [400]
        "a request's idempotency key cannot be used"
        "look at the answer, which names the fault";
    ApiIdempotencyReuse "api_idempotency_reuse" [409]
        "a request has the idempotency key of another one, with another body"
        "use a new key for each event; a request that is repeated must have the same bytes";
    ApiIdempotencyRunning "api_idempotency_running" [409]
        "a request was repeated while another node was still at the first one"
        "let the publisher try again; after a crash of that node this lasts 30 seconds";
    ApiEventRate "api_event_rate" [429]
        "an app publishes too fast"
        "raise max_backend_events_per_second";
    ApiReadRate "api_read_rate" [429]
        "an app asks too often"
        "raise max_read_requests_per_second";
    ApiOverload "api_overload" [503]
        "an event was not taken, since the server cannot keep up"
        "look at its CPU, and at clients that do not read";
    ApiCutOff "api_cut_off" [503]
        "a request needs the other nodes, which cannot be reached"
        "look at Redis or NATS; see cluster.buffer_seconds and cluster.buffer_bytes_max";
}
