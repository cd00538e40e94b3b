//! Class numbers of a table's rows.

use std::collections::{BTreeMap, BTreeSet};

use super::Row;
use crate::data::dataset::{ClassMap, DatasetOptions, DatasetProblem, MAX_CLASSES};

/// The classes of a table.
pub(super) struct Labels {
    map: Option<ClassMap>,
    pub names: Vec<String>,
}

/// A parsed label.
pub(in crate::data::dataset) enum Label {
    Missing,
    Number(usize),
    Name,
}

impl Labels {
    pub(super) fn of(rows: &[Row], options: &DatasetOptions) -> Result<Self, DatasetProblem> {
        for row in rows {
            if let Some(text) = &row.label {
                let wrong = |reason| DatasetProblem::Row { line: row.line, reason };
                check(text).map_err(wrong)?;
            }
        }
        if let Some(map) = &options.class_map {
            return Ok(Self { names: map.names().to_vec(), map: Some(map.clone()) });
        }
        let labels = || rows.iter().filter_map(|row| row.label.as_deref());
        // In a column named for numbers, a word beside numbers is an error. If all are words, they are names.
        let is_word = |row: &&Row| {
            row.numeric && row.label.as_deref().is_some_and(|text| matches!(read(text), Label::Name))
        };
        if labels().any(|text| matches!(read(text), Label::Number(_)))
            && let Some(row) = rows.iter().find(is_word)
        {
            let reason =
                format!("class index `{}` is not a whole number", row.label.as_deref().unwrap_or_default());
            return Err(DatasetProblem::Row { line: row.line, reason });
        }
        let has_name = labels().any(|text| matches!(read(text), Label::Name));
        if !has_name {
            return Ok(Self { map: None, names: names_of_numbers(rows) });
        }
        let is_label = |text: &&str| !matches!(read(text), Label::Missing);
        let found: BTreeSet<String> = labels().filter(is_label).map(String::from).collect();
        let map = ClassMap::sorted(found);
        Ok(Self { names: map.names().to_vec(), map: Some(map) })
    }

    /// Looks up a name. A number that is not a name is the class number.
    pub(super) fn get(&self, row: &Row) -> Result<Option<usize>, String> {
        let named = |text: &String| self.map.as_ref().and_then(|map| map.get(text));
        // If there is a class map, a name beside a number is looked up in it.
        if let Some(label) = row.name.as_ref().and_then(named).or_else(|| row.label.as_ref().and_then(named))
        {
            return Ok(Some(label));
        }
        let Some(text) = &row.label else { return Ok(None) };
        match read(text) {
            Label::Missing => Ok(None),
            Label::Number(number) => Ok(Some(number)),
            Label::Name => Err(format!("class `{text}` is not in the class map")),
        }
    }
}

/// Numbers may end in `.0`: pandas writes a column with gaps so.
pub(in crate::data::dataset) fn read(text: &str) -> Label {
    if matches!(text, "" | "nan" | "NaN" | "NA" | "N/A" | "null") {
        return Label::Missing;
    }
    let whole =
        text.split_once('.').filter(|(_, rest)| rest.bytes().all(|b| b == b'0')).map_or(text, |(n, _)| n);
    whole.parse().map_or(Label::Name, Label::Number)
}

/// Refuses numbers that cannot be class numbers.
pub(in crate::data::dataset) fn check(text: &str) -> Result<(), String> {
    if let Label::Number(number) = read(text)
        && number >= MAX_CLASSES
    {
        return Err(format!("class index {number} is more than the limit of {MAX_CLASSES}"));
    }
    match text.parse::<f64>() {
        Ok(number) if number < 0.0 => Err(format!(
            "label {text} is negative\n  hint: class numbers begin at 0; remove rows without a class"
        )),
        Ok(number) if number.is_finite() && number.fract() != 0.0 => {
            Err(format!("label {text} is not a whole number\n  hint: a class is a whole number or a name"))
        }
        _ => Ok(()),
    }
}

/// The names in the order of the numbers, if rows have both.
fn names_of_numbers(rows: &[Row]) -> Vec<String> {
    let number = |row: &Row| match read(row.label.as_deref()?) {
        Label::Number(number) => Some(number),
        _ => None,
    };
    let named: BTreeMap<usize, &String> =
        rows.iter().filter_map(|row| Some((number(row)?, row.name.as_ref()?))).collect();
    let complete = named.keys().copied().eq(0..named.len());
    if complete { named.into_values().cloned().collect() } else { Vec::new() }
}
