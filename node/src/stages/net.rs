//! UDP in and out: link checks, framing and reassembly, admission, and the routes to the rings.
//!
//! Cheap checks come first: a client is told Busy before anyone verifies a signature for it.

mod receive;
mod send;

use std::collections::VecDeque;

use platform::driver::Outgoing;
use platform::pool::Pool;
use replica::admission::Followed;
use replica::ordering::{Input, Output};
use replica::verifying::Job;
use wire::link::Endpoint;

use super::Shared;
use super::execute::{ExecuteInput, Sent, StateInput};
use super::links::{Inlet, Outlet};
use crate::buffers::Pooled;
use crate::discovery::Arrived;

/// Messages taken from each ring in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// How soon a client that was told Busy may ask again.
const BUSY_RETRY_US: u32 = 2_000;
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
    /// Messages of clients that may wait for verification, in the batch and for execution, each.
    pub client_share: usize,
    /// Votes are verified before they are counted.
    pub votes_verified: bool,
    pub followed: Followed,
    pub send_pool: Pool,
    pub block_pool: Pool,
    pub from_order: Inlet<NetInput>,
    pub from_execute: Inlet<Sent>,
    pub to_order: Outlet<Input<Pooled>>,
    pub to_execute: Outlet<ExecuteInput>,
    /// Apart from clients' reads: neither keeps the other out.
    pub to_states: Outlet<StateInput>,
    pub to_verify: Outlet<Job<Pooled>>,
    /// To the control thread, which looks by itself.
    pub to_discovery: Outlet<Arrived>,
    /// The count of moves at which the endpoint's addresses were last looked up.
    pub moves_seen: u64,
    /// Sends that the driver had no room for.
    pub postponed: VecDeque<Outgoing>,
    pub reply_number: u64,
    pub shared: Shared,
}
