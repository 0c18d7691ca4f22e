//! The resources that a leaked guard keeps: the mapping of its queue, and the descriptor. Without
//! clean-up, many programs would exhaust both.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::{fs, ptr};

/// The descriptors of a queue's handles in this process.
pub(crate) struct Leaks {
    /// The queue's file.
    identity: (u64, u64),
    files: Vec<RawFd>,
}

/// Returns a file's device and inode, or `None` if there is no such descriptor.
fn identity_of(file: RawFd) -> Option<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for the answer; the descriptor may be anything.
    if unsafe { libc::fstat(file, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: `fstat` has written it.
    let stat = unsafe { stat.assume_init() };
    Some((stat.st_dev, stat.st_ino))
}

impl Leaks {
    pub(crate) fn of(file: BorrowedFd<'_>) -> Self {
        Leaks {
            identity: identity_of(file.as_raw_fd()).expect("a descriptor has a file"),
            files: vec![file.as_raw_fd()],
        }
    }

    pub(crate) fn note(&mut self, file: BorrowedFd<'_>) {
        if !self.files.contains(&file.as_raw_fd()) {
            self.files.push(file.as_raw_fd());
        }
    }

    /// Unmaps and closes what is left of the queue. Its handles are all dropped, and its
    /// participants have ended: nothing can reach any of it.
    pub(crate) fn free(self) {
        let mut any = false;
        for &file in &self.files {
            if identity_of(file) == Some(self.identity) {
                any = true;
                // SAFETY: its owner was leaked: the file is the queue's, and no handle of the queue
                // is left.
                unsafe { libc::close(file) };
            }
        }
        if any {
            self.unmap();
        }
    }

    fn unmap(&self) {
        let maps = fs::read_to_string("/proc/self/maps").expect("there is a list of mappings");
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (range, inode) = (fields.next().unwrap_or(""), fields.nth(3).unwrap_or(""));
            let Some((start, end)) = range.split_once('-') else { continue };
            let address = |digits| usize::from_str_radix(digits, 16).expect("an address");
            if inode.parse() == Ok(self.identity.1) && line.contains("memfd:crossproc") {
                let (start, end) = (address(start), address(end));
                // SAFETY: a mapping of the queue's file, whose owner was leaked. No reference into
                // it is left.
                let result =
                    unsafe { libc::munmap(ptr::without_provenance_mut(start), end - start) };
                assert_eq!(result, 0, "a mapping can be unmapped");
            }
        }
    }
}
