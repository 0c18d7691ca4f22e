//! The processes of a run: how they begin, sleep and end.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use core::time::Duration;
use std::fs::File;
use std::io::Read;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use super::arena::{Arena, PAUSED, RUNNING, SEATS, Seat, futex_wake};
use super::case::Me;
use super::run::Fault;
use super::visible::{Meanings, Memory, Next};

/// The longest that a preparation may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A number of open gates that no process exceeds.
const ALL_GATES: u32 = u32::MAX / 2;

/// How a process sleeps in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asleep {
    /// It sleeps in a call with a time-out.
    Timed,
    /// It sleeps in a call without a time-out.
    Untimed,
}

/// Returns how the process sleeps, if it is in one of the calls that the code under test sleeps in:
/// those of futexes and sockets. Returns `None` if it is not, if it runs, or if it is gone.
pub(crate) fn asleep(pid: i32) -> Option<Asleep> {
    let mut line = [0; 256];
    let len = File::open(format!("/proc/{pid}/syscall")).ok()?.read(&mut line).ok()?;
    let mut fields = core::str::from_utf8(&line[..len]).ok()?.split_ascii_whitespace();
    let call: i64 = fields.next()?.parse().ok()?;
    // The position of the call's time-out among its arguments.
    let timeout = match call {
        libc::SYS_futex | libc::SYS_futex_waitv => 3,
        libc::SYS_ppoll => 2,
        libc::SYS_recvmsg | libc::SYS_sendmsg | libc::SYS_sendto => return Some(Asleep::Untimed),
        _ => return None,
    };
    Some(if fields.nth(timeout)? == "0x0" { Asleep::Untimed } else { Asleep::Timed })
}

/// Returns whether a traced process sleeps in one of these calls. It may also be stopped at the end
/// of the call, and the line about its call is the same then.
pub(crate) fn is_traced_asleep(pid: i32) -> bool {
    asleep(pid).is_some() && state_of(pid) == Some('S')
}

/// Returns the threads of a process except its main one.
pub(crate) fn other_threads(pid: i32) -> impl Iterator<Item = i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| thread.file_name().to_str()?.parse().ok())
        .filter(move |&thread| thread != pid)
}

/// Returns the kernel's letter for the state of a process, or `None` if it is gone.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Returns a child's status as `waitpid` gives it, or `None` if it has nothing to report.
pub(crate) fn wait_for(pid: i32, flags: i32) -> Option<i32> {
    loop {
        let mut status = 0;
        // SAFETY: writes the status of a child where its argument points.
        match unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL) } {
            0 => return None,
            -1 => assert_eq!(
                std::io::Error::last_os_error().raw_os_error(),
                Some(libc::EINTR),
                "the child is ours and unreaped"
            ),
            _ => return Some(status),
        }
    }
}

pub(crate) fn signal(pid: i32, signal: i32) {
    // SAFETY: signals a child that was not reaped, so the PID is its own.
    unsafe { libc::kill(pid, signal) };
}

fn sigchld() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above, and the signal exists.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

fn mask_sigchld(how: i32) {
    let set = sigchld();
    // SAFETY: reads an initialised set.
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

/// Lets the others run for a moment, or until a child has something to report.
pub(crate) fn let_others_run() {
    let set = sigchld();
    let moment = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
    // SAFETY: reads an initialised set and a time.
    unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const moment) };
}

/// Returns the CPUs that this process may run on.
pub(crate) fn cpus() -> Vec<usize> {
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: writes the set, whose size is passed.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    assert_eq!(
        failed, 0,
        "the kernel tells which CPUs there are, if they are no more than a set holds"
    );
    // SAFETY: reads an initialised set, at an index inside it.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Returns the CPU that this thread runs on.
pub(crate) fn this_cpu() -> usize {
    // SAFETY: no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// Prepares the harness; to be called once. SIGCHLD is blocked, to be waited for; a child's panic
/// is noted in its seat; all processes run on one CPU.
pub(crate) fn set_up(arena: &Arena, cpu: usize) {
    mask_sigchld(libc::SIG_BLOCK);
    // SAFETY: takes numbers. Without it, the kernel makes short sleeps 50 µs longer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    // SAFETY: all zero is an empty set.
    let mut cpus: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the set is initialised; an index beyond it would be ignored.
    unsafe { libc::CPU_SET(cpu, &mut cpus) };
    // SAFETY: reads the set, with its size.
    let failed =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus) };
    assert_eq!(failed, 0, "the harness can be pinned to CPU {cpu}");
    let control = arena.control;
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| match control.seats.get(MY_SEAT.load(SeqCst)) {
        Some(seat) => seat.complain(&info.to_string().replace('\n', " ")),
        None => default(info),
    }));
}

