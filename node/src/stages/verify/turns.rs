//! Whether a fetched block is judged next, or what came by the network: words of others and requests
//! of clients. After a block these have as many signatures as it took, so neither keeps the other
//! waiting for more than what it takes itself.

/// A job that takes no signature counts as so small a part of one.
const PARTS: u64 = 64;

/// See the module's documentation. Counts of signatures are of all that were checked so far.
#[derive(Debug, Default)]
pub struct Turns {
    last: Last,
    /// Signatures before the last job.
    before: u64,
    /// Parts of signatures that the network may still take.
    owed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Last {
    #[default]
    Network,
    Fetched,
}

impl Turns {
    fn settle(&mut self, signatures: u64) {
        let spent = PARTS * (signatures - self.before);
        self.before = signatures;
        self.owed = match std::mem::take(&mut self.last) {
            Last::Fetched => self.owed.max(spent),
            Last::Network => self.owed.saturating_sub(spent.max(1)),
        };
    }

    /// Whether what came by the network is next.
    pub fn is_of_network(&mut self, signatures: u64) -> bool {
        self.settle(signatures);
        self.owed > 0
    }

    /// A job of the network is begun.
    pub fn begin_network(&mut self, signatures: u64) {
        (self.last, self.before) = (Last::Network, signatures);
    }

    /// A fetched block is begun.
    pub fn begin_fetched(&mut self, signatures: u64) {
        (self.last, self.before) = (Last::Fetched, signatures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many jobs of each kind in so many turns, when both always wait and take so many signatures.
    fn share(turns: u64, of_block: u64, of_word: u64) -> (u64, u64) {
        let mut queue = Turns::default();
        let (mut signatures, mut blocks, mut words) = (0, 0, 0);
        for _ in 0..turns {
            if queue.is_of_network(signatures) {
                queue.begin_network(signatures);
                signatures += of_word;
                words += 1;
            } else {
                queue.begin_fetched(signatures);
                signatures += of_block;
                blocks += 1;
            }
        }
        (blocks, words)
    }

    #[test]
    fn both_take_as_many_signatures() {
        let (blocks, words) = share(100_000, 200, 1);
        assert!(blocks > 0 && words.abs_diff(200 * blocks) <= 200);
        let (blocks, words) = share(1_000, 1, 1);
        assert_eq!(blocks, words);
    }

    /// Words that are refused unread do not use the turn of those that are not.
    #[test]
    fn what_takes_no_signature_hardly_counts() {
        let (blocks, words) = share(100_000, 200, 0);
        assert!(blocks > 0 && words.abs_diff(200 * PARTS * blocks) <= 200 * PARTS);
    }

    #[test]
    fn a_block_that_is_refused_unread_owes_nothing() {
        let mut queue = Turns::default();
        queue.begin_fetched(5);
        assert!(!queue.is_of_network(5));
    }
}
