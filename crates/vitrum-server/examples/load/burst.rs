//! Memory after bursts: it must not grow from burst to burst. The server keeps freed memory for the next burst, so it does
//! not come down to that of an idle one; how much stays is told, and bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::drive::{Requests, Seen, Shared, ask, closed_loop, counts};
use crate::report::{Report, progress};
use crate::{Target, pictures};

/// Pictures that are sent in turn.
const PICTURES: u64 = 64;

/// Between a refusal and the next attempt.
const PAUSE: Duration = Duration::from_millis(20);

/// Memory after bursts.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub target: Target,
    /// Images of a burst
    #[arg(long, default_value_t = 10_000)]
    images: u64,
    /// Connections that send at once
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Bursts; the last one is compared with the one before
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..))]
    bursts: u64,
    /// Seconds between a burst and the look at the memory
    #[arg(long, default_value_t = 5.0)]
    rest: f64,
    /// MiB that the last burst may leave beyond the one before; the allocator takes memory in steps of 16
    #[arg(long, default_value_t = 32.0)]
    growth: f64,
    /// MiB that all bursts may leave beyond the idle server
    #[arg(long, default_value_t = 192.0)]
    left: f64,
}

pub async fn run(options: &Options) -> Result<Report> {
    let mut server = options.target.server(&[]).await?;
    let address = server.address();
    let requests = pictures::requests(&pictures::mixed(PICTURES)?, &options.target.path, true);
    let rest = Duration::from_secs_f64(options.rest);
    let mut report = Report::new("burst");
    report.number("MiB at the start", server.memory()?);
    // The first passes take memory that every server that answers has.
    closed_loop(address, &requests, 2, Duration::from_secs(2)).await;
    sleep(rest).await;
    let idle = server.memory()?;
    report.number("MiB idle, after the first answers", idle);

    let (mut after, mut unanswered, mut broken) = (Vec::new(), 0, 0);
    for burst in 1..=options.bursts {
        let begin = Instant::now();
        let seen = send(address, &requests, options.images, options.connections).await;
        let rate = seen.good() as f64 / begin.elapsed().as_secs_f64();
        let most = server.memory()?;
        sleep(rest).await;
        let left = server.memory()?;
        after.push(left);
        progress(format!("burst {burst}: {rate:.0} images/s, {most:.1} MiB at its end"));
        report.row(format!("burst {burst}, statuses"), counts(&seen.statuses));
        report.number(format!("burst {burst}, images/s"), rate);
        report.number(format!("burst {burst}, MiB at its end"), most);
        report.number(format!("burst {burst}, MiB after a rest"), left);
        unanswered += options.images - seen.good();
        broken += seen.broken.values().sum::<u64>();
    }
    report.claim(unanswered == 0, "every image is answered", format!("{unanswered} are not"));
    report.claim(broken == 0, "no connection breaks", format!("{broken} broke"));
    let [.., before, last] = after[..] else { bail!("--bursts is {}, expected at least 2", options.bursts) };
    let growth = last - before;
    let text = format!("the last burst leaves at most {} MiB more than the one before", options.growth);
    report.claim(growth <= options.growth, text, format!("{growth:+.1} MiB"));
    let left = last - idle;
    let text = format!("the bursts leave at most {} MiB more than idle", options.left);
    report.claim(left <= options.left, text, format!("{left:+.1} MiB"));
    let panics = server.log("panic");
    report.claim(
        server.is_alive() && panics.is_empty(),
        "the server lives and did not panic",
        panics.join("; "),
    );
    Ok(report)
}

/// Sends so many images at once; who is refused comes again. An image whose connection breaks is given up.
async fn send(address: SocketAddr, requests: &Requests, images: u64, connections: usize) -> Seen {
    let (seen, next) = (Shared::default(), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (seen, next, requests) = (seen.clone(), next.clone(), requests.clone());
        tasks.spawn(async move {
            let mut connection = None;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= images {
                    break;
                }
                let request = &requests[at as usize % requests.len()];
                loop {
                    let asked = Instant::now();
                    let answer = ask(&mut connection, address, request).await;
                    seen.lock().note(&answer, asked.elapsed());
                    match answer {
                        Ok(answer) if matches!(answer.status, 429 | 503 | 504) => sleep(PAUSE).await,
                        _ => break,
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    seen.take()
}
