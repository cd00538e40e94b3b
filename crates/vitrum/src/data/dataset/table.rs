//! A table of image paths and labels: CSV, TSV, or a plain list of paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord, Trim};

use super::folder::{UNKNOWN_CLASS, is_image, none_of_the_classes};
use super::{
    ClassMap, DatasetError, DatasetOptions, DatasetProblem, ListSource, Listed, MAX_CLASSES, MAX_SAMPLES,
    Skipped, class_map,
};

const PATHS: [&str; 16] = [
    "file",
    "path",
    "filename",
    "filepath",
    "file_name",
    "file_path",
    "image_path",
    "img_path",
    "image_name",
    "img_name",
    "image_file",
    "image",
    "img",
    "image_id",
    "imageid",
    "id",
];
const NUMBERS: [&str; 7] =
    ["class_index", "label_index", "classid", "class_id", "category_id", "label_id", "index"];
const NAMES: [&str; 13] = [
    "label",
    "class",
    "class_name",
    "category",
    "wnid",
    "name",
    "labels",
    "target",
    "species",
    "breed",
    "diagnosis",
    "label_name",
    "y",
];
const MAX_BYTES: u64 = 4 << 30;

/// The first line is a header when one of its fields is a known name of the path column; otherwise the first column
/// holds paths and the second, if there is one, labels. Labels are numbers, or names that a class map or their natural
/// order numbers. Relative paths begin at `image_dir`, or at the table's folder.
pub(super) fn open(path: &Path, options: &DatasetOptions) -> Result<ListSource, DatasetError> {
    let text = class_map::read_text(path, MAX_BYTES)?;
    let rows = rows(path, &text)?;
    let table_folder = path.parent().unwrap_or(Path::new(""));
    let folder = options.image_dir.as_deref().unwrap_or(table_folder);
    let labels = Labels::of(&rows, options).map_err(|problem| problem.at(path))?;
    let mut skipped = Skipped::default();
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        let label = match labels.get(&row) {
            Ok(label) => label,
            Err(reason) => {
                skipped.add(UNKNOWN_CLASS, row.file, reason);
                continue;
            }
        };
        samples.push(Listed { path: place(folder, &row.file), name: row.file, label });
    }
    match samples.is_empty() {
        true if skipped.count == 0 => Err(DatasetProblem::NoImages(": no rows".into()).at(path)),
        true => Err(none_of_the_classes(&skipped).at(path)),
        false => Ok(ListSource::new(samples, labels.names, skipped)),
    }
}

/// The file a row names. Backslashes separate folders where no file has them in its name.
fn place(folder: &Path, file: &str) -> PathBuf {
    let path = folder.join(file);
    if file.contains('\\') && !path.exists() { folder.join(file.replace('\\', "/")) } else { path }
}

struct Row {
    file: String,
    number: Option<usize>,
    name: Option<String>,
}

/// Which columns hold what.
struct Columns {
    file: usize,
    number: Option<usize>,
    name: Option<usize>,
}

impl Columns {
    fn of_header(header: &StringRecord) -> Option<Self> {
        let find = |known: &[&str]| {
            let at = |name: &&str| header.iter().position(|field| field.eq_ignore_ascii_case(name));
            known.iter().find_map(at)
        };
        Some(Self { file: find(&PATHS)?, number: find(&NUMBERS), name: find(&NAMES) })
    }

    fn without_header(first: &StringRecord) -> Self {
        Self { file: 0, number: None, name: (first.len() > 1).then_some(1) }
    }
}

fn rows(path: &Path, text: &str) -> Result<Vec<Row>, DatasetError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let delimiter = delimiter_of(text.lines().next().unwrap_or_default());
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let mut columns = None;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_problem(&error).at(path))?;
        let line = record.position().map_or(0, csv::Position::line);
        let columns = match &columns {
            Some(columns) => columns,
            None => match Columns::of_header(&record) {
                Some(header) => {
                    columns = Some(header);
                    continue;
                }
                None if !is_image(Path::new(&record[0])) && rows_hold_images(text, delimiter) => {
                    return Err(unknown_header(&record).at(path));
                }
                None => columns.insert(Columns::without_header(&record)),
            },
        };
        rows.push(row(&record, columns).map_err(|reason| DatasetProblem::Row { line, reason }.at(path))?);
        if rows.len() as u64 > MAX_SAMPLES {
            let (found, limit) = (rows.len() as u64, MAX_SAMPLES);
            return Err(DatasetProblem::TooLarge { what: "rows".into(), found, limit }.at(path));
        }
    }
    Ok(rows)
}

