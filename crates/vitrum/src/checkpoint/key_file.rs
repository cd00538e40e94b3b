//! A key file, for tensor names that no dialect knows: it maps them to timm's names and states config fields.
//!
//! ```toml
//! prefix = "model."                # prefix of every name below
//! left_out = ["decoder.*"]         # tensors that may be left out; * matches any text
//! rows = [                         # name in the file, name here, edit
//!   ["embed.projection", "patch_embed.proj"],
//!   ["layers.{N}.self_attn.in_proj_weight", "blocks.{N}.attn.qkv.weight"],
//!   ["fc", "head.weight", "transpose"],
//! ]
//!
//! [config]                         # fields of the configuration that tensors do not show
//! num_heads = 8
//! ```
//!
//! A row for a module also covers its `.weight` and `.bias`. Names without a row stay as they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use toml::Spanned;

pub use super::error::{KeyFault, KeyFileError};
use super::keys::{EDITS, Edit, letters, translate};
use super::read::read_bounded;
use crate::layers::names::wildcard;
use crate::models::ModelConfig;

/// Size limit of a key file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The contents of a key file.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// The family of the model, as `config.json` names it. Default: `vit`.
    pub family: &'static str,
    /// Prefix of all names of the model.
    pub prefix: String,
    /// Names, without the prefix, of tensors that may be left out. `*` matches any text.
    pub left_out: Vec<String>,
    /// Name in the file without the prefix, timm's name, and the edit.
    pub rows: Vec<(String, String, Edit)>,
    /// Fields of the configuration.
    pub config: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    family: Option<Spanned<String>>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    left_out: Vec<String>,
    #[serde(default)]
    rows: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    config: std::collections::BTreeMap<Spanned<String>, toml::Value>,
}

impl Raw {
    fn is_empty(&self) -> bool {
        let Self { family, prefix, left_out, rows, config } = self;
        family.is_none() && prefix.is_empty() && left_out.is_empty() && rows.is_empty() && config.is_empty()
    }
}

impl KeyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, and the first invalid line.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        if path.is_dir() {
            return Err(KeyFileError::Folder { path: path.to_path_buf() });
        }
        let bytes = read_bounded(path, "the key file", MAX_BYTES)
            .map_err(|error| KeyFileError::Read(Box::new(error)))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(path, text),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                Err(fault(path, line, KeyFault::Toml("not UTF-8".into())))
            }
        }
    }

    /// Parses the contents of a file.
    ///
    /// # Errors
    /// The first invalid line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KeyFileError> {
        let line = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
        let raw: Raw = toml::from_str(text).map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            fault(path, line(at), KeyFault::Toml(error.message().trim_end().to_string()))
        })?;
        if raw.is_empty() {
            return Err(KeyFileError::Empty { path: path.to_path_buf() });
        }
        let family = match &raw.family {
            None => "vit",
            Some(name) => read_family(name.get_ref()).map_err(|f| fault(path, line(name.span().start), f))?,
        };
        let mut rows: Vec<(String, String, Edit)> = Vec::with_capacity(raw.rows.len());
        for row in &raw.rows {
            let new = read_row(row.get_ref(), &rows).map_err(|f| fault(path, line(row.span().start), f))?;
            rows.push(new);
        }
        let mut config = Map::new();
        let default: ModelConfig =
            serde_json::from_value(json!({ "family": family })).expect("every family has a default");
        for (key, value) in raw.config {
            let at = line(key.span().start);
            let value = field(&default, key.get_ref(), value).map_err(|f| fault(path, at, f))?;
            config.insert(key.into_inner(), value);
        }
        Ok(Self {
            path: path.to_path_buf(),
            family,
            prefix: raw.prefix,
            left_out: raw.left_out,
            rows,
            config,
        })
    }

    /// timm's name for a name without the prefix, and the edit, from the first row that matches.
    pub fn lookup(&self, name: &str) -> Option<(String, Edit)> {
        self.rows.iter().find_map(|(from, to, edit)| Some((translate(from, to, name)?, *edit)))
    }

    /// A tensor's name without the prefix; the whole name if it does not have the prefix.
    pub fn inner<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }

    /// Whether a tensor of the file may be left out.
    pub fn is_left_out(&self, name: &str) -> bool {
        self.left_out.iter().any(|pattern| wildcard(pattern, self.inner(name)))
    }
}

fn fault(path: &Path, line: usize, fault: KeyFault) -> KeyFileError {
    KeyFileError::Line { path: path.to_path_buf(), line, fault }
}

fn read_family(name: &str) -> Result<&'static str, KeyFault> {
    let known = ModelConfig::FAMILIES.iter().find(|family| **family == name);
    known.copied().ok_or_else(|| KeyFault::Family(name.into()))
}

fn read_row(row: &[String], before: &[(String, String, Edit)]) -> Result<(String, String, Edit), KeyFault> {
    let (from, to, edit) = match row {
        [from, to] => (from, to, Edit::Keep),
        [from, to, edit] => (from, to, read_edit(edit)?),
        _ => return Err(KeyFault::Row),
    };
    if numbers(from)? != numbers(to)? {
        return Err(KeyFault::Number);
    }
    if before.iter().any(|(earlier, ..)| earlier == from) {
        return Err(KeyFault::Double(from.clone()));
    }
    Ok((from.clone(), to.clone(), edit))
}

/// The letters of a name's numbers.
fn numbers(name: &str) -> Result<BTreeSet<&str>, KeyFault> {
    letters(name).filter(|_| !name.is_empty()).ok_or_else(|| KeyFault::Name(name.into()))
}

fn read_edit(name: &str) -> Result<Edit, KeyFault> {
    let known = EDITS.iter().find(|(known, _)| *known == name);
    known.map(|(_, edit)| *edit).ok_or_else(|| KeyFault::Edit(name.into()))
}

/// The value of a field in the form that the configuration stores.
fn field(config: &ModelConfig, key: &str, value: toml::Value) -> Result<Value, KeyFault> {
    let value = serde_json::to_value(value).map_err(|error| KeyFault::Field(error.to_string()))?;
    let with = config.with(key, value.clone()).map_err(|error| KeyFault::Field(error.to_string()))?;
    Ok(with.field(key).unwrap_or(value))
}
