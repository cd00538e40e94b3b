//! Each image gets its own answer: a set of images that all differ is asked about twice, in two orders and on two numbers
//! of connections, and a sample of it one by one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Connection, get, once};
use crate::drive::ask;
use crate::report::{Report, progress};
use crate::{Target, pictures};

/// Most difference between two answers to one image.
const SAME: f32 = 1e-5;

/// Least difference between answers to two images that can be told apart.
const DIFFERENT: f32 = 1e-4;

/// Most pairs of images that cannot be told apart, of all pairs.
const MOST_ALIKE: f64 = 1e-3;

/// Classes that are compared.
const CLASSES: usize = 64;

/// After a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// Each image gets its own answer.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub target: Target,
    /// Images that all differ
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Connections of the first and of the second time
    #[arg(long, num_args = 2, default_values_t = [32, 128])]
    connections: Vec<usize>,
    /// Images that are asked about one by one
    #[arg(long, default_value_t = 500)]
    sample: u64,
}

/// Probabilities of an image, by class.
type Probs = Vec<f32>;

/// What one time of asking has brought.
struct Asked {
    answers: Vec<Option<Probs>>,
    /// Images of a pass, on average.
    batch: f64,
    again: u64,
    failures: Vec<String>,
}

pub async fn run(options: &Options) -> Result<Report> {
    let server = options.target.server(&[]).await?;
    let (address, images) = (server.address(), options.requests);
    ensure!(images >= 2, "--requests is {images}, expected at least 2");
    let path: Arc<str> = format!("{}?top_k=100000", options.target.path).into();
    let [first, second] = options.connections[..] else { anyhow::bail!("--connections takes two numbers") };

    let begin = Instant::now();
    let forwards = ask_all(address, &path, (0..images).collect(), images, first).await?;
    progress(format!(
        "{images} images in {:.0} s, {:.1} in a pass",
        begin.elapsed().as_secs_f64(),
        forwards.batch
    ));
    let begin = Instant::now();
    let mixed = ask_all(address, &path, mixed_up(images), images, second).await?;
    progress(format!(
        "{images} images in {:.0} s, {:.1} in a pass",
        begin.elapsed().as_secs_f64(),
        mixed.batch
    ));
    let sample = options.sample.clamp(1, images);
    let some = (0..sample).map(|at| at * (images / sample)).collect();
    let alone = ask_all(address, &path, some, images, 1).await?;

    let mut report = Report::new("distinct");
    report.row("images", images);
    for (name, asked) in [("first time", &forwards), ("second time", &mixed), ("one by one", &alone)] {
        report.number(format!("{name}, images of a pass"), asked.batch);
        report.row(format!("{name}, asked again after a refusal"), asked.again);
    }
    let failures: Vec<&String> =
        [&forwards, &mixed, &alone].iter().flat_map(|asked| &asked.failures).collect();
    let found = format!("{} failed {}", failures.len(), failures.first().map_or("", |why| why.as_str()));
    report.claim(failures.is_empty(), "every image is answered", found.trim());
    let pairs = [("both times the same answer", &mixed), ("alone the same answer as in a batch", &alone)];
    for (text, asked) in pairs {
        let (count, most) = compared(&forwards.answers, &asked.answers);
        report.claim(
            most <= SAME && count > 0,
            format!("{text}, within {SAME:e}"),
            format!("{most:.2e} over {count} images"),
        );
    }
    let batches = forwards.batch.min(mixed.batch);
    report.claim(batches >= 2.0, "images are computed together", format!("{batches:.1} in a pass"));
    let alike = alike(forwards.answers.into_iter().flatten().collect());
    let share = alike as f64 / (images as f64 * (images - 1) as f64 / 2.0);
    let text = format!(
        "nearly all pairs of images differ by more than {DIFFERENT:e}: at most {MOST_ALIKE:e} do not"
    );
    report.claim(share <= MOST_ALIKE, text, format!("{alike} pairs, {share:.1e} of all"));
    Ok(report)
}

/// The numbers below `images` in an order far from their own.
fn mixed_up(images: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..images).collect();
    order.sort_by_key(|number| pictures::random(*number));
    order
}

