//! `vitrum data check`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{ImageFacts, Look, Part, format_name, look_at, open};
use crate::args::{DataCheckArgs, Format};
use crate::output::{self, Rows, grouped};
use crate::talk::Talk;

/// Kinds of findings, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// The picture cannot be decoded.
    Unreadable,
    /// The same pixels in two parts.
    Leak,
    /// The same pixels under two classes of one part.
    Conflict,
    /// The same pixels twice in a class.
    Duplicate,
    /// A side shorter than `--min-size`.
    Small,
    /// The name's extension belongs to another format than the content's.
    Extension,
    /// Classes of very different sizes, or without pictures.
    Imbalance,
    /// An entry that is not used.
    LeftOut,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Leak => "leak",
            Self::Conflict => "conflict",
            Self::Duplicate => "duplicate",
            Self::Small => "small",
            Self::Extension => "extension",
            Self::Imbalance => "imbalance",
            Self::LeftOut => "left-out",
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    kind: Kind,
    part: String,
    file: String,
    detail: String,
}

#[derive(Debug, Serialize)]
struct PartSize {
    part: String,
    images: usize,
    classes: usize,
}

#[derive(Serialize)]
struct Report {
    images: usize,
    unreadable: usize,
    parts: Vec<PartSize>,
    /// Number of findings per kind.
    counts: BTreeMap<&'static str, usize>,
    findings: Vec<Finding>,
}

/// Runs the command; false if there are findings with `--strict`.
pub fn run(args: &DataCheckArgs, talk: Talk) -> Result<bool> {
    let parts = open(&args.data, &args.read, talk)?;
    let mut check = Check { args, parts: &parts, findings: Vec::new(), known: HashMap::new() };
    let mut images = 0;
    for (at, part) in parts.iter().enumerate() {
        images += part.set.len();
        look_at(part, &args.read, talk, |look| check.add(at, &look))?;
        check.add_whole(part);
    }
    let mut findings = check.findings;
    findings.sort_by_key(|finding| finding.kind);
    let mut counts = BTreeMap::new();
    findings.iter().for_each(|finding| *counts.entry(finding.kind.name()).or_insert(0) += 1);
    // Only a hundred entries left out have names; all are counted.
    let left_out: usize = parts.iter().map(|part| part.set.skipped().count).sum();
    if left_out > 0 {
        counts.insert(Kind::LeftOut.name(), left_out);
    }
    let size = |part: &Part| PartSize {
        part: part.name.clone(),
        images: part.set.len(),
        classes: part.set.classes().len(),
    };
    let unreadable = counts.get(Kind::Unreadable.name()).copied().unwrap_or(0);
    let report = Report { images, unreadable, parts: parts.iter().map(size).collect(), counts, findings };
    show(&report, args)?;
    let allowed = if args.max_bad < 1.0 { args.max_bad * images as f64 } else { args.max_bad };
    if unreadable > allowed as usize {
        bail!("{unreadable} of {images} images cannot be read, more than --max-bad {}", args.max_bad);
    }
    Ok(!args.strict || report.findings.is_empty())
}

struct Check<'a> {
    args: &'a DataCheckArgs,
    parts: &'a [Part],
    findings: Vec<Finding>,
    /// The first picture of every hash: part, name, class.
    known: HashMap<[u8; 32], (usize, String, Option<usize>)>,
}

