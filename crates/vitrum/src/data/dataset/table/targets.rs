//! Targets of a table's rows that are not one class: lists of classes, a column of 0 and 1 for each class, numbers.

use std::collections::BTreeSet;

use super::Row;
use super::labels::{Label, check, read};
use super::read::plain;
use crate::data::dataset::{ClassMap, DatasetOptions, DatasetProblem, Target, TargetKind};

/// Names of the column of lists, best first.
const LISTS: [&str; 13] = [
    "labels",
    "tags",
    "label",
    "classes",
    "tag",
    "class",
    "categories",
    "category",
    "attributes",
    "findinglabels",
    "classnames",
    "targets",
    "target",
];
/// Names of columns of numbers; a number may follow, as in `target_1`.
const VALUES: [&str; 5] = ["target", "targets", "value", "values", "y"];
/// What separates the classes of a list. The first that occurs in the column counts; without one, blanks do.
const SEPARATORS: [char; 3] = ['|', ';', ','];

/// The columns that may hold targets: all but those of paths and of parts.
pub(super) struct Candidates {
    /// Names in the header; without one, the numbers from 0.
    pub titles: Vec<String>,
    /// The line of the header, or the first line.
    pub line: u64,
}

/// How rows become targets.
pub(super) struct Targets {
    /// Names of the classes or of the columns of numbers; empty if classes are numbers without names.
    pub names: Vec<String>,
    pub notes: Vec<String>,
    form: Form,
}

enum Form {
    /// A column of lists.
    List { column: Column, separator: Separator, map: Option<ClassMap> },
    /// Columns of 0 and 1, each with its class; `None` for a class that the class map lacks.
    Hot(Vec<(Column, Option<usize>)>),
    /// Columns of numbers.
    Values(Vec<Column>),
}

/// A candidate.
#[derive(Clone)]
struct Column {
    at: usize,
    title: String,
}

#[derive(Clone, Copy)]
enum Separator {
    Char(char),
    Blank,
    /// No field has more than one class.
    None,
}

impl Targets {
    pub(super) fn of(
        rows: &[Row],
        candidates: &Candidates,
        options: &DatasetOptions,
    ) -> Result<Self, DatasetProblem> {
        let chosen = candidates.named(&options.target_columns)?;
        match options.targets {
            TargetKind::Values => Self::of_values(candidates, chosen),
            _ => Self::of_classes(rows, candidates, chosen, options.class_map.as_ref()),
        }
    }

    fn of_values(candidates: &Candidates, chosen: Vec<Column>) -> Result<Self, DatasetProblem> {
        let columns = match chosen.is_empty() {
            true => candidates.values()?,
            false => chosen,
        };
        let names: Vec<String> = columns.iter().map(|column| column.title.clone()).collect();
        let notes = vec![format!("numbers are in {}", in_words(&names))];
        Ok(Self { names, notes, form: Form::Values(columns) })
    }

    fn of_classes(
        rows: &[Row],
        candidates: &Candidates,
        chosen: Vec<Column>,
        map: Option<&ClassMap>,
    ) -> Result<Self, DatasetProblem> {
        match (chosen.len(), candidates.list()) {
            (1, _) => Self::of_lists(rows, chosen.into_iter().next().expect("one column"), map),
            (0, Some(column)) => Self::of_lists(rows, column, map),
            (0, None) => Self::of_hot(candidates.hot(rows)?, map),
            _ => Self::of_hot((chosen, Vec::new()), map),
        }
    }

    fn of_lists(rows: &[Row], column: Column, map: Option<&ClassMap>) -> Result<Self, DatasetProblem> {
        let separator = Separator::of(rows, &column);
        let mut found = BTreeSet::new();
        let mut has_name = false;
        for row in rows {
            for text in separator.split(column.of(row)) {
                check(text).map_err(|reason| row.wrong(reason))?;
                has_name |= matches!(read(text), Label::Name);
                found.insert(text.to_string());
            }
        }
        let map = match map {
            Some(map) => Some(map.clone()),
            None => has_name.then(|| ClassMap::sorted(found)),
        };
        let names = map.as_ref().map(|map| map.names().to_vec()).unwrap_or_default();
        let notes = vec![format!("labels are in column `{}`{}", column.title, separator.in_words())];
        Ok(Self { names, notes, form: Form::List { column, separator, map } })
    }

