//! Planted bugs: what the checks must find, or they prove nothing.
//!
//! Three are planted outside of the product, in every build. The others are lines of the product
//! itself that exist only with the cargo feature `canary`; see [`wire::canary`]. Directories, whose
//! names a power cut may lose, are not simulated: `nodirsync` takes real disks.

use serde::{Deserialize, Serialize};

use crate::faults::{Fault, FaultSet};
use crate::plan::{Options, Votes};
use crate::shapes::SHAPES;

/// How to build a simulator that can plant every bug.
pub const BUILD: &str = "cargo build --profile sim -p sim --features canary";

/// What finds a planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// Random seeds in the committee of this name.
    Seeds(&'static str),
    /// The scenarios of this file in `sim/tests/attacks`: it takes an attack that seeds do not draw.
    Scenario(&'static str),
    /// A check in `sim/tests/planted.rs` of the part of the product that has it.
    Unit,
}

macro_rules! canaries {
    ($($canary:ident, $name:literal, $outside:literal, $finder:expr, $about:literal;)*) => {
        /// A planted bug.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize,
        )]
        pub enum Canary {
            $(#[doc = $about] #[value(name = $name)] #[serde(rename = $name)] $canary,)*
        }

        impl Canary {
            /// All of them.
            pub const ALL: &'static [Canary] = &[$(Canary::$canary,)*];

            /// As it is called on the command line, and in the product.
            pub fn name(self) -> &'static str {
                match self {
                    $(Canary::$canary => $name,)*
                }
            }

            /// What is wrong.
            pub fn about(self) -> &'static str {
                match self {
                    $(Canary::$canary => $about,)*
                }
            }

            /// Whether it is planted around the product, so that every build has it.
            pub fn is_outside(self) -> bool {
                match self {
                    $(Canary::$canary => $outside,)*
                }
            }

            /// What must find it.
            pub fn finder(self) -> Finder {
                match self {
                    $(Canary::$canary => $finder,)*
                }
            }
        }
    };
}

use Finder::{Scenario, Seeds, Unit};