/// What separates the fields, by the first line.
fn delimiter_of(line: &str) -> u8 {
    let has = |delimiter: &u8| line.as_bytes().contains(delimiter);
    let space = || {
        (has(&b' ') && line.rsplit_once(' ').is_some_and(|(file, _)| is_image(Path::new(file))))
            .then_some(b' ')
    };
    let found = [b'\t', b';', b',', b'|'].into_iter().find(has);
    found.or_else(space).unwrap_or(b',')
}

/// Whether a line after the first has a field that names an image file.
fn rows_hold_images(text: &str, delimiter: u8) -> bool {
    let second = text.lines().nth(1).unwrap_or_default();
    second.split(char::from(delimiter)).any(|field| is_image(Path::new(field.trim().trim_matches('"'))))
}

fn unknown_header(header: &StringRecord) -> DatasetProblem {
    let found = header.iter().collect::<Vec<_>>().join(", ");
    let reason = format!(
        "no column of paths in the header ({found})\n  hint: the names looked for are {}",
        PATHS.join(", ")
    );
    DatasetProblem::Row { line: 1, reason }
}

/// A label that means no class: a negative number, or what programs write for a missing one.
fn refuse_no_class(label: &str) -> Result<(), String> {
    let negative = label.parse::<f64>().is_ok_and(|number| number < 0.0 || number.is_nan());
    match negative {
        true => Err(format!("label `{label}` is no class\n  hint: leave unlabelled rows out of the table")),
        false => Ok(()),
    }
}

/// `1.0` as `1`: programs write so where a column has gaps.
fn whole(label: &str) -> String {
    let cut = label.trim_end_matches('0').strip_suffix('.');
    cut.filter(|digits| digits.parse::<usize>().is_ok()).unwrap_or(label).to_string()
}

fn row(record: &StringRecord, columns: &Columns) -> Result<Row, String> {
    let field = |at: usize| record.get(at).filter(|field| !field.is_empty());
    let file = field(columns.file).ok_or("no path")?.to_owned();
    if file.contains('\0') {
        return Err("a path with a zero byte".into());
    }
    for label in [columns.number, columns.name].into_iter().flatten().filter_map(field) {
        refuse_no_class(label)?;
    }
    let number = match columns.number.and_then(field) {
        Some(text) => Some(class_number(&whole(text))?),
        None => None,
    };
    Ok(Row { file, number, name: columns.name.and_then(field).map(whole) })
}

fn class_number(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| format!("class index `{text}` is not a whole number"))?;
    if number >= MAX_CLASSES {
        return Err(format!("class index {number} is more than the limit of {MAX_CLASSES}"));
    }
    Ok(number)
}

fn csv_problem(error: &csv::Error) -> DatasetProblem {
    match error.position() {
        Some(position) => DatasetProblem::Row { line: position.line(), reason: error.to_string() },
        None => DatasetProblem::Damaged(error.to_string()),
    }
}

/// How rows get their class numbers.
struct Labels {
    map: Option<ClassMap>,
    names: Vec<String>,
}

impl Labels {
    fn of(rows: &[Row], options: &DatasetOptions) -> Result<Self, DatasetProblem> {
        if let Some(map) = &options.class_map {
            return Ok(Self { names: map.names().to_vec(), map: Some(map.clone()) });
        }
        if rows.iter().any(|row| row.number.is_some()) {
            return Ok(Self { map: None, names: names_of_numbers(rows) });
        }
        let found: BTreeSet<String> = rows.iter().filter_map(|row| row.name.clone()).collect();
        if !found.is_empty() && found.iter().all(|name| name.parse::<usize>().is_ok()) {
            found
                .iter()
                .try_for_each(|name| class_number(name).map(drop))
                .map_err(DatasetProblem::Damaged)?;
            return Ok(Self { map: None, names: Vec::new() });
        }
        let map = ClassMap::sorted(found);
        Ok(Self { names: map.names().to_vec(), map: Some(map) })
    }

    /// A number in the table counts as it stands; a name is looked up.
    fn get(&self, row: &Row) -> Result<Option<usize>, String> {
        if let Some(number) = row.number {
            return Ok(Some(number));
        }
        let Some(name) = &row.name else { return Ok(None) };
        if let Some(label) = self.map.as_ref().and_then(|map| map.get(name)) {
            return Ok(Some(label));
        }
        class_number(name).map(Some).map_err(|_| format!("class `{name}` is not in the class map"))
    }
}

/// Where rows have both number and name, the names in the order of the numbers.
fn names_of_numbers(rows: &[Row]) -> Vec<String> {
    let named: BTreeMap<usize, &String> =
        rows.iter().filter_map(|row| Some((row.number?, row.name.as_ref()?))).collect();
    let complete = named.keys().copied().eq(0..named.len());
    if complete { named.into_values().cloned().collect() } else { Vec::new() }
}
