//! What POSIX has by name: semaphores and message queues, opened, closed and unlinked.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use std::ffi::{CStr, CString};
use std::io;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A name that no other object has. What it names goes away with it.
pub(crate) struct Name {
    name: CString,
    unlink: unsafe extern "C" fn(*const libc::c_char) -> libc::c_int,
}

impl Name {
    fn new(unlink: unsafe extern "C" fn(*const libc::c_char) -> libc::c_int) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("/crossproc-bench-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        Name { name: CString::new(name).expect("a name without zeroes"), unlink }
    }

    /// Returns a name for a semaphore.
    pub(crate) fn of_semaphore() -> Self {
        Name::new(libc::sem_unlink)
    }

    /// Returns a name for a message queue.
    pub(crate) fn of_queue() -> Self {
        Name::new(libc::mq_unlink)
    }

    pub(crate) fn as_str(&self) -> &CStr {
        &self.name
    }

    fn unlink(&self) {
        // SAFETY: one of two calls that take a name that ends with a zero.
        unsafe { (self.unlink)(self.name.as_ptr()) };
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Creates a semaphore of this name, and closes it. The name stays.
pub(crate) fn create_semaphore(name: &Name) -> io::Result<()> {
    const MODE: libc::c_uint = 0o600;
    const VALUE: libc::c_uint = 1;
    let flags = libc::O_CREAT | libc::O_EXCL;
    // SAFETY: the name ends with a zero. Mode and value are those that O_CREAT asks for.
    close_semaphore(unsafe { libc::sem_open(name.name.as_ptr(), flags, MODE, VALUE) })
}

/// Opens the semaphore of this name, and closes it.
pub(crate) fn open_semaphore(name: &Name) -> io::Result<()> {
    // SAFETY: the name ends with a zero, and nothing is to be created.
    close_semaphore(unsafe { libc::sem_open(name.name.as_ptr(), 0) })
}

fn close_semaphore(semaphore: *mut libc::sem_t) -> io::Result<()> {
    if semaphore == libc::SEM_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else in this process uses it.
    unsafe { libc::sem_close(semaphore) };
    Ok(())
}

/// Creates a queue of so many messages of so many bytes with this name, and closes it. The name
/// stays.
pub(crate) fn create_queue(name: &Name, messages: usize, size: usize) -> io::Result<()> {
    const MODE: libc::mode_t = 0o600;
    // SAFETY: the struct has only integers, for which zeroes are valid.
    let mut attributes: libc::mq_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    attributes.mq_maxmsg = messages as libc::c_long;
    attributes.mq_msgsize = size as libc::c_long;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: the name ends with a zero. Mode and attributes are those that O_CREAT asks for, and
    // the attributes live until the call is over.
    close_queue(unsafe {
        libc::mq_open(name.name.as_ptr(), flags, MODE, ptr::from_mut(&mut attributes))
    })
}

/// Opens the queue of this name, and closes it.
pub(crate) fn open_queue(name: &Name) -> io::Result<()> {
    // SAFETY: the name ends with a zero, and nothing is to be created.
    close_queue(unsafe { libc::mq_open(name.name.as_ptr(), libc::O_RDWR) })
}

fn close_queue(queue: libc::mqd_t) -> io::Result<()> {
    if queue == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened by the caller, and is closed only here.
    unsafe { libc::mq_close(queue) };
    Ok(())
}
