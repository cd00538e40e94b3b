//! Relevance that flows from the answer back to the patches, layer by layer, through attention.
//!
//! ```text
//! rollout     r ← r (A + I) / 2                    Abnar & Zuidema 2020, arXiv:2005.00928
//! relevance   r ← r + r mean((∂y/∂A ⊙ A)⁺)         Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6
//! ```
//!
//! `r` is the row of the papers' matrix that belongs to the answer: a number for each token. A row needs no matrix of all
//! pairs, so windows and pyramids cost what their attention costs. Where the grid changes between layers, a coarse
//! position passes its number to the fine ones below it, by area.

use burn::tensor::{DType, Tensor};

use super::attention::Query;
use crate::layers::observe::AttentionSites;

/// How the maps of a layer's heads become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fusion {
    /// Their mean.
    #[default]
    Mean,
    /// The largest weight of each pair.
    Max,
    /// The smallest weight of each pair.
    Min,
}

/// A number for each token: the tokens in front, then a grid.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tokens {
    /// Of class, register and other tokens.
    pub prefix: Vec<f64>,
    /// Rows and columns.
    pub grid: [usize; 2],
    /// Row by row.
    pub cells: Vec<f64>,
}

impl Tokens {
    /// The same numbers in front of another grid. Tokens in front that the other place does not have lose theirs.
    pub(super) fn at(self, prefix: usize, grid: [usize; 2]) -> Self {
        let mut front = self.prefix;
        front.resize(prefix, 0.0);
        let cells = if grid == self.grid { self.cells } else { spread(&self.cells, self.grid, grid) };
        Self { prefix: front, grid, cells }
    }

    /// The same shares of 1. If there are none, each cell has an equal one.
    fn with_sum_1(mut self) -> Self {
        let sum: f64 = self.iter().sum();
        let equal = 1.0 / self.cells.len().max(1) as f64;
        self.prefix.iter_mut().for_each(|value| *value = if sum > 0.0 { *value / sum } else { 0.0 });
        self.cells.iter_mut().for_each(|value| *value = if sum > 0.0 { *value / sum } else { equal });
        self
    }

    fn iter(&self) -> impl Iterator<Item = f64> {
        self.prefix.iter().chain(&self.cells).copied()
    }

    fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64 + Copy) -> Self {
        let both = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect();
        Self {
            prefix: both(&self.prefix, &other.prefix),
            grid: self.grid,
            cells: both(&self.cells, &other.cells),
        }
    }
}

/// Numbers on a grid for another grid over the same image, divided by area. Their sum stays.
fn spread(cells: &[f64], [h, w]: [usize; 2], [rows, columns]: [usize; 2]) -> Vec<f64> {
    let (down, across) = (shares(h, rows), shares(w, columns));
    let mut out = vec![0.0; rows * columns];
    for (y, to, share_y) in &down {
        for (x, left, share_x) in &across {
            out[to * columns + left] += cells[y * w + x] * share_y * share_x;
        }
    }
    out
}

/// Each of `from` equal parts of a line, each of `to` equal parts that it meets, and the share of the first in the second.
fn shares(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    let mut found = Vec::new();
    for part in 0..from {
        for other in part * to / from..((part + 1) * to).div_ceil(from).min(to) {
            // In units of 1 / (from · to) of the line.
            let (start, end) = ((part * to).max(other * from), ((part + 1) * to).min((other + 1) * from));
            found.push((part, other, (end - start) as f64 / to as f64));
        }
    }
    found
}

/// Attention of one layer, one map for all heads: from each query to each key.
#[derive(Clone, Debug)]
pub(super) struct Step {
    sites: AttentionSites,
    /// `[windows, Q, K]`; one window unless the layer has more.
    weights: Vec<f64>,
    queries: usize,
    keys: usize,
}

impl Step {
    /// One layer from weights `[windows, A, Q, K]` of one image.
    pub(super) fn fused(weights: Tensor<4>, sites: AttentionSites, fusion: Fusion) -> Self {
        let [_, _, queries, keys] = weights.dims();
        let weights = weights.cast(DType::F64);
        let weights = match fusion {
            Fusion::Mean => weights.mean_dim(1),
            Fusion::Max => weights.max_dim(1),
            Fusion::Min => weights.min_dim(1),
        };
        Self { sites, weights: weights.into_data().iter::<f64>().collect(), queries, keys }
    }

    /// One head of one layer. `weights` are those of all heads, `[windows, A, Q, K]`.
    pub(super) fn of_head(
        weights: &[f64],
        [heads, queries, keys]: [usize; 3],
        head: usize,
        sites: AttentionSites,
    ) -> Self {
        let size = queries * keys;
        let windows = weights.chunks_exact((heads * size).max(1));
        let own = windows.flat_map(|window| window[head * size..(head + 1) * size].iter().copied());
        Self { sites, weights: own.collect(), queries, keys }
    }

