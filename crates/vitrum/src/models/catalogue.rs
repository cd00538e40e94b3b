//! Models by timm's names, and by names of our own for models that timm does not have.
//!
//! The tables are data (`catalogue.json` and `catalogue_own.json`; `catalogue_old.json` has timm's deprecated names). For each name they hold the difference from ViT-B/16,
//! the preprocessing of timm's default weights, and the tags of published weights. Parameter counts and GMACs follow from
//! the configuration; tests compare them with timm's.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::{Config, ConfigError, ModelConfig};
use crate::data::{CropMode, Interpolation, Preprocess};

static TABLE: LazyLock<BTreeMap<String, Entry>> = LazyLock::new(|| {
    let tables = [include_str!("catalogue.json"), include_str!("catalogue_own.json")];
    let read = |text| serde_json::from_str::<BTreeMap<String, Entry>>(text);
    tables.into_iter().flat_map(|text| read(text).expect("the built-in tables are tested to parse")).collect()
});

/// timm's deprecated names, with the names and tags that replace them.
static OLD: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("catalogue_old.json")).expect("the built-in table is tested to parse")
});

/// A named model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The model's configuration.
    pub config: ModelConfig,
    /// Preprocessing of timm's default weights for this name, or of the paper.
    pub preprocess: NamedPreprocess,
    /// Tags of published weights (`augreg_in21k_ft_in1k`), timm's default first.
    pub tags: Vec<String>,
}

/// Preprocessing in the catalogue's terms.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPreprocess {
    /// Subtracted from each channel, after division by 255.
    pub mean: Vec<f32>,
    /// Divides each channel.
    pub std: Vec<f32>,
    /// `bicubic`, `bilinear`, …
    pub interpolation: Interpolation,
    /// Share of the short side that the crop keeps.
    pub crop_pct: f64,
    /// `center`, `squash` or `border`.
    pub crop_mode: CropMode,
}

impl Entry {
    /// Preprocessing of timm's default weights for this name.
    pub fn preprocess(&self) -> Preprocess {
        let NamedPreprocess { mean, std, interpolation, crop_pct, crop_mode } = &self.preprocess;
        let image = self.config.input().image();
        Preprocess {
            input_size: [image.channels, image.size[0], image.size[1]],
            interpolation: *interpolation,
            crop_pct: *crop_pct,
            crop_mode: *crop_mode,
            mean: mean.clone(),
            std: std.clone(),
        }
    }
}

/// All names, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.keys().map(String::as_str)
}

/// The name that replaces a deprecated one of timm's, with the tag of its weights: `swin_base_patch4_window7_224.ms_in22k`
/// for `swin_base_patch4_window7_224_in22k`.
pub fn renamed(name: &str) -> Option<&'static str> {
    OLD.get(plain(name)).map(String::as_str)
}

/// A name without its tag.
fn plain(name: &str) -> &str {
    name.split_once('.').map_or(name, |(plain, _)| plain)
}

/// The entry of a name. A tag after a dot (`vit_tiny_patch16_224.augreg_in21k`) and timm's deprecated names are allowed.
///
/// # Errors
/// [`ConfigError::UnknownName`] with the names most like it.
pub fn entry(name: &str) -> Result<&'static Entry, ConfigError> {
    let present = plain(renamed(name).unwrap_or(name));
    TABLE
        .get(present)
        .ok_or_else(|| ConfigError::UnknownName { name: name.into(), nearest: nearest(present) })
}

impl ModelConfig {
    /// The configuration of a model by timm's name, such as `vit_base_patch16_224`, with 1000 classes.
    ///
    /// # Errors
    /// [`ConfigError::UnknownName`] with the names most like it.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        Ok(entry(name)?.config.clone())
    }
}

/// The name of the same family whose configuration differs in the fewest fields. Writers that must name an
/// architecture use it.
pub fn closest(config: &ModelConfig) -> Option<&'static str> {
    let of_family = TABLE.iter().filter(|(_, entry)| entry.config.family() == config.family());
    // Of equally close names, take the shortest.
    let best = of_family.min_by_key(|(name, entry)| (config.differences(&entry.config).len(), name.len()));
    best.map(|(name, _)| name.as_str())
}

/// The three names most like `name`.
fn nearest(name: &str) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> =
        names().map(|other| (strsim::jaro_winkler(name, other), other)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, other)| other.to_string()).collect()
}
