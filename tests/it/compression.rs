//! `permessage-deflate` (RFC 7692) down to the bytes, with zlib-rs at the client's end.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use flate2::Compress;
use flate2::Compression;
use flate2::Decompress;
use flate2::FlushCompress;
use flate2::FlushDecompress;
use flate2::Status;
use serde_json::Value;
use serde_json::json;
use support::client::assert_well_formed;
use support::process::Process;
use support::server::TestServer;
use support::server::channel_auth;

use crate::wire::BINARY;
use crate::wire::CLOSE;
use crate::wire::PING;
use crate::wire::PONG;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::masked;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0";
/// As browsers offer it.
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The mark of a compressed message.
const RSV1: u8 = 0x40;
/// Without the last frame's mark.
const MORE: u8 = 0x7F;
const CONTINUATION: u8 = 0x80;
const PING_TEXT: &str = r#"{"event":"pusher:ping","data":{}}"#;
const PONG_TEXT: &str = r#"{"event":"pusher:pong","data":"{}"}"#;

/// A server that compresses, with large limits.
async fn compressing() -> TestServer {
    compressing_from(512).await
}

async fn compressing_from(bytes_min: usize) -> TestServer {
    TestServer::start_with(|config| {
        config.connections.compression = true;
        config.connections.compression_bytes_min = bytes_min;
        config.connections.message_bytes_max = 1024 * 1024;
        config.limits.max_event_payload_in_kb = 400.0;
    })
    .await
}

/// A client that negotiated compression, or one beside it that did not.
struct Peer {
    wire: Wire,
    socket_id: String,
}

impl Peer {
    async fn compressed(server: &TestServer) -> Self {
        let (answer, peer) = Self::offering(server, &[OFFER]).await;
        assert_eq!(answer.as_deref(), Some(ANSWER));
        peer
    }

    async fn plain(server: &TestServer) -> Self {
        let (answer, peer) = Self::offering(server, &[]).await;
        assert_eq!(answer, None);
        peer
    }

    /// A client with these headers, on one node after the other, and the extension that it got.
    async fn offering(server: &TestServer, offers: &[&str]) -> (Option<String>, Self) {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let node = TURN.fetch_add(1, Ordering::Relaxed) % server.nodes();
        let headers: Vec<_> = offers.iter().map(|offer| ("Sec-WebSocket-Extensions", *offer)).collect();
        let (answer, wire) = Wire::upgrade(server.address_at(node), &upgrade_head(PATH, &headers)).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        let mut peer = Self { wire, socket_id: String::new() };
        let established: Value = serde_json::from_str(&peer.next_text().await).unwrap();
        let data: Value = serde_json::from_str(established["data"].as_str().unwrap()).unwrap();
        peer.socket_id = data["socket_id"].as_str().unwrap().to_owned();
        (answer.header("sec-websocket-extensions").map(str::to_owned), peer)
    }

    /// The next text message, and whether it came compressed.
    async fn next_message(&mut self) -> (bool, String) {
        let (first, payload) = self.wire.next_frame().await.expect("the connection ended");
        let compressed = first == TEXT | RSV1;
        assert!(compressed || first == TEXT, "{first:#x}: {}", String::from_utf8_lossy(&payload));
        let text = String::from_utf8(if compressed { inflate(&payload) } else { payload }).unwrap();
        assert_well_formed(&text);
        (compressed, text)
    }

    async fn next_text(&mut self) -> String {
        self.next_message().await.1
    }

