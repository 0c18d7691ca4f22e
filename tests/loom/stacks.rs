//! The stacks of loom's threads, kept for later executions.
//!
//! Loom runs each thread of each execution on a stack of its own, which it maps and unmaps. That
//! is half of a model's time. So this program has `mmap` and `munmap` of its own, which keep such
//! stacks, with their guard pages. The C library's own mappings do not come here.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A stack that was handed out at least once.
struct Stack {
    address: usize,
    length: usize,
    is_free: bool,
}

static STACKS: Mutex<Vec<Stack>> = Mutex::new(Vec::new());

fn stacks() -> MutexGuard<'static, Vec<Stack>> {
    STACKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maps memory. A new stack is one that was unmapped, if there is one of this length.
// SAFETY: the symbol is the C library's, and this does what that does, but that a stack need not be
// zeroed: whoever asks for one writes before it reads.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    let is_stack = address.is_null() && flags & libc::MAP_STACK != 0;
    if is_stack {
        let mut stacks = stacks();
        if let Some(stack) = stacks.iter_mut().find(|it| it.is_free && it.length == length) {
            stack.is_free = false;
            return stack.address as *mut c_void;
        }
    }
    // SAFETY: as the caller says; on these platforms offsets are of 64 bits.
    let mapped =
        unsafe { libc::syscall(libc::SYS_mmap, address, length, protection, flags, file, offset) };
    if is_stack && mapped != -1 {
        stacks().push(Stack { address: mapped as usize, length, is_free: false });
    }
    mapped as *mut c_void
}

/// Unmaps memory, but keeps a stack.
// SAFETY: the symbol is the C library's, and this does what that does, for all that the caller can
// tell: nobody uses what it has unmapped.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, length: usize) -> c_int {
    if let Some(stack) = stacks()
        .iter_mut()
        .find(|it| it.address == address as usize && it.length == length && !it.is_free)
    {
        stack.is_free = true;
        return 0;
    }
    // SAFETY: as the caller says.
    unsafe { libc::syscall(libc::SYS_munmap, address, length) as c_int }
}
