//! The waits of this crate as futures, with the feature `tokio`.
//!
//! Each poll of a future runs the operation that does not wait, in the polling thread. If that
//! fails, the future joins a line of the [driver](crate::reactor::driver), as a watcher like any
//! other (`wait_any::source`). The thread there sleeps in its place, and in the place of all others
//! that wait for the same.
//!
//! A future that was notified does what a watcher does after a sleep. It does what the dead may
//! have left undone, and wakes all if there is something for them. It does so after it has looked,
//! and before it waits on or leaves, or when it is dropped.
//!
//! Only the poll that returns a thing takes it. So a future that is dropped has taken nothing, and
//! what it was notified of goes to another waiter.

use core::future::poll_fn;

use super::event::{Event, EventError};
use super::semaphore::{BoundedSemaphore, Semaphore, SemaphoreError};
use crate::reactor::Line;

impl Event {
    /// Waits, as a future, until the event is set, or was set at any time since this was called.
    /// Needs the feature `tokio`; works with any executor.
    ///
    /// # Cancellation
    /// A future that is dropped leaves nothing behind.
    ///
    /// # Errors
    /// [`EventError::NoThread`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use crossproc::Event;
    ///
    /// let ready = Event::new();
    /// let wait = ready.wait_async();
    /// ready.set();
    /// ready.clear();
    /// wait.await.unwrap();
    /// # }
    /// ```
    pub fn wait_async(&self) -> impl Future<Output = Result<(), EventError>> + Send + '_ {
        let mut line = Line::new(&self.raw);
        poll_fn(move |context| {
            line.poll(context, |line| line.is_ready().then_some(()))
                .map_err(|_| EventError::NoThread)
        })
    }
}

/// The method that bounded and unbounded semaphores share.
macro_rules! acquiring {
    ($semaphore:ident) => {
        impl $semaphore {
            /// Takes a permit, as a future that waits for one. Needs the feature `tokio`; works
            /// with any executor.
            ///
            /// # Fairness
            /// Futures of one process stand in a line. Futures of other processes, and threads, may
            /// be faster.
            ///
            /// # Cancellation
            /// A future that is dropped has taken no permit.
            ///
            /// # Errors
            /// [`SemaphoreError::NoThread`].
            ///
            /// # Examples
            /// ```
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() {
            #[doc = concat!("use crossproc::", stringify!($semaphore), ";")]
            ///
            #[doc = concat!("let permits = ", stringify!($semaphore), "::new(1);")]
            /// permits.acquire_async().await.unwrap();
            /// assert_eq!(permits.value(), 0);
            /// # }
            /// ```
            pub fn acquire_async(
                &self,
            ) -> impl Future<Output = Result<(), SemaphoreError>> + Send + '_ {
                let mut line = Line::new(&self.raw);
                poll_fn(move |context| {
                    line.poll(context, |_| self.try_acquire().ok())
                        .map_err(|_| SemaphoreError::NoThread)
                })
            }
        }
    };
}

acquiring!(Semaphore);
acquiring!(BoundedSemaphore);
