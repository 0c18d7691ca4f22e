//! One exchange of a slot, and who owns what after a death.
//!
//! An operation is one exchange on the ring, but the owners of the slots afterwards are recorded in
//! two places: the entry, and the participant's place. The exchange cannot change both. So a
//! participant first *announces* the exchange that it is going to try (`site`, then `seen`).
//! Afterwards it *completes* the exchange. It notes its id in the slot that it got (`taker`),
//! stores that slot in its place, and takes the announcement back. The buriers of a dead
//! participant, one or several at once ([`settle`](QueueMemory::settle)), find out whether the
//! announced exchange happened. They judge by what the living leave behind anyway:
//!
//! 1. The place has the slot that was wanted: the exchange happened, and was completed.
//! 2. The word is as it was seen: the exchange did not happen. The word never comes back to that.
//! 3. The word has the dead participant's slot: the exchange happened. Only the dead participant
//!    could put that slot there. The rest of the word may differ: the entry may have been sealed
//!    since, or items of its batch got. That changes no owner ([`batches`](super::batches)), so it
//!    is neither announced nor settled.
//! 4. Otherwise the word went on. If the exchange happened, another participant took the dead one's
//!    slot from there. Either it still announces just that, or it noted itself as the slot's taker
//!    before it took its announcement back. Any later taker of the slot has noted itself, too. If
//!    the exchange did not happen, the slot is still the dead participant's, which is noted as its
//!    taker.
//!
//! None of this changes while the dead participant is not settled, so all buriers get the same
//! answer. The word has gone on for good. The dead participant's slot is in its place or gone. What
//! others leave behind they do not take back before the next of them has left the same. Only the
//! first burier to complete the exchange changes anything (see [`burying`](super::burying)).
//!
//! No other participant's operation waits for this: a dead participant has some spare slots, and
//! nothing that others need. Step 4 reads the `taker` last, because an announcement is taken back
//! after the taker is noted. A settled announcement stays until the next participant with that id
//! comes.

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::looks::Looks;
use super::memory::QueueMemory;
use super::participant::Participant;
use super::refused::Refused;
use super::words::{exchanged, index, is_noted, with};

/// `seen`, of a participant that tries nothing.
pub(crate) const NOTHING: u64 = 0;

impl QueueMemory {
    /// Announces the exchange that is going to be tried. Returns the place's word.
    #[inline(always)]
    pub(crate) fn announce(
        &self,
        participant: &Participant,
        place: usize,
        at: usize,
        seen: u64,
    ) -> Result<u64, Refused> {
        // The slot in the place exists: invariant 1 of `Participant`. The other slot is checked
        // here.
        let word = participant.word(place).get();
        if !self.has_slot(self.slot_in(seen)) {
            return Err(Refused::Corrupt);
        }
        let record = self.record_at(participant.site);
        // Release, both: pair with the Acquire loads in `happened`.
        record.site.store(at as u64 | (place as u64) << 32, Release);
        record.seen.store(seen, Release);
        Ok(word)
    }

    /// Tries the exchange that was announced, which makes `after` of the entry. Returns whether it
    /// happened.
    #[inline(always)]
    pub(crate) fn swap(
        &self,
        participant: &Participant,
        cell: &AtomicU64,
        seen: u64,
        after: u64,
    ) -> bool {
        // AcqRel: pairs with itself, and with the loads of entries. SeqCst besides: see `end`.
        let is_done = cell.compare_exchange(seen, after, SeqCst, Relaxed).is_ok();
        if !is_done {
            // Release: so that the site is not changed before this.
            self.record_at(participant.site).seen.store(NOTHING, Release);
        }
        is_done
    }

    /// Completes an exchange by which a slot was got for a place. `word` is the place's word; the
    /// place gets `flags` with the slot. The slot exists: it was checked before it was announced.
    #[inline(always)]
    pub(crate) fn complete(
        &self,
        participant: &Participant,
        place: usize,
        word: u64,
        slot: usize,
        flags: u64,
    ) {
        // Release, all three: pair with the Acquire loads in `happened` and `settle`, which are in
        // the reverse order.
        self.note_taker(slot, participant.id);
        self.place_at(participant.site, place).store(with(word, flags, slot), Release);
        self.record_at(participant.site).seen.store(NOTHING, Release);
        participant.word(place).set(with(word, flags, slot));
    }

    /// Returns whether the slot of the get that a participant announces is still there to be got,
    /// or was got by the participant in an exchange that is not completed. As for `happened`, the
    /// participant must not go on meanwhile.
    ///
    /// The answer means nothing once the looks are spent.
    pub(crate) fn is_about_task(&self, id: usize, seen: u64, looks: &mut Looks) -> bool {
        let site = self.record(id).site.load(Acquire);
        let (Some(cell), Some(place)) = (self.cell(site as u32 as usize), self.announced_place(id))
        else {
            return false;
        };
        if self.is_letter(site) {
            return false;
        }
        // Acquire, both: as in `happened`.
        let spare = index(self.place(id, place).load(Acquire));
        // If the slot is in the place, it was got. Its task was not finished while the slot is
        // still announced.
        if cell.load(Acquire) == seen || spare == index(seen) {
            return true;
        }
        self.has_slot(spare) && looks.take(self.used()) && self.happened(id, seen, spare)
    }

    pub(crate) fn announced_place(&self, id: usize) -> Option<usize> {
        let place = (self.record(id).site.load(Acquire) >> 32) as usize;
        (place < self.config.places as usize).then_some(place)
    }

    pub(crate) fn is_letter(&self, site: u64) -> bool {
        (self.config.capacity as usize..self.config.entries()).contains(&(site as u32 as usize))
    }

    /// Returns whether the exchange that `id` announces, with the slot `spare` of its own, has
    /// happened. The participant must not go on meanwhile, or the answer may be about either of two
    /// attempts.
    pub(crate) fn happened(&self, id: usize, seen: u64, spare: usize) -> bool {
        let at = self.record(id).site.load(Acquire) as u32;
        let Some(cell) = self.cell(at as usize) else { return false };
        let after = exchanged(seen, spare);
        // Acquire: pairs with the Release of the exchanges. All announcements before the exchange
        // that is seen here are seen below.
        let now = cell.load(Acquire);
        // Compared by its slot: the entry may have been sealed since, or items of a batch got.
        if now == seen || self.slot_in(now) == spare {
            return now != seen;
        }
        let announces = |other: usize| {
            let record = self.record(other);
            // Acquire: pair with the Releases in `announce` and `complete`. The second look at
            // `seen`: the site was this announcement's.
            let theirs = record.seen.load(Acquire);
            theirs & !self.taken_bits() == after
                && record.site.load(Acquire) as u32 == at
                && record.seen.load(Acquire) == theirs
        };
        (0..self.used()).any(|other| other != id && announces(other))
            || !is_noted(self.taker(spare).load(Acquire), id)
    }
}
