//! Errors of downloads from the hub.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be fetched. No message contains the token or the query of a URL: in a redirect it may be a
/// signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name cannot exist on the hub.
    #[error(
        "`{spec}` does not name a model on the hub: {reason}\nhint: write hf:org/name or hf:org/name@revision"
    )]
    InvalidSpec {
        /// The given name.
        spec: String,
        /// The violated rule.
        reason: String,
    },
    /// The endpoint is not a plain http or https address.
    #[error(
        "the hub's endpoint is not usable: {reason}\nhint: HF_ENDPOINT looks like https://huggingface.co, \
         without user name, query or fragment"
    )]
    InvalidEndpoint {
        /// The violated rule. The address itself is not repeated, because it may hold a password.
        reason: String,
    },
    /// The token cannot be sent in a header.
    #[error(
        "the hub's token holds characters other than visible ASCII\nhint: look at HF_TOKEN or at the token's file"
    )]
    InvalidToken,
    /// Neither options nor environment give a cache directory.
    #[error("there is no home directory to keep the hub's cache in\nhint: set HF_HOME or HF_HUB_CACHE")]
    NoCacheDir,
    /// Offline, and the cache is incomplete.
    #[error(
        "{repo} at revision {revision} is not whole in the cache {} and offline mode is on; missing: {}\n\
         hint: fetch it once while online, for instance with `hf download {repo} --revision {revision}`, \
         or switch offline mode off",
        cache.display(), missing.join(", ")
    )]
    NotCached {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// Names of files, or a sentence if even the revision is unknown.
        missing: Vec<String>,
        /// The cache directory, the parent of `models--org--name`.
        cache: PathBuf,
    },
    /// 404 for the repository, or for its revision if the hub does not say which.
    #[error(
        "{endpoint} has no model {repo} with a revision {revision}\nhint: check the spelling of organisation, name \
         and revision; a private repository {} be seen by this caller",
        if *token_sent { "that this token may not read cannot" } else { "cannot without a token (HF_TOKEN)" }
    )]
    RepoNotFound {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The hub's address.
        endpoint: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },
    /// The repository exists, the revision does not.
    #[error("{repo} has no revision {revision}\nhint: omit the revision for the branch `main`")]
    RevisionNotFound {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The repository lists a file that the hub does not have, or lacks a file that every model needs.
    #[error("{repo} at {revision} has no file {file}{}", hint_if(*required, "not a repository in the timm or transformers layout?"))]
    FileNotFound {
        /// `org/name`.
        repo: String,
        /// Commit.
        revision: String,
        /// Path in the repository.
        file: String,
        /// The repository's list has no such file, as opposed to an answer 404.
        required: bool,
    },
    /// No weights in a supported format.
    #[error(
        "{repo} at {revision} holds no model.safetensors, no model.safetensors.index.json and no pytorch_model.bin\n\
         hint: weights for other frameworks (TensorFlow, Flax, ONNX) are not read; look for a converted revision"
    )]
    NoWeights {
        /// `org/name`.
        repo: String,
        /// Commit.
        revision: String,
    },
    /// 401.
    #[error(
        "the hub does not let this caller see {repo} (401)\nhint: {}",
        if *token_sent {
            "the token was refused: it may have expired or may not cover this repository; make a new one at \
             https://huggingface.co/settings/tokens"
        } else {
            "no token was sent: a private or gated repository needs one (`hf auth login`, or HF_TOKEN); \
             a misspelt name gets the same answer"
        }
    )]
    Unauthorized {
        /// `org/name`.
        repo: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },
    /// 403, or the hub says that the repository is gated.
    #[error(
        "the hub refuses access to {repo}\nhint: {}",
        if *token_sent {
            format!("the repository is gated or the token too narrow; request access at {endpoint}/{repo}")
        } else {
            format!("no token was sent (HF_TOKEN); a gated repository also requires accepting its terms \
                     at {endpoint}/{repo}")
        }
    )]
    Forbidden {
        /// `org/name`.
        repo: String,
        /// The hub's address.
        endpoint: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },
    /// Any unexpected status.
    #[error("{url} answered with status {status}{}", status_hint(*status))]
    Status {
        /// Without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// No connection: refused, unknown host, or closed before an answer.
    #[error("{url} cannot be reached: {reason}\nhint: check the network, the proxy and HF_ENDPOINT")]
    Unreachable {
        /// Without its query.
        url: String,
        /// The network's error.
        reason: String,
    },
    /// No data within the time limit, or too little to finish.
    #[error(
        "{url} was too slow: nothing, or next to nothing, came for {seconds} s\nhint: try again (a download resumes), or raise HF_HUB_DOWNLOAD_TIMEOUT"
    )]
    TimedOut {
        /// Without its query.
        url: String,
        /// The exceeded limit.
        seconds: f64,
    },
    /// The connection closed before the end of the file. Received bytes are kept for a resume.
    #[error("the download of {file} ended after {received} of {expected} bytes\nhint: try again, it resumes")]
    CutOff {
        /// Path in the repository.
        file: String,
        /// Bytes on disk.
        received: u64,
        /// Announced bytes.
        expected: u64,
    },
    /// An answer that violates the hub's protocol.
    #[error(
        "{url}: {reason}\nhint: if HF_ENDPOINT names a mirror or a proxy, it may not speak the hub's protocol"
    )]
    BadAnswer {
        /// Without its query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is above the size limit.
    #[error("{file} of {repo} has {} bytes, more than the limit of {limit}\nhint: raise `max_file_bytes` if this is meant", at_least(*bytes))]
    TooLarge {
        /// `org/name`.
        repo: String,
        /// Path in the repository.
        file: String,
        /// Announced size; `None` if more bytes arrived than allowed.
        bytes: Option<u64>,
        /// In bytes.
        limit: u64,
    },
    /// The bytes differ from the announced ones. They were deleted.
    #[error(
        "{file} of {repo} is damaged: its {algorithm} is {found} and should be {expected}; the download \
         was deleted\nhint: try again; if it stays, something between this machine and the hub changes \
         files"
    )]
    Checksum {
        /// `org/name`.
        repo: String,
        /// Path in the repository.
        file: String,
        /// `sha256` (large files) or `git sha1` (small ones).
        algorithm: &'static str,
        /// Hexadecimal.
        expected: String,
        /// Hexadecimal.
        found: String,
    },
    /// `model.safetensors.index.json` or `pytorch_model.bin.index.json` is not an index.
    #[error("{} is not an index of shards: {reason}", path.display())]
    BadIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process holds the lock on a file and makes no progress.
    #[error(
        "another process has been fetching this file for {seconds:.0} s without progress; its lock is \
         {}\nhint: wait for it or end it; the lock ends with its process", path.display()
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// Time since the other process last wrote.
        seconds: f64,
    },
    /// The disk or the quota is full.
    #[error("no space left to write {} ({bytes} bytes)\nhint: free some, or move the cache with HF_HOME or HF_HUB_CACHE", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Size of the whole file.
        bytes: u64,
    },
    /// Any other error of the cache's files.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl HubError {
    /// Turns a file system's error into [`HubError::Io`].
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                HubError::DiskFull { path: path.to_owned(), bytes: 0 }
            }
            _ => HubError::Io { action, path: path.to_owned(), source },
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            HubError::Unreachable { .. } | HubError::TimedOut { .. } | HubError::CutOff { .. } => true,
            HubError::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn hint_if(condition: bool, hint: &str) -> String {
    if condition { format!("\nhint: {hint}") } else { String::new() }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        429 => "\nhint: too many requests; wait a little, or send a token (HF_TOKEN)",
        500.. => "\nhint: the server is in trouble; try again later",
        _ => "",
    }
}

fn at_least(bytes: Option<u64>) -> String {
    bytes.map_or("more than the announced number of".to_owned(), |bytes| bytes.to_string())
}
