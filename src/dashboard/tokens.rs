//! The tokens: who has the right one, the cookie that stands for it, and how often an address may try.
//! `access` and `login` ask it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::config;
use crate::protocol::signature::Signer;
use crate::protocol::signature::is_same;

/// Wrong tokens of one address before it has to wait.
const ATTEMPTS_MAX: u32 = 5;
/// How long it has to wait.
const ATTEMPTS_PERIOD: Duration = Duration::from_secs(60);
/// Addresses whose attempts are counted; the next one takes the place of the one that began first.
const ADDRESSES_MAX: usize = 4096;

/// How long a cookie holds.
const COOKIE_SECONDS: u64 = 30 * 24 * 3600;

/// The rights of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Look.
    Reader,
    /// Also publish, disconnect, drain and change the log.
    Operator,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reader => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The token is right.
    Right(Role),
    /// It is wrong.
    Wrong,
    /// The address has to wait so long.
    TooMany(Duration),
}

/// The configured tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    /// The operator's first: with one token for both, nobody would be an operator.
    tokens: Vec<(Role, config::Secret)>,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

/// Wrong tokens of an address.
#[derive(Debug)]
struct Wrong {
    since: Instant,
    count: u32,
}

impl Tokens {
    pub(super) fn new(settings: &config::Dashboard) -> Self {
        let all = [(Role::Operator, settings.operator_token.clone()), (Role::Reader, settings.token.clone())];
        Self { tokens: all.into_iter().filter(|(_, token)| !token.is_empty()).collect(), wrong: Mutex::default() }
    }

    /// Tries a token from an address.
    pub(super) fn attempt(&self, token: &str, address: IpAddr, now: Instant) -> Attempt {
        if let Some(wait) = self.wait(address, now) {
            return Attempt::TooMany(wait);
        }
        // Compares with all, so that the time does not tell which one is nearly right.
        let right = self.tokens.iter().filter(|(_, known)| is_same(known.expose(), token.as_bytes()));
        match right.map(|(role, _)| *role).max() {
            Some(role) => Attempt::Right(role),
            None => {
                self.count_wrong(address, now);
                Attempt::Wrong
            }
        }
    }

    fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut wrong = self.wrong.lock();
        let key = network_of(address);
        let passed = now.saturating_duration_since(wrong.get(&key)?.since);
        if passed >= ATTEMPTS_PERIOD {
            wrong.remove(&key);
            return None;
        }
        (wrong[&key].count >= ATTEMPTS_MAX).then(|| ATTEMPTS_PERIOD - passed)
    }

    fn count_wrong(&self, address: IpAddr, now: Instant) {
        let mut wrong = self.wrong.lock();
        wrong.retain(|_, wrong| now.saturating_duration_since(wrong.since) < ATTEMPTS_PERIOD);
        let key = network_of(address);
        if wrong.len() >= ADDRESSES_MAX && !wrong.contains_key(&key) {
            let oldest = wrong.iter().min_by_key(|(_, wrong)| wrong.since).map(|(address, _)| *address);
            oldest.map(|oldest| wrong.remove(&oldest));
        }
        wrong.entry(key).or_insert(Wrong { since: now, count: 0 }).count += 1;
    }

    /// The value of the cookie for a role. It is made from the token, so it holds on each node with the same token and
    /// over restarts, and ends when the token changes, or after a month. `now` is in seconds since 1970.
    pub(super) fn cookie(&self, role: Role, now: u64) -> Option<String> {
        let (_, token) = self.tokens.iter().find(|(known, _)| *known == role)?;
        let end = (now + COOKIE_SECONDS).to_string();
        let signature = Signer::new(token.expose()).sign(&context(role, &end));
        Some(format!("{}.{end}.{signature}", role.name()))
    }

    /// The role that a cookie gives.
    pub(super) fn role_of_cookie(&self, cookie: &str, now: u64) -> Option<Role> {
        let (name, rest) = cookie.split_once('.')?;
        let (end, signature) = rest.split_once('.')?;
        let (role, token) = self.tokens.iter().find(|(role, _)| role.name() == name)?;
        let is_over = end.parse::<u64>().ok()? <= now;
        (!is_over && Signer::new(token.expose()).verify(&context(*role, end), signature)).then_some(*role)
    }
}

