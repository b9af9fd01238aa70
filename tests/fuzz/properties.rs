//! What must hold for every input, however strange. The fuzz targets and `cargo test` (tests/it/fuzz.rs) check
//! the same functions.

pub mod flow;
pub mod readers;

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use gema::cluster::over_redis::answers;
use gema::protocol::broadcast::Broadcast;
use gema::protocol::broadcast::BroadcastError;
use gema::protocol::channel::Access;
use gema::protocol::channel::ChannelName;
use gema::protocol::channel::NameError;
use gema::protocol::channel::USER_CHANNEL_PREFIX;
use gema::protocol::code::Close;
use gema::protocol::code::CloseCode;
use gema::protocol::connect::origin_allowed;
use gema::protocol::deflate::Compressor;
use gema::protocol::deflate::InflateError;
use gema::protocol::deflate::Inflater;
use gema::protocol::envelope::Envelope;
use gema::protocol::envelope::NodeId;
use gema::protocol::envelope::RemoteEvent;
use gema::protocol::event;
use gema::protocol::extension::negotiate;
use gema::protocol::frame::Decoder;
use gema::protocol::frame::Frame;
use gema::protocol::frame::FrameError;
use gema::protocol::frame::Message;
use gema::protocol::frame::frame_ends;
use gema::protocol::grant::Keys;
use gema::protocol::grant::SubscribeLimits;
use gema::protocol::grant::Verifier;
use gema::protocol::identity::Member;
use gema::protocol::identity::MemberLimits;
use gema::protocol::identity::User;
use gema::protocol::json;
use gema::protocol::message::ClientMessage;
use gema::protocol::publish::PublishLimits;
use gema::protocol::publish::PublisherEvent;
use gema::protocol::request;
use gema::protocol::request::Claim;
use gema::protocol::request::ClaimError;
use gema::protocol::request::Clock;
use gema::protocol::signature::Signer;
use gema::protocol::signature::body_md5;
use gema::protocol::socket_id::SocketId;
use gema::protocol::view::View;
use gema::protocol::view::ViewLimits;
use serde_json::Value;
use serde_json::value::RawValue;

/// The largest message here: small, so that inputs exceed it.
const MESSAGE_BYTES_MAX: usize = 300;
/// The longest header, the longest control frame, and the more that a compressed message may take.
const OVERHEAD_MAX: usize = 14 + 125 + 64;

/// However its bytes are split, a stream of frames means the same, and little of it is kept. The input: four sizes,
/// then the stream.
pub fn frames(input: &[u8]) {
    let Some((sizes, stream)) = input.split_first_chunk::<4>() else { return };
    let sizes = sizes.map(usize::from);
    for compressed in [false, true] {
        let whole = decode((stream, compressed), [stream.len()], false);
        assert_eq!(decode((stream, compressed), sizes, false), whole);
        assert_eq!(decode((stream, compressed), sizes, true), whole);
        assert_eq!(decode_one_by_one((stream, compressed)), whole);
    }
    messages_arrive_as_they_were_sent(stream, sizes);
}

#[derive(Debug, PartialEq)]
struct Decoded {
    messages: Vec<String>,
    waiting: Result<usize, FrameError>,
}

/// A stream, and whether its messages may be compressed.
type Stream<'a> = (&'a [u8], bool);

/// Decodes pieces of these sizes, over and over; `late` feeds every other piece without looking at it.
fn decode<const N: usize>((mut stream, compressed): Stream<'_>, sizes: [usize; N], late: bool) -> Decoded {
    let mut decoder = Decoder::default();
    let mut inflater = Inflater::default();
    let mut messages = Vec::new();
    let mut answers = Vec::new();
    for (turn, size) in sizes.into_iter().cycle().enumerate() {
        let (piece, rest) = stream.split_at(size.max(1).min(stream.len()));
        stream = rest;
        if late && turn.is_multiple_of(2) {
            decoder.feed(piece);
            continue;
        }
        let inflater = compressed.then_some(&mut inflater);
        let outcome = decoder.decode(&mut piece.to_vec(), MESSAGE_BYTES_MAX, inflater, |message| {
            answers.push(answer(&message));
            messages.push(format!("{message:?}"));
            true
        });
        if let Err(error) = outcome {
            assert_well_formed(&Frame::close(&error.close()));
            return Decoded { messages, waiting: Err(error) };
        }
        assert!(decoder.waiting() <= MESSAGE_BYTES_MAX + OVERHEAD_MAX);
        if stream.is_empty() {
            break;
        }
    }
    assert_whole(&answers);
    Decoded { messages, waiting: Ok(decoder.waiting()) }
}

