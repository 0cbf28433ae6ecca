//! How blocks of other replicas are taken in: linked to the branch, held, or refused with a reason.

use std::collections::BTreeSet;

use wire::block::BlockHeader;
use wire::canary::{planted, reach};
use wire::certificates::Place;
use wire::ids::{Digest, Instant, NodeId, Signature, Slot, View};
use wire::limits::IN_FLIGHT;
use wire::messages::{EVIDENCE_EQUIVOCATION, EVIDENCE_IMPROPER, SignedHeader};
use wire::reject::Reject;
use wire::seal::Signer;

use crate::change::Change;
use crate::core::Core;
use crate::input::{Effect, Evidence, Outbox, Source};
use crate::tree::{Crowded, Entry, RecordAs, Validity};

impl<S: Signer> Core<S> {
    pub(crate) fn on_block(
        &mut self,
        now: Instant,
        from: NodeId,
        source: Source,
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
        out: &mut Outbox,
    ) {
        let slot = header.slot();
        let place = Place { slot, digest };
        let entry = Entry {
            header,
            signature,
            signature_good: source == Source::Fetched,
            digest,
            validity: if source == Source::Proposed {
                Validity::Unknown
            } else {
                Validity::Valid
            },
            record: None,
            end: None,
            linked_at: now,
        };
        let outcome = self.admissible(from, source, &entry, out);
        let outcome = outcome.and_then(|()| {
            self.insert(entry, out)
                .map_err(|Crowded| Reject::ConflictingBlock)
        });
        if let Err(reject) = outcome {
            out.push(Effect::Refuse { slot, reject });
            self.link_all(None, out);
            return;
        }
        if source != Source::Proposed {
            self.note_help(now, from, place);
        }
        if planted("doublevote") && header.view() == self.installed {
            self.vote_anew(place);
        }
        let linked = self.link_all(Some(place), out);
        if linked {
            return;
        }
        if self.is_sought(place) {
            // Part of a chain that this replica must hold: into the log at once.
            self.append(place, RecordAs::Fetched, out);
            self.pursue_goal(out);
        } else {
            self.holds_unlinked = true;
            out.push(Effect::Hold { place });
        }
    }

    /// N9: what is known of such a block keeps it from being judged again, and a view change from waiting
    /// for it (V2). One that was written here is judged here.
    pub(crate) fn on_unsound(&mut self, now: Instant, signed: SignedHeader, out: &mut Outbox) {
        let (header, digest) = (signed.header, signed.header.digest());
        let entry = Entry {
            header,
            signature: signed.signature,
            signature_good: true,
            digest,
            validity: Validity::Invalid,
            record: None,
            end: None,
            linked_at: now,
        };
        if self.in_reach(Source::Fetched, &header).is_err() {
            return;
        }
        if let Some(rival) = self.rival_of(&entry) {
            self.accuse(EVIDENCE_EQUIVOCATION, &entry, &rival, out);
        }
        if (self.installed..=self.stage).contains(&header.view()) {
            self.accused = self.accused.max(Some(header.view()));
        }
        if self.tree.get(entry.place()).is_none() {
            // It takes no other block's room.
            let _ = self.tree.insert(entry, |_| true);
        }
    }

    /// Another block of the same view and slot.
    fn rival_of(&self, entry: &Entry) -> Option<Entry> {
        let (view, place) = (entry.header.view(), entry.place());
        let mut held = self.tree.at(place.slot).copied();
        held.find(|held| held.header.view() == view && held.place() != place)
    }

    /// Whether a block that its leader did not sign, in the copies that there are, is that leader's all the
    /// same, or final (§11, R2): its digest stands in a block above it of its own view, which the same
    /// leader signed; or it is the base of the installed view, final, what a new view is about to begin on,
    /// or below one of these, for which q replicas stand or the leader's signature on the tip of the view
    /// change that shows it (that may be a block above it, SELECT-5); or b + 1 replicas claim it.
    /// A block of another view proves nothing: its leader could name whatever it likes.
    pub fn is_vouched(&self, view: View, place: Place) -> bool {
        let mut above = self.tree.at(place.slot.next());
        let names = |held: &Entry| {
            let own = held.header.view() == view && held.validity == Validity::Valid;
            own && held.parent() == place
        };
        let is_settled = || {
            let below_base = place.slot <= self.base.slot && self.base_is_linked();
            (place.slot <= self.decided.slot || below_base) && self.branch.holds(place)
        };
        let is_claimed = || !self.claimed(|claimed| *claimed == place).is_empty();
        above.any(names)
            || is_settled()
            || self.targets().any(|target| self.leads_to(target, place))
            || is_claimed()
    }

