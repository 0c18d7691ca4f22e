//! The queue's waiting operations as futures. See `crate::futures`.

use core::future::poll_fn;

use bytemuck::NoUninit;

use super::participation::QueueHandle;
use super::payload::{AT_ONCE, put_bytes, put_value};
use super::{
    Batch, Broadcast, Item, JoinableQueue, PutError, Queue, QueueError, Room, Subscriber, Task,
};
use crate::memory::shared::Plain;
use crate::reactor::{Lead, Line};

/// Runs `operate`, which does not wait, again and again until it returns a result. In between, the
/// future waits for `lead`.
async fn until_done<R>(
    lead: impl Lead,
    mut operate: impl FnMut() -> Option<Result<R, QueueError>> + Send,
) -> Result<R, QueueError> {
    let mut line = Line::new(lead);
    poll_fn(|context| line.poll(context, |_| operate())).await.map_err(QueueError::NoThread)?
}

/// Returns the result of a get, or `None` if the queue was empty.
fn got<R>(result: Result<R, QueueError>) -> Option<Result<R, QueueError>> {
    Some(result).filter(|result| !matches!(result, Err(QueueError::Empty)))
}

async fn put_value_async<T: Plain>(handle: &QueueHandle, value: T) -> Result<(), PutError<T>> {
    put_by(handle, value, |value| put_value(handle, value, AT_ONCE)).await
}

/// Runs `try_put`, which does not wait, until there is room.
async fn put_by<T: Plain>(
    handle: &QueueHandle,
    value: T,
    try_put: impl Fn(T) -> Result<(), PutError<T>> + Copy + Send,
) -> Result<(), PutError<T>> {
    let mut line = Line::new(Room::new(handle, 0));
    let put = move |_: &Line<Room<'_>>| {
        Some(try_put(value))
            .filter(|put| !matches!(put, Err(put) if matches!(put.error, QueueError::Full)))
    };
    poll_fn(move |context| line.poll(context, put))
        .await
        .map_err(|error| PutError { value, error: QueueError::NoThread(error) })?
}

async fn put_bytes_async(handle: &QueueHandle, message: &[u8]) -> Result<(), QueueError> {
    until_done(Room::new(handle, message.len()), || {
        Some(put_bytes(handle, message, AT_ONCE))
            .filter(|put| !matches!(put, Err(QueueError::Full)))
    })
    .await
}

impl<T: Plain> Queue<T> {
    /// Puts an item at the end of the queue, as a future that waits for room. It needs the feature
    /// `tokio`, but runs on any executor. The thread that polls it takes part in the queue.
    ///
    /// # Cancellation
    /// A future that is dropped before it is done has not put the value, and drops it.
    ///
    /// # Errors
    /// [`Closed`](QueueError::Closed), those of becoming a participant, and
    /// [`NoThread`](QueueError::NoThread), with the value.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::Queue;
    ///
    /// let queue: Queue<u64> = Queue::new(1)?;
    /// queue.put_async(1).await?;
    /// let (put, got) = tokio::join!(queue.put_async(2), queue.get_async());
    /// put?;
    /// assert_eq!((got?, queue.get_async().await?), (1, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_async(&self, value: T) -> impl Future<Output = Result<(), PutError<T>>> + Send + '_
    where
        T: Send,
    {
        put_value_async(&self.handle, value)
    }

    /// Gets the first item, as a future that waits for one. It needs the feature `tokio`, but runs
    /// on any executor. The thread that polls it takes part in the queue.
    ///
    /// # Fairness
    /// Futures of one process wait in line. Those of other processes, and threads, may be faster.
    ///
    /// # Cancellation
    /// A future that is dropped before it is done has taken no item.
    ///
    /// # Errors
    /// [`Closed`](QueueError::Closed) once there is nothing left, those of becoming a participant,
    /// and [`NoThread`](QueueError::NoThread).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::Queue;
    /// use std::time::Duration;
    ///
    /// let queue: Queue<u64> = Queue::new(1)?;
    /// let late = tokio::time::timeout(Duration::from_millis(1), queue.get_async()).await;
    /// assert!(late.is_err());
    /// queue.put_async(7).await?;
    /// assert_eq!(queue.get_async().await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_async(&self) -> impl Future<Output = Result<T, QueueError>> + Send + '_ {
        until_done(&self.handle, || got(self.try_get()))
    }
}

