//! Text to count the words of, in files that go away with it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The length of a file, in bytes, but for the last line.
const FILE: usize = 10 << 20;

/// Files in a folder of their own.
pub(crate) struct Text {
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Text {
    /// Writes files of `bytes` bytes together, or a little more. Two texts of the same length are
    /// the same.
    pub(crate) fn new(bytes: usize) -> io::Result<Text> {
        let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut random = fastrand::Rng::with_seed(bytes as u64);
        let mut files = Vec::new();
        for start in (0..bytes).step_by(FILE) {
            let file = folder.path().join(format!("{:03}.txt", files.len()));
            write(&file, FILE.min(bytes - start), &mut random)?;
            files.push(file);
        }
        Ok(Text { folder, files })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// Writes lines of 12 words of 1 to 10 letters.
fn write(file: &Path, len: usize, random: &mut fastrand::Rng) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    let mut written = 0;
    let mut line = Vec::new();
    while written < len {
        line.clear();
        for _ in 0..12 {
            line.extend((0..random.usize(1..=10)).map(|_| random.u8(b'a'..=b'z')));
            line.push(b' ');
        }
        *line.last_mut().expect("there are words") = b'\n';
        out.write_all(&line)?;
        written += line.len();
    }
    out.flush()
}
