//! [`Sheet`]: the figures of a task, or of all tasks, and how they are written into a result.

use std::io::{self, Write};

use crate::reader::Flaw;
use crate::tally::Tally;
use crate::words::Words;

/// The most bytes that a number takes, at seven bits per byte.
const LONGEST: usize = 10;

pub(crate) struct Sheet {
    pub(crate) tally: Tally,
    /// The chunks that were not counted to the end.
    pub(crate) flaws: Vec<(u32, Flaw)>,
    /// The words, if each word is to be counted.
    pub(crate) words: Option<Words>,
}

impl Sheet {
    pub(crate) fn new(has_words: bool) -> Self {
        Sheet { tally: Tally::default(), flaws: Vec::new(), words: has_words.then(Words::default) }
    }

    pub(crate) fn clear(&mut self) {
        self.tally = Tally::default();
        self.flaws.clear();
        if let Some(words) = &mut self.words {
            words.clear();
        }
    }

    /// Writes the sheet: the figures, the number of flaws and the flaws, then the words. Each word
    /// has its length before it and its count after it.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        for number in
            [self.tally.lines, self.tally.words, self.tally.bytes, self.flaws.len() as u64]
        {
            write_number(to, number)?;
        }
        for &(chunk, flaw) in &self.flaws {
            write_number(to, chunk.into())?;
            write_number(to, flaw.code())?;
        }
        for (word, count) in self.words.iter().flat_map(Words::iter) {
            write_number(to, word.len() as u64)?;
            to.write_all(word)?;
            write_number(to, count)?;
        }
        Ok(())
    }

    /// Adds a written sheet. Returns `None` if the bytes are not a written sheet.
    pub(crate) fn add(&mut self, mut written: &[u8]) -> Option<()> {
        let from = &mut written;
        self.tally += Tally {
            lines: read_number(from)?,
            words: read_number(from)?,
            bytes: read_number(from)?,
        };
        for _ in 0..read_number(from)? {
            let chunk = u32::try_from(read_number(from)?).ok()?;
            let flaw = Flaw::from_code(read_number(from)?)?;
            self.flaws.push((chunk, flaw));
        }
        while !from.is_empty() {
            let len = usize::try_from(read_number(from)?).ok()?;
            let (word, rest) = from.split_at_checked(len)?;
            *from = rest;
            self.words.as_mut()?.add(word, read_number(from)?);
        }
        Some(())
    }
}

/// Writes the lowest seven bits first. Each byte but the last one has its highest bit set.
fn write_number(to: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut bytes = [0; LONGEST];
    let mut len = 0;
    loop {
        bytes[len] = number as u8 | 0x80;
        len += 1;
        number >>= 7;
        if number == 0 {
            break;
        }
    }
    bytes[len - 1] &= 0x7f;
    to.write_all(&bytes[..len])
}

fn read_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..).step_by(7).take(LONGEST) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
