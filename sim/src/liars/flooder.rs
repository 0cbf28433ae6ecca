//! BYZ6: many messages with a good MAC and bad signatures, so that each costs a verification.

use wire::header::Kind;
use wire::ids::{Boot, Slot, View};
use wire::messages::{CheckpointBody, WishBody};
use wire::view_change::{ViewChange, signed_body};
use zerocopy::IntoBytes;

use super::{Context, Liar, Spoken};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
pub struct Flooder {
    each: u64,
    pause_ns: u64,
    next_ns: u64,
}

impl Flooder {
    /// So many at a time.
    pub fn draw(random: &mut Random) -> Flooder {
        Flooder {
            each: random.within(1, 24),
            pause_ns: random.within(2, 20) * MS,
            next_ns: 0,
        }
    }
}

impl Liar for Flooder {
    fn name(&self) -> &'static str {
        "flooder"
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        vec![spoken]
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        if context.now_ns < self.next_ns {
            return Vec::new();
        }
        self.next_ns = context.now_ns + self.pause_ns;
        let authentic = context.authentic;
        let bad = wire::ids::Signature([3; 64]);
        let mut said = Vec::new();
        for to in authentic.others() {
            for turn in 0..self.each {
                let (view, slot) = (
                    View(context.random.below(4)),
                    Slot(context.random.below(99)),
                );
                let (kind, body) = match turn % 4 {
                    0 => {
                        let body = WishBody::new(Boot(1), turn, bad);
                        (Kind::Wish, body.as_bytes().to_vec())
                    }
                    1 => {
                        let body = CheckpointBody {
                            chain: wire::ids::Digest([1; 32]),
                            root: wire::ids::Digest([2; 32]),
                            signature: bad,
                        };
                        (Kind::Checkpoint, body.as_bytes().to_vec())
                    }
                    2 => (Kind::NewViewAck, vec![4; 96]),
                    _ => {
                        let message = ViewChange {
                            view: View(view.0 + 1),
                            replica: authentic.me(),
                            installed: View(0),
                            certificate: None,
                            checkpoint: None,
                            suffix: Vec::new(),
                            tip_signature: wire::ids::Signature([0; 64]),
                            quorum: None,
                        };
                        (Kind::ViewChange, signed_body(&bad, &message.encode()))
                    }
                };
                said.push(authentic.say(to, kind, view, slot, body));
            }
        }
        said
    }
}
