//! The 80 bytes in front of every datagram, and what each kind of message is.
//!
//! One fixed layout for all directions; only `route` is read in three ways. Everything in it is
//! under the link MAC (`tag`, computed with the tag's own bytes zero). A message longer than one
//! datagram travels in fragments whose offsets count grains of [`GRAIN_BYTES`].

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Boot, Digest, NodeId, PublicKey, Slot, View};
use crate::limits::{
    BLOCK_MESSAGE_BYTES_MAX, DATAGRAM_BYTES_MAX, GRAIN_BYTES, KEY_BYTES_MAX, REQUEST_BYTES_MAX,
    RESULT_BYTES_MAX,
};
use crate::reject::Reject;
use crate::view_change::VIEW_CHANGE_BYTES_MAX;

/// First four bytes of every datagram.
pub const MAGIC: [u8; 4] = *b"HPD1";
/// Version of everything this crate lays out.
pub const VERSION: u8 = 1;
/// Bytes in front of every body.
pub const HEADER_BYTES: usize = 80;

/// Longest body of a message that never needs a second datagram.
const SMALL_BYTES_MAX: usize = 1024;
/// A certificate of the largest committee.
const CERTIFICATE_BYTES_MAX: usize = 4096;
/// One piece of a state that is transferred, and what names it.
const CHUNK_BYTES_MAX: usize = 65 * 1024;
/// A READ: its head and one operation of two keys.
const READ_BYTES_MAX: usize = 2 * KEY_BYTES_MAX + 256;
/// A REPLY or READ-REPLY: one long result and the runs around it.
pub const REPLY_BYTES_MAX: usize = RESULT_BYTES_MAX + 32 * 1024;

/// Which ends a kind of message travels between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    BetweenNodes,
    ToNode,
    ToClient,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $direction:ident, $bytes_max:expr;)*) => {
        /// Kind of a message. The numbers are part of the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            pub fn direction(self) -> Direction {
                match self {
                    $(Kind::$name => Direction::$direction,)*
                }
            }

            /// Longest message of this kind, in bytes.
            pub fn bytes_max(self) -> usize {
                match self {
                    $(Kind::$name => $bytes_max,)*
                }
            }
        }

        impl TryFrom<u8> for Kind {
            type Error = Reject;

            fn try_from(number: u8) -> Result<Kind, Reject> {
                match number {
                    $($number => Ok(Kind::$name),)*
                    _ => Err(Reject::UnknownKind),
                }
            }
        }
    };
}

kinds! {
    Status = 1, BetweenNodes, SMALL_BYTES_MAX;
    Propose = 2, BetweenNodes, BLOCK_MESSAGE_BYTES_MAX;
    Vote = 3, BetweenNodes, SMALL_BYTES_MAX;
    Commit = 4, BetweenNodes, SMALL_BYTES_MAX;
    Decided = 5, BetweenNodes, SMALL_BYTES_MAX;
    FetchBlock = 6, BetweenNodes, SMALL_BYTES_MAX;
    Block = 7, BetweenNodes, BLOCK_MESSAGE_BYTES_MAX;
    FetchRange = 8, BetweenNodes, SMALL_BYTES_MAX;
    Forward = 9, BetweenNodes, REQUEST_BYTES_MAX;
    Wish = 10, BetweenNodes, SMALL_BYTES_MAX;
    WishCertificate = 11, BetweenNodes, CERTIFICATE_BYTES_MAX;
    Resign = 12, BetweenNodes, SMALL_BYTES_MAX;
    Evidence = 13, BetweenNodes, SMALL_BYTES_MAX;
    ViewChange = 14, BetweenNodes, VIEW_CHANGE_BYTES_MAX + 64;
    NewView = 15, BetweenNodes, CERTIFICATE_BYTES_MAX;
    NewViewAck = 16, BetweenNodes, SMALL_BYTES_MAX;
    NewViewCertificate = 17, BetweenNodes, CERTIFICATE_BYTES_MAX;
    Checkpoint = 18, BetweenNodes, SMALL_BYTES_MAX;
    CheckpointCertificate = 19, BetweenNodes, CERTIFICATE_BYTES_MAX;
    Silent = 20, BetweenNodes, SMALL_BYTES_MAX;
    FetchViewChange = 21, BetweenNodes, SMALL_BYTES_MAX;
    FetchState = 22, BetweenNodes, SMALL_BYTES_MAX;
    Chunk = 23, BetweenNodes, CHUNK_BYTES_MAX;
    /// Opens a link; carries a cookie once the client has one.
    Hello = 64, ToNode, SMALL_BYTES_MAX;
    Open = 65, ToNode, SMALL_BYTES_MAX;
    Request = 66, ToNode, REQUEST_BYTES_MAX;
    Read = 67, ToNode, READ_BYTES_MAX;
    /// Stateless answer to a client that is not known here; the only kind without a MAC.
    Cookie = 96, ToClient, SMALL_BYTES_MAX;
    Welcome = 97, ToClient, SMALL_BYTES_MAX;
    Reply = 98, ToClient, REPLY_BYTES_MAX;
    Busy = 99, ToClient, SMALL_BYTES_MAX;
    ReadReply = 100, ToClient, REPLY_BYTES_MAX;
}

