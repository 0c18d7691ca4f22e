//! Threads that begin and end without a lock of std's.
//!
//! std keeps a table of the threads that it has started, for its message about a stack that has
//! overflowed. Each takes the table's lock as it begins and as it ends
//! (`sys/pal/unix/stack_overflow/thread_info.rs` in Rust 1.95). In a child that was forked
//! meanwhile the lock stays taken, and no thread of std's begins there. libc's own locks are free
//! in a child, since its `fork` sees to that. So a thread that such a child may need is started by
//! `pthread_create(3)`.
//!
//! To the thread that is all the difference: thread-locals and panics are as in any other. If its
//! stack overflows, the process ends with SIGSEGV and no message.
//!
//! Reference: <https://man7.org/linux/man-pages/man3/pthread_create.3.html>

#![allow(unsafe_code)]

use core::ffi::{c_int, c_void};
use core::mem::{self, MaybeUninit};
use core::ptr;
use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::pthread_attr_t;

/// What std gives a thread, in bytes. It is mapped, and takes memory as far as it is used.
pub const STACK: usize = 2 << 20;

struct Start<F> {
    name: &'static str,
    body: F,
}

/// Starts a thread that nobody joins. Of its name the kernel keeps 15 bytes. If a stack of so many
/// bytes is too little for libc on this processor, or with the program's thread-locals, it gets
/// [`STACK`]. A panic of `body` ends the thread.
///
/// # Errors
/// EAGAIN, ENOMEM: a limit, or no memory. The caller reports them.
pub fn spawn(
    name: &'static str,
    stack: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let start = Box::into_raw(Box::new(Start { name, body }));
    let created = match create(stack, start) {
        Err(libc::EINVAL) => create(STACK, start),
        created => created,
    };
    created.map_err(|failed| {
        // SAFETY: no thread was started that could have taken it.
        drop(unsafe { Box::from_raw(start) });
        io::Error::from_raw_os_error(failed)
    })
}

fn create<F: FnOnce() + Send + 'static>(stack: usize, start: *mut Start<F>) -> Result<(), c_int> {
    let attributes = Attributes::detached(stack)?;
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the function is for this type, and the box is the thread's from here on.
    checked(unsafe {
        libc::pthread_create(thread.as_mut_ptr(), &raw const attributes.0, run::<F>, start.cast())
    })
}

extern "C" fn run<F: FnOnce() + Send + 'static>(start: *mut c_void) -> *mut c_void {
    // SAFETY: from `spawn`, for this thread alone.
    let start = unsafe { Box::from_raw(start.cast::<Start<F>>()) };
    // A thread without its name is as good.
    let _ = CString::new(start.name).map(|name| rustix::thread::set_name(&name));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(start.body)) {
        // What a program panics with may panic when it is dropped.
        mem::forget(panic);
    }
    ptr::null_mut()
}

struct Attributes(pthread_attr_t);

impl Attributes {
    /// Returns those of a thread that nobody joins, with a stack of so many bytes.
    fn detached(stack: usize) -> Result<Attributes, c_int> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: room for them.
        checked(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: set by the successful call.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let start = &raw mut attributes.0;
        // SAFETY: they are initialised.
        checked(unsafe { libc::pthread_attr_setstacksize(start, stack) })?;
        // SAFETY: as above.
        checked(unsafe {
            libc::pthread_attr_setdetachstate(start, libc::PTHREAD_CREATE_DETACHED)
        })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialised, and nothing uses them from now on.
        unsafe { libc::pthread_attr_destroy(&raw mut self.0) };
    }
}

fn checked(failed: c_int) -> Result<(), c_int> {
    if failed == 0 { Ok(()) } else { Err(failed) }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::fs;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    #[test]
    fn it_has_its_name_and_its_destructors() {
        struct Tells(Cell<Option<Sender<&'static str>>>);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.take().unwrap().send("ended").unwrap();
            }
        }
        thread_local!(static LAST: Tells = const { Tells(Cell::new(None)) });
        let (send, receive) = channel();
        // One byte is too little for any libc.
        for stack in [1, 64 << 10, STACK] {
            let send = send.clone();
            let started = spawn("of a test", stack, move || {
                let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
                assert_eq!(name, "of a test\n");
                send.send("begun").unwrap();
                LAST.with(|last| last.0.set(Some(send)));
            });
            started.unwrap();
            assert_eq!([receive.recv(), receive.recv()], [Ok("begun"), Ok("ended")]);
        }
    }

    #[test]
    fn a_panic_ends_it_alone() {
        let (send, receive) = channel::<()>();
        let started = spawn("panics", STACK, move || {
            let _send = send;
            panic!("on purpose");
        });
        started.unwrap();
        receive.recv().unwrap_err();
    }
}
