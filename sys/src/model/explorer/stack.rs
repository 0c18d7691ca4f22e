//! A stack for the operations that run, so that equal moments can be recognised.
//!
//! Suppose an operation has looked at a word twice and lost both times. It is then where it was
//! after the first time, but the results of its steps differ. What it will do depends on its stack
//! and on the registers that survive calls, which [`step`] pushes there. So a moment is identified
//! by the bytes of the stack.
//!
//! These bytes must depend on nothing but the operation. So it starts on a stack of zeros, always
//! at the same address, with zeros in these registers. The code that answers its steps runs on the
//! caller's stack, the *home*. Left-over bytes that will not be read can split one moment into two,
//! but do no other harm.
//!
//! An operation is left by never returning to it. What it owned at that moment is leaked.

#![allow(unsafe_code)]

use core::arch::global_asm;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use super::calls::answer;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the explorer switches stacks, which is written for x86-64 only");

/// The size and the alignment of a stack. The alignment lets code find the lowest bytes, where the
/// home's stack pointer is. The size is enough for a panic's backtrace.
const SIZE: usize = 1 << 20;
/// How much of the stack an operation is expected to use. That much is zeroed before it runs. Equal
/// moments of an operation that uses more are not recognised.
const USED: usize = 16 << 10;

/// What [`answer`] returns.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Answer {
    pub(super) result: u64,
    /// Whether to leave the operation: yes unless 0.
    pub(super) leave: u64,
}

global_asm!(
    // Runs `body(data)` on the stack that ends at `top` and has its lowest address at `bottom`.
    // Returns 0 if `body` returns, 1 if it was left.
    ".p2align 4",
    ".globl crossproc_explorer_enter",
    "crossproc_explorer_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov [rcx], rsp",
    "mov rsp, rdx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "xor esi, esi",
    "xor edx, edx",
    "xor ecx, ecx",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "call rax",
    "lea rcx, [rsp - 1]",
    "and rcx, -{SIZE}",
    "mov rsp, [rcx]",
    "xor eax, eax",
    "2:",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // Calls `answer` at home with the caller's five arguments. The sixth is the operation's stack
    // pointer.
    ".p2align 4",
    ".globl crossproc_explorer_step",
    "crossproc_explorer_step:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push 0",
    "mov r9, rsp",
    "mov rax, rsp",
    "and rax, -{SIZE}",
    "mov rsp, [rax]",
    "push r9",
    "push r9",
    "call {answer}",
    "pop rcx",
    "pop rcx",
    "test rdx, rdx",
    "mov edx, 1",
    "cmovnz rax, rdx",
    "jnz 2b",
    "mov rsp, rcx",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    SIZE = const SIZE,
    answer = sym answer,
);

unsafe extern "C" {
    fn crossproc_explorer_enter(
        body: extern "C" fn(*mut ()),
        data: *mut (),
        top: *mut u8,
        bottom: *mut u8,
    ) -> u64;
    fn crossproc_explorer_step(call: u64, first: u64, second: u64, third: u64, fourth: u64) -> u64;
}

/// Code that runs on a stack of its own. Two runs are comparable only if the value is at the same
/// address.
pub(super) trait Body {
    /// Must not unwind.
    fn run(&mut self);
}

/// A stack for operations.
#[derive(Debug)]
pub(super) struct Stack {
    bottom: *mut u8,
}

impl Stack {
    fn layout() -> Layout {
        Layout::from_size_align(SIZE, SIZE).expect("a power of 2")
    }

    pub(super) fn new() -> Self {
        // SAFETY: the size is not 0.
        let bottom = unsafe { alloc_zeroed(Stack::layout()) };
        if bottom.is_null() {
            handle_alloc_error(Stack::layout());
        }
        Stack { bottom }
    }

    fn top(&self) -> *mut u8 {
        self.bottom.wrapping_add(SIZE)
    }

    /// Runs `body` on this stack. Returns whether `body` has returned; otherwise [`answer`] has
    /// left it.
    pub(super) fn run<B: Body>(&mut self, body: &mut B) -> bool {
        extern "C" fn start<B: Body>(body: *mut ()) {
            // SAFETY: `run` borrows the body until this is over.
            unsafe { &mut *body.cast::<B>() }.run();
        }
        let body = core::ptr::from_mut(body).cast();
        let used = self.bottom.wrapping_add(SIZE - USED);
        // SAFETY: the range ends at the end of the allocation, and is not longer than that.
        unsafe { used.write_bytes(0, USED) };
        // SAFETY: nothing else runs on this stack: it is borrowed.
        unsafe { crossproc_explorer_enter(start::<B>, body, self.top(), self.bottom) == 0 }
    }

    /// Returns a hash of the stack's contents from `from` on.
    pub(super) fn hash(&self, from: usize) -> u128 {
        let count = (self.top().addr() - from) / size_of::<u64>();
        let first = self.bottom.wrapping_add(SIZE - count * size_of::<u64>()).cast::<u64>();
        // SAFETY: aligned, and inside the allocation, which was initialised with zeros. Nothing
        // runs on the stack at this time.
        let word = |index| unsafe { first.wrapping_add(index).read_volatile() };
        let hash = |seed| (0..count).map(word).fold(seed, super::state::mix);
        u128::from(hash(1)) << 64 | u128::from(hash(2))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.bottom, Stack::layout()) };
    }
}

/// Takes a step of the running operation; see [`answer`].
#[inline]
pub(super) fn step(call: u64, first: u64, second: u64, third: u64, fourth: u64) -> u64 {
    // SAFETY: all code that runs in an exploration runs on its stack.
    unsafe { crossproc_explorer_step(call, first, second, third, fourth) }
}
