//! AutoAugment, RandAugment, AugMix and 3-Augment, from timm's configuration texts (`timm/data/auto_augment.py`).
//!
//! Sources: Cubuk et al. 2018 (AutoAugment, arXiv 1805.09501) and 2019 (RandAugment, 1909.13719), Hendrycks et al.
//! 2019 (AugMix, 1912.02781), Touvron et al. 2022 (3-Augment, 2204.07118).

use rand::Rng;
use rand_distr::{Beta, Distribution, Gamma};

use crate::data::image::RgbImage;
use crate::data::random::DataRng;

use super::color::blend;
use super::op::{Applied, AugmentOp, Hparams, choice};
use super::policies::{AUGMIX, policy, rand_list};
use super::{AugmentError, geometry::same_size};

/// The augmentation that an `aa` text describes.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoAugment {
    /// How operations are chosen.
    pub scheme: Scheme,
    /// Their common parameters.
    pub hparams: Hparams,
}

/// How operations are chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Scheme {
    /// A random row; its operations in order.
    Policy(Vec<Vec<AugmentOp>>),
    /// Random operations of a list, in order.
    Rand {
        /// The list.
        ops: Vec<AugmentOp>,
        /// Number of operations per image.
        layers: usize,
        /// Probability of each, with sum 1; operations are then drawn without repetition. `None`: all are equally
        /// likely and may repeat.
        weights: Option<Vec<f64>>,
    },
    /// A weighted mean of several chains, mixed with the image.
    Mix {
        /// Operations to choose from.
        ops: Vec<AugmentOp>,
        /// Parameter of the Dirichlet and beta distributions.
        alpha: f64,
        /// Number of chains.
        width: usize,
        /// Operations per chain; `None`: 1 to 3 at random.
        depth: Option<usize>,
        /// Blend the chains one by one into the image instead of averaging them first.
        blended: bool,
    },
}

/// Choices made for one image.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Operations in order.
    Chain(Vec<Applied>),
    /// A mean of chains (AugMix).
    Mix {
        /// The chains.
        chains: Vec<Vec<Applied>>,
        /// Their weights.
        weights: Vec<f32>,
        /// The weight of the mean; the image has the rest.
        share: f32,
        /// See [`Scheme::Mix`].
        blended: bool,
    },
}

/// The sections of a text after the first, as names and values.
struct Sections<'a> {
    text: &'a str,
    pairs: Vec<(&'a str, &'a str)>,
}

const HINT: &str = "`rand-m9-mstd0.5-inc1`, `augmix-m5-w4-d2`, `original`, `originalr`, `v0`, `v0r` or \
                    `3a`; sections such as `-mstd0.5` may follow";
const RAND_HINT: &str = "sections of `rand` are m9 (magnitude), n2 (operations), p0.5 (probability), mstd0.5 \
                         (deviation), mmax10 (highest level), inc1 (increasing), tweights, t3a or t3aw (list)";
const MIX_HINT: &str = "sections of `augmix` are m3 (magnitude), w3 (chains), d2 (operations per chain), a1 (alpha), \
                        b1 (blended), mstd0.5 (deviation)";
const POLICY_HINT: &str = "the only section of an AutoAugment policy is mstd0.5 (deviation)";

impl AutoAugment {
    /// Parses a configuration text in timm's grammar: a name, then sections, joined by `-`.
    ///
    /// Stricter than timm: sections without a number and unknown lists are errors here; timm ignores them. `mstd`
    /// and `mmax` of the text override those of `hparams`. `augmix` without `mstd` draws levels uniformly.
    ///
    /// # Errors
    /// [`AugmentError::Policy`].
    pub fn parse(text: &str, hparams: Hparams) -> Result<Self, AugmentError> {
        let (name, rest) = text.split_once('-').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let sections = Sections::new(text, rest);
        match name {
            "rand" => rand_augment(&sections, hparams),
            "augmix" => augmix(&sections, hparams),
            _ => match policy(name) {
                Some(rows) => auto(&sections, rows, hparams),
                None => Err(sections.error(format!("there is no '{name}'"), HINT)),
            },
        }
    }