/// Stops after each message; the rest is for the next call.
fn decode_one_by_one((stream, compressed): Stream<'_>) -> Decoded {
    let mut decoder = Decoder::default();
    let mut inflater = Inflater::default();
    let mut messages = Vec::new();
    let mut input = stream.to_vec();
    loop {
        let before = messages.len();
        let inflater = compressed.then_some(&mut inflater);
        let outcome = decoder.decode(&mut std::mem::take(&mut input), MESSAGE_BYTES_MAX, inflater, |message| {
            messages.push(format!("{message:?}"));
            false
        });
        if let Err(error) = outcome {
            return Decoded { messages, waiting: Err(error) };
        }
        assert!(messages.len() <= before + 1);
        if messages.len() == before {
            return Decoded { messages, waiting: Ok(decoder.waiting()) };
        }
    }
}

/// Checks a message, and answers it as a server would.
fn answer(message: &Message<'_>) -> Frame {
    match message {
        Message::Text(text) => {
            assert!(text.len() <= MESSAGE_BYTES_MAX);
            Frame::pong(b"")
        }
        Message::Ping(payload) => {
            assert!(payload.len() <= 125);
            Frame::pong(payload)
        }
        Message::Close(code) => {
            assert!(code.is_none_or(|code| (1000..5000).contains(&code) && ![1005, 1006, 1015].contains(&code)));
            Frame::close_answer(*code)
        }
        Message::Binary | Message::Pong(_) => Frame::ping(),
    }
}

/// The ends of frames that follow each other are found again.
fn assert_whole(frames: &[Frame]) {
    let all: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    let lengths = frames.iter().scan(0, |end, frame| {
        *end += frame.bytes().len();
        Some(*end)
    });
    assert!(frame_ends(&all).eq(lengths));
}

/// A message that is sent in fragments of these sizes arrives in one piece, if it can.
fn messages_arrive_as_they_were_sent(payload: &[u8], sizes: [usize; 4]) {
    let mut stream = Vec::new();
    let (mut rest, mut first) = (payload, true);
    for size in sizes.into_iter().cycle() {
        let (piece, after) = rest.split_at(size.clamp(1, 125).min(rest.len()));
        let last = if after.is_empty() { 0x80 } else { 0 };
        let mask = [size as u8, 7, 0, 255];
        stream.extend([last | u8::from(first), 0x80 | piece.len() as u8]);
        stream.extend(mask);
        stream.extend(piece.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        (rest, first) = (after, false);
        if rest.is_empty() {
            break;
        }
    }
    let mut arrived = Vec::new();
    let outcome = Decoder::default().decode(&mut stream, MESSAGE_BYTES_MAX, None, |message| {
        if let Message::Text(text) = message {
            arrived.push(text.into_owned());
        }
        true
    });
    match (outcome, std::str::from_utf8(payload)) {
        (Ok(()), Ok(text)) => assert_eq!(arrived, [text]),
        (Err(FrameError::NotUtf8), Err(_)) => (),
        (Err(FrameError::TooBig(_)), _) => assert!(payload.len() > MESSAGE_BYTES_MAX),
        other => panic!("{other:?}"),
    }
}

/// A compressed message means what zlib-rs says that it means, or it is refused; and never more than the bound.
pub fn compressed_messages(input: &[u8]) {
    // So short that the number of its blocks cannot matter.
    let input = &input[..input.len().min(600)];
    let mut inflater = Inflater::default();
    let found = inflater.inflate(input, INFLATED_BYTES_MAX);
    let expected = inflate_by_zlib(input);
    match &found {
        Ok(message) => {
            assert!(message.len() <= INFLATED_BYTES_MAX);
            assert_eq!(Some(message), expected.as_ref());
        }
        Err(InflateError::TooBig) => {
            // zlib-rs may find later that the data is damaged.
            assert!(expected.is_none_or(|message| message.len() > INFLATED_BYTES_MAX));
        }
        Err(InflateError::Damaged) => assert_eq!(expected, None),
    }
    assert_eq!(inflater.inflate(input, INFLATED_BYTES_MAX), found, "nothing is left of an earlier message");
    // The input as a message that is compressed.
    COMPRESSOR.with_borrow_mut(|compressor| is_inflated_again(compressor, &mut inflater, input));
}

thread_local! {
    /// Far slower to make than to use.
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor::new());
}

