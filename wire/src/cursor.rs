//! Reading and writing of bodies whose length varies: little-endian, one encoding for one value.

use crate::ids::{Digest, Signature};
use crate::reject::Reject;

/// Reads fields from the front of a body of a peer.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Reject> {
        let (first, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Reject::BodyMalformed)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn u8(&mut self) -> Result<u8, Reject> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Reject> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Reject> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Reject> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn digest(&mut self) -> Result<Digest, Reject> {
        self.array().map(Digest)
    }

    pub fn signature(&mut self) -> Result<Signature, Reject> {
        self.array().map(Signature)
    }

    /// A flag: 0 or 1.
    pub fn flag(&mut self) -> Result<bool, Reject> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Reject::BodyMalformed),
        }
    }

    /// A count of items that follow, each of `bytes_each`; refused when it is larger than `most`
    /// or than the bytes that are there, so memory is never taken on a peer's word.
    pub fn count(&mut self, most: usize, bytes_each: usize) -> Result<usize, Reject> {
        let count = self.u32()? as usize;
        if count > most || count > self.rest.len() / bytes_each {
            return Err(Reject::BodyMalformed);
        }
        Ok(count)
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), Reject> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Reject::TrailingBytes)
        }
    }
}

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn put(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, number: u8) -> &mut Writer {
        self.put(&[number])
    }

    pub fn u16(&mut self, number: u16) -> &mut Writer {
        self.put(&number.to_le_bytes())
    }

    pub fn u32(&mut self, number: u32) -> &mut Writer {
        self.put(&number.to_le_bytes())
    }

    pub fn u64(&mut self, number: u64) -> &mut Writer {
        self.put(&number.to_le_bytes())
    }

    pub fn digest(&mut self, digest: &Digest) -> &mut Writer {
        self.put(&digest.0)
    }

    pub fn signature(&mut self, signature: &Signature) -> &mut Writer {
        self.put(&signature.0)
    }

    pub fn flag(&mut self, set: bool) -> &mut Writer {
        self.u8(u8::from(set))
    }

    pub fn count(&mut self, count: usize) -> &mut Writer {
        self.u32(count as u32)
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
