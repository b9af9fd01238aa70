//! The certificate of the main port: read from files, checked, and replaced while connections live on.

mod files;
mod kind;

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use crate::config::Tls;

/// Why a certificate cannot be used. Begins with the key of the file that is to blame.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The system does not give a file.
    #[error("{key}: {path} cannot be read: {cause}; name a PEM file that gema may read")]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A file is no PEM, or holds nothing of the wanted kind.
    #[error("{key}: {path} holds no {what}; it must be a PEM file with -----BEGIN {label}----- in it")]
    Missing {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// For people.
        what: &'static str,
        /// As in the file.
        label: &'static str,
    },
    /// The key needs a passphrase.
    #[error("tls.key_path: the key in {path} is encrypted, but tls.passphrase is empty; set it")]
    Passphrase {
        /// The file.
        path: String,
    },
    /// The key cannot be decrypted.
    #[error(
        "tls.passphrase does not open the key in {path}; correct it, or write the key anew with \
         openssl pkcs8 -topk8 -v2 aes-256-cbc -in {path} -out new.key"
    )]
    Locked {
        /// The file.
        path: String,
    },
    /// The key is of a kind that cannot be used.
    #[error(
        "tls.key_path: the key in {path} cannot be used, because it is {kind}; make an RSA key of 2048 to 8192 bits, an \
         ECDSA key on P-256 or P-384, or an Ed25519 key, with a certificate for it"
    )]
    Key {
        /// The file.
        path: String,
        /// What it holds, as far as that can be told.
        kind: String,
        /// Why.
        cause: rustls::Error,
    },
    /// The library or the system refuses something else.
    #[error("TLS cannot be started: {0}")]
    Library(#[from] rustls::Error),
    /// The certificate is broken, or not that of the key.
    #[error(
        "tls.cert_path: the first certificate in {path} is not that of the key in {key_path}: {cause}; name a pair"
    )]
    Pair {
        /// The certificate's file.
        path: String,
        /// The key's file.
        key_path: String,
        /// Why.
        cause: rustls::Error,
    },
}

/// Why the files cannot be used, each of them for itself.
pub fn faults(tls: &Tls) -> Vec<TlsError> {
    files::faults(tls)
}

/// The certificate that new connections get.
#[derive(Debug)]
pub struct Certificates(RwLock<Arc<CertifiedKey>>);

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// If a file cannot be read, holds nothing useful, or key and certificate are no pair.
    pub fn load(tls: &Tls) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(files::read(tls)?))))
    }

    /// Reads the files anew: whoever connects from now on gets what is in them. Connections that live go on.
    ///
    /// # Errors
    /// As with [`Certificates::load`]; the certificate is then the one before.
    pub fn reload(&self, tls: &Tls) -> Result<(), TlsError> {
        let read = Arc::new(files::read(tls)?);
        *self.0.write() = read;
        Ok(())
    }

    /// When the certificate ends, or one of its chain before it.
    pub fn ends(&self) -> Option<SystemTime> {
        files::ends(&self.0.read().cert)
    }

    /// What clients will dislike about the certificate now.
    pub fn warning(&self) -> Option<String> {
        files::warning(&self.0.read().cert, SystemTime::now())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

/// How the main port speaks TLS: 1.2 and 1.3, for HTTP/1.1.
pub fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who comes back after a break needs half of the handshake, whichever shard it was on before.
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}
