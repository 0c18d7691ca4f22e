//! [`Report`]: the output at the end.

use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chaos::Plan;
use crate::check::{Checked, Difference};
use crate::complaint::complain;
use crate::crew::Deaths;
use crate::listing::Files;
use crate::sheet::Sheet;
use crate::tally::Tally;
use crate::words::Words;

pub(crate) struct Report<'a> {
    pub(crate) files: &'a Files,
    pub(crate) total: &'a Sheet,
    /// How many of the most frequent words are printed, if words were counted.
    pub(crate) top: usize,
    /// How many paths were not counted, or not to the end.
    pub(crate) flawed: usize,
    pub(crate) listed: Duration,
    /// The time from before the first fork until the last worker had ended.
    pub(crate) counted: Duration,
    pub(crate) tasks: u32,
    pub(crate) workers: u32,
    pub(crate) plan: &'a Plan,
    pub(crate) deaths: Deaths,
    /// The result of `--check`.
    pub(crate) checked: Option<&'a Checked>,
}

impl Report<'_> {
    /// Prints the report to the standard output. Returns whether the check, if there was one,
    /// agrees.
    pub(crate) fn print(&self, as_json: bool) -> io::Result<bool> {
        let failures = self.checked.map_or(Vec::new(), |checked| self.failures(checked));
        let mut out = BufWriter::new(io::stdout().lock());
        if as_json {
            writeln!(out, "{:#}", self.json(failures.is_empty()))?;
        } else {
            self.write_text(&mut out, failures.is_empty())?;
        }
        out.flush()?;
        for failure in &failures {
            complain(format_args!("the check failed: {failure}"));
        }
        Ok(failures.is_empty())
    }

    /// Returns the differences that the check found.
    fn failures(&self, checked: &Checked) -> Vec<String> {
        let mut failures = Vec::new();
        let (counted, again) = (self.total.tally, checked.tally);
        if counted != again {
            failures.push(format!("counted {}, by one thread {}", named(counted), named(again)));
        }
        if let Some(Difference { word, counted, checked }) = checked.difference(self.total) {
            failures.push(format!(
                "the word {} was counted {counted} times, by one thread {checked} times",
                Printable(word)
            ));
        }
        failures
    }

    fn write_text(&self, out: &mut impl Write, is_same: bool) -> io::Result<()> {
        let Tally { lines, words, bytes } = self.total.tally;
        writeln!(
            out,
            "lines    {lines}\nwords    {words}\nbytes    {bytes}\nfiles    {}",
            self.files.len()
        )?;
        if self.flawed != 0 {
            writeln!(out, "flawed   {} paths, not counted or not to the end", self.flawed)?;
        }
        writeln!(out, "chunks   {} of {} bytes or less", self.files.chunks(), self.files.chunk())?;
        writeln!(out, "tasks    {}", self.tasks)?;
        writeln!(out, "workers  {}", self.workers)?;
        let (listed, counted) = (self.listed.as_secs_f64(), self.counted.as_secs_f64());
        writeln!(
            out,
            "time     {counted:.3} s counting ({:.0} MB/s), {listed:.3} s listing before that",
            self.rate()
        )?;
        let Deaths { killed, died, replaced, lost } = self.deaths;
        let asked = self.plan.kills().len();
        if asked != 0 {
            writeln!(out, "killed   {killed} of {asked}, by the plan of seed {}", self.plan.seed)?;
        }
        if died != 0 {
            writeln!(out, "died     {died} otherwise")?;
        }
        if killed + died != 0 {
            writeln!(
                out,
                "replaced {replaced}\nlost     {:.3} s of work and waiting, all workers together",
                lost.as_secs_f64()
            )?;
        }
        if self.checked.is_some() && is_same {
            writeln!(out, "checked  one thread counts the same")?;
        }
        if let Some(words) = &self.total.words {
            writeln!(out, "distinct {} words", words.len())?;
            for (word, count) in words.top(self.top) {
                writeln!(out, "top      {count:<10} {}", Printable(word))?;
            }
        }
        Ok(())
    }

    fn json(&self, is_same: bool) -> Value {
        let kill = |kill: &crate::chaos::Kill| {
            let delay = kill.delay.as_nanos() as u64;
            json!({ "done": kill.done, "delay_ns": delay, "slot": kill.slot })
        };
        let plan: Vec<Value> = self.plan.kills().iter().map(kill).collect();
        let check = |checked: &Checked| json!({ "same": is_same, "total": figures(checked.tally) });
        let words = self.total.words.as_ref();
        let top =
            words.map(|words| words.top(self.top).into_iter().map(ranked).collect::<Vec<Value>>());
        json!({
            "total": figures(self.total.tally),
            "distinct": words.map(Words::len),
            "top": top,
            "files": self.files.len(),
            "flawed": self.flawed,
            "chunks": self.files.chunks(),
            "tasks": self.tasks,
            "workers": self.workers,
            "listing_seconds": self.listed.as_secs_f64(),
            "counting_seconds": self.counted.as_secs_f64(),
            "megabytes_per_second": self.rate(),
            "killed": self.deaths.killed,
            "died": self.deaths.died,
            "replaced": self.deaths.replaced,
            "lost_seconds": self.deaths.lost.as_secs_f64(),
            "chaos": { "seed": self.plan.seed, "plan": plan },
            "check": self.checked.map(check),
        })
    }

    /// Returns millions of bytes per second.
    fn rate(&self) -> f64 {
        self.total.tally.bytes as f64 / 1e6 / self.counted.as_secs_f64()
    }
}

fn figures(tally: Tally) -> Value {
    json!({ "lines": tally.lines, "words": tally.words, "bytes": tally.bytes })
}

fn named(tally: Tally) -> String {
    format!("{} lines, {} words, {} bytes", tally.lines, tally.words, tally.bytes)
}

/// Returns a word and its count. The word is a string if it is UTF-8, or else an array of bytes.
fn ranked((word, count): (&[u8], u64)) -> Value {
    match std::str::from_utf8(word) {
        Ok(word) => json!({ "word": word, "count": count }),
        Err(_) => json!({ "bytes": word, "count": count }),
    }
}

/// A word in a line of text. Bytes that are not printable are escaped as in Rust's literals, and so
/// is the `\`, so that no two words look the same.
struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '"' | '\'' => f.write_char(char)?,
                    _ => write!(f, "{}", char.escape_debug())?,
                }
            }
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}
