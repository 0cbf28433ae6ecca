//! What `wire` owns.

use wire::block::{BlockHeader, BlockRef};
use wire::certificates::{
    CertifiedVote, CheckpointCertificate, CompactHeader, NewViewCertificate, Place,
    QuorumCertificate, Signatures, Wish, WishCertificate,
};
use wire::ids::{Boot, Digest, Epoch, Instant, NodeId, Position, Signature, Slot, View};
use wire::limits::REPLICAS_MAX;
use wire::messages::{Durability, Held, SignedHeader, Status};
use wire::reject::Reject;
use wire::seal::{CheckedViewChange, Signed, SignedNewView, Statement, Verified, Verifier};
use wire::view_change::{NewView, ViewChange};
use zerocopy::{FromBytes, IntoBytes};

use super::{BadImage, Image, Sink, Source, image, image_enum};

macro_rules! newtypes {
    ($($name:ident),*) => { $(
        impl Image for $name {
            fn put<K: Sink>(&self, sink: &mut K) {
                self.0.put(sink);
            }

            fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
                Image::take(from).map($name)
            }
        }
    )* };
}
newtypes!(NodeId, Epoch, View, Slot, Boot, Position, Instant);

macro_rules! plain {
    ($($name:ident),*) => { $(
        impl Image for $name {
            fn put<K: Sink>(&self, sink: &mut K) {
                sink.put(self.as_bytes());
            }

            fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
                let bytes = from.bytes(size_of::<$name>())?;
                $name::read_from_bytes(bytes).map_err(|_| BadImage)
            }
        }
    )* };
}
plain!(Digest, Signature, BlockHeader, CompactHeader, SignedHeader);

image!(Place { slot, digest });
image!(BlockRef { view, slot, digest });
image!(Status {
    stage,
    installed,
    committed,
    committed_digest,
    voted_slot,
    voted_digest,
    checkpoint,
    retained_from,
    lease,
    flags,
    held,
});
image!(Held {
    statement,
    signature
});
image!(NewViewCertificate { view, base, acks });
image!(CheckpointCertificate {
    header,
    root,
    signatures
});
image!(Wish {
    by,
    view,
    boot,
    counter,
    signature
});
image!(WishCertificate { view, wishes });
image!(CertifiedVote {
    by,
    above,
    signature
});
image!(QuorumCertificate {
    view,
    block,
    above,
    votes
});
image!(ViewChange {
    view,
    replica,
    installed,
    certificate,
    checkpoint,
    suffix,
    tip_signature,
    quorum,
});
image!(NewView { view, base, chosen });
image!(Signed {
    by,
    statement,
    signature
});
image_enum!(Durability { 0 => Sync, 1 => Lease, 2 => None });
image_enum!(Statement {
    1 => Propose { view, slot, digest },
    2 => Vote { view, slot, digest },
    3 => Commit { view, slot, digest },
    4 => Wish { view, boot, counter },
    5 => Resign { view },
    6 => ViewChange { view, digest },
    7 => NewView { view, base_slot, base, digest },
    8 => NewViewAck { view, base_slot, base },
    9 => Checkpoint { slot, chain, root },
});

impl Image for Signatures {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.count().put(sink);
        for (by, signature) in self.iter() {
            by.put(sink);
            signature.put(sink);
        }
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        let mut signatures = Signatures::new();
        for _ in 0..usize::take(from)? {
            let by = NodeId::take(from)?;
            if by.index() >= REPLICAS_MAX {
                return Err(BadImage);
            }
            signatures.add(by, Signature::take(from)?);
        }
        Ok(signatures)
    }
}

impl Image for Reject {
    fn put<K: Sink>(&self, sink: &mut K) {
        (*self as u8).put(sink);
    }

    fn take<V: Verifier>(_: &mut Source<'_, V>) -> Result<Self, BadImage> {
        // Leaves the core only, and is compared, never read.
        Err(BadImage)
    }
}

/// Values whose signatures are checked again.
macro_rules! checked {
    ($($name:ident: $check:ident;)*) => { $(
        impl Image for Verified<$name> {
            fn put<K: Sink>(&self, sink: &mut K) {
                (**self).put(sink);
            }

            fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
                let value = Image::take(from)?;
                from.judge.$check(value).map_err(|_| BadImage)
            }
        }
    )* };
}

checked! {
    Signed: signed;
    WishCertificate: wish_certificate;
    NewViewCertificate: new_view_certificate;
    CheckpointCertificate: checkpoint_certificate;
}

impl Image for Verified<CheckedViewChange> {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.message.put(sink);
        self.signature.put(sink);
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        let (message, signature) = Image::take(from)?;
        let found = from.judge.view_change(message, signature);
        found.map_err(|_| BadImage)
    }
}

impl Image for Verified<SignedNewView> {
    fn put<K: Sink>(&self, sink: &mut K) {
        self.message.put(sink);
        self.signature.put(sink);
    }

    fn take<V: Verifier>(from: &mut Source<'_, V>) -> Result<Self, BadImage> {
        let (message, signature) = Image::take(from)?;
        let found = from.judge.new_view(message, signature);
        found.map_err(|_| BadImage)
    }
}
