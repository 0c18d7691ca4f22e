//! [`Function`]: a function that a started program runs.
//!
//! The starter sends one message over a connection that it shares with the program: the function's
//! name, its types, and the argument. The program, in [`serve`], sends first that it has begun, and
//! then [what came of the function](tell). By the first, the starter knows a program that has
//! served from one that did something else.

use core::any::type_name;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::command::{CommandExt, InheritError, inherited};
use super::exit::Exit;
use super::gate::NOT_STARTED;
use super::spawn::{JoinHandle, tell, tell_beginning, tell_why_not};
use crate::connection::{Connection, private_pipe};
use crate::values::{decode, encode_into};

/// The name under which the connection is shared.
const NAME: &str = "crossproc_serve";

/// A function that a started program may run: a name, and a `fn` from an argument to a value, both
/// of [almost any type](crate::values#what-can-be-a-value). With the feature `serde`.
///
/// A forked child has everything that its parent had. A started program has nothing but what it is
/// given: no memory, no locks, no threads of its parent. So a program may start it at any time,
/// from any thread, and it is the way to call code that leaks, crashes, or cannot be forked. The
/// program is this one, or another that has the same functions.
///
/// ```standalone_crate
/// use crossproc::process::{self, Function};
///
/// static DOUBLE: Function<u32, u32> = Function::new("double", |number| number * 2);
/// static GREET: Function<String, String> = Function::new("greet", greet);
///
/// fn greet(name: String) -> String {
///     format!("hello, {name}")
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     // First of all: in a program that is started for a function, this does not return.
///     process::serve(&[&DOUBLE, &GREET]);
///
///     let greeting = GREET.start(&"Rome".into())?;
///     let doubled = DOUBLE.start(&21)?;
///     assert_eq!(doubled.join()?.into_result()?, 42);
///     assert_eq!(greeting.join()?.into_result()?, "hello, Rome");
///     Ok(())
/// }
/// ```
pub struct Function<A, T> {
    name: &'static str,
    call: fn(A) -> T,
}

impl<A, T> fmt::Debug for Function<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<A, T> Function<A, T> {
    /// Names a function. The name is what the started program finds it by.
    #[must_use]
    pub const fn new(name: &'static str, call: fn(A) -> T) -> Self {
        Function { name, call }
    }
}

impl<A, T> Function<A, T>
where
    A: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
    /// Starts this program anew, to call the function with a copy of the argument.
    ///
    /// The program has the environment, the working directory and the standard streams of this
    /// process, and no arguments. It may outlive this process: see
    /// [`start_by`](Function::start_by).
    ///
    /// # Errors
    /// As for [`start_by`](Function::start_by).
    pub fn start(&self, argument: &A) -> io::Result<JoinHandle<T>> {
        let mut program = Command::new("/proc/self/exe");
        if let Some(name) = std::env::args_os().next() {
            program.arg0(name);
        }
        self.start_by(program, argument)
    }

    /// Starts a program by a command, to call the function with a copy of the argument. The command
    /// says which program, with what environment and streams, what else is
    /// [shared](CommandExt::share) with it, and whether it is a [daemon](CommandExt::daemon).
    ///
    /// ```standalone_crate
    /// use crossproc::process::{self, CommandExt, Function};
    /// use crossproc::{Lock, Shm};
    /// use std::process::Command;
    ///
    /// static ADD: Function<u64, ()> = Function::new("add", |number| {
    ///     let total: Shm<Lock<u64>> = process::inherited("total").unwrap();
    ///     *total.lock().unwrap() += number;
    /// });
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     process::serve(&[&ADD]);
    ///
    ///     let total = Shm::new(Lock::new(5_u64))?;
    ///     let mut program = Command::new(std::env::current_exe()?);
    ///     program.share("total", &total)?.daemon()?;
    ///     ADD.start_by(program, &7)?.join()?.into_result()?;
    ///     assert_eq!(*total.lock()?, 12);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The program does not call the function if it has none of this name, or one of other types
    /// (by [`type_name`]), or does not [`serve`]: then the join is an error that says which.
    ///
    /// # Errors
    /// As for [`CommandExt::start`]; [`io::ErrorKind::InvalidInput`] if the argument cannot be made
    /// into bytes. [`io::ErrorKind::Unsupported`] in a program that was itself started for a
    /// function, and has not yet called [`serve`]: it would start itself without end.
    pub fn start_by(&self, mut program: Command, argument: &A) -> io::Result<JoinHandle<T>> {
        if starter().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this program was itself started for a function, and has not served: call \
                 process::serve first in main",
            ));
        }
        let mut order = Vec::new();
        for text in [self.name, &self.types()] {
            order.extend((text.len() as u32).to_ne_bytes());
            order.extend(text.as_bytes());
        }
        encode_into(argument, &mut order)?;
        let (ours, theirs) = private_pipe()?;
        // There is room: nothing was sent before.
        ours.try_send(&order)?;
        program.share(NAME, &theirs)?;
        Ok(JoinHandle::of_beginning(program.start()?, ours, "called process::serve"))
    }
}

/// A [`Function`] of any types, for [`serve`].
pub trait Served: sealed::Served + Sync {}

mod sealed {
    use super::Connection;

    pub trait Served {
        fn name(&self) -> &'static str;

