//! Normalisation of maps with channels last: over a batch, and over groups of channels of each map.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::columns::{Affine, Backward, Slopes, apply, gradient, moments, reduce};
use crate::simd::Real;
use crate::threads::{Shared, written};

/// The form of a norm of maps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapNorm {
    /// Groups of channels, each with its own mean and variance in each map; `None`: each channel over the whole batch.
    pub groups: Option<usize>,
    /// Added to the variance.
    pub eps: f64,
    /// Whether negative results become 0.
    pub relu: bool,
}

impl MapNorm {
    /// The shape of the statistics of this many maps with `c` channels.
    pub(crate) fn stats_shape(&self, maps: usize, c: usize) -> Shape {
        match self.groups {
            None => Shape::new([c]),
            Some(groups) => Shape::new([maps, groups]),
        }
    }
}

/// Result, means and variances.
pub(crate) type Normed<F> = (F, F, F);

/// Gradients of x, weight, bias and residual.
pub(crate) type MapNormGradients<F> = (F, F, F, Option<F>);

/// Sizes of maps `[.., C]`.
struct Sizes {
    /// Maps that have statistics of their own; 1 for a norm over the batch.
    maps: usize,
    /// Numbers per map.
    numbers: usize,
    c: usize,
    /// Sets of statistics per map.
    sets: usize,
}

impl Sizes {
    fn new(shape: &Shape, norm: &MapNorm) -> Self {
        let rank = shape.num_dims();
        let (c, all) = (shape[rank - 1], shape.num_elements());
        match norm.groups {
            None => Self { maps: 1, numbers: all, c, sets: c },
            Some(groups) => {
                let maps = shape[0];
                Self { maps, numbers: all.checked_div(maps).unwrap_or(0), c, sets: groups }
            }
        }
    }

    /// Channels per set of statistics.
    fn group(&self) -> usize {
        self.c / self.sets.max(1)
    }

    /// Numbers behind each mean.
    fn count(&self) -> f64 {
        (self.numbers / self.sets.max(1)) as f64
    }

    /// The moments of each set from those of each channel.
    fn sets(&self, (mean, squares): (Vec<f64>, Vec<f64>)) -> (Vec<f64>, Vec<f64>) {
        let group = self.group();
        if group <= 1 {
            return (mean, squares);
        }
        let rows = self.count() / group as f64;
        let means: Vec<f64> =
            mean.chunks_exact(group).map(|m| m.iter().sum::<f64>() / group as f64).collect();
        let squares = (0..self.sets).map(|set| {
            let channels = set * group..(set + 1) * group;
            channels.map(|j| squares[j] + rows * (mean[j] - means[set]).powi(2)).sum()
        });
        let squares = squares.collect();
        (means, squares)
    }

    /// A number per channel from one per set.
    fn per_channel<T: Real>(&self, of: impl Fn(usize, usize) -> f64) -> Vec<T> {
        let group = self.group().max(1);
        (0..self.c).map(|j| T::from_f64(of(j, j / group))).collect()
    }
}

/// `relu((x - mean) / sqrt(var + eps) · weight + bias + residual)` with the statistics of the maps `[.., C]`. Returns
/// it with the mean and the biased variance of each set of statistics, `[sets]` or `[B, groups]`. Tensors must be
/// contiguous.
pub(crate) fn forward<T: Real>(
    x: &FlexTensor,
    weight: Option<&FlexTensor>,
    bias: Option<&FlexTensor>,
    residual: Option<&FlexTensor>,
    norm: MapNorm,
) -> Normed<FlexTensor> {
    let shape = x.shape();
    let sizes = Sizes::new(&shape, &norm);
    let [weight, bias] = [weight, bias].map(|vector| vector.map(T::slice));
    let (x, residual) = (T::slice(x), residual.map(T::slice));
    let (mut means, mut vars) = (Vec::<T>::new(), Vec::<T>::new());
    let write = |y: Shared<T>| {
        for map in 0..sizes.maps {
            let range = map * sizes.numbers..(map + 1) * sizes.numbers;
            let (mean, squares) = sizes.sets(moments(&x[range.clone()], sizes.c));
            let count = sizes.count().max(1.0);
            let rstd = |set: usize| (squares[set] / count + norm.eps).sqrt().recip();
            let number =
                |vector: Option<&[T]>, j: usize, otherwise| vector.map_or(otherwise, |v| v[j].to_f64());
            let scale = |j: usize, set: usize| rstd(set) * number(weight, j, 1.0);
            // What the rounded mean misses goes into the shift.
            let missed = |set: usize| mean[set] - T::from_f64(mean[set]).to_f64();
            let affine = Affine {
                mean: sizes.per_channel(|_, set| mean[set]),
                scale: sizes.per_channel(scale),
                shift: sizes.per_channel(|j, set| number(bias, j, 0.0) - missed(set) * scale(j, set)),
            };
            let residual = residual.map(|residual| &residual[range.clone()]);
            // SAFETY: each map has its own part.
            unsafe { apply(&x[range.clone()], &affine, residual, norm.relu, y.offset(range.start)) };
            means.extend(mean.iter().map(|&mean| T::from_f64(mean)));
            vars.extend(squares.iter().map(|&squares| T::from_f64(squares / count)));
        }
    };
    // SAFETY: the maps fill the result.
    let y = unsafe { written(x.len(), write) };
    let sets = norm.stats_shape(sizes.maps, sizes.c);
    (T::tensor(y, shape), T::tensor(means, sets.clone()), T::tensor(vars, sets))
}

