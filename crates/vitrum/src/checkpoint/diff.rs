//! Two checkpoints side by side.

use std::path::Path;

use serde::Serialize;

use super::dialect::{Dialect, to_timm};
use super::{Dtype, HostTensor, LoadError, TensorMap};
use crate::data::dataset::natural_order;

/// How two checkpoints differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diff {
    /// Names only in the first.
    pub only_a: Vec<String>,
    /// Names only in the second.
    pub only_b: Vec<String>,
    /// Names in both with different shapes: name, first shape, second shape.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Names in both with the same shape.
    pub values: Vec<ValueDiff>,
    /// Whether both were converted to timm's names first.
    pub converted: bool,
}

/// The difference between the values of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueDiff {
    /// The tensor.
    pub name: String,
    /// Its type in the first.
    pub dtype_a: Dtype,
    /// Its type in the second.
    pub dtype_b: Dtype,
    /// Largest `|a - b|`; infinite if only one of the two is finite or a number.
    pub max_abs: f64,
    /// `max_abs` over the largest finite `|a|`; 0 if all values of both are zero.
    pub max_rel: f64,
}

impl Diff {
    /// Whether names, shapes and all values agree within `tolerance`, relative to each tensor's largest value.
    pub fn agrees(&self, tolerance: f64) -> bool {
        let same_names = self.only_a.is_empty() && self.only_b.is_empty() && self.shapes.is_empty();
        same_names && self.values.iter().all(|v| v.max_abs == 0.0 || v.max_rel <= tolerance)
    }

    /// Tensors with any difference in value.
    pub fn changed(&self) -> impl Iterator<Item = &ValueDiff> {
        self.values.iter().filter(|v| v.max_abs > 0.0)
    }
}

/// Compares two files or folders; under timm's names if their dialects differ.
///
/// # Errors
/// Files that cannot be read or, with different dialects, converted.
pub fn diff(a: &Path, b: &Path) -> Result<Diff, LoadError> {
    let (a, b) = (super::read(a)?, super::read(b)?);
    let same = matches!((Dialect::detect(&a), Dialect::detect(&b)), (Ok(a), Ok(b)) if a != b);
    if !same {
        return Ok(compare(&a, &b));
    }
    Ok(Diff { converted: true, ..compare(&to_timm(a)?.map, &to_timm(b)?.map) })
}

/// Compares two sets of tensors name by name.
pub fn compare(a: &TensorMap, b: &TensorMap) -> Diff {
    let mut diff = Diff::default();
    for (name, left) in &a.tensors {
        match b.get(name) {
            None => diff.only_a.push(name.clone()),
            Some(right) if left.shape() != right.shape() => {
                diff.shapes.push((name.clone(), left.shape().to_vec(), right.shape().to_vec()));
            }
            Some(right) => diff.values.push(values(name, left, right)),
        }
    }
    diff.only_b = b.names().filter(|name| !a.contains(name)).map(str::to_string).collect();
    diff.only_a.sort_by(|x, y| natural_order(x, y));
    diff.only_b.sort_by(|x, y| natural_order(x, y));
    diff.shapes.sort_by(|x, y| natural_order(&x.0, &y.0));
    diff.values.sort_by(|x, y| natural_order(&x.name, &y.name));
    diff
}

fn values(name: &str, a: &HostTensor, b: &HostTensor) -> ValueDiff {
    let (mut max_abs, mut largest) = (0.0f64, 0.0f64);
    if a != b {
        for (x, y) in a.to_f64().into_iter().zip(b.to_f64()) {
            // Equal infinities, and NaN against NaN, are no difference.
            let same = x == y || (x.is_nan() && y.is_nan());
            let distance = if same { 0.0 } else { (x - y).abs() };
            max_abs = max_abs.max(if distance.is_nan() { f64::INFINITY } else { distance });
            largest = largest.max(if x.is_finite() { x.abs() } else { 0.0 });
        }
    }
    let max_rel = match max_abs {
        0.0 => 0.0,
        _ if largest == 0.0 => f64::INFINITY,
        _ => max_abs / largest,
    };
    ValueDiff { name: name.to_string(), dtype_a: a.dtype(), dtype_b: b.dtype(), max_abs, max_rel }
}
