//! The report as one page of HTML: light and dark, no script, no other file.

use super::markdown::one_line;
use super::{Report, Section, words};
use crate::study::StudyError;
use crate::study::verdict::Verdict;

/// Colours and shapes of the page.
const STYLE: &str = "\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #23272e; --faint: #6a717c; --rule: #dfe3e8; --head: #f5f7f9;
  --good: #1f7a4d; --bad: #b42323; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e3e6ea; --faint: #98a0ab; --rule: #333a43;
  --head: #1f242a; --good: #5cc791; --bad: #ff8078; --open: #e3b34c; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.faint, td.source { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { padding: 0.4rem 0.7rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { background: var(--head); }
td.label { white-space: nowrap; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.agrees { color: var(--good); font-weight: 600; } .disagrees { color: var(--bad); font-weight: 600; }
.open { color: var(--open); font-weight: 600; }
figure { margin: 1.5rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
.dark { display: none; }
@media (prefers-color-scheme: dark) { .light { display: none; } .dark { display: block; } }
";

/// The whole page.
///
/// # Errors
/// [`StudyError::Log`] for a figure that cannot be drawn.
pub fn page(report: &Report) -> Result<String, StudyError> {
    let study = &report.study;
    let title = escape(&format!("{}: {}", study.name, study.question));
    let mut body = format!("<h1>{title}</h1>\n");
    for (name, text) in [("Paper", &study.paper), ("What differs from the paper", &study.differs)] {
        if !text.is_empty() {
            body.push_str(&format!("<p>{name}: {}</p>\n", escape(&one_line(text))));
        }
    }
    body.push_str(&format!("<p>{}</p>\n", escape(&words::progress(report))));
    if !report.judged.is_empty() {
        body.push_str(&checks(report));
    }
    report.sections.iter().for_each(|section| body.push_str(&results(report, section)));
    body.push_str(&figures(report)?);
    if !report.missing.is_empty() {
        let runs: String = report.missing.iter().map(|run| format!("<li>{}</li>\n", escape(run))).collect();
        body.push_str(&format!("<h2>Not finished</h2>\n<ul>\n{runs}</ul>\n"));
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    ))
}

fn checks(report: &Report) -> String {
    let row = |judged: &crate::study::Judged| {
        let class = match judged.verdict {
            Verdict::Agrees => "agrees",
            Verdict::Disagrees => "disagrees",
            Verdict::NotDecided => "open",
        };
        format!(
            "<tr><td>{}</td><td class=\"{class}\">{}</td><td>{}</td><td class=\"source\">{}</td></tr>\n",
            escape(&judged.check.claim),
            escape(&words::verdict(judged)),
            escape(&words::numbers(report, judged)),
            escape(&one_line(&judged.check.source)),
        )
    };
    let rows: String = report.judged.iter().map(row).collect();
    format!(
        "<h2>What the paper says, and these results</h2>\n<div class=\"wide\"><table>\n<tr><th>claim</th>\
         <th>verdict</th><th>numbers</th><th>source</th></tr>\n{rows}</table></div>\n<p class=\"faint\">{}</p>\n",
        escape(words::METHOD)
    )
}

fn results(report: &Report, section: &Section) -> String {
    let title = if section.name.is_empty() { "Results".into() } else { format!("Results: {}", section.name) };
    let cells = |cells: Vec<String>, open: &str, tag: &str| -> String {
        cells.iter().map(|cell| format!("<{open}>{}</{tag}>", escape(cell))).collect()
    };
    let header = cells([words::axes(section), words::header(section)].concat(), "th", "th");
    let row = |row: &super::Row| {
        let labels = cells(row.labels.clone(), "td class=\"label\"", "td");
        format!("<tr>{labels}{}</tr>\n", cells(words::cells(section, row), "td class=\"number\"", "td"))
    };
    let rows: String = section.rows.iter().map(row).collect();
    format!(
        "<h2>{}</h2>\n<p class=\"faint\">{} {}: mean ± standard deviation over the seeds.</p>\n\
         <div class=\"wide\"><table>\n<tr>{header}</tr>\n{rows}</table></div>\n",
        escape(&title),
        escape(&words::score(&section.metric)),
        words::taken(report.study.take)
    )
}

/// Each figure in light and in dark colours; the style shows one of them.
#[cfg(feature = "plots")]
fn figures(report: &Report) -> Result<String, StudyError> {
    use super::figure::{Theme, all};
    let mut text = String::new();
    for figure in all(report) {
        let draw = |theme| figure.svg(theme).map_err(|error| StudyError::Log(error.into()));
        text.push_str(&format!(
            "<figure role=\"img\" aria-label=\"{}\">\n<div class=\"light\">{}</div>\n<div class=\"dark\">{}</div>\n\
             </figure>\n",
            escape(&figure.title),
            draw(Theme::LIGHT)?,
            draw(Theme::DARK)?
        ));
    }
    Ok(text)
}

#[cfg(not(feature = "plots"))]
fn figures(_: &Report) -> Result<String, StudyError> {
    Ok(String::new())
}

/// A text whose characters mean nothing to HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
