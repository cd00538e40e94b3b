//! Numbers and verdicts in words, the same in Markdown, in the page and on the terminal.

use super::super::file::Take;
use super::super::results::Group;
use super::super::verdict::{Comparison, Judged, Side, Verdict};
use super::{Report, Row, Section};

/// Whether a score is a percentage.
pub fn is_percent(metric: &str) -> bool {
    metric.strip_prefix("top").is_some_and(|rank| rank.parse::<u32>().is_ok())
}

/// A value of a score: two digits of a percentage, else four.
pub fn value(metric: &str, value: f64) -> String {
    if is_percent(metric) { format!("{value:.2}") } else { format!("{value:.4}") }
}

/// `61.20 ± 0.45`; `-` without a value.
pub fn spread(metric: &str, group: &Group) -> String {
    match (group.mean(), group.deviation()) {
        (Some(mean), Some(deviation)) => format!("{} ± {}", value(metric, mean), value(metric, deviation)),
        (Some(mean), None) => value(metric, mean),
        (None, _) => "-".into(),
    }
}

/// The score and its unit: `top-1 (%)`.
pub fn score(metric: &str) -> String {
    match metric.strip_prefix("top").filter(|_| is_percent(metric)) {
        Some(rank) => format!("top-{rank} (%)"),
        None => metric.into(),
    }
}

/// Which value of the score counts.
pub fn taken(take: Take) -> &'static str {
    match take {
        Take::Last => "of the last validation",
        Take::Best => "of the best validation",
    }
}

/// A number of seconds: `42 s`, `3.4 min`, `2.1 h`.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Bytes: `1.5 MB`.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// A multiple of a million or a billion, three digits; `-` if it is not known.
pub fn large(number: Option<u64>, unit: f64) -> String {
    number.map_or_else(|| "-".into(), |number| format!("{:.3}", number as f64 / unit))
}

/// `1 seed`, `3 seeds`.
pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// The cells of a condition, after its labels.
pub fn cells(section: &Section, row: &Row) -> Vec<String> {
    let seeds = match row.group.count() {
        count if count == row.seeds => count.to_string(),
        count => format!("{count} of {}", row.seeds),
    };
    let seen = row.images.zip(row.epochs).map(|(images, epochs)| format!("{images} × {epochs}"));
    vec![
        spread(&section.metric, &row.group),
        seeds,
        large(row.params, 1e6),
        large(row.macs, 1e9),
        seen.unwrap_or_else(|| "-".into()),
        row.seconds.map_or_else(|| "-".into(), time),
    ]
}

/// The names of those cells.
pub fn header(section: &Section) -> Vec<String> {
    let names = ["seeds", "parameters (M)", "GMACs", "images × epochs", "time of a run"];
    std::iter::once(score(&section.metric)).chain(names.map(String::from)).collect()
}

/// The names of the labels.
pub fn axes(section: &Section) -> Vec<String> {
    if section.axes.is_empty() { vec!["runs".into()] } else { section.axes.clone() }
}

/// `agrees`, `disagrees`, `not decided by 3 seeds`.
pub fn verdict(judged: &Judged) -> String {
    match judged.verdict {
        Verdict::Agrees => "agrees".into(),
        Verdict::Disagrees => "disagrees".into(),
        Verdict::NotDecided => {
            let sides = || judged.comparisons.iter().flat_map(|compared| [&compared.a, &compared.b]);
            match sides().map(|side| side.count).min() {
                None | Some(0) => "not decided yet: runs are missing".into(),
                Some(count) => format!("not decided by {}", counted(count, "seed")),
            }
        }
    }
}

/// The comparison that decides, with its numbers.
pub fn numbers(report: &Report, judged: &Judged) -> String {
    let deciding = |compared: &&Comparison| compared.verdict == judged.verdict;
    let candidates = judged.comparisons.iter().filter(deciding);
    // The nearest to its limit, relative to what chance reaches.
    let margin = |compared: &Comparison| match (compared.difference, compared.reach) {
        (Some(difference), Some(reach)) => (difference.abs() - compared.limit.abs()).abs() - reach,
        _ => f64::NEG_INFINITY,
    };
    let Some(one) = candidates.min_by(|a, b| margin(a).total_cmp(&margin(b))) else {
        return "no comparison".into();
    };
    let metric = metric_of(report, &one.a.name);
    let mut text = format!("{}, {}", side(metric, &one.a), side(metric, &one.b));
    if let Some(difference) = one.difference {
        let sign = if difference < 0.0 { "−" } else { "+" };
        text.push_str(&format!(": difference {sign}{}", value(metric, difference.abs())));
    }
    if let Some((error, reach)) = one.error.zip(one.reach) {
        text.push_str(&format!(
            ", standard error {}, chance reaches {}",
            value(metric, error),
            value(metric, reach)
        ));
    }
    let more = judged.comparisons.len() - 1;
    if more > 0 {
        text.push_str(&format!(" (and {})", counted(more, "other comparison")));
    }
    text
}

fn side(metric: &str, side: &Side) -> String {
    let mean = side.mean.map_or_else(|| "no result".into(), |mean| value(metric, mean));
    let deviation = side.deviation.map(|deviation| format!(" ± {}", value(metric, deviation)));
    format!("{} {mean}{}", side.name, deviation.unwrap_or_default())
}

/// The score of a condition.
fn metric_of<'a>(report: &'a Report, condition: &str) -> &'a str {
    let has = |section: &&Section| section.rows.iter().any(|row| row.name == condition);
    report.sections.iter().find(has).map_or("", |section| section.metric.as_str())
}

/// How verdicts come about, for the end of a report.
pub const METHOD: &str = "A comparison has the difference of two means and its standard error from the pooled \
deviation of the seeds. Chance reaches as far as the 95 % quantile of Student's t times that error. A check agrees or \
disagrees if the difference is farther from its limit than that; in between, the seeds do not decide. Where a side has \
several conditions, the best of them counts, chosen by these same results, unless every pair is compared.";

/// How many runs are finished.
pub fn progress(report: &Report) -> String {
    let (done, all) = (report.runs.len(), report.runs.len() + report.missing.len());
    let finished = if done == all { format!("All {all}") } else { format!("{done} of {all}") };
    format!("{finished} runs are finished; they took {}.", time(report.seconds()))
}