    /// Whether `place` is `target` or lies below it.
    pub(crate) fn leads_to(&self, target: Place, place: Place) -> bool {
        let chain = self.tree.down_from(target);
        let mut chain = chain.take_while(|entry| entry.header.slot() > place.slot);
        target == place || chain.any(|entry| entry.parent() == place)
    }

    /// Whether a block is here, whatever is known of it.
    pub fn knows(&self, place: Place) -> bool {
        self.tree.get(place).is_some()
    }

    /// The planted bug `doublevote`: what was voted at the slot of a second block is forgotten.
    fn vote_anew(&mut self, place: Place) {
        let below = Slot(place.slot.0 - 1);
        let parent = self.branch.place_at(below);
        if let Some(parent) = parent.filter(|_| below >= self.decided.slot.max(self.base.slot)) {
            self.cut(below);
            (self.recorded, self.tip, self.voted) = (parent, parent, None);
            self.own_vote = None;
        }
    }

    /// Puts a block into the tree; one that it supersedes is forgotten.
    pub(crate) fn insert(&mut self, entry: Entry, out: &mut Outbox) -> Result<(), Crowded> {
        let slot = entry.header.slot();
        let branch = &self.branch;
        let claims = self.claims_at(slot);
        let needs = |held: &Entry| {
            let place = held.place();
            branch.holds(place) || claims.contains(&Some(place))
        };
        let stage = self.stage;
        let recent = |held: &Entry| {
            let may_serve = held.header.view() == stage && held.validity != Validity::Invalid;
            needs(held) || may_serve
        };
        // The walks above are for the rare slot with several blocks. Many rivals of one view are
        // the work of its leader; they keep out a proposal, and nothing that others named.
        let wanted = entry.validity == Validity::Valid && self.is_sought(entry.place());
        let superseded = match self.tree.insert(entry, recent) {
            Err(Crowded) if wanted => self.tree.insert(entry, needs)?,
            outcome => outcome?,
        };
        if let Some(place) = superseded {
            out.push(Effect::Forget { place });
        }
        self.look_elsewhere = true;
        Ok(())
    }

    /// Blocks of a slot that are needed off the branch: on the chains of the own tip and of the own
    /// vote records, of what is chased, and of what this replica acknowledged and must give to others (V3).
    fn claims_at(&self, slot: Slot) -> [Option<Place>; 4] {
        self.claims().map(|top| {
            let chain = self.tree.down_from(top?);
            let above = chain.take_while(|entry| entry.header.slot() >= slot);
            above.last().map(Entry::place)
        })
    }

    /// The tops of the chains that are needed beside the branch.
    fn claims(&self) -> [Option<Place>; 4] {
        let acked = self.change.as_ref().and_then(Change::acked);
        let sought = self.sought().map(|(target, _)| target);
        [Some(self.tip), Some(self.recorded), sought, acked]
    }

    /// Buffers are scarce: drops blocks that share a slot with another and that nothing here needs.
    /// A leader can send several of each slot, and words of a liar make others wanted; should one
    /// of them turn out to be the chain of the others after all, it is asked for again (§11).
    pub fn forget_rivals(&mut self, out: &mut Outbox) {
        let first = self.decided.slot.next();
        let last = self.executed.0 + self.config.blocks_held_max;
        let mut claimed = BTreeSet::new();
        for top in self.claims().into_iter().flatten() {
            let chain = self.tree.down_from(top).map(Entry::place);
            // Where one chain meets another, the rest is known.
            for place in chain.take_while(|place| place.slot >= first) {
                if !claimed.insert(place) {
                    break;
                }
            }
        }
        for slot in (first.0..=last).map(Slot) {
            if self.tree.at(slot).count() < 2 {
                continue;
            }
            let rivals = self.tree.at(slot).map(Entry::place);
            let is_needed = |place: &Place| self.branch.holds(*place) || claimed.contains(place);
            let rivals = rivals.filter(|place| !is_needed(place)).collect::<Vec<_>>();
            for place in rivals {
                reach("rivals-forgotten");
                self.tree.remove(place);
                out.push(Effect::Forget { place });
            }
        }
    }

