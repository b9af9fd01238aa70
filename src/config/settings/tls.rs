//! TLS on the main port.

use serde::{Deserialize, Serialize};

use crate::config::fault::FaultList;
use crate::config::settings::values::Secret;

/// TLS on the main port. With a certificate the port speaks nothing else; the metrics port stays plain.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the server's certificate, and after it those that lead to a known authority; empty for no TLS.
    pub cert_path: String,
    /// PEM file with the certificate's private key.
    pub key_path: String,
    /// Opens the key if it is encrypted; empty if it is not.
    pub passphrase: Secret,
    /// PEM file with the certificates of authorities, which complete a chain that `cert_path` leaves open. Clients
    /// are not asked for certificates.
    pub ca_path: String,
}

impl Tls {
    /// Whether the main port speaks TLS.
    pub fn is_enabled(&self) -> bool {
        !self.cert_path.is_empty()
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        let (cert, key) = (!self.cert_path.is_empty(), !self.key_path.is_empty());
        faults.add_if(cert && !key, "tls.cert_path", "needs tls.key_path; name the PEM file with its key there");
        faults.add_if(
            key && !cert,
            "tls.key_path",
            "needs tls.cert_path; name the PEM file with its certificate there",
        );
        faults.add_if(
            !self.ca_path.is_empty() && !cert && !key,
            "tls.ca_path",
            "is set without tls.cert_path; set both, or neither for no TLS",
        );
    }
}
