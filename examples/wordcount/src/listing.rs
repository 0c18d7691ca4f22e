//! The list of the files, and how they are cut into chunks.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::Stop;
use crate::complaint::complain;
use crate::signals::Signals;

/// The most chunks that a job may have. If each is a task of its own, the parent needs 160 MiB for
/// them.
pub(crate) const MAX_CHUNKS: u32 = 1 << 25;

/// The number of the empty directory, for files whose name is their whole path.
const NAMED_AS_IT_IS: usize = 0;

/// All files in the order in which they were found, and their chunks in the same order. A chunk has
/// a number, from 0, and belongs to one file.
///
/// Every worker has a copy of this, so it is compact: it stores a directory's path once, and for a
/// file only the name.
pub(crate) struct Files {
    directories: Paths,
    names: Paths,
    entries: Vec<Entry>,
    /// The length of a chunk in bytes, but for the last chunk of a file.
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

    /// Returns the chunk with this number.
    pub(crate) fn part(&self, chunk: u32) -> Part {
        let file = self.entries.partition_point(|entry| entry.first_chunk <= chunk) - 1;
        let entry = &self.entries[file];
        let offset = u64::from(chunk - entry.first_chunk) * self.chunk;
        Part { file, offset, len: self.chunk.min(entry.size - offset) }
    }

    /// Returns the length of each chunk in bytes.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().flat_map(|entry| {
            let (whole, rest) = (entry.size / self.chunk, entry.size % self.chunk);
            (0..whole).map(|_| self.chunk).chain((rest != 0 || whole == 0).then_some(rest))
        })
    }

    /// Adds a file. An empty file has a chunk, too: it might be unreadable.
    fn push(&mut self, directory: usize, name: &Path, size: u64) -> Result<(), Stop> {
        let chunks = size.div_ceil(self.chunk).max(1).saturating_add(self.chunks.into());
        let chunks = u32::try_from(chunks).ok().filter(|&chunks| chunks <= MAX_CHUNKS);
        let chunks = chunks.ok_or(Stop::TooManyChunks { chunk: self.chunk })?;
        self.names.push(name);
        self.entries.push(Entry { size, directory, first_chunk: self.chunks });
        self.chunks = chunks;
        Ok(())
    }

    /// Adds a directory for files to be in. Returns its number.
    fn push_directory(&mut self, path: &Path) -> usize {
        self.directories.push(path);
        self.directories.ends.len() - 1
    }
}

/// Paths, or parts of paths, one after the other.
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

/// The files that were found, and the number of paths that could not be looked at.
pub(crate) struct Listing {
    pub(crate) files: Files,
    pub(crate) problems: usize,
}

/// Finds all files under `roots`. Names each path that cannot be looked at on the standard error.
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
        // The numbers of the directories from the root to the walk's position. A directory comes
        // before its contents.
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
                // Sockets, devices and so on are not text: they are skipped as by `find -type f`.
                Ok(_) => {}
                Err(error) => self.not_walked(root, &error),
            }
        }
        Ok(())
    }

    /// Adds a file in that directory. Without a directory it is the root itself: a file has taken
    /// the root's place since it was looked at.
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
            // A link to nothing is not a file: it is skipped as by `find -L -type f`.
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
