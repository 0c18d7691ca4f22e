//! The waits of this crate as futures, with the feature `tokio`.
//!
//! A future's poll is the operation that does not wait, by whatever thread polls. If it comes to
//! nothing the future stands in a line of the [driver](crate::reactor::driver), as a watcher like
//! any other (`wait_any::source`): the thread there sleeps in its place, and in the place
//! of all others that wait for the same. Whoever is notified does what a watcher does that has
//! slept: it buries the dead, and wakes all if there is something for them, after it has looked,
//! and before it waits on, or leaves, or when it is dropped.
//!
//! Nothing is taken but in the poll that gives it back. So a future that is dropped has taken
//! nothing, and what it was notified for is another's.

use core::future::poll_fn;

use super::event::{Event, EventError};
use super::semaphore::{BoundedSemaphore, Semaphore, SemaphoreError};
use crate::reactor::Line;

impl Event {
    /// Waits until the event is set, or was set at any time since this was called, as a future.
    /// With the feature `tokio`, for any executor.
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

/// What a bounded semaphore has in common with one that is not.
macro_rules! acquiring {
    ($semaphore:ident) => {
        impl $semaphore {
            /// Takes a permit, as a future that waits for one. With the feature `tokio`, for any
            /// executor.
            ///
            /// # Fairness
            /// Futures of one process stand in a line. Others, and threads, may be faster.
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