impl Kind {
    /// PROPOSE and BLOCK carry the same message: it always lands in a block buffer, and fragments
    /// of one complete the other.
    pub fn is_block(self) -> bool {
        matches!(self, Kind::Propose | Kind::Block)
    }
}

/// `route` between nodes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PeerRoute {
    boot: U32,
    peer_boot: U32,
    counter: U64,
    view: U64,
    slot: U64,
}

impl PeerRoute {
    pub fn new(boot: Boot, peer_boot: Boot, counter: u64, view: View, slot: Slot) -> PeerRoute {
        PeerRoute {
            boot: U32::new(boot.0),
            peer_boot: U32::new(peer_boot.0),
            counter: U64::new(counter),
            view: U64::new(view.0),
            slot: U64::new(slot.0),
        }
    }

    /// The sender's boot.
    pub fn boot(&self) -> Boot {
        Boot(self.boot.get())
    }

    /// The receiver's boot as the sender knows it; 0 when it has not heard the receiver.
    pub fn peer_boot(&self) -> Boot {
        Boot(self.peer_boot.get())
    }

    /// Grows with every datagram of this sender, boot and receiver.
    pub fn counter(&self) -> u64 {
        self.counter.get()
    }

    pub fn view(&self) -> View {
        View(self.view.get())
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }
}

/// `route` from a client to a node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ClientRoute {
    pub client: PublicKey,
}

/// `route` from a node to a client.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReplyRoute {
    client_prefix: U64,
    number: U64,
    view: U64,
    slot: U64,
}

impl ReplyRoute {
    pub fn new(client: &PublicKey, number: u64, view: View, slot: Slot) -> ReplyRoute {
        ReplyRoute {
            client_prefix: U64::new(client_prefix(client)),
            number: U64::new(number),
            view: U64::new(view.0),
            slot: U64::new(slot.0),
        }
    }

    /// First eight bytes of the client's key: which client of a shared socket is meant.
    pub fn client_prefix(&self) -> u64 {
        self.client_prefix.get()
    }

    /// What the answer answers: the Hello's number, a read's number, or 0.
    pub fn number(&self) -> u64 {
        self.number.get()
    }

    pub fn view(&self) -> View {
        View(self.view.get())
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }
}

const _: () = assert!(size_of::<PeerRoute>() == 32);
const _: () = assert!(size_of::<ClientRoute>() == 32);
const _: () = assert!(size_of::<ReplyRoute>() == 32);

/// First eight bytes of a client's key as a number.
pub fn client_prefix(client: &PublicKey) -> u64 {
    Digest(client.0).prefix()
}

/// Which client of a shared socket a datagram is meant for; nothing about it is checked.
pub fn reply_client_prefix(datagram: &[u8]) -> Option<u64> {
    let (header, _) = Header::ref_from_prefix(datagram).ok()?;
    let kind = Kind::try_from(header.kind).ok()?;
    (kind.direction() == Direction::ToClient).then(|| header.reply_route().client_prefix())
}

/// The fixed header. Numbers are little-endian.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    sender: U16,
    /// First bytes of the committee's digest.
    pub cluster_key: [u8; 8],
    route: [u8; 32],
    message: U64,
    offset: U16,
    length: U16,
    total: U32,
    pub tag: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(DATAGRAM_BYTES_MAX - HEADER_BYTES <= u16::MAX as usize);

/// Which part of which message a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Names the message among those of its sender; 0 will do when it fits one datagram.
    pub message: u64,
    /// Where the part begins, in grains.
    pub offset_grains: u16,
    /// Length of the whole message, in bytes.
    pub total: u32,
}

impl Fragment {
    /// A message in one datagram.
    pub fn whole(body: &[u8]) -> Fragment {
        Fragment {
            message: 0,
            offset_grains: 0,
            total: body.len() as u32,
        }
    }

    /// Offset of the part, in bytes.
    pub fn offset_bytes(&self) -> usize {
        usize::from(self.offset_grains) * GRAIN_BYTES
    }
}

/// Bytes of a message that one datagram of at most `datagram_bytes` carries: whole grains.
pub fn fragment_bytes(datagram_bytes: usize) -> usize {
    datagram_bytes.saturating_sub(HEADER_BYTES) / GRAIN_BYTES * GRAIN_BYTES
}

