//! A committee with known secrets.
#![allow(dead_code)]

use std::net::SocketAddr;

use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::ids::{ClusterId, NodeId};
use wire::keys::{ClientSecret, NodeSecret};

pub fn secret(id: usize) -> NodeSecret {
    NodeSecret::generate(&[id as u8 + 1; 32]).unwrap()
}

pub fn client_secret(name: u8) -> ClientSecret {
    ClientSecret::generate(&[name; 32]).unwrap()
}

pub fn address(id: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4100 + id as u16))
}

pub fn parts(n: usize) -> CommitteeParts {
    let members = (0..n)
        .map(|id| Member {
            id: NodeId(id as u16),
            public_key: secret(id).public_key(),
            address: address(id),
        })
        .collect();
    CommitteeParts::with_preset(ClusterId([0xc0; 16]), members, Preset::Balanced).unwrap()
}

pub fn committee(n: usize) -> Committee {
    Committee::new(parts(n)).unwrap()
}
