//! NumPy's `.npz` and `.npy`: the formats of Google's published Vision Transformers.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use npyz::npz::{NpzArchive, array_name_from_file_name};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};

use super::entry::{Entry, Listing, Source};
use super::{Limits, at_most, guarded, open};
use crate::checkpoint::tensors::{MAX_RANK, TensorError, count};
use crate::checkpoint::{Dtype, HostTensor, LoadError};

const NPZ: &str = "npz archive";
const NPY: &str = "npy array";

/// Longest array header to parse.
const MAX_HEADER: usize = 16 << 10;

/// The names in a zip archive.
pub(super) fn entry_names(path: &Path) -> Result<Vec<String>, LoadError> {
    guarded(path, "zip archive", || {
        let mut archive = open_archive(path, "zip archive")?;
        Ok(archive.zip_archive().file_names().map(str::to_string).collect())
    })
}

/// Checks that a zip archive does not unpack to far more than its size.
pub(super) fn check_archive(path: &Path, limits: &Limits) -> Result<(), LoadError> {
    guarded(path, "zip archive", || {
        let mut archive = open_archive(path, "zip archive")?;
        check_sizes(path, &mut archive, limits)
    })
}

/// A zip archive.
pub(super) type Zip = NpzArchive<BufReader<File>>;

pub(super) fn open_archive(path: &Path, format: &'static str) -> Result<Zip, LoadError> {
    let (file, _) = open(path)?;
    NpzArchive::new(BufReader::new(file)).map_err(|e| LoadError::format(path, format, e))
}

fn check_sizes(path: &Path, archive: &mut Zip, limits: &Limits) -> Result<(), LoadError> {
    let limit = limits.unpacked(open(path)?.1);
    let zip = archive.zip_archive();
    // PyTorch writes a few small entries besides one per tensor.
    let most = limits.tensors.saturating_add(100);
    at_most(path, "the number of entries", zip.len(), most)?;
    let mut total = 0u64;
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(|e| LoadError::format(path, "zip archive", e))?;
        total = total.saturating_add(entry.size());
    }
    if total > limit {
        return Err(LoadError::too_large(path, "the unpacked size in bytes", total, limit));
    }
    Ok(())
}

