//! [`Reader`]: counts a chunk of a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::buffer::Buffer;
use crate::listing::{Files, Part};
use crate::sheet::Sheet;
use crate::tally::{self, Tally};
use crate::words::{Cutter, Words};

/// How many bytes are read at a time. That is enough to make the system call cheap, and few enough
/// that the bytes are in the cache when they are counted.
const BUFFER: usize = 256 << 10;
/// How many bytes are read at a time behind a chunk, for the end of a word.
const BEHIND: usize = 4 << 10;

/// Why a chunk was not counted to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The system refused to open or to read the file, with this errno. What comes before that is
    /// counted.
    Refused(i32),
    /// The file was longer when it was listed. What is left is counted.
    Shrank,
    /// This many workers died at the chunk's task. Nothing of the chunk is counted. The parent
    /// finds this flaw.
    GivenUp(u32),
}

impl Flaw {
    /// Returns the flaw as a number, for a result.
    pub(crate) fn code(self) -> u64 {
        let (kind, number) = match self {
            Flaw::Refused(errno) => (0, errno as u32),
            Flaw::Shrank => (1, 0),
            Flaw::GivenUp(attempts) => (2, attempts),
        };
        kind << 32 | u64::from(number)
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        match (code >> 32, code as u32) {
            (0, errno) => Some(Flaw::Refused(errno as i32)),
            (1, 0) => Some(Flaw::Shrank),
            (2, attempts) => Some(Flaw::GivenUp(attempts)),
            _ => None,
        }
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        // An error without a number means a path with a NUL in it, which no listing gives.
        Flaw::Refused(error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Refused(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
            Flaw::Shrank => f.write_str("it shrank while it was read, what was left is counted"),
            Flaw::GivenUp(attempts) => {
                write!(f, "not counted, or not to the end: {attempts} workers died at its task")
            }
        }
    }
}

/// A buffer, and the file that was read last. The file's next chunk may be in the same task, or in
/// this worker's next task.
pub(crate) struct Reader<'a> {
    files: &'a Files,
    buffer: Buffer,
    open: Option<(usize, File)>,
    cutter: Cutter,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(files: &'a Files) -> Self {
        Reader { files, buffer: Buffer::new(BUFFER), open: None, cutter: Cutter::default() }
    }

    /// Counts one chunk, as far as possible.
    pub(crate) fn count(&mut self, chunk: u32, sheet: &mut Sheet) {
        if let Err(flaw) = self.add_to(sheet, self.files.part(chunk)) {
            sheet.flaws.push((chunk, flaw));
        }
        if let Some(words) = &mut sheet.words {
            self.cutter.end(words);
        }
    }

    fn add_to(&mut self, sheet: &mut Sheet, part: Part) -> Result<(), Flaw> {
        let file = match self.open.take() {
            Some((number, file)) if number == part.file => file,
            _ => open(self.files, part.file)?,
        };
        let (_, file) = self.open.insert((part.file, file));
        let mut before = [tally::SPACE];
        if part.offset != 0 && read(file, &mut before, part.offset - 1)? == 0 {
            return Err(Flaw::Shrank);
        }
        let [mut before] = before;
        self.cutter.begin(!tally::is_space(before));
        let mut done = 0;
        while done < part.len {
            let want = (part.len - done).min(BUFFER as u64) as usize;
            let at = part.offset + done;
            let bytes = self.buffer.at(at, want);
            bytes[0] = before;
            let got = read_some(file, &mut bytes[1..], at)?;
            sheet.tally += Tally::of(&bytes[..=got]);
            if let Some(words) = &mut sheet.words {
                self.cutter.cut(&bytes[1..=got], words);
            }
            before = bytes[got];
            done += got as u64;
        }
        match &mut sheet.words {
            Some(words) => self.finish_word(words, part),
            None => Ok(()),
        }
    }

    /// Reads on behind the chunk, to the end of the word that the chunk ends in.
    fn finish_word(&mut self, words: &mut Words, part: Part) -> Result<(), Flaw> {
        let Some((_, file)) = &self.open else { return Ok(()) };
        let (mut at, size) = (part.offset + part.len, self.files.size(part.file));
        while self.cutter.is_in_word() && at < size {
            let want = (size - at).min(BEHIND as u64) as usize;
            let bytes = &mut self.buffer.at(at, want)[1..];
            let got = read_some(file, bytes, at)?;
            self.cutter.cut_end(&bytes[..got], words);
            at += got as u64;
        }
        Ok(())
    }
}

fn open(files: &Files, file: usize) -> io::Result<File> {
    // If a FIFO has taken the file's place since, opening it must not wait for a writer. Reading it
    // at an offset then fails.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(files.path(file))
}

/// Reads bytes that must be there.
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize, Flaw> {
    match read(file, buffer, offset)? {
        0 => Err(Flaw::Shrank),
        got => Ok(got),
    }
}

fn read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
