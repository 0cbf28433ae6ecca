//! What becomes of a client's request before any signature work (§9.4): the one rule of the node and
//! of the simulated replica.

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

#[cfg(test)]
mod tests {
    use super::*;

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
