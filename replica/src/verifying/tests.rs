//! What verification costs, and whom.

use wire::block::{BlockPrefix, payload_digest};
use wire::bytes::{HeapBuffers, HeapShared};
use wire::ids::{Boot, Digest, Epoch, PublicKey};
use wire::limits::RECORD_HEADER_BYTES;
use wire::messages::{VoteBody, WishBody};
use wire::request::encode_open;
use zerocopy::IntoBytes;

use super::*;

const GOOD: Signature = Signature([1; 64]);
const BAD: Signature = Signature([2; 64]);
const LIAR: NodeId = NodeId(3);
const LYING_CLIENT: PublicKey = PublicKey([7; 32]);
const RULES: Rules = Rules {
    n: 4,
    slow: 3,
    view_change: 3,
    window: WINDOW,
    epoch: Epoch(0),
    genesis: wire::certificates::Place::NONE,
};

#[derive(Clone)]
struct Judge;

impl Verifier for Judge {
    fn member(&self, _: NodeId, _: &Statement, found: &Signature) -> Result<(), Reject> {
        if *found == GOOD {
            Ok(())
        } else {
            Err(Reject::BadSignature)
        }
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        if request.client().0[8..] == LYING_CLIENT.0[8..] {
            Err(Reject::BadSignature)
        } else {
            Ok(())
        }
    }
}

#[derive(Debug, PartialEq)]
enum Fit {
    Good,
    /// But for its leader's signature, which was not asked for.
    Unsigned,
    /// As its leader signed it.
    Unsound,
    Bad,
}

struct Desk {
    verifying: Verifying<Judge>,
    now: Instant,
}

impl Desk {
    fn new() -> Desk {
        Desk {
            verifying: Verifying::new(Judge, RULES),
            now: Instant(1),
        }
    }

    /// Whether the words were taken as their sender's.
    fn hears(&mut self, from: NodeId, kind: Kind, slot: Slot, body: &[u8]) -> bool {
        let view = View(4);
        let body = HeapShared::copy_from(body);
        let job: Job<HeapBuffers> = Job::Message {
            from,
            kind,
            view,
            slot,
            body,
        };
        let verdict = self.verifying.handle(self.now, job);
        matches!(verdict, Verdict::Agreement(_))
    }

    fn hears_wish(&mut self, from: NodeId, signature: Signature) -> bool {
        let body = WishBody::new(Boot(1), 1, signature);
        self.hears(from, Kind::Wish, Slot(0), body.as_bytes())
    }

    fn hears_vote(&mut self, slot: Slot) -> bool {
        let digest = Digest([5; 32]);
        let body = VoteBody {
            digest,
            signature: GOOD,
        };
        self.hears(LIAR, Kind::Vote, slot, body.as_bytes())
    }

    /// The checks that a block of these requests takes, and whether it holds.
    fn fetches(&mut self, slot: Slot, signature: Signature, payload: &[u8]) -> (u64, Fit) {
        let digest = payload_digest(payload);
        self.fetches_as(slot, signature, payload, digest, false)
    }

    fn fetches_as(
        &mut self,
        slot: Slot,
        signature: Signature,
        payload: &[u8],
        digest: Digest,
        vouched: bool,
    ) -> (u64, Fit) {
        let header = BlockHeader::new(Epoch(0), View(0), slot, 0, Digest::ZERO, digest);
        let prefix = BlockPrefix::new(header, signature, payload.len());
        let digest = header.digest();
        let place = Place { slot, digest };
        let message = [prefix.as_bytes(), payload].concat();
        let mut buffer = HeapBuffers { bytes_each: 4096 }.take().unwrap();
        buffer[RECORD_HEADER_BYTES..][..message.len()].copy_from_slice(&message);
        let raw = Raw {
            buffer,
            message_bytes: message.len(),
        };
        let from = LIAR;
        let job: Job<HeapBuffers> = Job::Fetched(Offer {
            from,
            place,
            raw,
            vouched,
        });
        let before = self.verifying.signatures();
        let verdict = self.verifying.handle(self.now, job);
        let checks = self.verifying.signatures() - before;
        match verdict {
            Verdict::Fetched { unsigned: None, .. } => (checks, Fit::Good),
            Verdict::Fetched { .. } => (checks, Fit::Unsigned),
            Verdict::Unfit {
                checks: told,
                unsound,
                ..
            } => {
                assert_eq!(told, checks);
                let unsound = unsound.map(|signed| signed.header.digest());
                assert!(unsound.is_none_or(|digest| digest == place.digest));
                (told, unsound.map_or(Fit::Bad, |_| Fit::Unsound))
            }
            _ => panic!("a block is judged as one"),
        }
    }
}

#[test]
fn a_client_that_signs_badly_is_throttled_alone() {
    let mut desk = Desk::new();
    let outcome = |desk: &mut Desk, client| {
        let mut bytes = Vec::new();
        encode_open(&mut bytes, client, Slot(0));
        let job: Job<HeapBuffers> = Job::Request(HeapShared::copy_from(&bytes));
        match desk.verifying.handle(desk.now, job) {
            Verdict::Rejected(reject) => Some(reject),
            _ => None,
        }
    };
    for _ in 0..CLIENT.at_once {
        assert_eq!(outcome(&mut desk, LYING_CLIENT), Some(Reject::BadSignature));
    }
    for _ in 0..100 {
        assert_eq!(outcome(&mut desk, LYING_CLIENT), Some(Reject::RateLimited));
    }
    assert_eq!(desk.verifying.signatures(), CLIENT.at_once);
    assert_eq!(outcome(&mut desk, PublicKey([8; 32])), None);
    desk.now = desk.now.after_ns(1_000_000_000 / CLIENT.per_s);
    assert_eq!(outcome(&mut desk, LYING_CLIENT), Some(Reject::BadSignature));
    assert_eq!(outcome(&mut desk, LYING_CLIENT), Some(Reject::RateLimited));
    // Many keys: what is remembered stays bounded.
    for number in 0..2 * CLIENTS_MAX as u64 {
        let mut key = LYING_CLIENT;
        key.0[..8].copy_from_slice(&number.to_le_bytes());
        assert_eq!(outcome(&mut desk, key), Some(Reject::BadSignature));
    }
    assert_eq!(desk.verifying.clients.len(), CLIENTS_MAX);
}

