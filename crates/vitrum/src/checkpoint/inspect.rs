//! The contents of a checkpoint: tensors with statistics and checksums, dialect, model.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::card::{ModelCard, Resolve};
use super::dialect::{Dialect, Known, to_timm_with};
use super::key_file::KeyFile;
use super::read::{WeightSet, open, read_set, weights_in};
use super::{Dtype, HostTensor, LoadError, TensorMap};
use crate::data::dataset::natural_order;

/// A tensor, described.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Statistics of the values.
    pub stats: Stats,
    /// SHA-256 of the elements as little-endian bytes, row by row, hexadecimal.
    pub sha256: String,
}

/// Statistics of a tensor's finite values; 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the population.
    pub std: f64,
    /// Number of NaNs.
    pub nan: usize,
    /// Number of infinite values.
    pub inf: usize,
}

impl Stats {
    /// The statistics of a tensor.
    pub fn of(tensor: &HostTensor) -> Self {
        let values = tensor.to_f64();
        let mut stats = Self { min: f64::INFINITY, max: f64::NEG_INFINITY, ..Self::default() };
        // Welford's running mean and sum of squares.
        let (mut count, mut squares) = (0.0, 0.0);
        for v in values {
            if v.is_nan() {
                stats.nan += 1;
            } else if v.is_infinite() {
                stats.inf += 1;
            } else {
                count += 1.0;
                let delta = v - stats.mean;
                stats.mean += delta / count;
                squares += delta * (v - stats.mean);
                stats.min = stats.min.min(v);
                stats.max = stats.max.max(v);
            }
        }
        if count == 0.0 {
            return Self { min: 0.0, max: 0.0, ..stats };
        }
        Self { std: (squares / count).sqrt(), ..stats }
    }
}

/// A checkpoint, described.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file of weights.
    pub path: PathBuf,
    /// Tensors in natural order: numbers in names are compared by value.
    pub tensors: Vec<TensorInfo>,
    /// Elements of all tensors together.
    pub num_elements: usize,
    /// Bytes of all tensors together.
    pub num_bytes: usize,
    /// The file's own metadata.
    pub metadata: Vec<(String, String)>,
    /// Tensors the reader left out, with the reason.
    pub dropped: Vec<(String, String)>,
    /// The sets of weights in the file, with the described one marked.
    pub sets: Vec<WeightSet>,
    /// How the file was chosen and read.
    pub notes: Vec<String>,
    /// The naming, if known.
    pub dialect: Option<Dialect>,
    /// The model: from the configuration beside the weights, otherwise from the tensors.
    pub card: Option<ModelCard>,
    /// Why there is no card.
    pub card_error: Option<String>,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// Describes a file or folder.
///
/// # Errors
/// Files that cannot be read. An invalid configuration becomes part of the description.
pub fn inspect(path: &Path, resolve: &Resolve<'_>) -> Result<Inspection, LoadError> {
    inspect_set(path, None, None, resolve)
}

/// As [`inspect`], with the set of weights to describe ([`read_set`]), and a file that tells names.
///
/// # Errors
/// Those of [`inspect`], a set that the file does not have, and a key file that cannot be read.
pub fn inspect_set(
    path: &Path,
    weight_set: Option<&str>,
    keys: Option<&KeyFile>,
    resolve: &Resolve<'_>,
) -> Result<Inspection, LoadError> {
    let map = read_set(path, weight_set)?;
    let file = map.path.clone();
    let sha256 = file_sha256(&file)?;
    let mut tensors: Vec<TensorInfo> =
        map.tensors.iter().map(|(name, tensor)| describe(name, tensor)).collect();
    tensors.sort_by(|a, b| natural_order(&a.name, &b.name));
    let dialect = match keys {
        Some(keys) if !keys.rows.is_empty() => Some(Dialect::Custom),
        _ => Dialect::detect(&map).ok().map(|(dialect, _)| dialect),
    };
    let (num_elements, num_bytes) = (map.num_elements(), map.num_bytes());
    let metadata = map.metadata.clone().into_iter().collect();
    let (dropped, sets, notes) = (map.dropped.clone(), map.sets.clone(), map.notes.clone());
    let (card, card_error) = match card(path, map, keys, resolve) {
        Ok(card) => (Some(ModelCard { sha256: Some(sha256.clone()), ..card }), None),
        Err(e) => (None, Some(e.to_string())),
    };
    Ok(Inspection {
        path: file,
        tensors,
        num_elements,
        num_bytes,
        metadata,
        dropped,
        sets,
        notes,
        dialect,
        card,
        card_error,
        sha256,
    })
}

