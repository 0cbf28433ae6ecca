//! Clients that lie (reliability, CLI1-CLI7): one file for each way of lying.
//!
//! A lying client has keys of its own and an end of the network; a [`Line`] does for it what the
//! product's client does of greetings, sealing and fragments, and signs whatever it is told to. What
//! it says is judged as everything is: signed operations are operations, wherever they come from,
//! and the honest users must be served as if it were not there.

mod crowd;
mod disorder;
mod flood;
mod forger;
mod lengths;
mod line;
mod scanner;
mod two_faced;

use serde::{Deserialize, Serialize};
use wire::ids::PublicKey;

pub use line::Line;

use crate::faults::Fault;
use crate::random::Random;

/// What lies.
pub trait LyingClient {
    /// How many keys it has.
    fn keys(&self) -> usize {
        1
    }

    /// Says something; returns after how many nanoseconds it speaks again. `others` are the honest
    /// users' names.
    fn turn(&mut self, lines: &mut [Line], others: &[PublicKey], random: &mut Random) -> u64;
}

macro_rules! clients {
    ($($kind:ident, $name:literal, $make:expr;)*) => {
        /// The lying clients that a plan can name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum ClientKind {
            $(#[doc = $name] #[serde(rename = $name)] $kind,)*
        }

        impl ClientKind {
            /// All of them.
            pub const ALL: &'static [ClientKind] = &[$(ClientKind::$kind,)*];

            /// As it is called; the fault that draws it has the same name behind `client-`.
            pub fn name(self) -> &'static str {
                match self {
                    $(ClientKind::$kind => $name,)*
                }
            }

            /// A client of this kind.
            pub fn make(self, random: &mut Random) -> Box<dyn LyingClient> {
                let make: fn(&mut Random) -> Box<dyn LyingClient> = match self {
                    $(ClientKind::$kind => $make,)*
                };
                make(random)
            }
        }
    };
}

clients! {
    Forger, "forger", |_| Box::new(forger::Forger::default());
    Disorder, "disorder", |_| Box::new(disorder::Disorder::default());
    Lengths, "lengths", |_| Box::new(lengths::Lengths);
    TwoFaced, "two-faced", |_| Box::new(two_faced::TwoFaced::default());
    Flood, "flood", |random| Box::new(flood::Flood::draw(random));
    Crowd, "crowd", |random| Box::new(crowd::Crowd::draw(random));
    Scanner, "scanner", |_| Box::new(scanner::Scanner::default());
}

impl ClientKind {
    /// The fault that lets seeds draw it.
    pub fn fault(self) -> Fault {
        let name = format!("client-{}", self.name());
        Fault::by_name(&name).expect("every lying client has a fault of its name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lying_client_is_drawn_by_a_fault() {
        for kind in ClientKind::ALL {
            assert!(kind.fault().is_standard(), "{}", kind.name());
            let liar = kind.make(&mut Random::new(1));
            assert!(liar.keys() >= 1);
        }
    }
}
