//! System calls that a sandbox refuses: a seccomp filter for a forked child, made in the test.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unsafe_code)]

/// One system call, and what the kernel does instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    call: i64,
    action: u32,
    /// Applies only if the low 32 bits of this argument, under this mask, have this value.
    only: Option<(u32, u32, u32)>,
}

/// Refuses a system call, whatever its arguments are.
pub(crate) fn call(call: i64, errno: i32) -> Refusal {
    Refusal { call, action: libc::SECCOMP_RET_ERRNO | errno as u32, only: None }
}

/// Makes a system call kill the process that makes it.
pub(crate) fn kills(call: i64) -> Refusal {
    Refusal { call, action: libc::SECCOMP_RET_KILL_PROCESS, only: None }
}

/// Makes a system call raise SIGSYS in the thread that makes it.
pub(crate) fn traps(call: i64) -> Refusal {
    Refusal { call, action: libc::SECCOMP_RET_TRAP, only: None }
}

impl Refusal {
    /// Refuses the call only if this argument has this value.
    pub(crate) fn if_argument(self, index: u32, value: u32) -> Self {
        self.if_masked(index, u32::MAX, value)
    }

    /// Refuses the call only if this argument has this value under this mask.
    pub(crate) fn if_masked(self, index: u32, mask: u32, value: u32) -> Self {
        Refusal { only: Some((index, mask, value)), ..self }
    }

    /// Returns instructions that return the action, or fall through to the instructions behind
    /// them.
    fn program(self) -> Vec<libc::sock_filter> {
        let refuse = one(libc::BPF_RET | libc::BPF_K, self.action);
        let load = |offset| one(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
        let mut program = vec![load(0)];
        match self.only {
            None => program.push(unless_equal(self.call as u32, 1)),
            Some((index, mask, value)) => {
                // The low half of the argument. Each argument has eight bytes, behind the first
                // sixteen.
                let low = 16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 };
                program.extend([
                    unless_equal(self.call as u32, 4),
                    load(low),
                    one(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask),
                    unless_equal(value, 1),
                ]);
            }
        }
        program.push(refuse);
        program
    }
}

fn one(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Returns an instruction that skips `skip` instructions unless the accumulator is `k`.
fn unless_equal(k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { jf: skip, ..one(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) }
}

/// Makes the kernel refuse these calls in the calling thread and all that it starts, for good. For
/// a forked child only.
pub(crate) fn refuse(refusals: &[Refusal]) {
    let mut program: Vec<_> = refusals.iter().flat_map(|refusal| refusal.program()).collect();
    program.push(one(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    assert_eq!(
        // SAFETY: takes integers.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
        0,
        "privileges can be given up"
    );
    // SAFETY: the program lives through the call, which copies it.
    let installed =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(installed, 0, "a filter can be installed: {}", std::io::Error::last_os_error());
}