    async fn subscribe(&mut self, channel: &str) {
        self.send_subscribe(channel).await;
        let (_, text) = self.next_message().await;
        assert!(text.starts_with(r#"{"event":"pusher_internal:subscription_succeeded""#), "{text}");
    }

    async fn send_subscribe(&mut self, channel: &str) {
        let auth = channel_auth(&self.socket_id, channel, None);
        let message = json!({ "event": "pusher:subscribe", "data": { "channel": channel, "auth": auth } });
        self.wire.send_text(&message.to_string()).await;
    }

    /// Sends a compressed message in one frame.
    async fn send_compressed(&mut self, text: &str) {
        self.wire.send(TEXT | RSV1, &deflate(text.as_bytes(), 6)).await;
    }

    /// Everything up to the answer to a ping.
    async fn settle(&mut self, server: &TestServer) -> Vec<String> {
        server.quiet().await;
        let mut texts = Vec::new();
        // An event may reach the shard in the turn after the first ping, and goes out behind the second answer.
        for _ in 0..3 {
            self.wire.send_text(PING_TEXT).await;
            loop {
                match self.next_text().await {
                    text if text == PONG_TEXT => break,
                    text => texts.push(text),
                }
            }
        }
        texts
    }
}

/// The message of a compressed payload, by itself: no window of an earlier message.
pub fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut inflater = Decompress::new(false);
    let mut message = Vec::with_capacity(4 * 1024 * 1024);
    let input = [payload, &[0x00, 0x00, 0xFF, 0xFF]].concat();
    let status = inflater.decompress_vec(&input, &mut message, FlushDecompress::Sync).unwrap();
    assert!(status == Status::Ok && inflater.total_in() == input.len() as u64, "{status:?}");
    message
}

/// The payload of a compressed message.
fn deflate(message: &[u8], level: u32) -> Vec<u8> {
    deflate_pieces(&[message], level)
}

/// The same, with the compressor flushed after each piece.
fn deflate_pieces(pieces: &[&[u8]], level: u32) -> Vec<u8> {
    let mut compressor = Compress::new(Compression::new(level), false);
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut payload = Vec::with_capacity(length + length / 100 + 1024);
    for piece in pieces {
        compressor.compress_vec(piece, &mut payload, FlushCompress::Sync).unwrap();
    }
    assert!(payload.ends_with(&[0x00, 0x00, 0xFF, 0xFF]) && compressor.total_in() == length as u64);
    payload.truncate(payload.len() - 4);
    payload
}

/// JSON of about this many bytes, in which little but the names repeats itself.
fn readings(length: usize) -> String {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut text = String::from("[");
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!(r#"{{"channel":"sensor-{}","value":{}.{}}},"#, state % 100, state >> 40, state >> 54));
    }
    text.truncate(length.max(2) - 2);
    json!(text).to_string()
}

#[tokio::test]
async fn an_offer_is_answered_as_rfc_7692_wants_it() {
    let server = compressing().await;
    let with_window = format!("{ANSWER}; server_max_window_bits=15");
    for (offers, expected) in [
        (&["permessage-deflate"][..], Some(ANSWER)),
        (&[OFFER], Some(ANSWER)),
        (&["permessage-deflate; client_max_window_bits=9"], Some(ANSWER)),
        (&["permessage-deflate; client_max_window_bits=\"9\""], Some(ANSWER)),
        (&["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], Some(ANSWER)),
        (&["permessage-deflate; server_max_window_bits=15"], Some(&*with_window)),
        (&["permessage-deflate; server_max_window_bits=9"], None),
        (&["permessage-deflate; server_max_window_bits=9, permessage-deflate"], Some(ANSWER)),
        (&["permessage-deflate; server_max_window_bits=9", "permessage-deflate"], Some(ANSWER)),
        (&["x-webkit-deflate-frame", "permessage-deflate; client_max_window_bits"], Some(ANSWER)),
        (&["permessage-deflate; server_max_window_bits"], None),
        (&["permessage-deflate; client_max_window_bits=7"], None),
        (&["permessage-deflate; client_max_window_bits=16"], None),
        (&["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
        (&["permessage-deflate; server_no_context_takeover=yes"], None),
        (&["permessage-deflate; level=9"], None),
        (&["permessage-deflate;"], None),
        (&["bbf-usp-protocol"], None),
        (&[""], None),
        (&[], None),
    ] {
        let (answer, mut peer) = Peer::offering(&server, offers).await;
        assert_eq!(answer.as_deref(), expected, "{offers:?}");
        peer.subscribe("c").await;
        let data = readings(2000);
        server.api().publish("c", "e", &data).await;
        let (compressed, text) = peer.next_message().await;
        assert_eq!(compressed, expected.is_some(), "{offers:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["data"], data);
    }
}

#[tokio::test]
async fn without_the_setting_nothing_is_negotiated_and_no_metric_is_there() {
    let server = TestServer::start().await;
    let (answer, mut peer) = Peer::offering(&server, &[OFFER]).await;
    assert_eq!(answer, None);
    peer.subscribe("c").await;
    server.api().publish("c", "e", &readings(5000)).await;
    assert!(!peer.next_message().await.0);
    let metrics = support::http::request(server.metrics_address(), "GET", "/metrics", &[], b"").await.body;
    assert!(!metrics.contains("compress"), "{metrics}");
    peer.wire.send(TEXT | RSV1, &deflate(PING_TEXT.as_bytes(), 6)).await;
    assert_eq!(peer.wire.next_close().await, (1002, "A reserved bit is set".to_owned()));
}

// Section 12 of the Autobahn suite, with gema's events for its echoes.
#[tokio::test]
async fn events_of_every_size_are_the_same_for_all_subscribers() {
    let server = compressing_from(1).await;
    let mut plain = Peer::plain(&server).await;
    let mut peers = Vec::new();
    for offers in
        [OFFER, "permessage-deflate; server_max_window_bits=15", "permessage-deflate; client_max_window_bits=8"]
    {
        for _ in 0..2 {
            peers.push(Peer::offering(&server, &[offers]).await.1);
        }
    }
    plain.subscribe("c").await;
    for peer in &mut peers {
        peer.subscribe("c").await;
    }
    for size in [0, 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131_072] {
        for data in [readings(size), "x".repeat(size), "é😀".repeat(size / 6)] {
            server.api().publish("c", "e", &data).await;
            let (compressed, text) = plain.next_message().await;
            assert!(!compressed);
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["data"], data);
            for peer in &mut peers {
                let (first, payload) = peer.wire.next_frame().await.unwrap();
                if first == TEXT {
                    assert!(size <= 64, "{size} bytes came as they were");
                    assert_eq!(payload, text.as_bytes());
                } else {
                    assert_eq!(first, TEXT | RSV1);
                    assert!(payload.len() < text.len());
                    assert_eq!(inflate(&payload), text.as_bytes(), "{size}");
                }
            }
        }
    }
}

#[tokio::test]
async fn only_frames_from_the_smallest_size_on_are_compressed() {
    let server = compressing().await;
    let mut peer = Peer::compressed(&server).await;
    peer.subscribe("c").await;
    let empty = r#"{"event":"e","data":"","channel":"c"}"#.len();
    for (payload, expected) in [(511, false), (512, true)] {
        server.api().publish("c", "e", &"x".repeat(payload - empty)).await;
        let (compressed, text) = peer.next_message().await;
        assert_eq!((compressed, text.len()), (expected, payload));
    }
}

#[tokio::test]
async fn an_excluded_socket_misses_its_own_events_only_compressed_or_not() {
    let server = compressing().await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(Peer::compressed(&server).await);
        peers.push(Peer::plain(&server).await);
    }
    for peer in &mut peers {
        peer.subscribe("c").await;
    }
    for round in 0..5 {
        // One request with several events is one flush, of which most get only parts.
        let excluded: Vec<String> = peers.iter().map(|peer| peer.socket_id.clone()).collect();
        let batch: Vec<Value> = (0..10)
            .map(|number| {
                let name = format!("e{round}-{number}");
                // Every third frame is too small to be compressed.
                let data = readings(if number % 3 == 0 { 20 } else { 900 + number });
                match excluded.get(number) {
                    Some(socket_id) => json!({ "name": name, "channel": "c", "data": data, "socket_id": socket_id }),
                    None => json!({ "name": name, "channel": "c", "data": data }),
                }
            })
            .collect();
        assert_eq!(server.api().post("/batch_events", &json!({ "batch": batch }).to_string()).await.status, 200);
        for peer in &mut peers {
            let own = json!(peer.socket_id);
            for event in batch.iter().filter(|event| event["socket_id"] != own) {
                let text: Value = serde_json::from_str(&peer.next_text().await).unwrap();
                assert_eq!((&text["event"], &text["data"]), (&event["name"], &event["data"]));
            }
        }
    }
    for peer in &mut peers {
        assert_eq!(peer.settle(&server).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn who_joins_and_leaves_in_a_flood_gets_an_unbroken_sequence() {
    let server = compressing().await;
    let mut steady = Peer::plain(&server).await;
    steady.subscribe("c").await;
    let mut peers = vec![Peer::compressed(&server).await, Peer::plain(&server).await, Peer::compressed(&server).await];
    let api = server.api();
    let data: Vec<String> = (0..10).map(|number| format!("{number}{}", readings(1000))).collect();
    let publish = async {
        for round in 0..40 {
            let event =
                |(number, data)| json!({ "name": format!("e{}", round * 10 + number), "channel": "c", "data": data });
            let batch: Vec<Value> = data.iter().enumerate().map(event).collect();
            assert_eq!(api.post("/batch_events", &json!({ "batch": batch }).to_string()).await.status, 200);
        }
    };
    let come_and_go = async {
        let mut stays = Vec::new();
        for _ in 0..10 {
            for peer in &mut peers {
                peer.send_subscribe("c").await;
                peer.wire.send_text(PING_TEXT).await;
                peer.wire.send_text(r#"{"event":"pusher:unsubscribe","data":{"channel":"c"}}"#).await;
                peer.wire.send_text(PING_TEXT).await;
                let mut stay = Vec::new();
                let mut pongs = 0;
                while pongs < 2 {
                    match peer.next_text().await {
                        text if text == PONG_TEXT => pongs += 1,
                        text => stay.push(text),
                    }
                }
                stays.push(stay);
            }
        }
        stays
    };
    let ((), stays) = tokio::join!(publish, come_and_go);
    let mut all = Vec::new();
    for number in 0..400 {
        let text = steady.next_text().await;
        assert!(text.contains(&format!(r#""event":"e{number}""#)), "{text}");
        all.push(text);
    }
    for stay in stays {
        let (joined, events) = stay.split_first().unwrap();
        assert!(joined.contains("subscription_succeeded"), "{joined}");
        let start = events.first().map_or(0, |first| all.iter().position(|text| text == first).unwrap());
        assert_eq!(events, &all[start..start + events.len()]);
    }
}

// Section 13 of the Autobahn suite, from the client to the server: sizes, fragments, levels.
#[tokio::test]
async fn a_clients_compressed_messages_arrive_as_they_were_sent() {
    let server = compressing().await;
    let mut sender = Peer::compressed(&server).await;
    let mut receiver = Peer::compressed(&server).await;
    sender.subscribe("private-c").await;
    receiver.subscribe("private-c").await;
    for size in [0, 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131_072] {
        for (turn, level) in [0, 1, 6, 9].into_iter().enumerate() {
            let data = readings(size);
            let message = format!(r#"{{"event":"client-e","channel":"private-c","data":{}}}"#, json!(data));
            let (head, tail) = message.as_bytes().split_at(message.len() / 2);
            let payload = match turn {
                0 => deflate(message.as_bytes(), level),
                _ => deflate_pieces(&[head, b"", tail, b""], level),
            };
            // Whole, in frames of one size, and in frames of different sizes with empty ones between.
            let sizes: &[usize] = match turn {
                0 => &[usize::MAX],
                1 => &[256],
                2 => &[0, 1, 2, 0, 5000],
                _ => &[32768],
            };
            send_fragments(&mut sender.wire, TEXT | RSV1, &payload, sizes).await;
            let text: Value = serde_json::from_str(&receiver.next_text().await).unwrap();
            assert_eq!(text["data"], data, "{size} bytes at level {level}");
        }
    }
    // Messages that are not compressed may come between.
    sender.wire.send_text(PING_TEXT).await;
    assert_eq!(sender.next_text().await, PONG_TEXT);
    sender.send_compressed(PING_TEXT).await;
    assert_eq!(sender.next_text().await, PONG_TEXT);
}

/// Sends a message in frames of these sizes, over and over.
async fn send_fragments(wire: &mut Wire, first: u8, payload: &[u8], sizes: &[usize]) {
    let (mut bytes, mut rest, mut first) = (Vec::new(), payload, first);
    for size in sizes.iter().cycle() {
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        let is_last = behind.is_empty();
        bytes.extend(masked(if is_last { first } else { first & MORE }, piece));
        if is_last {
            break;
        }
        (rest, first) = (behind, CONTINUATION);
    }
    wire.send_bytes(&bytes).await;
}

#[tokio::test]
async fn control_frames_may_stand_between_the_fragments_of_a_compressed_message() {
    let server = compressing().await;
    let mut peer = Peer::compressed(&server).await;
    let payload = deflate(PING_TEXT.as_bytes(), 6);
    let (head, tail) = payload.split_at(payload.len() / 2);
    peer.wire.send((TEXT | RSV1) & MORE, head).await;
    peer.wire.send(PING, b"one").await;
    assert_eq!(peer.wire.next_frame().await.unwrap(), (PONG, b"one".to_vec()));
    peer.wire.send(CONTINUATION & MORE, b"").await;
    peer.wire.send(PING, b"two").await;
    peer.wire.send(CONTINUATION, tail).await;
    assert_eq!(peer.wire.next_frame().await.unwrap(), (PONG, b"two".to_vec()));
    assert_eq!(peer.next_text().await, PONG_TEXT);
}

#[tokio::test]
async fn every_kind_of_block_is_understood() {
    let server = compressing().await;
    let mut peer = Peer::compressed(&server).await;
    let mut last_block = Vec::with_capacity(200);
    let mut compressor = Compress::new(Compression::new(6), false);
    compressor.compress_vec(PING_TEXT.as_bytes(), &mut last_block, FlushCompress::Finish).unwrap();
    let with_padding = [&last_block[..], &[0x00]].concat();
    let empty_blocks = [&[0x00, 0x00, 0x00, 0xFF, 0xFF].repeat(100)[..], &deflate(PING_TEXT.as_bytes(), 6)].concat();
    let stored = deflate(PING_TEXT.as_bytes(), 0);
    for (name, payload) in [
        ("a last block", &last_block),
        ("a last block with its padding", &with_padding),
        ("empty blocks", &empty_blocks),
        ("a stored block", &stored),
    ] {
        peer.wire.send(TEXT | RSV1, payload).await;
        assert_eq!(peer.next_text().await, PONG_TEXT, "{name}");
    }
    // Empty messages are answered like empty ones that are not compressed.
    peer.wire.send(TEXT, b"").await;
    let answer = peer.next_text().await;
    for payload in [&[0x00][..], &[]] {
        peer.wire.send(TEXT | RSV1, payload).await;
        assert_eq!(peer.next_text().await, answer, "{payload:?}");
    }
    peer.wire.send(BINARY | RSV1, &deflate(b"\xFF\xFE", 6)).await;
    assert!(peer.next_text().await.contains("Binary messages are not supported"));
}

#[tokio::test]
async fn reserved_bits_and_damaged_data_end_the_connection() {
    const RESERVED: (u16, &str) = (1002, "A reserved bit is set");
    const DAMAGED: (u16, &str) =
        (1007, "A compressed message must be one whole DEFLATE stream, and not in tiny blocks");
    let server = compressing().await;
    let whole = deflate(PING_TEXT.as_bytes(), 6);
    let broken_utf8 = deflate(b"{\"event\":\"\xFF\"}", 6);
    let fragment = masked((TEXT | RSV1) & MORE, &whole[..4]);
    // Four empty blocks in five bytes. With fewer of them it would be an empty message.
    let tiny_blocks = [&[0x02, 0x08, 0x20, 0x80, 0x00].repeat(200)[..], &[0x00]].concat();
    for (name, bytes, expected) in [
        ("RSV2", masked(TEXT | 0x20, b"{}"), RESERVED),
        ("RSV3", masked(TEXT | 0x10, b"{}"), RESERVED),
        ("RSV1 and RSV2", masked(TEXT | RSV1 | 0x20, &whole), RESERVED),
        ("RSV1 on a ping", masked(PING | RSV1, b""), RESERVED),
        ("RSV1 on a pong", masked(PONG | RSV1, b""), RESERVED),
        ("RSV1 on a close", masked(CLOSE | RSV1, b"\x03\xE8"), RESERVED),
        ("RSV1 on a continuation", [&fragment[..], &masked(CONTINUATION | RSV1, &whole[4..])].concat(), RESERVED),
        ("RSV1 on a lone continuation", masked(CONTINUATION | RSV1, &whole), RESERVED),
        ("plain text as compressed", masked(TEXT | RSV1, PING_TEXT.as_bytes()), DAMAGED),
        ("block type 3", masked(TEXT | RSV1, &[0x07]), DAMAGED),
        ("cut short", masked(TEXT | RSV1, &whole[..whole.len() - 3]), DAMAGED),
        ("cut short in fragments", [&fragment[..], &masked(CONTINUATION, b"")].concat(), DAMAGED),
        ("the tail", masked(TEXT | RSV1, &[&whole[..], &[0x00, 0x00, 0xFF, 0xFF]].concat()), DAMAGED),
        ("data behind the last block", masked(TEXT | RSV1, &[0x03, 0x00, 0x02]), DAMAGED),
        ("tiny blocks", masked(TEXT | RSV1, &tiny_blocks), DAMAGED),
        ("binary data", masked(BINARY | RSV1, &[0x07]), DAMAGED),
        ("not UTF-8", masked(TEXT | RSV1, &broken_utf8), (1007, "A text message must be UTF-8")),
    ] {
        let mut peer = Peer::compressed(&server).await;
        peer.wire.send_bytes(&bytes).await;
        let (code, reason) = peer.wire.next_close().await;
        assert_eq!((code, &*reason), expected, "{name}");
        assert_eq!(peer.wire.next_frame().await, None, "{name}");
    }
    let mut damaged = 0.0;
    for node in 0..server.nodes() {
        damaged += server.figure(node, "gema_refusals_total", r#"cause="message_not_deflate""#).await;
    }
    assert_eq!(damaged, 8.0);
}

#[tokio::test]
async fn the_limit_of_a_message_holds_for_its_inflated_size() {
    const MAX: usize = 32 * 1024;
    let server = TestServer::start_with(|config| {
        config.connections.compression = true;
        config.connections.message_bytes_max = MAX;
    })
    .await;
    let of_length = |length: usize| {
        let empty = r#"{"event":"pusher:ping","data":""}"#.len();
        format!(r#"{{"event":"pusher:ping","data":"{}"}}"#, "x".repeat(length - empty))
    };
    let too_big = (1009, format!("The message is larger than {MAX} bytes"));
    for sizes in [&[usize::MAX][..], &[1000]] {
        for level in [0, 6] {
            let mut peer = Peer::compressed(&server).await;
            let fits = deflate(of_length(MAX).as_bytes(), level);
            send_fragments(&mut peer.wire, TEXT | RSV1, &fits, sizes).await;
            assert_eq!(peer.next_text().await, PONG_TEXT, "level {level}");
            let too_large = deflate(of_length(MAX + 1).as_bytes(), level);
            send_fragments(&mut peer.wire, TEXT | RSV1, &too_large, sizes).await;
            assert_eq!(peer.wire.next_close().await, too_big, "level {level}");
        }
    }
    for kind in [TEXT, BINARY] {
        let mut peer = Peer::compressed(&server).await;
        peer.wire.send(kind | RSV1, &deflate(&vec![b'x'; 4 * 1024 * 1024], 6)).await;
        assert_eq!(peer.wire.next_close().await, too_big);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn compression_bombs_cost_no_more_memory_than_large_messages() {
    const BOMBS: usize = 20;
    /// Of each, inflated.
    const INFLATED: usize = 32 * 1024 * 1024;
    let process = Process::start(&[("GEMA_CONNECTIONS_COMPRESSION", "true"), ("GEMA_SERVER_WORKERS", "2")]).await;
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    let bomb = deflate(&vec![b'x'; INFLATED], 6);
    assert!(bomb.len() < 256 * 1024, "{}", bomb.len());
    let head = upgrade_head(PATH, &[("Sec-WebSocket-Extensions", OFFER)]);
    let mut wires = Vec::new();
    for _ in 0..BOMBS {
        let (answer, mut wire) = Wire::upgrade(process.address, &head).await;
        assert_eq!(answer.header("sec-websocket-extensions"), Some(ANSWER));
        assert_eq!(wire.next_event().await, "pusher:connection_established");
        wire.send((TEXT | RSV1) & MORE, &bomb).await;
        wire.send(PING, b"").await;
        assert_eq!(wire.next_frame().await.unwrap().0, PONG);
        wires.push(wire);
    }
    let before = peak();
    for wire in &mut wires {
        wire.send(CONTINUATION, b"").await;
        assert_eq!(wire.next_close().await, (1009, "The message is larger than 262144 bytes".to_owned()));
    }
    let more = peak() - before;
    assert!(more < INFLATED / 2, "{more} bytes more");
}

#[tokio::test]
async fn an_event_is_compressed_once_for_all_and_what_it_saves_is_counted() {
    let server = TestServer::start_single_with(|config| config.connections.compression = true).await;
    let mut peers = Vec::new();
    for _ in 0..8 {
        peers.push(Peer::compressed(&server).await);
    }
    let mut plain = Peer::plain(&server).await;
    plain.subscribe("c").await;
    for peer in &mut peers {
        peer.subscribe("c").await;
    }
    let before = server.metric("soketi_socket_transmitted_bytes", None).await;
    let (mut saved, mut transmitted) = (0, 0);
    for (number, size) in [2000, 100, 3000].into_iter().enumerate() {
        let api = server.api();
        let data = readings(size);
        let excluded = &peers[number].socket_id;
        let event = json!({ "name": "e", "channel": "c", "data": data, "socket_id": excluded });
        assert_eq!(api.post("/events", &event.to_string()).await.status, 200);
        let text = plain.next_text().await;
        transmitted += text.len();
        for (_, peer) in peers.iter_mut().enumerate().filter(|(at, _)| *at != number) {
            let (first, payload) = peer.wire.next_frame().await.unwrap();
            assert_eq!(first & RSV1 != 0, size > 512);
            transmitted += payload.len();
            // The header of each takes four bytes, compressed or not.
            saved += text.len() - payload.len();
        }
    }
    server.figure_becomes(0, "gema_compressed_frames_total", "", 2.0).await;
    server.figure_becomes(0, "gema_compression_saved_bytes_total", "", saved as f64).await;
    server.metric_becomes("soketi_socket_transmitted_bytes", None, before + transmitted as f64).await;
    server.metric_becomes("gema_deliveries_total", None, 24.0).await;
}
