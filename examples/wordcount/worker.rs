//! What a worker does, from its fork to its end.

use crossproc::LockError;

use crate::job::{Board, Claim};
use crate::listing::Files;
use crate::reader::Reader;

/// Counts chunks until none is left to claim. The first one is what the slot's last worker left unfinished.
pub(crate) fn run(board: &Board, files: &Files, slot: usize) -> Result<(), LockError<()>> {
    let mut reader = Reader::new(files);
    let mut reports = Reports { board, unreported: 0, last: board.now() };
    let mut left_over = board.resume(slot);
    loop {
        let chunk = match left_over.take() {
            Some(chunk) => chunk,
            None => match board.claim(slot)? {
                Claim::Chunk(chunk) => chunk,
                Claim::Gated => {
                    reports.send();
                    board.job.go.wait();
                    continue;
                }
                Claim::Nothing => break,
            },
        };
        let (tally, flaw) = reader.count(files.part(chunk));
        board.chunks[chunk as usize].store(tally, flaw);
        reports.add();
    }
    reports.send();
    Ok(())
}

/// Finished chunks of which the parent was not told yet.
struct Reports<'a> {
    board: &'a Board,
    unreported: u32,
    last: u64,
}

impl Reports<'_> {
    fn add(&mut self) {
        self.unreported += 1;
        let now = self.board.now();
        if now - self.last >= self.board.report_every() {
            self.last = now;
            self.send();
        }
    }

    fn send(&mut self) {
        // It overflows if the parent was stopped for billions of chunks. It has enough to wake up for then, and looks at the states anyway.
        let _ = self.board.job.finished.release_many(self.unreported);
        self.unreported = 0;
    }
}
