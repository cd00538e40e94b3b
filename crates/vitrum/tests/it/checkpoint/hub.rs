//! Fetching from a hub: a small one in this file, on the loopback address.
#![cfg(feature = "hub")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::Sha256;
use tempfile::TempDir;
use vitrum::checkpoint::hub::{HubError, HubOptions, fetch, is_hub_spec};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const COMMIT_2: &str = "89abcdef0123456789abcdef0123456789abcdef";
const TOKEN: &str = "hf_secretSECRETsecret";
/// `org/vit` in the cache.
const FOLDER: &str = "models--org--vit";
const SPEC: &str = "hf:org/vit";

// ---------------------------------------------------------------------------------------------
// The hub

/// One request as the hub saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    authorization: Option<String>,
    range: Option<String>,
}

/// What goes wrong with a request; used up by it.
#[derive(Clone, Debug)]
enum Fault {
    /// A status, with headers.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The body's last byte is another.
    Flip,
    /// The range is ignored: 200 and the whole file.
    Whole,
    /// No answer for so long.
    Stall(Duration),
    /// The body comes in single bytes, one each 20 ms.
    Drip,
    /// More bytes than announced in `X-Linked-Size`.
    More,
}

#[derive(Default)]
struct Shelf {
    /// Commit of each branch.
    refs: HashMap<String, String>,
    /// Content of (commit, path).
    files: HashMap<(String, String), Vec<u8>>,
    /// Replaces the ETag of a path.
    etags: HashMap<String, String>,
    /// (method, part of the path, fault), each used once.
    faults: Vec<(&'static str, &'static str, Fault)>,
    /// Requests without this token get 401.
    wants_token: bool,
    /// Where large files are sent from; on the hub itself where there is none.
    cdn: Option<SocketAddr>,
    /// A fixed `Location` for every resolve.
    location: Option<String>,
    seen: Vec<Seen>,
}

struct Hub {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    fn start() -> Self {
        Self::with(Shelf::default())
    }

    /// A hub whose branch `main` holds these files.
    fn holding(files: &[(&str, &[u8])]) -> Self {
        let hub = Self::start();
        hub.put("main", COMMIT, files);
        hub
    }

    fn with(shelf: Shelf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (shelf, stop) = (Arc::new(Mutex::new(shelf)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (shelf, stop) = (shelf.clone(), stop.clone());
            move || serve(&listener, &shelf, &stop)
        });
        Self { address, shelf, stop, thread: Some(thread) }
    }

    fn put(&self, branch: &str, commit: &str, files: &[(&str, &[u8])]) {
        let mut shelf = self.shelf.lock().unwrap();
        shelf.refs.insert(branch.to_owned(), commit.to_owned());
        for (path, content) in files {
            shelf.files.insert((commit.to_owned(), (*path).to_owned()), content.to_vec());
        }
    }

    fn fault(&self, method: &'static str, path: &'static str, fault: Fault) {
        self.shelf.lock().unwrap().faults.push((method, path, fault));
    }

    fn seen(&self) -> Vec<Seen> {
        self.shelf.lock().unwrap().seen.clone()
    }

    fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
    }

    /// The `Range` of every GET of a path.
    fn ranges(&self, part: &str) -> Vec<Option<String>> {
        let asked = |seen: &Seen| seen.method == "GET" && seen.path.contains(part);
        self.seen().into_iter().filter(asked).map(|seen| seen.range).collect()
    }

    fn options(&self, cache: &TempDir) -> HubOptions {
        HubOptions {
            endpoint: format!("http://{}", self.address),
            cache_dir: Some(cache.path().to_owned()),
            timeout: Duration::from_secs(5),
            backoff: Duration::from_millis(1),
            ..HubOptions::default()
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Takes connections until told to stop, at most two minutes.
fn serve(listener: &TcpListener, shelf: &Arc<Mutex<Shelf>>, stop: &AtomicBool) {
    let began = Instant::now();
    while !stop.load(Ordering::SeqCst) && began.elapsed() < Duration::from_secs(120) {
        match listener.accept() {
            Ok((stream, _)) => {
                let shelf = shelf.clone();
                std::thread::spawn(move || drop(answer(stream, &shelf)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// One request, one answer, end of connection.
fn answer(stream: TcpStream, shelf: &Mutex<Shelf>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let Some(seen) = read_request(&stream)? else { return Ok(()) };
    let (reply, fault) = {
        let mut shelf = shelf.lock().unwrap();
        shelf.seen.push(seen.clone());
        let matches =
            |(method, part, _): &(&str, &str, Fault)| *method == seen.method && seen.path.contains(part);
        let fault = shelf.faults.iter().position(matches).map(|at| shelf.faults.remove(at).2);
        (reply(&shelf, &seen, fault.as_ref()), fault)
    };
    send(stream, &seen, reply, fault.as_ref())
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream.take(64 << 10)).lines();
    let Some(first) = lines.next() else { return Ok(None) };
    let first = first?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen { method, path, authorization: None, range: None };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                seen.authorization = Some(value.to_owned());
            }
            Some((name, value)) if name.eq_ignore_ascii_case("range") => seen.range = Some(value.to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    Ok(Some(seen))
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: headers.into(), body: body.into() }
    }
}

fn reply(shelf: &Shelf, seen: &Seen, fault: Option<&Fault>) -> Reply {
    if let Some(Fault::Status(status, headers)) = fault {
        return Reply::new(*status, *headers, "no");
    }
    let path = seen.path.split('?').next().unwrap();
    if let Some(name) = path.strip_prefix("/cdn/") {
        let content = shelf.files.values().find(|content| sha256(content) == name).unwrap();
        return content_reply(seen, content, "ETag: \"0123-cdn\"\r\n", fault);
    }
    if shelf.wants_token && seen.authorization.as_deref() != Some(&format!("Bearer {TOKEN}")) {
        return Reply::new(401, "", "Invalid username or password.");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/vit/revision/") {
        return listing(shelf, &revision.replace("%2F", "/"));
    }
    let Some((commit, file)) = path.strip_prefix("/org/vit/resolve/").and_then(|rest| rest.split_once('/'))
    else {
        return Reply::new(404, "X-Error-Code: RepoNotFound\r\n", "Repository not found");
    };
    let Some(content) = shelf.files.get(&(commit.to_owned(), file.to_owned())) else {
        return Reply::new(404, "X-Error-Code: EntryNotFound\r\n", "Entry not found");
    };
    resolve(shelf, seen, commit, file, content, fault)
}

fn listing(shelf: &Shelf, revision: &str) -> Reply {
    let commit = shelf.refs.get(revision).map_or(revision, String::as_str);
    let paths: Vec<_> = shelf.files.keys().filter(|(of, _)| of == commit).map(|(_, path)| path).collect();
    if paths.is_empty() {
        return Reply::new(404, "X-Error-Code: RevisionNotFound\r\n", "Revision not found");
    }
    let siblings: Vec<_> = paths.iter().map(|path| serde_json::json!({ "rfilename": path })).collect();
    let body = serde_json::json!({ "id": "org/vit", "sha": commit, "siblings": siblings, "private": false });
    Reply::new(200, "Content-Type: application/json\r\n", body.to_string())
}

/// Small files come from here, large ones (`.safetensors`, `.bin`) by a redirect to the CDN.
fn resolve(
    shelf: &Shelf,
    seen: &Seen,
    commit: &str,
    file: &str,
    content: &[u8],
    fault: Option<&Fault>,
) -> Reply {
    let commit = format!("X-Repo-Commit: {commit}\r\n");
    let is_large = file.ends_with(".safetensors") || file.ends_with(".bin");
    let etag = shelf.etags.get(file).cloned();
    if let Some(location) = &shelf.location {
        return Reply::new(302, format!("{commit}Location: {location}\r\n"), "");
    }
    if !is_large {
        let etag = etag.unwrap_or_else(|| git_sha1(content));
        return content_reply(seen, content, &format!("{commit}ETag: W/\"{etag}\"\r\n"), fault);
    }
    let sha = sha256(content);
    let etag = etag.unwrap_or_else(|| sha.clone());
    let size = content.len();
    let linked = format!("{commit}X-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {size}\r\n");
    let host = shelf.cdn.map(|address| format!("http://{address}")).unwrap_or_default();
    Reply::new(302, format!("{linked}Location: {host}/cdn/{sha}?Signature=veryPRIVATE\r\n"), "")
}

fn content_reply(seen: &Seen, content: &[u8], headers: &str, fault: Option<&Fault>) -> Reply {
    let mut content = content.to_vec();
    let size = content.len();
    match fault {
        Some(Fault::Flip) => *content.last_mut().unwrap() ^= 1,
        Some(Fault::More) => content.extend([0; 1000]),
        _ => {}
    }
    let start =
        seen.range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match start {
        Some(start) if !matches!(fault, Some(Fault::Whole)) => {
            let range = format!("{headers}Content-Range: bytes {start}-{}/{size}\r\n", size - 1);
            Reply::new(206, range, &content[start..])
        }
        _ => Reply::new(200, headers, content),
    }
}

fn send(mut stream: TcpStream, seen: &Seen, reply: Reply, fault: Option<&Fault>) -> std::io::Result<()> {
    if let Some(Fault::Stall(time)) = fault {
        std::thread::sleep(*time);
    }
    let Reply { status, headers, body } = reply;
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    match fault {
        _ if seen.method == "HEAD" => {}
        Some(Fault::Cut(bytes)) => stream.write_all(&body[..*bytes])?,
        Some(Fault::Drip) => {
            for byte in &body {
                stream.write_all(&[*byte])?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        _ => stream.write_all(&body)?,
    }
    stream.flush()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest;
    hex(&Sha256::digest(content))
}

fn git_sha1(content: &[u8]) -> String {
    use sha1::Digest;
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

// ---------------------------------------------------------------------------------------------
// What the hub holds, and small helpers

/// Not all equal, so that a wrong offset shows.
fn weights(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

const CONFIG: &[u8] = b"{\"architectures\": [\"ViTForImageClassification\"]}";
const PREPROCESSOR: &[u8] = b"{\"image_mean\": [0.5, 0.5, 0.5]}";

fn usual() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", CONFIG.to_vec()),
        ("preprocessor_config.json", PREPROCESSOR.to_vec()),
        ("model.safetensors", weights(300_000)),
        ("pytorch_model.bin", weights(1000)),
        ("tf_model.h5", weights(1000)),
        ("README.md", b"# A model".to_vec()),
    ]
}

fn usual_hub() -> Hub {
    let files = usual();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, content)| (*path, content.as_slice())).collect();
    Hub::holding(&files)
}

fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Every file and link under a folder, relative, sorted; folders are left out.
fn tree(root: &Path) -> Vec<String> {
    let mut paths: Vec<String> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned())
        .collect();
    paths.sort();
    paths
}

fn blobs(cache: &TempDir) -> Vec<String> {
    let folder = cache.path().join(FOLDER).join("blobs");
    if folder.exists() { tree(&folder) } else { Vec::new() }
}

fn assert_whole(snapshot: &Path) {
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), CONFIG);
    assert_eq!(fs::read(snapshot.join("preprocessor_config.json")).unwrap(), PREPROCESSOR);
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), weights(300_000));
}

/// No message, plain or for debugging, may hold a secret.
fn message(error: &HubError) -> String {
    let text = error.to_string();
    for secret in [TOKEN, "veryPRIVATE"] {
        assert!(!text.contains(secret) && !format!("{error:?}").contains(secret), "{error:?}");
    }
    text
}

// ---------------------------------------------------------------------------------------------
// Fetching and the cache

