//! Features of patches as pictures: principal components as colours, and similarity to one patch.

use super::{ExplainError, Explainer, HeatMap, View, host};
use crate::Error;
use crate::layers::observe::Silent;
use crate::models::{Level, Want};

use nalgebra::DMatrix;

/// Colours of the patches of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchColours {
    /// Rows and columns.
    pub grid: [usize; 2],
    /// Red, green and blue of each patch, from 0 to 1, row by row.
    pub values: Vec<[f32; 3]>,
}

impl Explainer {
    /// The first three principal components of the patch features of all views together, as red, green and blue. Equal
    /// colours mean similar features, also across views. The lowest and the highest hundredth of each component are cut off.
    ///
    /// # Errors
    /// [`ExplainError::Missing`] without patches.
    pub fn colours(&self, views: &[View]) -> Result<Vec<PatchColours>, Error> {
        let features: Vec<Patches> = views.iter().map(|view| self.patches(view)).collect::<Result<_, _>>()?;
        let Some(width) = features.first().map(|patches| patches.width) else { return Ok(Vec::new()) };
        let rows: usize = features.iter().map(|patches| patches.values.len() / width).sum();
        let values = features.iter().flat_map(|patches| patches.values.iter().map(|value| f64::from(*value)));
        let components = principal(DMatrix::from_row_iterator(rows, width, values), 3).scores;
        let scaled: Vec<Vec<f32>> = components.iter().map(|component| unit(component)).collect();
        let mut at = 0;
        let colours = features.iter().map(|patches| {
            let count = patches.grid[0] * patches.grid[1];
            let colour = |at: usize| [0, 1, 2].map(|c| scaled.get(c).map_or(0.5, |values| values[at]));
            let values = (at..at + count).map(colour).collect();
            at += count;
            PatchColours { grid: patches.grid, values }
        });
        Ok(colours.collect())
    }

    /// The cosine between the features of the patch at a row and a column and those of every patch.
    ///
    /// # Errors
    /// [`ExplainError::Range`] for a patch outside the grid, [`ExplainError::Missing`] without patches.
    pub fn similarity(&self, view: &View, [row, column]: [usize; 2]) -> Result<HeatMap, Error> {
        let Patches { values, width, grid } = self.patches(view)?;
        if row >= grid[0] || column >= grid[1] {
            let expected = format!("from 0,0 to {},{}", grid[0] - 1, grid[1] - 1);
            return Err(
                ExplainError::Range { what: "patch", found: format!("{row},{column}"), expected }.into()
            );
        }
        let one = row * grid[1] + column;
        HeatMap { grid, values: cosines(&values, width, one) }.finite()
    }

    /// Rows and columns of the patches of the last level.
    ///
    /// # Errors
    /// [`ExplainError::Missing`] without patches.
    pub fn patch_grid(&self, view: &View) -> Result<[usize; 2], Error> {
        Ok(self.patches(view)?.grid)
    }

    fn patches(&self, view: &View) -> Result<Patches, Error> {
        let level = self.backbone()?.features(view.pixels.clone().into(), Want::Last, &mut Silent).last();
        let patches = Patches::of(level);
        let missing = ExplainError::Missing { family: self.model().family(), what: "patch features" };
        if patches.values.is_empty() { Err(missing.into()) } else { Ok(patches) }
    }
}

/// Features of the patches of an image.
struct Patches {
    /// `[N, D]`.
    values: Vec<f32>,
    width: usize,
    grid: [usize; 2],
}

impl Patches {
    fn of(level: Level) -> Self {
        let grid = level.rows_columns();
        let (_, patches) = level.split();
        let [_, _, width] = patches.dims();
        Self { values: host(patches), width, grid }
    }
}

/// The cosine between a row of `[N, D]` and each row.
pub(super) fn cosines(values: &[f32], width: usize, one: usize) -> Vec<f32> {
    let length = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let own = &values[one * width..(one + 1) * width];
    let cosine = |row: &[f32]| {
        let product: f64 = own.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        (product / (length(own) * length(row)).max(f64::MIN_POSITIVE)) as f32
    };
    values.chunks_exact(width).map(cosine).collect()
}

/// Principal components, the one of the largest variance first.
pub(super) struct Principal {
    /// The place of each row along each component.
    pub scores: Vec<Vec<f64>>,
    /// The direction of each component, of length 1.
    pub directions: Vec<Vec<f64>>,
    /// Share of the variance that each component has.
    pub variance: Vec<f64>,
}

/// The first `count` principal components of the rows of a matrix, which become centred; fewer if the rows have no more
/// directions. The largest number of a direction is positive.
pub(super) fn principal(mut rows: DMatrix<f64>, count: usize) -> Principal {
    let means = rows.row_mean();
    rows.row_iter_mut().for_each(|mut row| row -= &means);
    // The smaller of the two products has the same values.
    let wide = rows.ncols() > rows.nrows();
    let gram = if wide { &rows * rows.transpose() } else { rows.transpose() * &rows };
    let eigen = gram.symmetric_eigen();
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let total: f64 = eigen.eigenvalues.iter().map(|value| value.max(0.0)).sum();
    // What is left of rounding has no direction.
    order.retain(|at| eigen.eigenvalues[*at] > 1e-12 * total);
    order.truncate(count);
    let variance = order.iter().map(|at| eigen.eigenvalues[*at] / total).collect();
    let directions = order.into_iter().map(|at| {
        let vector = eigen.eigenvectors.column(at).into_owned();
        let direction = if wide { rows.transpose() * vector } else { vector };
        let length = direction.norm().max(f64::MIN_POSITIVE);
        let largest = direction.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        direction / (length * largest.signum())
    });
    let directions: Vec<_> = directions.collect();
    let scores = directions.iter().map(|direction| (&rows * direction).iter().copied().collect()).collect();
    let directions = directions.iter().map(|direction| direction.iter().copied().collect()).collect();
    Principal { scores, directions, variance }
}

/// Numbers from 0 to 1, with the lowest and the highest hundredth cut off.
fn unit(values: &[f64]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let (low, high) = (at(0.01), at(0.99));
    let span = if high > low { high - low } else { 1.0 };
    values.iter().map(|value| ((value - low) / span).clamp(0.0, 1.0) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_tall_matrices_have_the_same_components() {
        // Points on a line in three dimensions, with a little of a second direction.
        let points = [[1.0, 2.0, 2.0], [2.0, 4.0, 4.1], [-1.0, -2.0, -2.0], [3.0, 6.0, 5.9], [0.0, 0.0, 0.2]];
        let tall = principal(DMatrix::from_row_iterator(5, 3, points.into_iter().flatten()), 2);
        let wide = principal(DMatrix::from_row_iterator(2, 3, points[..2].iter().flatten().copied()), 1);
        let line = [1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0];
        for (found, expected) in tall.directions[0].iter().zip(line) {
            assert!((found - expected).abs() < 0.02, "{:?}", tall.directions[0]);
        }
        for (found, expected) in wide.directions[0].iter().zip([1.0, 2.0, 2.1]) {
            assert!(
                (found - expected / (1.0f64 + 4.0 + 4.41).sqrt()).abs() < 1e-9,
                "{:?}",
                wide.directions[0]
            );
        }
        assert_eq!(tall.scores[0].len(), 5);
    }
}
