//! Pusher's signatures, made as a client library and an auth endpoint make them.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

/// Signs for one app.
#[derive(Clone)]
pub(crate) struct Signer {
    app_id: String,
    key: String,
    /// Set up once: a clone is cheaper than hashing the key for every request.
    keyed: Hmac<Sha256>,
}

impl Signer {
    /// A signer with the credentials of an app.
    pub(crate) fn new(app_id: &str, key: &str, secret: &str) -> Self {
        let keyed = Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        Self { app_id: app_id.to_owned(), key: key.to_owned(), keyed }
    }

    /// The app's public key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    fn mac(&self, text: &[u8]) -> String {
        hex(&self.keyed.clone().chain_update(text).finalize().into_bytes())
    }

    /// `key:signature` for a private or presence channel.
    pub(crate) fn channel(&self, socket_id: &str, channel: &str, data: Option<&str>) -> String {
        let text = match data {
            Some(data) => format!("{socket_id}:{channel}:{data}"),
            None => format!("{socket_id}:{channel}"),
        };
        format!("{}:{}", self.key, self.mac(text.as_bytes()))
    }

    /// Path and signed query of an API request; `path` starts behind the app's id.
    pub(crate) fn target(&self, method: &str, path: &str, body: &[u8]) -> String {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = format!("/apps/{}{path}", self.app_id);
        let mut query = format!("auth_key={}&auth_timestamp={seconds}&auth_version=1.0", self.key);
        if !body.is_empty() {
            query.push_str("&body_md5=");
            query.push_str(&hex(&Md5::digest(body)));
        }
        let signature = self.mac(format!("{method}\n{path}\n{query}").as_bytes());
        format!("{path}?{query}&auth_signature={signature}")
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
    }
    String::from_utf8(text).expect("hex digits are UTF-8")
}
