//! The core, its inputs and its effects as bytes: what a flight recording is made of.
//!
//! An image is exact: a core that is taken from one answers every later input as the core did of
//! which it was made. It is a format of one build, not of the protocol: a recording names its
//! version, and is read by the tool of the same build. Signatures inside are checked again when an
//! image is read, since [`Verified`] has no other way in; keys that sign are never in it.
//!
//! A structure says its fields once, next to where it is declared: a new field that is forgotten
//! does not compile.

mod core;
mod input;
mod wires;

use std::collections::VecDeque;
use std::sync::Arc;

use wire::seal::{Compound, Rules, Verifier};

/// Where an image goes.
pub trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A digest of what is put, eight bytes at a time; finds changes, not forgeries. About a
/// nanosecond for eight bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fold(u64);

impl Default for Fold {
    fn default() -> Fold {
        Fold(0x9e37_79b9_7f4a_7c15)
    }
}

impl Fold {
    pub fn finish(self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

impl Sink for Fold {
    fn put(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            self.0 = mixed ^ mixed >> 32;
        }
    }
}

/// Bytes that are no image, or hold a signature that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadImage;

impl std::fmt::Display for BadImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes that this build cannot read as recorded state")
    }
}

impl std::error::Error for BadImage {}

/// What is left of an image, and the judge of the signatures in it.
pub struct Source<'a, V> {
    bytes: &'a [u8],
    pub(crate) judge: &'a mut Compound<V>,
}

/// Judges what images hold.
pub fn judge<V: Verifier>(verifier: V, rules: Rules) -> Compound<V> {
    Compound::new(verifier, rules)
}

impl<'a, V: Verifier> Source<'a, V> {
    pub fn new(bytes: &'a [u8], judge: &'a mut Compound<V>) -> Source<'a, V> {
        Source { bytes, judge }
    }

    /// Takes so many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadImage> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(BadImage)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Everything was taken.
    pub fn end(&self) -> Result<(), BadImage> {
        self.bytes.is_empty().then_some(()).ok_or(BadImage)
    }
}

/// A value that can be put into an image and taken out again.
pub trait Image: Sized {
    fn put<K: Sink>(&self, sink: &mut K);

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage>;
}

/// The fields of a structure, end to end.
macro_rules! image {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::image::Image for $name {
            fn put<K: $crate::image::Sink>(&self, sink: &mut K) {
                let $name { $($field),* } = self;
                $($crate::image::Image::put($field, sink);)*
            }

            fn take<V: wire::seal::Verifier>(
                from: &mut $crate::image::Source<'_, V>,
            ) -> Result<Self, $crate::image::BadImage> {
                $(let $field = $crate::image::Image::take(from)?;)*
                Ok($name { $($field),* })
            }
        }
    };
}
pub(crate) use image;

/// The variants of an enumeration, each under a number.
macro_rules! image_enum {
    ($name:ident { $($tag:literal => $variant:ident
        $(( $($inner:ident),* ))? $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl $crate::image::Image for $name {
            fn put<K: $crate::image::Sink>(&self, sink: &mut K) {
                match self {
                    $($name::$variant $(( $($inner),* ))? $({ $($field),* })? => {
                        sink.put(&[$tag]);
                        $($($crate::image::Image::put($inner, sink);)*)?
                        $($($crate::image::Image::put($field, sink);)*)?
                    })*
                }
            }

            fn take<V: wire::seal::Verifier>(
                from: &mut $crate::image::Source<'_, V>,
            ) -> Result<Self, $crate::image::BadImage> {
                Ok(match from.bytes(1)?[0] {
                    $($tag => {
                        $($(let $inner = $crate::image::Image::take(from)?;)*)?
                        $($(let $field = $crate::image::Image::take(from)?;)*)?
                        $name::$variant $(( $($inner),* ))? $({ $($field),* })?
                    })*
                    _ => return Err($crate::image::BadImage),
                })
            }
        }
    };
}
pub(crate) use image_enum;

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl Image for $number {
            fn put<K: Sink>(&self, sink: &mut K) {
                sink.put(&self.to_le_bytes());
            }

            fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
                let bytes = from.bytes(size_of::<$number>())?;
                Ok(<$number>::from_le_bytes(bytes.try_into().map_err(|_| BadImage)?))
            }
        }
    )* };
}
numbers!(u8, u16, u32, u64);

impl Image for usize {
    fn put<K: Sink>(&self, sink: &mut K) {
        (*self as u64).put(sink);
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        usize::try_from(u64::take(from)?).map_err(|_| BadImage)
    }
}

impl Image for bool {
    fn put<K: Sink>(&self, sink: &mut K) {
        sink.put(&[u8::from(*self)]);
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        match from.bytes(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadImage),
        }
    }
}

impl<T: Image> Image for Option<T> {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.is_some().put(sink);
        if let Some(value) = self {
            value.put(sink);
        }
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        bool::take(from)?.then(|| T::take(from)).transpose()
    }
}

impl<T: Image> Image for Box<T> {
    fn put<K: Sink>(&self, sink: &mut K) {
        (**self).put(sink);
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        T::take(from).map(Box::new)
    }
}

impl<T: Image> Image for Arc<T> {
    fn put<K: Sink>(&self, sink: &mut K) {
        (**self).put(sink);
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        T::take(from).map(Arc::new)
    }
}

impl<T: Image> Image for Vec<T> {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.len().put(sink);
        self.iter().for_each(|item| item.put(sink));
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        let count = usize::take(from)?;
        // Each item has a byte at least: a false count ends where the bytes end.
        (0..count).map(|_| T::take(from)).collect()
    }
}

impl<T: Image> Image for VecDeque<T> {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.len().put(sink);
        self.iter().for_each(|item| item.put(sink));
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        Vec::take(from).map(VecDeque::from)
    }
}

impl<T: Image, const N: usize> Image for [T; N] {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.iter().for_each(|item| item.put(sink));
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        let items = (0..N).map(|_| T::take(from));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        items.try_into().map_err(|_| BadImage)
    }
}

macro_rules! tuples {
    ($(($($part:ident),*))*) => { $(
        #[allow(non_snake_case)]
        impl<$($part: Image),*> Image for ($($part,)*) {
            fn put<K: Sink>(&self, sink: &mut K) {
                let ($($part,)*) = self;
                $($part.put(sink);)*
            }

            fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
                Ok(($($part::take(from)?,)*))
            }
        }
    )* };
}
tuples!((A, B)(A, B, C));
