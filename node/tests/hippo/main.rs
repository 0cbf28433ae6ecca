//! The built `hippo` as its users meet it: commands, refusals, exit codes.

mod commands;
mod refusals;
mod support;
