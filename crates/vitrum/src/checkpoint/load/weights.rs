//! Reads weights from a file, and converts them for a model.

use std::path::Path;

use burn::tensor::{DType, Device};

use super::known::recognise;
use super::{EightBitsLimit, Found, LoadOptions, ModelError};
use crate::checkpoint::dialect::{Converted, Dialect, Known, to_timm_with};
use crate::checkpoint::error::{LoadError, shorten};
use crate::checkpoint::finite::not_finite;
use crate::checkpoint::quantize::{Int8Map, is_quantized, layers, quantize_tensors, take_int8};
use crate::checkpoint::read::{OTHER_SET, read_set};
use crate::checkpoint::{KeyFile, TensorMap};
use crate::models::{ModelConfig, Precision};

/// Reads the weights of a file under timm's names. Notes what was taken and what was left out.
pub(super) fn weights(
    path: &Path,
    found: &mut Found,
    options: &LoadOptions<'_>,
) -> Result<Converted, ModelError> {
    let keys = options.keys.as_deref().map(KeyFile::read).transpose().map_err(LoadError::from)?;
    let map = read_set(path, options.weight_set.as_deref())?;
    let broken = not_finite(&map, options.dtype != DType::F64);
    let known = found.config().map(Known::of).unwrap_or_default();
    let is_unknown = known.family.is_none() && keys.is_none();
    // timm's names are those of several families. The clone shares the values.
    let is_timm = is_unknown && matches!(Dialect::detect(&map), Ok((Dialect::Timm, _)));
    let original = is_timm.then(|| map.clone());
    let converted = to_timm_with(map, &Known { keys: keys.as_ref(), ..known })?;
    let map = &converted.map;
    let is_used = |name: &str| !map.dropped.iter().any(|(dropped, _)| dropped == name);
    if let Some(broken) = broken.into_iter().find(|broken| is_used(&broken.name)) {
        return Err(broken.error(map).into());
    }
    found.notes.extend(map.notes.iter().cloned());
    found.notes.extend(left_out(map));
    Ok(if is_unknown { recognise(converted, original, found) } else { converted })
}

/// One line about the tensors that were left out, by reason. Tensors with the same first word are counted together.
fn left_out(map: &TensorMap) -> Option<String> {
    const MOST: usize = 6;
    let mut reasons: Vec<(&str, Vec<(&str, usize)>)> = Vec::new();
    // The note on the chosen set already covers tensors of other sets.
    let dropped = || map.dropped.iter().filter(|(_, reason)| !reason.starts_with(OTHER_SET));
    for (name, reason) in dropped() {
        let at = reasons.iter().position(|(known, _)| known == reason).unwrap_or(reasons.len());
        if at == reasons.len() {
            reasons.push((reason, Vec::new()));
        }
        let groups = &mut reasons[at].1;
        let word = first_word(name);
        match groups.iter_mut().find(|(known, _)| first_word(known) == word) {
            Some(group) => *group = (word, group.1 + 1),
            None => groups.push((name, 1)),
        }
    }
    let said = |(name, count): &(&str, usize)| match count {
        1 => shorten(name),
        _ => format!("{count} of {}", shorten(name)),
    };
    let shown = reasons.iter().map(|(reason, groups)| {
        let (first, rest) = groups.split_at(groups.len().min(MOST));
        let names: Vec<String> = first.iter().map(said).collect();
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more kinds", rest.len()) };
        format!("{}{more} ({reason})", names.join(", "))
    });
    let shown: Vec<String> = shown.collect();
    let (path, count) = (map.path.display(), dropped().count());
    let plural = if count == 1 { "tensor" } else { "tensors" };
    (count > 0).then(|| format!("{path}: left out {count} {plural}: {}", shown.join("; ")))
}

/// What precedes the first separator of a name.
fn first_word(name: &str) -> &str {
    name.split(['.', '/']).next().unwrap_or(name)
}

/// The int8 weights: those of the file and, with [`Precision::Int8`], the other weights quantised.
pub(super) fn int8_weights(
    tensors: &mut TensorMap,
    config: &ModelConfig,
    options: &LoadOptions<'_>,
    device: &Device,
) -> Result<Int8Map, ModelError> {
    let refuse = |limit| Err(ModelError::EightBits { path: tensors.path.clone(), limit });
    if is_quantized(tensors) {
        if options.floats_only {
            return refuse(EightBitsLimit::Training);
        }
        if options.dtype != DType::F32 {
            return refuse(EightBitsLimit::Dtype);
        }
        if !vitrum_kernels::has_fast_path(device, DType::F32) {
            return refuse(EightBitsLimit::Device);
        }
        if options.precision == Precision::Bf16 {
            return refuse(EightBitsLimit::Bf16);
        }
    }
    let mut quantized = take_int8(tensors)?;
    if options.precision == Precision::Int8 {
        quantized.extend(quantize_tensors(tensors, &layers(config)?, &[]));
    }
    Ok(quantized)
}
