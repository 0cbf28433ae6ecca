//! Tests of the whole: over real processes (`tests/e2e`) and over the repository itself
//! (`tests/tidy`). The library is empty.
#![forbid(unsafe_code)]
