//! One suite for both backends of the driver.

mod allocations;
mod cache;
mod datagrams;
mod disk;
mod host;
mod limits;
mod starved;

use std::alloc::System;

use platform::tripwire::Tripwire;

#[global_allocator]
static ALLOCATOR: Tripwire<System> = Tripwire::new(System);

/// Runs each test on both backends; where io_uring is forbidden, its half says so and passes.
macro_rules! on_both_backends {
    ($($test:ident)*) => {
        mod uring {
            $(#[test]
            fn $test() {
                if crate::host::uring_available() {
                    super::$test(platform::driver::Backend::Uring);
                }
            })*
        }
        mod mmsg {
            $(#[test]
            fn $test() {
                super::$test(platform::driver::Backend::Mmsg);
            })*
        }
    };
}

pub(crate) use on_both_backends;