    /// Whether a BLOCK is worth the signatures that it takes to judge it. What passes may still be
    /// refused once it is judged. `leads_on`: its child is being judged.
    pub fn would_take(
        &self,
        header: &BlockHeader,
        signature: &Signature,
        digest: Digest,
        leads_on: bool,
    ) -> Result<(), Reject> {
        let (view, slot) = (header.view(), header.slot());
        let place = Place { slot, digest };
        self.in_reach(Source::Fetched, header)?;
        let held = self.tree.get(place);
        // A copy that was taken because something vouches for it may still be replaced by a signed one.
        let same = |held: &Entry| held.validity == Validity::Valid && held.signature == *signature;
        let kept = |held: &Entry| held.signature_good || held.record.is_some() || same(held);
        if held.is_some_and(kept) {
            return Err(Reject::AlreadyHeld);
        }
        if leads_on {
            return Ok(());
        }
        if self.accused >= Some(view) && self.is_improper(header) && !self.is_asked_for(place) {
            return Err(Reject::Improper);
        }
        let rival = self.tree.at(slot).find(|held| {
            let other = held.digest != digest;
            other && held.header.view() == view && !held.is_hearsay()
        });
        self.has_use(Source::Fetched, view, place, rival)
    }

    /// Whether the log holds this block, as far as the core remembers.
    pub fn has_written(&self, place: Place) -> bool {
        let entry = self.tree.get(place);
        entry.is_some_and(|entry| entry.end.is_some())
    }

    /// Whether the leader's signature on the copy of this block that the caller keeps is known to be
    /// good.
    pub fn is_signed(&self, place: Place) -> bool {
        self.tree
            .get(place)
            .is_some_and(|entry| entry.signature_good)
    }

    /// Whether the requests of this block were found to hold.
    pub fn is_valid(&self, place: Place) -> bool {
        self.tree
            .get(place)
            .is_some_and(|entry| entry.validity == Validity::Valid)
    }

    fn admissible(
        &mut self,
        from: NodeId,
        source: Source,
        entry: &Entry,
        out: &mut Outbox,
    ) -> Result<(), Reject> {
        let header = &entry.header;
        let (view, place) = (header.view(), entry.place());
        self.in_reach(source, header)?;
        let leader = self.leader(view);
        if source == Source::Proposed && (leader == self.config.me || from != leader) {
            return Err(Reject::NotLeader);
        }
        if source == Source::Proposed && self.voting_stopped && self.accused >= Some(view) {
            // Its leader was caught, with a block that does not hold for one: nothing of this view is
            // voted for here any more, and each would cost the log a record before it is checked. What
            // the others decide comes by BLOCK.
            reach("proposal-of-the-accused");
            return Err(Reject::Improper);
        }
        if let Some(held) = self.tree.get(place) {
            let unchecked = !held.signature_good && held.record.is_none();
            if !entry.signature_good || !unchecked {
                return Err(Reject::AlreadyHeld);
            }
            // The leader's signature, which the digest does not bind, was never checked on the copy
            // held here: this one takes its place, bytes and all, before it can be written.
            self.tree.remove(place);
            out.push(Effect::Forget { place });
        }
        let rival = self.rival_of(entry);
        if source == Source::Vouched {
            // Its leader's word is what names it.
            if !self.is_vouched(view, place) {
                return Err(Reject::BadSignature);
            }
            reach("vouched-copy-taken");
        } else {
            if let Some(rival) = &rival {
                self.accuse(EVIDENCE_EQUIVOCATION, entry, rival, out);
            }
            self.accuse_if_improper(from, entry, out)?;
        }
        let rival = rival.filter(|rival| !rival.is_hearsay());
        self.has_use(source, view, place, rival.as_ref())
    }

    /// What this replica can hold at all, by its place.
    fn in_reach(&self, source: Source, header: &BlockHeader) -> Result<(), Reject> {
        if header.epoch() != self.config.epoch {
            return Err(Reject::WrongEpoch);
        }
        if header.view() > self.stage {
            return Err(Reject::WrongView);
        }
        if header.slot() <= self.decided.slot {
            return Err(Reject::AlreadyHeld);
        }
        if self.is_beyond_the_epoch(header.slot()) {
            return Err(Reject::WrongEpoch);
        }
        let held_max = self.executed.0 + self.config.blocks_held_max;
        // The window bounds votes. A replica whose checkpoint is old must still be able to fetch
        // its way up to a newer one, for nobody sends it those between any more.
        let limit = match source {
            Source::Proposed => held_max.min(self.window_end().0),
            Source::Fetched | Source::Vouched => held_max,
        };
        if header.slot().0 > limit {
            return Err(Reject::OutsideWindow);
        }
        if self.log_full {
            return Err(Reject::QueueFull);
        }
        Ok(())
    }

