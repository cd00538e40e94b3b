//! Conversion of tensors between libraries' layouts.

use super::HostTensor;
use super::keys::Edit;
use super::tensors::{Dtype, TensorError, Tensors};

/// A tensor's name and its error.
pub(crate) type Named = (String, TensorError);

/// Known sizes of patches that a file stores as vectors of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// `C`. `None`: follows from `size`; without `size` it is 3, or 1 if 3 gives no square patch.
    pub channels: Option<usize>,
    /// Height and width. `None`: a square.
    pub size: Option<[usize; 2]>,
}

impl Patch {
    /// Height, width and channels of a patch with `pixels` values.
    fn shape(self, pixels: usize) -> Option<[usize; 3]> {
        let square = |channels| square_patch(pixels, channels).map(|side| [side, side, channels]);
        match (self.channels, self.size) {
            (None, None) => square(3).or_else(|| square(1)),
            (Some(channels), None) => square(channels),
            (channels, Some([h, w])) => {
                let area = h.checked_mul(w).filter(|area| *area > 0)?;
                let found = pixels / area;
                let fits = found > 0 && found * area == pixels && channels.is_none_or(|told| told == found);
                fits.then_some([h, w, found])
            }
        }
    }
}

/// Converts one tensor from a library's layout to timm's.
pub fn edit(tensor: &HostTensor, edit: Edit, patch: Patch) -> Result<HostTensor, TensorError> {
    let shape = tensor.shape();
    match edit {
        Edit::Keep => Ok(tensor.clone()),
        Edit::Rank3 if shape.len() > 3 => Err(TensorError::shape("of at most three axes", shape)),
        Edit::Rank3 => {
            let ones = vec![1; 3 - shape.len()];
            tensor.reshape(&[ones.as_slice(), shape].concat())
        }
        Edit::Transpose => linear(tensor),
        Edit::Kernel => kernel(tensor),
        Edit::ToHeads => match *shape {
            [width, heads, dh] => tensor.reshape(&[width, heads * dh])?.transpose(),
            _ => Err(TensorError::shape("[D, heads, dh]", shape)),
        },
        Edit::FromHeads => match *shape {
            [heads, dh, width] => tensor.reshape(&[heads * dh, width])?.transpose(),
            _ => Err(TensorError::shape("[heads, dh, D]", shape)),
        },
        Edit::Flatten => tensor.reshape(&[tensor.num_elements()]),
        Edit::Pixels => channels_first(tensor, patch),
    }
}

/// Converts one tensor back, from timm's layout to the library's. Only [`Edit::Flatten`] has a way back.
pub(super) fn undone(tensor: HostTensor, edit: Edit) -> Result<HostTensor, TensorError> {
    match edit {
        Edit::Flatten => tensor.reshape(&[1, 1, 1, tensor.num_elements()]),
        _ => Ok(tensor),
    }
}

/// The weights of linear layers of these names, which the file holds as kernels of 1x1, as matrices.
pub(super) fn flatten_kernels(tensors: &mut Tensors, names: &[String]) {
    for name in names {
        let Some(tensor) = tensors.get_mut(name) else { continue };
        if let &[n, c, 1, 1] = tensor.shape()
            && let Ok(matrix) = tensor.reshape(&[n, c])
        {
            *tensor = matrix;
        }
    }
}

/// Reorders pixels from rows, columns, channels to a kernel's order.
fn channels_first(tensor: &HostTensor, patch: Patch) -> Result<HostTensor, TensorError> {
    let pixels = tensor.shape().last().copied().unwrap_or(0);
    let Some([h, w, c]) = patch.shape(pixels) else {
        return Err(TensorError::shape(
            "of square patches with 1 or 3 channels, or of the stated patch_size and in_chans",
            tensor.shape(),
        ));
    };
    match *tensor.shape() {
        [width, _] => tensor.reshape(&[width, h, w, c])?.permute(&[0, 3, 1, 2]),
        [_] => tensor.reshape(&[h, w, c])?.permute(&[2, 0, 1])?.reshape(&[pixels]),
        _ => Err(TensorError::shape("[D, P·P·C] or [P·P·C]", tensor.shape())),
    }
}

/// Transposes a matrix. A 1 by 1 convolution, as in some heads, counts as a matrix.
fn linear(tensor: &HostTensor) -> Result<HostTensor, TensorError> {
    match *tensor.shape() {
        [1, 1, rows, columns] => tensor.reshape(&[rows, columns])?.transpose(),
        _ => tensor.transpose(),
    }
}

/// `[height, width, in, out]` to `[out, in, height, width]`; a matrix becomes square patches of three channels.
fn kernel(tensor: &HostTensor) -> Result<HostTensor, TensorError> {
    match *tensor.shape() {
        [_, _, _, _] => tensor.permute(&[3, 2, 0, 1]),
        [pixels, out] => {
            let side =
                square_patch(pixels, 3).ok_or_else(|| TensorError::shape("[P·P·3, D]", tensor.shape()))?;
            tensor.reshape(&[side, side, 3, out])?.permute(&[3, 2, 0, 1])
        }
        _ => Err(TensorError::shape("[P, P, C, D]", tensor.shape())),
    }
}

