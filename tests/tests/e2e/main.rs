//! End-to-end tests over real processes: `hippo`, `hippo-load` and the datagrams between them.
//!
//! Each test makes its own network directory and its own ports on loopback, and kills what it
//! started whatever happens. Tests run one after another: the machine has few cores.

mod admin;
mod archives;
mod cluster;
mod connection;
mod faults;
mod garbage;
mod inspect;
mod leases;
mod mac;
mod members;
mod peers;
mod presets;
mod proxy;
mod reads;
mod recordings;
mod restarts;
mod scrub;
mod snapshots;
mod tables;
