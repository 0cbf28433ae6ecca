//! Keys of the examples, and an order to visit them in.

/// A full-period walk over `0..keys` that defeats the prefetcher.
pub fn scattered(step: u64, keys: u64) -> u64 {
    step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys
}

pub fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-............";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}
