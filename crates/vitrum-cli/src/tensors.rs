//! Safetensors files of inputs and outputs.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, View};
use vitrum::checkpoint::tensors::{HostTensor, TensorMap};
use vitrum::checkpoint::write::write_atomically;

/// The tensors of a safetensors file.
pub fn read(path: &Path) -> Result<TensorMap> {
    if path.is_dir() {
        bail!("{}: a folder; want a safetensors file", path.display());
    }
    Ok(vitrum::checkpoint::read(path)?)
}

/// The tensor `input` `[B, C, H, W]` for a model of `channels`.
pub fn input(tensors: &TensorMap, channels: usize, dtype: DType, device: &Device) -> Result<Tensor<4>> {
    let path = tensors.path.display();
    let Some(input) = tensors.get("input") else {
        let names: Vec<&str> = tensors.names().take(5).collect();
        bail!(
            "{path}: no tensor `input`\nhint: found {}",
            if names.is_empty() { "none".into() } else { names.join(", ") }
        );
    };
    let &[b, c, h, w] = input.shape() else {
        bail!("{path}: tensor `input` has shape {:?}, expected [B, C, H, W]", input.shape());
    };
    if b == 0 || h == 0 || w == 0 {
        bail!("{path}: tensor `input` of shape {:?} is empty", input.shape());
    }
    if c != channels {
        bail!("{path}: tensor `input` has {c} channels, the model wants {channels}");
    }
    if !input.dtype().is_float() {
        bail!("{path}: tensor `input` is {}, expected floats, normalised already", input.dtype());
    }
    let values = input.to_f64();
    let strange = values.iter().filter(|value| !value.is_finite()).count();
    if strange > 0 {
        bail!("{path}: tensor `input` holds {strange} values that are NaN or infinite");
    }
    let data = if dtype == DType::F64 {
        TensorData::new(values, [b, c, h, w])
    } else {
        TensorData::new(input.to_f32(), [b, c, h, w])
    };
    Ok(Tensor::from_data(data, (device, dtype)))
}

/// A tensor to be written.
pub struct Output {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl<const D: usize> From<Tensor<D>> for Output {
    fn from(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        let data = tensor.into_data();
        if data.dtype() == DType::F64 {
            let bytes = data.iter::<f64>().flat_map(f64::to_le_bytes).collect();
            Self { shape, dtype: Dtype::F64, bytes }
        } else {
            let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            Self { shape, dtype: Dtype::F32, bytes }
        }
    }
}

impl From<&HostTensor> for Output {
    fn from(tensor: &HostTensor) -> Self {
        let bytes = tensor.to_f32().into_iter().flat_map(f32::to_le_bytes).collect();
        Self { shape: tensor.shape().to_vec(), dtype: Dtype::F32, bytes }
    }
}

impl View for &Output {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes a safetensors file atomically.
pub fn write(path: &Path, tensors: &[(String, Output)], metadata: HashMap<String, String>) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let bytes = safetensors::serialize(views, Some(metadata))
        .with_context(|| format!("writing {}", path.display()))?;
    write_atomically(path, &bytes).context("writing")
}

impl Output {
    /// The bytes of a NumPy file.
    pub fn npy(&self) -> Result<Vec<u8>> {
        use npyz::WriterBuilder;
        let mut bytes = Vec::new();
        let shape: Vec<u64> = self.shape.iter().map(|side| *side as u64).collect();
        let values = self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mut writer =
            npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut bytes).begin_nd()?;
        writer.extend(values)?;
        writer.finish()?;
        Ok(bytes)
    }
}
