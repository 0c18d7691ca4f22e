//! Makes tables and plots of what the benchmarks have found. `ci/bench.sh` runs them, and this.
//!
//! ```text
//! crossproc-report FOLDER [--missing TEXT]...
//! crossproc-report FOLDER --write README PAGE
//! ```
//!
//! The records are in `FOLDER/benches`. The first form prints one table of all rows, and writes it
//! to `FOLDER/table.md`, all records to `FOLDER/report.json`, and the plots beside them. Each
//! `--missing` says what could not be run. The second form writes the tables of two pages, between
//! comments that name `ci/bench.sh`.

mod markers;
mod page;
mod plot;
mod readme;
mod report;
mod table;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use self::report::Report;

const USAGE: &str = "crossproc-report FOLDER [--missing TEXT]...\n\
                     crossproc-report FOLDER --write README PAGE";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crossproc-report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let (folder, rest) = arguments.split_first().ok_or(USAGE)?;
    let folder = Path::new(folder);
    match rest {
        ["--write", readme, page] => {
            let report = Report::read(&folder.join("report.json"))?;
            rewrite(Path::new(readme), |text| readme::rewritten(text, &report))?;
            rewrite(Path::new(page), |text| page::rewritten(text, &report))
        }
        _ => {
            let missing = missing(rest)?;
            let report = Report::merge(&folder.join("benches"), missing)?;
            report.write(&folder.join("report.json"))?;
            let table = table::of(&report);
            print!("{table}");
            fs::write(folder.join("table.md"), table)?;
            for file in plot::draw(&report, folder)? {
                println!("{}", file.display());
            }
            Ok(())
        }
    }
}

/// Returns what stands behind each `--missing`.
fn missing(arguments: &[&str]) -> Result<Vec<String>, String> {
    let pairs = arguments.chunks(2).map(|pair| match pair {
        ["--missing", text] => Ok((*text).to_owned()),
        _ => Err(USAGE.to_owned()),
    });
    pairs.collect()
}

fn rewrite(
    file: &Path,
    new: impl FnOnce(&str) -> Result<String, String>,
) -> Result<(), Box<dyn Error>> {
    let new = new(&fs::read_to_string(file)?)?;
    Ok(fs::write(file, new)?)
}
