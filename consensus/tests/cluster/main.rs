//! Whole clusters of cores over a network that loses, doubles and reorders, in virtual time.
//!
//! `world` is the network and the time, `caller` plays the caller of each core: bytes of blocks,
//! the log and its restarts, execution, signatures. `judge` sees every message that was sent and recomputes from that alone, with its
//! own quorum numbers, what is final. Liars are scripted; they can sign as themselves only.

mod alone;
mod asking;
mod attacks;
mod caller;
mod changes;
mod checkpoints;
mod copies;
mod disk;
mod judge;
mod liars;
mod normal;
mod restarts;
mod seeds;
mod stuck;
mod vouching;
mod world;
