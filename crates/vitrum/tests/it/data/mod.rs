//! Pictures: augmentation, decoding, resizing, preprocessing, datasets, loading.

mod augment;
mod batch;
mod dataset;
pub mod decode;
mod demo;
mod hostile;
mod loader;
pub mod pattern;
mod pictures;
mod preprocess;
mod processor;
mod resize;
mod targets;
mod train_loader;
mod train_set;
mod webdataset;

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file of golden values beside `fixtures/export_pil.py`.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(name)
}

fn golden_lines(name: &str) -> Vec<String> {
    let path = golden(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(String::from).collect()
}

/// The first 16 hex digits of SHA-256.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error:?}"))
}

/// A small PNG, different for every seed.
pub fn png(seed: u64) -> Vec<u8> {
    let image = pattern::pattern(0, seed, 12, 10);
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::write_buffer_with_format(
        &mut bytes,
        image.data(),
        image.width(),
        image.height(),
        image::ExtendedColorType::Rgb8,
        image::ImageFormat::Png,
    )
    .unwrap();
    bytes.into_inner()
}

/// Writes a file and the folders above it.
pub fn write(root: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

/// A tar of files; names are written as they are, however wicked.
pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in members {
        out.extend(tar_header(name, content.len() as u64, tar::EntryType::Regular));
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub fn tar_header(name: &str, size: u64, kind: tar::EntryType) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_cksum();
    *header.as_bytes()
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
