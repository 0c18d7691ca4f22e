//! A pipe each way, through which a message is a length and bytes.

use std::fs::File;
use std::io::{Read, Write};

use crossproc_harness::pipe::ends::End;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// The most that a pipe holds, by the usual limit of the system, in bytes.
const ROOM: usize = 1 << 20;

pub(crate) struct RawPipe {
    there: File,
    back: File,
}

impl End for RawPipe {
    const MAX: usize = usize::MAX;

    fn pair() -> (Self, Self) {
        let pipe = || {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            fcntl_setpipe_size(&write, ROOM).unwrap();
            (File::from(read), File::from(write))
        };
        let ((from_one, to_other), (from_other, to_one)) = (pipe(), pipe());
        let one = RawPipe { there: to_other, back: from_other };
        (one, RawPipe { there: to_one, back: from_one })
    }

    fn send(&self, message: &[u8]) {
        let mut there = &self.there;
        there.write_all(&(message.len() as u64).to_ne_bytes()).unwrap();
        there.write_all(message).unwrap();
    }

    fn recv(&self, buffer: &mut [u8]) {
        let mut back = &self.back;
        let mut len = [0; 8];
        back.read_exact(&mut len).unwrap();
        assert_eq!(u64::from_ne_bytes(len), buffer.len() as u64);
        back.read_exact(buffer).unwrap();
    }
}