/// The number of this process's seat. The tracer has none.
static MY_SEAT: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Process {
    pid: i32,
    seat: &'static Seat,
    status: Option<i32>,
}

impl Process {
    fn poll(&mut self) -> Option<i32> {
        if self.status.is_none() {
            self.status = wait_for(self.pid, libc::WNOHANG);
        }
        self.status
    }

    fn failure(&self) -> Option<String> {
        match self.status {
            None | Some(0) => None,
            Some(status) if libc::WIFSIGNALED(status) => {
                Some(format!("was ended by signal {}", libc::WTERMSIG(status)))
            }
            Some(_) => Some(self.seat.complaint()),
        }
    }
}

/// The processes of a run. They are killed and reaped when it is dropped.
pub(crate) struct Crew<'a> {
    arena: Arena,
    meanings: &'a mut Meanings,
    members: Vec<Process>,
}

/// A member's number, in order of appearance.
pub(crate) type Member = usize;

/// What the other processes have come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Ended,
    /// Those that have not ended are asleep, for a reason.
    Waiting,
    /// Those that have not ended are asleep, without a reason.
    Stranded(String),
}

impl<'a> Crew<'a> {
    pub(crate) fn new(arena: Arena, meanings: &'a mut Meanings) -> Self {
        Crew { arena, meanings, members: Vec::with_capacity(SEATS) }
    }

    /// Returns the next instruction of a traced member with this memory.
    pub(crate) fn next_of(&mut self, memory: &Memory) -> Next {
        self.meanings.next(memory)
    }

    /// Forks a process that runs `body` and ends without running inherited destructors.
    pub(crate) fn fork(&mut self, index: usize, body: impl FnOnce(&Me)) -> Result<Member, Fault> {
        let number = self.members.len();
        let seat = &self.arena.control.seats[number];
        // SAFETY: no arguments.
        let parent = unsafe { libc::getpid() };
        // SAFETY: this process has one thread, so the child may do whatever its parent could.
        match unsafe { libc::fork() } {
            -1 => Err(Fault::Broken(format!("fork: {}", std::io::Error::last_os_error()))),
            0 => {
                MY_SEAT.store(number, SeqCst);
                // SAFETY: takes numbers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                mask_sigchld(libc::SIG_UNBLOCK);
                // SAFETY: no arguments.
                if unsafe { libc::getppid() } != parent {
                    crossproc_sys::process::exit_now(2);
                }
                let me = Me { control: self.arena.control, seat, index, passed: Cell::new(0) };
                let code = i32::from(panic::catch_unwind(AssertUnwindSafe(|| body(&me))).is_err());
                seat.ended_at.store(crossproc_sys::clock::now(), SeqCst);
                crossproc_sys::process::exit_now(code)
            }
            pid => {
                self.members.push(Process { pid, seat, status: None });
                Ok(number)
            }
        }
    }

    pub(crate) fn pid(&self, member: Member) -> i32 {
        self.members[member].pid
    }

    pub(crate) fn complaint(&self, member: Member) -> String {
        self.members[member].seat.complaint()
    }

    /// Notes that the member was reaped elsewhere.
    pub(crate) fn note_end(&mut self, member: Member) {
        self.members[member].status = Some(0);
    }

    /// Returns whether nothing can run except the member's main thread, which stands still. All
    /// other threads are gone, stopped, or asleep until another thread acts. (The crate's own
    /// threads wake after a second.)
    pub(crate) fn is_quiet(&self, but: Member) -> bool {
        let sleeps = |tid| asleep(tid) == Some(Asleep::Untimed);
        let is_still = |pid| state_of(pid).is_none_or(|state| "tTZX".contains(state));
        let is_quiet = |(member, process): (Member, &Process)| {
            let main = member == but
                || process.status.is_some()
                || is_still(process.pid)
                || sleeps(process.pid);
            main && other_threads(process.pid).all(|thread| asleep(thread).is_some())
        };
        self.members.iter().enumerate().all(is_quiet)
    }

