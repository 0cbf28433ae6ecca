//! One table: which stages run on which thread, and which rings join them.
//!
//! A stage always talks through the same rings. Between two stages on one thread a ring is a local
//! queue (2 ns an item, no wake-up); between threads its consumer is woken only if it sleeps.

use crate::telemetry::Stage;

/// One pinned thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadPlan {
    /// At most 15 characters, as perf and top show it.
    pub name: &'static str,
    /// Called in this order, after the driver.
    pub stages: &'static [Stage],
}

/// All threads of one node.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub name: &'static str,
    pub threads: &'static [ThreadPlan],
}

/// Everything on one core: four nodes on a laptop. Verification comes first, so that the previous
/// turn's log write is on its way to the disk meanwhile; sending comes last, so that one system
/// call submits all that a turn caused.
const ONE: Layout = Layout {
    name: "1",
    threads: &[ThreadPlan {
        name: "hot",
        stages: &[
            Stage::Verify,
            Stage::Order,
            Stage::Journal,
            Stage::Execute,
            Stage::Net,
        ],
    }],
};

const TWO: Layout = Layout {
    name: "2",
    threads: &[
        ThreadPlan {
            name: "net-order",
            stages: &[Stage::Order, Stage::Journal, Stage::Net],
        },
        ThreadPlan {
            name: "verify-exec",
            stages: &[Stage::Verify, Stage::Execute],
        },
    ],
};

const FOUR: Layout = Layout {
    name: "4",
    threads: &[
        ThreadPlan {
            name: "net-journal",
            stages: &[Stage::Journal, Stage::Net],
        },
        ThreadPlan {
            name: "order",
            stages: &[Stage::Order],
        },
        ThreadPlan {
            name: "execute",
            stages: &[Stage::Execute],
        },
        ThreadPlan {
            name: "verify",
            stages: &[Stage::Verify],
        },
    ],
};

/// Every layout.
pub const LAYOUTS: &[Layout] = &[ONE, TWO, FOUR];

impl Layout {
    /// The layout of this name; `auto` chooses by the cores given to this node.
    pub fn choose(name: &str, cores: usize) -> Option<Layout> {
        let name = match (name, cores) {
            ("auto", 4..) => "4",
            ("auto", 2..) => "2",
            ("auto", _) => "1",
            (name, _) => name,
        };
        LAYOUTS.iter().find(|layout| layout.name == name).copied()
    }

    /// Index of the thread that runs `stage`.
    pub fn thread_of(&self, stage: Stage) -> usize {
        self.threads
            .iter()
            .position(|thread| thread.stages.contains(&stage))
            .expect("every layout runs every stage")
    }
}

/// Depth of each ring: (producer, consumer, items).
pub const LINKS: &[(Stage, Stage, usize)] = &[
    (Stage::Net, Stage::Verify, 1024),
    (Stage::Net, Stage::Order, 2048),
    (Stage::Net, Stage::Execute, 1024),
    (Stage::Verify, Stage::Order, 1024),
    (Stage::Order, Stage::Net, 2048),
    (Stage::Order, Stage::Journal, 1024),
    (Stage::Order, Stage::Execute, 512),
    (Stage::Order, Stage::Verify, 512),
    (Stage::Journal, Stage::Order, 1024),
    (Stage::Execute, Stage::Order, 1024),
    (Stage::Execute, Stage::Net, 2048),
];

/// Depth of the ring from one stage to another.
pub fn depth(from: Stage, to: Stage) -> usize {
    LINKS
        .iter()
        .find(|(producer, consumer, _)| (*producer, *consumer) == (from, to))
        .map(|(_, _, depth)| *depth)
        .expect("the link is in the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_runs_every_stage_once() {
        for layout in LAYOUTS {
            for stage in Stage::ALL {
                let threads = layout
                    .threads
                    .iter()
                    .filter(|thread| thread.stages.contains(stage))
                    .count();
                assert_eq!(threads, 1, "{} {}", layout.name, stage.name());
            }
            assert!(layout.threads.iter().all(|thread| thread.name.len() <= 15));
        }
    }

    #[test]
    fn layouts_are_chosen_by_name_or_cores() {
        assert_eq!(Layout::choose("auto", 0).unwrap().name, "1");
        assert_eq!(Layout::choose("auto", 1).unwrap().name, "1");
        assert_eq!(Layout::choose("auto", 3).unwrap().name, "2");
        assert_eq!(Layout::choose("auto", 8).unwrap().name, "4");
        assert_eq!(Layout::choose("2", 8).unwrap().name, "2");
        assert!(Layout::choose("3", 8).is_none());
    }
}
