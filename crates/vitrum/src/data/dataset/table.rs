//! A table of image paths and labels: CSV from pandas, R, Excel or Kaggle, TSV, lines `path label`, or a list of
//! paths.

mod columns;
mod labels;
mod parts;
mod read;
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::columns::Columns;
use self::labels::Labels;
pub(super) use self::labels::{Label, check, read};
use self::read::{Line, Table};
use self::targets::{Candidates, Targets};
use super::folder::{UNKNOWN_CLASS, is_image, none_of_the_classes};
use super::{
    DatasetError, DatasetOptions, DatasetProblem, ListSource, Listed, MAX_SAMPLES, Skipped, Split, Target,
    TargetKind, class_map,
};

const MAX_BYTES: u64 = 4 << 30;
/// Extensions tried, in this order, for an id without a file.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "tif", "bmp"];

/// A row of the table.
struct Row {
    line: u64,
    file: String,
    label: Option<String>,
    /// Whether the label must be a number.
    numeric: bool,
    /// The class's name, if the row has it beside a number.
    name: Option<String>,
    /// The part it belongs to, in a table of parts.
    part: Option<Split>,
    /// The fields that may hold a target, unless targets are one class.
    cells: Vec<String>,
}

impl Row {
    fn wrong(&self, reason: String) -> DatasetProblem {
        DatasetProblem::Row { line: self.line, reason }
    }
}

/// Opens a table. The first line is a header if a field is a known name of the path column. If the first line has
/// no picture but the next one has, the first is a header with unknown names, and refused. Without a header, the
/// first column holds paths and the second, if any, labels. Labels are numbers (also `1.0`) or names. A class map
/// numbers the names; without one, their natural order does. Relative paths begin at `image_dir`, or at the table's
/// folder. Targets other than one class are read as [`targets`] says.
pub(super) fn open(path: &Path, options: &DatasetOptions) -> Result<ListSource, DatasetError> {
    let text = class_map::read_text(path, MAX_BYTES)?;
    let table_folder = path.parent().unwrap_or(Path::new(""));
    let folder = options.image_dir.as_deref().unwrap_or(table_folder);
    let mut skipped = Skipped::default();
    let read = rows(&text, folder, options.targets, &mut skipped);
    let (rows, candidates) = read
        .and_then(|rows| rows.of_part(options.split, &mut skipped))
        .map_err(|problem| problem.at(path))?;
    let meaning = Meaning::of(&rows, &candidates, options).map_err(|problem| problem.at(path))?;
    meaning.notes().iter().for_each(|note| skipped.note(note));
    let mut places = Places::new(folder, rows.first().map(|row| row.file.as_str()));
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        match meaning.get(&row).map_err(|problem| problem.at(path))? {
            Ok(target) => {
                let (name, path) = places.of(row.file);
                samples.push(Listed { path, name, target });
            }
            Err(reason) => skipped.add(UNKNOWN_CLASS, row.file, reason),
        }
    }
    places.notes().into_iter().for_each(|note| skipped.note(note));
    match samples.is_empty() {
        true if skipped.count == 0 => Err(DatasetProblem::NoImages(": no rows".into()).at(path)),
        true => Err(none_of_the_classes(&skipped).at(path)),
        false if !samples.iter().any(|sample| sample.path.exists()) => {
            let (folder, first) = (folder.to_path_buf(), samples[0].name.clone());
            Err(DatasetProblem::Elsewhere { folder, first }.at(path))
        }
        false => Ok(ListSource::new(samples, meaning.names(), skipped)),
    }
}

/// What the fields of a row mean.
enum Meaning {
    Class(Labels),
    Other(Targets),
    Nothing,
}

impl Meaning {
    fn of(rows: &[Row], candidates: &Candidates, options: &DatasetOptions) -> Result<Self, DatasetProblem> {
        match options.targets {
            TargetKind::Class => Labels::of(rows, options).map(Self::Class),
            TargetKind::Nothing => Ok(Self::Nothing),
            _ => Targets::of(rows, candidates, options).map(Self::Other),
        }
    }

    /// The target of a row; the inner error says why the row is left out.
    fn get(&self, row: &Row) -> Result<Result<Option<Target>, String>, DatasetProblem> {
        match self {
            Self::Class(labels) => Ok(labels.get(row).map(|label| label.map(Target::Class))),
            Self::Other(targets) => Ok(targets.get(row)?.map(Some)),
            Self::Nothing => Ok(Ok(Some(Target::Nothing))),
        }
    }

    fn notes(&self) -> &[String] {
        match self {
            Self::Class(_) | Self::Nothing => &[],
            Self::Other(targets) => &targets.notes,
        }
    }

    fn names(self) -> Vec<String> {
        match self {
            Self::Class(labels) => labels.names,
            Self::Other(targets) => targets.names,
            Self::Nothing => Vec::new(),
        }
    }
}

/// The parts that a column of the table names; none where it has no such column.
///
/// # Errors
/// [`DatasetError`] when the table cannot be read, or its column of parts is unclear.
pub(super) fn splits_in(path: &Path) -> Result<Vec<Split>, DatasetError> {
    let text = class_map::read_text(path, MAX_BYTES)?;
    let table = Table::read(&text).map_err(|problem| problem.at(path))?;
    // A table without a header has no column of parts, whatever its files are.
    // The columns of targets are read later; here they do not matter.
    let columns = Columns::of(&table, &|_| false, TargetKind::Values).map_err(|problem| problem.at(path))?;
    let lines = table.lines.iter().skip(columns.first_row);
    Ok(lines.filter_map(|line| columns.part_of(line)).collect::<BTreeSet<_>>().into_iter().collect())
}