    /// Waits until the member sleeps in the code under test, pauses, or has ended.
    pub(crate) fn settle(&mut self, member: Member) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        let process = &mut self.members[member];
        while process.poll().is_none()
            && process.seat.state.load(SeqCst) != PAUSED
            && asleep(process.pid).is_none()
        {
            if Instant::now() > deadline {
                return Err(Fault::Broken(format!(
                    "process {member} neither sleeps, pauses nor ends"
                )));
            }
            let_others_run();
        }
        process
            .failure()
            .map_or(Ok(()), |text| Err(Fault::Broken(format!("process {member}: {text}"))))
    }

    /// Lets the paused members go on, one after the other, each until it has settled again. Returns
    /// whether there was one.
    pub(crate) fn next_gates(&mut self, members: core::ops::Range<Member>) -> Result<bool, Fault> {
        let mut has_any = false;
        for member in members {
            let process = &mut self.members[member];
            if process.poll().is_none() && process.seat.state.load(SeqCst) == PAUSED {
                has_any = true;
                process.seat.state.store(RUNNING, SeqCst);
                process.seat.opened.fetch_add(1, SeqCst);
                futex_wake(&process.seat.opened);
                self.settle(member)?;
            }
        }
        Ok(has_any)
    }

    /// Lets the members run to their ends.
    pub(crate) fn all_gates(&self, members: core::ops::Range<Member>) {
        for process in &self.members[members] {
            process.seat.state.store(RUNNING, SeqCst);
            process.seat.opened.store(ALL_GATES, SeqCst);
            futex_wake(&process.seat.opened);
        }
    }

    pub(crate) fn unfinished(&mut self, members: core::ops::Range<Member>) -> u32 {
        self.members[members]
            .iter_mut()
            .filter_map(|process| process.poll().is_none().then_some(()))
            .count() as u32
    }

    /// Returns when the last of the members finished its script.
    pub(crate) fn ended_at(&self, members: core::ops::Range<Member>) -> u64 {
        self.members[members]
            .iter()
            .map(|process| process.seat.ended_at.load(SeqCst))
            .max()
            .unwrap_or(0)
    }

    /// Waits until the members have ended, or are asleep for good. They are stranded if all have
    /// been asleep without a time-out for `stranded_for`, or are still asleep, with time-outs or
    /// not, after `limit`.
    pub(crate) fn wait(
        &mut self,
        members: core::ops::Range<Member>,
        may_wait: impl Fn() -> bool,
        stranded_for: Duration,
        limit: Duration,
    ) -> Result<Awaited, Fault> {
        let began = Instant::now();
        let mut asleep_since: Option<Instant> = None;
        loop {
            let mut left = Vec::new();
            for member in members.clone() {
                let process = &mut self.members[member];
                match process.poll() {
                    None => left.push((member, asleep(process.pid))),
                    Some(_) => {
                        if let Some(text) = process.failure() {
                            return Err(Fault::Broken(format!("process {member}: {text}")));
                        }
                    }
                }
            }
            if left.is_empty() {
                return Ok(Awaited::Ended);
            }
            let who = || {
                left.iter()
                    .map(|(member, how)| format!("process {member} ({how:?})"))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            if left.iter().all(|(_, how)| how.is_some()) {
                let since = *asleep_since.get_or_insert_with(Instant::now);
                let is_again = since.elapsed() > Duration::from_micros(40);
                if is_again && may_wait() {
                    return Ok(Awaited::Waiting);
                }
                if since.elapsed() > stranded_for
                    && left.iter().all(|&(_, how)| how == Some(Asleep::Untimed))
                {
                    return Ok(Awaited::Stranded(who()));
                }
            } else {
                asleep_since = None;
            }
            // A member that keeps running may be short of CPU time, which others want, too.
            if began.elapsed() > if asleep_since.is_some() { limit } else { PATIENCE } {
                return Ok(Awaited::Stranded(format!("{} after {:?}", who(), began.elapsed())));
            }
            let_others_run();
        }
    }
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        for process in &mut self.members {
            if process
                .poll()
                .is_none_or(|status| !libc::WIFEXITED(status) && !libc::WIFSIGNALED(status))
            {
                signal(process.pid, libc::SIGKILL);
                // A traced process may report a stop first.
                while !wait_for(process.pid, 0)
                    .is_some_and(|status| libc::WIFEXITED(status) || libc::WIFSIGNALED(status))
                {
                }
            }
        }
    }
}
