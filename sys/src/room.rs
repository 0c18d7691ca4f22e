//! What there is room for: refuses what the kernel would not refuse but punish.
//!
//! These checks are courtesies, for sizes that are out of the question. What cannot be found out is
//! no reason to refuse anything. What is left may be gone a moment later.
//!
//! References: <https://docs.kernel.org/admin-guide/cgroup-v2.html> (memory),
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::ids;

/// From this many bytes on, the memory that is left is checked first.
const LARGE: u64 = 1 << 20;

/// Refuses a file over `RLIMIT_FSIZE`, for which the kernel sends SIGXFSZ.
pub(crate) fn check_size(len: u64) -> io::Result<()> {
    let is_too_long = ids::longest_file().is_some_and(|most| len > most);
    if is_too_long { Err(Errno::FBIG.into()) } else { Ok(()) }
}

/// Refuses what is more than the memory that is left. A memfd has no limit of its own: the kernel
/// allocates its pages until it has to kill processes for memory.
pub(crate) fn check_room(len: u64) -> io::Result<()> {
    let is_too_much = len >= LARGE && left().is_some_and(|left| len > left);
    if is_too_much { Err(Errno::NOMEM.into()) } else { Ok(()) }
}

/// Returns how many bytes this process can still get, from the machine and in its control groups,
/// if they say.
fn left() -> Option<u64> {
    let report = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| field(&report, name)?.checked_mul(1024);
    let swap = bytes("SwapFree:").unwrap_or(0);
    let machine = bytes("MemAvailable:").map(|memory| memory.saturating_add(swap));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(groups.lines().filter_map(|line| left_in_group(line, swap))).min()
}

/// Returns the number after a name at the beginning of a line.
fn field(report: &str, name: &str) -> Option<u64> {
    report
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The names of the files of one version of control groups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: what is given back when memory is needed, of the group and those below.
    caches: [&'static str; 2],
    /// Limit and usage of swap space.
    swap: Option<[&'static str; 2]>,
}

const FIRST: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    caches: ["total_inactive_file ", "total_active_file "],
    swap: None,
};
const SECOND: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    caches: ["inactive_file ", "active_file "],
    swap: Some(["memory.swap.max", "memory.swap.current"]),
};

/// Returns what is left in a group, and in the groups that it is in, by a line of
/// `/proc/self/cgroup`. `swap`: what the machine has.
fn left_in_group(line: &str, swap: u64) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (files, roots): (&Files, &[&str]) = match controllers {
        "" => (&SECOND, &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
        _ if controllers.split(',').any(|name| name == "memory") => {
            (&FIRST, &["/sys/fs/cgroup/memory"])
        }
        _ => return None,
    };
    // In a container the path may be the host's, and only the root may be there: the container's
    // group.
    let path = Path::new(path.trim_start_matches('/'));
    let groups =
        roots.iter().flat_map(|root| path.ancestors().map(|part| Path::new(root).join(part)));
    groups.filter_map(|group| left_by_files(&group, files, swap)).min()
}

fn left_by_files(group: &Path, files: &Files, swap: u64) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no limit.
    let limit = number(files.limit)?;
    let report = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached: u64 = files.caches.iter().filter_map(|name| field(&report, name)).sum();
    let used = number(files.usage)?.saturating_sub(cached);
    let of_group =
        files.swap.and_then(|[limit, usage]| Some(number(limit)?.saturating_sub(number(usage)?)));
    let swap = of_group.map_or(swap, |of_group| of_group.min(swap));
    Some(limit.saturating_sub(used).saturating_add(swap))
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::PathBuf;

    use super::*;

    /// A folder with the files of a group.
    struct Group(PathBuf);

    impl Group {
        fn new(name: &str, files: &[(&str, &str)]) -> io::Result<Group> {
            let folder =
                std::env::temp_dir().join(format!("crossproc-room-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder)?;
            files.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))?;
            Ok(Group(folder))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn caches_are_given_back_and_swap_is_used() -> Result<(), Box<dyn Error>> {
        let stat = "anon 70\ninactive_file 20\nactive_file 5\n";
        let files = [("memory.max", "100\n"), ("memory.current", "95\n"), ("memory.stat", stat)];
        let group = Group::new("caches", &files)?;
        assert_eq!(left_by_files(&group.0, &SECOND, 0), Some(30));
        assert_eq!(left_by_files(&group.0, &SECOND, 7), Some(37));
        let group = Group::new(
            "swap",
            &[&files[..], &[("memory.swap.max", "4\n"), ("memory.swap.current", "1\n")]].concat(),
        )?;
        assert_eq!(left_by_files(&group.0, &SECOND, 7), Some(33));
        Ok(())
    }

    #[test]
    fn no_limit_is_none() -> Result<(), Box<dyn Error>> {
        let group = Group::new("max", &[("memory.max", "max\n"), ("memory.current", "95\n")])?;
        assert_eq!(left_by_files(&group.0, &SECOND, 0), None);
        assert_eq!(left_by_files(&group.0.join("nothing"), &FIRST, 0), None);
        Ok(())
    }

    #[test]
    fn only_lines_of_memory_count() {
        assert_eq!(left_in_group("4:cpuset:/", 0), None);
        assert_eq!(left_in_group("", 0), None);
    }
}