/// All rows, and what the header calls the column of parts.
struct Rows {
    rows: Vec<Row>,
    part: Option<String>,
    candidates: Candidates,
}

impl Rows {
    /// The rows of the wanted part, where the table has parts.
    fn of_part(
        self,
        wanted: Option<Split>,
        skipped: &mut Skipped,
    ) -> Result<(Vec<Row>, Candidates), DatasetProblem> {
        let Self { mut rows, part, candidates } = self;
        let Some(column) = part else {
            if let Some(wanted) = wanted {
                skipped.note(format!("no column names the part `{}`: all rows are read", wanted.name()));
            }
            return Ok((rows, candidates));
        };
        let parts: BTreeSet<Split> = rows.iter().filter_map(|row| row.part).collect();
        let split = match wanted.or_else(|| parts.first().copied().filter(|_| parts.len() == 1)) {
            Some(split) if parts.contains(&split) => split,
            chosen => {
                let found =
                    chosen.map_or("several splits".into(), |split| format!("no split `{}`", split.name()));
                let available = parts.iter().map(|split| split.name().into()).collect();
                return Err(DatasetProblem::Split { found, available });
            }
        };
        let all = rows.len();
        rows.retain(|row| row.part == Some(split));
        let (name, count) = (split.name(), rows.len());
        skipped.note(format!("{count} of {all} rows are of part `{name}`, by column `{column}`"));
        Ok((rows, candidates))
    }
}

fn rows(text: &str, folder: &Path, kind: TargetKind, skipped: &mut Skipped) -> Result<Rows, DatasetProblem> {
    let table = Table::read(text)?;
    if let Some(delimiter) = table.unusual_delimiter() {
        skipped.note(format!("columns are separated by {delimiter}"));
    }
    let found = table.lines.len() as u64;
    if found > MAX_SAMPLES {
        return Err(DatasetProblem::TooLarge { what: "rows".into(), found, limit: MAX_SAMPLES });
    }
    let is_picture = |field: &str| is_image(Path::new(field)) || folder.join(field).is_file();
    let columns = Columns::of(&table, &is_picture, kind)?;
    columns.notes.iter().for_each(|note| skipped.note(note.clone()));
    let lines = table.lines[columns.first_row..].iter();
    let rows = lines.map(|line| row(line, &columns)).collect::<Result<_, _>>()?;
    let line = table.lines.first().map_or(1, |line| line.number);
    let candidates =
        Candidates { titles: columns.candidates.into_iter().map(|(_, title)| title).collect(), line };
    Ok(Rows { rows, part: columns.part.map(|(_, name)| name), candidates })
}

fn row(line: &Line, columns: &Columns) -> Result<Row, DatasetProblem> {
    let wrong = |reason: String| DatasetProblem::Row { line: line.number, reason };
    if line.fields.len() != columns.width {
        let (found, expected) = (line.fields.len(), columns.width);
        return Err(wrong(format!("{found} columns, expected {expected}")));
    }
    let field = |at: usize| line.fields.get(at).filter(|field| !field.is_empty()).cloned();
    let file = field(columns.file).ok_or_else(|| wrong("no path".into()))?;
    if file.contains('\0') {
        return Err(wrong("a path with a zero byte".into()));
    }
    Ok(Row {
        line: line.number,
        file,
        label: columns.label.and_then(field),
        numeric: columns.numeric,
        name: columns.name.and_then(field),
        part: columns.part_of(line),
        cells: columns.candidates.iter().map(|(at, _)| line.fields[*at].clone()).collect(),
    })
}

/// The files of the rows.
struct Places<'a> {
    folder: &'a Path,
    /// Appended to ids without an image extension.
    extension: Option<&'static str>,
    turned: usize,
}

impl<'a> Places<'a> {
    fn new(folder: &'a Path, first: Option<&str>) -> Self {
        let missing = first.filter(|first| !is_image(Path::new(first)) && !folder.join(first).is_file());
        let extension = missing.and_then(|first| {
            EXTENSIONS.into_iter().find(|end| folder.join(format!("{first}.{end}")).is_file())
        });
        Self { folder, extension, turned: 0 }
    }

    /// Name and path of a file. Backslashes become `/` unless a file has exactly that name.
    fn of(&mut self, mut file: String) -> (String, PathBuf) {
        if let Some(extension) = self.extension
            && !is_image(Path::new(&file))
        {
            file = format!("{file}.{extension}");
        }
        if file.contains('\\') && !self.folder.join(&file).exists() {
            file = file.replace('\\', "/");
            self.turned += 1;
        }
        let path = self.folder.join(&file);
        (file, path)
    }

    fn notes(&self) -> Vec<String> {
        let extension =
            self.extension.map(|end| format!("`.{end}` is appended to names without an extension"));
        let turned =
            (self.turned > 0).then(|| format!("backslashes of {} paths are read as `/`", self.turned));
        extension.into_iter().chain(turned).collect()
    }
}
