//! A participant's own account of its positions, its places and their slots.

use core::cell::Cell;

use super::layout::MOST_PLACES;
use super::memory::{QueueMemory, Site};
use super::refused::Refused;
use super::words::{ROUND, index};

/// A participant, as it knows itself. All of this is in the process's own memory.
///
/// *Invariants, whatever peers write:*
/// 1. *The slot in each of `words` exists.*
/// 2. *The slots in the places that are in use, but not returned, are all different, once
///    [`slot`](QueueMemory::slot) has named them.* There may be references to these slots. So code
///    that makes a reference gets the slot from that function.
#[derive(Debug, Clone)]
pub(crate) struct Participant {
    pub(crate) id: usize,
    /// Where the participant's record is.
    pub(crate) site: Site,
    /// Positions in the ring of items. Everything before `head` was got, everything before `tail`
    /// put. A subscriber's `head` is its own cursor.
    pub(crate) head: Cell<u64>,
    pub(crate) tail: Cell<u64>,
    /// What it knows of the subscribers of a broadcast.
    pub(crate) limit: Limit,
    /// The places that are in use, as bits: loaned, received, or left with a returned task and not
    /// reclaimed since.
    pub(crate) busy: Cell<u64>,
    /// The busy places that were last seen with a returned task.
    pub(crate) returned: Cell<u64>,
    /// How often in a row the participant could not find out whether all tasks are finished.
    pub(crate) unknown: Cell<u32>,
    /// What the participant has left in each of its places. The places in shared memory tell others
    /// the same, and are not read back. Only those with returned tasks are, since others take the
    /// tasks out of them.
    words: [Cell<u64>; MOST_PLACES as usize],
    /// The block that the slot in each of the places has, plus 1; 0: none. See
    /// [`blocks`](super::blocks).
    blocks: [Cell<u32>; MOST_PLACES as usize],
}

/// What a sender to a [`broadcast`](super::broadcast) remembers of the subscribers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limit {
    /// The first position that a cursor may hold up. 0 if nothing is known.
    pub(crate) at: Cell<u64>,
    /// The count of subscriptions for which this is so.
    pub(crate) subscriptions: Cell<u64>,
}

impl Participant {
    /// Returns a participant whose places have the slots that they begin with.
    pub(crate) fn new(memory: &QueueMemory, id: usize) -> Self {
        let site = memory.site_of(id);
        let first = memory.config.first_slot(id);
        Participant {
            id,
            site,
            head: Cell::new(ROUND),
            tail: Cell::new(ROUND),
            limit: Limit::default(),
            busy: Cell::new(0),
            returned: Cell::new(0),
            unknown: Cell::new(0),
            words: core::array::from_fn(|place| Cell::new(ROUND | (first + place) as u64)),
            blocks: [const { Cell::new(0) }; MOST_PLACES as usize],
        }
    }

    /// Returns the participant's own copy of the word in a place.
    #[inline(always)]
    pub(crate) fn word(&self, place: usize) -> &Cell<u64> {
        // There are no more places than that: the remainder saves a comparison.
        &self.words[place % MOST_PLACES as usize]
    }

    /// Returns the block that the slot in a place has, plus 1.
    #[inline(always)]
    pub(crate) fn block(&self, place: usize) -> &Cell<u32> {
        // As for `word`.
        &self.blocks[place % MOST_PLACES as usize]
    }

    /// Returns whether the slot in another place than this one has the block.
    pub(super) fn has_block(&self, block: usize, except: usize) -> bool {
        let has_it = |place: usize| self.blocks[place].get() as usize == block + 1;
        (0..self.blocks.len()).any(|place| place != except && has_it(place))
    }

    /// Returns whether a slot is in one of these places, and there may be a reference to it. Places
    /// with a returned task do not count: the participant that takes the task may have put the slot
    /// anywhere since.
    #[inline(never)]
    fn refers_to(&self, slot: usize, places: u64) -> bool {
        let mut left = places & !self.returned.get();
        while left != 0 {
            if index(self.word(left.trailing_zeros() as usize).get()) == slot {
                return true;
            }
            left &= left - 1;
        }
        false
    }
}

impl QueueMemory {
    /// Returns the slot in a place of the participant's own, for a caller that is going to use what
    /// is in the slot.
    ///
    /// The number comes from the participant's own account, but it got there from shared memory:
    /// out of an entry, or a place. A peer may have written there the number of a slot that this
    /// participant is using already. Two references to one slot would be unsound if one of them is
    /// `&mut`, so that is refused.
    ///
    /// Other threads of this process are not asked. That would take an atomic exchange for each
    /// item that is held, which costs as much as the rest. And nothing would be gained: a peer that
    /// writes numbers of slots into the words of a queue can as well write into what is loaned,
    /// which no check sees.
    #[inline(always)]
    pub(crate) fn slot(&self, participant: &Participant, place: usize) -> Result<usize, Refused> {
        self.slot_beside(participant, place, participant.busy.get() & !(1 << place))
    }

    /// Does the same for a place that is not in use.
    #[inline(always)]
    pub(crate) fn slot_in_free(
        &self,
        participant: &Participant,
        place: usize,
    ) -> Result<usize, Refused> {
        self.slot_beside(participant, place, participant.busy.get())
    }

    #[inline(always)]
    fn slot_beside(
        &self,
        participant: &Participant,
        place: usize,
        others: u64,
    ) -> Result<usize, Refused> {
        let slot = index(participant.word(place).get());
        if others != 0 && participant.refers_to(slot, others) {
            Err(Refused::Corrupt)
        } else {
            Ok(slot)
        }
    }
}
