//! More than the server can do: it refuses, and stays quick, small and alive.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::time::sleep;

use crate::child::Server;
use crate::client::{get, once};
use crate::drive::{Seen, closed_loop, counts, open_loop};
use crate::foul::Foul;
use crate::report::{Report, progress, quantile};
use crate::{Target, pictures};

/// Pictures that are sent in turn.
const PICTURES: u64 = 64;

/// Clients that measure what the server can do.
const CLIENTS: usize = 64;

/// Least share of the wanted rate; the clients share the processors with the server.
const MOST_OF_IT: f64 = 0.8;

/// Seconds that a head and a body may take.
const SLOWEST: u64 = 10;

/// Between two looks at the server.
const LOOK: Duration = Duration::from_millis(500);

/// Time until closed connections are gone.
const REST: Duration = Duration::from_secs(2 + SLOWEST);

/// More than the server can do.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub target: Target,
    /// Seconds of overload
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// Requests per second, in multiples of what the server can do
    #[arg(long, default_value_t = 4.0)]
    times: f64,
    /// Seconds for measuring what it can do
    #[arg(long, default_value_t = 10.0)]
    measure: f64,
    /// Connections of the well-behaved clients
    #[arg(long, default_value_t = 2000)]
    connections: usize,
    /// Bad clients of each kind: slow, leaving, garbage
    #[arg(long, default_value_t = 16)]
    bad: u64,
    /// The server's flag: milliseconds from a request to its pass
    #[arg(long, default_value_t = 500)]
    queue_timeout_ms: u64,
    /// The server's flag: images that wait
    #[arg(long, default_value_t = 256)]
    max_queue: usize,
    /// MiB by which the second half's most memory may exceed the first half's
    #[arg(long, default_value_t = 32.0)]
    growth: f64,
}

impl Options {
    fn flags(&self) -> Vec<String> {
        let (queue, wait) = (self.max_queue, self.queue_timeout_ms);
        // Enough places for all clients, so that none waits unseen by the server.
        let places = 2 * self.connections;
        let flags = format!(
            "--queue-timeout-ms {wait} --max-queue {queue} --max-connections {places} \
             --header-timeout {SLOWEST} --body-timeout {SLOWEST}"
        );
        flags.split(' ').map(String::from).collect()
    }
}

pub async fn run(options: &Options) -> Result<Report> {
    let mut server = options.target.server(&options.flags()).await?;
    ensure!(server.is_ours(), "overload starts its own server");
    let (address, time) = (server.address(), Duration::from_secs_f64(options.seconds));
    let pictures = pictures::mixed(PICTURES)?;
    let requests = pictures::requests(&pictures, &options.target.path, true);

    let measure = Duration::from_secs_f64(options.measure);
    closed_loop(address, &requests, CLIENTS, measure / 5).await;
    let (seen, seconds) = closed_loop(address, &requests, CLIENTS, measure).await;
    let capacity = seen.good() as f64 / seconds;
    ensure!(capacity > 0.0, "the server has answered nothing with 200: {seen:?}");
    progress(format!("{capacity:.0} images/s; now {} times as many", options.times));
    let files = server.files()?;

    let begin = Instant::now();
    let foul = Foul::start(address, begin + time, options.bad, &pictures[0].bytes);
    let (rate, connections) = (options.times * capacity, options.connections);
    let load = tokio::spawn(async move { open_loop(address, &requests, rate, time, connections).await });
    let watched = watch(&server, begin + time).await?;
    let seen = load.await?;
    let lasted = begin.elapsed().as_secs_f64();
    let told = foul.end().await;
    sleep(REST).await;

    let mut report = Report::new("overload");
    report.number("images/s that it can do", capacity);
    report.number("requests/s that it was sent", seen.sent() as f64 / lasted);
    report.number("images/s that it answered", seen.good() as f64 / lasted);
    report.row("requests not sent for lack of connections", seen.held_back);
    let times = seen.sent() as f64 / lasted / capacity;
    let text = format!("it is sent at least {:.0} % of the wanted rate", 100.0 * MOST_OF_IT);
    report.claim(times >= MOST_OF_IT * options.times, text, format!("{times:.1} times what it can do"));
    tell(&mut report, options, &seen);
    let kinds = [("slow", &told.slow), ("leaving", &told.leaving), ("garbage", &told.garbage)];
    for (name, seen) in kinds {
        report.row(format!("{name} clients, statuses"), counts(&seen.statuses));
        report.row(format!("{name} clients, without an answer"), counts(&seen.broken));
    }
    let all = kinds.iter().map(|(_, seen)| *seen).chain([&seen]);
    let wrong: BTreeMap<u16, u64> =
        all.flat_map(|seen| seen.statuses.clone()).filter(|(status, _)| !is_fitting(*status)).collect();
    report.claim(wrong.is_empty(), "statuses are 200, 4xx, 503 and 504", counts(&wrong));
    watched.tell(&mut report, options.growth);
    let left = server.files()?.saturating_sub(files + 8);
    report.claim(left == 0, "no connection stays behind", format!("{left} more open files than before"));
    let panics = server.log("panic");
    let is_well = server.is_alive() && panics.is_empty();
    report.claim(
        is_well,
        "the server lives and did not panic",
        format!("{} lines {}", panics.len(), panics.join("; ")),
    );
    Ok(report)
}

