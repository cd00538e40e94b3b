//! What the files of families share: shapes, counts of batches, channels.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::convert::adapt_channels;
use crate::checkpoint::naming::Converted;
use crate::checkpoint::report::{Adaptation, Report};
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::{Dtype, HostTensor, LoadError, TensorMap};
use crate::layers::batch_norm::RUNNING_MEAN;

/// The count of batches of a batch norm. timm and torch never read it with their usual momentum.
const COUNT: &str = "num_batches_tracked";

/// The reason to leave out a count of batches.
pub(super) fn counts(name: &str, _: &Tensors) -> Option<&'static str> {
    name.ends_with(COUNT).then_some("a count of batches, which nothing reads")
}

/// Adds a count of batches, 0, to each batch norm. transformers reports a file without them as incomplete.
pub(super) fn add_counts(tensors: &mut TensorMap) -> Result<(), LoadError> {
    let norms = tensors.names().filter_map(|name| name.strip_suffix(RUNNING_MEAN));
    let counts: Vec<String> = norms.map(|norm| format!("{norm}{COUNT}")).collect();
    for key in counts {
        let zero = HostTensor::new(Dtype::I64, Vec::new(), 0_i64.to_le_bytes().to_vec());
        let zero = zero.map_err(|error| LoadError::tensor(&tensors.path, &key, error))?;
        tensors.tensors.insert(key, zero);
    }
    Ok(())
}

/// Adapts the first convolution from `old` channels to `channels`, as timm does. A kernel with another number of channels
/// stays.
pub(super) fn change_channels(
    first_conv: &str,
    channels: usize,
    old: Option<usize>,
    tensors: &mut TensorMap,
    report: &mut Report,
) {
    let key = format!("{first_conv}.weight");
    let Some(kernel) = tensors.get(&key).filter(|kernel| kernel.shape().get(1) == old.as_ref()) else {
        return;
    };
    if old == Some(channels) {
        return;
    }
    let found = kernel.shape().to_vec();
    let Ok(adapted) = adapt_channels(kernel, channels) else { return };
    let expected = adapted.shape().to_vec();
    tensors.tensors.insert(key.clone(), adapted);
    report.adapted.push(Adaptation { key: key.clone(), source: key, found, expected });
}

/// Shapes of a file's tensors, for inferring a configuration.
pub(super) struct Shapes<'a>(pub &'a TensorMap);

impl Shapes<'_> {
    /// The shape of a tensor of rank `R`. A tensor without values is refused.
    pub(super) fn get<const R: usize>(&self, key: &str) -> Result<[usize; R], LoadError> {
        let tensor = self.0.get(key).ok_or_else(|| LoadError::tensor(&self.0.path, key, "is missing"))?;
        let shape = <[usize; R]>::try_from(tensor.shape()).ok().filter(|shape| !shape.contains(&0));
        shape.ok_or_else(|| {
            let reason = format!("has shape {:?}, expected {R} dimensions above 0", tensor.shape());
            LoadError::tensor(&self.0.path, key, reason)
        })
    }

    /// The shape of a tensor of rank `R`, if it is there and of this rank.
    pub(super) fn find<const R: usize>(&self, key: &str) -> Option<[usize; R]> {
        self.0.get(key)?.shape().try_into().ok()
    }

    /// How many modules in a row have this tensor: `{}` in the key is the number, from `first` on.
    pub(super) fn count(&self, key: &str, first: usize) -> usize {
        let is_there = |index: &usize| self.0.contains(&key.replacen("{}", &index.to_string(), 1));
        (first..).take_while(is_there).count()
    }
}

/// Heads of attention of a product `width` wide: from a key file, else heads of `usual`. The assumption goes to `notes`.
pub(super) fn heads(
    file: &Converted,
    width: usize,
    usual: usize,
    notes: &mut Vec<String>,
) -> Result<usize, LoadError> {
    file.num_heads.map_or_else(|| assumed_heads(&file.map.path, width, usual, notes), Ok)
}

/// Heads of `usual` in a product `width` wide. The assumption goes to `notes`.
pub(super) fn assumed_heads(
    path: &Path,
    width: usize,
    usual: usize,
    notes: &mut Vec<String>,
) -> Result<usize, LoadError> {
    if width == 0 || !width.is_multiple_of(usual) {
        let reason = format!(
            "the number of heads is not in the tensors, and a width of {width} is no multiple of {usual}"
        );
        return Err(LoadError::unshown(path, "num_heads", reason));
    }
    let heads = width / usual;
    notes.push(format!("the number of heads is not in the tensors; {heads} heads of {usual} are assumed"));
    Ok(heads)
}

/// Refuses differences that timm's constructor states only in Python.
pub(super) fn refuse_args(args: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match names.iter().find_map(|name| Some((name, args.get(*name)?))) {
        Some((name, value)) => Err(format!("timm has no argument for {name} = {value}")),
        None => Ok(()),
    }
}
