//! The certificate of the main port: reads and checks its files, and replaces it while connections live on.
//! `server` loads it, and reloads it on SIGHUP; `gema check` reports its faults.

mod files;
mod key_kind;

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use crate::config::Fault;
use crate::config::Tls;

/// Why a certificate cannot be used. Each text begins with the setting of the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: {path} cannot be read: {cause}; name a PEM file that gema may read")]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// The error of the system.
        cause: std::io::Error,
    },
    /// A file is no PEM file, or holds nothing of the wanted kind.
    #[error("{key}: {path} holds no {what}; it must be a PEM file with -----BEGIN {label}----- in it")]
    Missing {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// The kind, in words.
        what: &'static str,
        /// The PEM label.
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
        /// The kind of the key, as far as it is known.
        kind: String,
        /// The cause.
        cause: rustls::Error,
    },
    /// TLS cannot be set up for another reason.
    #[error("TLS cannot be started: {0}")]
    Library(#[from] rustls::Error),
    /// The certificate is broken, or does not belong to the key.
    #[error(
        "tls.cert_path: the first certificate in {path} is not that of the key in {key_path}: {cause}; name a pair"
    )]
    Pair {
        /// The certificate's file.
        path: String,
        /// The key's file.
        key_path: String,
        /// The cause.
        cause: rustls::Error,
    },
}

impl TlsError {
    /// The configuration key that the text begins with.
    fn key(&self) -> &'static str {
        match self {
            Self::File { key, .. } | Self::Missing { key, .. } => key,
            Self::Passphrase { .. } | Self::Key { .. } => "tls.key_path",
            Self::Locked { .. } => "tls.passphrase",
            Self::Pair { .. } => "tls.cert_path",
            Self::Library(_) => "",
        }
    }
}

impl From<&TlsError> for Fault {
    fn from(error: &TlsError) -> Self {
        let (key, text) = (error.key(), error.to_string());
        Self::new(key, text[key.len()..].trim_start())
    }
}

/// The faults of each file.
pub fn faults(tls: &Tls) -> Vec<Fault> {
    files::faults(tls).iter().map(Fault::from).collect()
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

    /// Reads the files again. New connections get the new certificate; open ones go on.
    ///
    /// # Errors
    /// As with [`Certificates::load`]; the certificate is then the one before.
    pub fn reload(&self, tls: &Tls) -> Result<(), TlsError> {
        let read = Arc::new(files::read(tls)?);
        *self.0.write() = read;
        Ok(())
    }

    /// When the certificate expires, or the first one of its chain.
    pub fn expires_at(&self) -> Option<SystemTime> {
        files::expires_at(&self.0.read().cert)
    }

    /// Why clients reject the certificate now, if they do.
    pub fn warning(&self) -> Option<Fault> {
        files::warning(&self.0.read().cert, SystemTime::now())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

/// The TLS settings of the main port: 1.2 and 1.3, for HTTP/1.1.
pub fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets make a reconnect half as expensive, on any shard.
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}