/// §9.1: well-signed words that change nothing cost signatures all the same.
#[test]
fn valid_words_of_a_peer_are_checked_so_often_in_a_second_and_others_are_not_hurt() {
    let mut desk = Desk::new();
    let heard = |desk: &mut Desk| (0..20_000).filter(|_| desk.hears_wish(LIAR, GOOD)).count();
    assert_eq!(heard(&mut desk) as u64, WORDS.at_once);
    let checked = desk.verifying.signatures();
    assert!(!desk.hears_wish(LIAR, GOOD));
    assert_eq!(desk.verifying.signatures(), checked);
    assert!(desk.hears_wish(NodeId(1), GOOD));
    desk.now = desk.now.after_ns(1_000_000_000);
    assert_eq!(heard(&mut desk) as u64, WORDS.per_s);
}

#[test]
fn bad_signatures_cost_many_times_as_much() {
    let mut desk = Desk::new();
    for _ in 0..20_000 {
        assert!(!desk.hears_wish(LIAR, BAD));
    }
    let most = WORDS.at_once.div_ceil(1 + COST_OF_BAD);
    assert_eq!(desk.verifying.signatures(), most);
}

/// What is refused before any signature is checked was read all the same.
#[test]
fn long_words_cost_their_reading() {
    let mut desk = Desk::new();
    let garbage = vec![7; 64 * 1024];
    let mut read = 0;
    for _ in 0..20_000 {
        let body = HeapShared::copy_from(&garbage);
        let job: Job<HeapBuffers> = Job::Message {
            from: LIAR,
            kind: Kind::ViewChange,
            view: View(4),
            slot: Slot(0),
            body,
        };
        let verdict = desk.verifying.handle(desk.now, job);
        read += u64::from(!matches!(verdict, Verdict::Rejected(Reject::RateLimited)));
    }
    assert_eq!(desk.verifying.signatures(), 0);
    let cost = 1 + garbage.len() as u64 / BYTES_OF_ONE;
    assert_eq!(read, WORDS.at_once.div_ceil(cost));
}

/// A correct replica votes once a slot, however many slots there are in a second.
#[test]
fn votes_further_on_in_the_window_are_free_and_no_others() {
    let mut desk = Desk::new();
    for slot in 1..=3 * WORDS.at_once {
        desk.verifying.note_decided(Slot(slot - 1));
        assert!(desk.hears_vote(Slot(slot)), "{slot}");
    }
    assert!(desk.hears_wish(LIAR, GOOD));
    // The same again, and those beyond the window, are paid for.
    let decided = desk.verifying.decided;
    let repeats = (0..20_000).filter(|_| desk.hears_vote(decided)).count();
    assert_eq!(repeats as u64, WORDS.at_once - 1);
    let mut desk = Desk::new();
    let ahead = (1..=20_000).filter(|slot| desk.hears_vote(Slot(*slot)));
    assert_eq!(ahead.count() as u64, WORDS.at_once + WINDOW);
}

#[test]
fn the_cost_of_a_block_is_what_was_checked() {
    let mut desk = Desk::new();
    let mut payload = Vec::new();
    for client in [PublicKey([8; 32]), LYING_CLIENT, PublicKey([9; 32])] {
        encode_open(&mut payload, client, Slot(0));
    }
    let good = &payload[..payload.len() / 3];
    assert_eq!(desk.fetches(Slot(5), GOOD, &[]), (1, Fit::Good));
    assert_eq!(desk.fetches(Slot(5), GOOD, good), (2, Fit::Good));
    assert_eq!(desk.fetches(Slot(5), BAD, &payload), (1, Fit::Bad));
    assert_eq!(desk.fetches(Slot(5), GOOD, &payload), (3, Fit::Unsound));
    // Another payload than the header names: no word of the leader's, and read all the same.
    let other = desk.fetches_as(Slot(5), GOOD, good, Digest([9; 32]), false);
    assert_eq!(other, (1, Fit::Bad));
    // What something else names needs no signature of its leader, and good requests.
    for (payload, expected) in [(good, (2, Fit::Unsigned)), (&payload, (3, Fit::Bad))] {
        let digest = payload_digest(payload);
        let found = desk.fetches_as(Slot(5), BAD, payload, digest, true);
        assert_eq!(found, expected);
    }
    assert_eq!(desk.verifying.signatures(), 13);
    desk.verifying.note_decided(Slot(5));
    assert_eq!(desk.fetches(Slot(5), GOOD, good), (0, Fit::Bad));
}

#[test]
fn forwarded_requests_have_an_account_of_their_own() {
    let mut desk = Desk::new();
    let mut heard = 0;
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        encode_open(&mut bytes, PublicKey([8; 32]), Slot(0));
        let (from, body) = (LIAR, HeapShared::copy_from(&bytes));
        let job: Job<HeapBuffers> = Job::Forwarded { from, body };
        let verdict = desk.verifying.handle(desk.now, job);
        heard += u64::from(matches!(verdict, Verdict::Forwarded { .. }));
    }
    assert_eq!(heard, FORWARDS.at_once);
    assert!(desk.hears_wish(LIAR, GOOD));
}
