//! The roles of a table's columns.

use super::parts;
use super::read::{Line, Table, plain};
use crate::data::dataset::{DatasetProblem, Split, TargetKind};

/// Names of the column of paths, best first. Comparison ignores case, blanks, `_` and `-`.
const PATHS: [&str; 22] = [
    "file",
    "path",
    "filename",
    "filepath",
    "image",
    "imagepath",
    "img",
    "imgpath",
    "imagename",
    "imgname",
    "imagefile",
    "relativepath",
    "filenames",
    "filepaths",
    "files",
    "paths",
    "imagepaths",
    "images",
    "imageid",
    "imgid",
    "fileid",
    "id",
];
/// Names of the column of class numbers.
const NUMBERS: [&str; 10] = [
    "classindex",
    "labelindex",
    "index",
    "target",
    "classid",
    "labelid",
    "categoryid",
    "classidx",
    "labelidx",
    "labelnumber",
];
/// Names of the column of class names; it may hold numbers only.
const NAMES: [&str; 15] = [
    "label",
    "labels",
    "class",
    "classname",
    "category",
    "wnid",
    "name",
    "species",
    "breed",
    "diagnosis",
    "classes",
    "labelname",
    "tag",
    "y",
    "dx",
];

/// Names of the label column that need no note.
const USUAL: [&str; 4] = ["label", "class", "classname", "classindex"];

/// The columns of a table.
pub(super) struct Columns {
    pub file: usize,
    /// Class numbers or names.
    pub label: Option<usize>,
    /// Whether the label column's name says that labels are numbers.
    pub numeric: bool,
    /// Class names beside numbers.
    pub name: Option<usize>,
    /// Parts, and what the header calls them.
    pub part: Option<(usize, String)>,
    /// Number of columns of a row.
    pub width: usize,
    /// The first row after the header.
    pub first_row: usize,
    /// Columns that may hold targets, with their names; none if targets are one class.
    pub candidates: Vec<(usize, String)>,
    pub notes: Vec<String>,
}

impl Columns {
    /// From the header, if there is one; `is_picture` tells whether a field names a picture.
    pub(super) fn of(
        table: &Table,
        is_picture: &dyn Fn(&str) -> bool,
        kind: TargetKind,
    ) -> Result<Self, DatasetProblem> {
        let Some(first) = table.lines.first() else {
            return Ok(Self {
                file: 0,
                label: None,
                numeric: false,
                name: None,
                part: None,
                width: 0,
                first_row: 0,
                candidates: Vec::new(),
                notes: Vec::new(),
            });
        };
        if let Some(columns) = Self::of_header(first, &table.lines[1..], kind)? {
            return Ok(columns);
        }
        let next = table.lines.get(1);
        let is_header = !first.fields.iter().any(|field| is_picture(field))
            && next.is_some_and(|next| next.fields.iter().any(|field| is_picture(field)));
        if is_header {
            return Err(DatasetProblem::Header { header: quoted(first) });
        }
        let width = first.fields.len();
        let label = (width > 1 && kind == TargetKind::Class).then_some(1);
        let others = if kind == TargetKind::Class { 1..1 } else { 1..width };
        let candidates = others.map(|at| (at, (at - 1).to_string())).collect();
        Ok(Self {
            file: 0,
            label,
            numeric: false,
            name: None,
            part: None,
            width,
            first_row: 0,
            candidates,
            notes: Vec::new(),
        })
    }

    /// The part that a row names.
    pub(super) fn part_of(&self, line: &Line) -> Option<Split> {
        let (at, _) = self.part.as_ref()?;
        Split::of_name(line.fields.get(*at)?)
    }

    fn of_header(header: &Line, rows: &[Line], kind: TargetKind) -> Result<Option<Self>, DatasetProblem> {
        let names: Vec<String> = header.fields.iter().map(|field| plain(field)).collect();
        let find =
            |known: &[&str]| known.iter().find_map(|name| names.iter().position(|found| found == name));
        let Some(file) = find(&PATHS) else { return Ok(None) };
        // R writes row names in a column without a name.
        let shift =
            usize::from(!rows.is_empty() && rows.iter().all(|row| row.fields.len() == names.len() + 1));
        let (number, name) = (find(&NUMBERS), find(&NAMES).filter(|&at| at != file));
        let mut notes = Vec::new();
        if !["file", "path", "filename"].contains(&names[file].as_str()) {
            notes.push(format!("paths are in column `{}`", header.fields[file]));
        }
        let part = parts::find(header, rows, shift, &mut notes)?;
        let is_other = |&at: &usize| at != file && Some(at + shift) != part && !names[at].is_empty();
        let others: Vec<usize> = (0..names.len()).filter(is_other).collect();
        if kind != TargetKind::Class {
            return Ok(Some(Self {
                file: file + shift,
                label: None,
                numeric: false,
                name: None,
                part: part.map(|at| (at, header.fields[at - shift].clone())),
                width: names.len() + shift,
                first_row: 1,
                candidates: others.iter().map(|&at| (at + shift, header.fields[at].clone())).collect(),
                notes,
            }));
        }
        let label = number.or(name);
        if label.is_none() && is_one_hot(&others, rows, shift) {
            let columns: Vec<String> = others.iter().map(|&at| header.fields[at].clone()).collect();
            let reason = format!(
                "a column for each class ({}), and none of labels\n  hint: make it one column `label`",
                columns.join(", ")
            );
            return Err(DatasetProblem::Row { line: header.number, reason });
        }
        let label = match (label, &others[..]) {
            (None, [only]) => Some(*only),
            (label, _) => label,
        };
        match label {
            Some(at) if !USUAL.contains(&plain(&header.fields[at]).as_str()) => {
                notes.push(format!("labels are in column `{}`", header.fields[at]));
            }
            None if !others.is_empty() => {
                notes.push(format!("no column of labels among {}", quoted(header).join(", ")));
            }
            _ => {}
        }
        Ok(Some(Self {
            file: file + shift,
            label: label.map(|at| at + shift),
            numeric: number.is_some(),
            name: number.and(name).map(|at| at + shift),
            part: part.map(|at| (at, header.fields[at - shift].clone())),
            width: names.len() + shift,
            first_row: 1,
            candidates: Vec::new(),
            notes,
        }))
    }
}

/// Whether at least three columns hold 0 and 1 with exactly one 1.
fn is_one_hot(columns: &[usize], rows: &[Line], shift: usize) -> bool {
    let value =
        |row: &Line, at: usize| row.fields.get(at + shift).and_then(|field| field.parse::<f64>().ok());
    let is_hot = |row: &Line| {
        let values: Option<Vec<f64>> = columns.iter().map(|&at| value(row, at)).collect();
        values.is_some_and(|values| {
            values.iter().all(|v| [0.0, 1.0].contains(v)) && values.iter().sum::<f64>() == 1.0
        })
    };
    columns.len() > 1 && !rows.is_empty() && rows.iter().take(100).all(is_hot)
}

fn quoted(line: &Line) -> Vec<String> {
    line.fields.iter().map(|field| format!("`{field}`")).collect()
}
