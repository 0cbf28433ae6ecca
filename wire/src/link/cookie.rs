//! The greeting between a client and a replica: HELLO, COOKIE, HELLO with the cookie, WELCOME.
//!
//! A replica keeps nothing of a stranger and does no public-key work for it before the stranger has
//! shown, by returning the cookie, that it receives at the address it sends from. A cookie is shorter
//! than every datagram that it answers, so nobody can be flooded through a replica.

use std::net::{IpAddr, SocketAddr};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{equal, truncate};
use crate::header::HEADER_BYTES;
use crate::ids::{Boot, Instant, PublicKey};
use crate::messages;
use crate::reject::Reject;

/// A cookie is good for one to two of these.
const PERIOD_NS: u64 = 10_000_000_000;

/// Body of HELLO. Its number stands in the header's `message` and is echoed as a reply's `number`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct HelloBody {
    /// Zero when the client has none.
    pub cookie: [u8; 16],
    /// So that a COOKIE is shorter than what it answers.
    padding: [u8; 32],
}

/// Body of COOKIE.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct CookieBody {
    pub cookie: [u8; 16],
}

/// Body of WELCOME; view and slot stand in its route.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct WelcomeBody {
    boot: U32,
    datagram_bytes: U32,
    reserved: [u8; 8],
}

/// A whole COOKIE datagram.
pub(super) const COOKIE_BYTES: usize = HEADER_BYTES + size_of::<CookieBody>();

const _: () = assert!(size_of::<HelloBody>() == 48);
const _: () = assert!(size_of::<WelcomeBody>() == 16);
const _: () = assert!(COOKIE_BYTES <= HEADER_BYTES + size_of::<HelloBody>());
const _: () = assert!(HEADER_BYTES + size_of::<WelcomeBody>() <= HEADER_BYTES + 48);

impl HelloBody {
    pub fn new(cookie: Option<[u8; 16]>) -> HelloBody {
        HelloBody {
            cookie: cookie.unwrap_or([0; 16]),
            padding: [0; 32],
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<&HelloBody, Reject> {
        let body: &HelloBody = messages::parse(bytes)?;
        if body.padding != [0; 32] {
            return Err(Reject::ReservedNotZero);
        }
        Ok(body)
    }
}

impl WelcomeBody {
    pub fn new(boot: Boot, datagram_bytes: usize) -> WelcomeBody {
        WelcomeBody {
            boot: U32::new(boot.0),
            datagram_bytes: U32::new(datagram_bytes as u32),
            reserved: [0; 8],
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<&WelcomeBody, Reject> {
        let body: &WelcomeBody = messages::parse(bytes)?;
        if body.reserved != [0; 8] {
            return Err(Reject::ReservedNotZero);
        }
        Ok(body)
    }

    pub fn boot(&self) -> Boot {
        Boot(self.boot.get())
    }

    pub fn datagram_bytes(&self) -> usize {
        self.datagram_bytes.get() as usize
    }
}

/// Makes and recognises cookies without keeping any.
pub(super) struct CookieJar {
    secret: [u8; 32],
}

impl CookieJar {
    pub fn new(secret: [u8; 32]) -> CookieJar {
        CookieJar { secret }
    }

    /// The cookie of this client at this address, now.
    pub fn make(&self, now: Instant, from: SocketAddr, client: &PublicKey) -> [u8; 16] {
        self.cookie(now.0 / PERIOD_NS, from, client)
    }

    /// Whether it was made here for them in this or the last period.
    pub fn recognise(
        &self,
        now: Instant,
        from: SocketAddr,
        client: &PublicKey,
        cookie: &[u8; 16],
    ) -> bool {
        let period = now.0 / PERIOD_NS;
        equal(&self.cookie(period, from, client), cookie)
            || period
                .checked_sub(1)
                .is_some_and(|last| equal(&self.cookie(last, from, client), cookie))
    }

    fn cookie(&self, period: u64, from: SocketAddr, client: &PublicKey) -> [u8; 16] {
        let address = match from.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&period.to_le_bytes());
        hasher.update(&address.octets());
        hasher.update(&from.port().to_le_bytes());
        hasher.update(&client.0);
        truncate(hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieJar")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_bound_to_address_client_secret_and_time() {
        let jar = CookieJar::new([1; 32]);
        let from: SocketAddr = "10.0.0.1:7".parse().unwrap();
        let client = PublicKey([2; 32]);
        let now = Instant(3 * PERIOD_NS - 1);
        let cookie = jar.make(now, from, &client);
        let good = |now, from, client, cookie| jar.recognise(now, from, &client, &cookie);
        assert!(good(now, from, client, cookie));
        assert!(good(now.after_ns(PERIOD_NS), from, client, cookie));
        assert!(!good(now.after_ns(PERIOD_NS + 1), from, client, cookie));
        assert!(!good(now, "10.0.0.1:8".parse().unwrap(), client, cookie));
        assert!(!good(now, "10.0.0.2:7".parse().unwrap(), client, cookie));
        assert!(!good(now, from, PublicKey([3; 32]), cookie));
        assert!(!good(Instant(0), from, client, [0; 16]));
        assert!(!CookieJar::new([2; 32]).recognise(now, from, &client, &cookie));
    }
}