    /// Whether a block within reach may be needed here; `rival` is another one of its view and slot.
    fn has_use(
        &self,
        source: Source,
        view: View,
        place: Place,
        rival: Option<&Entry>,
    ) -> Result<(), Reject> {
        // A proposal that is held and whose signature nobody checked yet must not keep a good block
        // out: whatever a liar sent first, the chain that others decided has to fit in (§11).
        let known_rival = rival.filter(|rival| rival.signature_good || source == Source::Proposed);
        let is_news = known_rival.is_none() && view >= self.installed;
        let wanted = || source != Source::Proposed && self.is_asked_for(place);
        if is_news || wanted() || planted("doublevote") {
            Ok(())
        } else if rival.is_some() {
            Err(Reject::ConflictingBlock)
        } else if place.slot <= self.base.slot || self.is_sought(place) {
            // Of an older view, below the base: another replica's word for what was decided.
            Ok(())
        } else {
            Err(Reject::WrongView)
        }
    }

    fn is_asked_for(&self, place: Place) -> bool {
        self.is_sought(place) || self.is_named(place)
    }

    /// Of the installed view, right above the top, and not its child.
    fn is_improper(&self, header: &BlockHeader) -> bool {
        let top = self.branch.top();
        let above = header.view() == self.installed
            && header.slot() == top.slot.next()
            && self.base_is_linked()
            && top.slot >= self.base.slot;
        above && header.parent != top.digest
    }

    /// N9: a block of the installed view right above the top, but not its child.
    fn accuse_if_improper(
        &mut self,
        from: NodeId,
        entry: &Entry,
        out: &mut Outbox,
    ) -> Result<(), Reject> {
        if !self.is_improper(&entry.header) {
            return Ok(());
        }
        let top = self.branch.top();
        let below = self.tree.get(top).copied();
        match below.filter(|below| below.header.view() == self.installed) {
            Some(below) => {
                self.accuse(EVIDENCE_IMPROPER, entry, &below, out);
                // The top may be the wrong one of two.
                if self.is_asked_for(entry.place()) {
                    return Ok(());
                }
            }
            // Not on the base of the view; from the leader's own link that is its own word.
            None if from == self.leader(self.installed) => {
                self.accused = self.accused.max(Some(self.installed));
            }
            None => {}
        }
        Err(Reject::Improper)
    }

    /// Whether a word of some replica names this block.
    pub(crate) fn is_named(&self, place: Place) -> bool {
        let books = self.books.iter();
        let mut words = books
            .flat_map(|book| book.votes.iter().chain(&book.commits))
            .chain(self.peers.iter().map(|peer| &peer.claims));
        words.any(|words| {
            let mut held = [words.unlinked, words.lowest].into_iter().flatten();
            held.any(|word| word.place == place)
        })
    }

    /// Writes a block of the tree into the log.
    pub(crate) fn append(&mut self, place: Place, kind: RecordAs, out: &mut Outbox) {
        let entry = self.tree.get_mut(place).expect("appends what it knows");
        assert!(entry.record.is_none(), "R2: one record for one block");
        entry.record = Some(kind);
        let verify = entry.validity == Validity::Unknown;
        out.push(Effect::Append {
            place,
            kind,
            verify,
        });
    }

    /// Links every block that now has its parent, in order. Says whether `offered` was among them.
    pub(crate) fn link_all(&mut self, offered: Option<Place>, out: &mut Outbox) -> bool {
        let mut among = false;
        let mut any = false;
        while let Some(place) = self.next_link() {
            any = true;
            among |= offered == Some(place);
            self.link(place, out);
        }
        if any {
            let top = self.branch.top().slot;
            let above = (top.0 + 1..=top.0 + 2 * IN_FLIGHT).map(Slot);
            self.holds_unlinked = self.holds_unlinked
                && above
                    .into_iter()
                    .any(|slot| self.tree.at(slot).next().is_some());
            self.relink_words();
        }
        among
    }

