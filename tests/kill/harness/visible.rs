//! Decides which instructions are *visible*: other processes could notice whether the process has
//! executed them. All other instructions change only its registers, its stack and its own view of
//! its memory. A kill or stop before such an instruction is the same as one after it, so trying one
//! of the two is enough. These are the visible operations of Godefroid, "Model checking for
//! programming languages using VeriSoft", 1997.
//!
//! Visible are, in a process with one thread:
//! - system calls, and whatever reads a clock,
//! - reads and writes of memory that is shared, or that the kernel changes (`[vvar]`),
//! - writes outside the stack, since the kernel reads some of it when a thread ends: the head of
//!   its robust list, whose entries lie in shared memory,
//! - instructions that are not understood.
//!
//! In a process with more threads, the other threads see all of its memory, and write to it. Reads
//! are visible there, too, with two exceptions: reads of its stack, which no other thread borrows
//! here, and reads of memory that nothing can write to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory,
};
use iced_x86::{Instruction, Mnemonic};

use super::process::other_threads;

const LONGEST_INSTRUCTION: usize = 15;
/// How far the stack may be used below the stack pointer: the red zone, and what an instruction
/// pushes.
const BELOW_STACK: u64 = 256;
/// The most by which the stack pointer may lie below the stack, which then grows.
const GROWTH: u64 = 1 << 20;

/// What an instruction does, whatever the registers hold.
#[derive(Debug)]
struct Meaning {
    is_syscall: bool,
    /// Whether it is visible whatever it accesses.
    is_visible: bool,
    /// Its memory accesses, each with its number of bytes.
    accesses: Vec<(UsedMemory, u64)>,
}

/// The known instructions of a program, and of all processes that are forked from it.
#[derive(Debug, Default)]
pub(crate) struct Meanings {
    known: HashMap<u64, Meaning>,
}

/// The next instruction of a traced process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    /// Whether it is a system call, or could be one.
    pub(crate) is_syscall: bool,
    /// Whether the [`Memory`] must be looked at again after it.
    pub(crate) may_map: bool,
    pub(crate) is_visible: bool,
}

impl Next {
    const UNKNOWN: Next = Next { is_syscall: true, may_map: true, is_visible: true };
    /// The return of a system call that slept.
    pub(crate) const RETURN_FROM_SLEEP: Next =
        Next { is_syscall: false, may_map: true, is_visible: true };
}

/// The memory of a traced process.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: i32,
    /// The ranges that it shares with other processes.
    shared: Vec<Range<u64>>,
    /// The ranges that others change: the shared ones, the kernel's clocks, and what other threads
    /// write to.
    changing: Vec<Range<u64>>,
    /// `None` only if the process is gone.
    stack: Option<Range<u64>>,
}

impl Memory {
    pub(crate) fn of(pid: i32) -> Self {
        let mut memory = Memory { pid, shared: Vec::new(), changing: Vec::new(), stack: None };
        memory.look();
        memory
    }

    /// Looks at the mappings and threads again. To be called after each system call that may change
    /// them.
    pub(crate) fn look(&mut self) {
        self.shared.clear();
        self.changing.clear();
        self.stack = None;
        let has_threads = other_threads(self.pid).next().is_some();
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        for line in maps.lines() {
            let (range, rights, name) = mapping(line).expect("the kernel's lines have this form");
            if name == "[stack]" {
                self.stack = Some(range);
                continue;
            }
            if rights.ends_with('s') {
                self.shared.push(range.clone());
            }
            if rights.ends_with('s')
                || name.starts_with("[vvar")
                || (has_threads && rights.contains('w'))
            {
                self.changing.push(range);
            }
        }
    }

    /// Returns what other processes see of its memory, or `None` if it cannot be read.
    pub(crate) fn contents(&self) -> Option<Vec<Vec<u8>>> {
        let whole = |range: &Range<u64>| {
            let len = (range.end - range.start) as usize;
            Some(read(self.pid, range.start, len)).filter(|bytes| bytes.len() == len)
        };
        self.shared.iter().map(whole).collect()
    }

    /// Returns whether another process or thread could notice an access to `len` bytes.
    fn is_seen(&self, access: OpAccess, address: u64, len: u64, stack: &Range<u64>) -> bool {
        let end = address.saturating_add(len);
        let is_inside = |range: &Range<u64>| range.start <= address && end <= range.end;
        let is_touched = |range: &Range<u64>| address < range.end && range.start < end;
        let is_read = matches!(access, OpAccess::Read | OpAccess::CondRead);
        self.changing.iter().any(is_touched) || (!is_read && !is_inside(stack))
    }
}

/// Parses a line of `/proc/PID/maps`: the range, the access rights, and the name.
pub(super) fn mapping(line: &str) -> Option<(Range<u64>, &str, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    Some((range, fields.next()?, fields.nth(3).unwrap_or("")))
}

