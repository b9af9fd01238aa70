//! The negotiation of `permessage-deflate` (RFC 7692, 7.1): reads a client's offers and chooses one.
//! `http::upgrade` calls it.

use std::borrow::Cow;

/// The name of the extension.
const NAME: &str = "permessage-deflate";
/// The answer to most offers. Without context takeover a frame is the same for every client.
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The answer to an offer that limits the server's window to its largest size.
const ANSWER_WITH_WINDOW: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

/// The answer to the values of `Sec-WebSocket-Extensions`, which is the answer to the first acceptable offer in them.
/// `None` if there is none. A list that breaks the grammar offers nothing.
///
/// ```
/// use gema::protocol::extension::negotiate;
/// let browser = ["permessage-deflate; client_max_window_bits"];
/// let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// assert_eq!(negotiate(browser), Some(answer));
/// assert_eq!(negotiate(["permessage-deflate; server_max_window_bits=10, permessage-deflate"]), Some(answer));
/// assert_eq!(negotiate(["permessage-deflate; server_max_window_bits=10"]), None);
/// ```
pub fn negotiate<'a>(lists: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    lists.into_iter().filter_map(offers).flatten().find_map(|offer| accept(&offer))
}

/// One offered extension.
#[derive(Debug)]
struct Offer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

/// The answer to an offer, or `None` to decline it. The server compresses with a window of 15 bits always, so it
/// declines smaller ones. It reads every window, so a client may use any.
fn accept(offer: &Offer<'_>) -> Option<&'static str> {
    if offer.name != NAME {
        return None;
    }
    let mut answer = ANSWER;
    for (at, (name, value)) in offer.parameters.iter().enumerate() {
        match (*name, value.as_deref()) {
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => (),
            ("client_max_window_bits", Some(bits)) if is_window(bits) => (),
            ("server_max_window_bits", Some("15")) => answer = ANSWER_WITH_WINDOW,
            _ => return None,
        }
        // There are four names, so the list before a repetition is short.
        if offer.parameters[..at].iter().any(|(before, _)| before == name) {
            return None;
        }
    }
    Some(answer)
}

/// Whether a value is a number of bits from 8 to 15, without leading zeros.
fn is_window(bits: &str) -> bool {
    matches!(bits, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

/// The offers of one header, or `None` if it breaks the grammar (RFC 6455, 9.1).
fn offers(list: &str) -> Option<Vec<Offer<'_>>> {
    let mut scanner = Scanner(list);
    let mut offers = Vec::new();
    loop {
        // Empty elements of a list are ignored (RFC 9110, 5.6.1.2).
        while scanner.take(',') {}
        if scanner.0.is_empty() {
            return Some(offers);
        }
        let mut offer = Offer { name: scanner.token()?, parameters: Vec::new() };
        while scanner.take(';') {
            let name = scanner.token()?;
            let value = if scanner.take('=') { Some(scanner.value()?) } else { None };
            offer.parameters.push((name, value));
        }
        offers.push(offer);
        if !(scanner.0.is_empty() || scanner.0.starts_with(',')) {
            return None;
        }
    }
}

/// The rest of a header.
struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    /// Takes a separator with the white space around it.
    fn take(&mut self, separator: char) -> bool {
        self.skip_space();
        let rest = self.0.strip_prefix(separator);
        self.0 = rest.unwrap_or(self.0);
        self.skip_space();
        rest.is_some()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A token, or a quoted string that holds one.
    fn value(&mut self) -> Option<Cow<'a, str>> {
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token().map(Cow::Borrowed) };
        let mut text = String::new();
        let mut characters = quoted.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => text.push(characters.next()?),
                other => text.push(other),
            }
        }
        self.0 = characters.as_str();
        (!text.is_empty() && text.bytes().all(is_token_byte)).then_some(Cow::Owned(text))
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_accepted_with_every_parameter_that_can_be_honoured() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate;client_max_window_bits=\"15\"",
            "permessage-deflate; client_max_window_bits=\"1\\0\"",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover ;\tserver_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
            "permessage-deflate; unknown, permessage-deflate; client_max_window_bits",
            ", ,permessage-deflate,",
            "other; a=\"b\"; c=d,  permessage-deflate  ",
        ] {
            assert_eq!(negotiate([offer]), Some(ANSWER), "{offer}");
        }
        for offer in
            ["permessage-deflate; server_max_window_bits=15", "permessage-deflate;server_max_window_bits=\"15\""]
        {
            assert_eq!(negotiate([offer]), Some(ANSWER_WITH_WINDOW), "{offer}");
        }
        assert_eq!(negotiate(["other", "permessage-deflate"]), Some(ANSWER));
        assert_eq!(negotiate(["broken;", "permessage-deflate"]), Some(ANSWER));
    }

    #[test]
    fn an_offer_is_declined_for_one_parameter_that_cannot_be_honoured() {
        for offer in [
            "",
            ",",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=14",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=015",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=\"\\\"\"",
            "permessage-bzip2",
            "Permessage-Deflate",
        ] {
            assert_eq!(negotiate([offer]), None, "{offer}");
        }
    }

    #[test]
    fn a_list_that_breaks_the_grammar_offers_nothing() {
        for list in [
            "permessage-deflate;",
            "permessage-deflate; =15",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"15",
            "permessage-deflate; client_max_window_bits=\"\"",
            "permessage-deflate; client_max_window_bits=\"1 5\"",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate, (",
            "permessage-deflate, other; a=\"b\" c",
        ] {
            assert_eq!(negotiate([list]), None, "{list}");
        }
    }
}
