//! Figures of a model: filters of the first layer, similarity of positions, attention distances (arXiv:2010.11929, figures 7
//! and 11).

use nalgebra::DMatrix;
use serde::Serialize;

use super::features::{cosines, principal};
use super::flow::Step;
use super::{ExplainError, Explainer, HeatMap, View, host};
use crate::Error;
use crate::checkpoint::apply::collect;
use crate::layers::names::shapes;
use crate::models::{Config, Level};
use burn::tensor::DType;

/// Principal components of the filters of the first layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Filters {
    /// The weight's name.
    pub name: String,
    /// Channels, rows and columns of a filter.
    pub shape: [usize; 3],
    /// Each component, `[C, h, w]`, of length 1; the one of the largest variance first.
    pub components: Vec<Vec<f32>>,
    /// Share of the filters' variance that each component has.
    pub variance: Vec<f32>,
}

/// Mean distance between query and key in pixels, by layer and head.
#[derive(Clone, Debug, Serialize)]
pub struct Distances {
    /// Name of each layer, and the mean distance of each of its heads.
    pub layers: Vec<(String, Vec<f64>)>,
    /// Rows and columns of the image, in pixels.
    pub size: [usize; 2],
}

impl Explainer {
    /// The first `count` principal components of the filters of the first layer (figure 7, left).
    ///
    /// # Errors
    /// [`ExplainError::Missing`] if no layer reads pixels with a kernel.
    pub fn filters(&self, count: usize) -> Result<Filters, Error> {
        let channels = self.model().config().input().image().channels;
        let missing = || ExplainError::Missing { family: self.model().family(), what: "kernel over pixels" };
        let tensors = collect(self.model());
        // In the order of the network, so that it is the first layer's.
        let keys = shapes(self.model()).into_iter().map(|(key, _)| key.name);
        let mut found = keys.filter_map(|key| {
            let tensor = tensors.get(&key)?;
            match tensor.shape() {
                [_, c, h, w] if *c == channels => Some((key, tensor, [*c, *h, *w])),
                _ => None,
            }
        });
        let (name, tensor, shape) = found.next().ok_or_else(missing)?;
        let size = shape.iter().product();
        let rows = tensor.num_elements() / size;
        let matrix = DMatrix::from_row_iterator(rows, size, tensor.to_f64());
        let found = principal(matrix, count);
        let narrow = |values: &Vec<f64>| values.iter().map(|value| *value as f32).collect();
        Ok(Filters {
            name,
            shape,
            components: found.directions.iter().map(narrow).collect(),
            variance: narrow(&found.variance),
        })
    }

    /// The cosine between the position embedding of each patch and those of all patches (figure 7, centre): a map for each
    /// patch, row by row, and the grid of patches.
    ///
    /// # Errors
    /// [`ExplainError::Missing`] if the model has no table of positions.
    pub fn positions(&self) -> Result<([usize; 2], Vec<HeatMap>), Error> {
        let missing = || ExplainError::Missing { family: self.model().family(), what: "table of positions" };
        let level: Level = self.backbone()?.positions().ok_or_else(missing)?;
        let grid = level.rows_columns();
        let (_, patches) = level.split();
        let [_, count, width] = patches.dims();
        let values = host(patches);
        let map = |at: usize| HeatMap { grid, values: cosines(&values, width, at) };
        Ok((grid, (0..count).map(map).collect()))
    }

    /// The mean distance between query and key in pixels, by layer and head, over the views (figure 11). Only attention
    /// between patches counts, and every head's weights there are taken as shares of 1.
    ///
    /// # Errors
    /// [`ExplainError::NoAttention`].
    pub fn distances(&self, views: &[View]) -> Result<Distances, Error> {
        let size = self.model().config().input().image().size;
        let mut sums: Vec<(String, Vec<f64>)> = Vec::new();
        for view in views {
            let [_, _, h, w] = view.pixels.dims();
            let mut at = 0;
            self.each_layer(view, |seen| {
                if seen.sites.queries().is_none() {
                    return;
                }
                let [_, heads, queries, keys] = seen.weights.dims();
                let weights: Vec<f64> = seen.weights.cast(DType::F64).into_data().iter::<f64>().collect();
                let of = |head| Step::of_head(&weights, [heads, queries, keys], head, seen.sites.clone());
                let found: Vec<f64> = (0..heads).map(|head| of(head).distance([h, w])).collect();
                match sums.get_mut(at) {
                    Some((_, sums)) => sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found),
                    None => sums.push((seen.name, found)),
                }
                at += 1;
            })?;
        }
        let count = views.len().max(1) as f64;
        sums.iter_mut().for_each(|(_, heads)| heads.iter_mut().for_each(|sum| *sum /= count));
        Ok(Distances { layers: sums, size })
    }
}
