//! Why bytes of a peer or client were refused. Each reason has a name and a counter.

macro_rules! rejects {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// A reason to refuse bytes. Refused bytes change no state and grow no memory.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reject {
            $($(#[$doc])* $name,)*
        }

        impl Reject {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reject] = &[$(Reject::$name,)*];

            /// The reason as metrics and logs spell it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reject::$name => $text,)*
                }
            }
        }
    };
}

rejects! {
    // Header and link.
    Truncated => "truncated",
    BadMagic => "bad_magic",
    UnknownVersion => "unknown_version",
    UnknownKind => "unknown_kind",
    LengthMismatch => "length_mismatch",
    ForeignCluster => "foreign_cluster",
    NotInCommittee => "not_in_committee",
    FromOurselves => "from_ourselves",
    BadMac => "bad_mac",
    OldBoot => "old_boot",
    StalePeerBoot => "stale_peer_boot",
    Replayed => "replayed",
    UnknownClient => "unknown_client",
    ClientNotAdmitted => "client_not_admitted",
    BadCookie => "bad_cookie",
    WrongDirection => "wrong_direction",
    WeakKey => "weak_key",
    // Discovery.
    /// A claim of an earlier incarnation, or a second one of the same.
    StaleIncarnation => "stale_incarnation",
    /// No address in a claim is one that this node could send to.
    BadAddress => "bad_address",
    // Fragments.
    MessageTooLarge => "message_too_large",
    FragmentMisaligned => "fragment_misaligned",
    FragmentMismatch => "fragment_mismatch",
    NoBuffer => "no_buffer",
    // Signatures and forms.
    BadSignature => "bad_signature",
    TooFewSignatures => "too_few_signatures",
    ReservedNotZero => "reserved_not_zero",
    TrailingBytes => "trailing_bytes",
    BodyMalformed => "body_malformed",
    // Requests.
    RequestTruncated => "request_truncated",
    RequestTooLarge => "request_too_large",
    RequestEmpty => "request_empty",
    RequestUnknownKind => "request_unknown_kind",
    OperationTruncated => "operation_truncated",
    OperationUnknown => "operation_unknown",
    OperationMalformed => "operation_malformed",
    KeyTooLong => "key_too_long",
    ValueTooLong => "value_too_long",
    TxnTooManyParts => "txn_too_many_parts",
    ResultMalformed => "result_malformed",
    // Blocks and agreement.
    PayloadDigestMismatch => "payload_digest_mismatch",
    PayloadTooLarge => "payload_too_large",
    WrongEpoch => "wrong_epoch",
    WrongView => "wrong_view",
    WrongSlot => "wrong_slot",
    OutsideWindow => "outside_window",
    NotLeader => "not_leader",
    AlreadyHeld => "already_held",
    ConflictingBlock => "conflicting_block",
    Improper => "improper",
    /// An answer to no question of ours.
    NotAsked => "not_asked",
    // Load.
    QueueFull => "queue_full",
    RateLimited => "rate_limited",
}

/// Number of reasons; the size of a counter array.
pub const REJECT_COUNT: usize = Reject::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_dense() {
        let mut names: Vec<_> = Reject::ALL.iter().map(|reject| reject.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REJECT_COUNT);
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, index);
        }
    }
}