fn is_inflated_again(compressor: &mut Compressor, inflater: &mut Inflater, input: &[u8]) {
    if let Some(payload) = compressor.compress(input) {
        assert!(payload.len() < input.len());
        assert_eq!(inflater.inflate(payload, input.len()).as_deref(), Ok(input));
        assert_eq!(inflate_by_zlib(payload).as_deref(), Some(input));
        assert_eq!(inflater.inflate(payload, input.len() - 1), Err(InflateError::TooBig));
    }
}

/// The largest inflated message here.
const INFLATED_BYTES_MAX: usize = 10_000;

/// The message of a compressed payload, if that is whole. Messages that go far beyond the bound are cut.
fn inflate_by_zlib(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.is_empty() {
        return Some(Vec::new());
    }
    // An empty last block behind the tail shows whether the payload has ended with a whole one.
    let end = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];
    let input = [payload, &end].concat();
    let mut zlib = flate2::Decompress::new(false);
    let mut message = Vec::with_capacity(10 * INFLATED_BYTES_MAX);
    let status = zlib.decompress_vec(&input, &mut message, flate2::FlushDecompress::Sync).ok()?;
    let read = zlib.total_in() as usize;
    match status {
        flate2::Status::StreamEnd if read == input.len() => {
            // Nothing of the message may come out of what is behind the payload.
            let mut whole = flate2::Decompress::new(false);
            let mut before = Vec::with_capacity(10 * INFLATED_BYTES_MAX);
            whole.decompress_vec(payload, &mut before, flate2::FlushDecompress::Sync).ok()?;
            (before == message).then_some(message)
        }
        flate2::Status::StreamEnd if read <= payload.len() => {
            matches!(&payload[read..], [] | [0x00]).then_some(message)
        }
        _ => (message.len() > INFLATED_BYTES_MAX).then_some(message),
    }
}

/// However strange the offers are, one that stands between others is answered as if it stood alone.
pub fn extension_offers(input: &[u8]) {
    const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let text = String::from_utf8_lossy(input);
    let answer = negotiate([&*text]);
    let with_window = format!("{ANSWER}; server_max_window_bits=15");
    assert!(answer.is_none_or(|answer| answer == ANSWER || answer == with_window));
    assert_eq!(negotiate(["permessage-deflate;", &text, "other"]), answer, "headers are read one by one");
    assert!(negotiate([&text, "permessage-deflate"]).is_some(), "an offer remains after all that were declined");
    if !text.contains('"') {
        assert_eq!(answer.map(|answer| answer == with_window), plain_offers(&text), "{text:?}");
    }
}

/// A second opinion on a list without quotes: whether the answer names the window, or `None` without an answer.
fn plain_offers(list: &str) -> Option<bool> {
    let space = [' ', '\t'];
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b))
    };
    let mut answer = None;
    for offer in list.split(',').map(|offer| offer.trim_matches(space)).filter(|offer| !offer.is_empty()) {
        let mut parts = offer.split(';').map(|part| part.trim_matches(space));
        let name = parts.next().filter(|name| is_token(name))?;
        let (mut names, mut is_fine, mut window) = (Vec::new(), name == "permessage-deflate", false);
        for part in parts {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.trim_end_matches(space), Some(value.trim_start_matches(space))),
                None => (part, None),
            };
            if !is_token(key) || !value.is_none_or(is_token) {
                return None;
            }
            let number =
                value.filter(|value| !value.starts_with(['0', '+'])).and_then(|value| value.parse::<u8>().ok());
            is_fine &= !names.contains(&key)
                && match key {
                    "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
                    "client_max_window_bits" => value.is_none() || number.is_some_and(|bits| (8..=15).contains(&bits)),
                    "server_max_window_bits" => number == Some(15),
                    _ => false,
                };
            window |= key == "server_max_window_bits";
            names.push(key);
        }
        answer = answer.or(is_fine.then_some(window));
    }
    answer
}

