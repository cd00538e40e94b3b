//! Requests to the hub: metadata, download, verification.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hf_hub::api::RepoInfo;
use sha1::Sha1;
use sha2::Sha256;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use super::cache::{RepoCache, create_parent};
use super::{HubError, HubOptions, Progress, Wanted, is_commit, is_hex};

/// Size limit of an answer of the hub's API.
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// The same number as Python.
const MAX_REDIRECTS: usize = 10;
const BUFFER: usize = 128 << 10;
/// In bytes per second.
const LEAST_RATE: f64 = 1024.0;
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A connection to one hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    /// Origin of the endpoint; the token is sent only there.
    origin: Origin,
    token: Option<String>,
    retries: u32,
    backoff: Duration,
    timeout: Duration,
    progress: Option<Progress>,
    pub max_file_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Head,
    Get,
}

/// The hub's information about a file before the download.
struct Remote {
    etag: Etag,
    size: Option<u64>,
}

/// A blob's name, and its checksum.
enum Etag {
    /// Large files: SHA-256 of the content.
    Sha256(String),
    /// Small files: git's name for the blob, SHA-1 of `blob <length>\0` and the content.
    Git(String),
}

/// The source of one file.
struct Source<'a> {
    repo: &'a str,
    commit: &'a str,
    file: &'a str,
    url: String,
    size: Option<u64>,
    limit: u64,
}