    /// Draws the choices for one image.
    pub fn draw(&self, rng: &mut DataRng) -> Plan {
        match &self.scheme {
            Scheme::Policy(rows) => {
                let row = &rows[choice(rng, rows.len())];
                Plan::Chain(row.iter().filter_map(|op| op.draw(&self.hparams, rng)).collect())
            }
            Scheme::Rand { ops, layers, weights } => {
                let chosen = match weights {
                    Some(weights) => without_repetition(weights, *layers, rng),
                    None => (0..*layers).map(|_| choice(rng, ops.len())).collect(),
                };
                Plan::Chain(chosen.into_iter().filter_map(|at| ops[at].draw(&self.hparams, rng)).collect())
            }
            Scheme::Mix { ops, alpha, width, depth, blended } => {
                let weights = dirichlet(*alpha, *width, rng);
                let share = beta(*alpha, rng) as f32;
                let mut chain = |_| {
                    let depth = depth.unwrap_or_else(|| 1 + choice(rng, 3));
                    let chosen: Vec<usize> = (0..depth).map(|_| choice(rng, ops.len())).collect();
                    chosen.into_iter().filter_map(|at| ops[at].draw(&self.hparams, rng)).collect()
                };
                let chains = (0..*width).map(&mut chain).collect();
                Plan::Mix { chains, weights, share, blended: *blended }
            }
        }
    }

    /// Applies a plan; the image keeps its size.
    pub fn apply(&self, image: RgbImage, plan: &Plan) -> RgbImage {
        let run = |image, chain: &[Applied]| {
            chain.iter().fold(image, |image, applied| applied.apply(image, self.hparams.fill))
        };
        match plan {
            Plan::Chain(chain) => run(image, chain),
            Plan::Mix { chains, weights, share, blended: true } => {
                let weights = blended_weights(weights, *share);
                let branches = chains.iter().zip(weights);
                branches.fold(image.clone(), |mixed, (chain, weight)| {
                    blend(&mixed, &run(image.clone(), chain), weight)
                })
            }
            Plan::Mix { chains, weights, share, blended: false } => {
                let mut mean = vec![0.0_f32; image.data().len()];
                for (chain, weight) in chains.iter().zip(weights) {
                    let branch = run(image.clone(), chain);
                    mean.iter_mut()
                        .zip(branch.data())
                        .for_each(|(mean, &value)| *mean += weight * f32::from(value));
                }
                let mean = same_size(&image, mean.into_iter().map(|value| value as u8).collect());
                blend(&image, &mean, *share)
            }
        }
    }
}

impl std::fmt::Display for AutoAugment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.scheme {
            Scheme::Policy(rows) => write!(f, "one of {} policies", rows.len())?,
            Scheme::Rand { ops, layers, .. } => write!(
                f,
                "{layers} of {} operations at {}, each with probability {}",
                ops.len(),
                ops.first().map_or(0.0, |op| op.magnitude),
                ops.first().map_or(0.0, |op| op.prob)
            )?,
            Scheme::Mix { ops, width, depth, .. } => {
                let depth = depth.map_or("1 to 3".into(), |depth| depth.to_string());
                let level = ops.first().map_or(0.0, |op| op.magnitude);
                write!(f, "mean of {width} chains of {depth} operations at {level}")?;
            }
        }
        match self.hparams.magnitude_std {
            0.0 => Ok(()),
            f64::INFINITY => write!(f, ", levels from 0"),
            std => write!(f, ", levels ± {std}"),
        }
    }
}

