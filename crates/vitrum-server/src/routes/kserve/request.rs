//! A request of the protocol: its tensors, in JSON or behind it.

use axum::body::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::data::{Data, Parameter};
use crate::error::ApiError;
use crate::images::from_base64;
use crate::served::{Served, Wants};

/// A request.
#[derive(Debug, Deserialize, ToSchema)]
pub struct InferRequest {
    /// Comes back with the answer.
    #[serde(default)]
    pub id: Option<String>,
    /// `image` or `pixel_values`.
    inputs: Vec<InputTensor>,
    /// Which outputs the answer has: `logits` without it, or `embedding` of a model without classes.
    #[serde(default)]
    outputs: Option<Vec<OutputName>>,
    /// `binary_data_output`: whether all outputs come as bytes.
    #[serde(default)]
    parameters: Parameters,
}

/// A tensor of a request.
#[derive(Debug, Deserialize, ToSchema)]
struct InputTensor {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    /// The numbers or texts, row by row, nested or not.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Data>,
    /// `binary_data_size`: bytes behind the JSON document.
    #[serde(default)]
    parameters: Parameters,
}

/// An output by name.
#[derive(Debug, Deserialize, ToSchema)]
struct OutputName {
    name: String,
    /// `binary_data`: whether it comes as bytes.
    #[serde(default)]
    parameters: Parameters,
}

/// The parameters that are used; others are taken and not used.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct Parameters {
    #[schema(value_type = Option<u64>)]
    binary_data_size: Option<Parameter>,
    #[schema(value_type = Option<bool>)]
    binary_data: Option<Parameter>,
    #[schema(value_type = Option<bool>)]
    binary_data_output: Option<Parameter>,
}

/// What the model is given.
pub enum Input {
    /// Encoded images.
    Files(Vec<Bytes>),
    /// Normalised pixels `[N, C, H, W]`.
    Pixels {
        /// The numbers.
        pixels: Vec<f32>,
        /// `N`.
        images: usize,
    },
}

impl Input {
    /// The number of images.
    pub fn images(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Pixels { images, .. } => *images,
        }
    }
}

/// An output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[N, K]`.
    Logits,
    /// `[N, K]`.
    Probabilities,
    /// `[N, D]`, each of length 1.
    Embedding,
}

impl Kind {
    /// Its name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Probabilities => "probabilities",
            Self::Embedding => "embedding",
        }
    }
}

/// The outputs that a request wants, and whether each comes as bytes.
pub struct Outputs(pub Vec<(Kind, bool)>);

impl Outputs {
    /// What the model must compute.
    pub fn wants(&self) -> Wants {
        Wants {
            logits: self.0.iter().any(|(kind, _)| *kind != Kind::Embedding),
            embedding: self.0.iter().any(|(kind, _)| *kind == Kind::Embedding),
        }
    }
}

fn faulty<T>(why: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::Malformed(why.into()))
}

/// A parameter that is true or false.
fn flag(parameter: Option<Parameter>, name: &str) -> Result<Option<bool>, ApiError> {
    match parameter {
        None => Ok(None),
        Some(Parameter::Flag(flag)) => Ok(Some(flag)),
        Some(_) => faulty(format!("parameter {name} is neither true nor false")),
    }
}

impl InferRequest {
    /// The outputs that are wanted.
    ///
    /// # Errors
    /// An output that the model does not have, or one that is named twice.
    pub fn outputs(&self, served: &Served) -> Result<Outputs, ApiError> {
        let all_binary = flag(self.parameters.binary_data_output, "binary_data_output")?.unwrap_or(false);
        let has_classes = served.num_classes() > 0;
        let named = self.outputs.as_deref().unwrap_or_default();
        if named.is_empty() {
            let kind = if has_classes { Kind::Logits } else { Kind::Embedding };
            return Ok(Outputs(vec![(kind, all_binary)]));
        }
        let mut found: Vec<(Kind, bool)> = Vec::new();
        for output in named {
            let kind = match &output.name[..] {
                "logits" if has_classes => Kind::Logits,
                "probabilities" if has_classes && !served.is_regression() => Kind::Probabilities,
                "embedding" => Kind::Embedding,
                other => return faulty(format!("model '{}' has no output '{other}'", served.name())),
            };
            if found.iter().any(|(earlier, _)| *earlier == kind) {
                return faulty(format!("output '{}' is named twice", output.name));
            }
            found.push((kind, flag(output.parameters.binary_data, "binary_data")?.unwrap_or(all_binary)));
        }
        Ok(Outputs(found))
    }

    /// The input. `behind` are the bytes after the JSON document.
    ///
    /// # Errors
    /// No input or several, other types and shapes than the model's, and bytes that do not fit them.
    pub fn input(&mut self, behind: Bytes, served: &Served) -> Result<Input, ApiError> {
        let [tensor] = &mut self.inputs[..] else {
            return faulty(format!("{} inputs, expected one: image or pixel_values", self.inputs.len()));
        };
        let binary = tensor.binary(behind)?;
        match (&tensor.name[..], &tensor.datatype[..]) {
            ("image", "BYTES") => tensor.files(binary).map(Input::Files),
            ("pixel_values", "FP32") => tensor.pixels(binary, served.input()),
            ("image", other) => faulty(format!("input image is {other}, expected BYTES")),
            ("pixel_values", other) => faulty(format!("input pixel_values is {other}, expected FP32")),
            (other, _) => faulty(format!("no input '{other}', expected image or pixel_values")),
        }
    }
}

