//! [`FnNursery`]: a nursery whose children run the functions that they are told to.
//!
//! A function of the program is at the same address in the helper, which was forked from it. So a
//! request names the function by its address, and the type by the address of a function that was
//! compiled for the type. That holds for this object (the program, or the library that has this
//! code) alone: another library may have been loaded, or have taken another one's place, since the
//! helper was forked.

#![allow(unsafe_code)]

use core::mem;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossproc_sys::objects;
#[cfg(feature = "serde")]
use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "serde")]
use super::super::spawn::{JoinHandle, tell, tell_beginning};
use super::super::{Builder, Child, Exit};
use super::{Nursery, NurseryError};
use crate::connection::{Connection, Message};
#[cfg(feature = "serde")]
use crate::values::{decode, encode_into};
use crate::wait::Wait;

/// A [`Nursery`] whose children run any function of the program.
///
/// A function is a `fn` pointer: a function's name, or a closure that captures nothing. It gets a
/// connection to the program, over which it may be sent handles, or an argument of any type with
/// serde.
///
/// ```standalone_crate
/// use crossproc::Shm;
/// use crossproc::process::FnNursery;
/// use std::sync::atomic::{AtomicU32, Ordering::*};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // While there is one thread.
/// let nursery = FnNursery::start()?;
///
/// std::thread::scope(|scope| -> Result<(), Box<dyn std::error::Error>> {
///     scope.spawn(|| ());
///     let (child, to_child) = nursery.fork(|parent| {
///         let count: Shm<AtomicU32> = parent.recv_handle().unwrap();
///         count.fetch_add(1, AcqRel);
///     })?;
///     let count = Shm::new(AtomicU32::new(7))?;
///     to_child.send_handle(&count)?;
///     assert!(child.join()?.success());
///     assert_eq!(count.load(Acquire), 8);
///     Ok(())
/// })?;
/// nursery.join()?;
/// # Ok(())
/// # }
/// ```
///
/// What is said of a [`Nursery`] about what children have, about deaths and about the drop is true
/// of this one. [`nursery!`](crate::nursery) starts one before `main`.
#[derive(Debug)]
pub struct FnNursery {
    /// Not set: nobody has started it.
    started: OnceLock<Result<Nursery, Arc<io::Error>>>,
    /// In its own children: they were forked while it was started.
    is_starting: AtomicBool,
}

impl FnNursery {
    /// Starts a nursery: [`Builder::fn_nursery`] with the defaults. This process may have one
    /// thread only.
    ///
    /// # Errors
    /// As for [`Builder::nursery`].
    pub fn start() -> io::Result<FnNursery> {
        Builder::new().fn_nursery()
    }

    /// What [`nursery!`](crate::nursery) has before `main`.
    #[doc(hidden)]
    #[must_use]
    pub const fn not_started() -> Self {
        FnNursery { started: OnceLock::new(), is_starting: AtomicBool::new(false) }
    }

    /// What [`nursery!`](crate::nursery) does before `main`.
    #[doc(hidden)]
    pub fn start_before_main(&self) {
        // Relaxed, all: it orders nothing, and a forked child has a copy.
        if self.is_starting.swap(true, Relaxed) {
            return;
        }
        self.started.get_or_init(|| {
            let nursery = Builder::new().nursery_of(|connection, order| {
                crossproc_sys::streams::prepare_as_std();
                run(connection, &order)
            });
            nursery.map_err(Arc::new)
        });
        self.is_starting.store(false, Relaxed);
    }

    fn nursery(&self) -> Result<&Nursery, NurseryError> {
        Err(NurseryError::NotStarted(match self.started.get() {
            Some(Ok(nursery)) => return Ok(nursery),
            Some(Err(error)) => io::Error::new(error.kind(), Arc::clone(error)),
            None if self.is_starting.load(Relaxed) => return Err(NurseryError::Ended),
            None => io::Error::other(
                "the program was linked without its constructor, which is in .init_array",
            ),
        }))
    }

