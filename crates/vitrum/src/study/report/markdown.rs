//! The report in Markdown.

use super::{Report, Section, words};

/// The whole report.
pub fn page(report: &Report) -> String {
    let study = &report.study;
    let mut text = format!("# {}: {}\n\n", study.name, study.question);
    if !study.paper.is_empty() {
        text.push_str(&format!("Paper: {}\n\n", study.paper));
    }
    if !study.differs.is_empty() {
        text.push_str(&format!("What differs from the paper: {}\n\n", one_line(&study.differs)));
    }
    text.push_str(&format!("{}\n", words::progress(report)));
    if !report.judged.is_empty() {
        text.push_str("\n## What the paper says, and these results\n\n");
        let header = ["claim", "verdict", "numbers", "source"].map(String::from);
        let rows = report.judged.iter().map(|judged| {
            let (claim, source) = (judged.check.claim.clone(), judged.check.source.clone());
            vec![claim, format!("**{}**", words::verdict(judged)), words::numbers(report, judged), source]
        });
        text.push_str(&table(&header, rows));
        text.push_str(&format!("\n{}\n", words::METHOD));
    }
    for section in &report.sections {
        text.push_str(&results(report, section));
    }
    #[cfg(feature = "plots")]
    for figure in super::figure::all(report) {
        text.push_str(&format!("\n![{}](plots/{}.svg)\n", figure.title, figure.name));
    }
    if !report.missing.is_empty() {
        text.push_str("\n## Not finished\n\n");
        report.missing.iter().for_each(|run| text.push_str(&format!("- {run}\n")));
    }
    text
}

fn results(report: &Report, section: &Section) -> String {
    let title = if section.name.is_empty() { "Results".into() } else { format!("Results: {}", section.name) };
    let header = [words::axes(section), words::header(section)].concat();
    let rows = section.rows.iter().map(|row| [row.labels.clone(), words::cells(section, row)].concat());
    let about = format!(
        "{} {}: mean ± standard deviation over the seeds.",
        words::score(&section.metric),
        words::taken(report.study.take)
    );
    format!("\n## {title}\n\n{about}\n\n{}", table(&header, rows))
}

fn table(header: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| one_line(cell).replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(header.len()));
    let rows: String = rows.map(|row| line(&row)).collect();
    format!("{}{rule}{rows}", line(header))
}

/// A text without line breaks.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
