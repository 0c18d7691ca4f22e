//! The threads of this process, by `/proc/self/task`.
//!
//! A thread that was joined is still listed, and counted, until the kernel has finished with it. By
//! then it has long left the program's code: it is marked as exiting (`PF_EXITING`) before any
//! thread can have joined it. The same goes for a first thread that has ended before the others,
//! which stays listed until the process ends.
//!
//! References: <https://man7.org/linux/man-pages/man5/proc_pid_task.5.html>,
//! <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html> (`flags`)

use std::fs;
use std::io;

use rustix::fs::stat;

/// `linux/sched.h`.
const PF_EXITING: u64 = 0x4;

/// A thread that may run code of the program's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its number in `/proc`.
    pub tid: u32,
    /// Its name, of at most 15 bytes; empty if it cannot be read.
    pub name: String,
}

/// The threads beside the calling one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Others {
    /// None: no other thread will ever run code of this process, unless this one starts it.
    None,
    /// These threads.
    Some(Vec<Thread>),
    /// This many threads were counted, and not all were found: threads are starting or ending.
    Moving(u64),
}

/// What is found of a listed thread.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Gone,
    /// It has left the program's code. Holds the time at which it was started.
    Ending(u64),
    Running(Thread),
}

/// Returns the number of the calling thread in `/proc`. It may differ from what `gettid(2)`
/// returns, if `/proc` was mounted in another pid namespace.
///
/// # Errors
/// ENOENT or EACCES: `/proc` is not mounted, or hidden. The caller reports it.
pub fn own_tid() -> io::Result<u32> {
    let link = fs::read_link("/proc/thread-self")?;
    let tid = link.file_name().and_then(|tid| tid.to_str()?.parse().ok());
    tid.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/thread-self does not lead to a thread")
    })
}

/// Returns how many threads the process has, ending ones included, by the number of folders in
/// `/proc/self/task`.
fn count() -> io::Result<u64> {
    #[allow(clippy::unnecessary_cast, reason = "it is shorter on other processors")]
    let links = stat("/proc/self/task")?.st_nlink as u64;
    // A folder has a link from its parent, one from itself, and one from each folder in it.
    Ok(links.saturating_sub(2))
}

/// Looks for other threads. If there are none, this is one system call.
///
/// # Errors
/// ENOENT or EACCES: `/proc` is not mounted, or hidden. Also if no descriptor is free. The caller
/// reports it.
pub fn others() -> io::Result<Others> {
    if count()? == 1 {
        return Ok(Others::None);
    }
    let own = own_tid()?;
    let mut running = Vec::new();
    let mut ending = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let Some(tid) =
            entry?.file_name().to_str().and_then(|tid| tid.parse().ok()).filter(|&tid| tid != own)
        else {
            continue;
        };
        match look_at(tid) {
            Found::Gone => {}
            Found::Ending(start) => ending.push((tid, start)),
            Found::Running(thread) => running.push(thread),
        }
    }
    if !running.is_empty() {
        return Ok(Others::Some(running));
    }
    // The list may end too early if threads end meanwhile, but the count is exact. If the ending
    // threads are still there after it was taken, they were all that it counted beside this thread.
    let counted = count()?;
    let are_all = counted == 1 + ending.len() as u64;
    if are_all && ending.iter().all(|&(tid, start)| look_at(tid) == Found::Ending(start)) {
        return Ok(Others::None);
    }
    Ok(if counted == 1 { Others::None } else { Others::Moving(counted - 1) })
}

fn look_at(tid: u32) -> Found {
    let running = || {
        let name = fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
        Found::Running(Thread { tid, name: name.trim_end_matches('\n').to_owned() })
    };
    match fs::read(format!("/proc/self/task/{tid}/stat")) {
        Ok(line) => match flags_and_start(&line) {
            Some((flags, start)) if flags & PF_EXITING != 0 => Found::Ending(start),
            _ => running(),
        },
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            Found::Gone
        }
        Err(_) => running(),
    }
}

/// Returns the fields 9 and 22. The second field is a name in parentheses, which may hold any
/// bytes.
fn flags_and_start(line: &[u8]) -> Option<(u64, u64)> {
    let end_of_name = line.iter().rposition(|&byte| byte == b')')?;
    let mut fields = core::str::from_utf8(&line[end_of_name + 1..]).ok()?.split_ascii_whitespace();
    let flags = fields.nth(9 - 3)?.parse().ok()?;
    let start = fields.nth(22 - 9 - 1)?.parse().ok()?;
    Some((flags, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let line = b"12 (a) S (b) R 1 2 3 4 5 4194372 7 8 9 10 11 12 13 14 15 16 17 18 991 20\n";
        assert_eq!(flags_and_start(line), Some((4_194_372, 991)));
        assert_eq!(flags_and_start(b"12 (a) R 1 2"), None);
        assert_eq!(flags_and_start(b""), None);
    }

    #[test]
    fn a_thread_that_was_joined_is_not_running_and_others_are() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::Builder::new().name("in a test".into()).spawn(move || {
            tell.send(own_tid().unwrap()).unwrap();
            receive.recv().unwrap_err();
        });
        let tid = told.recv().unwrap();
        assert_eq!(look_at(tid), Found::Running(Thread { tid, name: "in a test".to_owned() }));
        assert!(matches!(others().unwrap(), Others::Some(all)
                if all.iter().any(|thread| thread.tid == tid)));
        drop(send);
        other.unwrap().join().unwrap();
        assert!(!matches!(look_at(tid), Found::Running(_)));
        for _ in 0..1_000 {
            let joined = std::thread::spawn(|| own_tid().unwrap()).join().unwrap();
            assert!(
                !matches!(look_at(joined), Found::Running(_)),
                "it has left the program's code"
            );
        }
    }
}