/// Asks about each image once, on so many connections.
async fn ask_all(
    address: SocketAddr,
    path: &Arc<str>,
    order: Vec<u64>,
    images: u64,
    connections: usize,
) -> Result<Asked> {
    let before = passes(address).await?;
    let (order, next, again) = (Arc::new(order), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (order, next, again, path) = (order.clone(), next.clone(), again.clone(), path.clone());
        tasks.spawn(async move {
            let (mut answers, mut connection) = (Vec::new(), None);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                let Some(number) = order.get(at).copied() else { return answers };
                answers.push((number, ask_one(address, &path, number, &mut connection, &again).await));
            }
        });
    }
    let mut asked =
        Asked { answers: vec![None; images as usize], batch: 0.0, again: 0, failures: Vec::new() };
    for (number, answer) in tasks.join_all().await.into_iter().flatten() {
        match answer {
            Ok(probs) => asked.answers[number as usize] = Some(probs),
            Err(error) => asked.failures.push(format!("image {number}: {error:#}")),
        }
    }
    let after = passes(address).await?;
    asked.again = again.load(Ordering::Relaxed);
    asked.batch = (after.0 - before.0) / (after.1 - before.1).max(1.0);
    Ok(asked)
}

/// The answer to one image; a refusal is asked again.
async fn ask_one(
    address: SocketAddr,
    path: &str,
    number: u64,
    connection: &mut Option<Connection>,
    again: &AtomicU64,
) -> Result<Probs> {
    let request = pictures::distinct(number)?.request(path, true);
    loop {
        let answer = ask(connection, address, &request).await?;
        match answer.status {
            200 => return probs(&answer.body),
            429 | 503 | 504 => again.fetch_add(1, Ordering::Relaxed),
            status => anyhow::bail!("status {status}"),
        };
        sleep(PAUSE).await;
    }
}

/// The probabilities of the first image of an answer.
fn probs(body: &[u8]) -> Result<Probs> {
    let answer: Value = serde_json::from_slice(body)?;
    let classes = answer["results"][0]["predictions"].as_array().context("an answer without predictions")?;
    let mut probs = vec![0.0; classes.len().min(CLASSES)];
    for class in classes {
        let index = class["index"].as_u64().context("a class without an index")? as usize;
        if let Some(place) = probs.get_mut(index) {
            *place = class["prob"].as_f64().context("a class without a probability")? as f32;
        }
    }
    Ok(probs)
}

/// Sum and count of the images of the passes that answered the requests so far.
async fn passes(address: SocketAddr) -> Result<(f64, f64)> {
    let answer = once(address, &get("/metrics")).await?;
    let text = String::from_utf8(answer.body)?;
    let total = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Ok((total("vitrum_batch_images_sum"), total("vitrum_batch_images_count")))
}

/// How many images both have, and the largest difference between their answers.
fn compared(some: &[Option<Probs>], others: &[Option<Probs>]) -> (usize, f32) {
    let both = some.iter().zip(others).filter_map(|(some, other)| some.as_ref().zip(other.as_ref()));
    both.fold((0, 0.0), |(count, most), (some, other)| (count + 1, most.max(difference(some, other))))
}

/// The largest difference of a class; answers of other lengths are far apart.
fn difference(some: &[f32], other: &[f32]) -> f32 {
    if some.len() != other.len() {
        return f32::INFINITY;
    }
    some.iter().zip(other).map(|(some, other)| (some - other).abs()).fold(0.0, f32::max)
}

/// Pairs of images whose answers do not differ by more than [`DIFFERENT`].
fn alike(mut answers: Vec<Probs>) -> u64 {
    let Some(first) = answers.first() else { return 0 };
    // Sorted by the class that varies most, images that are alike lie near each other.
    let widest = (0..first.len()).max_by(|a, b| variance(&answers, *a).total_cmp(&variance(&answers, *b)));
    let widest = widest.unwrap_or_default();
    let key = |probs: &Probs| probs.get(widest).copied().unwrap_or_default();
    answers.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let near = |at: usize| {
        let end = key(&answers[at]) + DIFFERENT;
        answers[at + 1..].iter().take_while(move |other| key(other) <= end)
    };
    let alike =
        |at: usize| near(at).filter(|other| difference(&answers[at], other) <= DIFFERENT).count() as u64;
    (0..answers.len()).map(alike).sum()
}

fn variance(answers: &[Probs], class: usize) -> f64 {
    let values = || answers.iter().filter_map(|probs| probs.get(class)).map(|prob| f64::from(*prob));
    let mean = values().sum::<f64>() / answers.len() as f64;
    values().map(|value| (value - mean).powi(2)).sum()
}
