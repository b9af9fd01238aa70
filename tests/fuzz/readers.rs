//! Properties of the readers of files of settings, of `.env`, of apps in databases, of headers of the PROXY protocol, and
//! of NATS' operations.

use std::collections::BTreeMap;
use std::path::Path;

use gema::config;
use gema::config::App;
use gema::config::Limits;
use gema::config::RowApp;
use gema::nats::wire;
use gema::nats::wire::Operation;
use gema::protocol::proxy;
use gema::protocol::proxy::HEAD_BYTES;
use gema::protocol::proxy::LINE_BYTES_MAX;
use gema::protocol::proxy::ProxyHeader;
use gema::protocol::proxy::REST_BYTES_MAX;
use gema::protocol::proxy::START_BYTES;
use gema::protocol::proxy::Version;
use serde_json::Value;

/// A header is read in one way only, and names the client that stands in it.
pub fn proxy_headers(input: &[u8]) {
    match proxy::begins(input) {
        None => assert!(ProxyHeader::from_line(input).is_err()),
        Some(Version::One) => {
            let end = input.iter().position(|&byte| byte == b'\n').map_or(input.len(), |end| end + 1);
            proxy_line(&input[..end]);
        }
        Some(Version::Two) => {
            assert_eq!(proxy::begins(&input[..START_BYTES]), Some(Version::Two), "its start suffices");
            if let Some((head, rest)) = input.split_first_chunk() {
                proxy_binary(*head, rest);
            }
        }
    }
}

