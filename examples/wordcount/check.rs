//! `--check`: the same figures once more, by other means.
//!
//! One process, one byte after the other, no chunks, no vectors, nothing shared with what it checks but the list of files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::Stop;
use crate::complaint::complain;
use crate::listing::Files;
use crate::reader::Flaw;
use crate::signals::Signals;
use crate::tally::Tally;

/// Counts all files, each up to the size that it had when it was listed. Of those in `flawed` it is known that something is wrong.
pub(crate) fn count(files: &Files, flawed: &[(usize, Flaw)], signals: &Signals) -> Result<Tally, Stop> {
    let mut total = Tally::default();
    for file in 0..files.len() {
        let path = files.path(file);
        let counted = File::open(&path).and_then(|open| count_file(open.take(files.size(file)), &mut total, signals));
        if let Some(signal) = signals.caught() {
            return Err(Stop::Interrupted { signal, what: format!("{file} of {} files were checked", files.len()) });
        }
        if let Err(error) = counted {
            if flawed.iter().all(|&(known, _)| known != file) {
                complain(format_args!("{}: {error}", path.display()));
            }
        }
    }
    Ok(total)
}

fn count_file(file: impl Read, total: &mut Tally, signals: &Signals) -> io::Result<()> {
    let mut file = BufReader::with_capacity(64 << 10, file);
    let mut in_word = false;
    while signals.caught().is_none() {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        for &byte in bytes {
            match byte {
                b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' => in_word = false,
                _ if in_word => {}
                _ => {
                    in_word = true;
                    total.words += 1;
                }
            }
            if byte == b'\n' {
                total.lines += 1;
            }
        }
        let read = bytes.len();
        total.bytes += read as u64;
        file.consume(read);
    }
    Ok(())
}