impl InputTensor {
    /// Its bytes, if they are behind the document. All bytes there must be its own.
    fn binary(&self, behind: Bytes) -> Result<Option<Bytes>, ApiError> {
        let size = match self.parameters.binary_data_size {
            None if behind.is_empty() => return Ok(None),
            None => return faulty("bytes follow the document, but the input has no binary_data_size"),
            Some(size) => size,
        };
        if self.data.is_some() {
            return faulty(format!("input {} has data and binary_data_size", self.name));
        }
        match size == Parameter::Count(behind.len() as u64) {
            true => Ok(Some(behind)),
            false => faulty(format!(
                "binary_data_size differs from the {} bytes behind the document",
                behind.len()
            )),
        }
    }

    /// The number of elements.
    fn count(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, side| product.checked_mul(*side))
    }

    /// The data in the document.
    fn take_data(&mut self) -> Result<Data, ApiError> {
        let Some(data) = self.data.take() else { return faulty(format!("input {} has no data", self.name)) };
        self.check_count(data.count())?;
        Ok(data)
    }

    fn check_count(&self, found: usize) -> Result<(), ApiError> {
        match self.count() == Some(found as u64) {
            true => Ok(()),
            false => {
                faulty(format!("input {} has {found} elements, but its shape is {:?}", self.name, self.shape))
            }
        }
    }

    /// Encoded images: base64 in the document, or the files behind it.
    fn files(&mut self, binary: Option<Bytes>) -> Result<Vec<Bytes>, ApiError> {
        if self.shape.iter().skip(1).any(|side| *side != 1) || self.shape.is_empty() {
            return faulty(format!("input image has the shape {:?}, expected [n]", self.shape));
        }
        let Some(bytes) = binary else {
            let data = self.take_data()?;
            return match data.numbers.first() {
                None => data.texts.images(),
                Some(number) => faulty(format!("input image has {number} among its texts")),
            };
        };
        let files = elements(bytes)?;
        self.check_count(files.len())?;
        // Clients that always send base64 send it here, too. No image file is a text in base64.
        Ok(files.into_iter().map(|file| plain(&file).unwrap_or(file)).collect())
    }

    /// Pixels of the model's shape.
    fn pixels(&mut self, binary: Option<Bytes>, [c, h, w]: [usize; 3]) -> Result<Input, ApiError> {
        let expected = [c, h, w].map(|side| side as u64);
        let images = match self.shape[..] {
            [images, ref own @ ..] if own == expected => images,
            _ => {
                return faulty(format!(
                    "pixel_values has the shape {:?}, expected [n, {c}, {h}, {w}]",
                    self.shape
                ));
            }
        };
        let pixels: Vec<f32> = match binary {
            Some(bytes) => {
                if bytes.len() % 4 != 0 {
                    return faulty("pixel_values has bytes that are no 32-bit floats");
                }
                self.check_count(bytes.len() / 4)?;
                let (floats, _) = bytes.as_chunks::<4>();
                floats.iter().map(|four| f32::from_le_bytes(*four)).collect()
            }
            None => {
                let data = self.take_data()?;
                if data.texts.count() > 0 {
                    return faulty("pixel_values has texts among its numbers");
                }
                data.numbers
            }
        };
        if !pixels.iter().all(|value| value.is_finite()) {
            return faulty("pixel_values has NaN or infinity");
        }
        let images = usize::try_from(images).map_err(|_| ApiError::TooLarge("too many images".into()))?;
        Ok(Input::Pixels { pixels, images })
    }
}

/// The elements of a BYTES tensor: each behind its length in four bytes, the lowest first.
fn elements(mut bytes: Bytes) -> Result<Vec<Bytes>, ApiError> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.first_chunk::<4>().map(|four| u32::from_le_bytes(*four) as usize);
        let Some(length) = length.filter(|length| *length <= bytes.len() - 4) else {
            return faulty("the lengths in a BYTES tensor do not fit its size");
        };
        let mut element = bytes.split_off(4);
        bytes = element.split_off(length);
        elements.push(element);
    }
    Ok(elements)
}

/// The bytes of a text in base64, if it is one.
fn plain(file: &Bytes) -> Option<Bytes> {
    from_base64(std::str::from_utf8(file).ok()?).ok().filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_their_lengths_in_front() {
        let bytes = Bytes::from_static(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c");
        assert_eq!(elements(bytes).unwrap(), [&b"ab"[..], b"", b"c"]);
        for faulty in [&b"\x02\0\0\0a"[..], b"\x02\0", b"\xff\xff\xff\xffa"] {
            assert!(elements(Bytes::from_static(faulty)).is_err(), "{faulty:?}");
        }
    }
}