/// Grains of a message.
pub fn grain_count(total_bytes: usize) -> usize {
    total_bytes.div_ceil(GRAIN_BYTES)
}

/// The parts in which a message of `total_bytes` leaves: offset and byte range of each. A message
/// that fits one datagram is one part.
pub fn parts(
    total_bytes: usize,
    datagram_bytes: usize,
) -> impl Iterator<Item = (u16, std::ops::Range<usize>)> {
    let whole = total_bytes + HEADER_BYTES <= datagram_bytes;
    let step = if whole {
        total_bytes.max(1)
    } else {
        fragment_bytes(datagram_bytes).max(GRAIN_BYTES)
    };
    let count = total_bytes.div_ceil(step).max(1);
    (0..count).map(move |part| {
        let start = part * step;
        let offset_grains = (start / GRAIN_BYTES) as u16;
        (offset_grains, start..(start + step).min(total_bytes))
    })
}

/// Three of its grains and a header fill an Ethernet datagram.
const _: () = assert!(HEADER_BYTES + 3 * GRAIN_BYTES == crate::limits::DATAGRAM_BYTES_ETHERNET);

impl Header {
    /// A header with a zero tag.
    pub fn new(
        kind: Kind,
        sender: NodeId,
        cluster_key: [u8; 8],
        route: Route,
        fragment: Fragment,
        body_bytes: usize,
    ) -> Header {
        assert!(body_bytes + HEADER_BYTES <= DATAGRAM_BYTES_MAX);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(match &route {
            Route::Peer(route) => route.as_bytes(),
            Route::Client(route) => route.as_bytes(),
            Route::Reply(route) => route.as_bytes(),
        });
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            kind: kind as u8,
            sender: U16::new(sender.0),
            cluster_key,
            route: bytes,
            message: U64::new(fragment.message),
            offset: U16::new(fragment.offset_grains),
            length: U16::new(body_bytes as u16),
            total: U32::new(fragment.total),
            tag: [0; 16],
        };
        debug_assert_eq!(header.check_fragment(kind), Ok(()));
        header
    }

    /// Splits a datagram and checks everything that needs no knowledge of the cluster: magic,
    /// version, kind, direction, length, and that the part lies inside its message.
    pub fn split(datagram: &[u8]) -> Result<(&Header, Kind, &[u8]), Reject> {
        let (header, body) = Header::ref_from_prefix(datagram).map_err(|_| Reject::Truncated)?;
        if header.magic != MAGIC {
            return Err(Reject::BadMagic);
        }
        if header.version != VERSION {
            return Err(Reject::UnknownVersion);
        }
        let kind = Kind::try_from(header.kind)?;
        let from_client = header.sender() == NodeId::CLIENT;
        if from_client != (kind.direction() == Direction::ToNode) {
            return Err(Reject::WrongDirection);
        }
        if usize::from(header.length.get()) != body.len() {
            return Err(Reject::LengthMismatch);
        }
        header.check_fragment(kind)?;
        Ok((header, kind, body))
    }

    fn check_fragment(&self, kind: Kind) -> Result<(), Reject> {
        let total = self.total.get() as usize;
        let length = usize::from(self.length.get());
        if total > kind.bytes_max() {
            return Err(Reject::MessageTooLarge);
        }
        let end = self.fragment().offset_bytes() + length;
        if end > total {
            return Err(Reject::LengthMismatch);
        }
        if length == 0 && total != 0 {
            return Err(Reject::LengthMismatch);
        }
        if end < total && !length.is_multiple_of(GRAIN_BYTES) {
            return Err(Reject::FragmentMisaligned);
        }
        Ok(())
    }

    /// Whether the datagram carries its whole message.
    pub fn is_whole(&self) -> bool {
        self.offset.get() == 0 && u32::from(self.length.get()) == self.total.get()
    }

    pub fn sender(&self) -> NodeId {
        NodeId(self.sender.get())
    }

    pub fn fragment(&self) -> Fragment {
        Fragment {
            message: self.message.get(),
            offset_grains: self.offset.get(),
            total: self.total.get(),
        }
    }

    pub fn peer_route(&self) -> PeerRoute {
        zerocopy::transmute!(self.route)
    }

    pub fn client_route(&self) -> ClientRoute {
        zerocopy::transmute!(self.route)
    }

    pub fn reply_route(&self) -> ReplyRoute {
        zerocopy::transmute!(self.route)
    }

    /// The header's bytes as an array.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(*self)
    }
}

