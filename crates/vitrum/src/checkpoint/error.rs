//! Errors of checkpoints, each with the file's name.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Dtype;
use super::keys::EDITS;
use crate::models::ModelConfig;

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
    /// A declared or real size is above the limit.
    #[error("{path}: {what} is {found}, more than the {limit} accepted", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is too large.
        what: String,
        /// The size found or declared.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The file has none of the supported formats.
    #[error(
        "{path}: not a checkpoint this program reads ({reason})\n\
         hint: safetensors, .npz, .npy, .pth/.pt/.bin/.ckpt, or a folder with one of them",
        path = .path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The file belongs to another program.
    #[error("{path}: {what}\nhint: {hint}", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// How to get weights from it.
        hint: String,
    },
    /// A format that this build does not read.
    #[error("{path}: {what}, which this build does not read\nhint: build with the feature `{feature}`", path = .path.display())]
    NotBuilt {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// The missing feature.
        feature: &'static str,
    },
    /// A link without a target.
    #[error("{path}: a link to {target}, which is not there", path = .path.display(), target = .target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// The file holds several sets of weights and the choice is not clear.
    #[error("{path}: {reason}; it holds {sets}\nhint: name the set of weights to take", path = .path.display())]
    Sets {
        /// The file.
        path: PathBuf,
        /// Why there is no clear choice.
        reason: String,
        /// The sets it holds.
        sets: String,
    },
    /// A tensor has values that are NaN or infinite.
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
        /// Number of NaNs.
        nan: usize,
        /// Number of values that are infinite, or would be as f32.
        infinite: usize,
        /// Number of all values.
        count: usize,
        /// Index of the first one, row by row.
        first: usize,
    },
    /// A value does not fit into the type to be written.
    #[error(
        "{path}: tensor `{name}`: {largest:e} is beyond {dtype}, whose largest number is {limit:e}\n\
         hint: write it as {wider}",
        path = .path.display(),
        wider = if *.dtype == Dtype::F16 { "bf16 or f32" } else { "f64" }
    )]
    TooSmallType {
        /// The source of the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its largest magnitude.
        largest: f64,
        /// The requested type.
        dtype: Dtype,
        /// The largest number of that type.
        limit: f64,
    },
    /// A pattern matches no layer.
    #[error("{path}: '{pattern}' matches none of the layers, such as {example}", path = .path.display())]
    NoLayer {
        /// The weights.
        path: PathBuf,
        /// The requested pattern.
        pattern: String,
        /// A layer that exists.
        example: String,
    },
    /// The file violates its own format.
    #[error("{path}: broken {format}: {reason}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A folder holds no weights, or more than one candidate.
    #[error("{path}: {reason}\nhint: name the file of weights itself", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A tensor does not fit its name.
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
        "{path}: the tensor names are not those of a model this program knows (first: {first})\n\
         {nearest}\n\
         hint: a key file names them",
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
    /// A key file cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// A configuration file is invalid.
    #[error("{path}: {reason}", path = .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        reason: String,
    },
    /// Tensors do not show a field of the configuration, and there is no usual value.
    #[error(
        "{path}: {reason}\nhint: name the model, or state {field} in a key file",
        path = .path.display()
    )]
    Unshown {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// The field.
        field: &'static str,
    },
    /// A target exists and must not be replaced.
    #[error("{path} exists already", path = .path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// The file's checksum differs from the expected one.
    #[error("{path}: SHA-256 is {found}, expected {expected}", path = .path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The expected sum, hexadecimal.
        expected: String,
        /// The actual sum, hexadecimal.
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

    #[cfg(not(feature = "pytorch"))]
    pub(crate) fn not_built(path: &Path, what: &'static str, feature: &'static str) -> Self {
        Self::NotBuilt { path: path.to_path_buf(), what, feature }
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

    pub(crate) fn unshown(path: &Path, field: &'static str, reason: impl ToString) -> Self {
        Self::Unshown { path: path.to_path_buf(), reason: reason.to_string(), field }
    }

    /// The file or folder of the error.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::TooLarge { path, .. }
            | Self::UnknownFormat { path, .. }
            | Self::Foreign { path, .. }
            | Self::NotBuilt { path, .. }
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
            | Self::Unshown { path, .. }
            | Self::Exists { path }
            | Self::Checksum { path, .. } => path,
            Self::Keys(error) => error.path(),
        }
    }
}

/// Why a [`KeyFile`](super::KeyFile) is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(Box<LoadError>),
    /// A folder instead of a file.
    #[error("{path}: a folder; names of tensors are read from a TOML file", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// No key at all.
    #[error("{path}: empty; a key file has `rows`, `prefix`, `left_out`, `family` or `[config]`", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line of the file.
    #[error("{path}:{line}: {fault}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        fault: KeyFault,
    },
}

/// What is wrong with a line of a [`KeyFile`](super::KeyFile).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// No TOML, an unknown key, or a value of the wrong kind.
    #[error("{0}")]
    Toml(String),
    /// A row of another length.
    #[error("a row is [name in the file, name here] or [name in the file, name here, edit]")]
    Row,
    /// A name that is empty, or has `{{N}}` more than once.
    #[error("'{0}': a name is not empty, and its braces are numbers: {{N}}, {{M}}, {{N+1}}, {{2N+1}}")]
    Name(String),
    /// A number in one name of a row and not in the other.
    #[error("the numbers of both names must be the same: a letter in one is in the other")]
    Number,
    /// A name that an earlier row has.
    #[error("'{0}' is in an earlier row")]
    Double(String),
    /// No edit of this name.
    #[error("unknown edit '{0}'; there are {known}", known = EDITS.map(|(name, _)| name).join(", "))]
    Edit(String),
    /// No family of this name.
    #[error("unknown family '{0}'; there are {known}", known = ModelConfig::FAMILIES.join(", "))]
    Family(String),
    /// No field of this name, or a value that it does not take.
    #[error("{0}")]
    Field(String),
}

impl KeyFileError {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read(error) => error.path(),
            Self::Folder { path } | Self::Empty { path } | Self::Line { path, .. } => path,
        }
    }
}

/// The naming that most names of a file are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The library.
    pub library: &'static str,
    /// Names of the file that its rows fit, behind some prefix.
    pub matched: usize,
    /// Names of the file.
    pub names: usize,
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { library, matched, names } = self;
        match matched {
            0 => write!(f, "none of {names} names is like a known one"),
            _ => write!(f, "nearest are the names of {library}: {matched} of {names}"),
        }
    }
}

/// Text from a file for a message: control characters escaped, at most 400 characters.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 400;
    let mut short: String =
        text.chars().take(MOST).map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
