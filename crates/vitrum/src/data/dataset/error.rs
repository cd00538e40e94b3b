//! Datasets that cannot be read.

use std::path::PathBuf;

/// A dataset that cannot be read.
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
pub enum DatasetProblem {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is of no known kind.
    #[error(
        "not a dataset: {0}\n  hint: give a folder of class folders, a .csv or .tsv, a .tar, \
         CIFAR's or MNIST's binary files, or `demo`"
    )]
    Unknown(String),
    /// It is known and not read.
    #[error("{what}, which is not read\n  hint: {hint}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// How to come to a form that is read.
        hint: &'static str,
    },
    /// A file without content.
    #[error("the file is empty")]
    Empty,
    /// There is nothing in it.
    #[error("no images found{0}")]
    NoImages(String),
    /// Several splits, or not the one asked for.
    #[error("{found}\n  hint: the splits present are {}; choose one", available.join(", "))]
    Split {
        /// What was asked for.
        found: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The content contradicts its format.
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
    /// A row of a table.
    #[error("line {line}: {reason}")]
    Row {
        /// Line number, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A member of an archive.
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
        /// What the sample's members share.
        key: String,
        /// The picture that is too many.
        second: String,
    },
    /// A shard of a range is missing.
    #[error(
        "{} is missing ({missing} of {of} shards are)\n  hint: check the range in braces, or fetch the shard again",
        first.display()
    )]
    MissingShard {
        /// The first one.
        first: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many the range names.
        of: usize,
    },
    /// A pattern that no archive fits.
    #[error(
        "no .tar, .tar.gz or .tgz fits the pattern\n  hint: `*` and `?` stand for parts of a file's name, not of a folder's"
    )]
    NoShards,
    /// A class map.
    #[error("class map: {0}")]
    ClassMap(String),
    /// The first line of a table is a header without a column of paths.
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

impl DatasetProblem {
    pub(super) fn at(self, path: impl Into<PathBuf>) -> DatasetError {
        DatasetError { path: path.into(), problem: self }
    }
}
