//! Signatures: HMAC-SHA256 in lower-case hex (Pusher protocol, "Authentication").
//! Requests, subscriptions and webhooks are signed and verified here only, in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Signs and verifies with one secret. The key is set up once, for speed.
#[derive(Clone)]
pub struct Signer(Hmac<Sha256>);

impl Signer {
    /// A signer for `secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// The signature of `parts`, one after the other, as 64 lower-case hex digits.
    ///
    /// ```
    /// use gema::protocol::signature::Signer;
    /// let signer = Signer::new(b"7ad3773142a6692b25b8");
    /// assert_eq!(
    ///     signer.sign(&[b"1234.1234:private-foobar"]),
    ///     "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
    /// );
    /// ```
    pub fn sign(&self, parts: &[&[u8]]) -> String {
        hex(&self.mac(parts).finalize().into_bytes())
    }

    /// Whether `signature` is the one of `parts`. Takes equally long for every wrong signature of valid form.
    pub fn verify(&self, parts: &[&[u8]], signature: &str) -> bool {
        unhex(signature).is_some_and(|bytes| self.mac(parts).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(..)")
    }
}

/// Whether two secrets are the same. Takes equally long for every wrong one of a length.
///
/// ```
/// use gema::protocol::signature::is_same;
/// assert!(is_same(b"hush", b"hush") && !is_same(b"hush", b"hash"));
/// ```
pub fn is_same(secret: &[u8], other: &[u8]) -> bool {
    let signer = Signer::new(&rand::random::<[u8; 32]>());
    signer.verify(&[other], &signer.sign(&[secret]))
}

/// MD5 of a request body in lower-case hex, as `body_md5` carries it.
pub fn body_md5(body: &[u8]) -> String {
    use md5::Digest;
    hex(&md5::Md5::digest(body))
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Bytes as lower-case hex.
fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The value of each byte as a lower-case hex digit; 16 and more for other bytes. A table, since digits are random and
/// branches would be mispredicted.
const VALUES: [u8; 256] = {
    let mut values = [16; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// 64 lower-case hex digits as bytes; anything else is not a signature.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut invalid = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| VALUES[usize::from(digit)]);
        *byte = high << 4 | low & 15;
        invalid |= high | low;
    }
    (invalid < 16).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_hex_digits_are_a_signature() {
        let signer = Signer::new(b"secret");
        let good = signer.sign(&[b"a", b"b"]);
        assert!(signer.verify(&[b"ab"], &good));
        let strange = |digit: &str| format!("{}{digit}", &good[..63]);
        let short = [good[..63].to_owned(), format!("{good}0"), String::new()];
        let strange = ["g", "G", "/", ":", "`", "\0", "\u{7f}"].map(strange);
        for bad in [good.to_uppercase()].into_iter().chain(short).chain(strange) {
            assert!(!signer.verify(&[b"ab"], &bad), "{bad}");
        }
    }
}
