//! Pictures: decoding, resizing, preprocessing, datasets, loading.

mod decode;
mod pattern;
mod preprocess;
mod resize;

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