#[test]
fn the_checksum_of_small_files_is_gits() {
    // `printf 'hello\n' | git hash-object --stdin`
    assert_eq!(git_sha1(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
}

#[test]
fn first_fetch_makes_pythons_layout_and_the_second_asks_nobody() {
    let (hub, cache) = (usual_hub(), cache());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let calls = calls.clone();
        Arc::new(move |name: &str, done, total| calls.lock().unwrap().push((name.to_owned(), done, total)))
    };
    let options = HubOptions { progress: Some(progress), ..hub.options(&cache) };

    let snapshot = fetch(SPEC, &options).unwrap();
    assert_eq!(snapshot, cache.path().join(FOLDER).join("snapshots").join(COMMIT));
    assert_whole(&snapshot);
    let sha = sha256(&weights(300_000));
    let (config, preprocessor) = (git_sha1(CONFIG), git_sha1(PREPROCESSOR));
    let mut expected = vec![
        "CACHEDIR.TAG".to_owned(),
        format!("{FOLDER}/blobs/{sha}"),
        format!("{FOLDER}/blobs/{config}"),
        format!("{FOLDER}/blobs/{preprocessor}"),
        format!("{FOLDER}/refs/main"),
        format!("{FOLDER}/snapshots/{COMMIT}/config.json"),
        format!("{FOLDER}/snapshots/{COMMIT}/model.safetensors"),
        format!("{FOLDER}/snapshots/{COMMIT}/preprocessor_config.json"),
        format!(".locks/{FOLDER}/{sha}.lock"),
        format!(".locks/{FOLDER}/{config}.lock"),
        format!(".locks/{FOLDER}/{preprocessor}.lock"),
    ];
    expected.sort();
    assert_eq!(tree(cache.path()), expected);
    assert_eq!(fs::read_to_string(cache.path().join(FOLDER).join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.join("model.safetensors")).unwrap(),
        PathBuf::from(format!("../../blobs/{sha}"))
    );

    let calls = calls.lock().unwrap();
    let of_weights: Vec<_> = calls.iter().filter(|(name, ..)| name == "model.safetensors").collect();
    assert!(of_weights.len() >= 3 && of_weights.is_sorted_by_key(|(_, done, _)| *done), "{of_weights:?}");
    assert!(of_weights.iter().all(|(.., total)| *total == 300_000));
    assert_eq!(of_weights.last().unwrap().1, 300_000);

    let before = hub.seen().len();
    assert_eq!(fetch("hf-hub:org/vit@main", &options).unwrap(), snapshot);
    assert_eq!(fetch(&format!("hf:org/vit@{COMMIT}"), &options).unwrap(), snapshot);
    assert_eq!(hub.seen().len(), before);
    drop(hub);
    assert_eq!(fetch(SPEC, &options).unwrap(), snapshot);
}

#[test]
fn offline_uses_the_cache_and_says_what_is_missing() {
    let (hub, cache) = (usual_hub(), cache());
    let options = HubOptions { offline: true, ..hub.options(&cache) };

    let error = fetch(SPEC, &options).unwrap_err();
    assert!(
        matches!(&error, HubError::NotCached { repo, revision, .. } if repo == "org/vit" && revision == "main")
    );
    assert!(
        message(&error).contains("the revision main itself")
            && message(&error).contains("hint: fetch it once")
    );
    assert!(tree(cache.path()).is_empty(), "offline mode writes nothing");

    let snapshot = fetch(SPEC, &hub.options(&cache)).unwrap();
    let asked = hub.seen().len();
    assert_eq!(fetch(SPEC, &options).unwrap(), snapshot);
    fs::remove_file(cache.path().join(FOLDER).join("blobs").join(sha256(&weights(300_000)))).unwrap();
    let error = fetch(SPEC, &options).unwrap_err();
    let HubError::NotCached { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(missing.len(), 1);
    assert!(missing[0].starts_with("model.safetensors"), "a link to nothing is a missing file: {missing:?}");
    assert_eq!(hub.seen().len(), asked);

    assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
}

/// As Python's `hf_hub_download` leaves it after fetching two files and asking for a third.
#[test]
fn a_cache_made_by_python_is_found() {
    let (hub, cache) = (usual_hub(), cache());
    let folder = cache.path().join(FOLDER);
    let snapshot = folder.join("snapshots").join(COMMIT);
    for dir in ["blobs", "refs"] {
        fs::create_dir_all(folder.join(dir)).unwrap();
    }
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for (name, content) in [("config.json", CONFIG.to_vec()), ("model.safetensors", weights(300_000))] {
        fs::write(folder.join("blobs").join(sha256(&content)), &content).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(format!("../../blobs/{}", sha256(&content)), snapshot.join(name)).unwrap();
        #[cfg(not(unix))]
        fs::write(snapshot.join(name), &content).unwrap();
    }
    let offline = HubOptions { offline: true, ..hub.options(&cache) };
    assert_eq!(fetch(SPEC, &offline).unwrap(), snapshot);
    assert!(hub.seen().is_empty());

    // Online, whether there is a preprocessor_config.json is worth one question, and only the file that lacks is
    // fetched.
    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), snapshot);
    assert_whole(&snapshot);
    let paths: Vec<String> = hub.seen().into_iter().map(|seen| seen.path).collect();
    let file = format!("/org/vit/resolve/{COMMIT}/preprocessor_config.json");
    assert_eq!(paths, ["/api/models/org/vit/revision/main", &file, &file]);

    // The note that Python leaves about a file that a repository does not have.
    fs::remove_file(snapshot.join("preprocessor_config.json")).unwrap();
    fs::create_dir_all(folder.join(".no_exist").join(COMMIT)).unwrap();
    fs::write(folder.join(".no_exist").join(COMMIT).join("preprocessor_config.json"), "").unwrap();
    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), snapshot);
    assert_eq!(hub.seen().len(), 3);
}

