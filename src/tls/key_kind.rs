//! Describes the kind of a private key, for the error about one that cannot be used.
//! `files` calls it.

use pkcs8::PrivateKeyInfoRef;
use rustls::pki_types::PrivateKeyDer;
use x509_cert::der::Decode;
use x509_cert::der::Reader;
use x509_cert::der::SliceReader;
use x509_cert::der::Tag;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::asn1::UintRef;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// Curves by their identifiers.
const CURVES: [(ObjectIdentifier, &str); 4] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), "P-256"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), "P-384"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), "P-521"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "secp256k1"),
];
/// Other algorithms of OpenSSL's keys.
const ALGORITHMS: [(ObjectIdentifier, &str); 3] = [
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "an Ed448 key"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"), "an RSA-PSS key"),
    (ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"), "a DSA key"),
];

/// For example "an RSA key of 1024 bits"; `None` if it is not recognized.
pub(super) fn describe(key: &PrivateKeyDer<'_>) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => curve_of_sec1(key.secret_sec1_der()).map(on_curve),
        PrivateKeyDer::Pkcs8(key) => {
            let info = PrivateKeyInfoRef::from_der(key.secret_pkcs8_der()).ok()?;
            let algorithm = info.algorithm;
            match algorithm.oid {
                RSA => rsa(info.private_key.as_bytes()),
                EC => algorithm.parameters_oid().ok().map(on_curve),
                other => ALGORITHMS.iter().find(|(oid, _)| *oid == other).map(|(_, name)| (*name).to_owned()),
            }
        }
        _ => None,
    }
}

fn on_curve(curve: ObjectIdentifier) -> String {
    let known = CURVES.iter().find(|(oid, _)| *oid == curve).map(|(_, name)| (*name).to_owned());
    format!("an ECDSA key on the curve {}", known.unwrap_or_else(|| curve.to_string()))
}

/// An RSA key begins with its version and modulus.
fn rsa(der: &[u8]) -> Option<String> {
    let mut reader = SliceReader::new(inside(der)?).ok()?;
    let _version: UintRef<'_> = reader.decode().ok()?;
    let modulus: UintRef<'_> = reader.decode().ok()?;
    let first = modulus.as_bytes().first()?;
    let bits = modulus.as_bytes().len() * 8 - first.leading_zeros() as usize;
    Some(format!("an RSA key of {bits} bits"))
}

/// A SEC 1 key has a version, the key, and the curve with tag 0.
fn curve_of_sec1(der: &[u8]) -> Option<ObjectIdentifier> {
    let mut reader = SliceReader::new(inside(der)?).ok()?;
    let _version: AnyRef<'_> = reader.decode().ok()?;
    let _key: AnyRef<'_> = reader.decode().ok()?;
    let bracket: AnyRef<'_> = reader.decode().ok()?;
    ObjectIdentifier::from_der(bracket.value()).ok()
}

/// The contents of a sequence.
fn inside(der: &[u8]) -> Option<&[u8]> {
    let sequence = AnyRef::from_der(der).ok()?;
    (x509_cert::der::Tagged::tag(&sequence) == Tag::Sequence).then(|| sequence.value())
}
