//! The plots: throughput over the number of processes, and latencies by percentiles. They have
//! large type and few words, to be read on a phone.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crossproc_harness::quartiles::Quartiles;
use crossproc_harness::record::{Axis, Record, Row, slug};
use plotters::prelude::*;

use crate::report::Report;

const WIDTH: u32 = 900;
const CHART: u32 = 760;
/// The height of a line of the legend.
const LEGEND: u32 = 44;
const FONT: &str = "sans-serif";
const TYPE: u32 = 34;

/// What crossproc's line is called.
const OURS: &str = "crossproc";

/// One plot: lines over the same points.
struct Plot {
    title: String,
    axis: Axis,
    /// The places on the axis, in ascending order.
    places: Vec<f64>,
    /// The names of the lines, with the figure at each place; crossproc's is the first.
    lines: Vec<(String, Vec<Option<f64>>)>,
}

/// Draws the plots of all records into a folder. Returns the files.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for record in &report.records {
        for plot in plots(record) {
            let file = folder.join(slug(&plot.title) + ".svg");
            plot.draw(&file)?;
            files.push(file);
        }
    }
    Ok(files)
}

/// Returns the plots of a record: those with more than one place.
fn plots(record: &Record) -> Vec<Plot> {
    let mut groups: BTreeMap<(Axis, &str), Vec<(f64, &Row)>> = BTreeMap::new();
    for row in &record.rows {
        if let Some(point) = &row.operation.point {
            groups.entry((point.axis, &point.plot)).or_default().push((point.at, row));
        }
    }
    groups
        .into_iter()
        .map(|((axis, name), rows)| Plot::of(format!("{}: {name}", record.bench), axis, &rows))
        .filter(|plot| plot.places.len() > 1)
        .collect()
}

impl Plot {
    fn of(title: String, axis: Axis, rows: &[(f64, &Row)]) -> Plot {
        let mut places: Vec<f64> = rows.iter().map(|&(at, _)| at).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let mut rivals: Vec<&str> = Vec::new();
        for (_, row) in rows {
            if !rivals.contains(&row.rival.as_str()) {
                rivals.push(&row.rival);
            }
        }
        // Throughput is in operations a microsecond.
        let figure = |nanos: f64| match axis {
            Axis::Processes => 1000.0 / nanos,
            Axis::Percentile => nanos / 1000.0,
        };
        let line = |pick: &dyn Fn(&Row) -> Option<f64>| -> Vec<Option<f64>> {
            let at_place = |place: &f64| {
                let here = rows.iter().filter(|(at, _)| at == place);
                let figures: Vec<f64> = here.filter_map(|(_, row)| pick(row)).collect();
                (!figures.is_empty()).then(|| figure(Quartiles::of(figures).median))
            };
            places.iter().map(at_place).collect()
        };
        let ours = (OURS.to_owned(), line(&|row| Some(row.ours.median)));
        let theirs = rivals.iter().map(|&rival| {
            let of_rival = |row: &Row| (row.rival == rival).then_some(row.theirs.median);
            (rival.to_owned(), line(&of_rival))
        });
        let lines = [ours].into_iter().chain(theirs).collect();
        Plot { title, axis, places, lines }
    }

    fn draw(&self, file: &Path) -> Result<(), Box<dyn Error>> {
        let height = CHART + LEGEND * self.lines.len() as u32;
        let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (chart, legend) = root.split_vertically(CHART);
        let (per_axis, unit) = match self.axis {
            Axis::Processes => ("processes", "operations a µs"),
            Axis::Percentile => ("percentile", "µs"),
        };
        let last = self.places.len() as i32;
        let mut chart = ChartBuilder::on(&chart)
            .caption(&self.title, (FONT, TYPE + 6))
            .margin(24)
            .x_label_area_size(90)
            .y_label_area_size(130)
            .build_cartesian_2d(-1..last, self.range())?;
        let place = |&index: &i32| {
            let place = usize::try_from(index).ok().and_then(|index| self.places.get(index));
            place.map_or(String::new(), f64::to_string)
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(per_axis)
            .y_desc(unit)
            .x_labels(self.places.len() + 2)
            .x_label_formatter(&place)
            .y_label_formatter(&|&power| shown(10_f64.powf(power)))
            .y_labels(6)
            .label_style((FONT, TYPE))
            .axis_desc_style((FONT, TYPE))
            .draw()?;
        // crossproc's line comes last, and so lies above the others.
        for (index, (name, figures)) in self.lines.iter().enumerate().rev() {
            let color = Palette99::pick(index).to_rgba();
            let width = if index == 0 { 8 } else { 4 };
            let points: Vec<(i32, f64)> = figures
                .iter()
                .enumerate()
                .filter_map(|(place, figure)| Some((place as i32, (*figure)?.log10())))
                .collect();
            let dots = points.iter().map(|&point| Circle::new(point, width + 3, color.filled()));
            chart.draw_series(dots)?;
            chart.draw_series(LineSeries::new(points, color.stroke_width(width)))?;
            let y = (LEGEND as usize * index) as i32;
            let key = [(60, y + 8), (130, y + 20)];
            legend.draw(&Rectangle::new(key, color.filled()))?;
            legend.draw(&Text::new(name.as_str(), (150, y), (FONT, TYPE)))?;
        }
        root.present()?;
        Ok(())
    }

    /// Returns the decimal powers between which all figures are, with some room.
    fn range(&self) -> Range<f64> {
        let figures = self.lines.iter().flat_map(|(_, figures)| figures.iter().flatten());
        let powers: Vec<f64> = figures.map(|figure| figure.log10()).collect();
        let least = powers.iter().copied().fold(f64::INFINITY, f64::min);
        let most = powers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        least - 0.15..most + 0.15
    }
}

/// Returns a figure with two digits that count.
fn shown(figure: f64) -> String {
    let digits = 1 - figure.log10().floor() as i32;
    let scale = 10_f64.powi(digits);
    let decimals = usize::try_from(digits).unwrap_or(0);
    format!("{:.decimals$}", (figure * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::process;

    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_plot_has_a_line_for_crossproc_and_for_each_rival() {
        let report = report();
        let [plot] = &plots(&report.records[0])[..] else { panic!("one plot") };
        assert_eq!((plot.title.as_str(), &plot.places[..]), ("Lock: sections", &[2.0, 4.0][..]));
        assert_eq!(
            plot.lines,
            [
                ("crossproc".to_owned(), vec![Some(200.0), Some(400.0)]),
                ("pthread".to_owned(), vec![Some(100.0), Some(100.0)]),
            ]
        );
    }

    #[test]
    fn a_plot_is_drawn_with_its_names() {
        let folder = env::temp_dir().join(format!("crossproc-plot-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = draw(&report(), &folder).unwrap();
        assert_eq!(files, [folder.join("lock-sections.svg")]);
        let drawn = fs::read_to_string(&files[0]).unwrap();
        assert!(drawn.contains("crossproc") && drawn.contains("processes"), "{drawn}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_label_has_two_digits() {
        assert_eq!([0.0312, 3.16, 31.6, 316.0].map(shown), ["0.031", "3.2", "32", "320"]);
    }
}