#[test]
fn pickled_weights_are_the_last_resort() {
    let (pickle, cache) = (weights(5000), cache());
    let hub = Hub::holding(&[("config.json", CONFIG), ("pytorch_model.bin", &pickle), ("model.onnx", b"x")]);
    let snapshot = fetch(SPEC, &hub.options(&cache)).unwrap();
    assert_eq!(tree(&snapshot), ["config.json", "pytorch_model.bin"]);
    let asked = hub.seen().len();
    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), snapshot);
    assert_eq!(hub.seen().len(), asked, "what the repository lacks is remembered");

    let without = Hub::holding(&[("config.json", CONFIG), ("flax_model.msgpack", b"x")]);
    let cache = self::cache();
    let error = fetch(SPEC, &without.options(&cache)).unwrap_err();
    assert!(matches!(&error, HubError::NoWeights { .. }) && message(&error).contains("hint: "), "{error}");

    let without = Hub::holding(&[("model.safetensors", &pickle)]);
    let cache = self::cache();
    let error = fetch(SPEC, &without.options(&cache)).unwrap_err();
    assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == "config.json"), "{error}");
}

#[test]
fn shards_that_torch_saved_come_where_there_are_no_others() {
    let index = br#"{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}"#;
    let (one, two, cache) = (weights(2000), weights(3000), cache());
    let files: [(&str, &[u8]); 4] = [
        ("config.json", CONFIG),
        ("pytorch_model.bin.index.json", index),
        ("pytorch_model-00001-of-00002.bin", &one),
        ("pytorch_model-00002-of-00002.bin", &two),
    ];
    let hub = Hub::holding(&files);
    let snapshot = fetch(SPEC, &hub.options(&cache)).unwrap();
    assert_eq!(fs::read(snapshot.join("pytorch_model-00002-of-00002.bin")).unwrap(), two);
    assert_eq!(tree(&snapshot).len(), 4);
    let asked = hub.seen().len();
    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), snapshot);
    assert_eq!(hub.seen().len(), asked, "the snapshot is known to be whole");
    let bad = br#"{"weight_map": {"a": "model.safetensors"}}"#;
    let hub = Hub::holding(&[("config.json", CONFIG), ("pytorch_model.bin.index.json", bad)]);
    let error = fetch(SPEC, &hub.options(&self::cache())).unwrap_err();
    assert!(matches!(&error, HubError::BadIndex { .. }), "{error}");
}

#[test]
fn a_sharded_model_comes_whole() {
    let index = br#"{"metadata": {"total_size": 9}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",
        "c": "model-00001-of-00002.safetensors"}}"#;
    let (one, two, cache) = (weights(2000), weights(3000), cache());
    let hub = Hub::holding(&[
        ("config.json", CONFIG),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", &one),
        ("model-00002-of-00002.safetensors", &two),
        ("model-00003-of-00002.safetensors", &two),
    ]);
    let snapshot = fetch(SPEC, &hub.options(&cache)).unwrap();
    assert_eq!(fs::read(snapshot.join("model-00001-of-00002.safetensors")).unwrap(), one);
    assert_eq!(fs::read(snapshot.join("model-00002-of-00002.safetensors")).unwrap(), two);
    assert_eq!(tree(&snapshot).len(), 4, "the shard that the index does not name is not fetched");
    let asked = hub.seen().len();
    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), snapshot);
    assert_eq!(hub.seen().len(), asked);

    fs::remove_file(snapshot.join("model-00002-of-00002.safetensors")).unwrap();
    let error = fetch(SPEC, &HubOptions { offline: true, ..hub.options(&cache) }).unwrap_err();
    let HubError::NotCached { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(missing, &["model-00002-of-00002.safetensors"]);

    hub.shelf
        .lock()
        .unwrap()
        .files
        .remove(&(COMMIT.to_owned(), "model-00002-of-00002.safetensors".to_owned()));
    let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
    assert!(
        matches!(&error, HubError::FileNotFound { file, .. } if file == "model-00002-of-00002.safetensors")
    );
}

#[test]
fn a_branch_moves_only_when_asked_and_only_as_a_whole() {
    let (hub, cache) = (usual_hub(), cache());
    let old = fetch(SPEC, &hub.options(&cache)).unwrap();
    let new_weights = weights(4000);
    let new_files: [(&str, &[u8]); 3] = [
        ("config.json", CONFIG),
        ("preprocessor_config.json", PREPROCESSOR),
        ("model.safetensors", &new_weights),
    ];
    hub.put("main", COMMIT_2, &new_files);
    let refresh = HubOptions { refresh: true, retries: 0, ..hub.options(&cache) };

    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), old);
    hub.fault("GET", "/cdn/", Fault::Cut(100));
    assert_eq!(fetch(SPEC, &refresh).unwrap(), old, "an interrupted update leaves the old snapshot");
    assert_eq!(fetch(SPEC, &HubOptions { offline: true, ..hub.options(&cache) }).unwrap(), old);
    let new = fetch(SPEC, &refresh).unwrap();
    assert!(new.ends_with(COMMIT_2));
    assert_eq!(fs::read(new.join("model.safetensors")).unwrap(), new_weights);
    assert_eq!(hub.count("GET", "config.json"), 2, "unchanged files are linked, not fetched again");
    assert_whole(&old);
    assert_eq!(fetch(SPEC, &hub.options(&cache)).unwrap(), new);

    hub.put("refs/pr/1", COMMIT_2, &[]);
    assert_eq!(fetch("hf:org/vit@refs/pr/1", &hub.options(&cache)).unwrap(), new);
    assert_eq!(fs::read_to_string(cache.path().join(FOLDER).join("refs/refs/pr/1")).unwrap(), COMMIT_2);
}

// ---------------------------------------------------------------------------------------------
// Broken downloads

#[test]
fn a_cut_download_resumes() {
    let (hub, cache) = (usual_hub(), cache());
    let once = HubOptions { retries: 0, ..hub.options(&cache) };
    hub.fault("GET", "/cdn/", Fault::Cut(123_456));
    let error = fetch(SPEC, &once).unwrap_err();
    assert!(matches!(&error, HubError::CutOff { received: 123_456, expected: 300_000, .. }), "{error}");
    assert!(message(&error).contains("hint: try again, it resumes"));
    let part =
        cache.path().join(FOLDER).join("blobs").join(format!("{}.incomplete", sha256(&weights(300_000))));
    assert_eq!(fs::read(&part).unwrap(), weights(300_000)[..123_456]);

    assert_whole(&fetch(SPEC, &once).unwrap());
    assert!(!part.exists());
    let ranges = hub.ranges("/cdn/");
    assert_eq!(ranges, [None, Some("bytes=123456-".to_owned())]);
}

