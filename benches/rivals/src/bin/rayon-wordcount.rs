//! Counts the lines, words and bytes of files as the example `wordcount` does, with the threads of
//! rayon: the same chunks, and the same loop over their bytes. The arguments are files.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rayon::prelude::*;

#[path = "../../../../examples/wordcount/src/tally.rs"]
mod tally;

use self::tally::{SPACE, Tally};

/// The example's.
const CHUNK: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut chunks = Vec::new();
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        let starts = (0..len).step_by(CHUNK as usize);
        chunks.extend(starts.map(|start| (path.clone(), start, CHUNK.min(len - start))));
    }
    let total = chunks
        .par_iter()
        .map_init(Vec::new, |buffer, (path, start, len)| count(buffer, path, *start, *len))
        .try_reduce(Tally::default, |mut one, other| {
            one += other;
            Ok(one)
        })?;
    let Tally { lines, words, bytes } = total;
    println!("{lines} {words} {bytes}");
    Ok(())
}

/// Counts a chunk, with the byte before it.
fn count(buffer: &mut Vec<u8>, path: &PathBuf, start: u64, len: u64) -> io::Result<Tally> {
    buffer.resize(len as usize + 1, 0);
    let file = File::open(path)?;
    if start == 0 {
        buffer[0] = SPACE;
        file.read_exact_at(&mut buffer[1..], 0)?;
    } else {
        file.read_exact_at(buffer, start - 1)?;
    }
    Ok(Tally::of(buffer))
}
