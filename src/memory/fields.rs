//! What lies where in a region, as far as it can be handed out by itself: a table on the header
//! page.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 120 | 8 | how many fields there are; 0: the region does not tell |
//! | 128 | 32 each | a field's offset in the contents, the size of one, how many, the fingerprint |
//!
//! The fields are those of [`Fields`](super::shared::Fields), in the order of their offsets. They
//! share no byte.
//!
//! Any participant may write any of it at any time. So it is read once, and compared with what this
//! process believes of the region ([`claim`](super::claim)).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::shared::{Field, MOST_FIELDS};

/// Returns how many bytes of a field are in a range.
fn overlap(field: &Field, start: u64, end: u64) -> u64 {
    field.end().min(end).saturating_sub(field.offset.max(start))
}

/// Returns whether a value with these fields is at an offset: each of its own is there, and no
/// other is where it has padding.
pub(crate) fn is_there(fields: &[Field], wanted: &[Field], at: u64, size: u64) -> bool {
    let Some(end) = at.checked_add(size) else { return false };
    let in_range: u64 = fields.iter().map(|field| overlap(field, at, end)).sum();
    let own: u64 = wanted.iter().map(|field| field.size * field.count).sum();
    own == in_range && wanted.iter().all(|&field| has(fields, field, at))
}

/// Returns whether all of a field are at an offset further on.
fn has(fields: &[Field], wanted: Field, further: u64) -> bool {
    let (mut next, mut left) = (wanted.offset + further, wanted.count);
    while left != 0 {
        let there = fields.iter().find(|field| (field.offset..field.end()).contains(&next));
        let Some(there) = there.filter(|there| {
            there.size == wanted.size
                && there.fingerprint == wanted.fingerprint
                && (next - there.offset) % there.size == 0
        }) else {
            return false;
        };
        left -= left.min((there.end() - next) / there.size);
        next = there.end();
    }
    true
}

/// The table, as it lies on the header page. All accesses are Relaxed: the header's `initialised`
/// orders them.
#[repr(C)]
pub(crate) struct Table {
    count: AtomicU64,
    fields: [[AtomicU64; 4]; MOST_FIELDS],
}

impl Table {
    /// Writes the fields of a new region, which are no more than there is room for.
    pub(crate) fn store(&self, fields: &[Field]) {
        for (to, &Field { offset, size, count, fingerprint }) in self.fields.iter().zip(fields) {
            to.iter()
                .zip([offset, size, count, fingerprint])
                .for_each(|(to, number)| to.store(number, Relaxed));
        }
        self.count.store(fields.len() as u64, Relaxed);
    }

    /// Returns the fields of a region whose contents have `len` bytes: none if it does not tell, or
    /// if there cannot be such fields.
    pub(crate) fn load(&self, len: u64) -> Vec<Field> {
        let count = self.count.load(Relaxed);
        let mut before = 0;
        let mut fields = Vec::new();
        for from in self.fields.iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
            let [offset, size, count, fingerprint] = from.each_ref().map(|from| from.load(Relaxed));
            let field = Field { offset, size, count, fingerprint };
            match field.checked_end() {
                Some(end) if before <= offset && offset < end && end <= len => before = end,
                _ => return Vec::new(),
            }
            fields.push(field);
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU8, AtomicU32};

    use super::*;
    use crate::memory::shared::{Fields, Fingerprint, Shared};
    use crate::{Event, Lock, shared};

    shared! {
        struct Inner {
            small: AtomicU8,
            lock: Lock<u64>,
        }
    }

    shared! {
        struct Outer {
            counters: [[AtomicU32; 3]; 2],
            pairs: [Inner; 2],
            event: Event,
        }
    }

    fn field<T: Shared>(offset: usize, count: u64) -> Field {
        let (offset, size) = (offset as u64, size_of::<T>() as u64);
        Field { offset, size, count, fingerprint: Fingerprint::of::<T>() }
    }