const MEMBER_LIMITS: MemberLimits = MemberLimits { user_id_length_max: 20, user_info_bytes_max: 100 };
const NAME_LENGTH_MAX: usize = 40;

/// Whatever a client writes is read in one way only, and what is passed on of it is well-formed.
pub fn client_messages(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    client_message(text);
    identities(text);
    channel_name(text);
    socket_id(text);
}

fn client_message(text: &str) {
    let Ok(message) = ClientMessage::parse(text) else { return };
    assert!(is_json(text), "what is read is JSON");
    // A second opinion. It gives up on deep nesting and on half a surrogate pair.
    let value = serde_json::from_str::<Value>(text).ok().filter(Value::is_object).unwrap_or_default();
    if value.is_object() && !matches!(message, ClientMessage::Foreign) {
        let command = match &message {
            ClientMessage::Ping => "pusher:ping",
            ClientMessage::Pong => "pusher:pong",
            ClientMessage::Subscribe(_) => "pusher:subscribe",
            ClientMessage::Unsubscribe(_) => "pusher:unsubscribe",
            ClientMessage::SignIn(_) => "pusher:signin",
            ClientMessage::Event(event) => &event.name,
            ClientMessage::Foreign => unreachable!(),
        };
        assert_eq!(value["event"], command);
    }
    match message {
        ClientMessage::Event(event) => {
            if value.is_object() {
                assert_eq!(value["channel"].as_str(), event.channel.as_deref());
                assert_eq!(value["data"].is_null(), event.data.is_none());
            }
            let data = event.data.map_or(r#""null""#.into(), json::data_string);
            assert_data_string(&data);
            let channel = event.channel.unwrap_or_default();
            let there = event::client_event(&channel, &event.name, &data, Some(text));
            assert_well_formed(&there);
            let here = event::client_event("private-here", &event.name, &data, Some(text));
            assert_eq!(event::under("private-here", &there, None), Some(here));
        }
        ClientMessage::Subscribe(subscribe) => {
            if let Some(data) = &subscribe.channel_data
                && let Ok(Some(view)) = View::parse(data, VIEW_LIMITS)
            {
                assert!(!view.lasts.is_zero() && view.patterns.is_sorted_by(|a, b| a.as_str() < b.as_str()));
            }
            let limits = SubscribeLimits { name_length_max: NAME_LENGTH_MAX, member: MEMBER_LIMITS, view: VIEW_LIMITS };
            match verifier().grant(&subscribe, limits) {
                Ok(grant) => assert_eq!(grant.channel().kind().access, Access::Public, "nobody can sign by chance"),
                Err(error) => assert_well_formed(&event::subscription_error(&subscribe.channel, &error)),
            }
        }
        ClientMessage::SignIn(sign_in) => {
            let refused = verifier().sign_in(&sign_in).expect_err("nobody can sign by chance");
            assert_well_formed(&event::error(None, &refused.to_string()));
        }
        _ => (),
    }
}

const VIEW_LIMITS: ViewLimits = ViewLimits { pattern_length_max: NAME_LENGTH_MAX, stars: true, now: Duration::ZERO };

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new(b"secret"));
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new([("key", &b"secret"[..])]));

fn verifier() -> Verifier<'static> {
    Verifier { keys: &KEYS, socket_id: SocketId::parse("1.2").unwrap(), user: None }
}

