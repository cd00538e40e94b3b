//! Clients that behave badly: slow ones, ones that leave, and ones that send garbage.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Answer, Connection, NoAnswer, post};
use crate::drive::{Seen, Shared};
use crate::pictures::random;

/// Between two pieces of a slow client.
const DRIP: Duration = Duration::from_millis(200);

/// Bytes of such a piece.
const DROP: usize = 16;

/// Between two requests of a client that leaves or sends garbage.
const PAUSE: Duration = Duration::from_millis(20);

/// Bad clients at work.
pub struct Foul {
    tasks: JoinSet<()>,
    slow: Shared,
    leaving: Shared,
    garbage: Shared,
}

/// What bad clients were told.
pub struct Told {
    pub slow: Seen,
    pub leaving: Seen,
    pub garbage: Seen,
}

impl Foul {
    /// Starts so many clients of each kind, at work until `end`.
    pub fn start(address: SocketAddr, end: Instant, clients: u64, jpeg: &[u8]) -> Self {
        let jpeg: Arc<[u8]> = jpeg.into();
        let mut foul = Self {
            tasks: JoinSet::new(),
            slow: Shared::default(),
            leaving: Shared::default(),
            garbage: Shared::default(),
        };
        for client in 0..clients {
            foul.tasks.spawn(slow(address, end, client, jpeg.clone(), foul.slow.clone()));
            foul.tasks.spawn(leave(address, end, client, jpeg.clone(), foul.leaving.clone()));
            foul.tasks.spawn(litter(address, end, client, jpeg.clone(), foul.garbage.clone()));
        }
        foul
    }

    /// Waits for their end.
    pub async fn end(self) -> Told {
        self.tasks.join_all().await;
        Told { slow: self.slow.take(), leaving: self.leaving.take(), garbage: self.garbage.take() }
    }
}

/// Half a head, half a body, or all of it in drops: by turns.
async fn slow(address: SocketAddr, end: Instant, client: u64, jpeg: Arc<[u8]>, seen: Shared) {
    let request = post("/predict", "image/jpeg", &jpeg, false);
    let mut turn = client;
    while Instant::now() < end {
        let asked = Instant::now();
        let answer = match turn % 3 {
            0 => stopped(address, &request[..30]).await,
            1 => stopped(address, &request[..request.len() - jpeg.len() / 2]).await,
            _ => dripped(address, &request).await,
        };
        seen.lock().note(&answer, asked.elapsed());
        turn += 1;
    }
}

type Answered = Result<Answer, NoAnswer>;

/// Sends a part and waits.
async fn stopped(address: SocketAddr, part: &[u8]) -> Answered {
    Connection::open(address).await?.ask(part).await
}

/// Sends drop by drop until the server has enough of it.
async fn dripped(address: SocketAddr, request: &[u8]) -> Answered {
    let mut connection = Connection::open(address).await?;
    for drop in request.chunks(DROP) {
        // The server may have closed its side; the answer tells why.
        if connection.send(drop).await.is_err() {
            break;
        }
        tokio::select! {
            () = sleep(DRIP) => {}
            _ = connection.stream().readable() => break,
        }
    }
    connection.answer().await
}

/// Leaves in the midst of a request, or before the answer; politely or with a reset.
async fn leave(address: SocketAddr, end: Instant, client: u64, jpeg: Arc<[u8]>, seen: Shared) {
    let request = post("/predict", "image/jpeg", &jpeg, false);
    let mut turn = client;
    while Instant::now() < end {
        if let Ok(mut connection) = Connection::open(address).await {
            let part = if turn.is_multiple_of(2) { &request[..request.len() / 2] } else { &request[..] };
            let sent = connection.send(part).await;
            if turn % 4 < 2 {
                // Without it, the system says goodbye properly.
                let _ = connection.stream().set_zero_linger();
            }
            let silent = sent.and(Err(NoAnswer::Silent(std::io::ErrorKind::ConnectionAborted)));
            seen.lock().note(&silent, Duration::ZERO);
        }
        turn += 1;
        sleep(PAUSE).await;
    }
}

