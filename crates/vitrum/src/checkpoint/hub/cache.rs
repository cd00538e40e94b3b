//! The cache on disk, with the layout of `huggingface_hub/file_download.py`.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hf_hub::{Cache, CacheRepo};

use super::{
    CONFIG, HubError, INDEX, MAX_INDEX_BYTES, PICKLE, PICKLE_INDEX, PREPROCESSOR, WEIGHTS, Wanted, is_commit,
};

/// The same text as Python's. It makes backup programs skip the cache.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by huggingface_hub.\n\
    # For information about cache directory tags, see:\n\
    #\thttps://bford.info/cachedir/\n";

/// Wait between attempts to take a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// One repository's place in the cache.
pub(super) struct RepoCache {
    /// The cache directory.
    pub root: PathBuf,
    /// `<root>/models--org--name`.
    folder: PathBuf,
    /// `<root>/.locks/models--org--name`.
    locks: PathBuf,
    paths: CacheRepo,
}

/// The state of a revision in the cache.
pub(super) enum Held {
    /// Complete: for every optional file the cache holds the file or a note that there is none.
    Whole(PathBuf),
    /// Configuration and weights are present, but the repository may hold more (a `preprocessor_config.json`, or
    /// better weights than `pytorch_model.bin`).
    Usable(PathBuf),
    /// Names of the missing files, or what else is missing.
    Missing(Vec<String>),
}

impl RepoCache {
    pub fn new(root: PathBuf, wanted: &Wanted) -> Self {
        let repo = wanted.at(&wanted.revision);
        let name = repo.folder_name();
        let paths = Cache::new(root.clone()).repo(repo);
        Self { folder: root.join(&name), locks: root.join(".locks").join(&name), root, paths }
    }