fn identities(text: &str) {
    if let Ok(member) = Member::parse(text, MEMBER_LIMITS) {
        assert!((1..=20).contains(&member.user_id.chars().count()));
        assert!(member.user_info.len() <= 100);
        assert_compact(&member.user_info);
        assert_eq!(json::minimal(raw(&member.user_info)), &*member.user_info);
        if let Ok(value @ Value::Object(_)) = serde_json::from_str(text) {
            assert_eq!(serde_json::from_str::<Value>(&member.user_info).ok().as_ref(), Some(&value["user_info"]));
        }
        assert_well_formed(&event::member_added("presence-a", &member));
        assert_well_formed(&event::member_removed("presence-a", &member.user_id));
    }
    if let Ok(user) = User::parse(text) {
        assert!((1..=200).contains(&user.id.chars().count()));
        assert!(!user.id.contains(char::is_control));
        assert_compact(&user.info);
        assert!(ChannelName::parse(&format!("{USER_CHANNEL_PREFIX}{}", user.id), 200).is_ok());
        let watched = user.watchlist.iter().map(|id| &**id);
        if let Some(frame) = event::watchlist_events(watched, [text]) {
            assert_well_formed(&frame);
        }
    }
}

fn channel_name(text: &str) {
    match ChannelName::parse(text, NAME_LENGTH_MAX) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            let own = name.user().unwrap_or(text);
            assert!((1..=NAME_LENGTH_MAX).contains(&own.chars().count()));
            assert!(!own.contains(char::is_control));
            assert!(name.user().is_some() || text.bytes().all(|byte| byte.is_ascii_graphic()));
            let kind = name.kind();
            assert_eq!(kind.access == Access::Signed, text.starts_with("private-") || text.starts_with("presence-"));
            assert_eq!(kind.presence, text.starts_with("presence-"));
            assert!(!kind.encrypted || text.starts_with("private-encrypted-"));
            assert!(!kind.cached || text.contains("cache-"));
        }
        Err(NameError::TooLong) => assert!(text.chars().count() > NAME_LENGTH_MAX),
        Err(NameError::Invalid { name }) => assert!(text.starts_with(&name) && name.chars().count() <= 64),
    }
}

fn socket_id(text: &str) {
    let is_number = |half: &str| !half.is_empty() && half.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = text.split_once('.').is_some_and(|(left, right)| is_number(left) && is_number(right));
    match SocketId::parse(text) {
        Some(id) => {
            // What no connection can have stands for nobody: one half is zero.
            let shown = id.to_string();
            assert!(is_id && (shown == text || shown.split('.').any(|half| half == "0")));
        }
        None => assert!(!is_id),
    }
}

const PUBLISH_LIMITS: PublishLimits = PublishLimits {
    batch_events_max: 3,
    channels_max: 3,
    channel_name_length_max: 20,
    event_name_length_max: 10,
    data_bytes_max: 50,
};

