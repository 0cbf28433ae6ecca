//! The cluster as its network directory describes it: `committee.toml` for the protocol,
//! `node-*/node.toml` for the admin endpoints.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use wire::committee::{Committee, StateMachine, VoteAuthentication};

use crate::result::Cluster;

/// Who to talk to.
#[derive(Clone, Debug)]
pub struct Network {
    pub committee: Arc<Committee>,
    /// Admin endpoints, by node; empty where no node file names one.
    pub admins: Vec<SocketAddr>,
}

impl Network {
    /// Reads the directory that `hippo testnet` wrote.
    pub fn read(directory: &Path) -> anyhow::Result<Network> {
        let path = directory.join("committee.toml");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; `hippo testnet --output {}` writes one",
                path.display(),
                directory.display()
            )
        })?;
        let committee =
            Committee::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let mut admins = Vec::new();
        for id in 0..committee.n() {
            let path = directory.join(format!("node-{id}")).join("node.toml");
            if !path.exists() {
                continue;
            }
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            if let Some(address) =
                admin_address(&text).with_context(|| format!("{} is malformed", path.display()))?
            {
                admins.push(address);
            }
        }
        Ok(Network {
            committee: Arc::new(committee),
            admins,
        })
    }

    /// Where the replicas listen, by id.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let members = self.committee.members();
        members.iter().map(|member| member.address).collect()
    }

    fn is_loopback(&self) -> bool {
        self.addresses()
            .iter()
            .all(|address| address.ip().is_loopback())
    }

    /// How the nodes are reached: `loopback` or `network`.
    pub fn kind(&self) -> &'static str {
        if self.is_loopback() {
            "loopback"
        } else {
            "network"
        }
    }

    pub fn vote_auth(&self) -> String {
        match self.committee.vote_authentication() {
            VoteAuthentication::Signature => "ed25519",
            VoteAuthentication::Mac => "mac",
        }
        .to_string()
    }

    /// What the committee says of itself.
    pub fn cluster(&self) -> Cluster {
        let parameters = self.committee.parameters();
        Cluster {
            nodes: parameters.n,
            b: parameters.b,
            u: parameters.u,
            p: parameters.p,
            // F of protocol §1.1.
            fast_quorum: parameters.n - parameters.p,
            state_machine: match self.committee.state_machine() {
                StateMachine::Kv => "kv",
                StateMachine::Noop => "noop",
            }
            .to_string(),
            ..Cluster::default()
        }
    }
}

/// `[admin] address` of a node file; none when it is left to the node's default.
fn admin_address(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    let table: toml::Table = text.parse()?;
    match table.get("admin").and_then(|admin| admin.get("address")) {
        None => Ok(None),
        Some(toml::Value::String(address)) => {
            let address = address
                .parse()
                .with_context(|| format!("admin.address `{address}` is no ADDRESS:PORT"))?;
            Ok(Some(address))
        }
        Some(_) => bail!("admin.address is not a string"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_addresses_are_found() {
        let text = "[node]\nid = 1\n[admin]\naddress = \"127.0.0.1:7101\"\n";
        let address = admin_address(text).unwrap();
        assert_eq!(address, Some("127.0.0.1:7101".parse().unwrap()));
        assert_eq!(admin_address("[node]\nid = 1\n").unwrap(), None);
        assert!(admin_address("[admin]\naddress = 5\n").is_err());
        assert!(admin_address("[admin]\naddress = \"here\"\n").is_err());
    }

    #[test]
    fn a_missing_directory_says_how_to_make_one() {
        let error = Network::read(Path::new("/nonexistent")).unwrap_err();
        assert!(format!("{error:#}").contains("hippo testnet"));
    }
}
