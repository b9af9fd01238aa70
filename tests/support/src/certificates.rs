//! Certificates and authorities of a test's own.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use gema::config::Tls;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;

use crate::process::program;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pub pem: String,
}

impl Authority {
    /// One that has signed itself.
    pub fn self_signed() -> Self {
        Self::self_signed_as("a root")
    }

    /// The same with another name.
    pub fn self_signed_as(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// One that this one has signed.
    pub fn intermediate(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = Self::params("between");
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// The files of a new certificate for `localhost` and its key.
    pub fn issue(&self) -> Tls {
        self.issue_until(2100)
    }

    /// The same with a certificate that ends with the beginning of this year.
    pub fn issue_until(&self, year: i32) -> Tls {
        self.issue_between(2000, year)
    }

    /// The same with a certificate for the time between the beginnings of these years.
    pub fn issue_between(&self, from: i32, until: i32) -> Tls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Tls { cert_path: file(&certificate.pem()), key_path: file(&key.serialize_pem()), ..Tls::default() }
    }

    /// A client's trust in this authority alone.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }

    /// A client with that trust.
    pub fn client(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }
}

/// A file with this in it.
pub fn file(text: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("certificates-{}-{}.pem", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = program().with_file_name("certificates").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
