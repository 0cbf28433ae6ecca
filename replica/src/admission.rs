//! What becomes of a client's request before any signature work (§9.4): the one rule of the node and
//! of the simulated replica.

use wire::header::client_prefix;
use wire::ids::{Instant, PublicKey};
use wire::reply::{BUSY_LOG_FULL, BUSY_NOT_READY, BUSY_QUEUE};

/// How the replica stands when the request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub is_leader: bool,
    /// It leads and has not restarted within the view (R4).
    pub may_propose: bool,
    pub log_full: bool,
    /// As many requests wait for verification, or in the batch, as may.
    pub queues_full: bool,
}

/// What to do with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Verify and order it.
    Verify,
    /// Say Busy with this reason, and drop it.
    Refuse(u8),
    /// Nothing new is ordered here: what was executed is answered from the sessions. A leader says
    /// Busy with this reason as well.
    Resend { busy: Option<u8> },
}

impl Standing {
    pub fn admit(self) -> Admission {
        if self.may_propose && !self.log_full {
            return if self.queues_full {
                Admission::Refuse(BUSY_QUEUE)
            } else {
                Admission::Verify
            };
        }
        let reason = if self.log_full {
            BUSY_LOG_FULL
        } else {
            BUSY_NOT_READY
        };
        Admission::Resend {
            busy: self.is_leader.then_some(reason),
        }
    }
}

/// Clients whose requests a follower has verified not long ago. It verifies one request of a client
/// in a while, so that it can stand up for the client against a leader that ignores it; clients that
/// repeat themselves because the cluster is busy do not make it busier.
#[derive(Debug)]
pub struct Followed {
    /// By the front of the client's key: the key's next bytes, and when.
    cells: Vec<(u64, Instant)>,
}

/// Cells, a power of two; between two verified requests of one client.
const CELLS: usize = 1024;
const PAUSE_NS: u64 = 20_000_000;

impl Default for Followed {
    fn default() -> Self {
        Followed::new()
    }
}

impl Followed {
    pub fn new() -> Followed {
        Followed {
            cells: vec![(0, Instant(0)); CELLS],
        }
    }

    /// Whether a request of this client may be verified now; notes that it is.
    pub fn may_admit(&mut self, now: Instant, client: &PublicKey) -> bool {
        let prefix = client_prefix(client);
        let cell = &mut self.cells[prefix as usize % CELLS];
        if cell.0 == prefix && now.since_ns(cell.1) < PAUSE_NS {
            return false;
        }
        *cell = (prefix, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_verifies_one_request_of_a_client_in_a_while() {
        let mut followed = Followed::new();
        let (one, other) = (PublicKey([1; 32]), PublicKey([2; 32]));
        assert!(followed.may_admit(Instant(PAUSE_NS), &one));
        assert!(!followed.may_admit(Instant(2 * PAUSE_NS - 1), &one));
        assert!(followed.may_admit(Instant(PAUSE_NS), &other));
        assert!(followed.may_admit(Instant(2 * PAUSE_NS), &one));
    }

    const LEADER: Standing = Standing {
        is_leader: true,
        may_propose: true,
        log_full: false,
        queues_full: false,
    };

    #[test]
    fn only_a_leader_with_room_verifies() {
        assert_eq!(LEADER.admit(), Admission::Verify);
        let queues_full = true;
        let crowded = Standing {
            queues_full,
            ..LEADER
        };
        assert_eq!(crowded.admit(), Admission::Refuse(BUSY_QUEUE));
        for queues_full in [false, true] {
            let full = Standing {
                log_full: true,
                queues_full,
                ..LEADER
            };
            let busy = Some(BUSY_LOG_FULL);
            assert_eq!(full.admit(), Admission::Resend { busy });
            let barred = Standing {
                may_propose: false,
                queues_full,
                ..LEADER
            };
            let busy = Some(BUSY_NOT_READY);
            assert_eq!(barred.admit(), Admission::Resend { busy });
            for log_full in [false, true] {
                let follower = Standing {
                    is_leader: false,
                    may_propose: false,
                    log_full,
                    queues_full,
                };
                assert_eq!(follower.admit(), Admission::Resend { busy: None });
            }
        }
    }
}
