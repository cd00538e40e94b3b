//! What can go wrong with a checkpoint, always with the file's name.

use std::path::{Path, PathBuf};

use super::Dtype;
use super::key_file::KeyFileError;
use super::suggest::Nearest;

/// An error of reading, converting or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system could not read or write.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A declared or real size is above what is accepted.
    #[error("{path}: {what} is {found}, more than the {limit} accepted", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is too large.
        what: String,
        /// The size found or declared.
        found: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// The file is none of the formats read here.
    #[error(
        "{path}: not a checkpoint this program reads ({reason})\n\
         hint: safetensors, .npz, .npy, .pth/.pt/.bin/.ckpt, or a folder with one of them",
        path = .path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was seen instead.
        reason: String,
    },
    /// The file belongs to another program.
    #[error("{path}: {what}\nhint: {hint}", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// How weights can be had from it.
        hint: String,
    },
    /// A link that leads nowhere.
    #[error("{path}: a link to {target}, which is not there", path = .path.display(), target = .target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The file holds several sets of weights, and it is not told which one is meant.
    #[error("{path}: {reason}; it holds {sets}\nhint: name the set of weights to take", path = .path.display())]
    Sets {
        /// The file.
        path: PathBuf,
        /// Why none can be taken.
        reason: String,
        /// The sets it holds.
        sets: String,
    },
    /// A tensor has values that are no numbers or are infinite.
    #[error(
        "{path}: tensor `{name}`: {nan} of {count} values are NaN and {infinite} infinite, the first at {first}\n\
         hint: training that diverged leaves such weights; take an earlier checkpoint",
        path = .path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Values that are no number.
        nan: usize,
        /// Values that are infinite, or would be as f32.
        infinite: usize,
        /// All values.
        count: usize,
        /// The first one, counted row by row.
        first: usize,
    },
    /// A value does not fit into the type that is to be written.
    #[error(
        "{path}: tensor `{name}`: {largest:e} is beyond {dtype}, whose largest number is {limit:e}\n\
         hint: write it as {wider}",
        path = .path.display(),
        wider = if *.dtype == Dtype::F16 { "bf16 or f32" } else { "f64" }
    )]
    TooSmallType {
        /// Where the tensor comes from.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its largest magnitude.
        largest: f64,
        /// The type asked for.
        dtype: Dtype,
        /// The largest number of that type.
        limit: f64,
    },
    /// A pattern names no layer.
    #[error("{path}: '{pattern}' matches none of the layers, such as {example}", path = .path.display())]
    NoLayer {
        /// The weights.
        path: PathBuf,
        /// What was asked for.
        pattern: String,
        /// A layer that there is.
        example: String,
    },
    /// The file breaks the rules of its own format.
    #[error("{path}: broken {format}: {reason}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it claims to have.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A folder holds no weights, or more than one file that could be meant.
    #[error("{path}: {reason}\nhint: name the file of weights itself", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A tensor is not what its name asks for.
    #[error("{path}: tensor `{name}`: {reason}", path = .path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The tensor names belong to no known library.
    #[error(
        "{path}: the tensor names are not those of a Vision Transformer this program knows (first: {first})\n\
         {nearest}\n\
         hint: a file of names tells them (--keys FILE); `vitrum checkpoint inspect {path} --suggest-keys` prints one to \
         begin from",
        path = .path.display()
    )]
    Dialect {
        /// The file.
        path: PathBuf,
        /// The first few names.
        first: String,
        /// The naming that is most like them.
        nearest: Box<Nearest>,
    },
    /// A file of names cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// A configuration file states something impossible or unknown.
    #[error("{path}: {reason}", path = .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, naming the key.
        reason: String,
    },
    /// A target exists already and may not be replaced.
    #[error("{path} exists already\nhint: --overwrite, or choose another place", path = .path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// A checksum differs from the one stated for the file.
    #[error("{path}: SHA-256 is {found}, expected {expected}", path = .path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The stated sum, hexadecimal.
        expected: String,
        /// The real sum, hexadecimal.
        found: String,
    },
}

impl LoadError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn too_large(path: &Path, what: impl Into<String>, found: u64, limit: u64) -> Self {
        Self::TooLarge { path: path.to_path_buf(), what: what.into(), found, limit }
    }

    pub(crate) fn format(path: &Path, format: &'static str, reason: impl ToString) -> Self {
        Self::Format { path: path.to_path_buf(), format, reason: shorten(&reason.to_string()) }
    }

    pub(crate) fn unknown(path: &Path, reason: impl Into<String>) -> Self {
        Self::UnknownFormat { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn foreign(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Foreign { path: path.to_path_buf(), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn folder(path: &Path, reason: impl Into<String>) -> Self {
        Self::Folder { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn tensor(path: &Path, name: &str, reason: impl ToString) -> Self {
        Self::Tensor { path: path.to_path_buf(), name: shorten(name), reason: reason.to_string() }
    }

    pub(crate) fn config(path: &Path, reason: impl ToString) -> Self {
        Self::Config { path: path.to_path_buf(), reason: shorten(&reason.to_string()) }
    }

    /// The file or folder the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::TooLarge { path, .. }
            | Self::UnknownFormat { path, .. }
            | Self::Foreign { path, .. }
            | Self::Link { path, .. }
            | Self::Sets { path, .. }
            | Self::NotFinite { path, .. }
            | Self::TooSmallType { path, .. }
            | Self::NoLayer { path, .. }
            | Self::Format { path, .. }
            | Self::Folder { path, .. }
            | Self::Tensor { path, .. }
            | Self::Dialect { path, .. }
            | Self::Config { path, .. }
            | Self::Exists { path }
            | Self::Checksum { path, .. } => path,
            Self::Keys(error) => error.path(),
        }
    }
}

/// Text from a file inside a message: control characters escaped, at most 400 characters.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 400;
    let mut short: String =
        text.chars().take(MOST).map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
