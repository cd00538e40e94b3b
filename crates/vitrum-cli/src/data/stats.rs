//! `vitrum data stats`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::{Look, Part, format_name, look_at, open};
use crate::args::{DataStatsArgs, Format};
use crate::output::{self, Rows, grouped};
use crate::talk::Talk;

#[derive(Serialize)]
struct Report {
    part: String,
    images: usize,
    /// Pictures that could not be decoded; they count only in their class.
    unreadable: usize,
    /// Pictures per class, in the order of the labels.
    classes: Vec<ClassCount>,
    width: Option<Spread>,
    height: Option<Spread>,
    formats: BTreeMap<&'static str, usize>,
    /// Per channel over all pixels, on the scale 0 to 1.
    mean: Option<[f64; 3]>,
    std: Option<[f64; 3]>,
}

#[derive(Serialize)]
struct ClassCount {
    class: String,
    images: usize,
}

/// Pixels.
#[derive(Serialize)]
struct Spread {
    min: u32,
    median: u32,
    max: u32,
}

impl Spread {
    /// The median of an even number is the lower of the two in the middle.
    fn of(mut values: Vec<u32>) -> Option<Self> {
        values.sort_unstable();
        let median = values.get(values.len().saturating_sub(1) / 2).copied()?;
        Some(Self { min: values[0], median, max: values[values.len() - 1] })
    }
}

/// Runs the command.
pub fn run(args: &DataStatsArgs, talk: Talk) -> Result<()> {
    let parts = open(&args.data, &args.read, talk)?;
    let mut reports = Vec::new();
    for part in &parts {
        let mut sums = Sums::default();
        look_at(part, &args.read, talk, |look| sums.add(&look))?;
        reports.push(sums.report(part));
    }
    match args.format {
        Format::Json => output::json(&reports),
        Format::Csv => csv(&reports),
        Format::Text => reports.iter().try_for_each(text),
    }
}

/// Integers, so that the order of adding does not matter.
#[derive(Default)]
struct Sums {
    unreadable: usize,
    labels: BTreeMap<usize, usize>,
    widths: Vec<u32>,
    heights: Vec<u32>,
    formats: BTreeMap<&'static str, usize>,
    pixels: u64,
    levels: [[u128; 2]; 3],
}

impl Sums {
    fn add(&mut self, look: &Look) {
        if let Some(label) = look.label {
            *self.labels.entry(label).or_insert(0) += 1;
        }
        let Ok(seen) = &look.seen else {
            self.unreadable += 1;
            return;
        };
        *self.formats.entry(format_name(look.format)).or_insert(0) += 1;
        self.widths.push(seen.width);
        self.heights.push(seen.height);
        self.pixels += u64::from(seen.width) * u64::from(seen.height);
        for (total, sums) in self.levels.iter_mut().flatten().zip(seen.sums.iter().flatten()) {
            *total += u128::from(*sums);
        }
    }

    fn report(self, part: &Part) -> Report {
        let pixels = self.pixels as f64;
        let mean = self.levels.map(|[sum, _]| sum as f64 / pixels / 255.0);
        // The variance of n levels is (n sum(x^2) - sum(x)^2) / n^2, whose numerator is a whole number.
        let std = self.levels.map(|[sum, squares]| {
            let numerator = u128::from(self.pixels) * squares - sum * sum;
            (numerator as f64).sqrt() / pixels / 255.0
        });
        let class = |(label, class): (usize, &String)| ClassCount {
            class: class.clone(),
            images: self.labels.get(&label).copied().unwrap_or(0),
        };
        let any = self.pixels > 0;
        Report {
            part: part.name.clone(),
            images: part.set.len(),
            unreadable: self.unreadable,
            classes: part.set.classes().iter().enumerate().map(class).collect(),
            width: Spread::of(self.widths),
            height: Spread::of(self.heights),
            formats: self.formats,
            mean: any.then_some(mean),
            std: any.then_some(std),
        }
    }
}

impl Report {
    /// Measure, key and value of all known facts.
    fn facts(&self) -> Vec<[String; 3]> {
        let fact = |measure: &str, key: &str, value: String| [measure.into(), key.into(), value];
        let mut facts = vec![
            fact("images", "", self.images.to_string()),
            fact("unreadable", "", self.unreadable.to_string()),
        ];
        for (name, spread) in [("width", &self.width), ("height", &self.height)] {
            if let Some(Spread { min, median, max }) = spread {
                for (key, value) in [("min", min), ("median", median), ("max", max)] {
                    facts.push(fact(name, key, value.to_string()));
                }
            }
        }
        facts.extend(self.formats.iter().map(|(format, count)| fact("format", format, count.to_string())));
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            for (channel, value) in ["red", "green", "blue"].iter().zip(values.iter().flatten()) {
                facts.push(fact(name, channel, format!("{value:.6}")));
            }
        }
        let class = |ClassCount { class, images }: &ClassCount| fact("class", class, images.to_string());
        facts.extend(self.classes.iter().map(class));
        facts
    }
}

fn csv(reports: &[Report]) -> Result<()> {
    let mut rows = Rows::new(&["part", "measure", "key", "value"]);
    for report in reports {
        for [measure, key, value] in report.facts() {
            rows.push([report.part.clone(), measure, key, value]);
        }
    }
    rows.csv()
}

fn text(report: &Report) -> Result<()> {
    let unreadable = match report.unreadable {
        0 => String::new(),
        count => format!(", {count} unreadable"),
    };
    output::line(format_args!("{}: {} images{unreadable}", report.part, grouped(report.images as u64)))?;
    for (name, spread) in [("width", &report.width), ("height", &report.height)] {
        if let Some(Spread { min, median, max }) = spread {
            output::line(format_args!("  {name:<8} {min} to {max} pixels, median {median}"))?;
        }
    }
    let formats: Vec<String> =
        report.formats.iter().map(|(name, count)| format!("{} {name}", grouped(*count as u64))).collect();
    output::line(format_args!("  formats  {}", formats.join(", ")))?;
    for (name, values) in [("mean", &report.mean), ("std", &report.std)] {
        if let Some([red, green, blue]) = values {
            output::line(format_args!("  {name:<8} {red:.4} {green:.4} {blue:.4}"))?;
        }
    }
    if !report.classes.is_empty() {
        output::line("")?;
        let mut rows = Rows::new(&["class", "images"]);
        for ClassCount { class, images } in &report.classes {
            rows.push([class.clone(), grouped(*images as u64)]);
        }
        rows.text()?;
    }
    Ok(())
}