    /// The block to put on top of the branch, if there is one. Above the base only blocks of the
    /// installed view follow; below it those of older ones, the newest first.
    fn next_link(&self) -> Option<Place> {
        let top = self.branch.top();
        let slot = top.slot.next();
        let fits = |entry: &&Entry| {
            if entry.header.parent != top.digest || entry.validity == Validity::Invalid {
                return false;
            }
            match slot.cmp(&self.base.slot) {
                std::cmp::Ordering::Less => entry.header.view() < self.installed,
                std::cmp::Ordering::Equal => entry.place() == self.base,
                std::cmp::Ordering::Greater => {
                    entry.header.view() == self.installed && self.base_is_linked()
                }
            }
        };
        let fitting = self.tree.at(slot).filter(fits);
        fitting
            .max_by_key(|entry| entry.header.view())
            .map(Entry::place)
    }

    fn link(&mut self, place: Place, out: &mut Outbox) {
        let parent = self.branch.top();
        let now = self.now;
        let entry = self.tree.get_mut(place).expect("links what it knows");
        entry.linked_at = now;
        let entry = *entry;
        let in_view = entry.header.view() == self.installed && place.slot > self.base.slot;
        let as_vote = in_view
            && self.may_vote()
            && self.recorded == parent
            && place.slot <= self.claim_limit();
        match entry.record {
            None if as_vote => self.append(place, RecordAs::Vote, out),
            None => self.append(place, RecordAs::Fetched, out),
            Some(_) => {}
        }
        let entry = self.tree.get(place).expect("links what it knows");
        if entry.record == Some(RecordAs::Vote) && self.recorded == parent && in_view {
            self.recorded = place;
        }
        self.branch.push(place);
    }

    /// Replaces the branch above its fork with the chain of `target`, all of which is known.
    pub(crate) fn switch_to(&mut self, target: Place, out: &mut Outbox) {
        let fork = self.branch.fork(&self.tree, target);
        let fork = fork.expect("the chain of the target is known");
        assert!(fork.slot >= self.decided.slot, "I7: decided blocks stay");
        let chain = self.tree.down_from(target).map(Entry::place);
        let chain = chain.take_while(|place| place.slot > fork.slot);
        let chain = chain.collect::<Vec<_>>();
        self.cut(fork.slot);
        for place in chain.into_iter().rev() {
            self.link(place, out);
        }
        self.relink_words();
        self.link_all(None, out);
    }

    /// Cuts the branch above `keep`. The blocks stay known, and what was said for them.
    pub(crate) fn cut(&mut self, keep: Slot) {
        assert!(keep >= self.decided.slot, "decided blocks stay");
        if keep >= self.branch.top().slot {
            return;
        }
        for book in &mut self.books {
            for words in book.words() {
                words.before_cut(&self.branch, keep);
            }
        }
        for peer in &mut self.peers {
            peer.claims.before_cut(&self.branch, keep);
        }
        self.branch.cut(keep);
        self.durable = self.durable.min(keep);
        self.backed = self.backed.min(keep);
        self.valid = self.valid.min(keep);
    }

    pub(crate) fn relink_words(&mut self) {
        self.look_elsewhere = true;
        for book in &mut self.books {
            for words in book.words() {
                words.relink(&self.branch, &self.tree);
            }
        }
        for peer in &mut self.peers {
            peer.claims.relink(&self.branch, &self.tree);
        }
    }

    /// N9: hands out two headers of the leader of the installed view that contradict each other. The
    /// caller verifies both signatures before it stores them. Both are that leader's word, whatever
    /// their signatures are worth: a proposal is taken from the leader's own link alone, anything
    /// else with its signature verified. So the view is given up in any case; and proof is sought
    /// once where a signature may turn out to be none, or a leader could have it sought for ever.
    fn accuse(&mut self, kind: u8, first: &Entry, second: &Entry, out: &mut Outbox) {
        if first.header.view() != self.installed {
            return;
        }
        let proven = first.signature_good && second.signature_good;
        if proven || self.accused != Some(self.installed) {
            let (first, second) = (first.signed(), second.signed());
            out.push(Effect::Evidence(Evidence {
                kind,
                first,
                second,
            }));
        }
        self.accused = self.accused.max(Some(self.installed));
    }
}
