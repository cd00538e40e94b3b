//! Many well-behaved clients: closed loops, where each waits for its answer, and open loops, where requests come at a fixed
//! rate, also if answers are late.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Answer, Connection, NoAnswer, number_of};

/// Requests that are sent again and again.
pub type Requests = Arc<Vec<Vec<u8>>>;

/// How long an open connection may lie idle before it is given up. The server ends it later.
const IDLE: Duration = Duration::from_secs(1);

/// What clients have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub broken: BTreeMap<String, u64>,
    /// Seconds of the answers with 200.
    pub times: Vec<f64>,
    /// Seconds of their passes.
    pub passes: Vec<f64>,
    /// Requests that were not sent because all connections were in use.
    pub held_back: u64,
}

impl Seen {
    /// Notes an answer.
    pub fn note(&mut self, answer: &Result<Answer, NoAnswer>, took: Duration) {
        match answer {
            Ok(answer) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                if answer.status == 200 {
                    self.times.push(took.as_secs_f64());
                    self.passes.extend(number_of(&answer.body, "compute").map(|ms| ms / 1000.0));
                }
            }
            Err(error) => *self.broken.entry(error.to_string()).or_default() += 1,
        }
    }

    /// Answers with 200.
    pub fn good(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or_default()
    }

    /// Requests that were sent.
    pub fn sent(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.broken.values().sum::<u64>()
    }

    /// Statuses beside 200.
    pub fn others(&self) -> u64 {
        self.sent() - self.good()
    }
}

/// Counts by name as an object.
pub fn counts<K: ToString>(counts: &BTreeMap<K, u64>) -> Value {
    Value::Object(
        counts.iter().map(|(key, count)| (key.to_string(), Value::from(*count))).collect::<Map<_, _>>(),
    )
}

/// What several clients note together.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted; nothing is left behind.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.lock())
    }
}

/// So many clients, each of which asks, waits for the answer, and asks again. Returns what they saw and the seconds.
pub async fn closed_loop(
    address: SocketAddr,
    requests: &Requests,
    clients: usize,
    time: Duration,
) -> (Seen, f64) {
    let (seen, next) = (Shared::default(), Arc::new(AtomicU64::new(0)));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (seen, next, requests) = (seen.clone(), next.clone(), requests.clone());
        tasks.spawn(async move {
            let mut connection = None;
            while begin.elapsed() < time {
                let at = next.fetch_add(1, Ordering::Relaxed) as usize % requests.len();
                let asked = Instant::now();
                let answer = ask(&mut connection, address, &requests[at]).await;
                seen.lock().note(&answer, asked.elapsed());
            }
        });
    }
    tasks.join_all().await;
    (seen.take(), begin.elapsed().as_secs_f64())
}

/// Asks on the connection, or on a new one; keeps it if it stays open.
pub async fn ask(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    request: &[u8],
) -> Result<Answer, NoAnswer> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(address).await?,
    };
    let answer = open.ask(request).await?;
    if answer.stays {
        *connection = Some(open);
    }
    Ok(answer)
}

/// Connections that are open and not in use.
#[derive(Debug, Default)]
struct Idle(Mutex<Vec<(Connection, Instant)>>);

impl Idle {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was used last.
        let (connection, since) = idle.pop()?;
        if since.elapsed() < IDLE {
            return Some(connection);
        }
        idle.clear();
        None
    }

    fn put(&self, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
    }
}

/// So many requests per second, on so many connections at most. Times count from when a request was due.
pub async fn open_loop(
    address: SocketAddr,
    requests: &Requests,
    rate: f64,
    time: Duration,
    connections: usize,
) -> Seen {
    let (seen, idle, places) =
        (Shared::default(), Arc::new(Idle::default()), Arc::new(Semaphore::new(connections)));
    let begin = Instant::now();
    let (mut tasks, mut at) = (JoinSet::new(), 0_u64);
    while begin.elapsed() < time {
        let due = (begin.elapsed().as_secs_f64() * rate) as u64;
        for at in at..due {
            let Ok(place) = places.clone().try_acquire_owned() else {
                seen.lock().held_back += 1;
                continue;
            };
            let asked = begin + Duration::from_secs_f64(at as f64 / rate);
            let (seen, idle, requests) = (seen.clone(), idle.clone(), requests.clone());
            tasks.spawn(async move {
                let _place = place;
                let mut connection = idle.take();
                let request = &requests[at as usize % requests.len()];
                let answer = ask(&mut connection, address, request).await;
                seen.lock().note(&answer, asked.elapsed());
                connection.into_iter().for_each(|connection| idle.put(connection));
            });
        }
        at = due;
        while tasks.try_join_next().is_some() {}
        sleep(Duration::from_millis(1)).await;
    }
    tasks.join_all().await;
    seen.take()
}