#[test]
fn a_cut_download_resumes_within_one_fetch() {
    let (hub, cache) = (usual_hub(), cache());
    hub.fault("GET", "/cdn/", Fault::Cut(100_000));
    hub.fault("GET", "/cdn/", Fault::Cut(50_000));
    assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
    let ranges = hub.ranges("/cdn/");
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=150000-".to_owned())]);
}

#[test]
fn a_server_that_cannot_resume_sends_all_of_it() {
    let first_bytes_are_right = [Fault::Whole, Fault::Status(416, "")];
    for fault in first_bytes_are_right {
        let (hub, cache) = (usual_hub(), cache());
        hub.fault("GET", "/cdn/", Fault::Cut(100_000));
        hub.fault("GET", "/cdn/", fault);
        assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
        assert_eq!(blobs(&cache).len(), 3);
    }
}

#[test]
fn what_an_earlier_run_left_wrong_is_fetched_again() {
    let (hub, cache) = (usual_hub(), cache());
    let folder = cache.path().join(FOLDER).join("blobs");
    fs::create_dir_all(&folder).unwrap();
    let sha = sha256(&weights(300_000));
    for (left, requests) in [(vec![7; 1000], 2), (vec![7; 400_000], 1), (vec![7; 300_000], 1)] {
        fs::write(folder.join(format!("{sha}.incomplete")), left).unwrap();
        let before = hub.count("GET", "/cdn/");
        let snapshot = fetch(SPEC, &hub.options(&cache)).unwrap();
        assert_whole(&snapshot);
        assert_eq!(hub.count("GET", "/cdn/") - before, requests);
        fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        fs::remove_file(folder.join(&sha)).unwrap();
    }
    // A blob under its own name, but cut short by whatever wrote it.
    fs::write(folder.join(&sha), &weights(300_000)[..1000]).unwrap();
    assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
}

#[test]
fn damaged_files_do_not_enter_the_cache() {
    for (path, algorithm) in [("/cdn/", "sha256"), ("/preprocessor_config.json", "git sha1")] {
        let (hub, cache) = (usual_hub(), cache());
        hub.fault("GET", path, Fault::Flip);
        let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
        let HubError::Checksum { algorithm: used, expected, found, .. } = &error else { panic!("{error}") };
        assert!(*used == algorithm && expected != found, "{error}");
        assert!(!blobs(&cache).iter().any(|name| name.contains(expected.as_str())), "{:?}", blobs(&cache));
        assert_eq!(hub.count("GET", path), 1, "a wrong file is not asked for again at once");
        assert!(matches!(
            fetch(SPEC, &HubOptions { offline: true, ..hub.options(&cache) }),
            Err(HubError::NotCached { .. })
        ));
        assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
    }
}

#[test]
fn sizes_are_limits() {
    let (hub, cache) = (usual_hub(), cache());
    let error = fetch(SPEC, &HubOptions { max_file_bytes: 299_999, ..hub.options(&cache) }).unwrap_err();
    assert!(matches!(&error, HubError::TooLarge { bytes: Some(300_000), limit: 299_999, .. }), "{error}");
    assert_eq!(hub.count("GET", "/cdn/"), 0);
    hub.fault("GET", "/cdn/", Fault::More);
    let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
    assert!(matches!(&error, HubError::TooLarge { bytes: None, limit: 300_000, .. }), "{error}");
    assert!(message(&error).contains("more than the announced"));
    assert_eq!(blobs(&cache).len(), 2, "only the two small files");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named_with_its_file() {
    let (hub, cache) = (usual_hub(), cache());
    let folder = cache.path().join(FOLDER).join("blobs");
    fs::create_dir_all(&folder).unwrap();
    let part = folder.join(format!("{}.incomplete", sha256(&weights(300_000))));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
    assert!(matches!(&error, HubError::DiskFull { path, bytes: 300_000 } if *path == part), "{error}");
    assert!(message(&error).contains("hint: free some"));
}

#[test]
fn several_processes_fetch_at_once() {
    let (hub, cache) = (usual_hub(), cache());
    hub.fault("GET", "/cdn/", Fault::Cut(10_000));
    let options = hub.options(&cache);
    let child = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["checkpoint::hub::child_process_fetches", "--exact", "--ignored", "--nocapture"])
            .env("VITRUM_TEST_HUB", &options.endpoint)
            .env("VITRUM_TEST_CACHE", cache.path())
            .output()
            .unwrap()
    };
    std::thread::scope(|scope| {
        let children: Vec<_> = (0..3).map(|_| scope.spawn(child)).collect();
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| fetch(SPEC, &options))).collect();
        for thread in threads {
            assert_whole(&thread.join().unwrap().unwrap());
        }
        for child in children {
            let output = child.join().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
    });
    assert_eq!(hub.count("GET", "/cdn/"), 2, "one download and its resumption for all six");
    assert_eq!(blobs(&cache).len(), 3, "{:?}", blobs(&cache));
}

/// Not a test by itself: what the other processes of `several_processes_fetch_at_once` run.
#[test]
#[ignore = "run by several_processes_fetch_at_once"]
fn child_process_fetches() {
    let (Ok(endpoint), Ok(cache)) = (std::env::var("VITRUM_TEST_HUB"), std::env::var("VITRUM_TEST_CACHE"))
    else {
        eprintln!("skipped: no hub given");
        return;
    };
    let backoff = Duration::from_millis(1);
    let options = HubOptions { endpoint, cache_dir: Some(cache.into()), backoff, ..HubOptions::default() };
    assert_whole(&fetch(SPEC, &options).unwrap());
}