fn card(
    path: &Path,
    map: TensorMap,
    keys: Option<&KeyFile>,
    resolve: &Resolve<'_>,
) -> Result<ModelCard, LoadError> {
    match ModelCard::find(path, resolve)? {
        Some(card) => Ok(card),
        None => to_timm_with(map, &Known { keys, ..Known::default() })?.card(),
    }
}

fn describe(name: &str, tensor: &HostTensor) -> TensorInfo {
    TensorInfo {
        name: name.to_string(),
        shape: tensor.shape().to_vec(),
        dtype: tensor.dtype(),
        stats: Stats::of(tensor),
        sha256: hex(&Sha256::digest(tensor.bytes())),
    }
}

/// SHA-256 of a file, hexadecimal.
pub fn file_sha256(path: &Path) -> Result<String, LoadError> {
    let (mut file, _) = open(path)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|e| LoadError::io(path, e))? {
            0 => return Ok(hex(&sum.finalize())),
            n => sum.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Result of [`verify`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// The file of weights.
    pub path: PathBuf,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Whether the sum was compared with an expected one.
    pub compared: bool,
    /// Tensors read.
    pub num_tensors: usize,
    /// Tensors with values that are not finite: name, NaN, infinite.
    pub not_finite: Vec<(String, usize, usize)>,
}

/// Reads a file or folder to the end. Checks that it is complete and all values are finite.
///
/// `expected` is a SHA-256 to compare with. Without it, a file in the Hugging Face cache is compared with the sum
/// in its blob's name.
///
/// # Errors
/// Files that cannot be read, and [`LoadError::Checksum`].
pub fn verify(path: &Path, expected: Option<&str>) -> Result<Verification, LoadError> {
    let file = if path.is_dir() { weights_in(path)? } else { path.to_path_buf() };
    let sha256 = file_sha256(&file)?;
    let expected = expected.map(str::to_ascii_lowercase).or_else(|| blob_name(&file));
    if let Some(expected) = &expected
        && *expected != sha256
    {
        return Err(LoadError::Checksum { path: file, expected: expected.clone(), found: sha256 });
    }
    let map = super::read(&file)?;
    let broken = |(name, tensor): (&String, &HostTensor)| {
        let stats = Stats::of(tensor);
        (stats.nan + stats.inf > 0).then(|| (name.clone(), stats.nan, stats.inf))
    };
    let not_finite = map.tensors.iter().filter_map(broken).collect();
    Ok(Verification { path: file, sha256, compared: expected.is_some(), num_tensors: map.len(), not_finite })
}

/// The hub's cache stores large files as `blobs/<sha256>` and links to them.
fn blob_name(path: &Path) -> Option<String> {
    let real = std::fs::canonicalize(path).ok()?;
    let name = real.file_name()?.to_str()?;
    let in_blobs = real.parent()?.file_name()? == "blobs";
    (in_blobs && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_compare_by_value() {
        let mut names = ["layers.10.a", "layers.2.a", "a", "layers.2", "layers.02.a", "layers.2.b"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["a", "layers.2", "layers.02.a", "layers.2.a", "layers.2.b", "layers.10.a"]);
    }

    #[test]
    fn statistics_leave_out_what_is_not_finite() {
        let tensor = HostTensor::from_f32(vec![5], &[1.0, 3.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let stats = Stats::of(&tensor.expect("five values"));
        assert_eq!(stats, Stats { min: 1.0, max: 3.0, mean: 2.0, std: 1.0, nan: 1, inf: 2 });
    }
}
