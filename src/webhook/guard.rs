//! Keeps webhooks away from private addresses, whatever a name resolves to.
//! `client` uses it unless `webhooks.allow_private_addresses` is true.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use reqwest::dns::Addrs;
use reqwest::dns::Name;
use reqwest::dns::Resolve;
use reqwest::dns::Resolving;

/// Networks without public servers (IANA's special-purpose registries).
static PRIVATE: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let networks = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        // All of IPv6 except global addresses, and of these the ones that wrap others.
        "::/3",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "4000::/2",
        "8000::/1",
    ];
    networks.iter().filter_map(|network| network.parse().ok()).collect()
});

/// The endpoint has a private address.
#[derive(Debug, thiserror::Error)]
#[error("its address is private, and webhooks.allow_private_addresses is false")]
pub(super) struct PrivateAddress;

/// Whether an address is public.
pub(super) fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !PRIVATE.iter().any(|network| network.contains(&address))
}

/// Resolves names to their public addresses.
#[derive(Debug)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            match public.is_empty() {
                true => Err(PrivateAddress.into()),
                false => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_private_address_is_public_however_it_is_written() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        assert_eq!(PRIVATE.len(), 19);
    }
}
