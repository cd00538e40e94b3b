//! Conversion steps that only a Vision Transformer's tensors need.

use super::keys::{beit3, official};
use crate::checkpoint::convert::{Named, join, square_patch};
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::tensors::{Dtype, TensorError};
use crate::checkpoint::{HostTensor, LoadError, TensorMap};

/// Converts renamed tensors to timm's layout: joins query, key and value, makes the patch projection a convolution,
/// removes positions of registers, adds a missing head bias.
pub(in crate::checkpoint::family) fn finish(map: &mut TensorMap) -> Result<(), LoadError> {
    let path = map.path.clone();
    let named = |(name, error): Named| LoadError::tensor(&path, &name, error);
    join(&mut map.tensors).map_err(named)?;
    unflatten_patches(&mut map.tensors).map_err(named)?;
    fold_registers(&mut map.tensors).map_err(named)?;
    add_bias(map, "head")
}

/// Turns a patch projection saved as a matrix `[D, 3·P·P]` into a convolution.
fn unflatten_patches(tensors: &mut Tensors) -> Result<(), Named> {
    const NAME: &str = "patch_embed.proj.weight";
    let Some(tensor) = tensors.get(NAME) else { return Ok(()) };
    let &[width, pixels] = tensor.shape() else { return Ok(()) };
    let fail = |e| (NAME.to_string(), e);
    let side =
        square_patch(pixels, 3).ok_or_else(|| fail(TensorError::shape("[D, 3·P·P]", tensor.shape())))?;
    let tensor = tensor.reshape(&[width, 3, side, side]).map_err(fail)?;
    tensors.insert(NAME.to_string(), tensor);
    Ok(())
}

/// Turns DINOv2's registers into `reg_token`, as timm does. They have no position: the class token's position is added
/// to the token, so that the table has rows for patches only.
fn fold_registers(tensors: &mut Tensors) -> Result<(), Named> {
    let Some(registers) = tensors.remove(official::REGISTERS) else { return Ok(()) };
    tensors.insert("reg_token".to_string(), registers);
    let (Some(cls), Some(table)) = (tensors.get("cls_token"), tensors.get("pos_embed")) else {
        return Ok(());
    };
    let fail = |e| ("pos_embed".to_string(), e);
    let (rows, width) = match *table.shape() {
        [1, rows, width] if rows > 0 => (rows, width),
        _ => return Err(fail(TensorError::shape("[1, 1 + N, D]", table.shape()))),
    };
    let first = table.slice(1, 0..1).map_err(fail)?;
    if cls.num_elements() != width || first.num_elements() != width {
        return Err(fail(TensorError::shape(format!("[1, 1 + N, {}]", cls.num_elements()), table.shape())));
    }
    // Sum in f64, where f32 values of similar size add exactly: an f64 model gets the sum that the library computes.
    let sum = cls.to_f64().into_iter().zip(first.to_f64()).flat_map(|(a, b)| (a + b).to_le_bytes()).collect();
    let folded = HostTensor::new(Dtype::F64, cls.shape().to_vec(), sum).map_err(fail)?;
    let patches = table.slice(1, 1..rows).map_err(fail)?;
    tensors.insert("cls_token".to_string(), folded);
    tensors.insert("pos_embed".to_string(), patches);
    Ok(())
}

/// Rounds a class token from [`fold_registers`] to the dtype of the other tensors, before writing.
pub(super) fn narrow_folded(tensors: &mut Tensors) -> Result<(), Named> {
    let Some(dtype) = tensors.get("pos_embed").map(HostTensor::dtype) else { return Ok(()) };
    let Some(cls) = tensors.get("cls_token").filter(|cls| cls.dtype() == Dtype::F64 && dtype != Dtype::F64)
    else {
        return Ok(());
    };
    let narrow = cls.cast(dtype).map_err(|e| ("cls_token".to_string(), e))?;
    tensors.insert("cls_token".to_string(), narrow);
    Ok(())
}

/// Renames the norm before pooling to the norm after it, for an encoder with token pooling in a model with average
/// pooling. Returns the old and new names. (timm has no such step: it refuses the file, or initialises `fc_norm` if the
/// head is new too.)
pub(super) fn norm_to_fc_norm(tensors: &mut Tensors) -> Vec<(String, String)> {
    let mut moved = Vec::new();
    for part in ["weight", "bias"] {
        let (old, new) = (format!("norm.{part}"), format!("fc_norm.{part}"));
        if !tensors.contains_key(&new)
            && let Some(tensor) = tensors.remove(&old)
        {
            tensors.insert(new.clone(), tensor);
            moved.push((old, new));
        }
    }
    moved
}

/// Takes the two rows off BEiT-3's table of positions that no token reads, `[2 + 1 + N, D]` to `[1, 1 + N, D]`.
pub(super) fn finish_beit3(map: &mut TensorMap) -> Result<(), LoadError> {
    let Some(table) = map.tensors.remove(beit3::POSITIONS) else { return Ok(()) };
    let fail = |error| LoadError::tensor(&map.path, beit3::POSITIONS, error);
    let &[rows, width] = table.shape() else {
        return Err(fail(TensorError::shape("[3 + N, D]", table.shape())));
    };
    if rows < 3 {
        return Err(fail(TensorError::shape("[3 + N, D]", table.shape())));
    }
    let read =
        table.slice(0, 2..rows).and_then(|table| table.reshape(&[1, rows - 2, width])).map_err(fail)?;
    map.tensors.insert("pos_embed".to_string(), read);
    Ok(())
}

/// Adds a bias of zeros to a head without one (CLIP's projection).
pub(in crate::checkpoint::family) fn add_bias(map: &mut TensorMap, head: &str) -> Result<(), LoadError> {
    let [weight_key, bias_key] = ["weight", "bias"].map(|part| format!("{head}.{part}"));
    let Some(weight) = map.tensors.get(&weight_key).filter(|_| !map.contains(&bias_key)) else {
        return Ok(());
    };
    let classes = weight.shape().first().copied().unwrap_or(0);
    let bytes =
        classes.checked_mul(weight.dtype().size()).filter(|&n| n <= weight.bytes().len()).unwrap_or(0);
    let bias = HostTensor::new(weight.dtype(), vec![classes], vec![0; bytes])
        .map_err(|e| LoadError::tensor(&map.path, &weight_key, e))?;
    map.tensors.insert(bias_key, bias);
    Ok(())
}
