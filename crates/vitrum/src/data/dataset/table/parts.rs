//! The column that says to which part of the data a row belongs.

use super::read::{Line, plain};
use crate::data::dataset::{DatasetProblem, Split};

/// Names of the column, the better first. They are compared as those of the other columns are.
const NAMES: [&str; 8] = ["split", "splits", "part", "partition", "subset", "datasplit", "dataset", "set"];
/// Names that mean parts whatever the rows hold.
const SURE: [&str; 4] = ["split", "splits", "partition", "datasplit"];

/// What the rows of a column hold.
enum Content<'a> {
    Nothing,
    Parts,
    /// The first row that holds no part, though others do.
    Mixed(&'a Line),
    Numbers,
    /// The first word of words that are no parts.
    Words(&'a str),
}

impl<'a> Content<'a> {
    fn of(rows: &'a [Line], at: usize) -> Self {
        let fields = || rows.iter().filter_map(|row| Some((row, row.fields.get(at)?)));
        let is_part = |field: &str| Split::of_name(field).is_some();
        if fields().any(|(_, field)| is_part(field)) {
            return match fields().find(|(_, field)| !is_part(field)) {
                Some((row, _)) => Self::Mixed(row),
                None => Self::Parts,
            };
        }
        let mut words = fields().map(|(_, field)| field.as_str()).filter(|field| !field.is_empty());
        match words.clone().next() {
            None => Self::Nothing,
            Some(_) if words.all(|word| word.parse::<f64>().is_ok()) => Self::Numbers,
            Some(word) => Self::Words(word),
        }
    }
}

/// The place of the column in the rows, which have `shift` columns before those of the header. A column of such a name
/// whose words are no parts is an ordinary column, which is noted.
///
/// # Errors
/// [`DatasetProblem::Row`] where only some rows name a part, or numbers stand for parts.
pub(super) fn find(
    header: &Line,
    rows: &[Line],
    shift: usize,
    notes: &mut Vec<String>,
) -> Result<Option<usize>, DatasetProblem> {
    for name in NAMES {
        let Some(at) = header.fields.iter().position(|field| plain(field) == name) else { continue };
        let (title, at) = (&header.fields[at], at + shift);
        let refuse = |line: u64, reason: String| Err(DatasetProblem::Row { line, reason });
        match Content::of(rows, at) {
            Content::Parts => return Ok(Some(at)),
            Content::Mixed(row) => {
                let found = &row.fields[at];
                return refuse(row.number, format!("`{found}` in column `{title}`, want train, val or test"));
            }
            Content::Numbers if SURE.contains(&name) => {
                let reason = format!(
                    "column `{title}` has numbers, and which part a number means is not known\n  hint: write train, \
                     val or test; to read all rows, call the column something else"
                );
                return refuse(header.number, reason);
            }
            Content::Words(word) if SURE.contains(&name) => {
                notes.push(format!("column `{title}` names no parts (`{word}`): all rows are read"));
            }
            Content::Words(_) | Content::Numbers | Content::Nothing => {}
        }
    }
    Ok(None)
}
