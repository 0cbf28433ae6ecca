//! `hippo-load`: an open-loop load generator for a Hippodrome cluster.
//!
//! Arrivals follow a schedule and never wait for replies ([`schedule`]); latency counts from the
//! intended send to the b+1-th equal authentic reply; a run whose generator was late, or that lost
//! anything, says INVALID ([`verdict`]). The files of a run are in [`files`], the names that
//! others rely on in [`result`].
#![forbid(unsafe_code)]

pub mod chart;
pub mod cli;
pub mod files;
pub mod histograms;
pub mod history;
pub mod keys;
pub mod ledger;
pub mod machine;
pub mod measure;
pub mod network;
pub mod operations;
pub mod plan;
pub mod port;
pub mod random;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;
pub mod schema;
pub mod status;
pub mod summary;
pub mod table;
pub mod units;
pub mod verdict;
pub mod worker;

/// The command line as a shell would take it.
pub fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    std::env::args()
        .map(|argument| {
            if !argument.is_empty() && argument.chars().all(plain) {
                argument
            } else {
                format!("'{}'", argument.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