canaries! {
    Nosync, "nosync", true, Seeds("4"), "disks say that they flushed and did not";
    Lowquorum, "lowquorum", true, Seeds("4"), "replicas decide with one vote less than F";
    Blankvotes, "blankvotes", true, Seeds("4"), "a crashed replica comes back with an empty disk";
    Noexcl, "noexcl", false, Seeds("4"), "the view change of a proven equivocator is counted";
    Loose, "loose", false, Seeds("4"), "the equivocator is excluded, the threshold p+b kept";
    Thresh, "thresh", false, Seeds("4"), "SELECT requires one claim more";
    Maxtip, "maxtip", false, Seeds("4"), "the longest tip wins";
    Anyview, "anyview", false, Seeds("4"), "tips of any view are compared";
    Fakeview, "fakeview", false, Scenario("views"), "an installed view without a certificate is believed";
    Qack, "qack", false, Seeds("4"), "a base is certified by b+1";
    Ackcommit, "ackcommit", false, Seeds("4"), "an acknowledgement counts as a vote";
    Voteafter, "voteafter", false, Seeds("4"), "votes in a view that was left";
    Vcsmall, "vcsmall", false, Seeds("4"), "V-1 view changes are enough";
    Doublevote, "doublevote", false, Scenario("equivocation"), "a replica changes its branch and votes again";
    Amnesia, "amnesia", false, Seeds("4"), "a restart forgets votes";
    Noqc, "noqc", false, Seeds("4-strict"), "SELECT ignores quorum certificates";
    Commitoffchain, "commitoffchain", false, Seeds("4-strict"), "COMMIT off the own voted chain";
    Fastoverqc, "fastoverqc", false, Seeds("4-strict"), "claims beat quorum certificates";
    Samevoter, "samevoter", false, Seeds("4"), "one voter is counted twice";
    Mixviews, "mixviews", false, Seeds("4"), "votes of two views are summed";
    Repropose, "repropose", false, Seeds("4"), "a restarted leader proposes in its view";
    Boot, "boot", false, Seeds("4"), "a restarted leader takes itself for new";
    Losejump, "losejump", false, Seeds("4"), "a restart forgets that the tip jumped";
    Ackblind, "ackblind", false, Seeds("4"), "a base is acknowledged without its payloads";
    Farvote, "farvote", false, Scenario("windows"), "votes beyond the window";
    Wishstops, "wishstops", false, Scenario("views"), "who wishes for another view stops voting";
    Onewish, "onewish", false, Scenario("views"), "b wishes are followed";
    Bothrun, "bothrun", false, Seeds("4"), "a repeated sequence number runs again";
    Rollbackok, "rollbackok", false, Scenario("restarts"), "an own statement above the own log is ignored";
    Noreplay, "noreplay", false, Scenario("restarts"), "links take a datagram twice";
    Future, "future", false, Seeds("4"), "messages of any later view are kept";
    Nofence, "nofence", false, Seeds("5"), "a fenced read is answered before its fence is executed";
    Onereply, "onereply", false, Seeds("4"), "clients trust the first reply";
    Mixreply, "mixreply", false, Seeds("4"), "clients count unequal results as equal";
    Resync, "resync", false, Seeds("4"), "a write that failed is tried again, and voting goes on";
    Batchjudge, "batchjudge", false, Seeds("4"), "a block admits the requests in it";
    Votefirst, "votefirst", false, Seeds("4"), "votes leave before their records are durable";
    Gcearly, "gcearly", false, Seeds("4"), "the log forgets blocks that are still needed";
    Decidedahead, "decidedahead", false, Seeds("4"), "the log names a decided block ahead of the block";
    Holdswaiting, "holdswaiting", false, Seeds("4"), "requests of a leader that is none any more hold their buffers";
    Ckptearly, "ckptearly", false, Seeds("4"), "a state is signed before its blocks are durable";
    Leaselate, "leaselate", false, Seeds("4"), "votes leave before their lease is durable";
    Shortsilence, "shortsilence", false, Seeds("4"), "silence ends below the lease";
    Loudholes, "loudholes", false, Seeds("4"), "who lost blocks of its log speaks all the same";
    Oldmarker, "oldmarker", false, Seeds("4"), "the marker of any clean stop counts";
    Rootblind, "rootblind", false, Unit, "transferred buckets are not checked";
    Stuckpeer, "stuckpeer", false, Unit, "a transfer asks one peer alone";
    Dedupoff, "dedupoff", false, Seeds("4"), "a state forgets what was executed";
    Localevict, "localevict", false, Unit, "each replica evicts another session";
    Noposition, "noposition", false, Unit, "a record counts wherever it lies";
    Cutany, "cutany", false, Unit, "a log is cut at any damage";
    Sameboot, "sameboot", false, Unit, "links of every process begin with one boot";
    Reflect, "reflect", false, Unit, "both directions of a link have one key, and whoever has it may have sent";
    Longlen, "longlen", false, Unit, "a length is trusted before there is room for it";
    Shedvotes, "shedvotes", false, Scenario("clients"), "votes make way for clients";
    Fragmix, "fragmix", false, Unit, "fragments of two messages are joined";
    Fragleak, "fragleak", false, Unit, "incomplete messages are never given up";
    Trailing, "trailing", false, Unit, "bytes behind a request are accepted";
    Noview, "noview", false, Unit, "the view is not signed";
    Notag, "notag", false, Unit, "the kind of a statement is not signed";
    Twoforms, "twoforms", false, Unit, "one message has two encodings";
    Weakverify, "weakverify", false, Unit, "keys and points of small order are accepted";
}

impl Canary {
    /// Plants it in worlds that run on this thread from now on, where the product has it.
    pub fn plant(planted: Option<Canary>) {
        let name = planted.filter(|canary| !canary.is_outside());
        #[cfg(feature = "canary")]
        wire::canary::plant(name.map_or("", Canary::name));
        #[cfg(not(feature = "canary"))]
        assert!(name.is_none(), "this build cannot plant it: {BUILD}");
    }

    /// Whether this build can plant it.
    pub fn is_built(self) -> bool {
        self.is_outside() || cfg!(feature = "canary")
    }

    /// What seeds that are to find it are drawn from.
    pub fn options(self) -> Options {
        let name = match self.finder() {
            Seeds(name) => name,
            Scenario(_) | Unit => "4",
        };
        let shape = SHAPES.iter().position(|shape| shape.name == name);
        let shape = shape.expect("a committee that can be judged");
        Options {
            nodes: SHAPES[shape].n,
            shape,
            canary: Some(self),
            durability: match self {
                Canary::Leaselate | Canary::Shortsilence | Canary::Oldmarker => Votes::Lease,
                _ => Votes::Drawn,
            },
            faults: match self {
                Canary::Loudholes => FaultSet::standard().with(Fault::Holes),
                _ => FaultSet::standard(),
            },
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_committees_exist() {
        let names = Canary::ALL.iter().map(|canary| canary.name());
        let names = names.collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names.len(), Canary::ALL.len());
        for canary in Canary::ALL {
            assert_eq!(canary.options().canary, Some(*canary));
        }
    }
}