    /// Forks a child that runs `job`, which gets one end of a connection, and this process the
    /// other. It may be called by several threads at once.
    ///
    /// The child exits with the [code](Exit) of what the function returned, or with 101 if it
    /// panicked.
    ///
    /// # Errors
    /// [`NurseryError`]. The function has not run then, and there is no child. In particular
    /// [`OtherLibrary`](NurseryError::OtherLibrary), and in the nursery's own children
    /// [`Ended`](NurseryError::Ended).
    pub fn fork<R: Exit>(
        &self,
        job: fn(Connection) -> R,
    ) -> Result<(Child, Connection), NurseryError> {
        self.fork_with(job, Wait::FOREVER)
    }

    /// [`fork`](FnNursery::fork), which waits for `timeout` at most. [`Duration::MAX`] waits for
    /// ever.
    ///
    /// # Errors
    /// [`NurseryError::TimedOut`]; otherwise as [`fork`](FnNursery::fork).
    pub fn fork_timeout<R: Exit>(
        &self,
        job: fn(Connection) -> R,
        timeout: Duration,
    ) -> Result<(Child, Connection), NurseryError> {
        self.fork_with(job, super::within(timeout))
    }

    /// [`fork`](FnNursery::fork), which waits until `deadline` at most.
    ///
    /// # Errors
    /// [`NurseryError::TimedOut`]; otherwise as [`fork`](FnNursery::fork).
    pub fn fork_deadline<R: Exit>(
        &self,
        job: fn(Connection) -> R,
        deadline: Instant,
    ) -> Result<(Child, Connection), NurseryError> {
        self.fork_with(job, Wait::deadline(deadline))
    }

    fn fork_with<R: Exit>(
        &self,
        job: fn(Connection) -> R,
        wait: Wait,
    ) -> Result<(Child, Connection), NurseryError> {
        let order = Order { call: call::<R>, job: job as *const () }.bytes()?;
        self.nursery()?.request(&order, wait)
    }

    /// Spawns a child that calls `job` with a copy of the argument, and whose value comes back, as
    /// that of [`spawn`](super::super::spawn()). With the feature `serde`.
    ///
    /// ```standalone_crate
    /// use crossproc::process::FnNursery;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let nursery = FnNursery::start()?;
    /// let sum = nursery.spawn(|numbers: Vec<u32>| numbers.iter().sum::<u32>(), &vec![1, 2, 3])?;
    /// assert_eq!(sum.join()?.into_result()?, 6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NurseryError`], as of [`fork`](FnNursery::fork), or
    /// [`Argument`](NurseryError::Argument). An argument that the child cannot make of its bytes is
    /// a panic of the child's.
    #[cfg(feature = "serde")]
    pub fn spawn<A, T>(&self, job: fn(A) -> T, argument: &A) -> Result<JoinHandle<T>, NurseryError>
    where
        A: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
    {
        self.spawn_with(job, argument, Wait::FOREVER)
    }

    /// [`spawn`](FnNursery::spawn), which waits for `timeout` at most. [`Duration::MAX`] waits for
    /// ever. With the feature `serde`.
    ///
    /// # Errors
    /// [`NurseryError::TimedOut`]; otherwise as [`spawn`](FnNursery::spawn).
    #[cfg(feature = "serde")]
    pub fn spawn_timeout<A, T>(
        &self,
        job: fn(A) -> T,
        argument: &A,
        timeout: Duration,
    ) -> Result<JoinHandle<T>, NurseryError>
    where
        A: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
    {
        self.spawn_with(job, argument, super::within(timeout))
    }

    /// [`spawn`](FnNursery::spawn), which waits until `deadline` at most. With the feature
    /// `serde`.
    ///
    /// # Errors
    /// [`NurseryError::TimedOut`]; otherwise as [`spawn`](FnNursery::spawn).
    #[cfg(feature = "serde")]
    pub fn spawn_deadline<A, T>(
        &self,
        job: fn(A) -> T,
        argument: &A,
        deadline: Instant,
    ) -> Result<JoinHandle<T>, NurseryError>
    where
        A: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
    {
        self.spawn_with(job, argument, Wait::deadline(deadline))
    }

