//! Writer, journal and recovery together, over segments in memory: torn writes, rot, laps, fullness.
//!
//! [`log`] is a log with its disk and its power switch, [`histories`] draws random ones, [`cases`]
//! are the ones worth a name, [`holes`] what others can mend, and [`examine`] is what people are
//! shown. The others leave nothing out: [`torn`] every torn state and every truncation, [`rot`] every
//! flipped bit, [`strays`] every sector and file in a wrong place or time, [`rows`] every row of
//! recovery's table and of the superblock's.
//! What must come of each is said by [`oracle`], which knows what was written and not how recovery
//! reads. [`scrub`] looks at logs in use.

mod cases;
mod examine;
mod histories;
mod holes;
mod log;
mod oracle;
mod rot;
mod rows;
mod scrub;
mod strays;
mod torn;