/// Reads as much of the process's memory as is readable there.
fn read(pid: i32, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; len];
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let there =
        libc::iovec { iov_base: core::ptr::with_exposed_provenance_mut(at as usize), iov_len: len };
    // SAFETY: writes at most `len` bytes to `bytes`, and reads another process's memory only.
    let count = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    bytes.truncate(usize::try_from(count).unwrap_or(0));
    bytes
}

impl Meanings {
    /// Returns the next instruction of a process that stands still.
    pub(crate) fn next(&mut self, memory: &Memory) -> Next {
        let Some(registers) = registers(memory.pid) else { return Next::UNKNOWN };
        let register = |register| value_of(&registers, register);
        let at = register(Register::RIP).expect("there is always one");
        let meaning = match self.known.entry(at) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                match Meaning::of(&read(memory.pid, at, LONGEST_INSTRUCTION), at) {
                    Some(meaning) => place.insert(meaning),
                    None => return Next::UNKNOWN,
                }
            }
        };
        let is_syscall = meaning.is_syscall;
        let is_futex = |number| [libc::SYS_futex, libc::SYS_futex_waitv].contains(&(number as i64));
        let next = Next {
            is_syscall,
            may_map: is_syscall && !register(Register::RAX).is_some_and(is_futex),
            is_visible: true,
        };
        let pointer = register(Register::RSP).expect("there is always one");
        let is_on_stack = |stack: &&Range<u64>| {
            stack.start.saturating_sub(GROWTH) <= pointer && pointer <= stack.end
        };
        let Some(stack) = memory.stack.as_ref().filter(is_on_stack) else { return next };
        let stack = stack.start.min(pointer.saturating_sub(BELOW_STACK))..stack.end;
        let is_seen = |(access, len): &(UsedMemory, u64)| {
            let address = access.virtual_address(0, |name, _, _| register(name));
            address.is_none_or(|address| memory.is_seen(access.access(), address, *len, &stack))
        };
        Next { is_visible: meaning.is_visible || meaning.accesses.iter().any(is_seen), ..next }
    }
}

impl Meaning {
    /// Returns `None` if the bytes are no known instruction.
    fn of(bytes: &[u8], at: u64) -> Option<Self> {
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        if instruction.code() == Code::INVALID {
            return None;
        }
        let is_syscall = matches!(
            instruction.mnemonic(),
            Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int
        );
        let mut factory = InstructionInfoFactory::new();
        let used = factory.info(&instruction).used_memory().iter();
        let accesses: Vec<_> = used
            .filter(|access| access.access() != OpAccess::NoMemAccess)
            .map(|&access| (access, len_of(&instruction, &access)))
            .collect();
        let is_odd =
            |(access, len): &(UsedMemory, u64)| *len == 0 || access.index().is_vector_register();
        let is_visible = is_syscall
            || reads_clock(&instruction)
            || is_bit_string(&instruction)
            // For example, instructions that save all registers, or gather from many places.
            || accesses.iter().any(is_odd);
        Some(Meaning { is_syscall, is_visible, accesses })
    }
}

/// Returns how many bytes an access takes, or 0 if that is not known. A repeated string instruction
/// is stepped through one element at a time.
fn len_of(instruction: &Instruction, access: &UsedMemory) -> u64 {
    let of_access = access.memory_size().size();
    let len = if of_access == 0 && instruction.is_string_instruction() {
        instruction.memory_size().size()
    } else {
        of_access
    };
    len as u64
}

fn reads_clock(instruction: &Instruction) -> bool {
    use Mnemonic::{Rdpmc, Rdpru, Rdtsc, Rdtscp, Tpause, Umwait};
    matches!(instruction.mnemonic(), Rdtsc | Rdtscp | Rdpmc | Rdpru | Tpause | Umwait)
}

/// Returns whether the bit may lie elsewhere than the operand, because a register gives its offset.
fn is_bit_string(instruction: &Instruction) -> bool {
    let is_of_bits = matches!(
        instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    is_of_bits && instruction.memory_size().size() != 0
}

#[cfg(target_arch = "x86_64")]
type Registers = libc::user_regs_struct;

#[cfg(not(target_arch = "x86_64"))]
type Registers = core::convert::Infallible;

#[cfg(target_arch = "x86_64")]
fn registers(pid: i32) -> Option<Registers> {
    let mut registers = core::mem::MaybeUninit::<Registers>::uninit();
    // SAFETY: writes the registers to the buffer that it is given.
    let failed = unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, registers.as_mut_ptr()) } != 0;
    // SAFETY: initialised, since the call did not fail.
    (!failed).then(|| unsafe { registers.assume_init() })
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: i32) -> Option<Registers> {
    None
}

/// Returns the value of a register that addresses are made of.
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

/// Returns the address of the instruction at which the process stands, if it stands at one.
pub(crate) fn position(pid: i32) -> Option<u64> {
    registers(pid).and_then(|registers| value_of(&registers, Register::RIP))
}

pub(super) fn stack_pointer(pid: i32) -> Option<u64> {
    registers(pid).and_then(|registers| value_of(&registers, Register::RSP))
}