    #[cfg(feature = "serde")]
    fn spawn_with<A, T>(
        &self,
        job: fn(A) -> T,
        argument: &A,
        wait: Wait,
    ) -> Result<JoinHandle<T>, NurseryError>
    where
        A: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
    {
        let mut order = Order { call: call_with::<A, T>, job: job as *const () }.bytes()?;
        encode_into(argument, &mut order).map_err(NurseryError::Argument)?;
        let (child, told) = self.nursery()?.request(&order, wait)?;
        Ok(JoinHandle::of_beginning(child, told, "received what it was to call"))
    }

    /// Waits until all children have ended, and then the helper. Nothing is left of the nursery
    /// then.
    ///
    /// # Errors
    /// As [`Child::join`], for the helper.
    pub fn join(self) -> io::Result<ExitStatus> {
        self.into_nursery()?.join()
    }

    /// [`join`](FnNursery::join), which waits for `timeout` at most. After that, the nursery is as
    /// if it was dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`Child::join`], for the helper.
    pub fn join_timeout(self, timeout: Duration) -> io::Result<ExitStatus> {
        self.into_nursery()?.join_timeout(timeout)
    }

    /// [`join`](FnNursery::join), which waits until `deadline` at most. After that, the nursery is
    /// as if it was dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`Child::join`], for the helper.
    pub fn join_deadline(self, deadline: Instant) -> io::Result<ExitStatus> {
        self.into_nursery()?.join_deadline(deadline)
    }

    fn into_nursery(self) -> io::Result<Nursery> {
        self.nursery()?;
        let Some(Ok(nursery)) = self.started.into_inner() else { unreachable!() };
        Ok(nursery)
    }

    /// Returns the helper's pid.
    ///
    /// # Errors
    /// [`NurseryError::NotStarted`]: it was to be started before `main`, and was not.
    pub fn id(&self) -> Result<u32, NurseryError> {
        Ok(self.nursery()?.id())
    }
}

impl Builder<'_> {
    /// Starts an [`FnNursery`]: all that is said of [`nursery`](Builder::nursery) is true.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let nursery = Builder::new().daemon(true).fn_nursery()?;
    /// let (child, _) = nursery.fork(|_| 7)?;
    /// assert_eq!(child.join()?.code(), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`nursery`](Builder::nursery).
    pub fn fn_nursery(&self) -> io::Result<FnNursery> {
        let nursery = self.nursery_of(|connection, order| run(connection, &order))?;
        Ok(FnNursery { started: OnceLock::from(Ok(nursery)), ..FnNursery::not_started() })
    }
}

/// What a child is to run.
struct Order {
    /// Calls `job`, with the connection or with the argument. It is compiled for the job's type.
    call: fn(job: *const (), Connection, argument: &[u8]) -> i32,
    job: *const (),
}

/// How the message begins. Nothing else that comes over a connection is taken for addresses.
const MAGIC: usize = u32::from_ne_bytes(*b"xprc") as usize;
const WORD: usize = size_of::<usize>();

impl Order {
    /// Returns the message to the child. The argument comes behind it.
    fn bytes(&self) -> Result<Vec<u8>, NurseryError> {
        let [call, job] = [self.call as usize, self.job as usize];
        if !objects::are_in_one([call, job, run as *const () as usize]) {
            return Err(NurseryError::OtherLibrary);
        }
        Ok([MAGIC, call, job].map(usize::to_ne_bytes).concat())
    }

    /// Returns what a message says, and the argument. `None` if it is no such message.
    ///
    /// # Safety
    /// [`bytes`](Order::bytes) has made it, in a process with the same object at the same address.
    unsafe fn of(message: &[u8]) -> Option<(Self, &[u8])> {
        let rest = message.strip_prefix(&MAGIC.to_ne_bytes())?;
        let (&call, rest) = rest.split_first_chunk::<WORD>()?;
        let (&job, argument) = rest.split_first_chunk::<WORD>()?;
        // SAFETY: the address of such a function, as the caller promises.
        let call = unsafe {
            mem::transmute::<usize, fn(*const (), Connection, &[u8]) -> i32>(usize::from_ne_bytes(
                call,
            ))
        };
        Some((Order { call, job: usize::from_ne_bytes(job) as *const () }, argument))
    }
}

