//! The node: joins the pure half and the machine half into the program `hippo`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod exit;
pub mod telemetry;
