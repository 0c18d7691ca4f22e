//! How a connection sends and receives packets, and waits.
//!
//! The path to a system call and back is inlined into the caller: see `crossproc_sys::socket`.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;
use core::slice;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossproc_sys::clock;
use crossproc_sys::poll::{PollFd, PollFlags, Polled, poll, sleep_until};
use crossproc_sys::retry::retry;
use crossproc_sys::sealed;
use crossproc_sys::socket::{self, MAX_DESCRIPTORS, Packet};
use rustix::io::Errno;

use super::error::ConnectionError;
use super::frame::{self, Frame, HEADER, MAX_KIND};
use super::message::Message;
use super::{Connection, MAX_INLINE, MAX_LEN};
use crate::wait::{self, Wait};

/// The longest packet that is ever sent.
const MAX_PACKET: usize = HEADER + MAX_KIND + MAX_INLINE;
/// The least capacity that is allocated for a message.
const MIN_CAPACITY: usize = 64;
/// The longest packet that is sure to go inline. For a longer one the kernel needs memory in one
/// piece, which may be lacking though enough is free.
const SURE_INLINE: usize = 1 << 16;

/// Copying up to this many bytes costs less than giving the kernel two buffers.
const COPIED: usize = 2_048;

/// Takes what does not fit into a receiver's buffer, so that nothing is lost. Only the pages that
/// were used take memory.
///
/// It begins with a page. The kernel copies by `rep movsb`, which some processors do at a fifth of
/// their speed if the destination is up to 31 bytes further into its page than the source. Packets
/// lie at multiples of 512; what is allocated otherwise begins 16 bytes into a page.
#[derive(Default)]
struct Overflow(Box<[MaybeUninit<Page>]>);

#[repr(align(4_096))]
struct Page(#[allow(dead_code, reason = "for its size")] [u8; 4_096]);

thread_local! {
    static OVERFLOW: Cell<Option<Overflow>> = const { Cell::new(None) };
}

impl Overflow {
    fn bytes(&self) -> &[MaybeUninit<u8>] {
        let Overflow(pages) = self;
        // SAFETY: the bytes of all pages, borrowed for as long; any are valid.
        unsafe { slice::from_raw_parts(pages.as_ptr().cast(), size_of_val::<[_]>(pages)) }
    }

    fn bytes_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        let Overflow(pages) = self;
        let len = size_of_val::<[_]>(pages);
        // SAFETY: as in `bytes`, mutably borrowed.
        unsafe { slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), len) }
    }
}

/// Takes the thread's overflow, or makes a new one. The thread has none before its first use, and
/// at its end, where destructors may still receive.
fn take_overflow() -> Overflow {
    OVERFLOW
        .try_with(Cell::take)
        .ok()
        .flatten()
        .unwrap_or_else(|| Overflow(Box::new_uninit_slice(MAX_PACKET.div_ceil(size_of::<Page>()))))
}

fn keep_overflow(overflow: Overflow) {
    // At the thread's end it is dropped: nothing could keep it.
    let _ = OVERFLOW.try_with(|kept| kept.set(Some(overflow)));
}

/// How a message's bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Packet,
    Memfd,
}

/// A system call that is tried until it need not wait. It is a type and no closure: one that is
/// called in several places would not be inlined.
trait Attempt {
    type Done;

    fn attempt(&mut self, may_wait: bool) -> Result<Self::Done, Errno>;
}

struct Send<'a> {
    socket: BorrowedFd<'a>,
    bytes: &'a [u8],
}

impl Attempt for Send<'_> {
    type Done = ();

    #[inline(always)]
    fn attempt(&mut self, may_wait: bool) -> Result<(), Errno> {
        socket::send(self.socket, self.bytes, may_wait)
    }
}

struct SendFrame<'a> {
    socket: BorrowedFd<'a>,
    frame: &'a Frame<'a>,
}

impl Attempt for SendFrame<'_> {
    type Done = ();

    fn attempt(&mut self, may_wait: bool) -> Result<(), Errno> {
        let descriptors: Vec<_> = self.frame.descriptors().collect();
        socket::send_with_descriptors(self.socket, &self.frame.slices(), &descriptors, may_wait)
    }
}

