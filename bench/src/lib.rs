//! Micro-benchmarks of single parts, run by `cargo bench -p bench`. Whole-cluster figures come from
//! `scripts/demo` and `hippo-load`.
#![forbid(unsafe_code)]
