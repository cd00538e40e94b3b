//! Models by timm's names.
//!
//! The table is data (`catalogue.json`): for each name what differs from ViT-B/16, the preprocessing of
//! timm's default weights and the tags of the published ones. Parameter counts and GMACs are not in it:
//! they follow from the configuration and are tested against timm's.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::{ConfigError, ModelConfig, VitConfig};

static TABLE: LazyLock<BTreeMap<String, Entry>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("catalogue.json")).expect("the built-in table is tested to parse")
});

/// A named model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// How it is built.
    pub config: VitConfig,
    /// How timm's default weights of this name want their images.
    pub preprocess: NamedPreprocess,
    /// Tags of published weights (`augreg_in21k_ft_in1k`), timm's default first.
    pub tags: Vec<String>,
}

/// Preprocessing as the catalogue names it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPreprocess {
    /// Subtracted from each channel, after division by 255.
    pub mean: Vec<f32>,
    /// Divides each channel.
    pub std: Vec<f32>,
    /// `bicubic`, `bilinear`, …
    pub interpolation: String,
    /// Share of the short side that the crop keeps.
    pub crop_pct: f64,
    /// `center`, `squash` or `border`.
    pub crop_mode: String,
}

/// All names, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.keys().map(String::as_str)
}

/// The entry of a name; a tag after a dot (`vit_tiny_patch16_224.augreg_in21k`) is allowed.
///
/// # Errors
/// [`ConfigError::UnknownName`] with the names most like it.
pub fn entry(name: &str) -> Result<&'static Entry, ConfigError> {
    let plain = name.split_once('.').map_or(name, |(plain, _)| plain);
    TABLE.get(plain).ok_or_else(|| ConfigError::UnknownName { name: name.into(), nearest: nearest(plain) })
}

impl ModelConfig {
    /// The configuration of a model by timm's name, such as `vit_base_patch16_224`, with 1000 classes.
    ///
    /// # Errors
    /// [`ConfigError::UnknownName`] with the names most like it.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        Ok(Self::Vit(entry(name)?.config.clone()))
    }
}

/// The name whose configuration differs in the fewest fields, for writers that must name an architecture.
pub fn closest(config: &VitConfig) -> &'static str {
    let fields = |config: &VitConfig| serde_json::to_value(config).unwrap_or_default();
    let wanted = fields(config);
    let differences = |entry: &Entry| {
        let theirs = fields(&entry.config);
        wanted.as_object().into_iter().flatten().filter(|(key, value)| theirs.get(key) != Some(value)).count()
    };
    // Of equally close names the shortest is the plainest.
    let best = TABLE.iter().min_by_key(|(name, entry)| (differences(entry), name.len()));
    best.map_or("vit_base_patch16_224", |(name, _)| name.as_str())
}

/// The three names most like `name`.
fn nearest(name: &str) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> =
        names().map(|other| (strsim::jaro_winkler(name, other), other)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, other)| other.to_string()).collect()
}
