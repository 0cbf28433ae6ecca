//! Identities: Ed25519 secrets of nodes, clients and operators, and checked public keys.
//!
//! This room has no source of randomness: callers bring 32 bytes of it. Secrets are wiped when they
//! are dropped and never printed. A public key is refused here, where it is loaded, when it is not
//! the canonical encoding of a point, when its order is small, or when it has a torsion part: such
//! keys let different implementations, or different checks, disagree about a signature.

use std::fmt;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::ids::{PublicKey, parse_hex};

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a private key in PKCS#8 PEM form (BEGIN PRIVATE KEY) of the type Ed25519")]
    NotPkcs8,
    #[error("not 64 hexadecimal digits")]
    NotHex,
    #[error("not a point of the curve")]
    NotAPoint,
    #[error("the point is not encoded canonically")]
    NotCanonical,
    #[error("weak key: its order is small")]
    SmallOrder,
    #[error("weak key: it has a torsion part")]
    Torsion,
    #[error("the random bytes are all zero")]
    NoEntropy,
}

/// Decodes and checks a public key. Costs about 40 us.
pub fn check_public_key(key: &PublicKey) -> Result<VerifyingKey, KeyError> {
    let verifying = VerifyingKey::from_bytes(&key.0).map_err(|_| KeyError::NotAPoint)?;
    let point = verifying.to_edwards();
    if point.compress().0 != key.0 {
        return Err(KeyError::NotCanonical);
    }
    if point.is_small_order() {
        return Err(KeyError::SmallOrder);
    }
    if !point.is_torsion_free() {
        return Err(KeyError::Torsion);
    }
    Ok(verifying)
}

/// Reads a public key of 64 hexadecimal digits and checks it.
pub fn parse_public_key(text: &str) -> Result<PublicKey, KeyError> {
    let key = PublicKey(parse_hex(text).ok_or(KeyError::NotHex)?);
    check_public_key(&key)?;
    Ok(key)
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SigningKey);

        impl $name {
            /// Makes a secret of 32 bytes that nobody else knows.
            pub fn generate(entropy: &[u8; 32]) -> Result<$name, KeyError> {
                if entropy == &[0; 32] {
                    return Err(KeyError::NoEntropy);
                }
                $name::checked(SigningKey::from_bytes(entropy))
            }

            /// Reads the text of a key file.
            pub fn from_pem(text: &str) -> Result<$name, KeyError> {
                let key = SigningKey::from_pkcs8_pem(text).map_err(|_| KeyError::NotPkcs8)?;
                $name::checked(key)
            }

            /// The text of a key file; wiped when dropped.
            pub fn to_pem(&self) -> Zeroizing<String> {
                self.0
                    .to_pkcs8_pem(LineEnding::LF)
                    .expect("an Ed25519 key always encodes")
            }

            pub fn public_key(&self) -> PublicKey {
                PublicKey(self.0.verifying_key().to_bytes())
            }

            fn checked(key: SigningKey) -> Result<$name, KeyError> {
                check_public_key(&PublicKey(key.verifying_key().to_bytes()))?;
                Ok($name(key))
            }

            pub(crate) fn signing_key(&self) -> &SigningKey {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(of {})", stringify!($name), self.public_key())
            }
        }
    };
}

secret!(
    /// The secret of a replica.
    NodeSecret
);
secret!(
    /// The secret of a client.
    ClientSecret
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Order 1, 2, 4 and the four points of order 8, in canonical encoding.
    const SMALL_ORDER: [&str; 6] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];

    /// y = p, p + 1 and the identity with the sign bit: second encodings of points.
    const NOT_CANONICAL: [&str; 3] = [
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000080",
    ];

    #[test]
    fn weak_keys_are_refused() {
        for text in SMALL_ORDER {
            assert_eq!(parse_public_key(text), Err(KeyError::SmallOrder), "{text}");
        }
        for text in NOT_CANONICAL {
            let refused = parse_public_key(text).unwrap_err();
            assert!(
                matches!(refused, KeyError::NotCanonical | KeyError::NotAPoint),
                "{text}: {refused}"
            );
        }
        assert_eq!(
            parse_public_key(&format!("02{}", "00".repeat(31))),
            Err(KeyError::NotAPoint)
        );
        assert_eq!(parse_public_key("abc"), Err(KeyError::NotHex));
    }

    #[test]
    fn a_torsion_part_is_refused() {
        use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
        for torsion in &EIGHT_TORSION[1..] {
            let mixed = ED25519_BASEPOINT_POINT + torsion;
            let key = PublicKey(mixed.compress().0);
            assert_eq!(check_public_key(&key).unwrap_err(), KeyError::Torsion);
        }
        let base = PublicKey(ED25519_BASEPOINT_POINT.compress().0);
        assert!(check_public_key(&base).is_ok());
    }

    /// RFC 8032, section 7.1, test 1.
    #[test]
    fn known_key_pair() {
        let seed = parse_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let secret = NodeSecret::generate(&seed.unwrap()).unwrap();
        assert_eq!(
            format!("{:#}", secret.public_key()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    /// RFC 8410, section 10.3 (version 1, without the public key).
    #[test]
    fn known_key_file() {
        let text = "-----BEGIN PRIVATE KEY-----\n\
                    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                    -----END PRIVATE KEY-----\n";
        let secret = NodeSecret::from_pem(text).unwrap();
        assert_eq!(
            format!("{:#}", secret.public_key()),
            "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
        );
        let again = NodeSecret::from_pem(&secret.to_pem()).unwrap();
        assert_eq!(again.public_key(), secret.public_key());
        assert_eq!(
            ClientSecret::from_pem("nonsense").unwrap_err(),
            KeyError::NotPkcs8
        );
        assert_eq!(
            ClientSecret::generate(&[0; 32]).unwrap_err(),
            KeyError::NoEntropy
        );
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = ClientSecret::generate(&[7; 32]).unwrap();
        let shown = format!("{secret:?}");
        assert!(shown.len() < 60 && !shown.contains("07070707"), "{shown}");
    }
}