/// One of the three readings of a header's `route`.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    Peer(PeerRoute),
    Client(ClientRoute),
    Reply(ReplyRoute),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MESSAGE_BYTES_MAX;
    use proptest::prelude::*;

    fn sample() -> Header {
        let route = PeerRoute::new(Boot(1), Boot(2), 3, View(4), Slot(5));
        let fragment = Fragment {
            message: 0x0807_0605_0403_0201,
            offset_grains: 3,
            total: 2784,
        };
        Header::new(
            Kind::Propose,
            NodeId(2),
            [0xc1; 8],
            Route::Peer(route),
            fragment,
            1392,
        )
    }

    #[test]
    fn golden_bytes() {
        let mut golden = Vec::new();
        golden.extend(b"HPD1");
        golden.extend([1, 2, 2, 0]);
        golden.extend([0xc1; 8]);
        golden.extend([1, 0, 0, 0, 2, 0, 0, 0]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([5, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        golden.extend([3, 0, 0x70, 0x05, 0xe0, 0x0a, 0, 0]);
        golden.extend([0; 16]);
        assert_eq!(sample().to_bytes().as_slice(), golden);
    }

    #[test]
    fn routes_read_back() {
        let key = PublicKey(std::array::from_fn(|byte| byte as u8));
        let reply = ReplyRoute::new(&key, 9, View(8), Slot(7));
        assert_eq!(reply.client_prefix(), 0x0706_0504_0302_0100);
        let header = Header::new(
            Kind::Reply,
            NodeId(1),
            [0; 8],
            Route::Reply(reply),
            Fragment::whole(&[]),
            0,
        );
        assert_eq!(header.reply_route(), reply);
        assert_eq!(
            reply_client_prefix(&header.to_bytes()),
            Some(0x0706_0504_0302_0100)
        );
        let client = ClientRoute { client: key };
        let header = Header::new(
            Kind::Hello,
            NodeId::CLIENT,
            [0; 8],
            Route::Client(client),
            Fragment::whole(&[]),
            0,
        );
        assert_eq!(header.client_route().client, key);
        assert_eq!(reply_client_prefix(&header.to_bytes()), None);
    }

    #[test]
    fn kinds_round_trip_and_others_are_refused() {
        for number in 0..=u8::MAX {
            match Kind::try_from(number) {
                Ok(kind) => assert_eq!(kind as u8, number),
                Err(reject) => assert_eq!(reject, Reject::UnknownKind),
            }
        }
        assert_eq!(Kind::ALL.len(), 32);
    }

    #[test]
    fn malformed_headers_have_their_reasons() {
        let body = [7u8; 1392];
        let mut datagram = sample().to_bytes().to_vec();
        datagram.extend(body);
        assert!(Header::split(&datagram).is_ok());
        let damaged = |at: usize, byte: u8| {
            let mut copy = datagram.clone();
            copy[at] = byte;
            Header::split(&copy).map(|_| ()).unwrap_err()
        };
        assert_eq!(damaged(0, b'X'), Reject::BadMagic);
        assert_eq!(damaged(4, 2), Reject::UnknownVersion);
        assert_eq!(damaged(5, 0), Reject::UnknownKind);
        assert_eq!(damaged(5, Kind::Request as u8), Reject::WrongDirection);
        assert_eq!(damaged(58, 0), Reject::LengthMismatch);
        assert_eq!(damaged(56, 4), Reject::LengthMismatch);
        assert_eq!(damaged(63, 1), Reject::MessageTooLarge);
        assert_eq!(
            Header::split(&datagram[..79]).unwrap_err(),
            Reject::Truncated
        );
        datagram[58..60].copy_from_slice(&1391u16.to_le_bytes());
        datagram.pop();
        assert_eq!(
            Header::split(&datagram).unwrap_err(),
            Reject::FragmentMisaligned
        );
    }

    #[test]
    fn grains_per_datagram() {
        assert_eq!(fragment_bytes(1472), 3 * 464);
        assert_eq!(fragment_bytes(1471), 2 * 464);
        assert_eq!(fragment_bytes(65_507), 141 * 464);
        assert_eq!(fragment_bytes(79), 0);
        assert_eq!(parts(0, 1472).collect::<Vec<_>>(), [(0, 0..0)]);
        assert_eq!(parts(1392, 1472).collect::<Vec<_>>(), [(0, 0..1392)]);
        assert_eq!(
            parts(1393, 1472).collect::<Vec<_>>(),
            [(0, 0..1392), (3, 1392..1393)]
        );
    }

    proptest! {
        #[test]
        fn parts_cover_a_message_once(
            total in 0usize..MESSAGE_BYTES_MAX,
            datagram in 600usize..DATAGRAM_BYTES_MAX,
        ) {
            let mut end = 0;
            for (offset_grains, range) in parts(total, datagram) {
                prop_assert_eq!(range.start, end);
                prop_assert_eq!(usize::from(offset_grains) * GRAIN_BYTES, range.start);
                prop_assert!(range.len() + HEADER_BYTES <= datagram);
                end = range.end;
            }
            prop_assert_eq!(end, total);
        }
    }
}
