//! The record of the cases at every point: a file with a line for each piece of a case.
//!
//! | field | meaning |
//! |---|---|
//! | case | its name |
//! | from, next | the piece's first point, and where the next piece begins |
//! | state | `more`, or `whole` if the case ends with this piece |
//! | runs, violations, strands | the number of each |
//! | missed | points that runs passed and at which none ended, since runs differ |
//! | seconds | how long it took |
//!
//! Fields are separated by tabs. A piece is written when it is over, so a piece that is cut off is
//! done again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// A piece of a case, or all its pieces combined.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) from: usize,
    pub(crate) next: usize,
    pub(crate) is_whole: bool,
    pub(crate) runs: usize,
    pub(crate) violations: usize,
    pub(crate) strands: usize,
    pub(crate) missed: usize,
    pub(crate) seconds: f64,
}

impl Piece {
    /// Returns the fields after the name, as a line.
    pub(crate) fn line(&self) -> String {
        let state = if self.is_whole { "whole" } else { "more" };
        let Piece { from, next, runs, violations, strands, missed, seconds, .. } = self;
        format!("{from}\t{next}\t{state}\t{runs}\t{violations}\t{strands}\t{missed}\t{seconds:.2}")
    }

    pub(crate) fn parse(line: &str) -> Option<Piece> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [from, next, state, runs, violations, strands, missed, seconds] = fields[..] else {
            return None;
        };
        let is_whole = match state {
            "whole" => true,
            "more" => false,
            _ => return None,
        };
        let number = |text: &str| text.parse().ok();
        Some(Piece {
            from: number(from)?,
            next: number(next)?,
            is_whole,
            runs: number(runs)?,
            violations: number(violations)?,
            strands: number(strands)?,
            missed: number(missed)?,
            seconds: seconds.parse().ok()?,
        })
    }

    /// Returns both pieces combined, if `other` begins where this one ends.
    fn and(self, other: Piece) -> Option<Piece> {
        (self.next == other.from && !self.is_whole).then_some(Piece {
            from: self.from,
            next: other.next,
            is_whole: other.is_whole,
            runs: self.runs + other.runs,
            violations: self.violations + other.violations,
            strands: self.strands + other.strands,
            missed: self.missed + other.missed,
            seconds: self.seconds + other.seconds,
        })
    }
}

/// The file, and its content for each case.
pub(crate) struct Record {
    file: Option<File>,
    cases: BTreeMap<String, Piece>,
}

impl Record {
    /// Reads the file, or creates it if there is none. Without a path nothing is kept.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Record> {
        let mut record = Record { file: None, cases: BTreeMap::new() };
        let Some(path) = path else { return Ok(record) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        for line in fs::read_to_string(path)?.lines() {
            let understood =
                line.split_once('\t').and_then(|(name, rest)| Some((name, Piece::parse(rest)?)));
            let Some((name, piece)) = understood else {
                return Err(io::Error::other(format!(
                    "{}: cannot be read: {line}",
                    path.display()
                )));
            };
            record.note(name, piece).map_err(|piece| {
                io::Error::other(format!(
                    "{}: no piece of {name} begins at {}: delete the case's lines",
                    path.display(),
                    piece.from
                ))
            })?;
        }
        record.file = Some(file);
        Ok(record)
    }

    fn note(&mut self, name: &str, piece: Piece) -> Result<(), Piece> {
        let known = self.of(name);
        let both = known.and(piece).ok_or(piece)?;
        self.cases.insert(name.into(), both);
        Ok(())
    }

    /// Returns all pieces of a case combined.
    pub(crate) fn of(&self, name: &str) -> Piece {
        self.cases.get(name).copied().unwrap_or_default()
    }

    /// Adds a piece, also to the file.
    pub(crate) fn add(&mut self, name: &str, piece: Piece) -> io::Result<()> {
        self.note(name, piece)
            .map_err(|_| io::Error::other(format!("{name}: a piece is missing")))?;
        match &mut self.file {
            // A single write, so that the line is there as a whole or not at all.
            Some(file) => file.write_all(format!("{name}\t{}\n", piece.line()).as_bytes()),
            None => Ok(()),
        }
    }
}
