//! A plain client of HTTP/1.1. When a connection breaks, it knows what was sent and what was received.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Most time for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether the connection stays open.
    pub stays: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// No server listens.
    #[error("the connection was refused")]
    Refused,
    /// The connection broke before all was sent.
    #[error("the connection broke before the request was sent: {0}")]
    Unsent(ErrorKind),
    /// The request was sent, and the connection broke before the first byte of an answer.
    #[error("the connection broke before the answer: {0}")]
    Silent(ErrorKind),
    /// The answer ended in its midst.
    #[error("the answer broke off: {0}")]
    Cut(ErrorKind),
    /// The answer is no HTTP.
    #[error("the answer is no HTTP")]
    NotHttp,
    /// No answer in a minute.
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Slow,
}

/// A connection.
#[derive(Debug)]
pub struct Connection(TcpStream);

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self, NoAnswer> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::ConnectionRefused => NoAnswer::Refused,
            kind => NoAnswer::Unsent(kind),
        };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self(stream))
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.0
    }

    /// Sends a whole request.
    pub async fn send(&mut self, request: &[u8]) -> Result<(), NoAnswer> {
        self.0.write_all(request).await.map_err(|error| NoAnswer::Unsent(error.kind()))
    }

    /// Reads a whole answer.
    pub async fn answer(&mut self) -> Result<Answer, NoAnswer> {
        timeout(PATIENCE, self.read()).await.unwrap_or(Err(NoAnswer::Slow))
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer, NoAnswer> {
        self.send(request).await?;
        self.answer().await
    }

    async fn read(&mut self) -> Result<Answer, NoAnswer> {
        let mut bytes = Vec::with_capacity(1024);
        let end = loop {
            self.more(&mut bytes).await?;
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
        };
        let head = Head::parse(&bytes[..end]).ok_or(NoAnswer::NotHttp)?;
        bytes.drain(..end + 4);
        while bytes.len() < head.length {
            self.more(&mut bytes).await.map_err(cut)?;
        }
        Ok(Answer { status: head.status, body: bytes, stays: head.stays })
    }

    async fn more(&mut self, bytes: &mut Vec<u8>) -> Result<(), NoAnswer> {
        let broken = |kind, is_begun| if is_begun { NoAnswer::Cut(kind) } else { NoAnswer::Silent(kind) };
        match self.0.read_buf(bytes).await {
            Ok(0) => Err(broken(ErrorKind::UnexpectedEof, !bytes.is_empty())),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(error.kind(), !bytes.is_empty())),
        }
    }
}

/// The head was there: an error now means that the answer was cut.
fn cut(error: NoAnswer) -> NoAnswer {
    match error {
        NoAnswer::Silent(kind) => NoAnswer::Cut(kind),
        other => other,
    }
}

/// What is asked of the head of an answer.
struct Head {
    status: u16,
    length: usize,
    stays: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.to_ascii_lowercase();
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok()?;
        let mut head = Self { status, length: 0, stays: true };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name {
                "content-length" => head.length = value.trim().parse().ok()?,
                "connection" => head.stays = value.trim() != "close",
                "transfer-encoding" => return None,
                _ => {}
            }
        }
        Some(head)
    }
}

/// One request on a connection of its own.
pub async fn once(address: SocketAddr, request: &[u8]) -> Result<Answer, NoAnswer> {
    Connection::open(address).await?.ask(request).await
}

/// A request with a body. The connection stays open if `stays`.
pub fn post(path: &str, kind: &str, body: &[u8], stays: bool) -> Vec<u8> {
    let (connection, length) = (if stays { "keep-alive" } else { "close" }, body.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: load\r\nconnection: {connection}\r\ncontent-type: {kind}\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A request without a body, on a connection that ends with the answer.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: load\r\nconnection: close\r\n\r\n").into_bytes()
}

/// The number behind `"key":` in a JSON text.
pub fn number_of(body: &[u8], key: &str) -> Option<f64> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(&format!("\"{key}\":"))?;
    let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
    rest[..end].trim().parse().ok()
}
