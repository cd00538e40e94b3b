//! The choice of a folder's file of weights, by one rule; other candidates are noted.

use std::path::{Path, PathBuf};

use super::sniff::{WEIGHTS, foreign_name};
use crate::checkpoint::LoadError;
use crate::data::dataset::natural_order;

/// Libraries' names for files of weights, in order of preference.
const PREFERRED: [&str; 10] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "mp_rank_00_model_states.pt",
];

/// Stems of training scripts' files, in order of preference: the best epoch before the last.
const STEMS: [&[&str]; 3] = [
    &[
        "model_best",
        "best",
        "best_model",
        "checkpoint_best",
        "best_checkpoint",
        "model-best",
        "checkpoint-best",
    ],
    &["last", "latest", "checkpoint_last", "model_last", "final", "model_final", "checkpoint_latest"],
    &["checkpoint", "model", "weights", "state_dict", "ckpt"],
];

/// Files beside weights: states of optimisers, schedulers, random numbers.
const BESIDE: [&str; 9] = [
    "optimizer",
    "scheduler",
    "rng_state",
    "training_args",
    "scaler",
    "random_states",
    "optim_states",
    "trainer_state",
    "consolidated.optim",
];

/// The file of weights in a folder.
///
/// Libraries' names come first (`model.safetensors`, `pytorch_model.bin`, their indices, …), then those of training
/// scripts: the best epoch (`model_best.pth.tar`, `best.pt`), the last one (`last.ckpt`), `checkpoint.pth`, the
/// highest of `checkpoint-N.pth.tar`. Otherwise the only file with the most preferred extension.
///
/// # Errors
/// [`LoadError::Folder`] if there is none or the choice is not clear; [`LoadError::Link`].
pub fn weights_in(folder: &Path) -> Result<PathBuf, LoadError> {
    choose(folder).map(|(file, _)| file)
}

/// As [`weights_in`], with the names of the other files of weights.
pub(super) fn choose(folder: &Path) -> Result<(PathBuf, Vec<String>), LoadError> {
    let names = names_in(folder)?;
    let weights: Vec<&String> = names.iter().filter(|name| is_candidate(name)).collect();
    // A link without a target counts: the error names it, and no other file replaces it.
    let is_there = |name: &&&str| folder.join(name).is_file() || folder.join(name).is_symlink();
    let preferred = PREFERRED.iter().find(is_there).map(ToString::to_string);
    let chosen = match preferred.or_else(|| of_training(&weights)) {
        Some(name) => name,
        None => only_one(folder, &weights, &names)?,
    };
    let is_standard = PREFERRED.contains(&chosen.as_str());
    let could_be_meant = |name: &str| {
        let is_known = PREFERRED.contains(&name) || stem_rank(name).is_some();
        name != chosen && !name.contains("-of-0") && !name.ends_with(".npy") && (is_known || !is_standard)
    };
    let others = weights.into_iter().filter(|name| could_be_meant(name)).cloned().collect();
    let file = folder.join(&chosen);
    super::check_link(&file)?;
    Ok((file, others))
}

fn names_in(folder: &Path) -> Result<Vec<String>, LoadError> {
    let entries = std::fs::read_dir(folder).map_err(|e| LoadError::io(folder, e))?;
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str().map(str::to_string);
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()).filter_map(name).collect();
    names.sort_by(|a, b| natural_order(a, b));
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

/// Stem and extension of a file of weights.
fn parts(name: &str) -> Option<(&str, usize)> {
    WEIGHTS.iter().enumerate().find_map(|(rank, ending)| Some((name.strip_suffix(ending)?, rank)))
}

fn is_candidate(name: &str) -> bool {
    parts(name).is_some() && !BESIDE.iter().any(|word| name.to_lowercase().contains(word))
}

/// Rank of a name among those of training scripts.
fn stem_rank(name: &str) -> Option<usize> {
    let (found, _) = parts(name)?;
    STEMS.iter().flat_map(|stems| stems.iter()).position(|stem| found.eq_ignore_ascii_case(stem))
}

/// The preferred file of a training script.
fn of_training(names: &[&String]) -> Option<String> {
    let rank = |name: &&&String| Some((stem_rank(name)?, parts(name)?.1));
    let best = names.iter().filter(|name| rank(name).is_some()).min_by_key(rank);
    best.map(|name| (*name).clone()).or_else(|| numbered(names))
}

/// The highest of files whose names differ only in a number at their end.
fn numbered(names: &[&String]) -> Option<String> {
    let number = |name: &&String| -> Option<(String, u64)> {
        let (stem, rank) = parts(name)?;
        let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (front, number) = stem.split_at(stem.len() - digits);
        let plain = front.ends_with(['-', '_', '=']) || front.chars().all(|c| c.is_ascii_alphabetic());
        (plain && !front.contains("-of-")).then_some(())?;
        Some((format!("{front}{rank}"), number.parse().ok()?))
    };
    let found: Vec<(String, u64)> = names.iter().map(number).collect::<Option<_>>()?;
    let first = &found.first()?.0;
    let same = found.len() > 1 && found.iter().all(|(front, _)| front == first);
    let highest = names.iter().zip(&found).max_by_key(|(_, (_, number))| *number)?;
    same.then(|| (*highest.0).clone())
}

/// The only file with the most preferred extension.
fn only_one(folder: &Path, weights: &[&String], names: &[String]) -> Result<String, LoadError> {
    let kind = weights.iter().filter_map(|name| parts(name)).map(|(_, rank)| rank).min();
    let of_kind: Vec<&str> = weights
        .iter()
        .filter(|name| parts(name).map(|(_, rank)| rank) == kind)
        .map(|name| name.as_str())
        .collect();
    match of_kind[..] {
        [one] => Ok(one.to_string()),
        [] => Err(LoadError::folder(folder, none_reason(folder, names))),
        [one, two] => {
            Err(LoadError::folder(folder, format!("several files could be meant: {one} and {two}")))
        }
        [..] => {
            let shown = of_kind[..of_kind.len().min(8)].join(", ");
            let more =
                if of_kind.len() > 8 { format!(" and {} more", of_kind.len() - 8) } else { String::new() };
            Err(LoadError::folder(folder, format!("several files could be meant: {shown}{more}")))
        }
    }
}

/// What the folder holds instead of weights.
fn none_reason(folder: &Path, names: &[String]) -> String {
    let foreign = names.iter().find_map(|name| Some((name, foreign_name(Path::new(name))?)));
    if let Some((name, (what, hint))) = foreign {
        return format!("no file of weights in this folder; {name} is {what} ({hint})");
    }
    let holds = |name: &&String| folder.join(name).is_dir() && weights_in(&folder.join(name)).is_ok();
    let below: Vec<&str> = names.iter().filter(holds).take(4).map(String::as_str).collect();
    match below.is_empty() {
        true => "no file of weights in this folder".into(),
        false => format!("no file of weights in this folder itself; there are some in {}", below.join(", ")),
    }
}