impl Client {
    /// `hurry`: a cached snapshot can be used instead, so nothing is retried.
    pub fn new(options: &HubOptions, hurry: bool) -> Result<Self, HubError> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let origin = check_endpoint(&endpoint).map_err(|reason| HubError::InvalidEndpoint { reason })?;
        if options.token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(HubError::InvalidToken);
        }
        let limit = Some(options.timeout);
        let mut config = Agent::config_builder()
            .tls_config(TlsConfig::builder().provider(TlsProvider::Rustls).build())
            .https_only(origin.scheme == "https")
            .http_status_as_error(false)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("vitrum/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(limit)
            .timeout_connect(limit)
            .timeout_recv_response(limit)
            .timeout_per_read(limit);
        if origin.is_loopback() {
            config = config.proxy(None); // A proxy's loopback is another machine's.
        }
        Ok(Self {
            agent: config.build().into(),
            endpoint,
            origin,
            token: options.token.clone().filter(|token| !token.is_empty()),
            retries: if hurry { 0 } else { options.retries },
            backoff: options.backoff,
            timeout: options.timeout,
            progress: options.progress.clone(),
            max_file_bytes: options.max_file_bytes,
        })
    }

    /// The commit of a revision, and the files in it.
    pub fn listing(&self, wanted: &Wanted) -> Result<RepoInfo, HubError> {
        let url = format!("{}/api/{}", self.endpoint, wanted.at(&wanted.revision).api_url());
        let bad = |reason: String| HubError::BadAnswer { url: plain(&url), reason };
        let text = self.retrying(|| {
            let response = self.follow(Method::Get, &url, 0)?.response;
            self.refuse_status(wanted, &url, None, &response)?;
            let mut text = Vec::new();
            let reader = Paced::new(response.into_body().into_reader(), self.patience());
            reader
                .take(MAX_LISTING_BYTES + 1)
                .read_to_end(&mut text)
                .map_err(|error| self.network(&url, error.into()))?;
            Ok(text)
        })?;
        if text.len() as u64 > MAX_LISTING_BYTES {
            return Err(bad(format!("the list of files is longer than {MAX_LISTING_BYTES} bytes")));
        }
        let listing: RepoInfo = serde_json::from_slice(&text)
            .map_err(|error| bad(format!("not a description of a model repository: {error}")))?;
        match is_commit(&listing.sha) {
            true => Ok(listing),
            false => Err(bad("its `sha` is not a commit of 40 hexadecimal digits".to_owned())),
        }
    }

    /// Downloads one file of a commit, verifies it, and links it into the snapshot. Returns its path.
    pub fn file_into(
        &self,
        cache: &RepoCache,
        wanted: &Wanted,
        commit: &str,
        file: &str,
        limit: u64,
    ) -> Result<PathBuf, HubError> {
        let repo = &wanted.repo;
        let pointer = cache.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer); // A commit does not change.
        }
        let url = format!("{}/{repo}/resolve/{commit}/{file}", self.endpoint);
        let remote = self.retrying(|| self.remote(wanted, commit, file, &url))?;
        if remote.size.is_some_and(|size| size > limit) {
            let (repo, file) = (repo.clone(), file.to_owned());
            return Err(HubError::TooLarge { repo, file, bytes: remote.size, limit });
        }
        let etag = remote.etag.name();
        let blob = cache.blob(etag);
        let _lock = cache.lock(etag, self.patience())?;
        if !is_whole(&blob, remote.size) {
            let source = Source { repo, commit, file, url, size: remote.size, limit };
            self.blob_into(wanted, &blob, &source, &remote.etag)?;
        }
        cache.link(commit, file, etag)
    }

    /// A file's information from the answer's headers. A redirect away from the endpoint is not followed: the hub
    /// puts the information on the redirect itself.
    fn remote(&self, wanted: &Wanted, commit: &str, file: &str, url: &str) -> Result<Remote, HubError> {
        let bad = |reason: &str| HubError::BadAnswer { url: plain(url), reason: reason.to_owned() };
        let Answer { response, hub_headers } = self.follow(Method::Head, url, 0)?;
        let status = response.status();
        if !status.is_redirection() {
            self.refuse_status(wanted, url, Some((commit, file)), &response)?;
        }
        let of_hub = |name: &str| hub_headers.iter().find_map(|headers| header(headers, name));
        if of_hub("x-repo-commit").is_some_and(|other| other != commit) {
            return Err(bad("the file belongs to another commit than the requested one"));
        }
        let etag = of_hub("x-linked-etag").or_else(|| header(response.headers(), "etag"));
        let etag = Etag::parse(etag.ok_or_else(|| bad("the answer has no ETag"))?).ok_or_else(|| {
            bad("the ETag is neither a SHA-256 nor git's SHA-1, so the file could not be verified")
        })?;
        let length = || header(response.headers(), "content-length").filter(|_| !status.is_redirection());
        let size = of_hub("x-linked-size").or_else(length).and_then(|size| size.parse().ok());
        Ok(Remote { etag, size })
    }

    /// Downloads a blob under a temporary name, verifies it, and renames it.
    fn blob_into(&self, wanted: &Wanted, blob: &Path, source: &Source, etag: &Etag) -> Result<(), HubError> {
        let mut part = blob.to_owned().into_os_string();
        part.push(".incomplete");
        let part = PathBuf::from(part);
        create_parent(&part)?;
        let resumed = fs::metadata(&part).is_ok_and(|data| data.len() > 0);
        let fetch = || {
            self.retrying(|| self.receive(wanted, &part, source))?;
            let checked = etag.verify(&part, source);
            if matches!(checked, Err(HubError::Checksum { .. })) {
                fs::remove_file(&part).map_err(HubError::io("delete", &part))?;
            }
            checked
        };
        match fetch() {
            // The bytes of an earlier run may be wrong: try once more, from the first byte.
            Err(HubError::Checksum { .. }) if resumed => fetch()?,
            result => result?,
        }
        fs::rename(&part, blob).map_err(HubError::io("write", blob))
    }

    /// Appends the missing bytes to `part`. Received bytes stay there if the connection breaks.
    fn receive(&self, wanted: &Wanted, part: &Path, source: &Source) -> Result<(), HubError> {
        let open = || File::options().create(true).append(true).open(part);
        let mut out = open().map_err(HubError::io("open", part))?;
        let mut start = out.metadata().map_err(HubError::io("read", part))?.len();
        if start > 0 && source.size.is_none_or(|size| start > size) {
            out.set_len(0).map_err(HubError::io("write", part))?;
            start = 0;
        }
        if source.size == Some(start) {
            return Ok(());
        }
        let response = self.follow(Method::Get, &source.url, start)?.response;
        self.refuse_status(wanted, &source.url, Some((source.commit, source.file)), &response)?;
        if start > 0 && !continues_at(&response, start) {
            out.set_len(0).map_err(HubError::io("write", part))?;
            if response.status() != 200 {
                return Err(source.cut_off(0));
            }
            start = 0;
        }
        self.copy(response, &mut out, start, part, source)?;
        out.sync_all().map_err(HubError::io("write", part))
    }

    /// Copies an answer's body after the first `done` bytes of `out`.
    fn copy(
        &self,
        response: Response<Body>,
        out: &mut File,
        mut done: u64,
        part: &Path,
        source: &Source,
    ) -> Result<(), HubError> {
        let most = source.size.unwrap_or(source.limit);
        let mut body = Paced::new(response.into_body().into_reader(), self.patience());
        let mut buffer = vec![0; BUFFER];
        loop {
            self.tell(source.file, done, source.size.unwrap_or(0));
            let count =
                body.read(&mut buffer).map_err(|error| match self.network(&source.url, error.into()) {
                    HubError::Unreachable { .. } => source.cut_off(done),
                    other => other,
                })?;
            if count == 0 {
                break;
            }
            if done + count as u64 > most {
                drop(fs::remove_file(part));
                return Err(source.too_large(most));
            }
            out.write_all(&buffer[..count]).map_err(|error| match HubError::io("write", part)(error) {
                HubError::DiskFull { path, .. } => {
                    HubError::DiskFull { path, bytes: source.size.unwrap_or(0) }
                }
                other => other,
            })?;
            done += count as u64;
        }
        if source.size.is_some_and(|size| done < size) {
            return Err(source.cut_off(done));
        }
        Ok(())
    }

    /// One request, with redirects. A GET follows them anywhere, a HEAD only within the endpoint. The token is sent
    /// only to the endpoint. `start` > 0 requests the rest of a file.
    fn follow(&self, method: Method, url: &str, start: u64) -> Result<Answer, HubError> {
        let mut url = url.to_owned();
        let mut hub_headers = Vec::new();
        for _ in 0..=MAX_REDIRECTS {
            let bad = |reason: &str| HubError::BadAnswer { url: plain(&url), reason: reason.to_owned() };
            let origin = Origin::of(&url).ok_or_else(|| bad("not an http or https address"))?;
            let at_hub = origin == self.origin;
            let response = self.send(method, &url, start, at_hub)?;
            if at_hub {
                hub_headers.push(response.headers().clone());
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, hub_headers });
            }
            let location =
                header(response.headers(), "location").ok_or_else(|| bad("a redirect without a target"))?;
            let next = join(&origin, &url, location);
            let target =
                Origin::of(&next).ok_or_else(|| bad("a redirect to something other than http or https"))?;
            if self.origin.scheme == "https" && target.scheme != "https" {
                return Err(bad("a redirect from https to http, which is refused"));
            }
            let known = || hub_headers.iter().any(|headers| header(headers, "x-linked-etag").is_some());
            if method == Method::Head && target != self.origin && known() {
                return Ok(Answer { response, hub_headers });
            }
            url = next;
        }
        Err(HubError::BadAnswer { url: plain(&url), reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    fn send(&self, method: Method, url: &str, start: u64, at_hub: bool) -> Result<Response<Body>, HubError> {
        let mut request = match method {
            Method::Head => self.agent.head(url),
            Method::Get => self.agent.get(url),
        };
        if let Some(token) = self.token.as_ref().filter(|_| at_hub) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call().map_err(|error| self.network(url, error))
    }

    /// Turns an error status into an error. `file` is the requested commit and file.
    fn refuse_status(
        &self,
        wanted: &Wanted,
        url: &str,
        file: Option<(&str, &str)>,
        response: &Response<Body>,
    ) -> Result<(), HubError> {
        let status = response.status().as_u16();
        let token_sent = self.token.is_some();
        let (repo, revision, endpoint) =
            (wanted.repo.clone(), wanted.revision.clone(), self.endpoint.clone());
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        Err(match (status, code, file) {
            (200 | 206 | 416, ..) => return Ok(()),
            (404, "RevisionNotFound", _) => HubError::RevisionNotFound { repo, revision },
            (404, "RepoNotFound", _) | (404, _, None) => {
                HubError::RepoNotFound { repo, revision, endpoint, token_sent }
            }
            (404, _, Some((commit, file))) => HubError::FileNotFound {
                repo,
                revision: commit.to_owned(),
                file: file.to_owned(),
                required: false,
            },
            (_, "GatedRepo", _) | (403, ..) => HubError::Forbidden { repo, endpoint, token_sent },
            (401, ..) => HubError::Unauthorized { repo, token_sent },
            _ => {
                let retry_after =
                    header(response.headers(), "retry-after").and_then(|wait| wait.parse().ok());
                HubError::Status { url: plain(url), status, retry_after }
            }
        })
    }

    /// Repeats `attempt` while its error may be transient, at most `retries` times.
    fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut wait = self.backoff;
        for _ in 0..self.retries {
            match attempt() {
                Err(error) if error.is_transient() => {
                    std::thread::sleep(asked_wait(&error).unwrap_or(wait.min(LONGEST_WAIT)));
                    wait = wait.saturating_mul(2);
                }
                result => return result,
            }
        }
        attempt()
    }

    fn network(&self, url: &str, error: ureq::Error) -> HubError {
        let url = plain(url);
        let unreachable = |reason: String| HubError::Unreachable { url: url.clone(), reason };
        match error {
            ureq::Error::Timeout(_) => HubError::TimedOut { url, seconds: self.timeout.as_secs_f64() },
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                HubError::TimedOut { url, seconds: self.patience().as_secs_f64() }
            }
            ureq::Error::Io(error) => unreachable(error.to_string()),
            ureq::Error::HostNotFound => unreachable("no such host".to_owned()),
            ureq::Error::ConnectionFailed => unreachable("no connection".to_owned()),
            ureq::Error::Protocol(error) => unreachable(format!("not an HTTP answer ({error})")),
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::ConnectProxyFailed(_) => {
                unreachable(error.to_string())
            }
            other => HubError::BadAnswer { url, reason: other.to_string() },
        }
    }

    /// Longest time almost without progress.
    fn patience(&self) -> Duration {
        self.timeout * 6
    }

    fn tell(&self, file: &str, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(file, done, total);
        }
    }
}

