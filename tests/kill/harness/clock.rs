//! Reads of a clock that single steps would never end.
//!
//! The kernel's code for that, the vDSO, reads the time again if the kernel has changed it
//! meanwhile, which it does at each of its ticks. On a busy machine each step may take longer than
//! that. So once a read begins anew, it is run to its end at once.

use std::ops::Range;

use super::process::wait_for;
use super::visible::{mapping, position, stack_pointer};

/// How a breakpoint is written.
const INT3: i64 = 0xcc;

/// A read of a clock that a traced process is in.
#[derive(Debug, Default)]
pub(crate) struct ClockRead {
    /// Where the vDSO is. It is the same in all processes that are forked from one.
    code: Option<Range<u64>>,
    returns_to: u64,
    /// The instructions that were executed since it began.
    executed: Vec<u64>,
}

impl ClockRead {
    pub(crate) fn new() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let code = maps.lines().filter_map(mapping).find(|&(_, _, name)| name == "[vdso]");
        ClockRead { code: code.map(|(range, ..)| range), ..ClockRead::default() }
    }

    /// Is called before each step. If the process, which is at this instruction, would read a clock
    /// again, it is run to the end of that, and not stepped. Returns what it was stopped by then.
    pub(crate) fn end_if_it_begins_anew(&mut self, pid: i32, at: u64) -> Option<i32> {
        if !self.code.as_ref().is_some_and(|code| code.contains(&at)) {
            self.executed.clear();
            return None;
        }
        if self.executed.is_empty() {
            // It was called by the instruction before.
            self.returns_to = peek(pid, stack_pointer(pid)?) as u64;
        }
        if !self.executed.contains(&at) {
            self.executed.push(at);
            return None;
        }
        self.executed.clear();
        Some(run_to(pid, self.returns_to))
    }
}

fn peek(pid: i32, at: u64) -> i64 {
    // SAFETY: reads the other process's memory.
    unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, pid, at, 0) }
}

fn poke(pid: i32, at: u64, word: i64) {
    // SAFETY: writes to the other process's memory, by a copy of its own.
    unsafe { libc::ptrace(libc::PTRACE_POKETEXT, pid, at, word) };
}

/// Lets the process run until it is at this instruction, or is stopped by something else. Returns
/// how it was stopped.
fn run_to(pid: i32, at: u64) -> i32 {
    let there = peek(pid, at);
    poke(pid, at, there & !0xff | INT3);
    // SAFETY: takes numbers.
    unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, 0) };
    let status = wait_for(pid, 0).expect("it waits until there is a status");
    if libc::WIFSTOPPED(status) {
        poke(pid, at, there);
        #[cfg(target_arch = "x86_64")]
        if position(pid) == Some(at + 1) {
            let register = core::mem::offset_of!(libc::user_regs_struct, rip);
            // SAFETY: sets the other process's instruction pointer back to the breakpoint.
            unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid, register, at) };
        }
    }
    status
}