    /// What the keys on the grid get from a query. `reads` are the tokens that the head reads, `finest` the first layer's
    /// grid.
    pub(super) fn shown(&self, query: Query, reads: &Tokens, finest: [usize; 2]) -> Vec<f64> {
        let Some((prefix, grid)) = self.place() else {
            let mut pooled = self.pooled();
            return pooled.split_off(pooled.len().saturating_sub(reads.cells.len()));
        };
        let from = match query {
            Query::Patch([row, column]) => {
                let is_it = |at: usize| f64::from(u8::from(at == row * finest[1] + column));
                let cells = (0..finest[0] * finest[1]).map(is_it).collect();
                Tokens { prefix: Vec::new(), grid: finest, cells }
            }
            Query::Answer | Query::Mean => reads.clone(),
        };
        let from = from.at(prefix, grid).with_sum_1();
        match &self.sites {
            AttentionSites::Reduced { .. } => self.product(&from.cells, 0),
            _ => self.spread(&from).cells,
        }
    }

    /// For each head of a layer, the mean distance between query and key in pixels of an image, weighted by attention
    /// between patches.
    pub(super) fn distance(&self, [height, width]: [usize; 2]) -> f64 {
        let centre = |[rows, columns]: [usize; 2], at: usize| {
            let middle =
                |index: usize, count: usize, side: usize| (index as f64 + 0.5) * side as f64 / count as f64;
            [middle(at / columns, rows, height), middle(at % columns, columns, width)]
        };
        let all =
            |grid: [usize; 2]| (0..grid[0] * grid[1]).map(|at| Some(centre(grid, at))).collect::<Vec<_>>();
        let front =
            |prefix: usize, grid| std::iter::repeat_n(None, prefix).chain(all(grid)).collect::<Vec<_>>();
        let (queries, keys) = match &self.sites {
            AttentionSites::Tokens { prefix, grid } => (front(*prefix, *grid), front(*prefix, *grid)),
            AttentionSites::Reduced { grid, keys } => (all(*grid), all(*keys)),
            AttentionSites::Windows(windows) => {
                let places: Vec<_> =
                    windows.places().into_iter().map(|place| Some(centre(windows.grid, place?))).collect();
                (places.clone(), places)
            }
            AttentionSites::Pool => return f64::NAN,
        };
        let (mut sum, mut total) = (0.0, 0.0);
        for (window, matrix) in self.weights.chunks_exact((self.queries * self.keys).max(1)).enumerate() {
            let queries = &queries[window * self.queries..];
            let keys = &keys[window * self.keys..];
            for (query, row) in queries.iter().zip(matrix.chunks_exact(self.keys)) {
                for (key, weight) in keys.iter().zip(row) {
                    if let (Some([y, x]), Some([v, u])) = (query, key) {
                        sum += weight * (y - v).hypot(x - u);
                        total += weight;
                    }
                }
            }
        }
        sum / total
    }

    /// Zeroes the smallest weights: this share of them, but never the first.
    pub(super) fn discard(&mut self, share: f64) {
        let count = (self.weights.len() as f64 * share) as usize;
        let mut order: Vec<usize> = (0..self.weights.len()).collect();
        order.sort_by(|a, b| self.weights[*a].total_cmp(&self.weights[*b]).then(a.cmp(b)));
        order[..count].iter().filter(|at| **at != 0).for_each(|at| self.weights[*at] = 0.0);
    }

    /// Weights and identity, their rows with the sum 1.
    pub(super) fn rolled(mut self) -> Self {
        if self.place().is_none() {
            return self; // The queries that pool are no tokens: nothing passes on by itself.
        }
        for row in self.weights.chunks_exact_mut(self.keys.max(1)) {
            // The identity adds 1 to the sum; the caller adds it.
            let sum = row.iter().sum::<f64>() + 1.0;
            row.iter_mut().for_each(|weight| *weight /= sum);
        }
        self
    }

    /// Number of tokens in front, and grid, of what enters the layer; `None` for pooling by attention.
    pub(super) fn place(&self) -> Option<(usize, [usize; 2])> {
        match &self.sites {
            AttentionSites::Tokens { prefix, grid } => Some((*prefix, *grid)),
            AttentionSites::Windows(windows) => Some((0, windows.grid)),
            AttentionSites::Reduced { grid, .. } => Some((0, *grid)),
            AttentionSites::Pool => None,
        }
    }

    /// `r A`: what the keys get from the numbers of the queries.
    fn spread(&self, from: &Tokens) -> Tokens {
        match &self.sites {
            AttentionSites::Tokens { prefix, grid } => {
                let mut all = self.product(&from.iter().collect::<Vec<f64>>(), 0);
                let cells = all.split_off(*prefix);
                Tokens { prefix: all, grid: *grid, cells }
            }
            AttentionSites::Reduced { grid, keys } => {
                let coarse = self.product(&from.cells, 0);
                Tokens { prefix: Vec::new(), grid: *grid, cells: spread(&coarse, *keys, *grid) }
            }
            AttentionSites::Windows(windows) => {
                let (places, area) = (windows.places(), windows.area());
                let mut cells = vec![0.0; from.cells.len()];
                for (window, places) in places.chunks_exact(area).enumerate() {
                    let queries: Vec<f64> =
                        places.iter().map(|place| place.map_or(0.0, |place| from.cells[place])).collect();
                    let given = self.product(&queries, window);
                    for (place, value) in places.iter().zip(given) {
                        if let Some(place) = place {
                            cells[*place] += value;
                        }
                    }
                }
                Tokens { prefix: Vec::new(), grid: windows.grid, cells }
            }
            AttentionSites::Pool => from.clone(),
        }
    }

