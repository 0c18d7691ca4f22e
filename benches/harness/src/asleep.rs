//! Whether another process sleeps, as the kernel says.

use core::time::Duration;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

/// How long a process may take to fall asleep. After that something has been lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// A process of one thread, whose state is looked at.
pub struct Watched {
    stat: File,
}

impl Watched {
    /// Looks at the process with this id.
    pub fn new(id: u32) -> Self {
        let stat = format!("/proc/{id}/stat");
        Watched { stat: File::open(&stat).unwrap_or_else(|error| panic!("{stat}: {error}")) }
    }

    /// Returns once the process sleeps, in a system call that waits.
    pub fn wait_until_asleep(&self) {
        wait_until(|| self.is_asleep());
    }

    fn is_asleep(&self) -> bool {
        let mut stat = [0; 512];
        let len = self.stat.read_at(&mut stat, 0).expect("the process has ended");
        state(&stat[..len]) == Some(b'S')
    }
}

/// Returns the state in a line of `/proc/PID/stat`. It comes after the program's name in
/// parentheses, which may have parentheses itself.
fn state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end + 2).copied()
}

/// Returns once `is_so` holds. Yields the processor meanwhile.
pub fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LOST_AFTER, "nothing for {LOST_AFTER:?}: something was lost");
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_the_last_parenthesis() {
        assert_eq!(state(b"12 (a program) S 1 12 12"), Some(b'S'));
        assert_eq!(state(b"12 (a) R) R 1 12 12"), Some(b'R'));
        assert_eq!(state(b"12 (cut"), None);
    }
}
