//! Features on disk: one safetensors file for each [`fingerprint`](super::fingerprint).
//!
//! ```text
//! train.labels [N] i64    train.features [N, D] f32    train.names: a JSON list, as bytes
//! val.labels   [M] i64    val.features   [M, D] f32    val.names
//! metadata: fingerprint; classes and bad (unreadable images with reasons) as JSON lists
//! ```
//!
//! A file is named after its fingerprint, and holds it too. So features of other weights or images are never taken for
//! these. A file that is not whole is computed and written anew.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::error::ProbeError;
use super::features::{FeatureSet, Features, Part, check_size};
use crate::checkpoint::LoadError;
use crate::checkpoint::write::write_atomically_with;
use crate::data::loader::BadSample;

/// The tensors in the order of the file: wide numbers first, so that each begins at a multiple of its size.
const TENSORS: [(&str, &str); 6] = [
    ("train.labels", "I64"),
    ("val.labels", "I64"),
    ("train.features", "F32"),
    ("val.features", "F32"),
    ("train.names", "U8"),
    ("val.names", "U8"),
];
/// The largest header that readers of safetensors take.
const MAX_HEADER: u64 = 100_000_000;
/// Numbers converted at a time.
const CHUNK: usize = 1 << 16;

/// The file of features in a folder.
pub fn file(folder: &Path, fingerprint: &str) -> PathBuf {
    folder.join(format!("{}.safetensors", &fingerprint[..fingerprint.len().min(32)]))
}

/// Writes features, and the folder if it is missing.
///
/// # Errors
/// The system's errors.
pub fn write(path: &Path, fingerprint: &str, features: &Features) -> Result<(), LoadError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| LoadError::io(folder, error))?;
    }
    let (train, val) = (&features.train, &features.val);
    let names = [train, val].map(|set| json!(set.names()).to_string());
    let shapes = [
        vec![train.len()],
        vec![val.len()],
        vec![train.len(), train.dim()],
        vec![val.len(), val.dim()],
        vec![names[0].len()],
        vec![names[1].len()],
    ];
    let bad: Vec<[&str; 2]> = features.bad.iter().map(|bad| [&*bad.name, &*bad.reason]).collect();
    let mut header = Map::from_iter([(
        "__metadata__".to_string(),
        json!({
            "fingerprint": fingerprint,
            "classes": json!(features.classes).to_string(),
            "bad": json!(bad).to_string(),
        }),
    )]);
    let mut end = 0;
    for ((name, dtype), shape) in TENSORS.into_iter().zip(shapes) {
        let bytes = shape.iter().product::<usize>() * width(dtype);
        header.insert(
            name.into(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes] }),
        );
        end += bytes;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically_with(path, |file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for label in [train, val].into_iter().flat_map(FeatureSet::labels) {
            file.write_all(&(*label as i64).to_le_bytes())?;
        }
        for value in [train, val].into_iter().flat_map(FeatureSet::values) {
            file.write_all(&value.to_le_bytes())?;
        }
        names.iter().try_for_each(|names| file.write_all(names.as_bytes()))?;
        file.flush()
    })
}

fn width(dtype: &str) -> usize {
    match dtype {
        "I64" => 8,
        "F32" => 4,
        _ => 1,
    }
}

/// The features with this fingerprint, if the file has them; `None` if there is no such file, or it is not whole.
///
/// # Errors
/// [`ProbeError::TooLarge`].
pub fn read(path: &Path, fingerprint: &str, limit: u64) -> Result<Option<Features>, ProbeError> {
    let Ok(Some((header, mut data))) = open(path) else { return Ok(None) };
    let words = &header["__metadata__"];
    if words["fingerprint"].as_str() != Some(fingerprint) {
        return Ok(None);
    }
    let shapes = TENSORS.map(|(name, _)| shape(&header, name).unwrap_or_default());
    let [[images], [others], [rows, dim], [more_rows, other_dim], names, more] =
        &shapes.each_ref().map(Vec::as_slice)
    else {
        return Ok(None);
    };
    if [rows, more_rows, other_dim] != [images, others, dim] {
        return Ok(None);
    }
    check_size(images.saturating_add(*others), *dim, limit)?;
    let mut found = || -> Option<Features> {
        let [train_labels, val_labels] = [labels(&mut data, *images).ok()?, labels(&mut data, *others).ok()?];
        let [train, val] = [floats(&mut data, images * dim).ok()?, floats(&mut data, others * dim).ok()?];
        let mut listed = |bytes: &[usize]| -> Option<Vec<String>> {
            let mut text = vec![0; *bytes.first()?];
            data.read_exact(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        };
        let [train_names, val_names] = [listed(names)?, listed(more)?];
        let train = FeatureSet::new(Part::Train, *dim, train, train_labels, train_names).ok()?;
        let val = FeatureSet::new(Part::Validation, *dim, val, val_labels, val_names).ok()?;
        let features =
            Features::new(train, val, serde_json::from_str(words["classes"].as_str()?).ok()?).ok()?;
        let bad: Vec<[String; 2]> = serde_json::from_str(words["bad"].as_str()?).ok()?;
        let bad = bad.into_iter().map(|[name, reason]| BadSample { name, reason }).collect();
        Some(Features { bad, reused: Some(path.to_path_buf()), ..features })
    };
    Ok(found())
}

/// The shape of a tensor in the header.
fn shape(header: &Value, name: &str) -> Option<Vec<usize>> {
    serde_json::from_value(header.get(name)?.get("shape")?.clone()).ok()
}

/// The header, and the reader behind it, if the file is as long as the header says.
fn open(path: &Path) -> io::Result<Option<(Value, BufReader<File>)>> {
    let file = File::open(path)?;
    let whole = file.metadata()?.len();
    let mut data = BufReader::with_capacity(1 << 20, file);
    let mut length = [0; 8];
    data.read_exact(&mut length)?;
    let long = u64::from_le_bytes(length);
    if long > MAX_HEADER.min(whole) {
        return Ok(None);
    }
    let mut header = Vec::new();
    (&mut data).take(long).read_to_end(&mut header)?;
    let Ok(header) = serde_json::from_slice::<Value>(&header) else { return Ok(None) };
    let bytes = |(name, dtype): (&str, &str)| {
        let numbers = shape(&header, name)?.into_iter().try_fold(1, usize::checked_mul)?;
        numbers.checked_mul(width(dtype)).map(|bytes| bytes as u64)
    };
    let rest = TENSORS.into_iter().map(bytes).try_fold(8 + long, |sum, bytes| sum.checked_add(bytes?));
    Ok((rest == Some(whole)).then_some((header, data)))
}

fn labels(data: &mut impl Read, count: usize) -> io::Result<Vec<usize>> {
    let mut labels = Vec::with_capacity(count);
    let mut bytes = [0; 8];
    for _ in 0..count {
        data.read_exact(&mut bytes)?;
        labels.push(usize::try_from(i64::from_le_bytes(bytes)).map_err(io::Error::other)?);
    }
    Ok(labels)
}

fn floats(data: &mut impl Read, count: usize) -> io::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(count);
    let mut bytes = vec![0; 4 * CHUNK];
    while values.len() < count {
        let part = &mut bytes[..4 * CHUNK.min(count - values.len())];
        data.read_exact(part)?;
        values.extend(part.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    Ok(values)
}