impl Check<'_> {
    fn find(&mut self, kind: Kind, part: &str, file: &str, detail: String) {
        self.findings.push(Finding { kind, part: part.into(), file: file.into(), detail });
    }

    fn add(&mut self, at: usize, look: &Look) {
        let part = &self.parts[at].name;
        if let Some(format) = look.format
            && let Some(expected) = other_extension(&look.name, format)
        {
            let detail = format!("called .{expected}, but the content is {}", format_name(Some(format)));
            self.find(Kind::Extension, part, &look.name, detail);
        }
        match &look.seen {
            Err(reason) => self.find(Kind::Unreadable, part, &look.name, reason.clone()),
            Ok(seen) => {
                let ImageFacts { width, height, .. } = *seen;
                if width.min(height) < self.args.min_size {
                    self.find(Kind::Small, part, &look.name, format!("{width} x {height} pixels"));
                }
                self.compare(at, look, seen);
            }
        }
    }

    fn compare(&mut self, at: usize, look: &Look, seen: &ImageFacts) {
        let Some((first_at, first, label)) = self.known.get(&seen.hash).cloned() else {
            self.known.insert(seen.hash, (at, look.name.clone(), look.label));
            return;
        };
        let (here, there) = (&self.parts[at], &self.parts[first_at]);
        let [ours, theirs] = [here.class(look.label).to_string(), there.class(label).to_string()];
        let conflict = if ours == theirs { String::new() } else { format!(", as `{theirs}`, here `{ours}`") };
        let (kind, detail) = if at != first_at {
            (Kind::Leak, format!("the pixels of {first} in {}{conflict}", there.name))
        } else if ours != theirs {
            (Kind::Conflict, format!("the pixels of {first}{conflict}"))
        } else {
            (Kind::Duplicate, format!("the pixels of {first}"))
        };
        self.find(kind, &here.name, &look.name, detail);
    }

    /// Adds findings about the part as a whole.
    fn add_whole(&mut self, part: &Part) {
        for skipped in &part.set.skipped().first {
            let (file, detail) = skipped.split_once(": ").unwrap_or((skipped, ""));
            self.find(Kind::LeftOut, &part.name, file, detail.into());
        }
        let mut counts = vec![0_usize; part.set.classes().len()];
        for label in (0..part.set.len() as u32).filter_map(|index| part.set.label(index)) {
            counts[label] += 1;
        }
        let with_pictures = || counts.iter().zip(part.set.classes()).filter(|(count, _)| **count > 0);
        let largest = with_pictures().max_by_key(|(count, _)| **count);
        let smallest = with_pictures().min_by_key(|(count, _)| **count);
        if let (Some((&most, large)), Some((&least, small))) = (largest, smallest)
            && most as f64 > self.args.max_imbalance * least as f64
        {
            let detail = format!("`{large}` has {most} images, `{small}` {least}");
            self.find(Kind::Imbalance, &part.name, "", detail);
        }
        for (_, class) in counts.iter().zip(part.set.classes()).filter(|(count, _)| **count == 0) {
            self.find(Kind::Imbalance, &part.name, "", format!("`{class}` has no images"));
        }
    }
}

/// The extension of a name, if it belongs to another format than the content's. Unknown extensions are ignored.
fn other_extension(name: &str, format: image::ImageFormat) -> Option<String> {
    let extension = Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
    image::ImageFormat::from_extension(&extension).filter(|&told| told != format).map(|_| extension)
}

fn show(report: &Report, args: &DataCheckArgs) -> Result<()> {
    let header = ["kind", "part", "file", "detail"];
    let row = |finding: &Finding| {
        let Finding { kind, part, file, detail } = finding;
        [kind.name().to_string(), part.clone(), file.clone(), detail.replace('\n', " ")]
    };
    let mut rows = Rows::new(&header);
    match args.format {
        Format::Json => return output::json(report),
        Format::Csv => {
            report.findings.iter().for_each(|finding| rows.push(row(finding)));
            return rows.csv();
        }
        Format::Text => {}
    }
    for PartSize { part, images, classes } in &report.parts {
        output::line(format_args!("{part}: {} images, {classes} classes", grouped(*images as u64)))?;
    }
    if report.findings.is_empty() {
        return output::line("nothing found");
    }
    let mut listed = BTreeMap::new();
    for finding in &report.findings {
        let count = listed.entry(finding.kind).or_insert(0);
        if *count < args.limit {
            rows.push(row(finding));
        }
        *count += 1;
    }
    if !rows.is_empty() {
        output::line("")?;
        rows.text()?;
    }
    let counts: Vec<String> =
        listed.keys().map(|kind| format!("{} {}", report.counts[kind.name()], kind.name())).collect();
    output::line(format_args!("\nfound: {}", counts.join(", ")))
}
