//! A message bus: publishers and subscribers that find each other by a directory, in separate
//! programs, started by hand in any order, any of which may be killed and started again at any
//! time.
//!
//! ```text
//! cargo run --example bus -- serve
//! cargo run --example bus -- subscribe news weather
//! cargo run --example bus -- publish news          # each line of the standard input is a message
//! cargo run --example bus -- publish news --every 100
//! ```
//!
//! # Who does what
//! A subscriber has a [mailbox](mailbox): a queue of its own, in which there is room for 1,024
//! messages, and a lock that it holds as long as it lives. It puts both into the directory, under a
//! name of its own. A publisher takes from there the mailboxes of its topic, and puts each message
//! into every one of them. So messages go from process to process in shared memory, and the
//! directory is needed only to find each other.
//!
//! Each subscriber gets the messages of one publisher in order, and none twice. A publisher does
//! not wait for anybody: a subscriber that is stopped, or too slow, loses what its mailbox has no
//! room for, and nobody else does.
//!
//! # What a death does
//! | is killed | what the others do |
//! |---|---|
//! | the directory | publishers and subscribers go on with those whom they know, and look for the next directory; there they put and take everything again |
//! | a subscriber | publishers find its lock without an owner, and forget its mailbox; the directory forgets its names |
//! | a publisher | nothing; the message that it was about to put is in each mailbox as a whole, or not at all |

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crossproc::directory::Address;

mod link;
mod mailbox;
mod publish;
mod serve;
mod subscribe;

/// A message bus between separate programs.
#[derive(Debug, Parser)]
#[command(name = "bus")]
struct Options {
    /// Where the directory is: a path, or @ and a name
    #[arg(long, value_name = "ADDRESS", default_value = "@crossproc-bus", global = true)]
    at: Address,

    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serves the directory
    Serve,
    /// Publishes each line of the standard input, or numbers
    Publish(publish::Options),
    /// Prints the messages of some topics
    Subscribe(subscribe::Options),
}

fn main() -> ExitCode {
    let Options { at, role } = Options::parse();
    let result = match role {
        Role::Serve => serve::run(at),
        Role::Publish(options) => publish::run(at, &options),
        Role::Subscribe(options) => subscribe::run(at, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// What goes wrong with the others is told, and nothing ends for it.
fn complain(message: &str) {
    eprintln!("bus: {message}");
}
