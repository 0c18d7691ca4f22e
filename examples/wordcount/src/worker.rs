//! What a worker does, from its fork to its end.

use std::io;

use crossproc::QueueError;

use crate::job::Board;
use crate::listing::Files;
use crate::reader::Reader;
use crate::results::Sender;
use crate::sheet::Sheet;

/// Does tasks until all are done. The result is sent before the task is marked as done. So if the
/// worker dies in between, the task is done again, and the parent has one result too many, not too
/// few.
pub(crate) fn run(board: &Board, files: &Files, slot: usize, has_words: bool) -> io::Result<()> {
    let (mut reader, mut sheet) = (Reader::new(files), Sheet::new(has_words));
    let mut sender = Sender::new(&board.results, slot);
    let slot = &board.slots[slot];
    loop {
        let task = match board.tasks.get() {
            Ok(task) => task,
            Err(QueueError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        slot.take_up(board.now());
        sheet.clear();
        for chunk in task.chunks() {
            reader.count(chunk, &mut sheet);
        }
        sender.send(task.number, |to| sheet.write(to))?;
        slot.lay_down();
        task.done();
    }
}
