//! The machine half: rings, pools, io_uring, UDP, O_DIRECT files, pinning, clocks.
//!
//! This room moves bytes and knows nothing of what they mean. It holds all the `unsafe` of the
//! product; each block says who owns the memory until when. Everything is bounded, and nothing is
//! allocated after start on the paths that hot threads take.

pub mod clock;
pub mod cores;
pub mod driver;
mod error;
pub mod file;
pub mod group;
pub mod idle;
pub mod pool;
pub mod process;
pub mod processor;
pub mod ring;
pub mod socket;
mod stack;
pub mod thread;
pub mod tripwire;
pub mod waker;

pub use error::PlatformError;