impl<'a> Sections<'a> {
    /// A section's name ends before the first digit; the name of a list is `t`.
    fn new(text: &'a str, rest: Option<&'a str>) -> Self {
        let pair = |section: &'a str| match section.strip_prefix('t') {
            Some(list) => ("t", list),
            None => section.split_at(section.find(|c: char| c.is_ascii_digit()).unwrap_or(section.len())),
        };
        Self { text, pairs: rest.into_iter().flat_map(|rest| rest.split('-')).map(pair).collect() }
    }

    fn error(&self, reason: String, hint: &'static str) -> AugmentError {
        AugmentError::Policy { text: self.text.into(), reason, hint }
    }

    fn unknown(&self, (key, value): (&str, &str), hint: &'static str) -> AugmentError {
        self.error(format!("there is no section '{key}{value}'"), hint)
    }

    fn number<T: std::str::FromStr>(
        &self,
        (key, value): (&str, &str),
        hint: &'static str,
    ) -> Result<T, AugmentError> {
        value.parse().map_err(|_| {
            let whole = std::any::type_name::<T>() != std::any::type_name::<f64>();
            let kind = if whole { "a whole number" } else { "a number" };
            self.error(format!("'{value}' behind '{key}' is not {kind}"), hint)
        })
    }
}

/// The first `mstd` and the first `mmax` count, as in timm.
#[derive(Default)]
struct Noise {
    std: Option<f64>,
    max: Option<f64>,
}

impl Noise {
    fn into_hparams(self, mut hparams: Hparams) -> Hparams {
        hparams.magnitude_std = self.std.unwrap_or(hparams.magnitude_std);
        // timm treats 0 as "not given".
        hparams.magnitude_max = self.max.filter(|max| *max > 0.0).unwrap_or(hparams.magnitude_max);
        hparams
    }
}

fn auto(
    sections: &Sections<'_>,
    rows: Vec<Vec<AugmentOp>>,
    hparams: Hparams,
) -> Result<AutoAugment, AugmentError> {
    let mut noise = Noise::default();
    for &pair in &sections.pairs {
        match pair.0 {
            "mstd" => _ = noise.std.get_or_insert(sections.number(pair, POLICY_HINT)?),
            _ => return Err(sections.unknown(pair, POLICY_HINT)),
        }
    }
    Ok(AutoAugment { scheme: Scheme::Policy(rows), hparams: noise.into_hparams(hparams) })
}

fn rand_augment(sections: &Sections<'_>, hparams: Hparams) -> Result<AutoAugment, AugmentError> {
    let (mut magnitude, mut layers, mut prob, mut increasing) = (10, 2, 0.5, false);
    let (mut noise, mut list) = (Noise::default(), None);
    for &pair in &sections.pairs {
        match pair.0 {
            "t" => _ = list.get_or_insert(pair.1),
            "mstd" => {
                let std: f64 = sections.number(pair, RAND_HINT)?;
                noise.std.get_or_insert(if std > 100.0 { f64::INFINITY } else { std });
            }
            "mmax" => _ = noise.max.get_or_insert(f64::from(sections.number::<u32>(pair, RAND_HINT)?)),
            "inc" => increasing = sections.number::<u32>(pair, RAND_HINT)? != 0,
            "m" => magnitude = sections.number::<u32>(pair, RAND_HINT)?,
            "n" => layers = sections.number::<u16>(pair, RAND_HINT)?,
            "p" => prob = sections.number::<f64>(pair, RAND_HINT)?,
            _ => return Err(sections.unknown(pair, RAND_HINT)),
        }
    }
    let (ops, weights) = rand_list(list, increasing)
        .ok_or_else(|| sections.error(format!("there is no list '{}'", list.unwrap_or("")), RAND_HINT))?;
    let layers = usize::from(layers);
    if weights.is_some() && layers > ops.len() {
        let reason = format!("{layers} different operations of {} cannot be chosen", ops.len());
        return Err(sections.error(reason, RAND_HINT));
    }
    let magnitude = f64::from(magnitude);
    let ops = ops.into_iter().map(|op| AugmentOp { op, prob, magnitude }).collect();
    Ok(AutoAugment { scheme: Scheme::Rand { ops, layers, weights }, hparams: noise.into_hparams(hparams) })
}