/// The last answer, and the headers of every answer from the endpoint, first to last.
struct Answer {
    response: Response<Body>,
    hub_headers: Vec<HeaderMap>,
}

/// A reader that gives up on a very slow server: below [`LEAST_RATE`] on average after `patience`.
struct Paced<R> {
    inner: R,
    began: Instant,
    patience: Duration,
    bytes: u64,
}

impl<R: Read> Paced<R> {
    fn new(inner: R, patience: Duration) -> Self {
        Self { inner, began: Instant::now(), patience, bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let elapsed = self.began.elapsed();
        if elapsed > self.patience && (self.bytes as f64) < elapsed.as_secs_f64() * LEAST_RATE {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

impl Source<'_> {
    fn cut_off(&self, received: u64) -> HubError {
        HubError::CutOff { file: self.file.to_owned(), received, expected: self.size.unwrap_or(0) }
    }

    fn too_large(&self, limit: u64) -> HubError {
        HubError::TooLarge { repo: self.repo.to_owned(), file: self.file.to_owned(), bytes: None, limit }
    }
}

impl Etag {
    /// Parses a header's ETag, quoted or not, weak or not. `None` if it is not a checksum.
    fn parse(header: &str) -> Option<Self> {
        let text = header.trim().trim_start_matches("W/").trim_matches('"');
        match text.len() {
            64 if is_hex(text, 64) => Some(Self::Sha256(text.to_owned())),
            40 if is_hex(text, 40) => Some(Self::Git(text.to_owned())),
            _ => None,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::Git(name) => name,
        }
    }

    fn verify(&self, path: &Path, source: &Source) -> Result<(), HubError> {
        let (algorithm, found) = match self {
            Self::Sha256(_) => ("sha256", sha256(path)),
            Self::Git(_) => ("git sha1", git_sha1(path)),
        };
        let found = found.map_err(HubError::io("read", path))?;
        if found == self.name() {
            return Ok(());
        }
        let (repo, file) = (source.repo.to_owned(), source.file.to_owned());
        Err(HubError::Checksum { repo, file, algorithm, expected: self.name().to_owned(), found })
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    use sha2::Digest;
    let mut hash = Sha256::new();
    each_chunk(path, |chunk| hash.update(chunk))?;
    Ok(hex(&hash.finalize()))
}

fn git_sha1(path: &Path) -> std::io::Result<String> {
    use sha1::Digest;
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", fs::metadata(path)?.len()));
    each_chunk(path, |chunk| hash.update(chunk))?;
    Ok(hex(&hash.finalize()))
}

fn each_chunk(path: &Path, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => take(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Scheme, host and port. The same origin means the same party.
#[derive(Debug, Clone, PartialEq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` unless `url` is http or https.
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let standard = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(standard) })
    }

    fn is_loopback(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        self.host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn check_endpoint(endpoint: &str) -> Result<Origin, String> {
    let uri: Uri = endpoint.parse().map_err(|_| "it is not an address".to_owned())?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("it holds a user name or password".to_owned());
    }
    if uri.query().is_some() || endpoint.contains('#') {
        return Err("it holds a query or a fragment".to_owned());
    }
    Origin::of(endpoint).ok_or_else(|| "it does not begin with http:// or https:// and a host".to_owned())
}

/// The target of a `Location` header, relative to `url` at `origin`.
fn join(origin: &Origin, url: &str, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let Origin { scheme, host, port } = origin;
    if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{host}:{port}{location}")
    } else if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        location.to_owned()
    } else {
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
        format!("{folder}/{location}")
    }
}

/// A URL without its possibly secret parts: user name, query, fragment.
fn plain(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the answer begins at byte `start` of the file.
fn continues_at(response: &Response<Body>, start: u64) -> bool {
    let range = header(response.headers(), "content-range").unwrap_or_default();
    response.status() == 206 && range.starts_with(&format!("bytes {start}-"))
}

fn is_whole(blob: &Path, size: Option<u64>) -> bool {
    fs::metadata(blob).is_ok_and(|data| data.is_file() && size.is_none_or(|size| size == data.len()))
}

fn asked_wait(error: &HubError) -> Option<Duration> {
    match error {
        HubError::Status { retry_after: Some(seconds), .. } => {
            Some(Duration::from_secs(*seconds).min(LONGEST_RETRY_AFTER))
        }
        _ => None,
    }
}
