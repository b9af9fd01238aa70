//! The certificate of the server, judged as a client would. The handshake goes on whatever the verdict is, so that
//! later steps can be tested.
//! `route` hands it to the TLS client.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::cli::doctor::cause::Cause;

/// A fault of a certificate: the cause, and what exactly it is.
pub(super) type CertificateFault = (Cause, String);

/// Judges certificates, refuses none, and keeps the last verdict.
pub(super) struct Judge {
    provider: Arc<CryptoProvider>,
    /// `None` if this machine trusts no authority.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    verdict: Mutex<Option<CertificateFault>>,
}

impl Judge {
    /// One that trusts the authorities of this system.
    pub(super) fn new() -> Arc<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok();
        Arc::new(Self { provider, verifier, verdict: Mutex::new(None) })
    }

    /// A TLS client that asks this judge.
    pub(super) fn client(self: &Arc<Self>) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_safe_default_protocol_versions()?.dangerous();
        let mut config = builder.with_custom_certificate_verifier(Arc::clone(self) as Arc<_>).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The fault of the last certificate, if it has one.
    pub(super) fn verdict(&self) -> Option<CertificateFault> {
        self.verdict.lock().clone()
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge(..)")
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = match &self.verifier {
            Some(verifier) => verifier.verify_server_cert(own, between, name, ocsp, now).map(|_| ()),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        *self.verdict.lock() = judged.err().map(|error| fault(&error, own, between, name));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn fault(
    error: &Error,
    own: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    name: &ServerName<'_>,
) -> CertificateFault {
    let certificate = Certificate::from_der(own).ok();
    let certificate = certificate.as_ref().map(Certificate::tbs_certificate);
    let shown = |time: x509_cert::time::Time| humantime::format_rfc3339_seconds(time.to_system_time()).to_string();
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            let end =
                certificate.map_or(String::new(), |own| format!("it ended at {}", shown(own.validity().not_after)));
            (Cause::CertificateExpired, end)
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            let begin =
                certificate.map_or(String::new(), |own| format!("it begins at {}", shown(own.validity().not_before)));
            (Cause::CertificateEarly, begin)
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            let detail = format!("it is for {}, not for {}", presented.join(", "), name.to_str());
            (Cause::CertificateName, detail)
        }
        Error::InvalidCertificate(CertificateError::NotValidForName) => {
            (Cause::CertificateName, format!("it is not for {}", name.to_str()))
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            let issuer = certificate.map(|own| own.issuer().to_string());
            let is_self_signed = certificate.is_some_and(|own| own.issuer() == own.subject());
            let detail = issuer.map_or(String::new(), |issuer| format!("it was issued by {issuer}"));
            match () {
                () if is_self_signed => (Cause::CertificateSelfSigned, String::new()),
                () if between.is_empty() => (Cause::CertificateChain, detail),
                () => (Cause::CertificateUntrusted, detail),
            }
        }
        // An authority of the same name is trusted, with another key.
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            (Cause::CertificateUntrusted, "an authority of the same name is trusted, but has another key".to_owned())
        }
        other => (Cause::TlsFailed, other.to_string()),
    }
}
