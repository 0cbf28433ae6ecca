//! The one socket of a generator thread, shared by all its clients.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use anyhow::Context;
use wire::header::{client_prefix, reply_client_prefix};
use wire::ids::{Instant, NodeId, PublicKey};
use wire::limits::DATAGRAM_BYTES_MAX;

use crate::cli::{Backend, Idle, Run};
use crate::network::Network;
use crate::plan::Clock;

/// Datagrams taken in one turn.
const RECEIVED_PER_TURN_MAX: usize = 64;

/// A socket, the replicas' addresses, and which client a reply is for.
#[derive(Debug)]
pub struct Port {
    socket: UdpSocket,
    addresses: Vec<SocketAddr>,
    clients: HashMap<u64, usize>,
    buffer: Vec<u8>,
    idle: Idle,
}

impl Port {
    pub fn open(flags: &Run, network: &Network, clients: &[PublicKey]) -> anyhow::Result<Port> {
        let addresses = network.addresses();
        let any = match addresses.first() {
            Some(SocketAddr::V6(_)) => "[::]:0",
            _ => "0.0.0.0:0",
        };
        let socket = UdpSocket::bind(any).context("cannot open a UDP socket")?;
        socket.set_nonblocking(true)?;
        Ok(Port {
            socket,
            addresses,
            clients: clients
                .iter()
                .enumerate()
                .map(|(index, key)| (client_prefix(key), index))
                .collect(),
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            idle: flags.idle,
        })
    }

    /// Sends one datagram; a full socket loses it, and the client sends it again.
    pub fn send(&mut self, to: NodeId, datagram: &[u8]) {
        if let Some(address) = self.addresses.get(to.index()) {
            let _ = self.socket.send_to(datagram, address);
        }
    }

    /// Hands what has arrived to `take`, with the client it is for and this port for its answers.
    pub fn receive(&mut self, mut take: impl FnMut(usize, &[u8], &mut Port)) -> usize {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut received = 0;
        while received < RECEIVED_PER_TURN_MAX {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    received += 1;
                    let datagram = &buffer[..length];
                    let client = reply_client_prefix(datagram)
                        .and_then(|prefix| self.clients.get(&prefix).copied());
                    if let Some(client) = client {
                        take(client, datagram, self);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        self.buffer = buffer;
        received
    }

    /// Lets go of everything sent in this turn.
    pub fn submit(&mut self) {}

    /// Rests until something may have arrived, at most until `until`.
    pub fn rest(&mut self, clock: &Clock, until: Instant) {
        match self.idle {
            Idle::Spin => std::hint::spin_loop(),
            _ => {
                let _ = (clock, until);
                std::thread::yield_now();
            }
        }
    }
}

/// Pins the calling thread.
pub fn pin(_core: Option<usize>) -> anyhow::Result<()> {
    Ok(())
}

/// The backend as the result names it.
pub fn backend_name(flags: &Run) -> String {
    match flags.backend {
        Backend::Auto => "auto",
        Backend::Uring => "uring",
        Backend::Mmsg => "mmsg",
    }
    .to_string()
}

/// The idle policy as the result names it.
pub fn idle_name(flags: &Run) -> String {
    match flags.idle {
        Idle::Auto | Idle::SpinYield => "spin-yield",
        Idle::Spin => "spin",
        Idle::Block => "block",
    }
    .to_string()
}
