//! Throughput and times: closed loops of several widths, then an open loop at half of the best rate.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::drive::{closed_loop, counts, open_loop};
use crate::report::{Report, progress, quantile};
use crate::{Target, pictures};

/// Clients of the closed loops.
const CLIENTS: [usize; 5] = [1, 2, 8, 32, 64];

/// Photos that are sent in turn.
const PHOTOS: u64 = 48;

/// Connections of the open loop.
const CONNECTIONS: usize = 512;

/// How fast a server is.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub target: Target,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
}

pub async fn run(options: &Options) -> Result<Report> {
    let server = options.target.server(&[]).await?;
    let (address, time) = (server.address(), Duration::from_secs_f64(options.seconds));
    let requests = pictures::requests(&pictures::jpegs(PHOTOS)?, &options.target.path, true);
    let warm = Duration::from_secs_f64((options.seconds / 5.0).clamp(0.5, 5.0));
    closed_loop(address, &requests, 8, warm).await;

    let mut report = Report::new("pace");
    let (mut best, mut others) = (0.0_f64, 0);
    for clients in CLIENTS {
        let (seen, seconds) = closed_loop(address, &requests, clients, time).await;
        let rate = seen.good() as f64 / seconds;
        progress(format!("{clients} clients: {rate:.1} images/s"));
        report.number(format!("images/s, clients {clients}"), rate);
        report.number(format!("median ms, clients {clients}"), 1000.0 * quantile(&seen.times, 0.5));
        best = best.max(rate);
        others += seen.others();
    }
    ensure!(best > 0.0, "the server has answered nothing with 200");
    let seen = open_loop(address, &requests, best / 2.0, time, CONNECTIONS).await;
    report.number("open loop, images/s", best / 2.0);
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        report.number(format!("open loop, {name} ms"), 1000.0 * quantile(&seen.times, share));
    }
    report.row("open loop, statuses", counts(&seen.statuses));
    others += seen.others() + seen.held_back;
    report.claim(others == 0, "every request is answered with 200", format!("{others} are not"));
    Ok(report)
}
