//! Log lines, as timm's `train.py` writes them.

use super::environment::BURN_VERSION;
use super::event::Event;
use super::line::{EvalLine, Started, TrainLine};
use super::results::{Finished, rank};
use crate::train::score::Meter;

/// `Train: 3 [ 200/1251 ( 16%)]  Loss: 4.21 (4.55)  Time: 0.312s,  410.25/s  (…)  LR: 4.100e-04  Data: 0.010 (…)`;
/// the epoch's means are in parentheses.
pub fn train_line(line: &TrainLine) -> String {
    let percent = 100.0 * (line.batch + 1) as f64 / line.batches.max(1) as f64;
    format!(
        "Train: {} [{:>4}/{} ({percent:>3.0}%)]  Loss: {} ({})  Time: {:.3}s, {:>7.2}/s  ({:.3}s, {:>7.2}/s)  LR: {}  Data: {:.3} ({:.3})",
        line.epoch,
        line.batch,
        line.batches,
        three_digits(line.loss),
        three_digits(line.loss_avg),
        line.step_seconds,
        line.images_per_second,
        line.step_seconds_avg,
        line.images_per_second_avg,
        exponential(line.lr, 3),
        line.data_seconds,
        line.data_seconds_avg,
    )
}

/// `Test: [ 195/195]  Time: … Loss: … Acc@1: … Acc@5: …`; the values of all images so far are in parentheses. As in
/// timm, the number after the slash is the index of the last batch.
pub fn eval_line(line: &EvalLine) -> String {
    let meters: String = line.scores.iter().map(meter).collect();
    format!(
        "Test{}: [{:>4}/{}]  Time: {:.3} ({:.3}){meters}",
        if line.ema { " (EMA)" } else { "" },
        line.batch,
        line.batches.saturating_sub(1),
        line.seconds,
        line.seconds_avg,
    )
}

/// `  Acc@1:  88.889 ( 86.921)`: a score of the newest batch, and of all images so far.
fn meter(Meter { name, value, mean }: &Meter) -> String {
    match (name.as_str(), rank(name)) {
        ("loss", _) => format!("  Loss: {value:>7.3} ({mean:>6.3})"),
        (_, Some(rank)) => format!("  Acc@{rank}: {value:>7.3} ({mean:>7.3})"),
        _ => format!("  {name}: {value:>7.3} ({mean:>7.3})"),
    }
}

/// The display name of a score: `top-1` for `top1`, any other name unchanged.
pub fn score_name(name: &str) -> String {
    rank(name).map_or_else(|| name.to_string(), |rank| format!("top-{rank}"))
}

/// `*** Best metric: 79.8 (epoch 297)`.
pub fn best_line(metric: f64, epoch: usize) -> String {
    format!("*** Best metric: {metric:?} (epoch {epoch})")
}

/// The facts of a run: program, data, model and folder, one line each.
pub fn started_lines(started: &Started) -> Vec<String> {
    let [height, width] = started.img_size;
    let side = if height == width { format!("{width} px") } else { format!("{height}x{width} px") };
    let mut lines = vec![
        format!(
            "vitrum {}  burn {BURN_VERSION}  {}  {} threads  seed {}",
            env!("CARGO_PKG_VERSION"),
            started.device,
            started.threads,
            started.seed
        ),
        format!(
            "data   {}  train {} ({} {})  validation {}",
            started.data,
            grouped(started.train_images as u64),
            started.classes,
            if started.numbers { "numbers" } else { "classes" },
            grouped(started.val_images as u64)
        ),
        format!("model  {}  {:.2} M params  {side}", started.model, started.params as f64 / 1e6),
        format!("run    {}", started.run.display()),
    ];
    if started.updates_done > 0 {
        lines.push(format!(
            "resumed after {} updates, in epoch {}",
            started.updates_done, started.epochs_done
        ));
    }
    lines
}

/// How the run ended.
pub fn finished_lines(finished: &Finished) -> Vec<String> {
    let how = if finished.interrupted { "stopped" } else { "done" };
    let mut lines = vec![format!(
        "{how} after {} updates in {}, {:.1} images/s",
        finished.updates,
        duration(finished.seconds),
        finished.images_per_second
    )];
    if let (Some(metric), Some(epoch)) = (finished.best_metric, finished.best_epoch) {
        lines.push(best_line(metric, epoch));
    }
    lines
}

/// The log lines of an event; some events have none.
pub fn lines(event: &Event) -> Vec<String> {
    match event {
        Event::Started(started) => started_lines(started),
        Event::Train(line) => vec![train_line(line)],
        Event::Eval(line) => vec![eval_line(line)],
        Event::Saved { path, best } => {
            vec![format!("saved  {}{}", path.display(), if *best { "  (best)" } else { "" })]
        }
        Event::Note(note) => vec![note.clone()],
        Event::Finished(finished) => finished_lines(finished),
        Event::Step(_) | Event::Epoch(_) => Vec::new(),
    }
}

/// `4025` seconds as `1:07:05`, `65` as `1:05`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "-".into();
    }
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Python's `#.3g`: three significant digits, zeros kept.
pub fn three_digits(value: f64) -> String {
    if !value.is_finite() {
        return python_special(value);
    }
    // The exponent after rounding to three digits.
    let rounded = format!("{value:.2e}");
    let exponent: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    match exponent {
        -4..=1 => format!("{value:.*}", (2 - exponent) as usize),
        2 => format!("{value:.0}."),
        _ => exponential(value, 2),
    }
}

/// Python's `.Ne`: an exponent with a sign and at least two digits.
pub fn exponential(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return python_special(value);
    }
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{exponent:0>2}")
}

fn python_special(value: f64) -> String {
    if value.is_nan() {
        "nan".into()
    } else if value > 0.0 {
        "inf".into()
    } else {
        "-inf".into()
    }
}

/// `86567656` as `86,567,656`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