/// No body gets an event past the limits, and what is delivered is what was sent.
pub fn api_bodies(input: &[u8]) {
    let alone = PublisherEvent::parse(input, PUBLISH_LIMITS);
    if let Ok(event) = &alone {
        assert_publishable(event);
        let value: Value = serde_json::from_slice(input).unwrap_or_default();
        match (&value["data"], decoded(&event.data)) {
            (Value::Null, _) | (_, None) => (),
            (Value::String(sent), Some(data)) => {
                assert_eq!(*sent, data);
                assert!(data.len() <= PUBLISH_LIMITS.data_bytes_max);
            }
            (sent, Some(data)) => {
                assert_compact(&data);
                assert_eq!(serde_json::from_str::<Value>(&data).as_ref().ok(), Some(sent));
            }
        }
    }
    if let Ok(events) = PublisherEvent::parse_batch(input, PUBLISH_LIMITS) {
        assert!(events.len() <= PUBLISH_LIMITS.batch_events_max);
        for event in &events {
            assert_publishable(event);
            assert_eq!(event.channels.len(), 1);
        }
    }
    let wrapped = [br#"{"batch":["#, input, b"]}"].concat();
    if let (Ok(alone), Ok(events)) = (&alone, PublisherEvent::parse_batch(&wrapped, PUBLISH_LIMITS)) {
        let [event] = &*events else { panic!("one event is one event") };
        assert_eq!((&event.name, &event.data), (&alone.name, &alone.data));
        assert_eq!((event.except, event.info), (alone.except, alone.info));
    }
}

fn assert_publishable(event: &PublisherEvent<'_>) {
    let limits = PUBLISH_LIMITS;
    assert!((1..=limits.event_name_length_max).contains(&event.name.chars().count()));
    assert!(!event.name.starts_with("pusher:") && !event.name.starts_with("pusher_internal:"));
    assert_data_string(&event.data);
    // Of a value that is no string, its shortest form counts.
    let is_short = |text: String| json::minimal(raw(&text)).len() <= limits.data_bytes_max;
    assert!(json::decoded_len(&event.data) <= limits.data_bytes_max || decoded(&event.data).is_some_and(is_short));
    assert!((1..=limits.channels_max).contains(&event.channels.len()));
    assert!(event.channels.len() == 1 || event.channels.iter().all(|channel| !channel.kind().encrypted));
    for (at, channel) in event.channels.iter().enumerate() {
        assert!(!event.channels[..at].contains(channel));
        assert_eq!(ChannelName::parse(channel.as_str(), limits.channel_name_length_max).as_ref(), Ok(channel));
        assert_well_formed(&event::published(channel.as_str(), &event.name, &event.data));
    }
}

/// Whatever is published in Redis, what is taken from it is fit for clients, and is what Laravel's `pusher` driver
/// would have sent. The input: a channel, in further lines the message.
pub fn broadcasts(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (channel, message) = (String::from_utf8_lossy(&input[..end]), input.get(end + 1..).unwrap_or_default());
    match Broadcast::parse(&channel, message, PUBLISH_LIMITS) {
        Ok(broadcast) => {
            assert_eq!(broadcast.channel.as_str(), channel);
            assert!(!broadcast.channel.kind().encrypted && broadcast.channel.user().is_none());
            let Broadcast { name, data, channel, except } = broadcast;
            let value: Value = serde_json::from_slice(message).unwrap_or_default();
            if let (Some(sent), Some(delivered)) = (value["data"].as_object(), decoded(&data)) {
                let mut sent = sent.clone();
                let delivered_value = serde_json::from_str::<Value>(&delivered).ok();
                match (sent.shift_remove("socket"), sent.is_empty()) {
                    (Some(_), true) => assert_eq!(delivered, "[]"),
                    _ => assert_eq!(delivered_value, Some(Value::Object(sent))),
                }
            }
            assert!(except.is_none() || value.is_null() || value["socket"].is_string());
            assert_publishable(&PublisherEvent {
                name,
                data,
                channels: vec![channel],
                except,
                info: None,
                idempotency_key: None,
            });
        }
        Err(BroadcastError::Encrypted) => assert!(channel.starts_with("private-encrypted-")),
        Err(BroadcastError::Refused(_)) => assert!(is_json(std::str::from_utf8(message).unwrap())),
        Err(BroadcastError::Foreign) => (),
    }
}

/// A JSON string with its quotes, measured rightly.
fn assert_data_string(literal: &str) {
    assert!(literal.len() >= 2 && json::is_string(raw(literal)));
    if let Some(text) = decoded(literal) {
        assert_eq!(json::decoded_len(literal), text.len());
        assert!(!json::is_longer(literal, text.len()));
        assert!(text.is_empty() || json::is_longer(literal, text.len() - 1));
    }
}

/// The text of a JSON string, unless half of a surrogate pair is in it.
fn decoded(literal: &str) -> Option<String> {
    serde_json::from_str(literal).ok()
}

fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).expect("it is JSON")
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// JSON without white space between its parts.
fn assert_compact(text: &str) {
    assert_eq!(json::compact(raw(text)), text);
}

/// One frame with one JSON object in it, or a close.
fn assert_well_formed(frame: &Frame) {
    let bytes = frame.bytes();
    assert!(frame_ends(bytes).eq([bytes.len()]));
    let payload = std::str::from_utf8(&bytes[bytes.len() - frame.payload_len()..]);
    match bytes[0] {
        0x81 => assert!(payload.is_ok_and(|text| text.starts_with('{') && is_json(text))),
        0x88 => assert!(frame.payload_len() <= 125),
        other => panic!("{other:#x}"),
    }
}

const NOW: u64 = 1_353_088_179;
const CLOCK: Clock = Clock { now_seconds: NOW, tolerance_seconds: 600 };