    /// A row of numbers times the matrix of a window.
    fn product(&self, row: &[f64], window: usize) -> Vec<f64> {
        let matrix = &self.weights[window * self.queries * self.keys..];
        let mut out = vec![0.0; self.keys];
        for (value, weights) in row.iter().zip(matrix.chunks_exact(self.keys.max(1))) {
            if *value != 0.0 {
                out.iter_mut().zip(weights).for_each(|(out, weight)| *out += value * weight);
            }
        }
        out
    }

    /// The numbers of the keys of pooling by attention, the mean over its queries.
    fn pooled(&self) -> Vec<f64> {
        self.product(&vec![1.0 / self.queries.max(1) as f64; self.queries], 0)
    }
}

/// What a layer does to the numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Half from attention, half from the token itself. Needs [`Step::rolled`].
    Rollout,
    /// What attention gives is added.
    Relevance,
}

/// The numbers at the first layer, if `last` are those at the end of the network. `None` without a layer.
pub(super) fn flow(steps: &[Step], last: Tokens, rule: Rule) -> Option<Tokens> {
    let mut r = last;
    let mut has_layer = false;
    for step in steps.iter().rev() {
        let Some((prefix, grid)) = step.place() else {
            r = from_pool(step, r);
            continue;
        };
        has_layer = true;
        let at = r.at(prefix, grid);
        let given = step.spread(&at);
        r = match rule {
            // The rows of the step have the sum 1 - identity.
            Rule::Rollout => rolled(step, &at, given),
            Rule::Relevance => at.zip(&given, |own, given| own + given),
        };
    }
    has_layer.then_some(r)
}

/// `r (A + I)` with rows of the sum 1.
fn rolled(step: &Step, at: &Tokens, given: Tokens) -> Tokens {
    let own = step.own(at);
    own.zip(&given, |own, given| own + given)
}

impl Step {
    /// The share of the identity in each row, times the numbers: what attention leaves of them.
    fn own(&self, at: &Tokens) -> Tokens {
        match &self.sites {
            AttentionSites::Windows(windows) => {
                let sums = self.sums();
                let mut cells = vec![0.0; at.cells.len()];
                for (place, sum) in windows.places().into_iter().zip(sums) {
                    if let Some(place) = place {
                        cells[place] = at.cells[place] * (1.0 - sum);
                    }
                }
                Tokens { prefix: Vec::new(), grid: at.grid, cells }
            }
            _ => {
                let mut sums = self.sums().into_iter();
                let mut left = |values: &[f64]| -> Vec<f64> {
                    values.iter().map(|value| value * (1.0 - sums.next().unwrap_or(0.0))).collect()
                };
                let prefix = left(&at.prefix);
                Tokens { prefix, grid: at.grid, cells: left(&at.cells) }
            }
        }
    }

    /// The sums of the rows.
    fn sums(&self) -> Vec<f64> {
        self.weights.chunks_exact(self.keys.max(1)).map(|row| row.iter().sum()).collect()
    }
}

/// The numbers of the tokens that pooling by attention reads. It may leave out the tokens in front.
fn from_pool(step: &Step, last: Tokens) -> Tokens {
    let mut pooled = step.pooled();
    let front = pooled.len().saturating_sub(last.cells.len());
    if pooled.len() < last.cells.len() || front != 0 && front != last.prefix.len() {
        return last;
    }
    let cells = pooled.split_off(front);
    pooled.resize(last.prefix.len(), 0.0);
    Tokens { prefix: pooled, grid: last.grid, cells }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn finer_grids_divide_by_area() {
        // Two cells over three: each gives two thirds to its own and a third to the middle one.
        assert_eq!(
            shares(2, 3),
            [(0, 0, 2.0 / 3.0), (0, 1, 1.0 / 3.0), (1, 1, 1.0 / 3.0), (1, 2, 2.0 / 3.0)]
        );
        let fine = spread(&[1.0, 2.0, 3.0, 4.0], [2, 2], [4, 4]);
        assert_eq!(fine[..4], [0.25, 0.25, 0.5, 0.5]);
        assert_eq!(fine.iter().sum::<f64>(), 10.0);
        let coarse = spread(&fine, [4, 4], [2, 2]);
        assert_eq!(coarse, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn discarding_keeps_the_first_weight() {
        let weights = Tensor::<4>::from_data([[[[0.1, 0.2], [0.3, 0.4]]]], &Device::flex());
        let sites = AttentionSites::Tokens { prefix: 1, grid: [1, 1] };
        let mut step = Step::fused(weights, sites, Fusion::Mean);
        step.discard(0.5);
        let rounded: Vec<f32> = step.weights.iter().map(|weight| *weight as f32).collect();
        assert_eq!(rounded, [0.1, 0.0, 0.3, 0.4]);
    }
}
