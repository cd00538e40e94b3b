//! Reloads and restarts under load: every accepted request gets a whole answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use crate::child::Server;
use crate::client::{Answer, Connection, NoAnswer};
use crate::drive::{Requests, counts};
use crate::report::{Report, progress, quantile};
use crate::{Target, pictures};

/// Pictures that are sent in turn.
const PICTURES: u64 = 32;

/// For the end of a server, and for a reload.
const PATIENCE: Duration = Duration::from_secs(60);

/// After a refused connection.
const PAUSE: Duration = Duration::from_millis(5);

/// What the log says of a reload.
const RELOADED: &str = "loaded anew";

/// Reloads and restarts under load.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub target: Target,
    /// Signals; every second one ends the server
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// Clients at a time, each request on a new connection
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Most milliseconds between an answer of the server and the next signal
    #[arg(long, default_value_t = 500)]
    pause: u64,
}

/// A request without a whole answer.
#[derive(Debug)]
struct Broken {
    /// When all of it was sent.
    sent: Option<Instant>,
    /// What happened then.
    why: NoAnswer,
}

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    statuses: BTreeMap<u16, u64>,
    times: Vec<f64>,
    refused: u64,
    broken: Vec<Broken>,
}

#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, asked: Instant, sent: Option<Instant>, answer: Result<Answer, NoAnswer>) {
        let mut seen = self.lock();
        match answer {
            Ok(answer) => {
                *seen.statuses.entry(answer.status).or_default() += 1;
                seen.times.push(asked.elapsed().as_secs_f64());
            }
            Err(NoAnswer::Refused) => seen.refused += 1,
            Err(why) => seen.broken.push(Broken { sent, why }),
        }
    }
}

/// What became of the server in the rounds.
#[derive(Debug, Default)]
struct Rounds {
    /// When each signal to end was sent, and when the server had ended.
    ends: Vec<(Instant, Instant)>,
    reloads: u64,
    missed_reloads: u64,
    bad_ends: Vec<String>,
    panics: usize,
}