/// A request is believed with its own signature only. The input: a path, `?`, a query; in further lines the body.
pub fn query_strings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (target, body) = text.split_once('\n').unwrap_or((text, ""));
    let (path, query) = target.split_once('?').unwrap_or(("", target));
    let unsigned = Claim { method: "GET", path, query };
    let refused = unsigned.check(&KEYS, CLOCK).expect_err("nobody can sign by chance");
    assert!(!refused.to_string().contains('\n'));
    let pairs: Vec<_> = pairs(query).collect();
    questions(query, &pairs);
    signed(path, pairs, body);
    connecting(query);
}

/// Signs as the official libraries do; then one thing of the request is changed, which the length decides.
fn signed(path: &str, mut parameters: Vec<(String, String)>, body: &str) {
    parameters.retain(|(key, _)| !key.starts_with("auth_") && key != "body_md5");
    let auth = [("auth_version", "1.0"), ("auth_timestamp", &NOW.to_string()), ("auth_key", "key")];
    parameters.extend(auth.map(|(key, value)| (key.to_owned(), value.to_owned())));
    parameters.push(("body_md5".to_owned(), body_md5(body.as_bytes())));
    let sent = parameters.iter().map(|(key, value)| format!("&{}={}", escaped(key), escaped(value)));
    let sent: String = sent.collect();
    parameters.sort_by(|left, right| left.0.cmp(&right.0));
    let joined: Vec<String> = parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let choice = path.len() + sent.len() + body.len();
    let decoded_path = unescaped(path, false);
    let signed_path = if choice.is_multiple_of(2) { path } else { &decoded_path };
    let signature = SIGNER.sign(&[format!("POST\n{signed_path}\n{}", joined.join("&")).as_bytes()]);
    let query = format!("auth_signature={signature}{sent}");
    let claim = Claim { method: "POST", path, query: &query };
    let believed = claim.check(&KEYS, CLOCK).unwrap_or_else(|error| panic!("{error}: {joined:?}"));
    let (info, joined_query) = (believed.info(), joined.join("&"));
    // A `&` in a name or a value reads as the end of it in the text that was signed, and the first body_md5 there counts.
    let md5 = joined_query.split('&').find_map(|pair| match pair.split_once('=').unwrap_or((pair, "")) {
        ("body_md5", md5) => Some(md5),
        _ => None,
    });
    let is_clear = md5 == Some(&*body_md5(body.as_bytes()));
    assert!(is_clear || joined.iter().any(|pair| pair.contains('&')), "{joined:?}");
    let expected = if is_clear { Ok(()) } else { Err(ClaimError::OtherBody) };
    assert_eq!(believed.check_body(body.as_bytes()), expected);
    assert!(!info.user_count || joined_query.contains("user_count"));
    assert!(!info.subscription_count || joined_query.contains("subscription_count"));
    assert!(!info.cache || joined_query.contains("cache"));
    if let Some(prefix) = believed.parameter("filter_by_prefix") {
        let is_it = |pair: &str| pair.split_once('=').unwrap_or((pair, "")) == ("filter_by_prefix", prefix);
        assert!(joined_query.split('&').any(is_it));
    }

    let check = |claim: Claim<'_>, clock: Clock| claim.check(&KEYS, clock).expect_err("another request was signed");
    let refused = match choice / 2 % 6 {
        0 => check(Claim { method: "GET", ..claim }, CLOCK),
        1 => check(Claim { path: &format!("{path}/"), ..claim }, CLOCK),
        2 => check(Claim { query: &format!("{query}&x"), ..claim }, CLOCK),
        3 => {
            let refused = check(Claim { query: &query.replace(&signature, &signature[1..]), ..claim }, CLOCK);
            assert!(!refused.to_string().contains(&signature), "a valid signature is given away");
            refused
        }
        4 => {
            let refused = believed.check_body(format!("{body} ").as_bytes()).expect_err("another body was signed");
            return assert_eq!(refused, ClaimError::OtherBody);
        }
        _ => {
            let refused = check(claim, Clock { now_seconds: NOW + 600, ..CLOCK });
            return assert!(matches!(refused, ClaimError::Expired { .. }));
        }
    };
    assert!(matches!(refused, ClaimError::BadSignature { .. }));
}

fn questions(query: &str, pairs: &[(String, String)]) {
    let key = pairs.iter().find(|(key, _)| key == "auth_key").map(|(_, value)| &**value);
    assert_eq!(request::auth_key(query).as_deref(), key);
}

