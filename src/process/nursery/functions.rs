//! [`FnNursery`]: a nursery whose children run the functions that they are told to.
//!
//! A function of the program is at the same address in the helper, which was forked from it. So a
//! request names the function by its address, and the type by the address of a function that was
//! compiled for the type. That holds for this object (the program, or the library that has this
//! code) alone: another library may have been loaded, or have taken another one's place, since the
//! helper was forked.

#![allow(unsafe_code)]

use core::mem;
use core::time::Duration;
use std::io;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Instant;

use crossproc_sys::objects;
#[cfg(feature = "serde")]
use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "serde")]
use super::super::spawn::{JoinHandle, tell};
use super::super::{Builder, Child, Exit};
use super::{Nursery, NurseryError};
use crate::connection::{Connection, Message};
#[cfg(feature = "serde")]
use crate::values::{decode, encode};
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
///     let sum = nursery.spawn(|numbers: Vec<u32>| numbers.iter().sum::<u32>(), &vec![1, 2, 3])?;
///     assert_eq!(sum.join()?.returned()?, 6);
///
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
    /// Not set: the program has no constructors.
    started: OnceLock<io::Result<Nursery>>,
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
        FnNursery { started: OnceLock::new() }
    }

    /// What [`nursery!`](crate::nursery) does before `main`.
    #[doc(hidden)]
    pub fn start_before_main(&self) {
        self.started.get_or_init(|| {
            Builder::new().nursery_of(|connection, order| {
                // As std does before `main`.
                crossproc_sys::signals::ignore_broken_pipes();
                run(connection, &order)
            })
        });
    }

    fn nursery(&self) -> Result<&Nursery, NurseryError> {
        let error = match self.started.get() {
            Some(Ok(nursery)) => return Ok(nursery),
            Some(Err(error)) => io::Error::new(error.kind(), error.to_string()),
            None => io::Error::other(
                "the nursery was not started before main: the program was linked without its \
                 constructor (.init_array)",
            ),
        };
        Err(NurseryError::Fork(error))
    }

    /// Forks a child that runs `job`, which gets one end of a connection, and this process the
    /// other. It may be called by several threads at once.
    ///
    /// The child exits with the [code](Exit) of what the function returned, or with 101 if it
    /// panicked.
    ///
    /// # Errors
    /// [`NurseryError`]. The function has not run then, and there is no child. In particular
    /// [`io::ErrorKind::Unsupported`] if the function is in another library than this crate.
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
        let order = Order { call: call::<R>, job: job as *const () }.bytes(&[])?;
        self.nursery()?.request(&order, wait)
    }

    /// Spawns a child that calls `job` with a copy of the argument, and whose value comes back, as
    /// that of [`spawn`](super::super::spawn()). With the feature `serde`.
    ///
    /// # Errors
    /// [`NurseryError`], as of [`fork`](FnNursery::fork), or since the argument could not be made
    /// into bytes. An argument that the child cannot make of its bytes is a panic of the child's.
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
        let argument = encode(argument).map_err(|error| NurseryError::Fork(error.into()))?;
        let order = Order { call: call_with::<A, T>, job: job as *const () }.bytes(&argument)?;
        let (child, told) = self.nursery()?.request(&order, wait)?;
        Ok(JoinHandle::new(child, told))
    }

    /// Waits until all children have ended, and then the helper. Nothing is left of the nursery
    /// then.
    ///
    /// # Errors
    /// As [`Child::join`], for the helper.
    pub fn join(self) -> io::Result<ExitStatus> {
        self.started.into_inner().expect("`start` has set it")?.join()
    }

    /// Returns the helper's pid.
    ///
    /// # Errors
    /// [`NurseryError::Fork`]: it was to be started before `main`, and was not.
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
        Ok(FnNursery { started: OnceLock::from(Ok(nursery)) })
    }
}

/// What a child is to run.
struct Order {
    /// Calls `job`, with the connection or with the argument. It is compiled for the job's type.
    call: fn(job: *const (), Connection, argument: &[u8]) -> i32,
    job: *const (),
}

const ADDRESS: usize = size_of::<usize>();

impl Order {
    /// Returns the message to the child.
    fn bytes(&self, argument: &[u8]) -> Result<Vec<u8>, NurseryError> {
        let call = self.call as usize;
        let addresses = [call, self.job as usize];
        if !addresses.iter().all(|&address| objects::are_in_one(address, run as *const () as usize))
        {
            return Err(NurseryError::Fork(io::Error::new(
                io::ErrorKind::Unsupported,
                "a nursery's children run functions of the program, or of the library that this \
                 crate is linked into, and not of another library",
            )));
        }
        let [call, job] = addresses.map(usize::to_ne_bytes);
        Ok([&call, &job, argument].concat())
    }

    /// Returns what a message says, and the argument. `None` if it is no such message.
    ///
    /// # Safety
    /// [`bytes`](Order::bytes) has made it, in a process with the same object at the same address.
    unsafe fn of(message: &[u8]) -> Option<(Self, &[u8])> {
        let (&call, rest) = message.split_first_chunk::<ADDRESS>()?;
        let (&job, argument) = rest.split_first_chunk::<ADDRESS>()?;
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
    // nothing but `request` sends there. Both have this object where it was, since it has this
    // code, and so is never unloaded.
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
/// fn double(number: u32) -> u32 {
///     number * 2
/// }
///
/// // As in a `#[test]`.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert_eq!(NURSERY.spawn(double, &21)?.join()?.returned()?, 42);
/// # Ok(())
/// # }
/// ```
///
/// The helper is forked by a constructor (`.init_array`), before std has begun `main`. So it and
/// its children have the environment and the arguments of the program, and ignore SIGPIPE, as Rust
/// programs do. In a library that is loaded later, by a program that has threads by then, the
/// nursery cannot be started, and each use of it is an error that says so.
///
/// The expansion has an `unsafe` attribute, which `#![forbid(unsafe_code)]` refuses.
#[macro_export]
macro_rules! nursery {
    ($(#[$meta:meta])* $vis:vis static $name:ident $(;)?) => {
        $(#[$meta])*
        $vis static $name: $crate::process::FnNursery = {
            extern "C" fn start() {
                $name.start_before_main();
            }

            #[used]
            #[allow(unsafe_code)]
            // SAFETY: the loader calls what is listed there, and expects functions like this one.
            #[unsafe(link_section = ".init_array")]
            static START: extern "C" fn() = start;

            $crate::process::FnNursery::not_started()
        };
    };
}
