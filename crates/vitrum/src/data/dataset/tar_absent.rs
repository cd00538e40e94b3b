//! Archives in a build without the feature `tar`: recognised and refused.

use std::path::{Path, PathBuf};

use super::{DatasetError, DatasetOptions, DatasetProblem, Skipped, Source, Split};

/// Whether a file that begins with these bytes is a tar.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

pub(super) fn open(path: &Path, _: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
    Err(DatasetProblem::NoTar.at(path))
}

pub(super) fn open_shards(
    given: &Path,
    _: Vec<PathBuf>,
    _: &DatasetOptions,
    _: Skipped,
) -> Result<Box<dyn Source>, DatasetError> {
    Err(DatasetProblem::NoTar.at(given))
}

pub(super) fn splits_in(path: &Path) -> Result<Vec<Split>, DatasetError> {
    Err(DatasetProblem::NoTar.at(path))
}