    fn of_hot(
        (columns, left): (Vec<Column>, Vec<String>),
        map: Option<&ClassMap>,
    ) -> Result<Self, DatasetProblem> {
        let titles: Vec<String> = columns.iter().map(|column| column.title.clone()).collect();
        let mut notes = vec![format!("each of {} says whether an image has its class", in_words(&titles))];
        if !left.is_empty() {
            notes.push(format!("not read: {}", in_words(&left)));
        }
        let class = |(number, column): (usize, &Column)| match map {
            Some(map) => map.get(&column.title),
            None => Some(number),
        };
        let classes: Vec<Option<usize>> = columns.iter().enumerate().map(class).collect();
        let names = map.map_or(titles, |map| map.names().to_vec());
        Ok(Self { names, notes, form: Form::Hot(columns.into_iter().zip(classes).collect()) })
    }

    /// A row's target; the inner error says why the row is left out.
    ///
    /// # Errors
    /// [`DatasetProblem::Row`] for a field that does not hold what its column holds.
    pub(super) fn get(&self, row: &Row) -> Result<Result<Target, String>, DatasetProblem> {
        match &self.form {
            Form::List { column, separator, map } => Ok(list(row, column, *separator, map.as_ref())),
            Form::Hot(columns) => hot_classes(row, columns),
            Form::Values(columns) => columns
                .iter()
                .map(|column| column.number(row))
                .collect::<Result<_, _>>()
                .map(Target::Values)
                .map(Ok),
        }
    }
}

fn list(row: &Row, column: &Column, separator: Separator, map: Option<&ClassMap>) -> Result<Target, String> {
    let class = |text: &str| match (map.and_then(|map| map.get(text)), read(text)) {
        (Some(class), _) | (None, Label::Number(class)) => Ok(class),
        _ => Err(format!("class `{text}` is not in the class map")),
    };
    Ok(Target::classes(separator.split(column.of(row)).map(class).collect::<Result<Vec<_>, _>>()?))
}

fn hot_classes(
    row: &Row,
    columns: &[(Column, Option<usize>)],
) -> Result<Result<Target, String>, DatasetProblem> {
    let mut classes = Vec::new();
    for (column, class) in columns {
        let is_hot = hot(column.of(row)).ok_or_else(|| column.wrong(row, "0 or 1"))?;
        match class {
            Some(class) if is_hot => classes.push(*class),
            None if is_hot => return Ok(Err(format!("class `{}` is not in the class map", column.title))),
            _ => {}
        }
    }
    Ok(Ok(Target::classes(classes)))
}

/// Whether a field says 1; `None` if it says neither 1 nor 0.
fn hot(field: &str) -> Option<bool> {
    match field.parse::<f64>() {
        Ok(1.0) => Some(true),
        Ok(0.0) => Some(false),
        Ok(_) => None,
        Err(_) if field.eq_ignore_ascii_case("true") => Some(true),
        Err(_) if field.eq_ignore_ascii_case("false") => Some(false),
        Err(_) => None,
    }
}

impl Column {
    fn of<'a>(&self, row: &'a Row) -> &'a str {
        row.cells.get(self.at).map_or("", String::as_str)
    }

    fn number(&self, row: &Row) -> Result<f32, DatasetProblem> {
        let number = self.of(row).parse::<f32>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| self.wrong(row, "a number"))
    }

    fn wrong(&self, row: &Row, expected: &str) -> DatasetProblem {
        let title = &self.title;
        row.wrong(match self.of(row) {
            "" => format!("column `{title}` is empty, expected {expected}"),
            found => format!("column `{title}` holds `{found}`, expected {expected}"),
        })
    }
}

impl Separator {
    fn of(rows: &[Row], column: &Column) -> Self {
        let occurs = |is: &dyn Fn(char) -> bool| rows.iter().any(|row| column.of(row).contains(is));
        match SEPARATORS.into_iter().find(|separator| occurs(&|c| c == *separator)) {
            Some(separator) => Self::Char(separator),
            None if occurs(&char::is_whitespace) => Self::Blank,
            None => Self::None,
        }
    }

