//! What can go wrong between a repository's name and its files on disk.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be fetched. No message contains the token or the query of a URL, which
/// in a redirect may be a signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name is not one that the hub could have.
    #[error(
        "`{spec}` does not name a model on the hub: {reason}\nhint: write hf:org/name or hf:org/name@revision"
    )]
    InvalidSpec {
        /// As it was given.
        spec: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// The endpoint is not a plain http or https address.
    #[error(
        "the hub's endpoint is not usable: {reason}\nhint: HF_ENDPOINT looks like https://huggingface.co, \
         without user name, query or fragment"
    )]
    InvalidEndpoint {
        /// Which rule it breaks; the address itself may hold a password and is not repeated.
        reason: String,
    },
    /// The token cannot be sent in a header.
    #[error(
        "the hub's token holds characters other than visible ASCII\nhint: look at HF_TOKEN or at the token's file"
    )]
    InvalidToken,
    /// Neither the options nor the environment say where the cache is.
    #[error("there is no home directory to keep the hub's cache in\nhint: set HF_HOME or HF_HUB_CACHE")]
    NoCacheDir,
    /// Offline, and the cache does not hold what is needed.
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
        /// Names of files, or a sentence where not even the revision is known.
        missing: Vec<String>,
        /// The cache directory, the one that holds `models--org--name`.
        cache: PathBuf,
    },
    /// 404 for the repository (or, where the hub does not say which, its revision).
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
        /// The hub that was asked.
        endpoint: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },
    /// The repository exists, the revision does not.
    #[error("{repo} has no revision {revision}\nhint: leave the revision away for the branch `main`")]
    RevisionNotFound {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The repository lists a file that the hub then does not have, or lacks one that every model needs.
    #[error("{repo} at {revision} has no file {file}{}", hint_if(*required, "not a repository in the timm or transformers layout?"))]
    FileNotFound {
        /// `org/name`.
        repo: String,
        /// Commit.
        revision: String,
        /// Path in the repository.
        file: String,
        /// No such file in the repository's list of files, as opposed to an answer 404.
        required: bool,
    },
    /// No weights in a form that can be read.
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
            format!("the repository is gated or the token too narrow; ask for access at {endpoint}/{repo}")
        } else {
            format!("no token was sent (HF_TOKEN); a gated repository also wants its terms accepted at {endpoint}/{repo}")
        }
    )]
    Forbidden {
        /// `org/name`.
        repo: String,
        /// The hub that was asked.
        endpoint: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },
    /// Any other status than the ones a download expects.
    #[error("{url} answered with status {status}{}", status_hint(*status))]
    Status {
        /// Without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// No connection: refused, unknown host, cut before an answer came.
    #[error("{url} cannot be reached: {reason}\nhint: check the network, the proxy and HF_ENDPOINT")]
    Unreachable {
        /// Without its query.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// Nothing came for as long as the time limit allows, or so little that it would never end.
    #[error(
        "{url} was too slow: nothing, or next to nothing, came for {seconds} s\nhint: try again (a download resumes), or raise HF_HUB_DOWNLOAD_TIMEOUT"
    )]
    TimedOut {
        /// Without its query.
        url: String,
        /// The limit that was passed.
        seconds: f64,
    },
    /// The connection ended before the file did. What came is kept and resumed.
    #[error("the download of {file} ended after {received} of {expected} bytes\nhint: try again, it resumes")]
    CutOff {
        /// Path in the repository.
        file: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// An answer that the hub's protocol does not allow.
    #[error(
        "{url}: {reason}\nhint: if HF_ENDPOINT names a mirror or a proxy, it may not speak the hub's protocol"
    )]
    BadAnswer {
        /// Without its query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is larger than the limit set for it.
    #[error("{file} of {repo} has {} bytes, more than the limit of {limit}\nhint: raise `max_file_bytes` if this is meant", at_least(*bytes))]
    TooLarge {
        /// `org/name`.
        repo: String,
        /// Path in the repository.
        file: String,
        /// As announced; `None` when more came than was allowed.
        bytes: Option<u64>,
        /// In bytes.
        limit: u64,
    },
    /// The bytes are not the ones that the hub announced. They were deleted.
    #[error(
        "{file} of {repo} is damaged: its {algorithm} is {found} and should be {expected}; the download was deleted\n\
         hint: try again; if it stays, something between here and the hub changes files"
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
        "another process has been fetching this file for {seconds:.0} s without progress; its lock is {}\n\
         hint: wait for it or end it; the lock goes with its process", path.display()
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// Since the other process last wrote something.
        seconds: f64,
    },
    /// The disk is full, or the quota used up.
    #[error("no space left to write {} ({bytes} bytes)\nhint: free some, or move the cache with HF_HOME or HF_HUB_CACHE", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Size of the whole file.
        bytes: u64,
    },
    /// Any other trouble with the cache's files.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
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
