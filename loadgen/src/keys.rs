//! Which key a transaction touches, and what a put writes.

use crate::random::Random;
use crate::units::KeyDistribution;

/// Bytes of every key: `key-` and twelve digits.
pub const KEY_BYTES: usize = 16;

/// Writes the key of `index`.
pub fn key(index: u64) -> [u8; KEY_BYTES] {
    let mut bytes = *b"key-000000000000";
    let mut rest = index;
    for digit in bytes[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    bytes
}

/// Draws key indices in `0..keys`.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: u64,
    zipf: Option<Zipf>,
}

/// Zipf by the method of Gray et al., "Quickly generating billion-record synthetic databases"
/// (SIGMOD 1994), which YCSB uses: one random number per draw, no table. It holds for exponents
/// below 1; above, rejection-inversion of Hörmann and Derflinger (1996) takes over.
#[derive(Clone, Debug)]
enum Zipf {
    Gray {
        theta: f64,
        alpha: f64,
        eta: f64,
        zeta: f64,
    },
    Rejection {
        exponent: f64,
        /// H(1.5) - 1 and H(keys + 0.5).
        high: f64,
        low: f64,
        shift: f64,
    },
}

impl Keys {
    pub fn new(keys: u64, distribution: KeyDistribution) -> Keys {
        assert!(keys > 0);
        let zipf = match distribution {
            KeyDistribution::Uniform => None,
            KeyDistribution::Zipf(theta) if theta < 1.0 => {
                let zeta = zeta(keys, theta);
                let eta =
                    (1.0 - (2.0 / keys as f64).powf(1.0 - theta)) / (1.0 - zeta_two(theta) / zeta);
                Some(Zipf::Gray {
                    theta,
                    alpha: 1.0 / (1.0 - theta),
                    eta,
                    zeta,
                })
            }
            KeyDistribution::Zipf(exponent) => {
                let low = integral(1.5, exponent) - 1.0;
                let high = integral(keys as f64 + 0.5, exponent);
                let shift = 2.0 - inverse(integral(2.5, exponent) - 2f64.powf(-exponent), exponent);
                Some(Zipf::Rejection {
                    exponent,
                    high,
                    low,
                    shift,
                })
            }
        };
        Keys { keys, zipf }
    }

    /// How many keys there are.
    pub fn count(&self) -> u64 {
        self.keys
    }

    /// The next key's index. Zipf's popular ranks are spread over the key space by a fixed
    /// permutation-like hash, so that neighbours are not all hot.
    pub fn draw(&self, random: &mut Random) -> u64 {
        match &self.zipf {
            None => random.below(self.keys),
            Some(zipf) => scatter(self.rank(zipf, random)) % self.keys,
        }
    }

    /// A rank in `0..keys`, 0 the most popular.
    fn rank(&self, zipf: &Zipf, random: &mut Random) -> u64 {
        match *zipf {
            Zipf::Gray {
                theta,
                alpha,
                eta,
                zeta,
            } => {
                let u = random.unit();
                let uz = u * zeta;
                if uz < 1.0 {
                    return 0;
                }
                if uz < 1.0 + 0.5f64.powf(theta) {
                    return 1.min(self.keys - 1);
                }
                let rank = self.keys as f64 * (eta * u - eta + 1.0).powf(alpha);
                (rank as u64).min(self.keys - 1)
            }
            Zipf::Rejection {
                exponent,
                high,
                low,
                shift,
            } => loop {
                let u = high + random.unit() * (low - high);
                let x = inverse(u, exponent);
                let k = x.round().clamp(1.0, self.keys as f64);
                if k - x <= shift || u >= integral(k + 0.5, exponent) - k.powf(-exponent) {
                    return k as u64 - 1;
                }
            },
        }
    }
}

/// Sum of 1 / i^theta for i in 1..=keys; the tail beyond a million terms by Euler-Maclaurin.
fn zeta(keys: u64, theta: f64) -> f64 {
    let exact = keys.min(1_000_000);
    let mut sum: f64 = (1..=exact).map(|i| (i as f64).powf(-theta)).sum();
    if keys > exact {
        let (a, b) = (exact as f64, keys as f64);
        sum += (b.powf(1.0 - theta) - a.powf(1.0 - theta)) / (1.0 - theta)
            + (b.powf(-theta) - a.powf(-theta)) / 2.0;
    }
    sum
}

fn zeta_two(theta: f64) -> f64 {
    1.0 + 0.5f64.powf(theta)
}

