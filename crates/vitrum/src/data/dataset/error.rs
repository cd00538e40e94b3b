//! Datasets that cannot be read.

use std::path::{Path, PathBuf};

/// The dataset cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct DatasetError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: DatasetProblem,
}

/// What is wrong with a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetProblem {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Its kind is unknown.
    #[error(
        "not a dataset: {0}\n  hint: give a folder of class folders, a .csv or .tsv, a .tar, \
         CIFAR's or MNIST's binary files, or `demo`"
    )]
    Unknown(String),
    /// A known kind that is not supported.
    #[error("{what}, which is not read\n  hint: {hint}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// How to convert it.
        hint: &'static str,
    },
    /// An empty file.
    #[error("the file is empty")]
    Empty,
    /// No images in it.
    #[error("no images found{0}")]
    NoImages(String),
    /// An archive, in a build that reads none.
    #[cfg(not(feature = "tar"))]
    #[error("an archive, which this build does not read\n  hint: build with the feature `tar`")]
    NoTar,
    /// An error of a source of your own.
    #[error("{0}")]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// A table without a single image at its path.
    #[error(
        "none of its images is in {}; the first is {first}\n  hint: name the folder that the paths are relative to",
        if folder.as_os_str().is_empty() { Path::new(".") } else { folder }.display()
    )]
    Elsewhere {
        /// The folder that the paths are relative to.
        folder: PathBuf,
        /// The first path.
        first: String,
    },
    /// Several splits, or not the requested one.
    #[error("{found}\n  hint: the splits present are {}; choose one", available.join(", "))]
    Split {
        /// The requested one.
        found: String,
        /// The splits present.
        available: Vec<String>,
    },
    /// Its content contradicts its format.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Larger than any sensible dataset of its kind.
    #[error("{what}: {found} is more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A row of a table is invalid.
    #[error("line {line}: {reason}")]
    Row {
        /// Line number, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The table lacks columns that were named as those of its targets.
    #[error("no column {}; the columns besides the path are {}", quoted(missing), quoted(header))]
    TargetColumns {
        /// The names without a column.
        missing: Vec<String>,
        /// The names of the columns that may hold targets.
        header: Vec<String>,
    },
    /// A member of an archive is invalid.
    #[error("member `{name}`: {reason}")]
    Member {
        /// The member.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A WebDataset sample with more than one picture.
    #[error(
        "key `{key}`: several pictures, the second is `{second}`\n  hint: a sample is one picture and its label; a key \
         ends at the first dot of the file's name"
    )]
    SeveralImages {
        /// The common key of the sample's members.
        key: String,
        /// The second picture.
        second: String,
    },
    /// A shard of a range is missing.
    #[error(
        "{} is missing ({missing} of {of} shards are)\n  hint: check the range in braces, or fetch the shard again",
        first.display()
    )]
    MissingShard {
        /// The first missing one.
        first: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many the range names.
        of: usize,
    },
    /// No archive matches the pattern.
    #[error(
        "no .tar, .tar.gz or .tgz matches the pattern\n  \
        hint: `*` and `?` match parts of a file's name, not of a folder's"
    )]
    NoShards,
    /// The class map is invalid.
    #[error("class map: {0}")]
    ClassMap(String),
    /// The table's header has no column of paths.
    #[error(
        "no column of paths in the header: {}\n  hint: name it `file`, `path`, `image` or `filename`, or another of its \
         usual names",
        header.join(", ")
    )]
    Header {
        /// The names of the columns.
        header: Vec<String>,
    },
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl DatasetProblem {
    /// The problem as the error of `path`.
    pub fn at(self, path: impl Into<PathBuf>) -> DatasetError {
        DatasetError { path: path.into(), problem: self }
    }
}
