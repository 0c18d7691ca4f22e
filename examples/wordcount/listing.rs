//! Which files there are, and how they are cut into chunks.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::Stop;
use crate::complaint::complain;
use crate::signals::Signals;

/// The most chunks that a job may have: if each is a task of its own, the parent takes 160 MiB for
/// them.
pub(crate) const MAX_CHUNKS: u32 = 1 << 25;

/// The directory of files whose name is their path.
const NAMED_AS_IT_IS: usize = 0;

/// All files, in the order in which they were found, and the chunks in the same order: numbered
/// from 0, each of one file.
///
/// Every worker has a copy of this, so it is compact: a directory's path is stored once, a file has
/// its name alone.
pub(crate) struct Files {
    directories: Paths,
    names: Paths,
    entries: Vec<Entry>,
    /// How many bytes a chunk has, unless it is the last one of its file.
    chunk: u64,
    chunks: u32,
}

struct Entry {
    size: u64,
    directory: usize,
    first_chunk: u32,
}

/// A chunk: some bytes of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Files {
    fn new(chunk: u64) -> Self {
        let mut directories = Paths::default();
        // The directory `NAMED_AS_IT_IS`.
        directories.push(Path::new(""));
        Files { directories, names: Paths::default(), entries: Vec::new(), chunk, chunks: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.chunks
    }

    pub(crate) fn chunk(&self) -> u64 {
        self.chunk
    }

    pub(crate) fn size(&self, file: usize) -> u64 {
        self.entries[file].size
    }

    pub(crate) fn path(&self, file: usize) -> PathBuf {
        self.directories.get(self.entries[file].directory).join(self.names.get(file))
    }

    /// What the chunk of this number is.
    pub(crate) fn part(&self, chunk: u32) -> Part {
        let file = self.entries.partition_point(|entry| entry.first_chunk <= chunk) - 1;
        let entry = &self.entries[file];
        let offset = u64::from(chunk - entry.first_chunk) * self.chunk;
        Part { file, offset, len: self.chunk.min(entry.size - offset) }
    }

    /// How many bytes each chunk has.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().flat_map(|entry| {
            let (whole, rest) = (entry.size / self.chunk, entry.size % self.chunk);
            (0..whole).map(|_| self.chunk).chain((rest != 0 || whole == 0).then_some(rest))
        })
    }

    /// Adds a file. An empty one has a chunk, too: it might be unreadable.
    fn push(&mut self, directory: usize, name: &Path, size: u64) -> Result<(), Stop> {
        let chunks = size.div_ceil(self.chunk).max(1).saturating_add(self.chunks.into());
        let chunks = u32::try_from(chunks).ok().filter(|&chunks| chunks <= MAX_CHUNKS);
        let chunks = chunks.ok_or(Stop::TooManyChunks { chunk: self.chunk })?;
        self.names.push(name);
        self.entries.push(Entry { size, directory, first_chunk: self.chunks });
        self.chunks = chunks;
        Ok(())
    }

    /// Adds a directory, for files to be in: its number.
    fn push_directory(&mut self, path: &Path) -> usize {
        self.directories.push(path);
        self.directories.ends.len() - 1
    }
}

/// Paths, or parts of them, one after the other.
#[derive(Default)]
struct Paths {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Paths {
    fn push(&mut self, path: &Path) {
        self.bytes.extend_from_slice(path.as_os_str().as_bytes());
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: usize) -> &Path {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Path::new(OsStr::from_bytes(&self.bytes[start..self.ends[index]]))
    }
}

/// What was found, and how much could not be looked at.
pub(crate) struct Listing {
    pub(crate) files: Files,
    pub(crate) problems: usize,
}

/// Finds all files under `roots`. What cannot be looked at is named on the standard error.
pub(crate) fn list(roots: &[PathBuf], chunk: u64, signals: &Signals) -> Result<Listing, Stop> {
    let mut listing = Listing { files: Files::new(chunk), problems: 0 };
    for root in roots {
        match fs::metadata(root) {
            Ok(root_is) if root_is.is_file() => {
                listing.files.push(NAMED_AS_IT_IS, root, root_is.len())?;
            }
            Ok(root_is) if root_is.is_dir() => listing.walk(root, signals)?,
            Ok(_) => listing.problem(root, "neither a regular file nor a directory"),
            Err(error) => listing.problem(root, error),
        }
    }
    Ok(listing)
}

impl Listing {
    fn problem(&mut self, path: &Path, what: impl std::fmt::Display) {
        complain(format_args!("{}: {what}", path.display()));
        self.problems += 1;
    }

    fn walk(&mut self, root: &Path, signals: &Signals) -> Result<(), Stop> {
        // The directories from the root to where the walk is, by their numbers: a directory comes
        // before what is in it.
        let mut above: Vec<usize> = Vec::new();
        for found in WalkDir::new(root).follow_links(true) {
            if let Some(signal) = signals.caught() {
                let what =
                    format!("{} files were listed, and no worker was started", self.files.len());
                return Err(Stop::Interrupted { signal, what });
            }
            match found {
                Ok(entry) if entry.file_type().is_dir() => {
                    above.truncate(entry.depth());
                    above.push(self.files.push_directory(entry.path()));
                }
                Ok(entry) if entry.file_type().is_file() => {
                    above.truncate(entry.depth());
                    self.add(&entry, above.last().copied())?;
                }
                // Sockets, devices and so on are no text: as `find -type f`.
                Ok(_) => {}
                Err(error) => self.not_walked(root, &error),
            }
        }
        Ok(())
    }

    /// A file in that directory, or in none: the root itself, if a file has taken its place since
    /// it was looked at.
    fn add(&mut self, entry: &DirEntry, directory: Option<usize>) -> Result<(), Stop> {
        let (directory, name) = match directory {
            Some(directory) => (directory, Path::new(entry.file_name())),
            None => (NAMED_AS_IT_IS, entry.path()),
        };
        match entry.metadata() {
            Ok(file) => self.files.push(directory, name, file.len()),
            Err(error) => {
                self.not_walked(entry.path(), &error);
                Ok(())
            }
        }
    }

    fn not_walked(&mut self, root: &Path, error: &walkdir::Error) {
        let path = error.path().unwrap_or(root);
        match (error.loop_ancestor(), error.io_error()) {
            (Some(ancestor), _) => self.problem(
                path,
                format_args!("not followed, it leads back to {}", ancestor.display()),
            ),
            // A link to nothing is no file: as `find -L -type f`.
            (None, Some(_)) if is_dangling(path) => {}
            (None, Some(io)) => self.problem(path, io),
            (None, None) => self.problem(path, error),
        }
    }
}

fn is_dangling(path: &Path) -> bool {
    let is_link = fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink());
    is_link && fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
