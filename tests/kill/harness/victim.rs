//! The process that is single-stepped, and killed or stopped after one of its instructions.

use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;
use std::time::Instant;

use super::arena::{Arena, Seat};
use super::case::Operation;
use super::clock::ClockRead;
use super::process::{Crew, Member, is_traced_asleep, let_others_run, signal, wait_for};
use super::run::Fault;
use super::visible::{Memory, Next, position};

/// The longest that a victim may sleep when nothing keeps it asleep, or prepare itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Traps, so that the tracer begins at the next instruction.
#[inline(always)]
pub(crate) fn trap() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: raises SIGTRAP, which the tracer takes.
    unsafe {
        core::arch::asm!("int3");
    };
}

/// Checks whether this machine, this kernel and its sandbox allow tracing.
pub(crate) fn can_trace() -> Result<(), String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("it decodes the instructions of x86-64 alone, and on aarch64 an atomic \
        operation that is \
                    made of an exclusive load and store never succeeds in single steps"
            .into());
    }
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            crossproc_sys::process::exit_now(i32::from(ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0))
        }
        -1 => Err("cannot fork".into()),
        child => match wait_for(child, 0) {
            Some(0) => Ok(()),
            _ => Err("ptrace is not allowed here".into()),
        },
    }
}

/// The type that libc gives a request of `ptrace`.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn ptrace(request: Request, pid: i32, address: usize, data: usize) -> i64 {
    // SAFETY: the requests used here take numbers, and none of them writes to this process.
    unsafe { libc::ptrace(request, pid, address, data) }
}

/// How far a victim came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walk {
    pub(crate) instructions: usize,
    /// The number of invisible instructions that were seen to leave the shared memory as it was.
    pub(crate) compared: usize,
    /// The number of points: visible instructions, and falls into sleep.
    pub(crate) points: usize,
    /// The instruction before each point.
    pub(crate) trail: Vec<Passed>,
    /// The points at which it was asleep.
    pub(crate) asleep: Vec<usize>,
    /// The points that precede a system call.
    pub(crate) calls: Vec<usize>,
    /// Whether the operation has returned.
    pub(crate) is_completed: bool,
    /// The address of the next instruction.
    pub(crate) at: Option<u64>,
}

/// A sequence of invisible instructions.
struct Unseen {
    /// What others could see before the first of them, if nothing else could run.
    contents: Option<Vec<Vec<u8>>>,
    /// The number of instructions before the sequence.
    since: usize,
    /// The address of the first instruction.
    at: Option<u64>,
}

/// A visible instruction that was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Passed {
    /// Its address; `None` for the return from a sleep.
    at: Option<u64>,
    /// Whether the victim fell asleep in it.
    is_asleep: bool,
    /// How often it was executed before.
    times: usize,
}

impl Walk {
    fn pass(&mut self, at: Option<u64>, is_asleep: bool) {
        let is_same = |passed: &&Passed| (passed.at, passed.is_asleep) == (at, is_asleep);
        let times = self.trail.iter().filter(is_same).count();
        self.trail.push(Passed { at, is_asleep, times });
        self.points += 1;
        if is_asleep {
            self.asleep.push(self.points);
        }
    }
}

pub(crate) struct Victim {
    pub(crate) member: Member,
    pub(crate) pid: i32,
    seat: &'static Seat,
    is_asleep: bool,
    clock: ClockRead,
}

impl Victim {
    /// Forks the victim, and waits until it is at the first instruction of the operation.
    pub(crate) fn prepare(
        crew: &mut Crew,
        arena: &Arena,
        script: impl FnOnce(&Operation),
    ) -> Result<Victim, Fault> {
        let member = crew.fork(0, |me| {
            ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            script(&Operation { seat: me.seat });
        })?;
        let victim = Victim {
            member,
            pid: crew.pid(member),
            seat: &arena.control.seats[member],
            is_asleep: false,
            clock: ClockRead::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match wait_for(victim.pid, libc::WNOHANG) {
                None if Instant::now() > deadline => {
                    return Err(Fault::Broken("the victim's preparation does not end".into()));
                }
                None => let_others_run(),
                Some(status)
                    if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP =>
                {
                    break;
                }
                Some(status) => return Err(victim.unexpected(crew, status)),
            }
        }
        ptrace(libc::PTRACE_SETOPTIONS, victim.pid, 0, libc::PTRACE_O_EXITKILL as usize);
        Ok(victim)
    }

    fn unexpected(&self, crew: &mut Crew, status: i32) -> Fault {
        if libc::WIFSTOPPED(status) {
            return Fault::Broken(format!("the victim got signal {}", libc::WSTOPSIG(status)));
        }
        crew.note_end(self.member);
        Fault::Broken(format!("the victim ended with {status:#x}: {}", crew.complaint(self.member)))
    }

    pub(crate) fn tid(&self) -> u32 {
        self.pid as u32
    }

