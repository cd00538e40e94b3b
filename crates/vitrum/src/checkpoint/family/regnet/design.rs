//! A design for given stages. Files show widths and depths, and not the line `w0 + wa · j` and the step `wm` behind them.
//! Many designs give the same stages; any of them is the same network.

use crate::models::limits::{MAX_DEPTH, MAX_WIDTH};
use crate::models::regnet::{RegNetConfig, RegNetStage};
use crate::models::{Config, ModelConfig, catalogue};

/// `config` with a design that gives these stages: of a model in the catalogue, else the first that a search finds.
///
/// # Errors
/// Stages that no design gives, as far as the search goes.
pub(super) fn with_design(config: RegNetConfig, stages: &[RegNetStage]) -> Result<RegNetConfig, String> {
    let is_good = |stage: &RegNetStage| {
        [stage.width, stage.inner].iter().all(|width| (1..=MAX_WIDTH).contains(width)) && stage.depth > 0
    };
    let depth = stages.iter().fold(0, |sum: usize, stage| sum.saturating_add(stage.depth));
    let is_searched = stages.len() == 4
        && stages.iter().all(is_good)
        && depth <= MAX_DEPTH
        && (1..=MAX_WIDTH).contains(&config.group_size);
    let found = is_searched.then(|| of_catalogue(&config, stages).or_else(|| search(&config, stages, depth)));
    found.flatten().ok_or_else(|| {
        let list = |of: fn(&RegNetStage) -> usize| {
            stages.iter().take(8).map(|stage| of(stage).to_string()).collect::<Vec<_>>().join(", ")
        };
        let (widths, depths) = (list(|stage| stage.width), list(|stage| stage.depth));
        let groups = config.group_size;
        format!("no RegNet has stages of {widths} channels with {depths} blocks and groups of {groups}")
    })
}

/// The design of a model in the catalogue.
fn of_catalogue(config: &RegNetConfig, stages: &[RegNetStage]) -> Option<RegNetConfig> {
    let named = catalogue::names().filter_map(|name| ModelConfig::named(name).ok()?.try_into().ok());
    let with = |named: RegNetConfig| RegNetConfig {
        depth: named.depth,
        w0: named.w0,
        wa: named.wa,
        wm: named.wm,
        group_size: named.group_size,
        bottle_ratio: named.bottle_ratio,
        group_min_ratio: named.group_min_ratio,
        ..config.clone()
    };
    named.map(with).find(|config| config.design() == stages)
}

