//! [`Tally`]: what is counted, and the loop that counts it.

use core::ops::AddAssign;

/// How many there are of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) lines: u64,
    pub(crate) words: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}

/// A byte that ends a word and starts none: what stands before the first byte of a file, as it
/// were.
pub(crate) const SPACE: u8 = b' ';

/// As many bytes as are looked at side by side. A few vector registers' worth, for the compiler to
/// do so.
const LANES: usize = 64;
/// As many rows of lanes as a lane can count up to in a byte.
const ROWS: usize = u8::MAX as usize;

impl Tally {
    /// Counts all bytes but the first, which only says whether a word starts with the second.
    pub(crate) fn of(bytes: &[u8]) -> Tally {
        let Some((_, here)) = bytes.split_first() else {
            return Tally::default();
        };
        let before = &bytes[..here.len()];
        let (mut lines, mut words) = (0, 0);
        for (before, here) in before.chunks(LANES * ROWS).zip(here.chunks(LANES * ROWS)) {
            let (block_lines, block_words) = count_block(before, here);
            lines += block_lines;
            words += block_words;
        }
        Tally { lines, words, bytes: here.len() as u64 }
    }
}

/// The lines and words of `here`, if `before` is what stands one byte to the left of it.
fn count_block(before: &[u8], here: &[u8]) -> (u64, u64) {
    let mut lines = [0_u8; LANES];
    let mut words = [0_u8; LANES];
    let (before_rows, here_rows) = (before.chunks_exact(LANES), here.chunks_exact(LANES));
    let rest = || before_rows.remainder().iter().zip(here_rows.remainder());
    let rest_lines = rest().filter(|&(_, &here)| here == b'\n').count();
    let rest_words = rest().filter(|&(&before, &here)| starts_word(before, here)).count();
    for (before, here) in before_rows.zip(here_rows) {
        for lane in 0..LANES {
            lines[lane] += u8::from(here[lane] == b'\n');
            words[lane] += u8::from(starts_word(before[lane], here[lane]));
        }
    }
    (sum(&lines) + rest_lines as u64, sum(&words) + rest_words as u64)
}

fn sum(lanes: &[u8; LANES]) -> u64 {
    lanes.iter().copied().map(u64::from).sum()
}

#[inline(always)]
fn starts_word(before: u8, here: u8) -> bool {
    // Without short cuts: a branch could not be done to a whole vector.
    is_space(before) & !is_space(here)
}

/// `isspace` of the C locale: a space, or one of `\t`, `\n`, `\v`, `\f`, `\r`, which are
/// neighbours.
#[inline(always)]
pub(crate) fn is_space(byte: u8) -> bool {
    (byte == b' ') | (byte.wrapping_sub(b'\t') <= b'\r' - b'\t')
}