    #[test]
    fn a_struct_is_told_by_its_fields() {
        let pairs = core::mem::offset_of!(Outer, pairs);
        let lock = core::mem::offset_of!(Inner, lock);
        let expected = [
            field::<AtomicU32>(0, 6),
            field::<AtomicU8>(pairs, 1),
            field::<Lock<u64>>(pairs + lock, 1),
            field::<AtomicU8>(pairs + size_of::<Inner>(), 1),
            field::<Lock<u64>>(pairs + size_of::<Inner>() + lock, 1),
            field::<Event>(core::mem::offset_of!(Outer, event), 1),
        ];
        assert_eq!(Fields::of::<Outer>().unwrap(), expected);
        assert_eq!(Fields::of_slice::<AtomicU32>(1 << 40).unwrap()[0].count, 1 << 40);
        assert!(Fields::of_slice::<[AtomicU32; 0]>(usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn more_than_there_is_room_for_are_not_told() {
        assert_eq!(Fields::of::<[Inner; 62]>().unwrap().len(), MOST_FIELDS);
        assert!(Fields::of::<[[Inner; 31]; 2]>().is_some());
        assert!(Fields::of_slice::<Inner>(63).is_none());
        assert!(Fields::of_slice::<Inner>(usize::MAX).is_none());
        assert!(Fields::of::<[[Inner; 63]; 1]>().is_none());
        assert!(Fields::of::<[[Inner; 63]; 0]>().unwrap().is_empty());
    }

    #[test]
    fn what_is_there_has_the_same_type_and_nothing_in_its_padding() {
        shared! {
            struct Spaced {
                first: AtomicU8,
                second: AtomicU32,
            }
        }
        fn is<T: Shared>(fields: &[Field], at: usize) -> bool {
            let wanted = Fields::of::<T>().unwrap();
            is_there(fields, &wanted, at as u64, size_of::<T>() as u64)
        }
        let fields = Fields::of::<Outer>().unwrap();
        let pairs = core::mem::offset_of!(Outer, pairs);
        assert!(is::<Outer>(&fields, 0) && is::<[Inner; 2]>(&fields, pairs));
        assert!(is::<Inner>(&fields, pairs + size_of::<Inner>()));
        assert!(is::<AtomicU32>(&fields, 20) && is::<[AtomicU32; 2]>(&fields, 16));
        assert!(!is::<AtomicU32>(&fields, 18) && !is::<AtomicU32>(&fields, 24));
        assert!(!is::<[AtomicU32; 2]>(&fields, 20) && !is::<[AtomicU32; 7]>(&fields, 0));
        let lock = pairs + core::mem::offset_of!(Inner, lock);
        assert!(is::<Lock<u64>>(&fields, lock) && !is::<Lock<i64>>(&fields, lock));
        assert!(!is::<AtomicU8>(&fields, 0) && !is::<Inner>(&fields, lock));
        assert!(!is::<Outer>(&fields, 8) && !is::<AtomicU8>(&fields, usize::MAX));
        // Fields that lie one behind the other may make an array.
        let apart = [field::<AtomicU32>(0, 2), field::<AtomicU32>(8, 1)];
        assert!(is::<[AtomicU32; 3]>(&apart, 0) && !is::<[AtomicU32; 4]>(&apart, 0));
        // The same fields, but for one where there is padding.
        let spaced = Fields::of::<Spaced>().unwrap();
        assert!(is::<Spaced>(&spaced, 0));
        let filled = [spaced[0], field::<AtomicU8>(2, 1), spaced[1]];
        assert!(!is::<Spaced>(&filled, 0));
    }

    #[test]
    fn a_table_that_cannot_be_is_none() {
        fn table(fields: &[[u64; 4]], count: u64) -> Vec<Field> {
            let table = Table {
                count: AtomicU64::new(count),
                fields: [const { [const { AtomicU64::new(0) }; 4] }; MOST_FIELDS],
            };
            for (to, from) in table.fields.iter().zip(fields) {
                to.iter().zip(from).for_each(|(to, &from)| to.store(from, Relaxed));
            }
            table.load(100)
        }
        let [one, other] = [[0, 8, 2, 7], [16, 84, 1, 7]];
        assert_eq!(table(&[one, other], 2).len(), 2);
        assert_eq!(table(&[one, other], 1).len(), 1);
        let cannot_be = [
            vec![one, [15, 8, 1, 7]],
            vec![other, one],
            vec![one, [16, 85, 1, 7]],
            vec![[0, 0, 1, 7]],
            vec![[0, 1, 0, 7]],
            vec![[8, u64::MAX, 1, 7]],
            vec![[0, 1 << 32, 1 << 32, 7]],
        ];
        for fields in cannot_be {
            assert!(table(&fields, fields.len() as u64).is_empty(), "{fields:?}");
        }
        assert!(table(&[one], u64::MAX).is_empty());
    }
}
