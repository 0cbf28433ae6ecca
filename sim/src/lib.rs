//! The deterministic simulator: whole replicas, a network, disks and clients in one thread, driven
//! by one heap of events from one seed.
//!
//! [`plan::Plan`] draws everything that is decided in advance from the seed; [`world::World`] runs
//! it. Nothing here reads a clock, a file or the order of a hash map, so the same seed gives the
//! same [`world::Outcome`], its digest over every event included. [`checks::Judge`] sees all that is
//! sent, written, decided, executed and acknowledged, and states in its own words, with its own
//! numbers, what must hold:
//!
//! * one digest for each slot, in every proposal, vote and decision of every replica at any time;
//! * a decision has a quorum of replicas that hold the block on their disk;
//! * no vote leaves before its record is durable, and no leader proposes after a restart (R4);
//! * equal slots mean equal tables, and equal to a model that executes the decided log naively;
//! * every acknowledged result is the model's, in an order that respects real time, once;
//! * what was acknowledged is on every replica in the end, also after a power cut of all of them;
//! * while at most the promised number of replicas fail, and the leader does not, every operation
//!   ends within a stated virtual time after the faults have ended;
//! * apart from the log, what the users saw has an order that registers allow ([`linear`]).
//!
//! Which faults a seed draws is in [`faults`], who lies in [`liars`], where a run got in [`probes`].
//! For people: [`shrink`] makes a failing plan smaller, [`diagram`] draws a part of a run, and
//! [`scenario`] is the language for tests that want one certain run.
#![forbid(unsafe_code)]

pub mod agreement;
pub mod ask;
pub mod bases;
pub mod buffers;
pub mod canaries;
pub mod checks;
pub mod cli;
pub mod clock;
pub mod diagram;
pub mod disk;
pub mod faults;
pub mod liars;
pub mod linear;
pub mod model;
pub mod network;
pub mod node;
pub mod plan;
pub mod probes;
pub mod random;
pub mod record;
pub mod recordings;
pub mod report;
pub mod scenario;
pub mod seals;
pub mod shapes;
pub mod shrink;
pub mod small;
pub mod user;
pub mod world;
