//! UDP in and out: link checks, framing and reassembly, admission, and the routes to the rings.
//!
//! Cheap checks come first: a client is told Busy before anyone verifies a signature for it.

use platform::driver::{Driver, Outgoing};
use platform::pool::{self, Pool};
use replica::blocks::Raw;
use replica::ordering::{Input, Output};
use replica::peer::{Grains, PeerMessage, SMALL_BODY_BYTES_MAX};
use replica::verifying::Job;
use wire::bytes::{SharedBytes, UniqueBytes};
use wire::header::{Fragment, HEADER_BYTES, Kind, fragment_bytes};
use wire::ids::{Digest, Instant, NodeId, PublicKey, Sequence, Slot, View};
use wire::limits::{GRAIN_BYTES, RECORD_HEADER_BYTES};
use wire::link::{Body, Endpoint, Incoming};
use wire::reject::Reject;
use wire::reply::{BUSY_LOG_FULL, BUSY_NOT_READY, BUSY_QUEUE, BusyBody};
use wire::request::RequestView;
use zerocopy::IntoBytes;

use super::Shared;
use super::execute::{ExecuteInput, Reply};
use super::links::{Inlet, Outlet};
use crate::buffers::{Block, Bytes, Pooled};
use crate::telemetry::LogFull;

/// Messages taken from each ring in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// Datagrams in one batch for one peer: what a GSO send carries.
const BATCH_DATAGRAMS: usize = 44;
const BATCH_BYTES: usize = 65_000;

/// What the ordering half wants sent.
pub enum NetInput {
    Order(Output<Pooled>),
}

pub struct Net {
    pub endpoint: Endpoint<Pooled>,
    pub replicas: u16,
    pub datagram_bytes: usize,
    /// Requests that may wait at the leader before clients are told Busy.
    pub waiting_max: u64,
    pub send_pool: Pool,
    pub from_order: Inlet<NetInput>,
    pub from_execute: Inlet<Reply>,
    pub to_order: Outlet<Input<Pooled>>,
    pub to_execute: Outlet<ExecuteInput>,
    pub to_verify: Vec<Outlet<Job<Pooled>>>,
    pub next_verify: usize,
    /// Sends that the driver had no room for.
    pub postponed: std::collections::VecDeque<Outgoing>,
    pub reply_number: u64,
    pub shared: Shared,
}
