//! [`Report`]: what is printed at the end.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chaos::Plan;
use crate::complaint::complain;
use crate::crew::Deaths;
use crate::listing::Files;
use crate::tally::Tally;

pub(crate) struct Report<'a> {
    pub(crate) files: &'a Files,
    pub(crate) total: Tally,
    /// How many paths were not counted, or not to the end.
    pub(crate) flawed: usize,
    pub(crate) listed: Duration,
    /// From before the first fork until the last worker had ended.
    pub(crate) counted: Duration,
    pub(crate) workers: u32,
    pub(crate) plan: &'a Plan,
    pub(crate) deaths: Deaths,
    /// What `--check` counted.
    pub(crate) checked: Option<Tally>,
}

impl Report<'_> {
    /// Prints it to the standard output.
    pub(crate) fn print(&self, as_json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if as_json {
            writeln!(out, "{:#}", self.json())?;
        } else {
            self.write_text(&mut out)?;
        }
        out.flush()?;
        match self.checked {
            Some(checked) if checked != self.total => {
                complain(format_args!("the check failed: counted {}, by one thread {}", named(self.total), named(checked)));
            }
            _ => {}
        }
        Ok(())
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let Tally { lines, words, bytes } = self.total;
        writeln!(out, "lines    {lines}\nwords    {words}\nbytes    {bytes}\nfiles    {}", self.files.len())?;
        if self.flawed != 0 {
            writeln!(out, "flawed   {} paths, not counted or not to the end", self.flawed)?;
        }
        writeln!(out, "chunks   {} of {} bytes or less", self.files.chunks(), self.files.chunk())?;
        writeln!(out, "workers  {}", self.workers)?;
        let (listed, counted) = (self.listed.as_secs_f64(), self.counted.as_secs_f64());
        writeln!(out, "time     {counted:.3} s counting ({:.0} MB/s), {listed:.3} s listing before that", self.rate())?;
        let Deaths { killed, died, replaced, lost } = self.deaths;
        let asked = self.plan.kills().len();
        if asked != 0 {
            writeln!(out, "killed   {killed} of {asked}, by the plan of seed {}", self.plan.seed)?;
        }
        if died != 0 {
            writeln!(out, "died     {died} otherwise")?;
        }
        if killed + died != 0 {
            writeln!(out, "replaced {replaced}\nlost     {:.3} s of work and waiting, all workers together", lost.as_secs_f64())?;
        }
        if self.checked == Some(self.total) {
            writeln!(out, "checked  one thread counts the same")?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let kill = |kill: &crate::chaos::Kill| json!({ "done": kill.done, "delay_ns": kill.delay.as_nanos() as u64, "slot": kill.slot });
        let plan: Vec<Value> = self.plan.kills().iter().map(kill).collect();
        let check = |checked| json!({ "same": checked == self.total, "total": figures(checked) });
        json!({
            "total": figures(self.total),
            "files": self.files.len(),
            "flawed": self.flawed,
            "chunks": self.files.chunks(),
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

    /// Millions of bytes a second.
    fn rate(&self) -> f64 {
        self.total.bytes as f64 / 1e6 / self.counted.as_secs_f64()
    }
}

fn figures(tally: Tally) -> Value {
    json!({ "lines": tally.lines, "words": tally.words, "bytes": tally.bytes })
}

fn named(tally: Tally) -> String {
    format!("{} lines, {} words, {} bytes", tally.lines, tally.words, tally.bytes)
}