    /// Makes steps until the point, or until the operation is over. When the victim has fallen
    /// asleep and is to go on, `unblock` is called as long as that changes something.
    ///
    /// A walk to the end checks that the instructions called invisible leave the shared memory as
    /// it is. It can tell only while nothing else can run.
    pub(crate) fn walk(
        &mut self,
        crew: &mut Crew,
        point: usize,
        mut unblock: impl FnMut(&mut Crew) -> Result<bool, Fault>,
    ) -> Result<Walk, Fault> {
        let mut walk = Walk::default();
        let mut memory = Memory::of(self.pid);
        let mut unseen = None;
        while walk.points < point && self.seat.is_completed.load(SeqCst) == 0 {
            // Repeats this if the processes that went on have woken another one instead.
            while self.is_asleep && unblock(crew)? && is_traced_asleep(self.pid) {}
            let at = self.next_instruction();
            let next = if self.is_asleep { Next::RETURN_FROM_SLEEP } else { crew.next_of(&memory) };
            if next.is_visible {
                walk.compared += self.compare(crew, unseen.take(), &memory, &walk)?;
            } else if point == usize::MAX && unseen.is_none() {
                let contents = crew.is_quiet(self.member).then(|| memory.contents()).flatten();
                unseen = Some(Unseen { contents, since: walk.instructions, at });
            }
            if next.is_syscall {
                walk.calls.push(walk.points);
            }
            self.step(crew, at, next.is_syscall)?;
            walk.instructions += 1;
            if next.is_visible {
                walk.pass(at, self.is_asleep);
            }
            if next.may_map && !self.is_asleep {
                memory.look();
            }
        }
        walk.compared += self.compare(crew, unseen, &memory, &walk)?;
        walk.is_completed = self.seat.is_completed.load(SeqCst) != 0;
        walk.at = self.next_instruction();
        Ok(walk)
    }

    /// Checks that others see the same after these instructions as before. Returns how many
    /// instructions were compared: 0 if it could not tell.
    fn compare(
        &self,
        crew: &Crew,
        unseen: Option<Unseen>,
        memory: &Memory,
        walk: &Walk,
    ) -> Result<usize, Fault> {
        let Some(Unseen { contents: Some(contents), since, at }) = unseen else { return Ok(0) };
        match memory.contents() {
            Some(now) if now == contents => Ok(walk.instructions - since),
            Some(_) if crew.is_quiet(self.member) => Err(Fault::Noticed(at)),
            _ => Ok(0),
        }
    }

    /// Executes one instruction, which is at this address. One that sleeps takes two steps: to fall
    /// asleep, and to return.
    fn step(&mut self, crew: &mut Crew, at: Option<u64>, is_syscall: bool) -> Result<(), Fault> {
        let may_sleep = is_syscall && !self.is_asleep;
        let mut stopped = None;
        if !self.is_asleep {
            stopped = at.and_then(|at| self.clock.end_if_it_begins_anew(self.pid, at));
            if stopped.is_none() {
                ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let flags = if is_syscall || self.is_asleep { libc::WNOHANG } else { 0 };
        loop {
            match stopped.take().or_else(|| wait_for(self.pid, flags)) {
                Some(status)
                    if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP =>
                {
                    self.is_asleep = false;
                    return Ok(());
                }
                Some(status) => return Err(self.unexpected(crew, status)),
                None if may_sleep && is_traced_asleep(self.pid) => {
                    self.is_asleep = true;
                    return Ok(());
                }
                None if Instant::now() > deadline => {
                    return Err(Fault::Broken(
                        "the victim sleeps on though nobody keeps it asleep".into(),
                    ));
                }
                None => let_others_run(),
            }
        }
    }

    fn next_instruction(&self) -> Option<u64> {
        position(self.pid).filter(|_| !self.is_asleep)
    }

    /// Kills the victim, and waits until the kernel has done all its work for the dead process. The
    /// stepped thread receives the signal as what it stops for, so it is the one that runs then. If
    /// there are other threads, it dies before they have left what they sleep on.
    pub(crate) fn kill(&mut self, crew: &mut Crew) {
        if self.is_asleep || ptrace(libc::PTRACE_CONT, self.pid, 0, libc::SIGKILL as usize) != 0 {
            signal(self.pid, libc::SIGKILL);
        }
        while !wait_for(self.pid, 0)
            .is_some_and(|status| libc::WIFSIGNALED(status) || libc::WIFEXITED(status))
        {}
        crew.note_end(self.member);
    }

    /// Makes steps until `is_time` holds, then kills the process.
    pub(crate) fn die_when(
        &mut self,
        crew: &mut Crew,
        is_time: impl Fn() -> bool,
    ) -> Result<(), Fault> {
        self.walk_until(crew, is_time)?;
        self.kill(crew);
        Ok(())
    }

    /// Makes steps until `is_time` holds.
    pub(crate) fn walk_until(
        &mut self,
        crew: &mut Crew,
        is_time: impl Fn() -> bool,
    ) -> Result<(), Fault> {
        let memory = Memory::of(self.pid);
        while !is_time() {
            if self.seat.is_completed.load(SeqCst) != 0 {
                return Err(Fault::Broken(
                    "the one that is to end before the victim had no reason to".into(),
                ));
            }
            let next = if self.is_asleep { Next::RETURN_FROM_SLEEP } else { crew.next_of(&memory) };
            self.step(crew, self.next_instruction(), next.is_syscall)?;
        }
        Ok(())
    }

    /// Stops the process where it is.
    pub(crate) fn stop(&mut self, crew: &mut Crew) -> Result<(), Fault> {
        if self.is_asleep {
            // The signal ends its sleep, as it would without a tracer. Then the process is stopped
            // by the signal, and not by the tracer.
            signal(self.pid, libc::SIGSTOP);
            match wait_for(self.pid, 0) {
                Some(status) if libc::WIFSTOPPED(status) => {
                    ptrace(libc::PTRACE_DETACH, self.pid, 0, libc::SIGSTOP as usize)
                }
                Some(status) => return Err(self.unexpected(crew, status)),
                None => 0,
            };
            if !wait_for(self.pid, libc::WUNTRACED).is_some_and(|status| libc::WIFSTOPPED(status)) {
                return Err(Fault::Broken("the victim cannot be stopped".into()));
            }
        }
        Ok(())
    }

    /// Lets a stopped process run to its end, untraced.
    pub(crate) fn go_on(&self) {
        if self.is_asleep {
            signal(self.pid, libc::SIGCONT);
        } else {
            ptrace(libc::PTRACE_DETACH, self.pid, 0, 0);
        }
    }
}