fn connecting(query: &str) {
    let mut connect = gema::protocol::connect::ConnectRequest {
        app_unavailable: false,
        address_full: false,
        key: None,
        protocol: None,
        version: None,
        library: None,
        channels: None,
        origin: None,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        secure: false,
        untrusted_proxy: None,
        has_proxy_header: false,
        claims_tls: false,
    };
    connect.read_query(query);
    let _ = connect.version_is_plausible();
    let list = [query.to_owned()];
    assert!(origin_allowed(Some(query), &list), "every origin matches itself");
    let foreign = origin_allowed(Some(query), &["*.example.com".to_owned()]);
    assert!(!foreign || query.to_ascii_lowercase().contains(".example.com"));
    let close = Close { code: CloseCode::UnknownApp, reason: query.to_owned().into() };
    assert_well_formed(&Frame::close(&close));
}

/// Keys in lower case and values of a query, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(key, true).to_ascii_lowercase(), unescaped(value, true))
    })
}

fn unescaped(text: &str, form: bool) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if form => decoded.push(b' '),
            (byte, ..) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn escaped(text: &str) -> String {
    let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => escaped.push('+'),
            _ if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            _ => escaped.extend(['%', digit(byte >> 4), digit(byte & 15)]),
        }
    }
    escaped
}

/// What another node says means one thing only, and the frame that it hands on is one that clients understand.
pub fn envelopes(input: &[u8]) {
    let Ok(envelope) = Envelope::decode(&Bytes::copy_from_slice(input)) else { return };
    // Numbers may be written with zeros before them, so the bytes need not be the same.
    assert_eq!(Envelope::decode(&envelope.encode().into()).as_ref(), Ok(&envelope));
    match &envelope {
        Envelope::Event(event) => assert_fit_for_clients(event),
        Envelope::Member(change) => {
            let info = change.user_info.as_deref().unwrap_or("null");
            assert!(serde_json::from_str::<&RawValue>(info).is_ok(), "{info}");
        }
        _ => (),
    }
}

/// Whatever Redis answers, what is taken from it is fit for clients. The input: how many other nodes are asked,
/// and answers as they come over the wire.
pub fn redis_answers(input: &[u8]) {
    let Some((&peers, wire)) = input.split_first() else { return };
    let mut parser = redis::Parser::new();
    let mut wire = wire;
    let mut values = Vec::new();
    while let Ok(value) = parser.parse_value(&mut wire) {
        values.push(value);
    }
    for value in &values {
        let leases = gema::redis::lease::Leases::read(value);
        assert!(leases.living.len() + leases.ended.len() <= input.len());
        let subscriptions: usize = answers::channels(value).iter().map(|(_, count)| count).sum();
        assert!(subscriptions <= input.len() << 32);
        gema::redis::value::texts(value);
        answers::number(value);
        answers::update_outcome(value);
        for event in answers::last_events(value) {
            assert_well_formed(&event.frame);
        }
    }
    if let [cached, left] = values.as_slice()
        && let Some((event, _)) = answers::cached_event(cached, left)
    {
        assert_fit_for_clients(&event);
    }
    let peers: Vec<NodeId> = (0..peers % 4).map(|_| NodeId::default()).collect();
    let values: Vec<_> = values.into_iter().map(Ok).collect();
    for (has_members, has_cache) in [(false, false), (true, false), (false, true), (true, true)] {
        let Some(snapshot) = answers::snapshot(&values, has_members, has_cache, &peers) else { continue };
        for entry in &snapshot.entries {
            assert!(serde_json::from_str::<&RawValue>(&entry.member.user_info).is_ok(), "{entry:?}");
        }
        if let Some((event, _)) = &snapshot.cached {
            assert_fit_for_clients(event);
        }
    }
}

fn assert_fit_for_clients(event: &RemoteEvent) {
    assert_well_formed(&event.frame);
    let bytes = event.frame.bytes();
    assert_eq!(bytes[0], 0x81, "a whole text frame");
    assert!(serde_json::from_slice::<&RawValue>(&bytes[bytes.len() - event.frame.payload_len()..]).is_ok());
}
