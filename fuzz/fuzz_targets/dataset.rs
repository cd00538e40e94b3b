//! Writes bytes to a file and reads it as a dataset; included by the targets of the single formats.

use vitrum::data::{DatasetOptions, open_dataset};

/// Reads the bytes as a file of that name, at most a thousand samples.
pub fn read(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    let Ok(mut source) = open_dataset(&path, &DatasetOptions::default()) else { return };
    for _ in 0..1000 {
        match source.next_sample() {
            Ok(Some(sample)) => assert!(!sample.name.is_empty()),
            Ok(None) | Err(_) => break,
        }
    }
}
