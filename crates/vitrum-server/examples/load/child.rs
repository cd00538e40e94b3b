//! A server as a process of its own: its address, its log, its memory, its end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Target;

/// For loading a model.
const START: Duration = Duration::from_secs(300);

/// Lines of the log that are kept.
const LINES: usize = 10_000;

/// A server that answers: a process of ours, or one at an address.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    process: Option<Child>,
    log: Log,
}

/// What a process wrote on stderr.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < LINES {
            lines.push(line);
        }
    }

    fn with(&self, word: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.to_lowercase().contains(word)).cloned().collect()
    }
}

impl Server {
    /// A server that runs already.
    pub async fn at(url: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let mut found = tokio::net::lookup_host(host).await.with_context(|| format!("--url {url}"))?;
        let address = found.next().with_context(|| format!("--url {url} has no address"))?;
        Ok(Self { address, process: None, log: Log::default() })
    }

    /// Starts a server and waits until it answers. Port 0 takes a free one.
    pub fn start(target: &Target, port: u16, flags: &[String]) -> Result<Self> {
        let mut command = Command::new(&target.binary);
        command.args(["serve", &target.model, "--port", &port.to_string()]);
        command.args(["--threads", &target.threads.to_string()]).args(flags).args(&target.more);
        // Tells of reloads, not of requests.
        command.env("VITRUM_LOG", "warn,vitrum_server::models=info");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("starting {}", target.binary.display()))?;
        let stderr = process.stderr.take().context("the server has no stderr")?;
        let log = Log::default();
        let (told, address) = channel();
        let (inner, lines) = (log.clone(), BufReader::new(stderr).lines());
        thread::spawn(move || follow(lines.map_while(Result::ok), &inner, &told));
        let mut server = Self { address: ([127, 0, 0, 1], port).into(), process: Some(process), log };
        let Ok(address) = address.recv_timeout(START) else {
            bail!("the server did not begin:\n{}", server.log.with("").join("\n"));
        };
        server.address = address;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is a process of ours.
    pub fn is_ours(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process runs. A server at an address is taken to run.
    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Lines of the log with this word.
    pub fn log(&self, word: &str) -> Vec<String> {
        self.log.with(word)
    }

    fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Child::id).context("the server is no process of ours")
    }

    /// Sends a signal such as `HUP`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid()?.to_string();
        let killed = Command::new("kill").args(["-s", name, &pid]).status().context("kill")?;
        ensure!(killed.success(), "kill -s {name} {pid} failed");
        Ok(())
    }

    /// Waits for the end of the process; `None` if it does not come in time.
    pub fn ended(&mut self, within: Duration) -> Result<Option<std::process::ExitStatus>> {
        let process = self.process.as_mut().context("the server is no process of ours")?;
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Some(status) = process.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    /// Resident memory in MiB.
    pub fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).context("memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")?;
        Ok(kib / 1024.0)
    }

    /// Open files and sockets.
    pub fn files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()?)).context("open files")?.count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Keeps the log, and tells the address once.
fn follow(lines: impl Iterator<Item = String>, log: &Log, told: &Sender<SocketAddr>) {
    for line in lines {
        let address = line.rsplit_once(" on http://").and_then(|(_, address)| address.trim().parse().ok());
        log.add(line);
        if let Some(address) = address {
            // Who asked may have given up.
            let _ = told.send(address);
        }
    }
}
