//! Help for names that no dialect knows: the nearest naming, and a first [`KeyFile`](super::KeyFile).
//!
//! The rows of each naming are tried after any prefix. Some of the remaining names are guessed by shape and words; the
//! others are written as comments.

use std::collections::{BTreeMap, BTreeSet};

use super::TensorMap;
pub use super::error::Nearest;
use super::family::{EXTRA_TABLES, namings};
use super::keys::{Edit, Row, edit_name, translate};
use crate::models::ModelConfig;

/// The naming that matches the most names of a file.
pub fn nearest(map: &TensorMap) -> Nearest {
    let (table, found) = best(map);
    Nearest { library: table.library, matched: found.len(), names: map.len() }
}

/// A first key file, as TOML.
pub fn suggest_keys(map: &TensorMap) -> String {
    let (table, found) = best(map);
    let mut rows = Rows::default();
    for (name, Match { prefix, row, target }) in &found {
        rows.taken.insert(target.clone());
        rows.known(&format!("{prefix}{}", row.0), row);
        rows.covered.insert(name.to_string());
    }
    // Weights first: the row of a weight also covers its bias.
    let mut others: Vec<&str> = map.names().filter(|name| !found.contains_key(name)).collect();
    others.sort_by_key(|name| name.ends_with(".bias"));
    let is_vit = kernels(map) <= 1;
    others.into_iter().for_each(|name| rows.guess(map, name, is_vit));
    let nearest = Nearest { library: table.library, matched: found.len(), names: map.len() };
    let path = map.path.file_name().unwrap_or_default().to_string_lossy().replace(char::is_control, "?");
    let mut text = format!(
        "# Names of {path}; {nearest}.\n\
         # A row is [name in the file, name here] or [name in the file, name here, edit]. {{N}} is the number of a block. A row\n\
         # for a module covers its weight and its bias. docs/compatibility.md has the names and the edits.\n\
         left_out = []\n"
    );
    if !is_vit {
        let families = ModelConfig::FAMILIES.join(", ");
        text.push_str(&format!(
            "# {} kernels: not a plain Vision Transformer. Name the family, one of {families}.\n# family = \"?\"\n",
            kernels(map)
        ));
    }
    text.push_str("rows = [\n");
    rows.lines.iter().for_each(|line| text.push_str(line));
    text.push_str("]\n\n[config]\n# Fields that tensors do not show:\n");
    if is_vit {
        text.push_str("# num_heads = 12\n");
    }
    table.config.iter().for_each(|line| text.push_str(&format!("{line}\n")));
    text
}

/// Number of kernels. A Vision Transformer has one, that of its patches.
fn kernels(map: &TensorMap) -> usize {
    map.names().filter(|name| map.get(name).is_some_and(|tensor| tensor.shape().len() == 4)).count()
}

/// A naming's rows.
struct Table {
    library: &'static str,
    rows: Vec<&'static Row>,
    config: &'static [&'static str],
}

/// The tables of all dialects, and the extra tables.
fn tables() -> Vec<Table> {
    let of_dialects = namings().map(|(_, naming)| Table {
        library: naming.dialect.name(),
        rows: naming.rows.iter().flat_map(|rows| rows.iter()).chain(naming.beside).collect(),
        config: &[],
    });
    let extra = EXTRA_TABLES.iter().map(|table| Table {
        library: table.library,
        rows: table.rows.iter().collect(),
        config: table.config,
    });
    of_dialects.chain(extra).collect()
}

/// A row that matches the end of a name, the prefix before that end, and timm's name.
struct Match<'a> {
    prefix: &'a str,
    row: &'static Row,
    target: String,
}

impl Table {
    /// The row that matches the longest end of a name; on a tie the first row.
    fn find<'a>(&self, name: &'a str) -> Option<Match<'a>> {
        /// Limits: bytes of a name, and positions in it where a row may start.
        const MOST: (usize, usize) = (400, 20);
        if name.len() > MOST.0 {
            return None;
        }
        let starts = std::iter::once(0).chain(name.match_indices(['.', '/']).map(|(at, _)| at + 1));
        starts.take(MOST.1).find_map(|at| {
            let (prefix, end) = name.split_at(at);
            let fits = |row: &'static Row| Some(Match { prefix, row, target: translate(row.0, row.1, end)? });
            // `layers.0.norm` does not match the row `norm`.
            let numbered = prefix.split(['.', '/']).any(is_number);
            self.rows.iter().filter(|row| !numbered || row.0.contains("{N}")).find_map(|row| fits(row))
        })
    }

    /// Matches by name. If several names have one target, the first wins.
    fn matches<'a>(&self, map: &'a TensorMap) -> BTreeMap<&'a str, Match<'a>> {
        let mut taken = BTreeSet::new();
        let pairs = map.names().filter_map(|name| Some((name, self.find(name)?)));
        pairs.filter(|(_, found)| taken.insert(found.target.clone())).collect()
    }
}