        /// What both programs must agree about.
        fn types(&self) -> String;

        /// Calls the function, and tells what came of it. Returns the exit code.
        fn answer(&self, parent: &Connection, argument: &[u8]) -> i32;
    }
}

impl<A, T> Served for Function<A, T>
where
    A: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
}

impl<A, T> sealed::Served for Function<A, T>
where
    A: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn types(&self) -> String {
        self.types()
    }

    fn answer(&self, parent: &Connection, argument: &[u8]) -> i32 {
        let body = || match decode(argument) {
            Ok(argument) => (self.call)(argument),
            Err(error) => panic!("the argument did not arrive: {error}"),
        };
        tell(parent, body).code()
    }
}

impl<A, T> Function<A, T> {
    fn types(&self) -> String {
        format!("fn({}) -> {}", type_name::<A>(), type_name::<T>())
    }
}

/// Calls the function that this program was started for, and ends the program. Returns at once in a
/// program that was started for none.
///
/// It comes first in `main`: what comes before it is done in each program that is started. The
/// program exits, as by [`std::process::exit`], with the code of a [spawned](super::spawn())
/// process: 0 if the value was sent, 101 if the function panicked, 1 if the value could not be
/// sent. [`serve!`](crate::serve!) does this before `main`.
///
/// # Panics
/// If two functions have the same name.
pub fn serve(functions: &[&dyn Served]) {
    for (index, function) in functions.iter().enumerate() {
        let is_double = functions[..index].iter().any(|other| other.name() == function.name());
        assert!(!is_double, "two functions that are served are called {:?}", function.name());
    }
    let Some(found) = starter() else { return };
    // Relaxed: it orders nothing.
    HAS_SERVED.store(true, Relaxed);
    std::process::exit(match found {
        Ok(starter) => answer(functions, &starter).unwrap_or(NOT_STARTED),
        Err(error) => Err::<(), _>(error).code(),
    });
}

/// Whether this program, or the one that it was forked from, has called the function that it was
/// started for, or is about to.
static HAS_SERVED: AtomicBool = AtomicBool::new(false);

/// Returns the connection to the program that has started this one for a function which has not
/// been called.
fn starter() -> Option<Result<Connection, InheritError>> {
    // Relaxed: as above.
    if HAS_SERVED.load(Relaxed) {
        return None;
    }
    match inherited(NAME) {
        Err(InheritError::NotShared { .. } | InheritError::NotOpen { .. }) => None,
        found => Some(found),
    }
}

/// Does what the starter has asked for. Returns the exit code, or `None` if that cannot be read.
fn answer(functions: &[&dyn Served], starter: &Connection) -> Option<i32> {
    let order = match starter.try_recv_or_leave() {
        Ok(order) => order,
        Err(error) => {
            tell_why_not(starter, &format!("what it was to call did not arrive: {error}"));
            return None;
        }
    };
    let (name, rest) = split_text(&order)?;
    let (types, argument) = split_text(rest)?;
    tell_beginning(starter);
    match functions.iter().find(|function| function.name() == name) {
        Some(function) if function.types() == types => {
            return Some(function.answer(starter, argument));
        }
        Some(function) => {
            let served = function.types();
            tell_why_not(starter, &format!("it serves {name:?} as {served}, not as {types}"));
        }
        None => tell_why_not(starter, &format!("it serves no function {name:?}")),
    }
    Some(NOT_STARTED)
}

/// Splits a text off a message.
fn split_text(message: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = message.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
    Some((core::str::from_utf8(text).ok()?, rest))
}

/// Does what [`process::serve`](crate::process::serve()) does, before `main`.
///
/// That is for a program whose `main` is not its own, such as that of a `#[test]`. Each `#[test]`
/// may start its program then.
///
/// ```
/// use crossproc::process::Function;
///
/// static DOUBLE: Function<u32, u32> = Function::new("double", |number| number * 2);
/// crossproc::serve!(DOUBLE);
///
/// // As in a `#[test]`.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert_eq!(DOUBLE.start(&21)?.join()?.into_result()?, 42);
/// # Ok(())
/// # }
/// ```
///
/// The function runs in a constructor (`.init_array`), before std has begun `main`. SIGPIPE is
/// ignored, and closed standard streams lead to `/dev/null`, as in Rust programs. But a stack
/// overflow has no message, other constructors may not have run yet, and with musl there are no
/// arguments.
///
/// The expansion has an `unsafe` attribute, which `#![forbid(unsafe_code)]` refuses.
#[macro_export]
macro_rules! serve {
    ($($function:expr),+ $(,)?) => {
        const _: () = {
            extern "C" fn __crossproc_serve() {
                $crate::process::serve_before_main(&[$(&$function),+]);
            }

            #[used]
            #[allow(unsafe_code)]
            // SAFETY: the loader calls what is listed there, and expects functions like this one.
            #[unsafe(link_section = ".init_array")]
            static __CROSSPROC_SERVE: extern "C" fn() = __crossproc_serve;
        };
    };
}

/// What [`serve!`](crate::serve!) does before `main`.
#[doc(hidden)]
pub fn serve_before_main(functions: &[&dyn Served]) {
    if starter().is_some() {
        crossproc_sys::streams::prepare_as_std();
    }
    serve(functions);
}
