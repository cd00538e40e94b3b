//! Models from the Hugging Face hub: downloaded, verified, and kept in the cache of Python's `huggingface_hub`.
//!
//! `hf:org/name@revision` → the snapshot folder, with `config.json`, `preprocessor_config.json` if the repository
//! has one, and the weights. Nothing else is downloaded.
//!
//! ```text
//! <cache>/models--org--name/refs/main                        the last known commit of `main`
//! <cache>/models--org--name/snapshots/<commit>/config.json → ../../blobs/<etag>
//! <cache>/models--org--name/blobs/<etag>                     etag = SHA-256, or git's SHA-1 for small files
//! <cache>/models--org--name/.no_exist/<commit>/<file>        the repository has no such file
//! <cache>/.locks/models--org--name/<etag>.lock               held while a blob is written
//! ```
//!
//! The crate `hf-hub` gives the names: URLs, folders, the form of the hub's answers. Its downloader (0.5.0) has no
//! time limits, verifies neither checksum nor `Content-Range`, and sends the token to the host of a redirect. So
//! `client.rs` makes the requests.

mod cache;
mod client;
mod error;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cache::{Held, RepoCache};
use client::Client;
pub use error::HubError;
use hf_hub::{Repo, RepoType};

/// The public hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLE: &str = "pytorch_model.bin";
const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";

/// Size limits for files that are read into memory.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
const MAX_INDEX_BYTES: u64 = 64 << 20;

pub use super::load::Progress;

/// Download options. [`HubOptions::from_env`] reads the variables of Python's `huggingface_hub`;
/// [`HubOptions::default`] reads nothing.
#[derive(Clone)]
pub struct HubOptions {
    /// Use the cache only.
    pub offline: bool,
    /// Ask the hub even if the cache holds the revision. Otherwise a branch stays at its first downloaded commit,
    /// and a complete snapshot is used without a request.
    pub refresh: bool,
    /// Address of the hub, [`DEFAULT_ENDPOINT`] by default.
    pub endpoint: String,
    /// The folder that holds `models--org--name`; `None` is `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// The token. It is sent only to the endpoint's scheme, host and port.
    pub token: Option<String>,
    /// Branch, tag or commit if the spec names none; `None` is `main`.
    pub revision: Option<String>,
    /// Reports download progress, in the thread that called [`fetch`], about once per 128 KiB.
    pub progress: Option<Progress>,
    /// Limit on one connection attempt, one answer's header, one read of a body. The limit is six times as long for
    /// a very slow server, and for another process without progress. A whole download has no limit.
    pub timeout: Duration,
    /// Number of retries of a failed request.
    pub retries: u32,
    /// Wait before the first retry; doubled each time, at most ten seconds.
    pub backoff: Duration,
    /// Size limit of a file, in bytes. Default 50 GB, Python's limit on plain HTTP.
    pub max_file_bytes: u64,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            offline: false,
            refresh: false,
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            cache_dir: None,
            token: None,
            revision: None,
            progress: None,
            timeout: Duration::from_secs(10),
            retries: 4,
            backoff: Duration::from_millis(300),
            max_file_bytes: 50_000_000_000,
        }
    }
}

/// Omits the token.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("offline", &self.offline)
            .field("refresh", &self.refresh)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("revision", &self.revision)
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("backoff", &self.backoff)
            .field("max_file_bytes", &self.max_file_bytes)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// Options from the process's environment; see [`HubOptions::from_vars`].
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var(name).ok())
    }

    /// Options from variables, as in `huggingface_hub/constants.py`: `HF_HUB_CACHE` (`HUGGINGFACE_HUB_CACHE`),
    /// `HF_HOME`, `XDG_CACHE_HOME`; `HF_ENDPOINT`; `HF_TOKEN` (`HUGGING_FACE_HUB_TOKEN`), `HF_TOKEN_PATH`, the file
    /// `token` in `HF_HOME`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_OFFLINE` (`TRANSFORMERS_OFFLINE`);
    /// `HF_HUB_DOWNLOAD_TIMEOUT` in seconds. An empty variable counts as unset. Paths expand `~`, `$NAME` and
    /// `${NAME}`. `var` returns a variable by name.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let home = set("HOME").map(PathBuf::from).or_else(std::env::home_dir);
        let path = |name: &str| set(name).map(|value| expand(&value, home.as_deref(), var));
        let xdg = || path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| Some(xdg()?.join("huggingface")));
        let cache_dir = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hf_home.as_ref()?.join("hub")));
        let token_path = path("HF_TOKEN_PATH").or_else(|| Some(hf_home.as_ref()?.join("token")));
        let token_in_file = || std::fs::read_to_string(token_path?).ok();
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(token_in_file);
        let defaults = Self::default();
        Self {
            offline: is_true(set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE"))),
            endpoint: set("HF_ENDPOINT").unwrap_or(defaults.endpoint),
            cache_dir,
            token: token
                .map(|token| token.replace(['\r', '\n'], "").trim().to_owned())
                .filter(|token| !token.is_empty() && !is_true(set("HF_HUB_DISABLE_IMPLICIT_TOKEN"))),
            timeout: set("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|seconds| seconds.trim().parse().ok())
                .filter(|seconds| *seconds > 0)
                .map_or(defaults.timeout, Duration::from_secs),
            ..defaults
        }
    }

    fn cache_dir(&self) -> Result<PathBuf, HubError> {
        let default = || Some(std::env::home_dir()?.join(".cache/huggingface/hub"));
        let dir = self.cache_dir.clone().or_else(default).ok_or(HubError::NoCacheDir)?;
        std::path::absolute(&dir).map_err(HubError::io("find", &dir))
    }
}