impl Queue<[u8]> {
    /// Puts a message at the end of the queue, as a future that waits for room. As
    /// [`Queue::put_async`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::ByteQueue;
    ///
    /// let queue = ByteQueue::with_max_len(1, 1024)?;
    /// queue.put_async(b"one").await?;
    /// let (put, got) = tokio::join!(queue.put_async(b"two"), queue.get_async());
    /// put?;
    /// assert_eq!((got?, queue.get()?), (b"one".to_vec(), b"two".to_vec()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`put`](Queue::put), and [`NoThread`](QueueError::NoThread).
    pub fn put_async<'a>(
        &'a self,
        message: &'a [u8],
    ) -> impl Future<Output = Result<(), QueueError>> + Send + 'a {
        put_bytes_async(&self.handle, message)
    }

    /// Gets the first message, as a future that waits for one. As [`Queue::get_async`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::ByteQueue;
    ///
    /// let queue = ByteQueue::with_max_len(8, 1024)?;
    /// let (got, put) = tokio::join!(queue.get_async(), queue.put_async(b"hello"));
    /// put?;
    /// assert_eq!(got?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`get`](Queue::get), and [`NoThread`](QueueError::NoThread).
    pub fn get_async(&self) -> impl Future<Output = Result<Vec<u8>, QueueError>> + Send + '_ {
        until_done(&self.handle, || got(self.try_get()))
    }
}

impl<T: Plain + NoUninit> Queue<Batch<T>> {
    /// Puts an item as a batch of its own, as a future that waits for room. As
    /// [`Queue::put_async`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::BatchQueue;
    ///
    /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(1, 16)?;
    /// queue.put_async(1).await?;
    /// let (put, got) = tokio::join!(queue.put_async(2), queue.get_async());
    /// put?;
    /// assert_eq!((got?, queue.get()?), (1, 2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`put`](Queue::put), and [`NoThread`](QueueError::NoThread).
    pub fn put_async(&self, value: T) -> impl Future<Output = Result<(), PutError<T>>> + Send + '_
    where
        T: Send,
    {
        put_by(&self.handle, value, |value| self.try_put(value))
    }

    /// Gets the first item, as a future that waits for one. As [`Queue::get_async`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::BatchQueue;
    ///
    /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(8, 16)?;
    /// queue.put_many(&[7, 8])?;
    /// assert_eq!((queue.get_async().await?, queue.get_async().await?), (7, 8));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`get`](Queue::get), and [`NoThread`](QueueError::NoThread).
    pub fn get_async(&self) -> impl Future<Output = Result<T, QueueError>> + Send + '_ {
        until_done(&self.handle, || got(self.try_get()))
    }
}

impl<T: Plain> JoinableQueue<T> {
    /// Puts a task at the end of the queue, as a future that waits for room. As
    /// [`Queue::put_async`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::JoinableQueue;
    ///
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(1)?;
    /// tasks.put_async(7).await?;
    /// assert_eq!(tasks.unfinished(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`put`](JoinableQueue::put), and [`NoThread`](QueueError::NoThread).
    pub fn put_async(&self, value: T) -> impl Future<Output = Result<(), PutError<T>>> + Send + '_
    where
        T: Send,
    {
        put_value_async(&self.handle, value)
    }
}

impl JoinableQueue<[u8]> {
    /// Puts a task at the end of the queue, as a future that waits for room. As
    /// [`Queue::put_async`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::JoinableByteQueue;
    ///
    /// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
    /// tasks.put_async(b"sweep the floor").await?;
    /// assert_eq!(*tasks.get()?, *b"sweep the floor");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`put`](JoinableQueue::put), and [`NoThread`](QueueError::NoThread).
    pub fn put_async<'a>(
        &'a self,
        message: &'a [u8],
    ) -> impl Future<Output = Result<(), QueueError>> + Send + 'a {
        put_bytes_async(&self.handle, message)
    }
}

impl<T: ?Sized + Item> JoinableQueue<T> {
    /// Gets a task, as a future that waits for one. It needs the feature `tokio`, but runs on any
    /// executor. The thread that polls it takes part in the queue.
    ///
    /// A [`Task`] belongs to the thread that got it, and is not `Send`. So a future that holds a
    /// task across an `await` stays on its thread, in a `LocalSet` or a current-thread runtime. A
    /// future that does not can be spawned anywhere.
    ///
    /// Tasks in the hands of other futures on the same thread do not count as others'. Once the
    /// queue is closed and no other thread has a task, the result is
    /// [`Closed`](QueueError::Closed). It is never [`Deadlock`](QueueError::Deadlock): while this
    /// future waits, another future of the thread can finish the task in hand.
    ///
    /// # Cancellation
    /// A future that is dropped before it is done has taken no task.
    ///
    /// # Errors
    /// As [`get`](JoinableQueue::get), and [`NoThread`](QueueError::NoThread).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::JoinableQueue;
    ///
    /// let queue: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// queue.put_async(7).await?;
    /// let task = queue.get_async().await?;
    /// assert_eq!(*task, 7);
    /// task.done();
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_async(&self) -> impl Future<Output = Result<Task<'_, T>, QueueError>> + Send + '_ {
        until_done(&self.handle, || got(self.try_get()))
    }
}

