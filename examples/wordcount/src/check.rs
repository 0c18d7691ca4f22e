//! `--check`: counts the same figures once more, by other means.
//!
//! It uses one process, reads byte by byte, without chunks and vectors, and counts words in the
//! standard library's map. It shares only the list of files with what it checks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::Stop;
use crate::complaint::complain;
use crate::listing::Files;
use crate::reader::Flaw;
use crate::sheet::Sheet;
use crate::signals::Signals;
use crate::tally::Tally;

/// The result of the check.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) tally: Tally,
    /// How often each word occurs, if that was asked for.
    pub(crate) words: Option<HashMap<Vec<u8>, u64>>,
}

/// Counts all files, each up to its size when it was listed. The files in `flawed` are known to
/// have something wrong.
pub(crate) fn count(
    files: &Files,
    has_words: bool,
    flawed: &[(usize, Flaw)],
    signals: &Signals,
) -> Result<Checked, Stop> {
    let mut checked = Checked { words: has_words.then(HashMap::new), ..Checked::default() };
    for file in 0..files.len() {
        let path = files.path(file);
        let counted = File::open(&path)
            .and_then(|open| checked.add_file(open.take(files.size(file)), signals));
        if let Some(signal) = signals.caught() {
            return Err(Stop::Interrupted {
                signal,
                what: format!("{file} of {} files were checked", files.len()),
            });
        }
        if let Err(error) = counted {
            if flawed.iter().all(|&(known, _)| known != file) {
                complain(format_args!("{}: {error}", path.display()));
            }
        }
    }
    Ok(checked)
}

impl Checked {
    fn add_file(&mut self, file: impl Read, signals: &Signals) -> io::Result<()> {
        let mut file = BufReader::with_capacity(64 << 10, file);
        let mut word: Vec<u8> = Vec::new();
        let mut in_word = false;
        let result = loop {
            let bytes = match file.fill_buf() {
                Ok(bytes) if bytes.is_empty() || signals.caught().is_some() => break Ok(()),
                Ok(bytes) => bytes,
                Err(error) => break Err(error),
            };
            for &byte in bytes {
                if matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r') {
                    if in_word {
                        self.add_word(&mut word);
                    }
                    in_word = false;
                } else {
                    in_word = true;
                    if self.words.is_some() {
                        word.push(byte);
                    }
                }
                self.tally.lines += u64::from(byte == b'\n');
            }
            let read = bytes.len();
            self.tally.bytes += read as u64;
            file.consume(read);
        };
        if in_word {
            self.add_word(&mut word);
        }
        result
    }

    fn add_word(&mut self, word: &mut Vec<u8>) {
        self.tally.words += 1;
        if let Some(words) = &mut self.words {
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => _ = words.insert(word.clone(), 1),
            }
            word.clear();
        }
    }

    /// Returns the first word, in the order of bytes, whose count differs in that sheet.
    pub(crate) fn difference<'a>(&'a self, sheet: &'a Sheet) -> Option<Difference<'a>> {
        let (here, there) = (self.words.as_ref()?, sheet.words.as_ref()?);
        let there: HashMap<&[u8], u64> = there.iter().collect();
        let all = here.keys().map(Vec::as_slice).chain(there.keys().copied());
        let word = all.filter(|&word| here.get(word) != there.get(word)).min()?;
        let count = |count: Option<&u64>| count.copied().unwrap_or(0);
        Some(Difference { word, counted: count(there.get(word)), checked: count(here.get(word)) })
    }
}

/// A word with two different counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference<'a> {
    pub(crate) word: &'a [u8],
    pub(crate) counted: u64,
    pub(crate) checked: u64,
}
