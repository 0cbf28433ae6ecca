//! Every bound of the product in one place. Peers must agree on those in the committee's digest.

/// Largest committee.
pub const REPLICAS_MAX: usize = 31;

/// Payload bytes of a UDP datagram over IPv4 at most.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Payload bytes of a UDP datagram that an Ethernet frame of MTU 1500 carries.
pub const DATAGRAM_BYTES_ETHERNET: usize = 1_472;

/// Unit of fragmentation: three of them and a header fill an Ethernet frame.
pub const GRAIN_BYTES: usize = 464;

/// Payload bytes of a block at most: its requests, end to end.
pub const BLOCK_PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Bytes that a PROPOSE or BLOCK message has in front of the payload.
pub const BLOCK_PREFIX_BYTES: usize = 256;
/// A whole block message.
pub const BLOCK_MESSAGE_BYTES_MAX: usize = BLOCK_PREFIX_BYTES + BLOCK_PAYLOAD_BYTES_MAX;
/// Any message that may travel in fragments.
pub const MESSAGE_BYTES_MAX: usize = BLOCK_MESSAGE_BYTES_MAX;
/// Grains of the largest message.
pub const GRAINS_MAX: usize = MESSAGE_BYTES_MAX.div_ceil(GRAIN_BYTES);

/// A request message, all its transactions and its signature, at most.
pub const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// Transactions in one request.
pub const BUNDLE_MAX: usize = 256;
/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Conditions, and operations, in one transaction of the kind `txn`.
pub const TXN_PARTS_MAX: usize = 64;
/// Entries that one scan returns.
pub const SCAN_ENTRIES_MAX: usize = 1024;
/// Bytes of one result; a scan stops before it passes this.
pub const RESULT_BYTES_MAX: usize = 96 * 1024;

/// Sectors of the log.
pub const SECTOR_BYTES: usize = 4096;
/// Room for the header of a log record in front of every block buffer.
pub const RECORD_HEADER_BYTES: usize = 128;
/// A block buffer: record header and whole message, in whole sectors.
pub const BLOCK_BUFFER_BYTES: usize =
    (RECORD_HEADER_BYTES + BLOCK_MESSAGE_BYTES_MAX).next_multiple_of(SECTOR_BYTES);

/// Slots between checkpoints (K).
pub const CHECKPOINT_INTERVAL: u64 = 1024;
/// Slots above the own stable checkpoint in which votes are sent (W).
pub const WINDOW: u64 = 2 * CHECKPOINT_INTERVAL;
/// Proposed, undecided blocks of one leader at most (D).
pub const IN_FLIGHT: u64 = 32;
/// The leader sends at once while fewer own blocks than this are undecided (N1). The protocol page
/// says 4; measured on two cores with four nodes, 1 doubles the transactions of a block under load
/// and costs an idle cluster nothing (ARCHITECTURE.md, "Where measurement changed the plan").
pub const EAGER_BLOCKS: u64 = 1;

/// Headers above the block of a quorum certificate at most.
pub const CERTIFICATE_HEADERS_MAX: usize = 256;
/// Views and slots that a peer may name: sums with them never overflow.
pub const VIEW_MAX: u64 = 1 << 62;
pub const SLOT_MAX: u64 = 1 << 46;

/// Sessions kept (S_max).
pub const SESSIONS_MAX: usize = 4096;
/// First sequence of a request at most: arithmetic on sequences never overflows.
pub const SEQUENCE_MAX: u64 = 1 << 63;
/// Requests per session that are remembered (M).
pub const SESSION_WINDOW: u64 = 1024;
/// Bytes of a result that a session caches in full (R_max); of a longer one its digest.
pub const CACHED_RESULT_BYTES_MAX: usize = 64;
/// An OPEN lives for this many slots after the slot it names.
pub const OPEN_LIFETIME_SLOTS: u64 = 1 << 20;
/// Verified requests waiting at a leader (P_max), in transactions.
pub const PENDING_MAX: usize = 65_536;

/// Blocks that one repair answer carries at most.
pub const REPAIR_BLOCKS_MAX: u64 = 64;
/// Remembered datagram counters per peer and boot.
pub const REPLAY_WINDOW: u64 = 2048;
/// Evidence items kept.
pub const EVIDENCE_MAX: usize = 64;
/// Key-hash buckets of the state (K1).
pub const STATE_BUCKETS: u32 = 4096;

const _: () = assert!(WINDOW >= 2 * CHECKPOINT_INTERVAL);
const _: () = assert!(IN_FLIGHT <= WINDOW && EAGER_BLOCKS <= IN_FLIGHT);
const _: () = assert!(REQUEST_BYTES_MAX <= BLOCK_PAYLOAD_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(RESULT_BYTES_MAX > VALUE_BYTES_MAX);
const _: () = assert!(BLOCK_BUFFER_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(BUNDLE_MAX as u64 <= SESSION_WINDOW);