/// What the backward pass of a norm needs.
pub(crate) struct Saved<'a> {
    pub x: &'a FlexTensor,
    pub weight: Option<&'a FlexTensor>,
    /// The result, if it was rectified.
    pub y: Option<&'a FlexTensor>,
    pub mean: &'a FlexTensor,
    pub var: &'a FlexTensor,
    pub grad: &'a FlexTensor,
}

/// Gradients of x, weight, bias and, if wanted, of the residual. Tensors must be contiguous.
pub(crate) fn backward<T: Real>(
    saved: &Saved,
    norm: MapNorm,
    residual: bool,
) -> MapNormGradients<FlexTensor> {
    let shape = saved.x.shape();
    let sizes = Sizes::new(&shape, &norm);
    let (x, grad, weight) = (T::slice(saved.x), T::slice(saved.grad), saved.weight.map(T::slice));
    let y = saved.y.map(T::slice);
    let [means, vars] = [saved.mean, saved.var].map(T::slice);
    let (mut d_weight, mut d_bias) = (vec![0.0; sizes.c], vec![0.0; sizes.c]);
    let mut d_residual = Vec::<T>::with_capacity(if residual { x.len() } else { 0 });
    let masked_to = residual.then(|| Shared::of_capacity(&mut d_residual));
    let write = |d_x: Shared<T>| {
        for map in 0..sizes.maps {
            let range = map * sizes.numbers..(map + 1) * sizes.numbers;
            let sets = map * sizes.sets..(map + 1) * sizes.sets;
            let (means, vars) = (&means[sets.clone()], &vars[sets]);
            let mean: Vec<T> = sizes.per_channel(|_, set| means[set].to_f64());
            let rstd: Vec<f64> = vars.iter().map(|var| (var.to_f64() + norm.eps).sqrt().recip()).collect();
            let masked = masked_to.map(|masked| masked.offset(range.start));
            let rectified = y.map(|y| &y[range.clone()]);
            let pass = Backward { x: &x[range.clone()], grad: &grad[range.clone()], rectified, mean: &mean };
            // SAFETY: there is space for as many numbers as x.
            let (sum, dot) = unsafe { reduce(pass, masked) };
            let gain = |j: usize| weight.map_or(1.0, |weight| weight[j].to_f64());
            let group = sizes.group().max(1);
            let (mut means_of_g, mut means_of_dot) = (vec![0.0; sizes.sets], vec![0.0; sizes.sets]);
            for j in 0..sizes.c {
                let set = j / group;
                d_bias[j] += sum[j];
                d_weight[j] += dot[j] * rstd[set];
                means_of_g[set] += gain(j) * sum[j] / sizes.count();
                means_of_dot[set] += gain(j) * dot[j] * rstd[set] / sizes.count();
            }
            let slopes = Slopes {
                of_grad: sizes.per_channel(|j, set| gain(j) * rstd[set]),
                of_x: sizes.per_channel(|_, set| rstd[set] * rstd[set] * means_of_dot[set]),
                constant: sizes.per_channel(|_, set| rstd[set] * means_of_g[set]),
            };
            let pass = match &masked {
                Some(masked) => {
                    // SAFETY: `reduce` has written it, and nothing else uses it now.
                    let grad: &[T] = unsafe { masked.part(0, sizes.numbers) };
                    Backward { grad, rectified: None, ..pass }
                }
                None => pass,
            };
            // SAFETY: each map has its own part.
            unsafe { gradient(pass, &slopes, d_x.offset(range.start)) };
        }
    };
    // SAFETY: the maps fill the gradient.
    let d_x = unsafe { written(x.len(), write) };
    if residual {
        // SAFETY: `reduce` has written all of it.
        unsafe { d_residual.set_len(x.len()) };
    }
    let vector =
        |sums: Vec<f64>| T::tensor(sums.into_iter().map(T::from_f64).collect(), Shape::new([sizes.c]));
    let d_residual = residual.then(|| T::tensor(d_residual, shape.clone()));
    (T::tensor(d_x, shape), vector(d_weight), vector(d_bias), d_residual)
}
