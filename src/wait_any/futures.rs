//! [`wait_any_async`]: a future that waits for several things.

use core::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use crate::reactor::{Descriptor, Line, MOST_LOOKS};
use crate::wait::source::{Armed, Source};
use crate::wait_any::sealed::Of;
use crate::wait_any::{WaitAnyError, Waitable};

/// Waits, as a future, until at least one of these is ready. Returns the indices of *all* that are,
/// in order. When each is ready is listed at [`wait_any`](fn@crate::wait_any). The wait begins with
/// the call.
///
/// It needs the feature `tokio`. Without descriptors among them, it runs on any executor. For a
/// [`Readable`](crate::Readable), a [`Writable`](crate::Writable) or a
/// [`Child`](crate::process::Child), it needs a runtime of tokio, which watches a duplicate of the
/// descriptor.
///
/// # Cancellation
/// It takes nothing, whether it completes or is dropped.
///
/// # Process death
/// As [`wait_any`](fn@crate::wait_any).
///
/// # Errors
/// As [`wait_any`](fn@crate::wait_any), without those about time.
///
/// # Panics
/// If there are descriptors among them, and it is polled outside a runtime of tokio, or in one
/// without I/O.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use crossproc::{Event, Queue, Readable, wait_any_async};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// let (stop, numbers) = (Event::new(), Queue::<u64>::new(16)?);
/// let (mut ours, theirs) = UnixStream::pair()?;
/// ours.write_all(b"hello")?;
/// assert_eq!(wait_any_async(&[&stop, &numbers, &Readable(&theirs)]).await?, [2]);
/// # Ok(())
/// # }
/// ```
pub fn wait_any_async<'a>(
    on: &[&'a dyn Waitable],
) -> impl Future<Output = Result<Vec<usize>, WaitAnyError>> + Send + use<'a> {
    let several = Several::new(on);
    async move {
        let mut several = several?;
        poll_fn(|context| several.poll(context)).await
    }
}

struct Several<'a> {
    /// Each with its index among the things that are waited for.
    lines: Vec<(usize, Line<&'a dyn Source>)>,
    descriptors: Vec<(usize, Descriptor)>,
}

impl<'a> Several<'a> {
    fn new(on: &[&'a dyn Waitable]) -> Result<Self, WaitAnyError> {
        let mut several = Several { lines: Vec::new(), descriptors: Vec::new() };
        for (index, waits) in on.iter().enumerate() {
            waits.check().map_err(|refusal| refusal.of(index))?;
            match waits.of() {
                Of::Source(source) => several.lines.push((index, Line::new(source))),
                Of::Descriptor(descriptor, flags) => {
                    several.descriptors.push((
                        index,
                        Descriptor::new(descriptor, flags).map_err(WaitAnyError::Os)?,
                    ));
                }
            }
        }
        if on.is_empty() { Err(WaitAnyError::Nothing) } else { Ok(several) }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<usize>, WaitAnyError>> {
        let result = ready!(self.poll_ready(context));
        self.lines.iter_mut().for_each(|(_, line)| line.leave(result.is_ok()));
        Poll::Ready(result.map_err(WaitAnyError::Os))
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Vec<usize>>> {
        self.lines.iter_mut().for_each(|(_, line)| line.go_on());
        for _ in 0..MOST_LOOKS {
            let mut found: Vec<usize> = self
                .lines
                .iter()
                .filter(|(_, line)| line.is_ready())
                .map(|&(index, _)| index)
                .collect();
            for (index, descriptor) in &mut self.descriptors {
                if descriptor.poll_ready(context)? {
                    found.push(*index);
                }
            }
            if !found.is_empty() {
                found.sort_unstable();
                return Poll::Ready(Ok(found));
            }
            if self.arm(context)? == Armed::Asleep {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn arm(&mut self, context: &Context<'_>) -> io::Result<Armed> {
        for (_, line) in &mut self.lines {
            if line.arm(context.waker())? == Armed::Again {
                return Ok(Armed::Again);
            }
        }
        Ok(Armed::Asleep)
    }
}
