//! BYZ17, A22: two copies of one replica with one key. Each of the others hears, and is heard by,
//! one copy; some by both.
//!
//! The second copy lives inside of the liar: its disk flushes at once, and it wakes when something
//! arrives or the first copy has its turn.

use std::collections::VecDeque;

use replica::replica::{Effect, Input};
use replica::saving::Piece;
use wire::ids::{Instant, NodeId};

use super::{Context, Heard, Liar, Spoken};
use crate::buffers::Shared;
use crate::network::End;
use crate::node::Node;
use crate::random::Random;

/// Datagrams that arrived for the second copy and wait for its turn.
const WAITING_MAX: usize = 1024;

/// EOPNOTSUPP: the answer to every step of a snapshot.
const NO_FILES: i32 = 95;

/// Which copy an end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    First,
    Second,
    Both,
}

/// See the module's documentation.
pub struct Twin {
    knows: Vec<Knows>,
    second: Option<Node>,
    arrived: VecDeque<(End, Shared)>,
}

impl Twin {
    /// These know the second copy alone, the others the first.
    pub fn parted(nodes: usize, second: &[usize]) -> Twin {
        let knows = |end| match second.contains(&end) {
            true => Knows::Second,
            false => Knows::First,
        };
        Twin {
            knows: (0..nodes).map(knows).collect(),
            second: None,
            arrived: VecDeque::new(),
        }
    }

    /// A random partition; clients know both.
    pub fn draw(nodes: usize, me: NodeId, random: &mut Random) -> Twin {
        let all = [Knows::First, Knows::Second, Knows::Both];
        let mut knows = (0..nodes).map(|_| *random.pick(&all)).collect::<Vec<_>>();
        knows[(me.index() + 1) % nodes] = Knows::Second;
        Twin {
            knows,
            second: None,
            arrived: VecDeque::new(),
        }
    }

    fn knows(&self, end: End) -> Knows {
        self.knows.get(end.0).copied().unwrap_or(Knows::Both)
    }

    fn feed(&mut self, now: Instant, input: Input<Shared>, said: &mut Vec<(End, Vec<u8>)>) {
        let Some(second) = &mut self.second else {
            return;
        };
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in second.handle(now, input) {
                match effect {
                    Effect::Send { to, datagram } => {
                        said.extend(End::at(to).map(|to| (to, datagram)))
                    }
                    Effect::Write {
                        segment,
                        offset,
                        parts,
                        token,
                    } => {
                        second.disk.begin(segment, offset, &parts);
                        second.disk.complete();
                        inputs.push_back(Input::Written {
                            token,
                            result: Ok(()),
                        });
                    }
                    Effect::Read(read) => inputs.push_back(Input::Record { read, record: None }),
                    // It keeps no snapshots.
                    Effect::Snapshot(Piece::Abort) | Effect::Halt(_) => {}
                    Effect::Snapshot(_) => inputs.push_back(Input::PieceWritten {
                        result: Err(NO_FILES),
                    }),
                }
            }
            let Some(server) = &second.server else {
                return;
            };
            let wanted = server.ordering().writer().segments_wanted();
            if wanted > second.wanted {
                second.wanted = wanted;
                second.disk.grow(wanted);
                inputs.push_back(Input::Granted { segments: wanted });
            }
        }
    }
}

impl Liar for Twin {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn is_two(&self) -> bool {
        self.second.is_none()
    }

    fn starts(&mut self, twin: Option<Node>) {
        // The second copy lives as long as the world; a later start of the first one does not matter.
        if self.second.is_none() {
            self.second = twin;
        }
    }

    fn on_hear(&mut self, _: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        let knows = self.knows(heard.from);
        if knows != Knows::First && self.arrived.len() < WAITING_MAX {
            self.arrived
                .push_back((heard.from, Shared::copy_from(heard.datagram)));
        }
        knows != Knows::Second
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let heard = self.knows(spoken.to) != Knows::Second;
        heard.then_some(spoken).into_iter().collect()
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        let now = Instant(context.now_ns);
        let mut said = Vec::new();
        while let Some((from, bytes)) = self.arrived.pop_front() {
            let from = from.address();
            self.feed(now, Input::Datagram { from, bytes }, &mut said);
        }
        // What the pace leaves over, and timers.
        for _ in 0..8 {
            let server = self.second.as_ref().and_then(|node| node.server.as_ref());
            if server.is_none_or(|server| server.wake_at() > now) {
                break;
            }
            self.feed(now, Input::Tick, &mut said);
        }
        let said = said
            .into_iter()
            .filter(|(to, _)| self.knows(*to) != Knows::First);
        let said = said.filter_map(|(to, datagram)| {
            let mut spoken = context.authentic.open(to, &datagram)?;
            // Sealed by another end of this replica's links: never passed on as it is.
            spoken.forget_original();
            Some(spoken)
        });
        said.collect()
    }
}
