//! Inputs and effects.

use super::{image, image_enum};
use crate::input::{
    BlockCheck, Effect, Evidence, Input, Large, Recipient, Record, Source as From, Way,
};
use crate::tree::{RecordAs, Validity};

image_enum!(From { 0 => Proposed, 1 => Fetched, 2 => Vouched });
image_enum!(BlockCheck { 0 => Good, 1 => ForeignSignature, 2 => InvalidPayload });
image_enum!(RecordAs { 0 => Vote, 1 => Fetched });
image_enum!(Validity { 0 => Unknown, 1 => Valid, 2 => Invalid });
image_enum!(Recipient { 0 => All, 1 => One(to) });
image_enum!(Way { 0 => Fast, 1 => Slow, 2 => Learned });
image!(Evidence {
    kind,
    first,
    second
});
image_enum!(Large {
    0 => ViewChange(message),
    1 => NewView(message),
    2 => WishCertificate(message),
    3 => NewViewCertificate(message),
    4 => CheckpointCertificate(message),
});
image_enum!(Record {
    0 => ViewChange(message),
    1 => NewView(message),
    2 => Ack(signed),
    3 => Install(certificate),
    4 => Skip { view, place },
    5 => Commit(certificate),
    6 => Checkpoint(certificate),
    7 => Lease { view, slot },
});
image_enum!(Input {
    1 => Block { from, source, header, signature, digest },
    2 => Own { header, signature, digest },
    3 => Checked { place, signature, found },
    4 => Appended { place, end },
    5 => Recorded { end },
    6 => Durable { position },
    7 => Vote { from, vote, signature },
    8 => Signed(signed),
    9 => Decided { from, slot, digest },
    10 => Status { from, status },
    11 => ViewChange(message),
    12 => NewView(message),
    13 => WishCertificate(found),
    14 => NewViewCertificate(found),
    15 => CheckpointCertificate(found),
    16 => Evidence { view },
    17 => FetchBlock { from, place, have, grains },
    18 => FetchRange { from, first, count },
    19 => FetchViewChange { from, digest },
    20 => Executed { slot },
    21 => Root { slot, root },
    22 => Installed { certificate },
    23 => Tick,
    24 => Silent { from, lease },
    25 => Unsound { signed },
});
image_enum!(Effect {
    1 => Append { place, kind, verify },
    2 => Hold { place },
    3 => Refuse { slot, reject },
    4 => Forget { place },
    5 => Record(record),
    6 => Say { to, signed },
    7 => Tell { to, message },
    8 => Status { to, status },
    9 => Decided { to, slot },
    10 => FetchBlock { to, place, have },
    11 => FetchRange { to, first, count },
    12 => FetchViewChange { to, digest },
    13 => Ancestors { to, place, have },
    14 => Blocks { to, first, last },
    15 => Grains { to, place },
    16 => Final { place, way },
    17 => Installed { view },
    18 => Evidence(evidence),
    19 => Stable { slot },
    20 => Transfer(certificate),
    22 => Silent { lease },
    21 => Diverged { slot, own, certified },
});