/// Integral of x^-exponent.
fn integral(x: f64, exponent: f64) -> f64 {
    let log = x.ln();
    let scaled = (1.0 - exponent) * log;
    if scaled.abs() < 1e-8 {
        log * (1.0 + scaled / 2.0)
    } else {
        scaled.exp_m1() / (1.0 - exponent)
    }
}

fn inverse(y: f64, exponent: f64) -> f64 {
    let t = (y * (1.0 - exponent)).max(-1.0);
    if t.abs() < 1e-8 {
        (y * (1.0 - t / 2.0)).exp()
    } else {
        (t.ln_1p() / (1.0 - exponent)).exp()
    }
}

fn scatter(rank: u64) -> u64 {
    let z = (rank ^ (rank >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What puts write: a window that slides over fixed random bytes, so that values differ, cost
/// nothing to make and do not compress. The first eight bytes are the operation's number.
#[derive(Clone, Debug)]
pub struct Values {
    pool: Vec<u8>,
    value_bytes: usize,
    scratch: Vec<u8>,
}

impl Values {
    pub fn new(value_bytes: usize, seed: u64) -> Values {
        let mut pool = vec![0; value_bytes + 4096];
        Random::new(seed).fill(&mut pool);
        Values {
            pool,
            value_bytes,
            scratch: vec![0; value_bytes],
        }
    }

    /// The value that operation `number` writes.
    pub fn value(&mut self, number: u64) -> &[u8] {
        let from = (number % 4096) as usize;
        self.scratch
            .copy_from_slice(&self.pool[from..from + self.value_bytes]);
        let stamp = number.to_le_bytes();
        let stamped = stamp.len().min(self.value_bytes);
        self.scratch[..stamped].copy_from_slice(&stamp[..stamped]);
        &self.scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws ranks and compares the first ones with their exact probabilities.
    fn check_zipf(exponent: f64, keys: u64) {
        let draws = 200_000;
        let source = Keys::new(keys, KeyDistribution::Zipf(exponent));
        let zipf = source.zipf.clone().unwrap();
        let mut random = Random::new(11);
        let mut counts = vec![0u64; keys as usize];
        for _ in 0..draws {
            counts[source.rank(&zipf, &mut random) as usize] += 1;
        }
        let sum: f64 = (1..=keys).map(|i| (i as f64).powf(-exponent)).sum();
        for rank in [0usize, 1] {
            let expected = ((rank + 1) as f64).powf(-exponent) / sum;
            let seen = counts[rank] as f64 / draws as f64;
            assert!(
                (seen / expected - 1.0).abs() < 0.05,
                "exponent {exponent} rank {rank}: {seen} instead of {expected}"
            );
        }
        // The method of Gray et al. is approximate in the middle: the upper tenth as a whole.
        let tenth = (keys / 10) as usize;
        let expected: f64 = (1..=tenth).map(|i| (i as f64).powf(-exponent)).sum::<f64>() / sum;
        let seen = counts[..tenth].iter().sum::<u64>() as f64 / draws as f64;
        assert!(
            (seen - expected).abs() < 0.02,
            "{exponent}: {seen} instead of {expected}"
        );
    }

    #[test]
    fn zipf_has_the_right_shape() {
        check_zipf(0.5, 1000);
        check_zipf(0.99, 1000);
        check_zipf(1.0, 1000);
        check_zipf(1.5, 1000);
    }

    #[test]
    fn draws_stay_in_range() {
        for distribution in [
            KeyDistribution::Uniform,
            KeyDistribution::Zipf(0.99),
            KeyDistribution::Zipf(2.0),
        ] {
            for keys in [1, 2, 3, 1000] {
                let source = Keys::new(keys, distribution);
                let mut random = Random::new(5);
                assert!((0..1000).all(|_| source.draw(&mut random) < keys));
            }
        }
    }

    #[test]
    fn keys_are_sixteen_bytes_in_order() {
        assert_eq!(&key(0), b"key-000000000000");
        assert_eq!(&key(1234), b"key-000000001234");
        assert!(key(9) < key(10));
    }

    #[test]
    fn values_differ_and_have_their_size() {
        for bytes in [0, 5, 128] {
            let mut values = Values::new(bytes, 1);
            let first = values.value(1).to_vec();
            assert_eq!(first.len(), bytes);
            if bytes > 0 {
                assert_ne!(first, values.value(2));
                assert_eq!(first, values.value(1));
            }
        }
    }
}