/// `P` such that `P·P·channels` is `pixels`.
pub(crate) fn square_patch(pixels: usize, channels: usize) -> Option<usize> {
    let side = pixels.checked_div(channels)?.isqrt();
    (pixels > 0 && side * side * channels == pixels).then_some(side)
}

/// Splits tensors that stack all blocks: `{stacked}rest` of shape `[L, …]` into `{numbered}0/rest`, ….
pub fn unstack(tensors: Tensors, stacked: &str, numbered: &str) -> Result<Tensors, Named> {
    /// More blocks than any model has. Without this limit a thin tensor could become a million names.
    const MOST: usize = 1_000;
    let mut out = Tensors::new();
    for (name, tensor) in tensors {
        let Some(rest) = name.strip_prefix(stacked) else {
            out.insert(name, tensor);
            continue;
        };
        let blocks = match tensor.shape() {
            [blocks, _, ..] if *blocks <= MOST => *blocks,
            shape => return Err((name, TensorError::shape("[L, …] with at most 1000 blocks", shape))),
        };
        for i in 0..blocks {
            let block = tensor.slice(0, i..i + 1).and_then(|t| t.reshape(&tensor.shape()[1..]));
            out.insert(format!("{numbered}{i}/{rest}"), block.map_err(|e| (name.clone(), e))?);
        }
    }
    Ok(out)
}

/// Joins `q`, `k`, `v` of attention into `qkv`, and `k`, `v` of attention pooling into `kv`.
pub fn join(tensors: &mut Tensors) -> Result<(), Named> {
    let keys: Vec<String> =
        tensors.keys().filter(|n| n.ends_with(".k.weight") || n.ends_with(".k.bias")).cloned().collect();
    for key in keys {
        let Some((module, part)) = key.rsplit_once(".k.") else { continue };
        let (parts, joined): (&[&str], &str) = match module {
            "attn_pool" => (&["k", "v"], "kv"),
            _ if module.ends_with("attn") => (&["q", "k", "v"], "qkv"),
            _ => continue,
        };
        let names: Vec<String> = parts.iter().map(|p| format!("{module}.{p}.{part}")).collect();
        let found: Vec<&HostTensor> = names.iter().filter_map(|n| tensors.get(n)).collect();
        if found.len() != names.len() {
            return Err((key.clone(), TensorError::shape(format!("of {}", names.join(", ")), &[])));
        }
        let tensor = HostTensor::concat(&found, 0).map_err(|e| (key.clone(), e))?;
        names.iter().for_each(|name| {
            tensors.remove(name);
        });
        tensors.insert(format!("{module}.{joined}.{part}"), tensor);
    }
    // A query or value without a key keeps its name and is reported as unexpected.
    Ok(())
}

/// Splits `blocks.N.attn.qkv` into `q`, `k`, `v`.
pub fn split(tensors: &Tensors) -> Result<Tensors, Named> {
    let mut out = Tensors::new();
    for (name, tensor) in tensors {
        let Some((module, part)) = name.split_once(".attn.qkv.") else {
            out.insert(name.clone(), tensor.clone());
            continue;
        };
        let rows = tensor.shape().first().copied().unwrap_or(0);
        if rows % 3 != 0 || rows == 0 {
            return Err((name.clone(), TensorError::shape("[3·D, …]", tensor.shape())));
        }
        for (i, letter) in ["q", "k", "v"].into_iter().enumerate() {
            let third =
                tensor.slice(0, i * (rows / 3)..(i + 1) * (rows / 3)).map_err(|e| (name.clone(), e))?;
            out.insert(format!("{module}.attn.{letter}.{part}"), third);
        }
    }
    Ok(out)
}

fn float_of(tensor: &HostTensor) -> Dtype {
    if tensor.dtype().is_float() { tensor.dtype() } else { Dtype::F32 }
}

/// Adapts a patch projection `[D, C, P, P]` to another number of channels, as in timm (`adapt_input_conv`). One
/// channel gets the sum. More channels repeat the kernel, scaled so that a grey image gives the same tokens.
/// Arithmetic is in `f32`.
///
/// # Errors
/// A tensor that is not a kernel with at least one channel, or more than 1024 requested channels.
pub fn adapt_channels(weight: &HostTensor, channels: usize) -> Result<HostTensor, TensorError> {
    let &[out, old, rows, columns] = weight.shape() else {
        return Err(TensorError::shape("[D, C, P, P]", weight.shape()));
    };
    if old == channels {
        return Ok(weight.clone());
    }
    if old == 0 || !(1..=1024).contains(&channels) {
        return Err(TensorError::shape(
            format!("[D, C, P, P] to adapt to {channels} channels (1 to 1024)"),
            weight.shape(),
        ));
    }
    super::tensors::count(&[out, channels, rows, columns, 4])?;
    let pixels = rows * columns;
    let values = weight.to_f32();
    let scale = old as f32 / channels as f32;
    let mut new = Vec::with_capacity(out * channels * pixels);
    for filter in values.chunks_exact((old * pixels).max(1)) {
        if channels == 1 {
            new.extend((0..pixels).map(|pixel| (0..old).map(|c| filter[c * pixels + pixel]).sum::<f32>()));
            continue;
        }
        for channel in 0..channels {
            new.extend(filter[channel % old * pixels..][..pixels].iter().map(|value| value * scale));
        }
    }
    HostTensor::from_f32(vec![out, channels, rows, columns], &new)?.cast(float_of(weight))
}
