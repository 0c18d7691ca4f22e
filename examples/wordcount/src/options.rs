//! The command line.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use clap::{Parser, value_parser};

use crate::Stop;

/// Every worker costs the parent two descriptors for a moment and one for good; the usual limit is
/// 1,024.
const MAX_WORKERS: i64 = 512;
const MAX_KILLS: i64 = 1_000_000;

/// Counts lines, words and bytes of all files under the paths, with worker processes.
#[derive(Debug, Parser)]
#[command(name = "wordcount")]
pub(crate) struct Options {
    /// Files, and directories with all that is in them; without any, the sources of this package
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// How many workers; without it, one for each CPU
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=MAX_WORKERS))]
    workers: Option<u32>,

    /// How many bytes a worker does at a time: a part of a large file, or several small ones
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    #[arg(value_parser = value_parser!(u64).range(1..))]
    pub(crate) chunk: u64,

    /// Counts each word, too, and prints this many of the most frequent ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) top: usize,

    /// Kills this many workers at random moments while they work
    #[arg(long, value_name = "K", default_value_t = 0)]
    #[arg(value_parser = value_parser!(u32).range(..=MAX_KILLS))]
    pub(crate) chaos: u32,

    /// Draws the same moments and the same victims as another run with this seed; without it, the
    /// seed is drawn
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Counts all again in this process alone, and compares; status 1 if there is a difference
    #[arg(long)]
    pub(crate) check: bool,

    /// Prints the totals as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    pub(crate) fn workers(&self) -> u32 {
        let cpus =
            || available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS as usize) as u32;
        self.workers.unwrap_or_else(cpus)
    }

    pub(crate) fn chaos_seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| fastrand::u64(..))
    }

    /// Where to look for files.
    pub(crate) fn roots(&self) -> Result<Vec<PathBuf>, Stop> {
        if self.paths.is_empty() { sources() } else { Ok(self.paths.clone()) }
    }
}

/// The sources of this package: of the checkout in which the program is started, or else of the one
/// that it was built from. Not the whole directory, which has everything that was ever built in it.
fn sources() -> Result<Vec<PathBuf>, Stop> {
    const PARTS: [&str; 6] = ["Cargo.toml", "src", "sys", "examples", "tests", "benches"];
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package =
        [Path::new(""), built_from].into_iter().find(|directory| is_this_package(directory));
    let package = package.ok_or_else(|| Stop::NoSources(built_from.to_owned()))?;
    Ok(PARTS.iter().map(|part| package.join(part)).filter(|part| part.exists()).collect())
}

fn is_this_package(directory: &Path) -> bool {
    let name = concat!("name = \"", env!("CARGO_PKG_NAME"), "\"");
    fs::read_to_string(directory.join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == name))
}