fn proxy_line(line: &[u8]) {
    let Ok(header) = ProxyHeader::from_line(line) else { return };
    assert!(!header.secure && line.len() <= LINE_BYTES_MAX);
    let text = std::str::from_utf8(line).unwrap().strip_suffix("\r\n").unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let Some(client) = header.client else { return assert_eq!(words[1], "UNKNOWN") };
    let [_, family, source, target, ports @ ..] = &*words else { panic!("{text}") };
    assert_eq!(*family, if client.is_ipv4() { "TCP4" } else { "TCP6" });
    assert_eq!(source.parse(), Ok(client.ip()));
    assert_eq!(target.parse::<std::net::IpAddr>().unwrap().is_ipv4(), client.is_ipv4());
    assert!(ports.len() == 2 && ports.concat().bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    assert_eq!(ports[0].parse(), Ok(client.port()));
}

fn proxy_binary(head: [u8; HEAD_BYTES], rest: &[u8]) {
    let Ok(length) = ProxyHeader::rest_len(&head) else {
        return assert!(ProxyHeader::from_binary(&head, rest).is_err());
    };
    assert!(length <= REST_BYTES_MAX);
    let Some(rest) = rest.get(..length) else { return };
    let Ok(header) = ProxyHeader::from_binary(&head, rest) else { return };
    assert!(ProxyHeader::from_binary(&head, &[rest, b"x"].concat()).is_err(), "another length");
    let Some(client) = header.client else { return assert!(!header.secure) };
    let (addresses, extensions) = rest.split_at(if client.is_ipv4() { 12 } else { 36 });
    let with = |extensions: &[u8]| {
        let (mut head, rest) = (head, [addresses, extensions].concat());
        head[14..].copy_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        ProxyHeader::from_binary(&head, &rest)
    };
    if rest.len() + 16 < REST_BYTES_MAX {
        let more = |extension: &[u8]| with(&[extensions, extension].concat());
        assert_eq!(more(&[4, 0, 1, 9]), Ok(header), "what says nothing of TLS changes nothing");
        assert_eq!(more(&[32, 0, 5, 1, 0, 0, 0, 0]), Ok(ProxyHeader { secure: true, ..header }));
        assert!(more(&[4, 0, 2, 9]).is_err(), "it ends within an extension");
    }
    assert_eq!(with(&[]), Ok(ProxyHeader { secure: false, ..header }));
}

/// The variables of a `.env`, written again with quotes, are the same ones.
pub fn dotenv(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let environment = BTreeMap::from([("OUTSIDE".to_owned(), "${A}\\".to_owned())]);
    let variables = config::dotenv_variables(&text, &environment);
    let mut again = String::new();
    for (name, value) in &variables {
        assert!(text.contains(name) && !name.is_empty() && !name.contains([' ', '=', '\n', '$']));
        again.push_str(&format!(" export {name} = \"{}\" # more\n", escaped_for_quotes(value)));
    }
    assert_eq!(config::dotenv_variables(&again, &environment), variables, "{again}");
    let with_comment = format!("# = 'not a value\n\n{}", text.trim_start_matches('\u{feff}'));
    assert_eq!(config::dotenv_variables(&with_comment, &environment), variables, "a comment changes nothing");
}

fn escaped_for_quotes(value: &str) -> String {
    let mut escaped = String::new();
    for letter in value.chars() {
        match letter {
            '"' | '\\' | '$' => escaped.extend(['\\', letter]),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// However the bytes of a NATS server arrive, its operations are the same, and none begins before it is there whole.
pub fn nats_wire(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some((operation, length))) = wire::read(rest) {
        let (whole, behind) = rest.split_at(length);
        let Ok(Some((operation_alone, length_alone))) = wire::read(whole) else { panic!("what follows means nothing") };
        assert_eq!((&operation_alone, length_alone), (&operation, length));
        for end in [0, 1, length / 2, length.saturating_sub(2), length - 1] {
            assert_eq!(wire::read(&whole[..end.min(length - 1)]), Ok(None), "a part of an operation");
        }
        if let Operation::Message(message) = operation {
            assert!(message.payload.len() + message.subject.len() < length && !message.subject.is_empty());
            let line = String::from_utf8_lossy(whole.split(|&byte| byte == b'\n').next().unwrap());
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            assert!([fields[2], fields[fields.len() - 1]].concat().bytes().all(|byte| byte.is_ascii_digit()), "{line}");
            for header in ["Gema-Change", "Nats-Subject", ""] {
                assert!(message.headers(header).all(|value| value.len() < length && !value.contains("\r\n")));
            }
            let (subject, number, bytes) = (message.subject, message.subscription, message.payload.len());
            let mut again = format!("msg\t{subject}  {number} {bytes}\r\n").into_bytes();
            again.extend([message.payload, b"\r\nPING\r\n"].concat());
            let Ok(Some((Operation::Message(read), _))) = wire::read(&again) else { panic!("{again:?}") };
            assert_eq!((read.subject, read.subscription, read.payload), (subject, number, message.payload));
        }
        rest = behind;
    }
}

/// Settings in JSON are what a second reader finds, and those of any format are the same when they are written as JSON.
/// The input: the format, then the text.
pub fn settings(input: &[u8]) {
    let Some((&format, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let file = ["f.js", "f.toml", "f.yaml"][usize::from(format % 3)];
    let found = settings_of(file, text);
    if let Err(error) = &found
        && let Some(rest) = error.split_once(&format!("{file}:")).map(|(_, rest)| rest)
        && let Some(line) = rest.split_once(':').and_then(|(line, _)| line.parse::<usize>().ok())
    {
        assert!(line <= text.split(['\n', '\r']).count() + 1, "{error}");
    }
    // The second reader takes the last of two members with the same name.
    let is_known = |error: &String| ["twice", "are open", "in a list", "parts"].iter().any(|what| error.contains(what));
    if format.is_multiple_of(3)
        && let Ok(expected @ Value::Object(_)) = serde_json::from_str(text)
        && is_clear(&expected)
    {
        match &found {
            Ok(found) => assert!(are_alike(found, &expected), "{found} {expected}"),
            Err(error) => assert!(is_known(error), "{error}"),
        }
    }
    if let Ok(found) = found {
        match settings_of("f.json", &found.to_string()) {
            Ok(again) => assert!(are_alike(&again, &found), "{again} {found}"),
            Err(error) => assert!(is_known(&error), "{error} {found}"),
        }
    }
}

/// A row of a database makes an app with its own id, or faults of its columns, and no text about it shows its secret. The
/// input: the columns, in JSON.
pub fn app_rows(input: &[u8]) {
    const SECRET: &str = "hush-8f1c";
    let Ok(Value::Object(mut row)) = serde_json::from_slice(input) else { return };
    if row.values().any(|value| value.to_string().contains("hush")) || row.contains_key("keys") {
        return;
    }
    row.insert("secret".to_owned(), SECRET.into());
    let limits = Limits::default();
    let read = |row: &serde_json::Map<String, Value>| App::from_row("apps", row, &limits);
    let texts: Vec<String> = match read(&row) {
        Ok(RowApp { app, warnings, left_out }) => {
            assert!(!app.id.is_empty() && app.keys.iter().all(|pair| pair.secret.expose_text() == SECRET), "{app:?}");
            let mut with_more = row.clone();
            with_more.insert("created_at".to_owned(), "2026-12-01".into());
            with_more.insert("max_connections_of_yesterday".to_owned(), 7.into());
            assert_eq!(read(&with_more).unwrap().app, app, "columns of others change nothing");
            warnings.iter().map(ToString::to_string).chain(left_out.into_iter().map(|left| left.why)).collect()
        }
        Err(faults) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| fault.to_string().contains("apps")), "{faults:?}");
            faults.iter().map(ToString::to_string).collect()
        }
    };
    assert!(texts.iter().all(|text| !text.contains(SECRET)), "{texts:?}");
}

fn settings_of(file: &str, text: &str) -> Result<Value, String> {
    let variables = BTreeMap::from([("PORT".to_owned(), "6001".to_owned())]);
    let settings = config::settings_of_file(Path::new(file), text, &variables).map_err(|fault| fault.to_string())?;
    let json = settings.into_iter().map(|(name, value)| (name, value.try_deserialize::<Value>().unwrap()));
    Ok(Value::Object(json.collect()))
}

/// Whether the second reader understands a value as gema does: no name has groups, and no number is beyond f64.
fn is_clear(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.contains(['.', '$']) && is_clear(value)),
        Value::Array(items) => items.iter().all(is_clear),
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        _ => true,
    }
}

/// Equal, but for the forms of numbers.
fn are_alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let floats = [one, other].map(|number| number.as_f64().unwrap_or(f64::NAN));
            // The second reader is not exact in the last digit.
            let are_near = (floats[0] - floats[1]).abs() <= floats[0].abs() * 1e-15;
            are_near || one.as_i64().is_some_and(|number| other.as_i64() == Some(number))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| are_alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|it| are_alike(value, it)))
        }
        _ => one == other,
    }
}
