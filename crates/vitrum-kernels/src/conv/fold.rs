//! Convolutions for answers: with a folded norm, a residual and an activation in one operation, and with packed kernels.

use std::sync::{Arc, OnceLock};

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use super::dense::{self, Kernel};
use super::winograd::{self, Transformed};
use super::{ConvForm, Sizes, convolve, depthwise};
use crate::activation::Activation;
use crate::gemm::{Epilogue, Packed, View};
use crate::simd::Real;

/// What follows a convolution: `activation(scale · y + shift + residual)`.
#[derive(Clone, Copy)]
pub(crate) struct Fold<'a, T> {
    /// `[N]`
    pub scale: Option<&'a [T]>,
    /// `[N]`
    pub shift: Option<&'a [T]>,
    /// Like the result.
    pub residual: Option<&'a [T]>,
    pub activation: Activation,
}

impl<T> Default for Fold<'_, T> {
    fn default() -> Self {
        Self { scale: None, shift: None, residual: None, activation: Activation::Identity }
    }
}

/// A [`Fold`] with numbers in place of an absent scale or shift.
pub(super) struct Folded<'a, T> {
    fold: Fold<'a, T>,
    /// What stands in for an absent scale or shift.
    ones: Vec<T>,
    zeros: Vec<T>,
}

impl<'a, T: Real> Folded<'a, T> {
    pub(super) fn new(fold: &Fold<'a, T>, n: usize) -> Self {
        let is_plain = fold.scale.is_none() && fold.residual.is_none();
        let fill = |is_absent: bool, value| vec![value; if is_absent && !is_plain { n } else { 0 }];
        let (ones, zeros) = (fill(fold.scale.is_none(), T::ONE), fill(fold.shift.is_none(), T::ZERO));
        Self { fold: *fold, ones, zeros }
    }

    /// The epilogue of the product for the result's channels from `first` on, `count` of them.
    pub(super) fn epilogue(&self, first: usize, count: usize) -> Epilogue<'_, T> {
        let Fold { scale, shift, residual, activation } = self.fold;
        if scale.is_none() && residual.is_none() {
            let bias = shift.map(|shift| &shift[first..first + count]);
            return Epilogue::Activate { bias, activation, keep: None };
        }
        Epilogue::Fold {
            scale: &scale.unwrap_or(&self.ones)[first..first + count],
            shift: &shift.unwrap_or(&self.zeros)[first..first + count],
            residual: residual.map(|residual| &residual[first.min(residual.len())..]),
            activation,
        }
    }
}

/// The kernel `[kh, kw, C / groups, N]` of a convolution, in the order in which products on this processor read it.
/// Clones share the numbers. A depthwise kernel stays as it is.
#[derive(Clone)]
pub struct PackedConv(Arc<Layer>);

struct Layer {
    shape: [usize; 4],
    groups: usize,
    weight: Weight,
    /// The kernel transformed for Winograd's algorithm; made when it is first needed.
    transformed: OnceLock<Transformed<f32>>,
}

enum Weight {
    /// One matrix per group.
    Groups(Vec<Packed<f32>>),
    Plain(Vec<f32>),
}

impl std::fmt::Debug for PackedConv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedConv({:?}, {} groups)", self.0.shape, self.0.groups)
    }
}

impl PackedConv {
    /// Packs a kernel.
    ///
    /// # Panics
    /// If the numbers do not fill the shape, or the channels cannot be divided by `groups`.
    pub fn pack(weight: Vec<f32>, shape: [usize; 4], groups: usize) -> Self {
        let [kh, kw, c, n] = shape;
        let numbers = shape.iter().try_fold(1, |all: usize, &n| all.checked_mul(n));
        assert_eq!(Some(weight.len()), numbers, "PackedConv: a kernel of {shape:?}");
        assert!(groups > 0 && n.is_multiple_of(groups), "PackedConv: {n} channels in {groups} groups");
        let (rows, columns) = (kh * kw * c, n / groups);
        let pack = |group: usize| {
            let from = (group * columns).min(weight.len());
            Packed::new(View::new(&weight[from..], [rows, columns], [n, 1]), rows, columns)
        };
        let weight = match groups > 1 && c == 1 && n == groups {
            true => Weight::Plain(weight),
            false => Weight::Groups((0..groups).map(pack).collect()),
        };
        Self(Arc::new(Layer { shape, groups, weight, transformed: OnceLock::new() }))
    }

    /// `[kh, kw, C / groups, N]`.
    pub fn shape(&self) -> [usize; 4] {
        self.0.shape
    }

    /// Groups of channels.
    pub fn groups(&self) -> usize {
        self.0.groups
    }

    /// The kernel.
    pub fn unpack(&self) -> Vec<f32> {
        let groups = match &self.0.weight {
            Weight::Plain(weight) => return weight.clone(),
            Weight::Groups(groups) => groups,
        };
        let [kh, kw, c, n] = self.0.shape;
        let columns = n / self.0.groups;
        let mut weight = vec![0.0; kh * kw * c * n];
        for (group, packed) in groups.iter().enumerate() {
            for (row, values) in packed.unpack().chunks_exact(columns.max(1)).enumerate() {
                let at = row * n + group * columns;
                weight[at..at + columns].copy_from_slice(values);
            }
        }
        weight
    }

    /// The convolution with what follows it.
    pub(crate) fn run(&self, x: &FlexTensor, form: ConvForm, fold: &Fold<f32>) -> FlexTensor {
        let sizes = Sizes::new(&x.shape(), &Shape::new(self.0.shape), form);
        let x = f32::slice(x);
        let y = match &self.0.weight {
            Weight::Plain(weight) => depthwise::forward(x, weight, fold, sizes),
            Weight::Groups(_) if winograd::pays::<f32>(&sizes) => {
                // Made before the cell is locked: a thread that waits in rayon may begin another pass over this layer.
                let transformed = match self.0.transformed.get() {
                    Some(transformed) => transformed,
                    None => {
                        let transformed = Transformed::new(&self.unpack(), sizes);
                        self.0.transformed.get_or_init(|| transformed)
                    }
                };
                winograd::forward(x, transformed, fold, sizes)
            }
            Weight::Groups(groups) => dense::forward(x, Kernel::Packed(groups), fold, sizes),
        };
        f32::tensor(y, sizes.out_shape())
    }
}

/// The convolution with what follows it. Tensors must be contiguous.
pub(crate) fn folded<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    form: ConvForm,
    fold: &Fold<T>,
) -> FlexTensor {
    let sizes = Sizes::new(&x.shape(), &weight.shape(), form);
    T::tensor(convolve(T::slice(x), T::slice(weight), fold, sizes), sizes.out_shape())
}