/// Sends garbage and waits for what the server says to it.
async fn litter(address: SocketAddr, end: Instant, client: u64, jpeg: Arc<[u8]>, seen: Shared) {
    let mut turn = client * 1_000_000;
    while Instant::now() < end {
        let asked = Instant::now();
        let answer = thrown(address, &garbage(turn, &jpeg)).await;
        seen.lock().note(&answer, asked.elapsed());
        turn += 1;
        sleep(PAUSE).await;
    }
}

async fn thrown(address: SocketAddr, bytes: &[u8]) -> Answered {
    let mut connection = Connection::open(address).await?;
    // The server may answer before it has read all.
    let sent = connection.send(bytes).await;
    let answer = connection.answer().await;
    if answer.is_err() { sent.and(answer) } else { answer }
}

/// A request that is none, or a wrong one.
fn garbage(turn: u64, jpeg: &[u8]) -> Vec<u8> {
    let json = |path: &str, text: &str| post(path, "application/json", text.as_bytes(), false);
    let head = |head: String| format!("{head}\r\n\r\n").into_bytes();
    match turn % 20 {
        0 => [noise(turn, 400), b"\r\n\r\n".to_vec()].concat(),
        1 => post("/predict", "image/jpeg", &jpeg[..(random(turn) as usize) % jpeg.len()], false),
        2 => post("/predict", "image/jpeg", &damaged(turn, jpeg), false),
        3 => post("/predict", "image/png", &noise(turn, 2000), false),
        4 => json("/predict", "{\"inputs\": [\"AAAA\", 7"),
        5 => json("/predict", "{\"inputs\": {\"a\": 1}}"),
        6 => json("/v1/embeddings", "{\"input\": \"%%%\", \"model\": \"none\"}"),
        7 => json("/v2/models/none/infer", "{\"inputs\": []}"),
        8 => json("/predict", &"[".repeat(20_000)),
        9 => post("/nowhere", "image/jpeg", jpeg, false),
        10 => head("DELETE /predict HTTP/1.1\r\nhost: load\r\nconnection: close".into()),
        11 => head("POST /predict HTTP/1.1\r\nhost: load\r\ncontent-length: 99999999999".into()),
        12 => head("POST /predict HTTP/1.1\r\nhost: load\r\ncontent-length: -1".into()),
        13 => head("POST /predict HTTP/1.1\r\nhost: load\r\ntransfer-encoding: chunked\r\n\r\nzz".into()),
        14 => post("/predict", "multipart/form-data; boundary=x", b"--x\r\nno part\r\n--y--", false),
        15 => post("/predict", "multipart/form-data", jpeg, false),
        16 => head(format!("GET /{} HTTP/1.1\r\nhost: load", "a".repeat(70_000))),
        17 => head(format!("GET /health HTTP/1.1\r\n{}host: load", "x: y\r\n".repeat(300))),
        18 => post("/predict", "image/png", &vast_png(), false),
        _ => post("/explain?method=none&class=-1", "image/jpeg", &damaged(turn, jpeg), false),
    }
}

fn noise(seed: u64, count: u64) -> Vec<u8> {
    (0..count).map(|at| random(seed.wrapping_mul(count) + at) as u8).collect()
}

/// The picture with some bytes changed.
fn damaged(seed: u64, jpeg: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg.to_vec();
    for change in 0..20 {
        let number = random(seed.wrapping_mul(20).wrapping_add(change));
        let at = number as usize % bytes.len();
        bytes[at] = (number >> 32) as u8;
    }
    bytes
}

/// The beginning of a PNG that claims to have 100,000 pixels in each direction.
fn vast_png() -> Vec<u8> {
    let side = 100_000_u32.to_be_bytes();
    let chunk = [b"IHDR".as_slice(), &side, &side, &[8, 2, 0, 0, 0]].concat();
    let sum = crc(&chunk).to_be_bytes();
    [b"\x89PNG\r\n\x1a\n".as_slice(), &13_u32.to_be_bytes(), &chunk, &sum, &[0; 64]].concat()
}

/// The checksum of a chunk of a PNG.
fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32, bit: u32| if bit == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum, sum & 1));
    !bytes.iter().fold(u32::MAX, byte)
}
