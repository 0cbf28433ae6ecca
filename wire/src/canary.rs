//! Planted bugs and reach-probes, for the simulator alone.
//!
//! A canary is a known bug in one visible line of the product, `if planted("name") { .. }`: the
//! checks of the simulator must find each of them, or they prove nothing. A probe, `reach("name")`,
//! says that a run came to a rare place. Both do nothing, at no cost, unless the cargo feature
//! `canary` is on, which only a build of the simulator may ask for; no binary of the product has it.

#[cfg(feature = "canary")]
mod active {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    thread_local! {
        static PLANTED: Cell<&'static str> = const { Cell::new("") };
        static REACHED: RefCell<BTreeMap<&'static str, u64>> =
            const { RefCell::new(BTreeMap::new()) };
    }

    /// Whether this bug is planted in the world that runs on this thread.
    pub fn planted(name: &str) -> bool {
        PLANTED.with(|planted| planted.get() == name)
    }

    /// Plants one bug for what runs on this thread from now on; an empty name plants none.
    pub fn plant(name: &'static str) {
        PLANTED.with(|planted| planted.set(name));
    }

    /// Counts one visit of a rare place.
    pub fn reach(name: &'static str) {
        REACHED.with(|reached| *reached.borrow_mut().entry(name).or_default() += 1);
    }

    /// The visits counted on this thread since the last call.
    pub fn take_reached() -> BTreeMap<&'static str, u64> {
        REACHED.with(|reached| std::mem::take(&mut *reached.borrow_mut()))
    }
}

#[cfg(feature = "canary")]
pub use active::{plant, planted, reach, take_reached};

/// No bug is planted in this build.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}

/// Places are not counted in this build.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub const fn reach(_name: &'static str) {}
