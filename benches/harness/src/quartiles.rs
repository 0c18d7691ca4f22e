//! Medians, quartiles and percentiles.

use serde::{Deserialize, Serialize};

/// The quartiles of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    pub first: f64,
    pub median: f64,
    pub third: f64,
}

impl Quartiles {
    /// Panics if there are no figures.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |percent| percentile(&values, percent);
        Quartiles { first: at(25.0), median: at(50.0), third: at(75.0) }
    }
}

/// Returns the value below which so many percent of the others are, of values in ascending order.
/// Between two of them it is interpolated. Panics if there are none.
pub fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let place = percent / 100.0 * (ascending.len() - 1) as f64;
    let (below, above) = (ascending[place.floor() as usize], ascending[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_do_not_depend_on_the_order() {
        let quartiles = Quartiles::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(quartiles, Quartiles { first: 2.0, median: 3.0, third: 4.0 });
    }

    #[test]
    fn quartiles_of_one_figure_are_that_figure() {
        assert_eq!(Quartiles::of(vec![7.0]), Quartiles { first: 7.0, median: 7.0, third: 7.0 });
    }

    #[test]
    fn between_two_figures_a_quartile_is_interpolated() {
        let quartiles = Quartiles::of(vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(quartiles, Quartiles { first: 1.75, median: 2.5, third: 3.25 });
    }

    #[test]
    fn a_percentile_reaches_both_ends() {
        let values: Vec<f64> = (0..=1000).map(f64::from).collect();
        for (percent, expected) in [(0.0, 0.0), (50.0, 500.0), (99.9, 999.0), (100.0, 1000.0)] {
            let found = percentile(&values, percent);
            assert!((found - expected).abs() < 1e-9, "{percent}: {found}");
        }
    }
}