fn context(role: Role, end: &str) -> [&[u8]; 4] {
    [b"gema dashboard cookie 1 ", role.name().as_bytes(), b" ", end.as_bytes()]
}

/// The address by which somebody is counted: an IPv6 client has a whole network of 64 bits.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::config::Secret;

    const TOKEN: &str = "viewer-token-0123456789";
    const NOW: u64 = 1_764_500_000;
    const OPERATOR: &str = "operator-token-0123456789";

    fn tokens() -> Tokens {
        let (token, operator_token) = (Secret::new(TOKEN), Secret::new(OPERATOR));
        Tokens::new(&config::Dashboard { token, operator_token, payloads: false })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn each_token_gives_its_role() {
        let (tokens, now) = (tokens(), Instant::now());
        assert_eq!(tokens.attempt(TOKEN, address(1), now), Attempt::Right(Role::Reader));
        assert_eq!(tokens.attempt(OPERATOR, address(1), now), Attempt::Right(Role::Operator));
        for wrong in ["", "x", &TOKEN[1..], "viewer-token-0123456788"] {
            assert_eq!(tokens.attempt(wrong, address(2), now), Attempt::Wrong, "{wrong}");
        }
        let none = Tokens::new(&config::Dashboard::default());
        assert_eq!(none.attempt("", address(1), now), Attempt::Wrong);
    }

    #[test]
    fn after_five_wrong_ones_an_address_waits_for_a_minute() {
        let (tokens, now) = (tokens(), Instant::now());
        for _ in 0..5 {
            assert_eq!(tokens.attempt("wrong", address(1), now), Attempt::Wrong);
        }
        let later = now + Duration::from_secs(20);
        assert_eq!(tokens.attempt(TOKEN, address(1), later), Attempt::TooMany(Duration::from_secs(40)));
        assert_eq!(tokens.attempt(TOKEN, address(2), later), Attempt::Right(Role::Reader));
        assert_eq!(tokens.attempt(TOKEN, address(1), now + ATTEMPTS_PERIOD), Attempt::Right(Role::Reader));
    }

    #[test]
    fn attempts_are_counted_by_network_and_their_number_is_bounded() {
        let (tokens, now) = (tokens(), Instant::now());
        for host in 0..5_u16 {
            let address = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, host, 0, 0, 1));
            tokens.attempt("wrong", address, now);
        }
        let other = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 9, 9, 9, 9));
        assert!(matches!(tokens.attempt(TOKEN, other, now), Attempt::TooMany(_)));
        for number in 0..2 * ADDRESSES_MAX as u32 {
            tokens.attempt("wrong", IpAddr::from(number.to_be_bytes()), now);
        }
        assert_eq!(tokens.wrong.lock().len(), ADDRESSES_MAX);
        // Those whose attempts are many locked nobody else out.
        assert_eq!(tokens.attempt(TOKEN, address(1), now), Attempt::Right(Role::Reader));
    }

    #[test]
    fn a_cookie_holds_while_its_token_does_and_is_not_the_token() {
        let (one, same) = (tokens(), tokens());
        for role in [Role::Reader, Role::Operator] {
            let cookie = one.cookie(role, NOW).unwrap();
            assert_eq!(same.role_of_cookie(&cookie, NOW), Some(role));
            assert_eq!(same.role_of_cookie(&cookie, NOW + COOKIE_SECONDS - 1), Some(role));
            assert_eq!(same.role_of_cookie(&cookie, NOW + COOKIE_SECONDS), None);
            assert!(!cookie.contains(TOKEN) && !cookie.contains(OPERATOR));
        }
        let reader = one.cookie(Role::Reader, NOW).unwrap();
        let forged = reader.replace("viewer.", "operator.");
        let end = (NOW + COOKIE_SECONDS).to_string();
        let longer = reader.replace(&end, &format!("{end}0"));
        let endless = reader.replace(&format!("{end}."), "");
        let other = config::Dashboard { token: Secret::new("another-token-987654"), ..config::Dashboard::default() };
        assert_eq!(Tokens::new(&other).role_of_cookie(&reader, NOW), None);
        for cookie in [&*forged, &longer, &endless, "viewer.", "viewer", "", &reader[..reader.len() - 1]] {
            assert_eq!(one.role_of_cookie(cookie, NOW), None, "{cookie}");
        }
    }
}
