//! Writer, journal and recovery together, over segments in memory: torn writes, rot, laps, fullness.
//!
//! [`log`] is a log with its disk and its power switch, [`histories`] draws random ones, [`cases`]
//! are the ones worth a name.

mod cases;
mod histories;
mod log;
