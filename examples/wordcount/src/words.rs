//! [`Words`]: how often each word occurs.

use crate::tally::is_space;

/// The fewest slots of a table. The number of slots is always a power of two.
const FEWEST: usize = 1 << 10;

/// Words with their counts, in a hash table made for the purpose. All words are stored one after
/// the other. So there is one allocation for many words, and none when the table is cleared and
/// filled again.
#[derive(Default)]
pub(crate) struct Words {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// For each entry its index + 1, and above that the hash of its word; 0 means free. The hash
    /// says where a search begins, and the next free slot ends it. At least half of the slots are
    /// free.
    table: Vec<u64>,
}

struct Entry {
    start: usize,
    len: usize,
    count: u64,
}

impl Words {
    pub(crate) fn add(&mut self, word: &[u8], count: u64) {
        if 2 * (self.entries.len() + 1) > self.table.len() {
            self.grow();
        }
        let hash = hash(word);
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while self.table[at] != 0 {
            let (there, index) = unpack(self.table[at]);
            if there == hash && self.word(&self.entries[index]) == word {
                self.entries[index].count += count;
                return;
            }
            at = (at + 1) & mask;
        }
        self.table[at] = pack(hash, self.entries.len());
        self.entries.push(Entry { start: self.bytes.len(), len: word.len(), count });
        self.bytes.extend_from_slice(word);
    }

    #[cold]
    fn grow(&mut self) {
        let mut table = vec![0; (2 * self.table.len()).max(FEWEST)];
        let mask = table.len() - 1;
        for &entry in self.table.iter().filter(|&&entry| entry != 0) {
            let mut at = unpack(entry).0 as usize & mask;
            while table[at] != 0 {
                at = (at + 1) & mask;
            }
            table[at] = entry;
        }
        self.table = table;
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.table.fill(0);
    }

    /// Returns the number of different words.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.entries.iter().map(|entry| (self.word(entry), entry.count))
    }

    /// Returns the most frequent words and their counts. Words with the same count are in the order
    /// of their bytes.
    pub(crate) fn top(&self, most: usize) -> Vec<(&[u8], u64)> {
        let by_rank = |one: &(&[u8], u64), other: &(&[u8], u64)| {
            other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0))
        };
        let mut all: Vec<(&[u8], u64)> = self.iter().collect();
        if most < all.len() {
            all.select_nth_unstable_by(most, by_rank);
            all.truncate(most);
        }
        all.sort_unstable_by(by_rank);
        all
    }

    #[inline]
    fn word(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start..entry.start + entry.len]
    }
}

#[inline]
fn pack(hash: u32, index: usize) -> u64 {
    let number =
        u32::try_from(index + 1).expect("there is no memory for billions of different words");
    u64::from(hash) << 32 | u64::from(number)
}

#[inline]
fn unpack(entry: u64) -> (u32, usize) {
    ((entry >> 32) as u32, entry as u32 as usize - 1)
}

/// Hashes eight bytes after the other, each by a multiplication whose halves are folded together,
/// as `wyhash` does. It is fast for short words, but no defence against words that are chosen to
/// collide.
#[inline]
fn hash(word: &[u8]) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |hash: u64, bytes: u64| {
        let product = u128::from(hash ^ bytes) * u128::from(ODD);
        product as u64 ^ (product >> 64) as u64
    };
    let mut eights = word.chunks_exact(8);
    let mut hash = word.len() as u64;
    for eight in &mut eights {
        hash = fold(hash, eight.iter().rev().fold(0, |bytes, &byte| bytes << 8 | u64::from(byte)));
    }
    let rest = eights.remainder().iter().fold(0, |bytes, &byte| bytes << 8 | u64::from(byte));
    hash = fold(hash, rest);
    (hash ^ hash >> 32) as u32
}

/// Cuts a chunk's bytes into words. The bytes come piece by piece.
#[derive(Default)]
pub(crate) struct Cutter {
    /// The beginning of the word that the last piece ended in.
    begun: Vec<u8>,
    /// Whether the last piece ended in a word that began before the chunk, and is not counted here.
    is_in_foreign: bool,
}

impl Cutter {
    /// Begins a chunk. `in_word` says whether it begins in the middle of a word.
    pub(crate) fn begin(&mut self, in_word: bool) {
        self.begun.clear();
        self.is_in_foreign = in_word;
    }

    /// Returns whether a word of this chunk may go on.
    pub(crate) fn is_in_word(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Cuts the next piece.
    pub(crate) fn cut(&mut self, piece: &[u8], words: &mut Words) {
        let mut rest = piece;
        if self.is_in_foreign || self.is_in_word() {
            match self.cut_end(piece, words) {
                Some(end) => rest = &piece[end..],
                None => return,
            }
        }
        while let Some(start) = rest.iter().position(|&byte| !is_space(byte)) {
            rest = &rest[start..];
            let Some(end) = rest.iter().position(|&byte| is_space(byte)) else {
                self.begun.extend_from_slice(rest);
                return;
            };
            words.add(&rest[..end], 1);
            rest = &rest[end..];
        }
    }

    /// Cuts off the end of the word that the last piece ended in. Returns where the word ends, if
    /// it ends in this piece.
    pub(crate) fn cut_end(&mut self, piece: &[u8], words: &mut Words) -> Option<usize> {
        let end = piece.iter().position(|&byte| is_space(byte));
        if !self.is_in_foreign {
            self.begun.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        }
        if end.is_some() {
            self.end(words);
        }
        end
    }

    /// Ends the chunk: nothing comes after the last piece.
    pub(crate) fn end(&mut self, words: &mut Words) {
        self.is_in_foreign = false;
        if self.is_in_word() {
            words.add(&self.begun, 1);
            self.begun.clear();
        }
    }
}
