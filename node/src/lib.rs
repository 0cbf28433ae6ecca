//! The node: joins the pure half and the machine half into the program `hippo`.
//!
//! [`cli`] parses the command line; `hippo start` goes through [`prepare`] (configuration, committee,
//! key, data directory: one clear refusal or everything that a start needs) to `run`, which builds
//! the stages of `topology` on pinned threads. The control thread of [`admin`] only reads what the
//! hot threads write into [`telemetry`]. [`inspect`] reads what a stopped node left on its disk.
#![forbid(unsafe_code)]

pub mod admin;
pub mod archive;
pub mod assembly;
pub mod buffers;
pub mod cli;
pub mod config;
pub mod datadir;
pub mod discovery;
pub mod epochs;
pub mod exit;
pub mod flight;
pub mod inspect;
pub mod keyfile;
pub mod machine;
pub mod prepare;
pub mod restore;
pub mod run;
pub mod scrub;
pub mod stages;
pub mod telemetry;
pub mod testnet;
pub mod topology;
