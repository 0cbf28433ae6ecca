//! Checkpoints of a whole execution: roots against a plain model, transfers from honest, silent and
//! lying peers, snapshot files.

mod model;
mod reads;
mod roots;
mod snapshots;
mod transfers;
mod world;
