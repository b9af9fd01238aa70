//! The origins of pages that an app allows.
//! `apps` checks them, and `row` leaves wrong ones out.

use crate::config::fault::Fault;

/// Why no page comes from this origin.
pub(in crate::config) fn fault(place: &str, origin: &str) -> Option<Fault> {
    // With a scheme or without, as browsers send it or as people know it. Pages in a phone's app have no host.
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || "/?#@,\"'".contains(letter);
    let is_odd = host.is_empty() || origin.contains(char::is_whitespace) || host.contains(odd);
    (is_odd && !origin.eq_ignore_ascii_case("file://")).then(|| {
        let text = format!(
            "has {origin:?}, from which no page comes; an origin is as in example.com, \
             *.example.com or https://example.com:8443, without spaces, a slash at the end and a path"
        );
        Fault::new(format!("{place}.allowed_origins"), text)
    })
}

/// Takes away the origins that no page comes from; returns a sentence for each. A list of nothing else becomes one that
/// nobody is on: without a list everybody might come in.
pub(in crate::config) fn drop_odd(place: &str, origins: &mut Vec<String>) -> Vec<Fault> {
    let mut warnings = Vec::new();
    origins.retain(|origin| {
        let fault = fault(place, origin);
        let is_good = fault.is_none();
        warnings.extend(fault.map(|fault| Fault { text: format!("{}; it is left out", fault.text), ..fault }));
        is_good
    });
    warnings
}