/// Whether [`fetch`] handles `spec`: it begins with `hf:` or `hf-hub:`.
pub fn is_hub_spec(spec: &str) -> bool {
    strip_scheme(spec).is_some()
}

/// The snapshot folder of a model. Downloads what the cache lacks.
///
/// `spec` is `hf:org/name` or `hf:org/name@revision` (`hf-hub:` works too); the revision is a branch, a tag or a
/// commit. The folder holds `config.json`, `preprocessor_config.json` if the repository has one, and the weights:
/// `model.safetensors`, or `model.safetensors.index.json` with its shards, or, if there is neither,
/// `pytorch_model.bin` in one file or in shards. A complete snapshot from Python is used without a request. If the
/// hub cannot be reached, a snapshot with configuration and weights is used.
///
/// Every downloaded file is checked against the hub's checksum before it enters the cache. Interrupted downloads
/// resume. Several processes may fetch the same model at once.
pub fn fetch(spec: &str, options: &HubOptions) -> Result<PathBuf, HubError> {
    let wanted = Wanted::parse(spec, options)?;
    let cache = RepoCache::new(options.cache_dir()?, &wanted);
    let held = cache.look(&wanted.revision)?;
    let usable = match held {
        Held::Whole(snapshot) if options.offline || !options.refresh => return Ok(snapshot),
        Held::Usable(snapshot) if options.offline => return Ok(snapshot),
        Held::Whole(snapshot) | Held::Usable(snapshot) => Some(snapshot),
        Held::Missing(missing) if options.offline => {
            let Wanted { repo, revision } = wanted;
            return Err(HubError::NotCached { repo, revision, missing, cache: cache.root });
        }
        Held::Missing(_) => None,
    };
    let client = Client::new(options, usable.is_some())?;
    match (download(&wanted, &cache, &client), usable) {
        (Err(error), Some(snapshot)) if error.is_transient() => Ok(snapshot),
        (result, _) => result,
    }
}

/// Downloads one commit's files into the cache. The revision's name moves to the commit last, so an interrupted
/// update keeps the old snapshot.
fn download(wanted: &Wanted, cache: &RepoCache, client: &Client) -> Result<PathBuf, HubError> {
    let listing = client.listing(wanted)?;
    let commit = listing.sha.as_str();
    let has = |file: &str| listing.siblings.iter().any(|sibling| sibling.rfilename == file);
    let get = |file: &str, limit: u64| client.file_into(cache, wanted, commit, file, limit);

    if !has(CONFIG) {
        let (repo, revision, file) = (wanted.repo.clone(), commit.to_owned(), CONFIG.to_owned());
        return Err(HubError::FileNotFound { repo, revision, file, required: true });
    }
    get(CONFIG, MAX_CONFIG_BYTES)?;
    if has(PREPROCESSOR) {
        get(PREPROCESSOR, MAX_CONFIG_BYTES)?;
    } else {
        cache.mark_absent(commit, PREPROCESSOR)?;
    }
    if has(WEIGHTS) {
        get(WEIGHTS, client.max_file_bytes)?;
    } else if has(INDEX) {
        for shard in cache::shards_of(&get(INDEX, MAX_INDEX_BYTES)?)? {
            get(&shard, client.max_file_bytes)?;
        }
    } else if has(PICKLE) {
        cache.mark_absent(commit, WEIGHTS)?;
        cache.mark_absent(commit, INDEX)?;
        get(PICKLE, client.max_file_bytes)?;
    } else if has(PICKLE_INDEX) {
        [WEIGHTS, INDEX, PICKLE].into_iter().try_for_each(|file| cache.mark_absent(commit, file))?;
        for shard in cache::shards_of(&get(PICKLE_INDEX, MAX_INDEX_BYTES)?)? {
            get(&shard, client.max_file_bytes)?;
        }
    } else {
        return Err(HubError::NoWeights { repo: wanted.repo.clone(), revision: commit.to_owned() });
    }
    cache.set_ref(&wanted.revision, commit)?;
    Ok(cache.snapshot(commit))
}