#[test]
fn a_lock_without_progress_is_given_up() {
    let (hub, cache) = (usual_hub(), cache());
    let locks = cache.path().join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", sha256(&weights(300_000))));
    let held = fs::File::create(&path).unwrap();
    held.lock().unwrap();
    let options = HubOptions { timeout: Duration::from_millis(100), ..hub.options(&cache) };
    let error = fetch(SPEC, &options).unwrap_err();
    assert!(matches!(&error, HubError::Locked { path: locked, .. } if *locked == path), "{error}");
    drop(held);
    assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
}

// ---------------------------------------------------------------------------------------------
// Answers that are no file

#[test]
fn answers_of_the_hub_become_errors_with_hints() {
    type Check = fn(&HubError) -> bool;
    let repo: Check = |e| matches!(e, HubError::RepoNotFound { .. });
    let revision: Check = |e| matches!(e, HubError::RevisionNotFound { .. });
    let refused: Check = |e| matches!(e, HubError::Unauthorized { token_sent: false, .. });
    let gated: Check = |e| matches!(e, HubError::Forbidden { .. });
    let teapot: Check = |e| matches!(e, HubError::Status { status: 418, .. });
    let cases: [(&'static str, &'static str, Fault, Check, &str); 8] = [
        (
            "GET",
            "/api/",
            Fault::Status(404, "X-Error-Code: RepoNotFound\r\n"),
            repo,
            "hint: check the spelling",
        ),
        ("GET", "/api/", Fault::Status(404, ""), repo, "without a token (HF_TOKEN)"),
        (
            "GET",
            "/api/",
            Fault::Status(404, "X-Error-Code: RevisionNotFound\r\n"),
            revision,
            "the branch `main`",
        ),
        ("GET", "/api/", Fault::Status(401, ""), refused, "no token was sent"),
        ("GET", "/api/", Fault::Status(403, ""), gated, "HF_TOKEN"),
        (
            "HEAD",
            "config.json",
            Fault::Status(401, "X-Error-Code: GatedRepo\r\n"),
            gated,
            "accepting its terms at http://",
        ),
        ("GET", "/cdn/", Fault::Status(403, ""), gated, "org/vit"),
        ("GET", "/api/", Fault::Status(418, ""), teapot, "status 418"),
    ];
    for (method, path, fault, check, hint) in cases {
        let (hub, cache) = (usual_hub(), cache());
        hub.fault(method, path, fault.clone());
        let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
        assert!(check(&error) && message(&error).contains(hint), "{fault:?}: {error}");
        assert_eq!(hub.count(method, path), 1, "{fault:?} is final");
    }
    let (hub, cache) = (usual_hub(), cache());
    assert!(matches!(fetch("hf:org/other", &hub.options(&cache)), Err(HubError::RepoNotFound { .. })));
    assert!(matches!(fetch("hf:org/vit@v9", &hub.options(&cache)), Err(HubError::RevisionNotFound { .. })));
}

#[test]
fn a_private_repository_wants_the_right_token() {
    let (hub, cache) = (usual_hub(), cache());
    hub.shelf.lock().unwrap().wants_token = true;
    let with = |token: &str| HubOptions { token: Some(token.to_owned()), ..hub.options(&cache) };
    let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
    assert!(matches!(&error, HubError::Unauthorized { token_sent: false, .. }), "{error}");
    let error = fetch(SPEC, &with("hf_wrongWRONG")).unwrap_err();
    assert!(matches!(&error, HubError::Unauthorized { token_sent: true, .. }), "{error}");
    assert!(
        !format!("{error} {error:?}").contains("wrongWRONG")
            && error.to_string().contains("token was refused")
    );
    assert_whole(&fetch(SPEC, &with(TOKEN)).unwrap());

    assert!(!format!("{:?}", with(TOKEN)).contains(TOKEN));
    let error = fetch("hf:org/other", &with(&format!("{TOKEN}\r\nX-Evil: 1"))).unwrap_err();
    assert!(matches!(&error, HubError::InvalidToken), "{error}");
    message(&error);
}

#[test]
fn the_token_stays_with_the_hub() {
    let (hub, cache) = (usual_hub(), cache());
    let cdn = usual_hub();
    {
        let mut shelf = hub.shelf.lock().unwrap();
        shelf.wants_token = true;
        shelf.cdn = Some(cdn.address);
    }
    let options = HubOptions { token: Some(TOKEN.to_owned()), ..hub.options(&cache) };
    // A cut and a failure on the way: the resumed request goes through the same redirect.
    cdn.fault("GET", "/cdn/", Fault::Cut(1000));
    assert_whole(&fetch(SPEC, &options).unwrap());
    let at_cdn = cdn.seen();
    assert_eq!(at_cdn.len(), 2);
    assert!(at_cdn.iter().all(|seen| seen.authorization.is_none()), "{at_cdn:?}");
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some(&bearer)));

    // What fails at the other host is told without the address's signature.
    fs::remove_dir_all(cache.path().join(FOLDER)).unwrap();
    for _ in 0..5 {
        cdn.fault("GET", "/cdn/", Fault::Status(500, ""));
    }
    let error = fetch(SPEC, &options).unwrap_err();
    assert!(matches!(&error, HubError::Status { status: 500, .. }), "{error}");
    message(&error);
}

#[test]
fn redirects_are_bounded_and_stay_with_http() {
    let (hub, cache) = (usual_hub(), cache());
    let go = |location: String| {
        hub.shelf.lock().unwrap().location = Some(location);
        let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
        assert!(matches!(&error, HubError::BadAnswer { .. }), "{error}");
        message(&error)
    };
    let before = hub.seen().len();
    assert!(
        go(format!("/org/vit/resolve/{COMMIT}/config.json?veryPRIVATE")).contains("more than 10 redirects")
    );
    assert!(hub.seen().len() - before <= 12);
    for bad in
        ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "javascript:alert(1)", "http://[::bad/x"]
    {
        go(bad.to_owned());
    }
    assert_eq!(blobs(&cache).len(), 0);
}

