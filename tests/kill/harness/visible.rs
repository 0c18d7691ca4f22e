//! Which instructions are *visible*: somebody else could notice whether the process has executed
//! them. The others only change its registers, its stack and its own view of its memory, so to be
//! killed or stopped before one of them is the same as to be so after it, and one of the two is
//! enough (the visible operations of Godefroid, "Model checking for programming languages using
//! VeriSoft", 1997).
//!
//! Visible are, in a process with one thread:
//! - system calls, and whatever reads a clock,
//! - reads and writes of memory that is shared, or that the kernel changes (`[vvar]`),
//! - writes outside the stack, since the kernel reads some of it when a thread ends (the head of
//!   its robust list),
//! - what is not understood.
//!
//! In a process with more threads everything is.

use std::collections::HashMap;
use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, Register, UsedMemory};

const LONGEST_INSTRUCTION: usize = 15;
/// How far the stack may be used below the stack pointer: the red zone, and what an instruction
/// pushes.
const BELOW_STACK: u64 = 256;

/// An instruction, whatever the registers are.
#[derive(Debug, Clone)]
struct Meaning {
    is_call: bool,
    /// Visible whatever it accesses.
    is_visible: bool,
    accesses: Vec<UsedMemory>,
}

/// What is known of the instructions of a program, and of all that are forked from it.
#[derive(Debug, Default)]
pub(crate) struct Meanings {
    known: HashMap<u64, Meaning>,
}

/// The next instruction of a traced process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    /// It is a system call, or could be one.
    pub(crate) is_call: bool,
    /// After it the [`Memory`] is to be looked at anew.
    pub(crate) may_change_memory: bool,
    pub(crate) is_visible: bool,
}

impl Next {
    const UNKNOWN: Next = Next { is_call: true, may_change_memory: true, is_visible: true };
    /// The end of a system call that slept.
    pub(crate) const RETURN: Next = Next { is_call: false, may_change_memory: false, is_visible: true };
}

/// The memory of a traced process.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: i32,
    /// Where others see what it writes, or it sees what others write.
    shared: Vec<Range<u64>>,
    /// None if it has more threads than one.
    stack: Option<Range<u64>>,
}

impl Memory {
    pub(crate) fn of(pid: i32) -> Self {
        let mut memory = Memory { pid, shared: Vec::new(), stack: None };
        memory.look();
        memory
    }

    /// Looks at its mappings and threads anew: to be done after each system call.
    pub(crate) fn look(&mut self) {
        let Memory { pid, shared, stack } = self;
        shared.clear();
        *stack = None;
        // Of one that is gone there is nothing to be read, and nothing more to be judged.
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.lines() {
            let (range, is_shared, name) = mapping(line).expect("the kernel's lines have this form");
            if is_shared || name.starts_with("[vvar") {
                shared.push(range);
            } else if name == "[stack]" {
                *stack = Some(range);
            }
        }
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        if threads != 1 {
            *stack = None;
        }
    }

    /// What is in the memory that is shared, where it can be read.
    pub(crate) fn contents(&self) -> Vec<Vec<u8>> {
        self.shared.iter().map(|range| read(self.pid, range.start, (range.end - range.start) as usize)).collect()
    }
}

/// The fields of a line of `/proc/PID/maps`: the range, whether it is shared, and the name.
fn mapping(line: &str) -> Option<(Range<u64>, bool, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let is_shared = fields.next()?.ends_with('s');
    Some((range, is_shared, fields.nth(3).unwrap_or("")))
}

/// As much of the process's memory as can be read there.
fn read(pid: i32, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; len];
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let there = libc::iovec { iov_base: core::ptr::with_exposed_provenance_mut(at as usize), iov_len: len };
    // SAFETY: writes at most `len` bytes to `bytes`, and reads another process's memory only.
    let count = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    bytes.truncate(usize::try_from(count).unwrap_or(0));
    bytes
}

impl Meanings {
    /// The next instruction of a process that stands still.
    pub(crate) fn next(&mut self, memory: &Memory) -> Next {
        let Some(registers) = registers(memory.pid) else { return Next::UNKNOWN };
        let at = value_of(&registers, Register::RIP).expect("there is always one");
        let meaning = self.known.entry(at).or_insert_with(|| Meaning::of(&read(memory.pid, at, LONGEST_INSTRUCTION), at));
        let is_call = meaning.is_call;
        // Of a sleep it is known that it maps nothing.
        let is_futex = |number| [libc::SYS_futex, libc::SYS_futex_waitv].contains(&(number as i64));
        let may_change_memory = is_call && !value_of(&registers, Register::RAX).is_some_and(is_futex);
        let next = Next { is_call, may_change_memory, is_visible: true };
        let Some(stack) = &memory.stack else { return next };
        let pointer = value_of(&registers, Register::RSP).expect("there is always one");
        let stack = stack.start.min(pointer.saturating_sub(BELOW_STACK))..stack.end;
        let is_seen = |access: &UsedMemory| {
            let address = access.virtual_address(0, |register, _, _| value_of(&registers, register));
            let Some(address) = address else { return true };
            let end = address.saturating_add(access.memory_size().size() as u64);
            let is_inside = |range: &Range<u64>| range.start <= address && end <= range.end;
            let is_touched = |range: &Range<u64>| address < range.end && range.start < end;
            match access.access() {
                OpAccess::Read | OpAccess::CondRead => memory.shared.iter().any(is_touched),
                _ => !is_inside(&stack),
            }
        };
        Next { is_visible: meaning.is_visible || meaning.accesses.iter().any(is_seen), ..next }
    }
}

impl Meaning {
    fn of(bytes: &[u8], at: u64) -> Self {
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        let is_call = matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int);
        let reads_clock = matches!(instruction.mnemonic(), Mnemonic::Rdtsc | Mnemonic::Rdtscp);
        let mut factory = InstructionInfoFactory::new();
        let accesses = factory.info(&instruction).used_memory();
        let accesses: Vec<_> = accesses.iter().filter(|access| access.access() != OpAccess::NoMemAccess).copied().collect();
        // Such as what saves all registers, or gathers from many places.
        let is_odd = |access: &UsedMemory| access.memory_size().size() == 0 || access.index().is_vector_register();
        let is_unknown = instruction.code() == Code::INVALID || accesses.iter().any(is_odd);
        Meaning { is_call, is_visible: is_call || reads_clock || is_unknown, accesses }
    }
}

#[cfg(target_arch = "x86_64")]
type Registers = libc::user_regs_struct;

#[cfg(not(target_arch = "x86_64"))]
type Registers = core::convert::Infallible;

#[cfg(target_arch = "x86_64")]
fn registers(pid: i32) -> Option<Registers> {
    let mut registers = core::mem::MaybeUninit::<Registers>::uninit();
    // SAFETY: writes the registers where it is told.
    let failed = unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, registers.as_mut_ptr()) } != 0;
    // SAFETY: written, since it did not fail.
    (!failed).then(|| unsafe { registers.assume_init() })
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: i32) -> Option<Registers> {
    None
}

/// The value of a register that addresses are made of.
#[cfg(target_arch = "x86_64")]
fn value_of(registers: &Registers, register: Register) -> Option<u64> {
    Some(match register {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::RIP => registers.rip,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn value_of(registers: &Registers, _: Register) -> Option<u64> {
    match *registers {}
}

/// Whether the process stands at an instruction, and at which.
pub(crate) fn position(pid: i32) -> Option<u64> {
    registers(pid).and_then(|registers| value_of(&registers, Register::RIP))
}
