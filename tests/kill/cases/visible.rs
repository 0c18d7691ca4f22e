//! A case for the harness itself: which instructions it takes for visible. The victim executes
//! known instructions, so there must be a known number of points.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::harness::{Case, Subject};

static PRIVATE: AtomicU64 = AtomicU64::new(0);

/// The visible instructions in the assembler text, and the store that ends the operation.
const POINTS: usize = 7 + 1;

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let case = Case::new("harness: visible instructions", || AtomicU64::new(0))
        .has_points(POINTS)
        .victim(|board, operation| {
            let (shared, private) = (board.as_ptr(), PRIVATE.as_ptr());
            // SAFETY: reads and writes two words that are only accessed so, and 64 bytes of the
            // stack
            // below its pointer, which it sets back.
            operation.step(|| unsafe {
                asm!(
                    "sub rsp, 64",
                    "mov qword ptr [rsp], 5",
                    "mov rax, qword ptr [rsp]",
                    "push rax",
                    "pop rax",
                    "lea rcx, [{shared} + rax]",
                    "mov rcx, qword ptr [{private}]",
                    "mov rcx, qword ptr [{shared}]",      // 1: reads what others write
                    "mov qword ptr [{private}], 6",       // 2: the kernel may read it
                    "mov qword ptr [{shared}], 7",        // 3
                    "lock xadd qword ptr [{shared}], rax", // 4
                    "mov rsi, rsp",
                    "mov rdi, {shared}",
                    "movsq",                              // 5
                    "rdtsc",                              // 6
                    "mov eax, 39",
                    "syscall",                            // 7: getpid
                    "add rsp, 64",
                    shared = in(reg) shared,
                    private = in(reg) private,
                    out("rax") _, out("rcx") _, out("rdx") _,
                    out("rsi") _, out("rdi") _, out("r11") _,
                );
            });
        })
        .check(|board, end| match (end.was_killed, board.load(SeqCst)) {
            (false, 5) | (true, 0 | 7 | 12 | 5) => Ok(()),
            (_, value) => Err(format!("the board has {value}; {end:?}")),
        });
    vec![Box::new(case)]
}