pub async fn run(options: &Options) -> Result<Report> {
    let mut server = options.target.server(&[]).await?;
    ensure!(server.is_ours(), "signals go to a server that is started here");
    let address = server.address();
    let requests = pictures::requests(&pictures::mixed(PICTURES)?, &options.target.path, false);
    let (seen, is_over) = (Shared::default(), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for client in 0..options.clients {
        clients.spawn(ask_for_ever(address, requests.clone(), client, seen.clone(), is_over.clone()));
    }

    let mut rounds = Rounds::default();
    for round in 0..options.rounds {
        sleep(Duration::from_millis(pictures::random(round) % options.pause.max(1))).await;
        match round % 2 {
            0 => block_in_place(|| reload(&server, round, &mut rounds))?,
            _ => server = block_in_place(|| restart(server, options, &mut rounds))?,
        }
        let answered: u64 = seen.lock().statuses.values().sum();
        progress(format!("round {}: {answered} answers", round + 1));
    }
    rounds.panics += server.log("panic").len();
    is_over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    Ok(report(options, std::mem::take(&mut seen.lock()), &rounds))
}

/// Asks again and again, on a new connection each time.
async fn ask_for_ever(
    address: SocketAddr,
    requests: Requests,
    client: usize,
    seen: Shared,
    is_over: Arc<AtomicBool>,
) {
    let mut at = client;
    while !is_over.load(Ordering::Relaxed) {
        let (asked, mut sent) = (Instant::now(), None);
        let answer = ask(address, &requests[at % requests.len()], &mut sent).await;
        let is_answered = answer.is_ok();
        seen.note(asked, sent, answer);
        if !is_answered {
            sleep(PAUSE).await;
        }
        at += 1;
    }
}

/// Asks once and tells when all was sent.
async fn ask(address: SocketAddr, request: &[u8], sent: &mut Option<Instant>) -> Result<Answer, NoAnswer> {
    let mut connection = Connection::open(address).await?;
    connection.send(request).await?;
    *sent = Some(Instant::now());
    connection.answer().await
}

/// Has the models loaded anew. Every second time it does not wait for the end of it, and the next signal comes within.
fn reload(server: &Server, round: u64, rounds: &mut Rounds) -> Result<()> {
    let before = server.log(RELOADED).len();
    server.signal("HUP")?;
    rounds.reloads += 1;
    let end = Instant::now() + PATIENCE;
    while round.is_multiple_of(4) && server.log(RELOADED).len() == before {
        if Instant::now() > end {
            rounds.missed_reloads += 1;
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Ends the server and starts another one on its port.
fn restart(mut server: Server, options: &Options, rounds: &mut Rounds) -> Result<Server> {
    if !server.is_alive() {
        rounds.bad_ends.push("ended before it was asked to".into());
    }
    let begin = Instant::now();
    server.signal("TERM")?;
    match server.ended(PATIENCE)? {
        Some(status) if status.success() => {}
        Some(status) => rounds.bad_ends.push(status.to_string()),
        None => rounds.bad_ends.push(format!("ran on for {} s", PATIENCE.as_secs())),
    }
    rounds.ends.push((begin, Instant::now()));
    rounds.panics += server.log("panic").len();
    let port = server.address().port();
    drop(server);
    Server::start(&options.target, port, &[])
}

/// What became of a request without a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was sent while the server ran, or its answer broke off: a loss.
    Lost,
    /// It was sent after the signal. The server may have stopped listening when it came: the system then resets the
    /// connection, which was never accepted.
    Late,
    /// The connection broke before all was sent.
    Unsent,
}

impl Rounds {
    fn fate(&self, broken: &Broken) -> Fate {
        let Some(sent) = broken.sent else { return Fate::Unsent };
        let is_late = self.ends.iter().any(|(signal, ended)| (*signal..*ended).contains(&sent));
        if is_late && matches!(broken.why, NoAnswer::Silent(_)) { Fate::Late } else { Fate::Lost }
    }
}

fn report(options: &Options, seen: Seen, rounds: &Rounds) -> Report {
    let fates: Vec<Fate> = seen.broken.iter().map(|broken| rounds.fate(broken)).collect();
    let count = |fate: Fate| fates.iter().filter(|other| **other == fate).count();
    let took: Vec<f64> = rounds.ends.iter().map(|(signal, ended)| (*ended - *signal).as_secs_f64()).collect();
    let mut report = Report::new("signals");
    report.row("reloads", rounds.reloads);
    report.row("restarts", rounds.ends.len());
    report.row("clients", options.clients);
    report.row("answers by status", counts(&seen.statuses));
    report.row("connections refused between two servers", seen.refused);
    report.row("broken before all was sent", count(Fate::Unsent));
    report.row("sent after the signal to end, and reset", count(Fate::Late));
    report.number("p50 ms", 1000.0 * quantile(&seen.times, 0.5));
    report.number("slowest ms", 1000.0 * quantile(&seen.times, 1.0));
    report.number("median ms from the signal to the end", 1000.0 * quantile(&took, 0.5));
    let lost: Vec<String> = seen
        .broken
        .iter()
        .zip(&fates)
        .filter(|(_, fate)| **fate == Fate::Lost)
        .map(|(broken, _)| broken.why.to_string())
        .take(5)
        .collect();
    let found = format!("{} lost {}", count(Fate::Lost), lost.join("; "));
    report.claim(lost.is_empty(), "every request sent before the signal gets a whole answer", found.trim());
    let (late, most) = (count(Fate::Late), rounds.ends.len() / 10);
    let text = format!("of those sent after it, at most {most} are reset as the server stops listening");
    report.claim(late <= most, text, late);
    let bad = seen.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum::<u64>();
    report.claim(bad == 0, "every answer is 200", format!("{bad} are not"));
    let (ends, restarts) = (&rounds.bad_ends, rounds.ends.len());
    let found = format!("{} of {restarts} {}", restarts - ends.len(), ends.join("; "));
    report.claim(ends.is_empty(), "a server that is asked to end ends with 0", found.trim());
    let missed = rounds.missed_reloads;
    report.claim(missed == 0, "reloads come to their end", format!("{missed} did not"));
    report.claim(rounds.panics == 0, "no panic", format!("{} lines", rounds.panics));
    report
}
