//! The example `wordcount`, without and with deaths of its workers, beside `wc` and a version with
//! rayon. Each time is of a whole program, from its start to its end. `CROSSPROC_WORDCOUNT` names
//! the example's program.

#![allow(missing_docs, reason = "a program")]

#[path = "wordcount/text.rs"]
mod text;

use core::time::Duration;
use std::env;
use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use crossproc_harness::ratios::{Figures, Ratios};
use crossproc_harness::run;

use self::text::Text;

/// The environment variable that names the example's program.
const PROGRAM: &str = "CROSSPROC_WORDCOUNT";

/// The greatest ratio to rayon that was promised.
const BAR: Option<f64> = Some(0.9);

/// How many workers are killed in the second row.
const KILLS: u32 = 8;

fn main() {
    run("Word count", &["rayon"], |_| {}, compare);
}

/// A program that counts words, and its arguments.
#[derive(Clone)]
struct Counter {
    program: OsString,
    arguments: Vec<OsString>,
    /// Finds the number of words in its output.
    words: fn(&str) -> Option<&str>,
}

impl Counter {
    /// Runs it. Returns how long that takes, and the number of words.
    fn run(&self) -> Result<(Duration, u64), String> {
        let name = self.program.display();
        let mut command = Command::new(&self.program);
        // In other locales `wc` looks at characters.
        command.args(&self.arguments).env("LC_ALL", "C");
        let start = Instant::now();
        let output = command.output().map_err(|error| format!("{name} does not start: {error}"))?;
        let took = start.elapsed();
        if !output.status.success() {
            return Err(format!("{name} ends with {}", output.status));
        }
        let output = String::from_utf8_lossy(&output.stdout);
        let words = (self.words)(&output).and_then(|words| words.parse().ok());
        Ok((took, words.ok_or_else(|| format!("{name} does not tell the number of words"))?))
    }

    /// Returns what runs it again and again, with always the same result.
    fn timed(self, expected: u64) -> Figures {
        Box::new(move || {
            let (took, words) = self.run().expect("what it has done once it can do again");
            assert_eq!(words, expected, "the number of words");
            vec![took.as_nanos() as f64]
        })
    }
}

/// Returns the example, with these arguments and a folder's files.
fn example(program: OsString, arguments: &[&str], text: &Text) -> Counter {
    Counter {
        program,
        arguments: arguments.iter().map(OsString::from).chain([text.folder().into()]).collect(),
        words: |output| output.lines().find_map(|line| line.strip_prefix("words ")).map(str::trim),
    }
}

/// Returns the rivals, with their names, and the bars.
fn rivals(text: &Text) -> [(&'static str, Counter, Option<f64>); 2] {
    let files: Vec<OsString> = text.files().iter().map(OsString::from).collect();
    let rayon = Counter {
        program: env!("CARGO_BIN_EXE_rayon-wordcount").into(),
        arguments: files.clone(),
        words: |output| output.split_whitespace().nth(1),
    };
    let wc = Counter {
        program: "wc".into(),
        arguments: [OsString::from("-w")].into_iter().chain(files).collect(),
        // Of all files together, which comes last.
        words: |output| output.lines().last()?.split_whitespace().next(),
    };
    [("rayon (threads only)", rayon, BAR), ("wc -w", wc, None)]
}

fn compare(ratios: &mut Ratios) {
    let Some(program) = env::var_os(PROGRAM) else {
        return ratios.miss("", "all", format!("{PROGRAM} does not name the example's program"));
    };
    let megabytes = ratios.effort().choose(600, 60, 1);
    let text = match Text::new(megabytes * 1_000_000) {
        Ok(text) => text,
        Err(error) => return ratios.miss("", "all", format!("no text to count: {error}")),
    };
    let (_, expected) = example(program.clone(), &[], &text).run().expect("the example counts");
    let kills = KILLS.to_string();
    let killed = format!(", {KILLS} workers killed");
    for (how, arguments) in [("", &[][..]), (&killed, &["--chaos", &kills][..])] {
        let operation = format!("{megabytes} MB{how}");
        for (name, rival, bar) in rivals(&text) {
            if let Err(reason) = rival.run() {
                ratios.miss(&operation, name, reason);
                continue;
            }
            let ours = example(program.clone(), arguments, &text).timed(expected);
            ratios.compare_figures(
                vec![((&operation).into(), bar)],
                ours,
                name,
                rival.timed(expected),
            );
        }
    }
}
