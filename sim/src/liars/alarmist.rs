//! BYZ15: wishes and resigns without a reason, acknowledges two bases, and says again what was
//! certified long ago.

use wire::header::Kind;
use wire::ids::{Boot, Digest, NodeId, Signature, Slot, View};
use wire::messages::WishBody;
use wire::seal::Statement;
use zerocopy::IntoBytes;

use super::{Context, Heard, Liar, Spoken};
use crate::plan::MS;
use crate::random::Random;

/// Datagrams of others that are kept to be said again.
const KEPT_MAX: usize = 64;

/// See the module's documentation.
pub struct Alarmist {
    wishes: bool,
    resigns: bool,
    splits: bool,
    replays: bool,
    pause_ns: u64,
    next_ns: u64,
    counter: u64,
    view: View,
    kept: Vec<Spoken>,
}

impl Alarmist {
    /// It wishes for later views all the time, and nothing else.
    pub fn wishing() -> Alarmist {
        Alarmist::with([true, false, false, false])
    }

    /// It acknowledges another base to half of the others, and repeats old certificates.
    pub fn splitting() -> Alarmist {
        Alarmist::with([false, false, true, true])
    }

    fn with([wishes, resigns, splits, replays]: [bool; 4]) -> Alarmist {
        Alarmist {
            wishes,
            resigns,
            splits,
            replays,
            pause_ns: 5 * MS,
            next_ns: 0,
            counter: 1 << 40,
            view: View(0),
            kept: Vec::new(),
        }
    }

    /// Some of its habits.
    pub fn draw(random: &mut Random) -> Alarmist {
        Alarmist {
            wishes: random.chance(700),
            resigns: random.chance(300),
            splits: random.chance(500),
            replays: random.chance(500),
            pause_ns: random.within(1, 60) * MS,
            next_ns: 0,
            counter: 1 << 40,
            view: View(0),
            kept: Vec::new(),
        }
    }
}

impl Liar for Alarmist {
    fn name(&self) -> &'static str {
        "alarmist"
    }

    fn on_hear(&mut self, context: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        let stale = matches!(
            heard.kind,
            Kind::WishCertificate
                | Kind::NewView
                | Kind::NewViewCertificate
                | Kind::ViewChange
                | Kind::CheckpointCertificate
                | Kind::Evidence
        );
        if self.replays && stale && self.kept.len() < KEPT_MAX {
            let to = NodeId(heard.from.0 as u16);
            let body = heard.body.to_vec();
            let authentic = context.authentic;
            let mut kept = authentic.say(to, heard.kind, heard.view, heard.slot, body);
            kept.fragment = heard.fragment;
            self.kept.push(kept);
        }
        if heard.kind == Kind::Status || heard.kind == Kind::Vote {
            self.view = self.view.max(View(heard.view.0.min(1 << 20)));
        }
        true
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        self.view = self.view.max(spoken.view);
        if !self.splits || spoken.kind != Kind::NewViewAck || spoken.to.0.is_multiple_of(2) {
            return vec![spoken];
        }
        let base = Digest(context.random.bytes());
        let statement = Statement::NewViewAck {
            view: spoken.view,
            base_slot: spoken.slot,
            base,
        };
        let signature: Signature = context.authentic.sign(&statement);
        let body = [&base.0[..], &signature.0[..]].concat();
        let to = NodeId(spoken.to.0 as u16);
        let authentic = context.authentic;
        vec![authentic.say(to, spoken.kind, spoken.view, spoken.slot, body)]
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        if context.now_ns < self.next_ns {
            return Vec::new();
        }
        self.next_ns = context.now_ns + self.pause_ns;
        self.counter += 1;
        let authentic = context.authentic;
        let mut said = Vec::new();
        let view = View(self.view.0 + context.random.within(1, 3));
        let (boot, counter) = (Boot(u32::MAX), self.counter);
        for to in authentic.others() {
            if self.wishes {
                let statement = Statement::Wish {
                    view,
                    boot,
                    counter,
                };
                let wish = WishBody::new(boot, counter, authentic.sign(&statement));
                let body = wish.as_bytes().to_vec();
                said.push(authentic.say(to, Kind::Wish, view, Slot(0), body));
            }
            if self.resigns {
                let statement = Statement::Resign { view: self.view };
                let body = authentic.sign(&statement).0.to_vec();
                said.push(authentic.say(to, Kind::Resign, self.view, Slot(0), body));
            }
            if !self.kept.is_empty() {
                let kept = context.random.pick(&self.kept).clone();
                let to = crate::network::End(to.index());
                said.push(Spoken { to, ..kept });
            }
        }
        said
    }
}
