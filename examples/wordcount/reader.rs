//! [`Reader`]: counts a chunk of a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::listing::{Files, Part};
use crate::tally::{self, Tally};

/// How much is read at a time: large enough to make the system call cheap, small enough to be in the cache when it is counted.
const BUFFER: usize = 256 << 10;

/// Why a chunk was not counted to the end. What comes before that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The system refused to open or to read it, with this errno.
    Refused(i32),
    /// The file was longer when it was listed.
    Shrank,
}

impl Flaw {
    const SHRANK: u32 = u32::MAX;

    /// A number that is not 0.
    pub(crate) fn code(self) -> u32 {
        match self {
            Flaw::Refused(errno) => errno as u32,
            Flaw::Shrank => Flaw::SHRANK,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => None,
            Flaw::SHRANK => Some(Flaw::Shrank),
            errno => Some(Flaw::Refused(errno as i32)),
        }
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        // Without a number there is a path with a NUL in it, which no listing gives.
        Flaw::Refused(error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Refused(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
            Flaw::Shrank => f.write_str("it shrank while it was read, what was left is counted"),
        }
    }
}

/// A buffer, and the file that was read last: its next chunk may be claimed by the same worker.
pub(crate) struct Reader<'a> {
    files: &'a Files,
    /// One byte that was read before, then what is read next.
    buffer: Box<[u8]>,
    open: Option<(usize, File)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(files: &'a Files) -> Self {
        Reader { files, buffer: vec![0; 1 + BUFFER].into_boxed_slice(), open: None }
    }

    /// Counts one chunk, as far as that is possible.
    pub(crate) fn count(&mut self, part: Part) -> (Tally, Option<Flaw>) {
        let mut tally = Tally::default();
        let flaw = self.add_to(&mut tally, part).err();
        (tally, flaw)
    }

    fn add_to(&mut self, tally: &mut Tally, part: Part) -> Result<(), Flaw> {
        let file = match self.open.take() {
            Some((number, file)) if number == part.file => file,
            _ => open(self.files, part.file)?,
        };
        let (_, file) = self.open.insert((part.file, file));
        self.buffer[0] = tally::SPACE;
        if part.offset != 0 && read(file, &mut self.buffer[..1], part.offset - 1)? == 0 {
            return Err(Flaw::Shrank);
        }
        let mut done = 0;
        while done < part.len {
            let want = (part.len - done).min(BUFFER as u64) as usize;
            let got = read(file, &mut self.buffer[1..=want], part.offset + done)?;
            if got == 0 {
                return Err(Flaw::Shrank);
            }
            *tally += Tally::of(&self.buffer[..=got]);
            self.buffer[0] = self.buffer[got];
            done += got as u64;
        }
        Ok(())
    }
}

fn open(files: &Files, file: usize) -> io::Result<File> {
    // Should a FIFO have taken the file's place since, opening it must not wait for a writer; reading it at an offset then fails.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(files.path(file))
}

fn read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
