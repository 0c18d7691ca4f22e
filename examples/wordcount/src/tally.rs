//! [`Tally`]: the figures, and the loop that counts them.

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

/// A byte that ends a word and starts none. It stands in for the byte before the first byte of a
/// file.
pub(crate) const SPACE: u8 = b' ';

/// How many bytes are looked at side by side. They fill a few vector registers, so that the
/// compiler uses vectors.
const LANES: usize = 64;
/// How many rows of lanes a lane can count in a byte.
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

/// Returns the lines and words of `here`, where `before` is the same text one byte to the left.
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
    // Not `&&`: a branch would keep the compiler from using vectors.
    is_space(before) & !is_space(here)
}

/// Returns what `isspace` says in the C locale: whether the byte is a space, or one of `\t`, `\n`,
/// `\v`, `\f`, `\r`, which are neighbours.
#[inline(always)]
pub(crate) fn is_space(byte: u8) -> bool {
    (byte == b' ') | (byte.wrapping_sub(b'\t') <= b'\r' - b'\t')
}