#[test]
fn trouble_that_passes_is_waited_for_a_bounded_number_of_times() {
    let (hub, cache) = (usual_hub(), cache());
    hub.fault("GET", "/api/", Fault::Status(500, ""));
    hub.fault("GET", "/api/", Fault::Status(503, ""));
    hub.fault("GET", "/api/", Fault::Status(429, "Retry-After: 0\r\n"));
    hub.fault("HEAD", "model.safetensors", Fault::Status(502, ""));
    hub.fault("GET", "/cdn/", Fault::Status(504, ""));
    assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());

    let cache = self::cache();
    for _ in 0..20 {
        hub.fault("GET", "/api/", Fault::Status(500, ""));
    }
    let before = hub.seen().len();
    let error = fetch(SPEC, &HubOptions { retries: 3, ..hub.options(&cache) }).unwrap_err();
    assert!(matches!(&error, HubError::Status { status: 500, .. }), "{error}");
    assert!(message(&error).contains("hint: the server is in trouble"));
    assert_eq!(hub.seen().len() - before, 4);
}

#[test]
fn a_hub_that_is_not_there() {
    let (hub, cache) = (usual_hub(), cache());
    let options = HubOptions { retries: 2, ..hub.options(&cache) };
    let snapshot = fetch(SPEC, &options).unwrap();
    drop(hub);
    let empty = self::cache();
    let error =
        fetch(SPEC, &HubOptions { cache_dir: Some(empty.path().into()), ..options.clone() }).unwrap_err();
    assert!(matches!(&error, HubError::Unreachable { .. }), "{error}");
    assert!(
        message(&error).contains("refused") && message(&error).contains("hint: check the network"),
        "{error}"
    );
    // A snapshot with weights is used for what it is, also when something might be newer or missing.
    assert_eq!(fetch(SPEC, &HubOptions { refresh: true, ..options.clone() }).unwrap(), snapshot);
    fs::remove_file(snapshot.join("preprocessor_config.json")).unwrap();
    assert_eq!(fetch(SPEC, &options).unwrap(), snapshot);
    fs::remove_file(snapshot.join("config.json")).unwrap();
    assert!(matches!(fetch(SPEC, &options), Err(HubError::Unreachable { .. })));
}

