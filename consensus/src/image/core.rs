//! The whole state of a core.

use wire::seal::{Signer, Verifier};

use super::{BadImage, Image, Sink, Source, image, image_enum};
use crate::core::{Config, Core};
use crate::quorum::Quorums;
use crate::signing::Noting;
use crate::speak::Spoken;

image!(Quorums {
    n,
    b,
    u,
    p,
    exclusion
});
image!(Config {
    me,
    quorums,
    epoch,
    genesis,
    boot,
    blocks_held_max,
    interval,
    patience_ns_min,
    replaces_slow_leaders,
    batch_delay_ns,
    durability,
    sign_votes,
    transfer_beyond,
});
image_enum!(Spoken {
    1 => Ground,
    2 => ViewChange(message),
    3 => NewView(message),
    4 => Ack(signed),
    5 => Commit(signed, word),
    6 => Stable(slot),
    7 => Lease(slot),
});

/// Every field but the signer, and the rules, which follow from the configuration.
macro_rules! core_image {
    ($($field:ident),* $(,)?) => {
        impl<S: Signer> Core<S> {
            /// Puts the whole state into `sink`. The largest part are the known blocks, about
            /// 200 bytes each.
            pub fn put_image<K: Sink>(&self, sink: &mut K) {
                let Core { rules: _, signer: _, config, $($field),* } = self;
                config.put(sink);
                $($field.put(sink);)*
            }

            /// The core of which the image was made, but for its signer. The image begins with the
            /// configuration.
            pub fn take_image<V: Verifier>(
                signer: S,
                from: &mut Source<'_, V>,
            ) -> Result<Core<S>, BadImage> {
                let config = Config::take(from)?;
                let rules = Core::<S>::rules(&config);
                $(let $field = Image::take(from)?;)*
                Ok(Core { rules, signer: Noting::new(signer), config, $($field),* })
            }
        }
    };
}
core_image!(
    stage,
    installed,
    restarted_in,
    tree,
    branch,
    base,
    certificate,
    ground_end,
    recorded,
    tip,
    quorum,
    durable,
    backed,
    valid,
    voted,
    decided,
    decided_in,
    executed,
    low,
    checkpoint,
    newest_checkpoint,
    next_checkpoint,
    statements,
    roots,
    retained_from,
    epoch_end,
    transferring,
    final_place,
    durable_position,
    voting_stopped,
    lease,
    diverged,
    recall,
    started,
    stopping,
    log_full,
    look_elsewhere,
    now,
    holds_unlinked,
    own_vote,
    own_commit,
    books,
    peers,
    repair,
    timers,
    pace,
    pending_since,
    request_overdue,
    wishing,
    change,
    view_changes,
    new_views,
    acks,
    accused,
    unplaced,
    awaiting,
);
