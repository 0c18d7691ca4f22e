//! The machine that was measured, and the versions of the rivals.

#![allow(unsafe_code)]

use core::fmt;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

pub use crate::record::Machine;

impl Machine {
    /// Looks at this machine. What cannot be found out is reported as unknown. `rivals` are
    /// packages.
    pub fn here(rivals: &[&str]) -> Machine {
        let version =
            |rival: &str| (rival.to_owned(), locked_version(rival).unwrap_or_else(unknown));
        Machine {
            cpu: cpu_model().unwrap_or_else(unknown),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |release| release.trim().to_owned()),
            libc: libc_version(),
            rustc: output("rustc", &["--version"]).unwrap_or_else(|| "rustc unknown".to_owned()),
            commit: commit().unwrap_or_else(unknown),
            date: output("date", &["-u", "+%F %H:%M"]).unwrap_or_else(unknown),
            scheduling: scheduling(),
            rivals: rivals.iter().copied().map(version).collect(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cpus, kernel, libc, rustc, commit, date, scheduling, rivals } = self;
        write!(f, "rivals:  {libc}, std of {rustc}")?;
        for (rival, version) in rivals {
            write!(f, ", {rival} {version}")?;
        }
        write!(f, "\nmachine: {cpu}, {cpus} CPUs, Linux {kernel}, {scheduling}")?;
        write!(f, "\ncommit:  {commit}, measured at {date}")
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(target_env = "gnu")]
fn libc_version() -> String {
    // SAFETY: takes nothing, and returns a string that is never freed.
    let version = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: as above: ended by a zero, never changed.
    let version = unsafe { core::ffi::CStr::from_ptr(version) };
    format!("glibc {}", version.to_string_lossy())
}

#[cfg(not(target_env = "gnu"))]
fn libc_version() -> String {
    "a libc that does not tell its version".to_owned()
}

/// Returns the policy by which this process is scheduled, in words.
fn scheduling() -> String {
    // SAFETY: takes a number, 0 for this process, and returns one.
    let policy = unsafe { libc::sched_getscheduler(0) };
    match policy {
        libc::SCHED_FIFO => "real-time priority".to_owned(),
        libc::SCHED_RR => "real-time priority, in turns".to_owned(),
        libc::SCHED_OTHER => "ordinary priority".to_owned(),
        _ => unknown(),
    }
}

/// Finds the version in the lock file, the only place that has it: that of the package whose
/// benchmark this is, which cargo names, or of a folder around it.
fn locked_version(package: &str) -> Option<String> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let lock = folder.ancestors().find_map(|at| fs::read_to_string(at.join("Cargo.lock")).ok())?;
    let name = format!("name = \"{package}\"");
    let version = lock.lines().skip_while(|line| *line != name).nth(1)?;
    Some(version.strip_prefix("version = ")?.trim_matches('"').to_owned())
}

fn cpu_model() -> Option<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpus.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn commit() -> Option<String> {
    let hash = output("git", &["rev-parse", "--short", "HEAD"])?;
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { hash } else { hash + ", with changes" })
}

/// Returns a program's output, if the program exists and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}