/// A repository and a revision, both valid parts of paths and URLs.
#[derive(Debug, Clone)]
struct Wanted {
    repo: String,
    revision: String,
}

impl Wanted {
    fn parse(spec: &str, options: &HubOptions) -> Result<Self, HubError> {
        let fail = |reason: &str| HubError::InvalidSpec { spec: spec.to_owned(), reason: reason.to_owned() };
        let name = strip_scheme(spec).ok_or_else(|| fail("it does not begin with hf:"))?;
        let (repo, revision) = match (name.split_once('@'), &options.revision) {
            (Some((_, of_spec)), Some(of_options)) if of_spec != of_options => {
                return Err(fail(&format!("another revision is requested as well, `{of_options}`")));
            }
            (Some((repo, revision)), _) => (repo, revision),
            (None, revision) => (name, revision.as_deref().unwrap_or("main")),
        };
        check_repo(repo).map_err(fail)?;
        check_revision(revision).map_err(fail)?;
        Ok(Self { repo: repo.to_owned(), revision: revision.to_owned() })
    }

    /// The repository as a type of `hf-hub`, at `revision`.
    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }
}

fn strip_scheme(spec: &str) -> Option<&str> {
    spec.strip_prefix("hf:").or_else(|| spec.strip_prefix("hf-hub:"))
}

/// The rules of `huggingface_hub/utils/_validators.py:validate_repo_id`.
fn check_repo(repo: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = repo.split('/').collect();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let at_edge = |c: char| matches!(c, '-' | '.');
    if parts.len() > 2 {
        return Err("a repository is `org/name` or `name`");
    }
    if parts.iter().any(|part| part.is_empty() || part.len() > 96) {
        return Err("organisation and name have 1 to 96 characters each");
    }
    if !parts.iter().all(|part| part.chars().all(known)) {
        return Err("names are made of letters, digits, `-`, `_` and `.`");
    }
    if parts.iter().any(|part| part.starts_with(at_edge) || part.ends_with(at_edge)) {
        return Err("a name neither begins nor ends with `-` or `.`");
    }
    if repo.contains("--") || repo.contains("..") || repo.ends_with(".git") {
        return Err("`--`, `..` and a final `.git` are not allowed");
    }
    Ok(())
}

/// Git's rules for a reference's name, slightly stricter.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    if revision.is_empty() || revision.len() > 200 {
        return Err("a revision has 1 to 200 characters");
    }
    if !revision.chars().all(known) {
        return Err("a revision is made of letters, digits, `-`, `_`, `.`, `+` and `/`");
    }
    let bad = |part: &str| {
        part.is_empty() || part.starts_with(['.', '-']) || part.ends_with('.') || part.contains("..")
    };
    if revision.split('/').any(bad) || revision.ends_with(".lock") {
        return Err("the parts of a revision are not empty, do not begin or end with `.` and hold no `..`");
    }
    Ok(())
}

/// Whether `revision` is a full commit, 40 hexadecimal digits in lower case.
fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

/// Whether `text` is `digits` hexadecimal digits in lower case.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

/// Python's `expandvars(expanduser(path))`, without `~user`. Unknown variables stay as they are.
fn expand(path: &str, home: Option<&std::path::Path>, var: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let mut out = String::new();
    let mut rest = path;
    if let (Some(after), Some(home)) = (path.strip_prefix('~'), home.and_then(|home| home.to_str()))
        && (after.is_empty() || after.starts_with('/'))
    {
        out.push_str(home);
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, tail) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(braced) => braced,
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(end)
            }
        };
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[before.len()..rest.len() - tail.len()]),
        }
        rest = tail;
    }
    out.push_str(rest);
    PathBuf::from(out)
}