/// The child's part: runs what it is told to. Returns the exit code.
fn run(connection: Connection, message: &Message) -> i32 {
    // SAFETY: the message came over a connection to the program that has forked the helper, and
    // nothing but `request` sends there before this. The sender has run this object's code, and so
    // has this process: it is where it was when the helper was forked. If the program had unloaded
    // it, the nursery that is named here would be another one's, with a helper of its own.
    match unsafe { Order::of(message) } {
        Some((order, argument)) => (order.call)(order.job, connection, argument),
        None => super::super::gate::NOT_STARTED,
    }
}

/// [`Order::call`] of a job that gets the connection.
fn call<R: Exit>(job: *const (), connection: Connection, _: &[u8]) -> i32 {
    // SAFETY: `fork_with` has taken the address of a function of this type.
    let job = unsafe { mem::transmute::<*const (), fn(Connection) -> R>(job) };
    job(connection).code()
}

/// [`Order::call`] of a job that gets an argument.
#[cfg(feature = "serde")]
fn call_with<A: DeserializeOwned, T: Serialize>(
    job: *const (),
    connection: Connection,
    argument: &[u8],
) -> i32 {
    // SAFETY: `spawn_with` has taken the address of a function of this type.
    let job = unsafe { mem::transmute::<*const (), fn(A) -> T>(job) };
    tell_beginning(&connection);
    let body = || match decode(argument) {
        Ok(argument) => job(argument),
        Err(error) => panic!("the argument did not arrive: {error}"),
    };
    tell(&connection, body).code()
}

/// Starts an [`FnNursery`] before `main`, when the program has one thread for certain.
///
/// That is what a `#[test]` needs, beside which the test runner always has threads. It is also a
/// way for a library to have workers in whatever program it is linked into. Each process of the
/// program starts the helper, whether it uses it or not.
///
/// ```
/// use crossproc::nursery;
///
/// nursery! {
///     /// Runs what a test wants to be killed.
///     pub static NURSERY
/// }
///
/// // As in a `#[test]`.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (child, to_child) = NURSERY.fork(|parent| parent.send(&parent.recv()?))?;
/// to_child.send(b"hello")?;
/// assert_eq!(to_child.recv()?, b"hello");
/// assert!(child.join()?.success());
/// # Ok(())
/// # }
/// ```
///
/// The helper is forked by a constructor (`.init_array`), before std has begun `main`. So it and
/// its children have the environment of the program, and with glibc its arguments. They ignore
/// SIGPIPE, and closed standard streams lead to `/dev/null`, as in Rust programs. But a stack
/// overflow has no message, and what constructors of the program set that are linked later is not
/// set in a child.
///
/// # In a library
/// In a library that is loaded later, by a program that has threads by then, the nursery cannot be
/// started, and each use of it is an error that says so. The helper is a child of the program: a
/// wait for any child, until there is none, waits for the helper, too. It ends with the program, or
/// when that calls `exec`, and not when the library is unloaded. A program that forks into the
/// background has no part in it any more.
///
/// The expansion has an `unsafe` attribute, which `#![forbid(unsafe_code)]` refuses.
#[macro_export]
macro_rules! nursery {
    ($(#[$meta:meta])* $vis:vis static $name:ident $(;)?) => {
        $(#[$meta])*
        $vis static $name: $crate::process::FnNursery = {
            extern "C" fn __crossproc_start() {
                $name.start_before_main();
            }

            #[used]
            #[allow(unsafe_code)]
            // SAFETY: the loader calls what is listed there, and expects functions like this one.
            #[unsafe(link_section = ".init_array")]
            static __CROSSPROC_START: extern "C" fn() = __crossproc_start;

            $crate::process::FnNursery::not_started()
        };
    };
}