fn augmix(sections: &Sections<'_>, hparams: Hparams) -> Result<AutoAugment, AugmentError> {
    let (mut magnitude, mut width, mut depth, mut alpha, mut blended) = (3, 3, 0, 1.0, false);
    let mut noise = Noise::default();
    for &pair in &sections.pairs {
        match pair.0 {
            "mstd" => _ = noise.std.get_or_insert(sections.number(pair, MIX_HINT)?),
            "m" => magnitude = sections.number::<u32>(pair, MIX_HINT)?,
            "w" => width = sections.number::<u16>(pair, MIX_HINT)?,
            "d" => depth = sections.number::<u16>(pair, MIX_HINT)?,
            "a" => alpha = sections.number::<f64>(pair, MIX_HINT)?,
            "b" => blended = sections.number::<u32>(pair, MIX_HINT)? != 0,
            _ => return Err(sections.unknown(pair, MIX_HINT)),
        }
    }
    if width == 0 || !(alpha > 0.0 && alpha.is_finite()) {
        let reason = format!("{width} chains with alpha {alpha} make no mean");
        return Err(sections.error(reason, MIX_HINT));
    }
    noise.std.get_or_insert(f64::INFINITY);
    let op = |op| AugmentOp { op, prob: 1.0, magnitude: f64::from(magnitude) };
    let ops = AUGMIX.into_iter().map(op).collect();
    let depth = (depth > 0).then_some(usize::from(depth));
    let scheme = Scheme::Mix { ops, alpha, width: usize::from(width), depth, blended };
    Ok(AutoAugment { scheme, hparams: noise.into_hparams(hparams) })
}

/// Draws `count` different indices, one after the other, with these weights.
fn without_repetition(weights: &[f64], count: usize, rng: &mut DataRng) -> Vec<usize> {
    let mut left = weights.to_vec();
    let mut pick = |_| {
        let mut at = rng.random::<f64>() * left.iter().sum::<f64>();
        let candidates = left.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        let found = candidates.clone().find(|(_, weight)| {
            at -= **weight;
            at < 0.0
        });
        // Rounding may leave nothing of the sum; then take the last.
        let chosen = found.or_else(|| candidates.clone().next_back()).map_or(0, |(index, _)| index);
        left[chosen] = 0.0;
        chosen
    };
    (0..count).map(&mut pick).collect()
}

/// A draw from Beta(alpha, alpha), for an alpha above 0.
pub(super) fn beta(alpha: f64, rng: &mut DataRng) -> f64 {
    // Both parameters are above 0, so `Beta::new` succeeds.
    let draw = Beta::new(alpha, alpha).map_or(0.5, |beta| beta.sample(rng));
    // With a tiny alpha both gamma draws may underflow to 0. The distribution is then concentrated at 0 and 1.
    if draw.is_finite() { draw } else { f64::from(u8::from(rng.random::<bool>())) }
}

/// `count` shares with sum 1, from the symmetric Dirichlet distribution with parameter `alpha`.
fn dirichlet(alpha: f64, count: usize, rng: &mut DataRng) -> Vec<f32> {
    let gamma = Gamma::new(alpha, 1.0);
    let parts: Vec<f64> = (0..count).map(|_| gamma.as_ref().map_or(1.0, |gamma| gamma.sample(rng))).collect();
    let sum: f64 = parts.iter().sum();
    if sum > 0.0 {
        return parts.iter().map(|part| (part / sum) as f32).collect();
    }
    let whole = choice(rng, count);
    (0..count).map(|at| f32::from(u8::from(at == whole))).collect()
}

/// Weights for blending chain after chain that give the same result as `weights` and `share`.
fn blended_weights(weights: &[f32], share: f32) -> Vec<f32> {
    let mut left = 1.0_f32;
    let mut out: Vec<f32> = weights
        .iter()
        .rev()
        .map(|weight| {
            let alpha = weight * share / left;
            left *= 1.0 - alpha;
            alpha
        })
        .collect();
    out.reverse();
    out
}
