//! Reads PEM files into a certificate with its chain and key.
//! `tls` calls it.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::SecretDocument;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::sign::SigningKey;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::Fault;
use crate::config::Tls;
use crate::tls::TlsError;
use crate::tls::key_kind;

const CERT_PATH: &str = "tls.cert_path";
const KEY_PATH: &str = "tls.key_path";
const CA_PATH: &str = "tls.ca_path";

const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// A line in keys that OpenSSL encrypted in its older format.
const ENCRYPTED_BY_OPENSSL: &str = "Proc-Type: 4,ENCRYPTED";

/// Reads certificate, chain and key, and checks that certificate and key belong together.
pub(super) fn read(tls: &Tls) -> Result<CertifiedKey, TlsError> {
    let mut chain = certificates(CERT_PATH, &tls.cert_path)?;
    if !tls.ca_path.is_empty() {
        complete(&mut chain, certificates(CA_PATH, &tls.ca_path)?);
    }
    let pair = CertifiedKey::new(chain, signing_key(tls)?);
    let (path, key_path) = (tls.cert_path.clone(), tls.key_path.clone());
    pair.keys_match().map_err(|cause| TlsError::Pair { path, key_path, cause })?;
    Ok(pair)
}

/// The faults of each file that is set; without any, the fault of all together.
pub(super) fn faults(tls: &Tls) -> Vec<TlsError> {
    let of = |path: &str, fault: &dyn Fn() -> Option<TlsError>| if path.is_empty() { None } else { fault() };
    let each = [
        of(&tls.cert_path, &|| certificates(CERT_PATH, &tls.cert_path).err()),
        of(&tls.key_path, &|| signing_key(tls).err()),
        of(&tls.ca_path, &|| certificates(CA_PATH, &tls.ca_path).err()),
    ];
    let mut faults: Vec<_> = each.into_iter().flatten().collect();
    if faults.is_empty() && !tls.cert_path.is_empty() && !tls.key_path.is_empty() {
        faults.extend(read(tls).err());
    }
    faults
}

/// Why the first certificate is not valid at this time.
pub(super) fn warning(chain: &[CertificateDer<'_>], now: SystemTime) -> Option<Fault> {
    let certificate = parsed(chain.first()?)?;
    let validity = certificate.tbs_certificate().validity();
    let (from, until) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
    let shown = humantime::format_rfc3339_seconds;
    if now > until {
        let until = shown(until);
        let text = format!(": the certificate ended at {until}; clients refuse it, so renew it");
        return Some(Fault::new(CERT_PATH, text));
    }
    (now < from).then(|| {
        let from = shown(from);
        let text = format!(": the certificate begins at {from}; clients refuse it until then, so check the clock");
        Fault::new(CERT_PATH, text)
    })
}

/// When the first certificate of a chain expires.
pub(super) fn expires_at(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let ends = chain
        .iter()
        .filter_map(|certificate| Some(parsed(certificate)?.tbs_certificate().validity().not_after.to_system_time()));
    ends.min()
}

fn parsed(certificate: &CertificateDer<'_>) -> Option<Certificate> {
    Certificate::from_der(certificate).ok()
}

fn text(key: &'static str, path: &str) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|cause| TlsError::File { key, path: path.to_owned(), cause })
}

fn certificates(key: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = text(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Missing {
        key,
        path: path.to_owned(),
        what: "readable certificate",
        label: "CERTIFICATE",
    })
}

/// Appends the issuer of the last certificate, then its issuer, and so on. Self-signed ones are left out: clients trust
/// only their own copy of them.
fn complete(chain: &mut Vec<CertificateDer<'static>>, authorities: Vec<CertificateDer<'static>>) {
    let mut authorities: Vec<_> = authorities.into_iter().filter_map(|der| Some((parsed(&der)?, der))).collect();
    authorities.retain(|(authority, _)| !is_self_signed(authority));
    while let Some(last) = chain.last().and_then(parsed) {
        let issuer = last.tbs_certificate().issuer();
        let Some(at) = authorities.iter().position(|(authority, _)| authority.tbs_certificate().subject() == issuer)
        else {
            return;
        };
        // Each is used once, so that a circle of authorities ends.
        chain.push(authorities.swap_remove(at).1);
    }
}

fn is_self_signed(certificate: &Certificate) -> bool {
    certificate.tbs_certificate().subject() == certificate.tbs_certificate().issuer()
}

fn signing_key(tls: &Tls) -> Result<Arc<dyn SigningKey>, TlsError> {
    let path = tls.key_path.clone();
    let key = private_key(tls)?;
    ring::sign::any_supported_type(&key).map_err(|cause| {
        let kind = key_kind::describe(&key).unwrap_or_else(|| format!("of a kind that gema does not know ({cause})"));
        TlsError::Key { path, kind, cause }
    })
}

fn private_key(tls: &Tls) -> Result<PrivateKeyDer<'static>, TlsError> {
    let path = &tls.key_path;
    let text = text(KEY_PATH, path)?;
    let readable = String::from_utf8_lossy(&text);
    let begin = readable.find(ENCRYPTED_BEGIN);
    let is_encrypted = begin.is_some() || readable.contains(ENCRYPTED_BY_OPENSSL);
    if is_encrypted && tls.passphrase.is_empty() {
        return Err(TlsError::Passphrase { path: path.clone() });
    }
    if is_encrypted {
        let opened = begin.and_then(|begin| decrypted(&readable[begin..], tls.passphrase.expose()));
        return opened.ok_or_else(|| TlsError::Locked { path: path.clone() });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::Missing {
        key: KEY_PATH,
        path: path.clone(),
        what: "readable private key",
        label: "PRIVATE KEY",
    })
}

/// Decrypts the PKCS #8 section at the beginning of a text.
fn decrypted(text: &str, passphrase: &[u8]) -> Option<PrivateKeyDer<'static>> {
    let end = text.find(ENCRYPTED_END)? + ENCRYPTED_END.len();
    let (_, encrypted) = SecretDocument::from_pem(&text[..end]).ok()?;
    let info = EncryptedPrivateKeyInfoRef::try_from(encrypted.as_bytes()).ok()?;
    let key = info.decrypt(passphrase).ok()?;
    Some(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}
