//! The five forms of every operation that may wait.

/// Defines a method that waits as long as it takes, and four more forms of it. They do not wait,
/// wait for a time, wait until a time, and wait as a [`Wait`](crate::Wait) says. All of them call
/// the function that is named last, with how long to wait, or `None` for not at all. What stands
/// after a `;` comes after the time: it is for closures.
///
/// Their errors are a [`QueueError`](crate::QueueError), or contain one, unless another type is
/// named.
macro_rules! forms {
    (
        $(#[doc = $what:literal])+
        $name:ident, $try_name:ident, $timeout:ident, $deadline:ident, $with:ident
        $(<$generic:ident: $bound:path>)?
        (self$(: $self:ty)? $(, $argument:ident: $type:ty)* $(; $last:ident: $last_type:ty)?)
        -> $result:ty, $of:expr,
        errors $errors:literal, now $now:literal
    ) => {
        $crate::wait::forms! {
            $(#[doc = $what])+
            $name, $try_name, $timeout, $deadline, $with $(<$generic: $bound>)?
            (self$(: $self)? $(, $argument: $type)* $(; $last: $last_type)?) -> $result, $of,
            errors $errors, now $now, of QueueError
        }
    };
    (
        $(#[doc = $what:literal])+
        $name:ident, $try_name:ident, $timeout:ident, $deadline:ident, $with:ident
        $(<$generic:ident: $bound:path>)?
        (self$(: $self:ty)? $(, $argument:ident: $type:ty)* $(; $last:ident: $last_type:ty)?)
        -> $result:ty, $of:expr,
        errors $errors:literal, now $now:literal,
        of $error:path
    ) => {
        $(#[doc = $what])+
        ///
        /// # Blocking
        /// It waits as long as it takes.
        ///
        /// # Errors
        #[doc = $errors]
        #[inline]
        pub fn $name$(<$generic: $bound>)?(
            self$(: $self)? $(, $argument: $type)* $(, $last: $last_type)?
        ) -> $result {
            $of(self, $($argument,)* Some(|| $crate::Wait::FOREVER) $(, $last)?)
        }

        #[doc = concat!(
            "[`", stringify!($name), "`](Self::", stringify!($name), ") without waiting."
        )]
        ///
        /// # Errors
        #[doc = concat!(
            $now, " Otherwise as [`", stringify!($name), "`](Self::", stringify!($name), ")."
        )]
        #[inline]
        pub fn $try_name$(<$generic: $bound>)?(
            self$(: $self)? $(, $argument: $type)* $(, $last: $last_type)?
        ) -> $result {
            $of(self, $($argument,)* None::<fn() -> $crate::Wait> $(, $last)?)
        }

        #[doc = concat!(
            "[`", stringify!($name), "`](Self::", stringify!($name),
            "), which waits for `timeout` at most. \
             Zero tries once; [`Duration::MAX`](core::time::Duration::MAX) waits for ever."
        )]
        ///
        /// # Errors
        #[doc = concat!(
            "[`TimedOut`](crate::", stringify!($error), "::TimedOut); otherwise as [`",
            stringify!($name), "`](Self::", stringify!($name), ")."
        )]
        #[inline]
        pub fn $timeout$(<$generic: $bound>)?(
            self$(: $self)? $(, $argument: $type)*, timeout: core::time::Duration
            $(, $last: $last_type)?
        ) -> $result {
            $of(self, $($argument,)* Some(|| $crate::Wait::timeout(timeout)) $(, $last)?)
        }

        #[doc = concat!(
            "[`", stringify!($name), "`](Self::", stringify!($name),
            "), which waits until `deadline` at most. A past one tries once."
        )]
        ///
        /// # Errors
        #[doc = concat!(
            "[`TimedOut`](crate::", stringify!($error), "::TimedOut); otherwise as [`",
            stringify!($name), "`](Self::", stringify!($name), ")."
        )]
        #[inline]
        pub fn $deadline$(<$generic: $bound>)?(
            self$(: $self)? $(, $argument: $type)*, deadline: std::time::Instant
            $(, $last: $last_type)?
        ) -> $result {
            $of(self, $($argument,)* Some(|| $crate::Wait::deadline(deadline)) $(, $last)?)
        }

        #[doc = concat!(
            "[`", stringify!($name), "`](Self::", stringify!($name),
            "), which waits as `wait` says."
        )]
        ///
        /// # Errors
        #[doc = concat!(
            "[`TimedOut`](crate::", stringify!($error), "::TimedOut), and [`Interrupted`](crate::",
            stringify!($error), "::Interrupted) if `wait` is interruptible;"
        )]
        #[doc = concat!("otherwise as [`", stringify!($name), "`](Self::", stringify!($name), ").")]
        #[inline]
        pub fn $with$(<$generic: $bound>)?(
            self$(: $self)? $(, $argument: $type)*, wait: $crate::Wait
            $(, $last: $last_type)?
        ) -> $result {
            $of(self, $($argument,)* Some(|| wait) $(, $last)?)
        }
    };
}

pub(crate) use forms;
