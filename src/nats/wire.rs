//! Reads what a NATS server sends, one operation after the other (no I/O). None of it is trusted.
//! Source: the client protocol of NATS. `subscriber` calls it.

use crate::nats::error::NatsError;

/// The longest line. INFO names all servers of a NATS cluster.
pub(super) const LINE_MAX: usize = 64 * 1024;
/// The most bytes of a message with its headers: nats-server takes 64 MiB, and JetStream adds headers of its own.
const MESSAGE_MAX: usize = 65 * 1024 * 1024;
/// The first line of headers, without a status.
const HEADERS: &str = "NATS/1.0";

/// An operation of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The server introduces itself, in JSON.
    Info(&'a str),
    /// Something that was published.
    Message(Message<'a>),
    /// The server asks whether this client is there.
    Ping,
    /// The answer to a ping.
    Pong,
    /// Nothing to do.
    Ok,
    /// The server refuses something, or this client.
    Error(&'a str),
}

/// A message on a subject.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The number of the subscription.
    pub subscription: u64,
    /// Where it was published.
    pub subject: &'a str,
    /// Its content.
    pub payload: &'a [u8],
    headers: &'a str,
}

impl<'a> Message<'a> {
    /// All values of a header.
    pub fn headers(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let lines = self.headers.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.filter(move |(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim_ascii())
    }
}

/// Reads the first operation, and returns the number of its bytes, too; `None` if it is not there whole.
pub fn read(bytes: &[u8]) -> Result<Option<(Operation<'_>, usize)>, NatsError> {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|&byte| byte == b'\n') else {
        return if bytes.len() < LINE_MAX { Ok(None) } else { Err(foreign("a line without an end")) };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or_else(|| foreign("a line that is no text"))?;
    let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let after = &bytes[end + 1..];
    let is = |operation: &str| name.eq_ignore_ascii_case(operation);
    let operation = match () {
        () if is("MSG") || is("HMSG") => {
            let read = message(rest, after, is("HMSG"))?;
            return Ok(read.map(|(message, length)| (Operation::Message(message), end + 1 + length)));
        }
        () if is("INFO") => Operation::Info(rest),
        () if is("PING") => Operation::Ping,
        () if is("PONG") => Operation::Pong,
        () if is("+OK") => Operation::Ok,
        () if is("-ERR") => Operation::Error(rest.trim_matches([' ', '\''])),
        () => return Err(foreign("an operation that NATS does not have")),
    };
    Ok(Some((operation, end + 1)))
}

/// `<subject> <subscription> [<reply to>] [<bytes of the headers>] <bytes in all>`, then the headers and the payload.
fn message<'a>(line: &'a str, after: &'a [u8], has_headers: bool) -> Result<Option<(Message<'a>, usize)>, NatsError> {
    let malformed = || foreign("a message with a malformed first line");
    let mut fields = line.split_ascii_whitespace();
    let subject = fields.next().ok_or_else(malformed)?;
    let subscription = fields.next().and_then(number).ok_or_else(malformed)?;
    let mut size = || usize::try_from(number(fields.next_back()?)?).ok();
    let bytes = size().ok_or_else(malformed)?;
    let headers_bytes = if has_headers { size().ok_or_else(malformed)? } else { 0 };
    // There may be a subject for the reply.
    if fields.nth(1).is_some() || bytes > MESSAGE_MAX || headers_bytes > bytes {
        return Err(malformed());
    }
    let length = bytes + 2;
    let Some(content) = after.get(..length) else { return Ok(None) };
    let content = content.strip_suffix(b"\r\n").ok_or_else(|| foreign("a message of another length than it says"))?;
    let (headers, payload) = content.split_at(headers_bytes);
    let headers = std::str::from_utf8(headers).ok().filter(|text| text.is_empty() || text.starts_with(HEADERS));
    let headers = headers.ok_or_else(|| foreign("headers that are none"))?;
    Ok(Some((Message { subscription, subject, payload, headers }, length)))
}

/// A number in digits alone: no sign.
fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| !digits.starts_with('+'))
}

fn foreign(of: &str) -> NatsError {
    NatsError(format!("the server sends {of}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = concat!(
        "INFO {\"max_payload\":1}\r\n",
        "PING\r\n",
        "pong\r\n",
        "+OK\r\n",
        "-ERR 'Stale Connection'\r\n",
        "MSG a.b 7 2\r\n\r\n\r\n",
        "MSG a.b 7 reply.to 0\r\n\r\n",
        "HMSG\ta  8 47 50\r\nNATS/1.0\r\nA: 1\r\nGema-Change: x%20y \r\na: 2:3\r\n\r\nMSG\r\n",
        "HMSG a 8 reply 15 15\r\nNATS/1.0 503\r\n\r\r\n",
    );

    fn all(mut bytes: &[u8]) -> Vec<Operation<'_>> {
        let mut operations = Vec::new();
        while let Some((operation, length)) = read(bytes).unwrap() {
            operations.push(operation);
            bytes = &bytes[length..];
        }
        assert_eq!(bytes, b"");
        operations
    }

    #[test]
    fn operations_are_read_one_after_the_other() {
        let operations = all(SENT.as_bytes());
        let message = |subject, subscription, payload| Message { subscription, subject, payload, headers: "" };
        assert_eq!(
            operations[..7],
            [
                Operation::Info("{\"max_payload\":1}"),
                Operation::Ping,
                Operation::Pong,
                Operation::Ok,
                Operation::Error("Stale Connection"),
                Operation::Message(message("a.b", 7, b"\r\n")),
                Operation::Message(message("a.b", 7, b"")),
            ]
        );
        let Operation::Message(with_headers) = &operations[7] else { panic!("{operations:?}") };
        assert_eq!((with_headers.subject, with_headers.subscription, with_headers.payload), ("a", 8, &b"MSG"[..]));
        assert_eq!(with_headers.headers("A").collect::<Vec<_>>(), ["1", "2:3"]);
        assert_eq!(with_headers.headers("Gema-Change").collect::<Vec<_>>(), ["x%20y"]);
        assert_eq!(operations.len(), 9);
    }

    #[test]
    fn an_operation_waits_until_it_is_there_whole() {
        let mut ends = vec![0];
        while let Some((_, length)) = read(&SENT.as_bytes()[ends[ends.len() - 1]..]).unwrap() {
            ends.push(ends[ends.len() - 1] + length);
        }
        for pair in ends.windows(2) {
            for end in pair[0]..pair[1] {
                assert_eq!(read(&SENT.as_bytes()[pair[0]..end]).unwrap(), None, "{end}");
            }
        }
    }

    #[test]
    fn only_what_nats_sends_is_read() {
        for foreign in [
            "GET / HTTP/1.1\r\n",
            "\n",
            "PING\n",
            "MSG a 1\r\n",
            "MSG a b c d e\r\n",
            "MSG a x 2\r\n",
            "MSG a 1 -2\r\n",
            "MSG a 1 +2\r\nab\r\n",
            "MSG a +1 2\r\nab\r\n",
            "MSG a 1 99999999999\r\n",
            "MSG a 1 2\r\nabc\r\n",
            "HMSG a 1 5 3\r\n",
            "HMSG a 1 3 3\r\nabc\r\n",
        ] {
            assert!(read(foreign.as_bytes()).is_err(), "{foreign:?}");
        }
        assert!(read(&[b'a'; LINE_MAX]).is_err());
        assert!(read(b"\xff\r\n").is_err());
    }
}
