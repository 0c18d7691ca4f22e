//! [`Exit`]: the exit code of a forked child.

use super::printed;

/// What a forked child's closure may return, and the exit code that it stands for. The trait is
/// implemented for `()`, `i32`, `!`, results of these, and nothing else.
///
/// ```
/// use crossproc::process;
///
/// # fn main() -> std::io::Result<()> {
/// let child = process::fork(|| 7)?;
/// assert_eq!(child.join()?.code(), Some(7));
/// let child = process::fork(|| "x".parse::<u32>().map(|_| ()))?; // prints the error
/// assert_eq!(child.join()?.code(), Some(1));
/// let child = process::fork(|| -> ! { std::process::abort() })?;
/// assert!(!child.join()?.success());
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "a forked child cannot return `{Self}`",
    label = "no exit code",
    note = "the closure returns `()`, `i32`, `!`, or a `Result` of one of these"
)]
pub trait Exit: sealed::Exit {
    /// Returns the exit code: 0 is success, and the system keeps the lowest 8 bits.
    ///
    /// ```
    /// use crossproc::process::Exit;
    ///
    /// assert_eq!(().code(), 0);
    /// assert_eq!(7.code(), 7);
    /// assert_eq!(Ok::<i32, String>(7).code(), 7);
    /// assert_eq!(Err::<(), _>("too late").code(), 1); // prints the error
    /// ```
    fn code(self) -> i32;
}

mod sealed {
    pub trait Exit {}

    impl Exit for () {}
    impl Exit for super::never::Never {}
    impl Exit for i32 {}
    impl<T: Exit, E: core::fmt::Debug> Exit for Result<T, E> {}
}

impl Exit for () {
    fn code(self) -> i32 {
        0
    }
}

/// For closures that end by [`exec`](std::os::unix::process::CommandExt::exec),
/// [`abort`](std::process::abort) or a loop without an end.
impl Exit for never::Never {
    fn code(self) -> i32 {
        self
    }
}

mod never {
    //! The type `!`, which the stable language can only write as what a function returns.

    pub trait Returns {
        type Returned;
    }

    impl<R> Returns for fn() -> R {
        type Returned = R;
    }

    pub(super) type Never = <fn() -> ! as Returns>::Returned;
}

impl Exit for i32 {
    fn code(self) -> i32 {
        self
    }
}

impl<T: Exit, E: core::fmt::Debug> Exit for Result<T, E> {
    /// Prints an error to the standard error and returns 1, as from `main`. It returns 1 even if
    /// the error cannot be printed. It takes no lock. Before each 512 bytes it waits one second at
    /// most for the reader, and then drops the rest.
    fn code(self) -> i32 {
        match self {
            Ok(value) => value.code(),
            Err(error) => {
                printed::complain_of(&error);
                1
            }
        }
    }
}