    /// The classes of a field, without the words that mean no class.
    fn split(self, field: &str) -> impl Iterator<Item = &str> {
        let parts = field.split(move |c: char| match self {
            Self::Char(separator) => c == separator,
            Self::Blank => c.is_whitespace(),
            Self::None => false,
        });
        parts.map(str::trim).filter(|text| !matches!(read(text), Label::Missing))
    }

    fn in_words(self) -> String {
        match self {
            Self::Char(separator) => format!(", separated by `{separator}`"),
            Self::Blank => ", separated by blanks".into(),
            Self::None => String::new(),
        }
    }
}

impl Candidates {
    fn column(&self, at: usize) -> Column {
        Column { at, title: self.titles[at].clone() }
    }

    fn columns(&self) -> impl Iterator<Item = Column> {
        (0..self.titles.len()).map(|at| self.column(at))
    }

    /// The columns of these names, in this order.
    fn named(&self, names: &[String]) -> Result<Vec<Column>, DatasetProblem> {
        let find = |name: &String| {
            let alike = |found: &String| plain(found) == plain(name);
            let exact = self.titles.iter().position(|found| found == name);
            exact.or_else(|| self.titles.iter().position(alike)).map(|at| self.column(at))
        };
        let missing: Vec<String> = names.iter().filter(|name| find(name).is_none()).cloned().collect();
        match missing.is_empty() {
            true => Ok(names.iter().filter_map(find).collect()),
            false => Err(DatasetProblem::TargetColumns { missing, header: self.titles.clone() }),
        }
    }

    /// The column of lists.
    fn list(&self) -> Option<Column> {
        let of_name = |name: &&str| self.titles.iter().position(|title| plain(title) == **name);
        LISTS.iter().find_map(of_name).map(|at| self.column(at))
    }

    /// The columns of 0 and 1, and the names of the other columns.
    fn hot(&self, rows: &[Row]) -> Result<(Vec<Column>, Vec<String>), DatasetProblem> {
        let (mut columns, mut left) = (Vec::new(), Vec::new());
        for column in self.columns() {
            let is_hot = |row: &&Row| hot(column.of(row)).is_some();
            let hot_rows = rows.iter().filter(is_hot).count();
            match rows.iter().find(|row| !is_hot(row)) {
                None => columns.push(column),
                // A column of 0 and 1 with a mistake, rather than a column of something else.
                Some(row) if 2 * hot_rows > rows.len() => return Err(column.wrong(row, "0 or 1")),
                Some(_) => left.push(column.title),
            }
        }
        let reason = "no column of lists, such as `labels` or `tags`, and no columns of 0 and 1";
        if columns.is_empty() { Err(self.none(reason)) } else { Ok((columns, left)) }
    }

    /// The columns of numbers: by name, or the only one.
    fn values(&self) -> Result<Vec<Column>, DatasetProblem> {
        let is_named = |column: &Column| {
            let name = plain(&column.title);
            VALUES.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit()))
        };
        let named: Vec<Column> = self.columns().filter(is_named).collect();
        match (named.is_empty(), self.titles.len()) {
            (false, _) => Ok(named),
            (true, 1) => Ok(vec![self.column(0)]),
            // Without a header, all columns behind the path are numbers.
            (true, 2..) if self.titles.iter().enumerate().all(|(at, title)| *title == at.to_string()) => {
                Ok(self.columns().collect())
            }
            (true, _) => Err(self.none("no column of numbers, such as `target` or `value`")),
        }
    }

    fn none(&self, reason: &str) -> DatasetProblem {
        let found = match self.titles.is_empty() {
            true => "there is only the path".into(),
            false => format!("found {}", in_words(&self.titles)),
        };
        let reason = format!("{reason}: {found}\n  hint: name the columns that hold the targets");
        DatasetProblem::Row { line: self.line, reason }
    }
}

/// `column `a`` or `columns `a`, `b` and 3 more`.
fn in_words(titles: &[String]) -> String {
    let shown: Vec<String> = titles.iter().take(10).map(|title| format!("`{title}`")).collect();
    let more = titles.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let noun = if titles.len() == 1 { "column" } else { "columns" };
    format!("{noun} {}{more}", shown.join(", "))
}
