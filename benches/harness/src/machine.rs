//! The machine that was measured, and the versions of the rivals.

#![allow(unsafe_code)]

use std::fs;
use std::process::Command;
use std::thread;

/// Returns three lines. What cannot be found out is reported as unknown. `rivals` are packages.
pub fn description(rivals: &[&str]) -> String {
    let cpus = thread::available_parallelism()
        .map_or_else(|_| "? CPUs".to_owned(), |cpus| format!("{cpus} CPUs"));
    let rustc = output("rustc", &["--version"]).unwrap_or_else(|| "rustc unknown".to_owned());
    let rivals: String = rivals
        .iter()
        .map(|rival| format!(", {rival} {}", locked_version(rival).unwrap_or_else(unknown)))
        .collect();
    format!(
        "rivals:  {}{rivals}, std of {rustc}\nmachine: {}, {cpus}, Linux {}\ncommit:  {}",
        libc_version(),
        cpu_model().unwrap_or_else(unknown),
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| unknown(), |release| release.trim().to_owned()),
        commit().unwrap_or_else(unknown),
    )
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

/// Finds the version in the lock file, the only place that has it.
fn locked_version(package: &str) -> Option<String> {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).ok()?;
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
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