/// Tries first widths and steps, and solves for the slope.
fn search(config: &RegNetConfig, stages: &[RegNetStage], depth: usize) -> Option<RegNetConfig> {
    /// Most first widths that are tried.
    const MOST: usize = 160;
    let [first, .., last] = stages else { return None };
    for group_min_ratio in [0.0, 0.9] {
        let base = RegNetConfig { depth, group_min_ratio, ..config.clone() };
        let reach = reach(&base);
        let from = first.width.saturating_sub(reach).div_ceil(8).max(1);
        let mut firsts: Vec<usize> = (from..=(first.width + reach) / 8).map(|n| 8 * n).collect();
        firsts.sort_by_key(|&w0| w0.abs_diff(first.width));
        firsts.retain(|&w0| base.stage(w0, first.depth) == *first);
        firsts.truncate(MOST);
        // Round steps first: 2.5 before 2.49.
        for (scale, skipped) in [(10, 0), (100, 10)] {
            for &w0 in &firsts {
                let most = (last.width + reach).div_ceil(w0).clamp(2, 16);
                let is_new = |step: &usize| skipped == 0 || !step.is_multiple_of(skipped);
                for step in (scale + 1..=scale * most).filter(is_new) {
                    let base = RegNetConfig { w0, wm: step as f64 / scale as f64, ..base.clone() };
                    let found = slopes(&base, stages).into_iter().find_map(|[least, most]| {
                        let config = RegNetConfig { wa: roundest(least, most)?, ..base.clone() };
                        (config.design() == stages && config.validate().is_ok()).then_some(config)
                    });
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
    }
    None
}

/// The largest difference between the width of a stage and the rounded one: a group.
fn reach(config: &RegNetConfig) -> usize {
    ((config.group_size as f64 / config.bottle_ratio) as usize).min(MAX_WIDTH) + 8
}

/// A width that a design has, and the exponents of the step that round to it.
struct Rung {
    width: usize,
    exponents: [usize; 2],
}

/// The ranges of the slope in which `w0` and `wm` give these stages.
fn slopes(config: &RegNetConfig, stages: &[RegNetStage]) -> Vec<[f64; 2]> {
    /// Most choices that are followed.
    const MOST: usize = 100;
    let (w0, wm) = (config.w0 as f64, config.wm);
    let most = stages.iter().fold(0, |most, stage| most.max(stage.width)) + reach(config);
    let mut rungs: Vec<Rung> = Vec::new();
    for exponent in 0.. {
        let width = config.quantized(exponent as f32);
        if width > most {
            break;
        }
        match rungs.last_mut() {
            Some(rung) if rung.width == width => rung.exponents[1] = exponent,
            _ => rungs.push(Rung { width, exponents: [exponent; 2] }),
        }
    }
    // The exponent of block j is near log(1 + wa · j / w0) / log(wm).
    let slope = |exponent: f64, j: usize| (wm.powf(exponent) - 1.0) * w0 / j as f64;
    // Choices of a rung for each stage so far: the next rung, the next block, the range.
    let mut choices = vec![(0, 0, [0.0, f64::INFINITY])];
    for stage in stages {
        let fits = |(_, rung): &(usize, &Rung)| config.stage(rung.width, stage.depth) == *stage;
        let fitting: Vec<(usize, &Rung)> = rungs.iter().enumerate().filter(fits).collect();
        let mut next = Vec::new();
        for (from, block, [least, most]) in choices {
            // The first block is on the first rung.
            let to = if block == 0 { 1 } else { rungs.len() };
            for (index, rung) in fitting.iter().filter(|(index, _)| (from..to).contains(index)) {
                let [low, high] = rung.exponents.map(|exponent| exponent as f64);
                let end = block + stage.depth;
                let least = if block == 0 { least } else { least.max(slope(low - 0.5, block)) };
                let most = if end == 1 { most } else { most.min(slope(high + 0.5, end - 1)) };
                if least < most {
                    next.push((index + 1, end, [least, most]));
                }
            }
        }
        next.truncate(MOST);
        if next.is_empty() {
            return Vec::new();
        }
        choices = next;
    }
    choices.into_iter().map(|(_, _, range)| range).collect()
}

/// The number between two with the fewest decimals, near the middle.
fn roundest(least: f64, most: f64) -> Option<f64> {
    let middle = (least + most) / 2.0;
    let rounded = (0..=6).map(|decimals| {
        let scale = 10_f64.powi(decimals);
        (middle * scale).round() / scale
    });
    rounded.chain([middle]).find(|value| least < *value && *value < most)
}

/// The width inside blocks over that of their maps.
pub(super) fn bottle_ratio(stages: &[RegNetStage]) -> f64 {
    ratio(stages.iter().map(|stage| (stage.width, stage.inner))).unwrap_or(1.0)
}

/// The width of gates over that of their block's input, from pairs of both.
pub(super) fn se_ratio(gates: &[(usize, usize)]) -> f64 {
    let is_usual =
        |&(from, reduced): &(usize, usize)| (from as f64 / 4.0).round_ties_even() as usize == reduced;
    match gates {
        [] => 0.0,
        gates if gates.iter().all(is_usual) => 0.25,
        gates => ratio(gates.iter().copied()).unwrap_or(0.25),
    }
}

/// The ratio with the fewest decimals that rounds each first number to the second.
fn ratio(pairs: impl Iterator<Item = (usize, usize)>) -> Option<f64> {
    let range = pairs.fold([0.0_f64, f64::INFINITY], |[least, most], (whole, part)| {
        let (whole, part) = (whole as f64, part as f64);
        [least.max((part - 0.5) / whole), most.min((part + 0.5) / whole)]
    });
    roundest(range[0], range[1])
}