/// The arrays of an `.npz` file, by their names without `.npy`.
pub(super) fn list(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    guarded(path, NPZ, || {
        let mut archive = open_archive(path, NPZ)?;
        check_sizes(path, &mut archive, limits)?;
        let zip = archive.zip_archive();
        let mut listing = Listing::new(u64::MAX);
        let file = Arc::new(path.to_path_buf());
        for i in 0..zip.len() {
            let entry = zip.by_index(i).map_err(|e| LoadError::format(path, NPZ, e))?;
            let Some(name) = array_name_from_file_name(entry.name()).map(str::to_string) else { continue };
            let size = entry.size();
            let mut bytes = Vec::new();
            entry
                .take(size.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(|e| LoadError::format(path, NPZ, format!("`{name}`: {e}")))?;
            if bytes.len() as u64 != size {
                let reason = format!("`{name}` announces {size} bytes and holds {}", bytes.len());
                return Err(LoadError::format(path, NPZ, reason));
            }
            let entry = held(&file, array(path, &name, &bytes)?);
            if listing.entries.insert(name.clone(), entry).is_some() {
                return Err(LoadError::tensor(path, &name, "occurs twice in the archive"));
            }
        }
        Ok(listing)
    })
}

/// A tensor with its values in memory.
pub(super) fn held(file: &Arc<PathBuf>, tensor: HostTensor) -> Entry {
    let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
    Entry { file: file.clone(), dtype, shape, source: Source::Memory(tensor) }
}

/// The array of an `.npy` file, with the file's name.
pub(super) fn list_npy(path: &Path) -> Result<Listing, LoadError> {
    let (mut file, length) = open(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut bytes = Vec::with_capacity(length as usize);
    file.read_to_end(&mut bytes).map_err(|e| LoadError::io(path, e))?;
    let mut listing = Listing::new(u64::MAX);
    let tensor = guarded(path, NPY, || array(path, &name, &bytes))?;
    listing.entries.insert(name, held(&Arc::new(path.to_path_buf()), tensor));
    Ok(listing)
}

/// One array: header, then elements.
fn array(path: &Path, name: &str, bytes: &[u8]) -> Result<HostTensor, LoadError> {
    let broken = |reason: String| LoadError::format(path, NPY, format!("`{name}`: {reason}"));
    check_header(bytes).map_err(|reason| broken(reason.into()))?;
    let mut rest = bytes;
    let header = NpyHeader::from_reader(&mut rest).map_err(|e| broken(e.to_string()))?;
    let mut shape = header
        .shape()
        .iter()
        .map(|&n| usize::try_from(n))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| broken("an axis is too long".into()))?;
    let (dtype, big_endian) = dtype(&header.dtype()).map_err(|what| LoadError::tensor(path, name, what))?;
    let fail = |e: TensorError| LoadError::tensor(path, name, e);
    count(&shape).map_err(fail)?;
    let mut data = rest.to_vec();
    if big_endian {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.order() == Order::C {
        return HostTensor::new(dtype, shape, data).map_err(fail);
    }
    // Fortran order is row order with reversed axes.
    shape.reverse();
    let axes: Vec<usize> = (0..shape.len()).rev().collect();
    HostTensor::new(dtype, shape, data).and_then(|t| t.permute(&axes)).map_err(fail)
}

/// Refuses a header that would make the parser allocate or recurse without bound.
fn check_header(bytes: &[u8]) -> Result<(), &'static str> {
    const DEEPEST: usize = 4; // `{'shape': (…)}` has 2, a structured type 3.
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("not an array in NumPy's format");
    }
    let (at, length) = match bytes.get(6) {
        Some(1) => (10, bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))),
        Some(2 | 3) => (12, bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)),
        _ => return Err("unknown version of NumPy's format"),
    };
    let length = length.ok_or("ends inside its header")?;
    if length > MAX_HEADER {
        return Err("its header is longer than 16 KiB");
    }
    let text = bytes.get(at..at + length).ok_or("ends inside its header")?;
    let mut depth = 0usize;
    for byte in text {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err("its header is nested too deeply");
        }
    }
    // `(1, 2, 3)` has at most one comma per axis; the others are the dictionary's.
    match text.iter().filter(|&&b| b == b',').count() > 4 * MAX_RANK {
        true => Err("its header has too many items"),
        false => Ok(()),
    }
}

/// Our type for NumPy's type, and whether bytes are big-endian.
fn dtype(dtype: &DType) -> Result<(Dtype, bool), String> {
    let refused = || format!("type {} is not read", dtype.descr());
    let DType::Plain(kind) = dtype else { return Err(refused()) };
    let ours = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 8) => Dtype::F64,
        (TypeChar::Float, 4) => Dtype::F32,
        (TypeChar::Float, 2) => Dtype::F16,
        // JAX's bfloat16; NumPy stores it as two raw bytes.
        (TypeChar::RawData, 2) => Dtype::BF16,
        (TypeChar::Int, 8) => Dtype::I64,
        (TypeChar::Int, 4) => Dtype::I32,
        (TypeChar::Int, 2) => Dtype::I16,
        (TypeChar::Int, 1) => Dtype::I8,
        (TypeChar::Uint, 8) => Dtype::U64,
        (TypeChar::Uint, 4) => Dtype::U32,
        (TypeChar::Uint, 2) => Dtype::U16,
        (TypeChar::Uint, 1) => Dtype::U8,
        (TypeChar::Bool, 1) => Dtype::Bool,
        _ => return Err(refused()),
    };
    Ok((ours, kind.endianness() == Endianness::Big))
}
