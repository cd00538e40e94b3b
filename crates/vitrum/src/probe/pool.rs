//! One vector per image, of what the model makes of it.

use std::str::FromStr;

use burn::tensor::Tensor;
use serde::Serialize;

use super::error::ProbeError;
use crate::layers::observe::Silent;
use crate::models::{Level, Model, Sizes, Want, in_parts};

/// The vector of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// What the model's head reads ([`Embedder::pooled`](crate::tasks::Embedder::pooled)), `[D]`.
    #[default]
    Head,
    /// The class token after the last norm, `[D]`.
    Token,
    /// The mean of the patches after the last norm, without class and register tokens, `[D]`.
    Avg,
    /// The class token, then the mean of the patches, `[2 D]` (as DINOv2 does for its linear probes).
    Both,
}

impl Pool {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Head, Self::Token, Self::Avg, Self::Both];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Token => "token",
            Self::Avg => "avg",
            Self::Both => "both",
        }
    }
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|pool| pool.name() == text);
        found.ok_or_else(|| format!("'{text}': want head, token, avg or both"))
    }
}

/// One vector per image, `[B, C, H, W] -> [B, D]`, or `[B, 2 D]`.
///
/// # Errors
/// [`ProbeError::NoClassToken`], [`ProbeError::Cannot`], and images of another shape or size than the model's.
pub fn pooled_as(model: &Model, images: Tensor<4>, pool: Pool) -> Result<Tensor<2>, ProbeError> {
    if pool == Pool::Head {
        return Ok(crate::tasks::embed::pooled(model, images)?);
    }
    let backbone = model.as_backbone()?;
    if matches!(pool, Pool::Token | Pool::Both) && !backbone.has_class_token() {
        return Err(ProbeError::NoClassToken { family: model.family() });
    }
    model.check_images(&images, Sizes::Own).map_err(crate::models::AnswerError::from)?;
    let pass = |images: Tensor<4>| {
        let level = backbone.features(images.into(), Want::Last, &mut Silent).last();
        match pool {
            Pool::Token => token(&level),
            Pool::Both => Tensor::cat(vec![token(&level), mean(level)], 1),
            Pool::Avg | Pool::Head => mean(level),
        }
    };
    Ok(in_parts(images, pass))
}

/// The first token, `[B, D]`.
fn token(level: &Level) -> Tensor<2> {
    level.tokens.clone().narrow(1, 0, 1).squeeze_dim(1)
}

/// The mean of the patches, `[B, D]`.
fn mean(level: Level) -> Tensor<2> {
    level.split().1.mean_dim(1).squeeze_dim(1)
}
