//! What a thread still holds when it ends, and what is done about it. The module above gives the
//! reasons.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::io::Errno;

use super::{ENDED, Error, RECORD, Slot, Thread, ready};
use crate::mappings;
use crate::streams::complain;

/// Has libc call [`end`] when the calling thread ends, whose record this is.
#[cold]
fn call_at_end(thread: &Thread) -> Result<(), Error> {
    let record = ptr::from_ref(thread).cast::<c_void>();
    // SAFETY: a key of this process's own, and a record, which is never unmapped.
    match unsafe { libc::pthread_setspecific(key()?, record) } {
        0 => Ok(()),
        errno => Err(Error::Os(Errno::from_raw_os_error(errno))),
    }
}

/// Returns the key of the threads' records, by which libc calls [`end`].
fn key() -> Result<libc::pthread_key_t, Error> {
    /// The key plus 1; 0 while there is none. A forked child inherits it with libc's own table.
    static KEY: AtomicU64 = AtomicU64::new(0);
    // Relaxed: a key is a number, and its meaning is libc's.
    let known = KEY.load(Relaxed);
    if known != 0 {
        return Ok((known - 1) as libc::pthread_key_t);
    }
    let mut key = 0;
    // SAFETY: writes a key. `end` may be called at the end of any thread that has set a value for
    // the key.
    let errno = unsafe { libc::pthread_key_create(&raw mut key, Some(end)) };
    if errno != 0 {
        return Err(Error::Os(Errno::from_raw_os_error(errno)));
    }
    stay_loaded();
    // Relaxed, both: as above.
    match KEY.compare_exchange(0, u64::from(key) + 1, Relaxed, Relaxed) {
        Ok(_) => Ok(key),
        Err(others) => {
            // SAFETY: made above, and no thread has set a value for it.
            unsafe { libc::pthread_key_delete(key) };
            Ok((others - 1) as libc::pthread_key_t)
        }
    }
}

/// Keeps the library that this code is in, if it is in one, from being unloaded: libc would call
/// code that is gone. Calls `dlopen(3)` with RTLD_NODELETE on what is loaded already. Where that is
/// impossible, as in a statically linked program, there is nothing that could be unloaded.
fn stay_loaded() {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: looks up an address, and writes what it finds.
    if unsafe { libc::dladdr(end as *const c_void, found.as_mut_ptr()) } != 0 {
        // SAFETY: written by the call above.
        let name = unsafe { found.assume_init() }.dli_fname;
        // SAFETY: a string that lives as long as what is loaded from it.
        unsafe { libc::dlopen(name, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE) };
    }
}

/// The number of rounds in which libc calls destructors of thread-specific data, as long as they
/// set some again: glibc's and musl's PTHREAD_DESTRUCTOR_ITERATIONS.
const ROUNDS: u32 = 4;

/// Looks at what an ending thread still holds. Called by libc, as [`call_at_end`] has asked.
extern "C" fn end(record: *mut c_void) {
    let record = record.cast_const().cast::<Thread>();
    if !ptr::eq(RECORD.get(), record) {
        // The record belongs to a thread that ended without libc. libc has given its descriptor to
        // this thread unchanged.
        return;
    }
    // SAFETY: this thread's record, which is never unmapped. In a forked child it may have been
    // wiped and not set up since. Then it says that nothing is held.
    let thread = unsafe { &*record };
    let round = thread.rounds.get() + 1;
    thread.rounds.set(round);
    // With musl, thread-locals are thread-specific data, too, and may be dropped later.
    let is_from_the_first_on = thread.has_lost_locals.get() || cfg!(target_env = "musl");
    // If `call_at_end` fails for lack of memory, this round is the last one.
    if round < ROUNDS && is_from_the_first_on && call_at_end(thread).is_ok() {
        return;
    }
    thread.refuse_to_hand_on();
    // Nothing in the queues belongs to this thread any more, either.
    thread.session.set(0);
    RECORD.set(&raw const ENDED.0);
}

/// Its drop notes that a thread's locals are gone, and so that [`end`] comes in the first of libc's
/// rounds.
struct Locals;

thread_local!(static LOCALS: Locals = const { Locals });

impl Drop for Locals {
    fn drop(&mut self) {
        if let Some(thread) = ready() {
            thread.has_lost_locals.set(true);
        }
    }
}

impl Thread {
    /// Has libc call [`end`] when this thread ends.
    pub(super) fn will_be_called_at_end(&self) -> Result<(), Error> {
        // Where the locals are gone already, or libc does not call their destructors any more,
        // nothing will be noted, and that is right.
        let _ = LOCALS.try_with(|_| ());
        call_at_end(self)
    }

    /// Ends the process if the kernel would hand on what references lead to, or write to memory
    /// that may belong to another owner.
    fn refuse_to_hand_on(&self) {
        let is_private = |slot: &Slot<'_>| !slot.is_free() && !mappings::contain(slot.leads_to());
        let has_guards = self.guards() != 0;
        let mut has_private = false;
        for slot in self.slots_made().filter(is_private) {
            // The kernel is not to look at it, nor to stop there: what is behind it is handed on.
            slot.lead_to(slot.after());
            has_private = true;
        }
        if has_guards {
            end_process(
                "a guard, a loan, a received item or a task of it was leaked, and references to \
                 it may live on: drop them, or let the thread live",
            );
        }
        if has_private {
            end_process(
                "it holds a lock or a permit that is not in shared memory, and may have been \
                 freed: release it first",
            );
        }
    }
}

/// Ends the process, since the calling thread must not end without it.
fn end_process(why: &str) -> ! {
    let _ = complain(&[
        "crossproc: the process is ended, as a thread that ends would hand on what it holds: ",
        why,
        "\n",
    ]);
    std::process::abort()
}
