//! BYZ10: as a leader it serves everyone but one client.

use wire::header::Kind;
use wire::ids::PublicKey;

use super::{Context, Heard, Liar, Spoken};
use crate::network::End;

/// See the module's documentation.
pub struct Censor {
    victim: End,
    key: Option<PublicKey>,
}

impl Censor {
    /// Ignores the client at this end.
    pub fn of(victim: End) -> Censor {
        Censor { victim, key: None }
    }
}

impl Liar for Censor {
    fn name(&self) -> &'static str {
        "censor"
    }

    fn on_hear(&mut self, _: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        if heard.from == self.victim {
            self.key = heard.client.or(self.key);
            return !matches!(heard.kind, Kind::Request | Kind::Open);
        }
        // A request begins with its client.
        let forwarded = heard.kind == Kind::Forward && heard.fragment.offset_grains == 0;
        let key = self.key.filter(|_| forwarded);
        key.is_none_or(|key| !heard.body.starts_with(&key.0))
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        vec![spoken]
    }
}