fn is_fitting(status: u16) -> bool {
    status == 200 || (400..500).contains(&status) || status == 503 || status == 504
}

/// Tells of the well-behaved clients.
fn tell(report: &mut Report, options: &Options, seen: &Seen) {
    let ms = |values: &[f64], share: f64| 1000.0 * quantile(values, share);
    report.row("well-behaved clients, statuses", counts(&seen.statuses));
    report.number("p50 ms of those with 200", ms(&seen.times, 0.5));
    report.number("p99 ms of those with 200", ms(&seen.times, 0.99));
    report.number("slowest ms of those with 200", ms(&seen.times, 1.0));
    report.number("p50 ms of a pass", ms(&seen.passes, 0.5));
    let (p99, pass) = (ms(&seen.times, 0.99), ms(&seen.passes, 0.99));
    let most = options.queue_timeout_ms as f64 + pass;
    let text = format!(
        "p99 of those with 200 is at most the queue timeout of {} ms and a pass of {pass:.0} ms",
        options.queue_timeout_ms
    );
    report.claim(p99 <= most && !seen.times.is_empty(), text, format!("{p99:.0} ms"));
    let broken: u64 = seen.broken.values().sum();
    report.claim(broken == 0, "well-behaved clients always get an answer", counts(&seen.broken));
}

/// The server from outside, over time.
#[derive(Debug, Default)]
struct Watched {
    /// MiB.
    memory: Vec<f64>,
    /// Seconds for `/health` and `/metrics`.
    looks: Vec<f64>,
    failures: BTreeMap<String, u64>,
}

/// Looks at the server twice a second.
async fn watch(server: &Server, end: Instant) -> Result<Watched> {
    let mut watched = Watched::default();
    while Instant::now() < end {
        watched.memory.push(server.memory()?);
        for path in ["/health", "/metrics"] {
            watched.look(server.address(), path).await;
        }
        sleep(LOOK).await;
    }
    Ok(watched)
}

impl Watched {
    async fn look(&mut self, address: SocketAddr, path: &str) {
        let begin = Instant::now();
        let failure = match once(address, &get(path)).await {
            Ok(answer) if answer.status == 200 => return self.looks.push(begin.elapsed().as_secs_f64()),
            Ok(answer) => format!("{path} {}", answer.status),
            Err(error) => format!("{path} {error}"),
        };
        *self.failures.entry(failure).or_default() += 1;
    }

    fn tell(&self, report: &mut Report, most_growth: f64) {
        let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
        let (first, second) = self.memory.split_at(self.memory.len() / 2);
        let (first, second) = (most(first), most(second));
        report.number("most MiB, first half", first);
        report.number("most MiB, second half", second);
        for (index, part) in self.memory.chunks(self.memory.len().div_ceil(10).max(1)).enumerate() {
            let mut sorted = part.to_vec();
            sorted.sort_by(f64::total_cmp);
            let what = format!("MiB in tenth {}: least, median, most", index + 1);
            let [least, most] = [sorted[0], sorted[sorted.len() - 1]];
            report.row(what, format!("{least:.0}, {:.0}, {most:.0}", sorted[sorted.len() / 2]));
        }
        report.number("slowest ms of /health and /metrics", 1000.0 * most(&self.looks));
        let text = format!("the second half needs at most {most_growth} MiB more than the first");
        report.claim(second - first <= most_growth, text, format!("{:+.1} MiB", second - first));
        report.claim(self.failures.is_empty(), "/health and /metrics answer", counts(&self.failures));
    }
}