#[test]
fn silence_and_drips_end() {
    let (hub, cache) = (usual_hub(), cache());
    let quick = HubOptions { timeout: Duration::from_millis(150), retries: 1, ..hub.options(&cache) };
    let began = Instant::now();
    for _ in 0..2 {
        hub.fault("GET", "/api/", Fault::Stall(Duration::from_secs(3)));
    }
    let error = fetch(SPEC, &quick).unwrap_err();
    assert!(matches!(&error, HubError::TimedOut { .. }) && message(&error).contains("hint: "), "{error}");
    for _ in 0..2 {
        hub.fault("GET", "/cdn/", Fault::Drip);
    }
    let error = fetch(SPEC, &quick).unwrap_err();
    assert!(matches!(&error, HubError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

// ---------------------------------------------------------------------------------------------
// Names and paths that lead elsewhere

#[test]
fn names_are_checked_before_anything_is_asked_or_written() {
    let (hub, cache) = (usual_hub(), cache());
    let long = format!("hf:org/{}", "a".repeat(97));
    let bad = [
        "org/vit",
        "hf:",
        "hf:/",
        "hf:org/",
        "hf:/vit",
        "hf:a/b/c",
        "hf:../vit",
        "hf:org/..",
        "hf:org/.",
        "hf:org/a..b",
        "hf:org--x/vit",
        "hf:org/vit.git",
        "hf:.org/vit",
        "hf:org/vit-",
        "hf:org/v it",
        "hf:org/vit?x=1",
        "hf:org/vit#x",
        "hf:org/%2e%2e",
        "hf:org\\vit",
        "hf:örg/vit",
        "hf:org/vit@",
        "hf:org/vit@../main",
        "hf:org/vit@a//b",
        "hf:org/vit@/etc",
        "hf:org/vit@a/",
        "hf:org/vit@a/../../b",
        "hf:org/vit@.hidden",
        "hf:org/vit@x.lock",
        "hf:org/vit@a@b",
        "hf:org/vit@a?b",
        "hf:org/vit@a b",
        "hf:org/vit\n@a",
        &long,
        "hf:http://127.0.0.1/vit",
    ];
    for spec in bad {
        let error = fetch(spec, &hub.options(&cache)).unwrap_err();
        assert!(matches!(&error, HubError::InvalidSpec { .. }), "{spec}: {error}");
        assert!(message(&error).contains("hint: write hf:org/name"));
    }
    let other = HubOptions { revision: Some("v2".to_owned()), ..hub.options(&cache) };
    assert!(matches!(fetch("hf:org/vit@main", &other), Err(HubError::InvalidSpec { .. })));
    assert!(
        matches!(fetch(SPEC, &other), Err(HubError::RevisionNotFound { revision, .. }) if revision == "v2")
    );
    for endpoint in
        ["", "huggingface.co", "ftp://hub", "http://user:veryPRIVATE@hub", "http://hub?x=1", "file:///x"]
    {
        let error =
            fetch(SPEC, &HubOptions { endpoint: endpoint.to_owned(), ..hub.options(&cache) }).unwrap_err();
        assert!(matches!(&error, HubError::InvalidEndpoint { .. }), "{endpoint}: {error}");
        message(&error);
    }
    assert!(tree(cache.path()).is_empty());
    assert_eq!(hub.seen().len(), 1, "the one unknown revision");
    assert!(is_hub_spec("hf:a") && is_hub_spec("hf-hub:a") && !is_hub_spec("./hf:a") && !is_hub_spec("hf"));
}

#[test]
fn shard_names_stay_in_the_folder() {
    let names = [
        "../../../../evil.safetensors",
        "/tmp/evil.safetensors",
        "sub/evil.safetensors",
        "..\\evil.safetensors",
        "C:evil.safetensors",
        ".evil.safetensors",
        "evil.sh",
        "",
        "..",
        "evil\u{0}.safetensors",
        "%2e%2e.safetensors",
    ];
    for name in names {
        let index =
            serde_json::json!({ "weight_map": { "a": "model-1.safetensors", "b": name } }).to_string();
        let outer = cache();
        let dir = outer.path().join("a/b/c/cache");
        let hub = Hub::holding(&[
            ("config.json", CONFIG),
            ("model.safetensors.index.json", index.as_bytes()),
            ("model-1.safetensors", b"x"),
            (name, b"evil"),
        ]);
        let options = HubOptions { cache_dir: Some(dir.clone()), ..hub.options(&outer) };
        let error = fetch(SPEC, &options).unwrap_err();
        assert!(matches!(&error, HubError::BadIndex { .. }), "{name:?}: {error}");
        assert!(
            tree(outer.path()).iter().all(|path| path.starts_with("a/b/c/cache/") && !path.contains("evil"))
        );
        assert_eq!(hub.count("GET", "model-1"), 0, "nothing is fetched of a bad index");
    }
    let broken = ["", "[]", "{\"weight_map\": 1}", "{\"weight_map\": {}}", "{\"weight_map\": {\"a\": 1}}"];
    for index in broken {
        let (hub, cache) = (
            Hub::holding(&[("config.json", CONFIG), ("model.safetensors.index.json", index.as_bytes())]),
            self::cache(),
        );
        let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
        assert!(matches!(&error, HubError::BadIndex { .. }), "{index:?}: {error}");
    }
}

#[test]
fn headers_and_answers_name_no_paths() {
    let tags =
        ["../../../evil", "/etc/evil", "evil", "", "..", &"a".repeat(41), &"A".repeat(64), "d41d8cd9-2"];
    for tag in tags {
        let (hub, cache) = (usual_hub(), cache());
        hub.shelf.lock().unwrap().etags.insert("model.safetensors".to_owned(), tag.to_owned());
        let error = fetch(SPEC, &hub.options(&cache)).unwrap_err();
        assert!(matches!(&error, HubError::BadAnswer { .. }), "{tag}: {error}");
        assert_eq!(blobs(&cache).len(), 2);
    }
    let answers = [
        "",
        "<html>",
        "{}",
        "{\"sha\": \"../../evil\", \"siblings\": []}",
        "{\"sha\": \"main\", \"siblings\": []}",
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let seen = read_request(&stream).unwrap().unwrap();
            send(stream, &seen, Reply::new(200, "", answer), None).unwrap();
        });
        let cache = cache();
        let options = HubOptions {
            endpoint: format!("http://{address}"),
            cache_dir: Some(cache.path().into()),
            ..HubOptions::default()
        };
        let error = fetch(SPEC, &options).unwrap_err();
        assert!(matches!(&error, HubError::BadAnswer { .. }), "{answer}: {error}");
        assert!(tree(cache.path()).is_empty());
        server.join().unwrap();
    }
    // A cache that someone else wrote: refs/main is not a commit.
    let (hub, cache) = (usual_hub(), cache());
    fs::create_dir_all(cache.path().join(FOLDER).join("refs")).unwrap();
    fs::write(cache.path().join(FOLDER).join("refs/main"), "../../../..").unwrap();
    let offline = HubOptions { offline: true, ..hub.options(&cache) };
    assert!(matches!(fetch(SPEC, &offline), Err(HubError::NotCached { .. })));
    assert_whole(&fetch(SPEC, &hub.options(&cache)).unwrap());
}

// ---------------------------------------------------------------------------------------------
// Options

#[test]
fn variables_are_read_as_python_reads_them() {
    let home = cache();
    let read = |vars: &[(&str, &str)]| {
        let vars: HashMap<String, String> =
            vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let home = home.path().to_str().unwrap().to_owned();
        HubOptions::from_vars(&move |name| {
            vars.get(name).cloned().or_else(|| (name == "HOME").then(|| home.clone()))
        })
    };
    let dir = |vars: &[(&str, &str)]| read(vars).cache_dir.unwrap();
    assert_eq!(dir(&[]), home.path().join(".cache/huggingface/hub"));
    assert_eq!(dir(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
    assert_eq!(dir(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")]), Path::new("/h/hub"));
    assert_eq!(dir(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/l")]), Path::new("/l"));
    assert_eq!(dir(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/l")]), Path::new("/c"));
    assert_eq!(dir(&[("HF_HOME", "")]), home.path().join(".cache/huggingface/hub"));
    assert_eq!(dir(&[("HF_HOME", "~/h")]), home.path().join("h/hub"));
    assert_eq!(dir(&[("HF_HOME", "/a/$B/${C}/$D"), ("B", "b"), ("C", "c")]), Path::new("/a/b/c/$D/hub"));

    for (value, offline) in
        [("1", true), ("on", true), ("True", true), ("0", false), ("", false), ("no", false)]
    {
        assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    assert!(read(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
    assert_eq!(read(&[]).endpoint, "https://huggingface.co");
    assert_eq!(read(&[("HF_ENDPOINT", "https://mirror")]).endpoint, "https://mirror");
    assert_eq!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "33")]).timeout, Duration::from_secs(33));

    assert_eq!(read(&[]).token, None);
    let folder = home.path().join(".cache/huggingface");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("token"), "hf_file\n").unwrap();
    fs::write(home.path().join("elsewhere"), " hf_else ").unwrap();
    assert_eq!(read(&[]).token.as_deref(), Some("hf_file"));
    assert_eq!(read(&[("HF_TOKEN_PATH", "~/elsewhere")]).token.as_deref(), Some("hf_else"));
    assert_eq!(read(&[("HF_TOKEN_PATH", "~/nowhere")]).token, None);
    assert_eq!(read(&[("HF_TOKEN", "hf_var\n")]).token.as_deref(), Some("hf_var"));
    assert_eq!(read(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]).token.as_deref(), Some("hf_old"));
    assert_eq!(read(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
}