struct Receive<'a> {
    socket: BorrowedFd<'a>,
    buffers: [&'a mut [MaybeUninit<u8>]; 2],
}

impl Attempt for Receive<'_> {
    type Done = Packet;

    #[inline(always)]
    fn attempt(&mut self, may_wait: bool) -> Result<Packet, Errno> {
        let [first, second] = &mut self.buffers;
        socket::receive(self.socket, [first, second], may_wait)
    }
}

/// A packet as it came: its first bytes are in the receiver's buffer, the rest is here.
struct IncomingPacket {
    packet: Packet,
    overflow: Overflow,
    /// The number of bytes in `overflow`.
    rest: usize,
}

impl Connection {
    #[inline(always)]
    pub(super) fn send_bytes(
        &self,
        bytes: &[u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), ConnectionError> {
        let wait = wait.map(|wait| wait());
        if bytes.is_empty() || bytes.len() > MAX_INLINE {
            return self.send_frame(bytes, None, Way::Memfd, wait);
        }
        match self.until(PollFlags::OUT, wait, Send { socket: self.end.as_fd(), bytes }) {
            Err(errno) if is_too_long(errno, bytes.len()) => {
                self.send_frame(bytes, None, Way::Memfd, wait)
            }
            result => result.map_err(ConnectionError::sending),
        }
    }

    /// Sends a message with a handle, which needs a header.
    pub(super) fn send_parcel(
        &self,
        bytes: &[u8],
        handle: (BorrowedFd<'_>, &str),
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), ConnectionError> {
        let wait = wait.map(|wait| wait());
        let way = if bytes.len() > MAX_INLINE { Way::Memfd } else { Way::Packet };
        self.send_frame(bytes, Some(handle), way, wait)
    }

    #[cold]
    fn send_frame(
        &self,
        bytes: &[u8],
        handle: Option<(BorrowedFd<'_>, &str)>,
        way: Way,
        wait: Option<Wait>,
    ) -> Result<(), ConnectionError> {
        if bytes.len() > MAX_LEN {
            return Err(ConnectionError::TooLong { len: bytes.len(), max: MAX_LEN });
        }
        let failed =
            |source| ConnectionError::Os { what: "making a memfd for the message", source };
        let made;
        let large = match way {
            Way::Packet => None,
            Way::Memfd if bytes.is_empty() => Some(empty().map_err(failed)?),
            Way::Memfd => {
                made = sealed::copy_of(bytes).map_err(failed)?;
                Some(made.as_fd())
            }
        };
        let frame = Frame::new(bytes, large, handle);
        let send = SendFrame { socket: self.end.as_fd(), frame: &frame };
        match self.until(PollFlags::OUT, wait, send) {
            Err(errno) if way == Way::Packet && is_too_long(errno, bytes.len()) => {
                self.send_frame(bytes, handle, Way::Memfd, wait)
            }
            result => result.map_err(ConnectionError::sending),
        }
    }

    #[inline(always)]
    pub(super) fn receive(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Message, ConnectionError> {
        // Relaxed: a hint.
        let expected = self.expected.load(Relaxed);
        let mut bytes: Vec<u8> = Vec::with_capacity(expected.max(MIN_CAPACITY));
        let arrival = self.arrival(bytes.spare_capacity_mut(), wait.map(|wait| wait()))?;
        let len = arrival.packet.len;
        if len != expected {
            self.expected.store(len.min(MAX_PACKET), Relaxed);
        }
        // SAFETY: the kernel has filled that many bytes from the start of the spare capacity, which
        // is where the bytes of the empty vector begin.
        unsafe { bytes.set_len(len - arrival.rest) };
        bytes.extend_from_slice(arrival.rest());
        // A message that is kept should not keep the memory of a longer one.
        if bytes.capacity() / 4 > len.max(MIN_CAPACITY) {
            bytes.shrink_to_fit();
        }
        arrival.into_message(bytes)
    }

    #[inline(always)]
    pub(super) fn receive_into(
        &self,
        buffer: &mut [u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<usize, ConnectionError> {
        let max = buffer.len();
        let start = core::ptr::from_mut(buffer);
        // SAFETY: the same bytes, mutably borrowed for as long. Nothing uninitialised is ever
        // written there.
        let into = unsafe { &mut *(start as *mut [MaybeUninit<u8>]) };
        let into = if max <= COPIED { &mut [] } else { into };
        let arrival = self.arrival(into, wait.map(|wait| wait()))?;
        let len = arrival.packet.len;
        let filled = len - arrival.rest;
        if len <= max && !arrival.has_descriptors() {
            buffer[filled..len].copy_from_slice(arrival.rest());
            return if len == 0 { Err(ConnectionError::EndOfStream) } else { Ok(len) };
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&buffer[..filled]);
        bytes.extend_from_slice(arrival.rest());
        let message = Box::new(arrival.into_message(bytes)?);
        if message.handle_kind().is_some() {
            return Err(ConnectionError::UnexpectedHandle { message });
        }
        match buffer.get_mut(..message.len()) {
            Some(buffer) => {
                buffer.copy_from_slice(&message);
                Ok(message.len())
            }
            None => Err(ConnectionError::TooShort { max, message }),
        }
    }

    /// Receives the message that is there, without waiting. If that fails, the message stays there.
    pub(crate) fn try_recv_or_leave(&self) -> Result<Message, ConnectionError> {
        let mut overflow = take_overflow();
        let mut peek = || retry(|| socket::peek(&*self.end, [&mut [], overflow.bytes_mut()]));
        let peeked = match peek() {
            // As in `until`.
            Err(Errno::CONNRESET) => peek(),
            peeked => peeked,
        };
        let packet = match peeked {
            Ok(packet) => packet,
            Err(errno) => {
                keep_overflow(overflow);
                return Err(ConnectionError::receiving(errno));
            }
        };
        let arrival = IncomingPacket { rest: packet.len, packet, overflow };
        let bytes = arrival.rest().to_vec();
        let message = arrival.into_message(bytes)?;
        // Its bytes were copied, and its descriptors duplicated: what comes here is closed.
        retry(|| socket::receive(&*self.end, [&mut [], &mut []], false))
            .map_err(ConnectionError::receiving)?;
        Ok(message)
    }

    /// Receives a packet into a buffer, and what exceeds that into the overflow.
    #[inline(always)]
    fn arrival(
        &self,
        buffer: &mut [MaybeUninit<u8>],
        wait: Option<Wait>,
    ) -> Result<IncomingPacket, ConnectionError> {
        let mut overflow = take_overflow();
        let in_buffer = buffer.len();
        let receive = Receive { socket: self.end.as_fd(), buffers: [buffer, overflow.bytes_mut()] };
        match self.until(PollFlags::IN, wait, receive) {
            Ok(packet) => {
                Ok(IncomingPacket { rest: packet.len.saturating_sub(in_buffer), packet, overflow })
            }
            Err(errno) => {
                keep_overflow(overflow);
                Err(ConnectionError::receiving(errno))
            }
        }
    }

    pub(crate) fn poll_until(&self, wait: Wait) -> Result<bool, ConnectionError> {
        match self.wait_for(PollFlags::IN, wait) {
            Ok(()) => Ok(true),
            Err(Errno::TIMEDOUT) => Ok(false),
            Err(errno) => Err(ConnectionError::receiving(errno)),
        }
    }

    /// Repeats an attempt until it does not fail for lack of room, or of a message. ETIMEDOUT,
    /// EINTR: the wait ended first. EAGAIN: there is to be no wait.
    #[inline(always)]
    fn until<A: Attempt>(
        &self,
        events: PollFlags,
        wait: Option<Wait>,
        mut call: A,
    ) -> Result<A::Done, Errno> {
        // One blocking call is enough if nothing is to end the wait.
        let mut may_wait = wait == Some(Wait::FOREVER);
        let mut in_vain = 0;
        let mut interrupted = 0;
        let mut is_last = false;
        let mut was_reset = events != PollFlags::IN;
        loop {
            let result = call.attempt(may_wait);
            // The other end is gone, with messages in it that were not received. What it sent is
            // still here: the kernel reports this error only once.
            if !was_reset && matches!(result, Err(Errno::CONNRESET)) {
                was_reset = true;
                continue;
            }
            if is_last {
                let timed_out = |errno| if errno == Errno::AGAIN { Errno::TIMEDOUT } else { errno };
                return result.map_err(timed_out);
            }
            interrupted = if matches!(result, Err(Errno::INTR)) { interrupted + 1 } else { 0 };
            match (result, wait) {
                (Err(Errno::AGAIN), Some(wait)) => {
                    match self.wait_again(events, wait, &mut in_vain) {
                        // There may be room even so: see `wait_for`.
                        Err(Errno::TIMEDOUT) => (may_wait, is_last) = (false, true),
                        result => result?,
                    }
                }
                (Err(Errno::INTR), Some(wait)) if wait.ends_by_signal() => return Err(Errno::INTR),
                // An attempt that does not wait is interrupted once in a while. Only a sandbox
                // interrupts it without end, and here no deadline ends that.
                (Err(Errno::INTR), Some(wait)) if interrupted >= MANY && wait.until().is_none() => {
                    return Err(Errno::INTR);
                }
                (Err(Errno::INTR), _) => {
                    may_wait &= interrupted < FEW;
                    pause(wait, Errno::INTR, &mut in_vain)?;
                }
                (result, _) => return result,
            }
        }
    }

    /// Runs [`wait_for`](Connection::wait_for) after a failed attempt. The kernel may say again and
    /// again that it is time, while the attempts keep failing. Then others are always faster, or a
    /// sandbox does not tell the truth: there are pauses. Where a sandbox interrupts every sleep,
    /// only attempts tell, with pauses.
    #[cold]
    fn wait_again(&self, events: PollFlags, wait: Wait, in_vain: &mut u32) -> Result<(), Errno> {
        if *in_vain != 0 {
            pause(Some(wait), Errno::AGAIN, in_vain)?;
        }
        *in_vain += 1;
        match self.wait_for(events, wait) {
            Err(Errno::INTR)
                if !wait.ends_by_signal() && (wait.until().is_some() || *in_vain < MANY) =>
            {
                pause(Some(wait), Errno::INTR, in_vain)
            }
            result => result,
        }
    }

    /// Waits until the kernel says that it is time. A wait for room also ends after a slice. Others
    /// at this end may have taken some of the room before this thread has looked. Then the kernel
    /// says that it is time only when three quarters of the buffer are free again.
    #[cold]
    fn wait_for(&self, events: PollFlags, wait: Wait) -> Result<(), Errno> {
        let mut descriptors = [PollFd::new(&*self.end, events)];
        let slice = if events == PollFlags::OUT { wait::recheck_interval() } else { None };
        let slice_ends = slice.and_then(|slice| Wait::timeout(slice).until());
        loop {
            let is_interrupted = wait.is_interrupted();
            let until =
                [wait.until(), slice_ends.or_else(|| wait.look_at())].into_iter().flatten().min();
            match poll(&mut descriptors, if is_interrupted { Some(0) } else { until }) {
                // This process has no such end, and a wait for it would be in vain.
                Ok(Polled::Ready) if { descriptors[0].revents() }.contains(PollFlags::NVAL) => {
                    return Err(Errno::BADF);
                }
                Ok(Polled::Ready) => return Ok(()),
                Ok(_) if is_interrupted && !wait.is_over() => return Err(Errno::INTR),
                Ok(Polled::TimedOut) if until == wait.until() => return Err(Errno::TIMEDOUT),
                Ok(Polled::TimedOut) if slice_ends.is_some() => return Ok(()),
                Ok(Polled::Interrupted) if wait.ends_by_signal() => return Err(Errno::INTR),
                Ok(Polled::Interrupted) if wait.is_over() => return Err(Errno::TIMEDOUT),
                Ok(Polled::TimedOut | Polled::Interrupted) => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
    }
}

impl IncomingPacket {
    /// Returns the bytes that came beyond the buffer.
    fn rest(&self) -> &[u8] {
        let filled = core::ptr::from_ref(&self.overflow.bytes()[..self.rest]);
        // SAFETY: the kernel has filled that many bytes of it.
        unsafe { &*(filled as *const [u8]) }
    }

    fn has_descriptors(&self) -> bool {
        self.packet.is_missing_descriptors || self.packet.descriptors.iter().any(Option::is_some)
    }

    /// Turns the packet into a message. `bytes` holds the packet's bytes.
    fn into_message(mut self, bytes: Vec<u8>) -> Result<Message, ConnectionError> {
        let packet = &mut self.packet;
        let descriptors = core::mem::take(&mut packet.descriptors);
        if packet.is_cut || packet.len > MAX_PACKET {
            return Err(ConnectionError::Malformed {
                what: format!("it has more than {MAX_PACKET} bytes"),
            });
        }
        if packet.is_missing_descriptors {
            return match descriptors.iter().flatten().count() {
                MAX_DESCRIPTORS => Err(ConnectionError::Malformed {
                    what: format!("it brought more than {MAX_DESCRIPTORS} descriptors"),
                }),
                _ => Err(ConnectionError::NoDescriptor),
            };
        }
        if descriptors.iter().any(Option::is_some) {
            return frame::parse(bytes, descriptors);
        }
        if bytes.is_empty() { Err(ConnectionError::EndOfStream) } else { Ok(Message::small(bytes)) }
    }
}

impl Drop for IncomingPacket {
    fn drop(&mut self) {
        keep_overflow(core::mem::take(&mut self.overflow));
    }
}

/// The number of attempts in vain before there are pauses.
const FEW: u32 = 16;
/// The number of interruptions that are tolerated, most of them of attempts that do not wait.
const MANY: u32 = 128;
/// The length of a pause, in nanoseconds.
const PAUSE: u64 = 1_000_000;

/// Precedes another attempt. ETIMEDOUT: the deadline has passed. EINTR: a handler is to end the
/// wait. After [`FEW`] attempts in vain it pauses. If there is to be no wait, it returns their
/// `errno` instead.
#[cold]
fn pause(wait: Option<Wait>, errno: Errno, in_vain: &mut u32) -> Result<(), Errno> {
    *in_vain += 1;
    match wait {
        Some(wait) if wait.is_over() => Err(Errno::TIMEDOUT),
        Some(wait) if wait.is_interrupted() => Err(Errno::INTR),
        _ if *in_vain < FEW => Ok(()),
        None => Err(errno),
        Some(wait) => {
            let end = clock::now().saturating_add(PAUSE);
            // However the pause ends, an attempt comes next, unless a handler is to end the wait.
            match sleep_until(wait.until().map_or(end, |until| until.min(end))) {
                Err(Errno::INTR) if wait.ends_by_signal() => Err(Errno::INTR),
                _ => Ok(()),
            }
        }
    }
}

/// Returns whether the kernel would not take this many bytes as one packet.
fn is_too_long(errno: Errno, len: usize) -> bool {
    errno == Errno::MSGSIZE || (len > SURE_INLINE && matches!(errno, Errno::NOBUFS | Errno::NOMEM))
}

/// Returns a sealed memfd without bytes, for all empty messages.
fn empty() -> io::Result<BorrowedFd<'static>> {
    // No lock: a child that is forked meanwhile would find it held for ever.
    static EMPTY: AtomicPtr<OwnedFd> = AtomicPtr::new(ptr::null_mut());
    // Acquire: pairs with the Release of the exchange.
    let mut made = EMPTY.load(Acquire);
    if made.is_null() {
        let new = Box::into_raw(Box::new(sealed::copy_of(&[])?));
        match EMPTY.compare_exchange(made, new, AcqRel, Acquire) {
            Ok(_) => made = new,
            Err(other) => {
                // SAFETY: it came from a box, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                made = other;
            }
        }
    }
    // SAFETY: it came from a box, and is never freed.
    Ok(unsafe { &*made }.as_fd())
}
