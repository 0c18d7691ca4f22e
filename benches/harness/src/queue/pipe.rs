//! A pipe. Messages up to 4 KiB, `PIPE_BUF`, go in and come out as a whole, even with several
//! producers and consumers.

use core::time::Duration;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::message::{value_of, with_message, with_value};
use super::{MessageQueue, Offers, TIMEOUT};

/// Both ends, which every process has.
#[derive(Debug)]
pub struct Pipe<const WORDS: usize> {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// The largest pipe of a user without privileges: `/proc/sys/fs/pipe-max-size`.
const MAX_SIZE: usize = 1 << 20;

impl<const WORDS: usize> MessageQueue for Pipe<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: false,
        many: true,
        blocking_get: true,
        batches: false,
        alone: usize::MAX,
        remark: "of at most 1 MiB; waits by poll",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)
            .map_err(|error| error.to_string())?;
        fcntl_setpipe_size(&writer, (capacity * WORDS * 8).min(MAX_SIZE))
            .map_err(|error| error.to_string())?;
        Ok(Pipe { reader, writer })
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        with_value::<WORDS, _>(value, |message| {
            let mut done = 0;
            while done < message.len() {
                match write(&self.writer, &message[done..]) {
                    Ok(count) => done += count,
                    Err(Errno::AGAIN) if done == 0 => return false,
                    // The rest of a message that did not fit.
                    Err(Errno::AGAIN) => drop(ready(&self.writer, PollFlags::OUT)),
                    Err(error) => panic!("a pipe cannot be written: {error}"),
                }
            }
            true
        })
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        with_message::<WORDS, _>(|message| {
            let mut done = 0;
            while done < message.len() {
                match read(&self.reader, &mut message[done..]) {
                    Ok(count) => done += count,
                    Err(Errno::AGAIN) if done == 0 => return None,
                    Err(Errno::AGAIN) => drop(ready(&self.reader, PollFlags::IN)),
                    Err(error) => panic!("a pipe cannot be read: {error}"),
                }
            }
            Some(value_of(message))
        })
    }

    #[inline]
    fn put(&self, value: u64) -> bool {
        self.try_put(value) || (ready(&self.writer, PollFlags::OUT) && self.try_put(value))
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        self.try_get().or_else(|| ready(&self.reader, PollFlags::IN).then(|| self.try_get())?)
    }
}

/// Waits until the pipe is ready. Returns whether that came before the time was over.
fn ready(fd: &OwnedFd, what: PollFlags) -> bool {
    const { assert!(TIMEOUT.as_nanos() == Duration::from_secs(1).as_nanos()) };
    poll(&mut [PollFd::new(fd, what)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))
        .expect("a pipe cannot be waited for")
        == 1
}