/// The table that matches the most names; on a tie the first.
fn best(map: &TensorMap) -> (Table, BTreeMap<&str, Match<'_>>) {
    let all = tables().into_iter().map(|table| {
        let found = table.matches(map);
        (table, found)
    });
    all.reduce(|best, other| if other.1.len() > best.1.len() { other } else { best })
        .expect("there are tables")
}

/// Lines of the file.
#[derive(Default)]
struct Rows {
    lines: Vec<String>,
    /// Names in the file that have a line.
    written: BTreeSet<String>,
    /// timm's names that are already assigned to a tensor.
    taken: BTreeSet<String>,
    /// Names of tensors that a line covers.
    covered: BTreeSet<String>,
}

impl Rows {
    fn known(&mut self, from: &str, row: &Row) {
        if self.written.insert(from.to_string()) {
            self.lines.push(format!("  {},\n", line(from, row.1, row.2)));
        }
    }

    /// A row for a name that no table has. Only names of a Vision Transformer are guessed.
    fn guess(&mut self, map: &TensorMap, name: &str, is_vit: bool) {
        let Some(tensor) = map.get(name).filter(|_| !self.covered.contains(name)) else { return };
        let shape = tensor.shape();
        if is_vit
            && let Some((from, to, edit)) = guessed(name, shape)
            && self.taken.insert(to.to_string())
        {
            self.lines.push(format!("  {},  # {shape:?}, a guess\n", line(from, to, edit)));
            self.covered.extend([name.to_string(), format!("{from}.weight"), format!("{from}.bias")]);
            return;
        }
        let from = numbered(name);
        if self.written.insert(from.clone()) {
            self.lines.push(format!("  # {},  # {shape:?}\n", line(&from, "?", Edit::Keep)));
        }
    }
}

/// A row as TOML on one line. JSON's escapes are valid TOML, but JSON does not escape U+007F.
fn line(from: &str, to: &str, edit: Edit) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f");
    match edit {
        Edit::Keep => format!("[{}, {}]", text(from), text(to)),
        _ => format!("[{}, {}, {}]", text(from), text(to), text(edit_name(edit))),
    }
}

/// A name with `{N}` in place of its number, if it has exactly one number.
fn numbered(name: &str) -> String {
    let numbers = || name.split('.').filter(|part| is_number(part));
    match numbers().count() {
        1 => name
            .split('.')
            .map(|part| if is_number(part) { "{N}" } else { part })
            .collect::<Vec<_>>()
            .join("."),
        _ => name.to_string(),
    }
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// A guess for a tensor outside the blocks, by its shape and the words in its name.
fn guessed<'a>(name: &'a str, shape: &[usize]) -> Option<(&'a str, &'static str, Edit)> {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let stem = name.strip_suffix(".weight");
    let is_token = matches!(shape, [_] | [1, _] | [1, 1, _]);
    match (stem, shape) {
        (Some(stem), [_, _, _, _]) => Some((stem, "patch_embed.proj", Edit::Keep)),
        _ if is_token && has(&["cls", "class"]) => Some((name, "cls_token", Edit::Rank3)),
        (_, [_, _] | [1, _, _]) if has(&["pos"]) => Some((name, "pos_embed", Edit::Rank3)),
        (Some(stem), [_, _]) if has(&["head", "classif", "fc", "logits"]) => Some((stem, "head", Edit::Keep)),
        (Some(stem), [_, _]) if has(&["patch"]) => Some((stem, "patch_embed.proj", Edit::Keep)),
        (Some(stem), [_]) if has(&["norm", "ln"]) && !stem.split('.').any(is_number) => {
            Some((stem, "norm", Edit::Keep))
        }
        _ => None,
    }
}