impl<T: Plain + NoUninit> Broadcast<T> {
    /// Sends an item to everybody who has subscribed, as a future that waits for room. It needs the
    /// feature `tokio`, but runs on any executor. The thread that polls it takes part.
    ///
    /// It is never [`Deadlock`](QueueError::Deadlock): while it waits, another future of the thread
    /// can receive. That it may [expel](crate::SlowSubscribers::Expel) a subscriber, it notices
    /// within a [slice](crate::set_recheck_interval).
    ///
    /// # Cancellation
    /// A future that is dropped before it is done has sent nothing.
    ///
    /// # Errors
    /// As [`send`](Broadcast::send), and [`NoThread`](QueueError::NoThread).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::Broadcast;
    ///
    /// let broadcast: Broadcast<u64> = Broadcast::new(1)?;
    /// let mut subscriber = broadcast.subscribe()?;
    /// broadcast.send_async(7).await?;
    /// let (sent, received) = tokio::join!(broadcast.send_async(8), subscriber.recv_async());
    /// sent?;
    /// assert_eq!((received?, subscriber.recv_async().await?), (7, 8));
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_async(&self, value: T) -> impl Future<Output = Result<(), PutError<T>>> + Send + '_
    where
        T: Send,
    {
        put_by(&self.handle, value, |value| self.send_until(value, AT_ONCE))
    }
}

impl Broadcast<[u8]> {
    /// Sends a message to everybody who has subscribed, as a future that waits for room.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::Broadcast;
    ///
    /// let lines = Broadcast::with_max_len(8, 1024)?;
    /// let mut subscriber = lines.subscribe()?;
    /// lines.send_async(b"hello").await?;
    /// assert_eq!(subscriber.recv_async().await?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`send`](Broadcast::send), and [`NoThread`](QueueError::NoThread).
    pub fn send_async<'a>(
        &'a self,
        message: &'a [u8],
    ) -> impl Future<Output = Result<(), QueueError>> + Send + 'a {
        until_done(Room::new(&self.handle, 0), || {
            Some(self.send_until(message, AT_ONCE))
                .filter(|sent| !matches!(sent, Err(QueueError::Full)))
        })
    }
}

impl<T: ?Sized + Item> Subscriber<T> {
    /// Runs `receive`, which does not wait, until there is something.
    async fn until_received<R>(
        &mut self,
        mut receive: impl FnMut(&mut Self) -> Result<R, QueueError>,
    ) -> Result<R, QueueError> {
        let feed = self.feed();
        let mut line = Line::new(&*feed);
        poll_fn(|context| line.poll(context, |_| got(receive(self))))
            .await
            .map_err(QueueError::NoThread)?
    }
}

impl<T: Plain> Subscriber<T> {
    /// Receives the next item, as a future that waits for one. It needs the feature `tokio`, but
    /// runs on any executor. Like the subscriber, it stays in its thread: in a `LocalSet`, or in a
    /// current-thread runtime.
    ///
    /// # Cancellation
    /// A future that is dropped before it is done has received nothing.
    ///
    /// # Errors
    /// As [`recv`](Subscriber::recv), and [`NoThread`](QueueError::NoThread).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::Broadcast;
    ///
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// let (mut one, mut two) = (broadcast.subscribe()?, broadcast.subscribe()?);
    /// let (sent, at_one, at_two) =
    ///     tokio::join!(broadcast.send_async(7), one.recv_async(), two.recv_async());
    /// sent?;
    /// assert_eq!((at_one?, at_two?), (7, 7));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv_async(&mut self) -> Result<T, QueueError> {
        self.until_received(|subscriber| subscriber.recv_until(AT_ONCE)).await
    }
}

impl Subscriber<[u8]> {
    /// Receives the next message, as a future that waits for one. As
    /// [`recv_async`](Subscriber::recv_async) of other items.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use crossproc::Broadcast;
    ///
    /// let lines = Broadcast::with_max_len(8, 1024)?;
    /// let mut subscriber = lines.subscribe()?;
    /// lines.send(b"hello")?;
    /// assert_eq!(subscriber.recv_async().await?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`recv`](Subscriber::recv), and [`NoThread`](QueueError::NoThread).
    pub async fn recv_async(&mut self) -> Result<Vec<u8>, QueueError> {
        self.until_received(|subscriber| subscriber.recv_until(AT_ONCE)).await
    }
}