    /// `snapshots/<commit>`.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.paths.pointer_path(commit)
    }

    /// `blobs/<etag>`.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.paths.blob_path(etag)
    }

    /// The state of a branch, a tag or a commit in the cache.
    pub fn look(&self, revision: &str) -> Result<Held, HubError> {
        let Some(commit) = self.commit_of(revision)? else {
            return Ok(Held::Missing(vec![format!("the revision {revision} itself")]));
        };
        let snapshot = self.snapshot(&commit);
        let has = |file: &str| snapshot.join(file).is_file();
        let known_absent = |file: &str| self.absent_mark(&commit, file).exists();
        let mut missing: Vec<String> = Vec::new();
        if !has(CONFIG) {
            missing.push(CONFIG.to_owned());
        }
        let best_weights = if has(WEIGHTS) {
            true
        } else if has(INDEX) {
            missing.extend(shards_of(&snapshot.join(INDEX))?.into_iter().filter(|shard| !has(shard)));
            true
        } else if has(PICKLE) {
            known_absent(WEIGHTS) && known_absent(INDEX)
        } else if has(PICKLE_INDEX) {
            let shards = shards_of(&snapshot.join(PICKLE_INDEX))?;
            missing.extend(shards.into_iter().filter(|shard| !has(shard)));
            [WEIGHTS, INDEX, PICKLE].into_iter().all(known_absent)
        } else {
            missing.push(format!("{WEIGHTS} (or {INDEX} with its shards, or {PICKLE})"));
            false
        };
        Ok(match missing.is_empty() {
            false => Held::Missing(missing),
            true if best_weights && (has(PREPROCESSOR) || known_absent(PREPROCESSOR)) => {
                Held::Whole(snapshot)
            }
            true => Held::Usable(snapshot),
        })
    }

    /// The commit in `refs/<revision>`, or the revision itself if it is one.
    fn commit_of(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.folder.join("refs").join(revision);
        match fs::read_to_string(&path) {
            Ok(commit) => Ok(Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(HubError::io("read", &path)(error)),
        }
    }

    /// Writes `refs/<revision>` atomically. A commit needs none.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.commit_of(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        create_parent(&path)?;
        static UNFINISHED: AtomicU64 = AtomicU64::new(0);
        let number = UNFINISHED.fetch_add(1, Ordering::Relaxed);
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(format!(".{}-{number}.tmp", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        fs::write(&unfinished, commit).map_err(HubError::io("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(HubError::io("write", &path))
    }

    fn absent_mark(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// Notes that the repository has no such file. A read-only cache gets no note.
    pub fn mark_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.absent_mark(commit, file);
        match create_parent(&path).and_then(|()| fs::write(&path, "").map_err(HubError::io("write", &path))) {
            Err(HubError::Io { source, .. }) if is_denied(&source) => Ok(()),
            result => result,
        }
    }

    /// Makes `snapshots/<commit>/<file>` a link to the blob and returns its path. If symbolic links fail, the file
    /// is hard-linked or copied.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, HubError> {
        let (pointer, blob) = (self.snapshot(commit).join(file), self.blob(etag));
        create_parent(&pointer)?;
        if same_file(&pointer, &blob) {
            return Ok(pointer);
        }
        match fs::remove_file(&pointer) {
            Err(error) if !is_absent(&error) => return Err(HubError::io("replace", &pointer)(error)),
            _ => {}
        }
        let target = Path::new("..").join("..").join("blobs").join(etag);
        let linked = symlink(&target, &pointer)
            .or_else(|_| fs::hard_link(&blob, &pointer))
            .or_else(|_| fs::copy(&blob, &pointer).map(|_| ()));
        match linked {
            Err(_) if same_file(&pointer, &blob) => Ok(pointer), // another process was faster
            Err(error) => Err(HubError::io("write", &pointer)(error)),
            Ok(()) => Ok(pointer),
        }
    }

    /// Takes the lock on a blob, the same lock as Python's. Waits while its holder makes progress, and at most
    /// `patience` without progress.
    pub fn lock(&self, etag: &str, patience: Duration) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        self.tag_cachedir();
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(HubError::io("open", &path))?;
        let (mut seen, mut since) = (self.bytes_of(etag), Instant::now());
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {}
                // Some file systems have no locks. The worst result is a second download: every blob is verified
                // before it gets its name.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(lock);
                }
                Err(TryLockError::Error(error)) => return Err(HubError::io("lock", &path)(error)),
            }
            let now = self.bytes_of(etag);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > patience {
                return Err(HubError::Locked { path, seconds: since.elapsed().as_secs_f64() });
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// Bytes of a blob so far, in all unfinished files: Python adds a random part to their names.
    fn bytes_of(&self, etag: &str) -> u64 {
        let Ok(blobs) = fs::read_dir(self.folder.join("blobs")) else { return 0 };
        let of_etag =
            |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(etag));
        blobs.flatten().filter(of_etag).filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
    }

    /// For backup programs. A failure is ignored.
    fn tag_cachedir(&self) {
        let path = self.root.join("CACHEDIR.TAG");
        if !path.exists() {
            let _ = fs::write(path, CACHEDIR_TAG);
        }
    }
}

/// The shards in an index, each once, in order. A shard must be beside its index: a name with a folder is refused.
/// Only `.safetensors` files are allowed, or `.bin` files in an index of such.
pub(super) fn shards_of(index: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let bad = |reason: String| HubError::BadIndex { path: index.to_owned(), reason };
    let file = File::open(index).map_err(HubError::io("read", index))?;
    let mut text = Vec::new();
    file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut text).map_err(HubError::io("read", index))?;
    if text.len() as u64 > MAX_INDEX_BYTES {
        return Err(bad(format!("it is larger than {MAX_INDEX_BYTES} bytes")));
    }
    let parsed: Index = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(bad("it names no shard".to_owned()));
    }
    let is_pickle = index.file_name().is_some_and(|name| name == PICKLE_INDEX);
    let ending = if is_pickle { ".bin" } else { ".safetensors" };
    match shards.iter().find(|shard| !is_shard_name(shard, ending)) {
        Some(shard) => Err(bad(format!("{shard:?} is not the plain name of a {ending} file"))),
        None => Ok(shards),
    }
}

fn is_shard_name(name: &str, ending: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.len() <= 200 && !name.starts_with('.') && name.ends_with(ending) && name.chars().all(known)
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io("create", parent))
}

/// Whether both paths lead to the same file; false if either is missing.
fn same_file(pointer: &Path, blob: &Path) -> bool {
    match (pointer.canonicalize(), blob.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
