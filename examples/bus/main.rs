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
//! A publisher has a [channel](channel): a broadcast that keeps 1,024 messages, and a lock that it
//! holds until it ends. It puts both into the directory, under a name of its own. A subscriber gets
//! the channels of its topics from the directory, and subscribes to each, from the oldest message
//! on. So messages go from process to process in shared memory, and the directory is needed only to
//! find each other.
//!
//! Each subscriber gets the messages of one publisher in order, and none twice. A publisher never
//! waits for a subscriber. If a subscriber is stopped or too slow, it alone misses the messages
//! that the channel does not keep any more, and is told how many.
//!
//! # What a death does
//! | killed process | what the others do |
//! |---|---|
//! | the directory | publishers and subscribers go on with the channels that they know, and look for the next directory; there they put and get everything again |
//! | a subscriber | nothing |
//! | a publisher | subscribers find that its lock has no owner, read what it has sent, and forget its channel; the message that it was about to send goes to all of them as a whole, or to none |

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crossproc::directory::Address;

mod channel;
mod link;
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
