//! A message bus: publishers and subscribers find each other through a directory. They are separate
//! programs, started by hand in any order. Any of them may be killed and started again at any time.
//!
//! ```text
//! cargo run --example bus -- serve
//! cargo run --example bus -- subscribe news weather
//! cargo run --example bus -- publish news          # each line of the standard input is a message
//! cargo run --example bus -- publish news --every 100
//! ```
//!
//! # Who does what
//! A subscriber has a [mailbox](mailbox): a queue of its own with room for 1,024 messages, and a
//! lock that it holds until it ends. It puts both into the directory, under a name of its own. A
//! publisher gets the mailboxes of its topic from the directory, and puts each message into every
//! one of them. So messages go from process to process in shared memory, and the directory is
//! needed only to find each other.
//!
//! Each subscriber gets the messages of one publisher in order, and none twice. A publisher never
//! waits for a subscriber. If a subscriber is stopped or too slow, it alone loses the messages that
//! its mailbox has no room for.
//!
//! # What a death does
//! | killed process | what the others do |
//! |---|---|
//! | the directory | publishers and subscribers go on with the mailboxes that they know, and look for the next directory; there they put and get everything again |
//! | a subscriber | publishers find that its lock has no owner, and forget its mailbox; the directory forgets its names |
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

/// Reports what goes wrong with other processes. It does not end this one.
fn complain(message: &str) {
    eprintln!("bus: {message}");
}
