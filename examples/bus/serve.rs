//! The directory, which is all that stands in the middle.

use std::io::{self, Write};

use crossproc::directory::Address;
use crossproc::directory::Directory;

pub(crate) fn run(at: Address) -> io::Result<()> {
    let directory = Directory::bind(at)?;
    println!("serving {}", directory.address());
    io::stdout().flush()?;
    Ok(directory.serve()?)
}
