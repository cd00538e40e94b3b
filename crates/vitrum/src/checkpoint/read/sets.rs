//! The choice among several sets of weights in a file, the same for every format.
//!
//! Training scripts keep several in one file: `student.*` and `teacher.*`, `state_dict.*` and `state_dict_ema.*`. A
//! patch projection marks each set; its prefix is the set's name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::checkpoint::LoadError;
use crate::checkpoint::error::shorten;
use crate::checkpoint::family::namings;
use crate::checkpoint::naming::Naming;
use crate::checkpoint::tensors::WeightSet;

/// Names and shapes of a file's tensors.
pub(super) type Shapes<'a> = BTreeMap<&'a str, &'a [usize]>;

/// Why tensors of other sets are left out.
pub(crate) const OTHER_SET: &str = "of other weights";

/// The tensors chosen from a file.
pub(super) struct Selection {
    /// The name in the file, and the name without the container prefix.
    pub names: Vec<(String, String)>,
    /// Tensors left out: name and reason.
    pub dropped: Vec<(String, String)>,
    /// All sets that the file holds.
    pub sets: Vec<WeightSet>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Keys that hold weights in files of libraries and scripts, in order of preference: timm's first.
const CONTAINERS: [&str; 24] = [
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_model",
    "params_ema",
    "average_model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "teacher",
    "base_encoder",
    "target_encoder",
    "encoder_q",
    "current_model_state",
    "momentum_encoder",
    "encoder_k",
    "student",
    "shadow",
];

/// Further prefixes of a model. They stay, for the dialect.
const PARTS: [&str; 9] =
    ["", "backbone", "encoder", "vit", "deit", "dinov2", "visual", "trunk", "image_encoder"];

/// Segments that wrappers insert anywhere in a name.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// Chooses a set, and finds a head beside it.
///
/// Order: averaged weights, a teacher's, plain ones, a student's. Among equals timm's order of containers decides,
/// then the shorter name.
///
/// # Errors
/// [`LoadError::Sets`] if `wanted` matches none or several, or if the choice is not clear.
pub(super) fn select(path: &Path, shapes: &Shapes, wanted: Option<&str>) -> Result<Selection, LoadError> {
    let plain: BTreeMap<String, &str> = shapes.keys().map(|name| (unwrapped(name), *name)).collect();
    if plain.len() != shapes.len() {
        return Err(LoadError::format(path, "checkpoint", "two names differ only in a wrapper's prefix"));
    }
    let found = sets_of(&plain);
    let names: Vec<String> = found.iter().map(|(prefix, _)| shown(prefix)).collect();
    let chosen = match wanted {
        Some(wanted) => wanted_set(path, &names, wanted)?,
        None => best_set(path, &names)?,
    };
    let Some(chosen) = chosen else { return Ok(without_sets(&plain)) };
    let (prefix, naming) = &found[chosen];
    let mut taken = Taken { prefix, naming, others: &found, plain: &plain, shapes };
    let [names_kept, mut dropped] = taken.split();
    let mut selection =
        Selection { names: names_kept, dropped: Vec::new(), sets: Vec::new(), notes: Vec::new() };
    if let Some((module, renamed)) = taken.head_beside(&selection.names) {
        let of_head = |name: &str| renamed.iter().any(|(file, _)| file == name);
        dropped.retain(|(name, _)| !of_head(name));
        selection.names.retain(|(name, _)| !of_head(name));
        selection.names.extend(renamed);
        let place = quoted(&shown(prefix));
        selection
            .notes
            .push(format!("{}: `{module}`, beside {place}, is taken for its head", path.display()));
    }
    selection.dropped = dropped;
    let count = |prefix: &str| plain.keys().filter(|name| name.starts_with(prefix)).count();
    selection.sets = found
        .iter()
        .enumerate()
        .map(|(at, (prefix, _))| WeightSet {
            name: shown(prefix),
            tensors: count(prefix),
            chosen: at == chosen,
        })
        .collect();
    if found.len() > 1 {
        let others: Vec<String> =
            names.iter().enumerate().filter(|(at, _)| *at != chosen).map(|(_, name)| quoted(name)).collect();
        let note = format!(
            "{}: weights of {} taken, not of {}",
            path.display(),
            quoted(&names[chosen]),
            others[..others.len().min(6)].join(", ")
        );
        selection.notes.insert(0, note);
    }
    Ok(selection)
}

/// A name without wrapper segments.
fn unwrapped(name: &str) -> String {
    let mut name = name.to_string();
    for wrapper in WRAPPERS {
        while let Some(at) = name.find(wrapper).filter(|&at| at == 0 || name[..at].ends_with('.')) {
            name.replace_range(at..at + wrapper.len(), "");
        }
    }
    name
}

fn shown(prefix: &str) -> String {
    prefix.trim_end_matches(['.', '/']).to_string()
}

fn quoted(name: &str) -> String {
    if name.is_empty() { "the file's top level".into() } else { format!("`{}`", shorten(name)) }
}

/// The prefixes of the models in a file, with their namings.
///
/// A naming counts only where the file has all its telltales: the text half of a CLIP has a `positional_embedding` too.
fn sets_of(names: &BTreeMap<String, &str>) -> Vec<(String, &'static Naming)> {
    let mut found: BTreeMap<String, &'static Naming> = BTreeMap::new();
    for name in names.keys() {
        for (_, naming) in namings() {
            let Some(prefix) = naming.prefix(name, |name| names.contains_key(name)) else { continue };
            let best = found.entry(prefix.to_string()).or_insert(naming);
            if naming.rank() > best.rank() {
                *best = naming;
            }
        }
    }
    let prefixes: BTreeSet<String> = found.keys().cloned().collect();
    let is_inside = |prefix: &str| {
        let mut inside = namings().flat_map(|(_, naming)| naming.inside);
        inside.any(|end| prefix.strip_suffix(end).is_some_and(|outer| prefixes.contains(outer)))
    };
    found.retain(|prefix, _| !is_inside(prefix));
    // Other namings use a weak telltale too. If another naming matches, the weak one does not count.
    if found.values().any(|naming| !naming.is_weak) {
        found.retain(|_, naming| !naming.is_weak);
    }
    found.into_iter().collect()
}

/// The set that the user asks for: by its whole name, by its first words, or by one word of it.
fn wanted_set(path: &Path, names: &[String], wanted: &str) -> Result<Option<usize>, LoadError> {
    let wanted = wanted.trim_end_matches(['.', '/']);
    let matching = |test: &dyn Fn(&str) -> bool| -> Vec<usize> {
        (0..names.len()).filter(|&at| test(&names[at])).collect()
    };
    let begins = |name: &str| {
        name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
    };
    for test in [&(|name: &str| name == wanted) as &dyn Fn(&str) -> bool, &begins, &|name: &str| {
        name.split(['.', '/']).any(|word| word == wanted)
    }] {
        match matching(test)[..] {
            [] => {}
            [one] => return Ok(Some(one)),
            _ => {
                return Err(sets_error(
                    path,
                    names,
                    &format!("`{}` is the beginning of several", shorten(wanted)),
                ));
            }
        }
    }
    Err(sets_error(path, names, &format!("no set of weights is named `{}`", shorten(wanted))))
}

fn sets_error(path: &Path, names: &[String], reason: &str) -> LoadError {
    let list: Vec<String> = names.iter().take(12).map(|name| quoted(name)).collect();
    LoadError::Sets { path: path.to_path_buf(), reason: reason.to_string(), sets: list.join(", ") }
}

/// The default set; `None` if there are no sets.
fn best_set(path: &Path, names: &[String]) -> Result<Option<usize>, LoadError> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&at| {
        let name = &names[at];
        let words = name.split(['.', '/']).count();
        (rank(name), container(name), words, name.clone())
    });
    if let [first, second, ..] = order[..]
        && rank(&names[first]) == rank(&names[second])
        && is_unknown(&names[first], &names[second])
    {
        return Err(sets_error(path, names, "several sets of weights could be meant"));
    }
    Ok(order.first().copied())
}

/// Averaged weights, a teacher, plain weights, a student.
fn rank(name: &str) -> u8 {
    let name = name.to_lowercase();
    let mut words = name.split(['.', '/', '_', '-']);
    let has = |list: &[&str]| name.split(['.', '/', '_', '-']).any(|word| list.contains(&word));
    let is_ema = |word: &str| word.starts_with("ema") && !word.starts_with("emb");
    if words.any(is_ema) || has(&["swa", "average", "averaged", "avg", "shadow", "polyak"]) {
        0
    } else if has(&["teacher", "target"]) {
        1
    } else if has(&["student", "momentum", "current", "k"]) {
        3
    } else {
        2
    }
}

/// The place of a name's first known word in the order of containers.
fn container(name: &str) -> usize {
    let place = |word: &str| CONTAINERS.iter().position(|known| *known == word);
    match name.is_empty() {
        true => CONTAINERS.len(),
        false => name.split('.').find_map(place).unwrap_or(CONTAINERS.len() + 1),
    }
}

/// Whether two sets differ only in words without a known rank.
fn is_unknown(a: &str, b: &str) -> bool {
    let known = |word: &str| CONTAINERS.contains(&word) || PARTS.contains(&word);
    let (mut a, mut b) = (a.split(['.', '/']), b.split(['.', '/']));
    loop {
        match (a.next(), b.next()) {
            (Some(x), Some(y)) if x == y => {}
            (Some(x), Some(y)) => return !known(x) && !known(y),
            _ => return false,
        }
    }
}

/// Selects everything if nothing looks like a known model: other models, and single tensors.
fn without_sets(plain: &BTreeMap<String, &str>) -> Selection {
    let (mut names, mut dropped) = (Vec::new(), Vec::new());
    const USUAL: [&str; 6] =
        ["state_dict_ema.", "model_ema.", "state_dict.", "model_state_dict.", "model_state.", "model."];
    let is_used = |container: &&&str| plain.keys().any(|name| name.starts_with(**container));
    let container = USUAL.iter().find(is_used).copied().unwrap_or_default();
    for (name, file) in plain {
        match name.strip_prefix(container) {
            Some(inner) => names.push((file.to_string(), inner.to_string())),
            None => dropped.push((file.to_string(), outside(container))),
        }
    }
    Selection { names, dropped, sets: Vec::new(), notes: Vec::new() }
}

fn outside(container: &str) -> String {
    format!("not among the weights in `{}`", shown(container))
}

/// The chosen set within its file.
struct Taken<'a> {
    prefix: &'a str,
    naming: &'a Naming,
    others: &'a [(String, &'static Naming)],
    plain: &'a BTreeMap<String, &'a str>,
    shapes: &'a Shapes<'a>,
}

/// Names of a head beside a backbone.
const HEADS: [&str; 12] = [
    "head",
    "classifier",
    "fc",
    "linear",
    "heads.head",
    "cls_head",
    "linear_head",
    "classification_head",
    "linear_classifier",
    "head.fc",
    "mlp_head",
    "out",
];

impl Taken<'_> {
    /// The container part of the prefix; it is removed.
    fn container(&self) -> &str {
        let mut end = 0;
        while let Some(length) = self.prefix[end..].find('.') {
            let word = &self.prefix[end..end + length];
            if !CONTAINERS.contains(&word) && rank(word) == 2 {
                break;
            }
            end += length + 1;
        }
        &self.prefix[..end]
    }

    /// The names taken, without the container, and those left out.
    fn split(&self) -> [Vec<(String, String)>; 2] {
        let container = self.container();
        let (mut names, mut dropped) = (Vec::new(), Vec::new());
        for (name, file) in self.plain {
            match (self.other_set(name), name.strip_prefix(container)) {
                (Some(other), _) => {
                    dropped.push((file.to_string(), format!("{OTHER_SET}, `{}`", shown(other))))
                }
                (None, Some(inner)) => names.push((file.to_string(), inner.to_string())),
                (None, None) => dropped.push((file.to_string(), outside(container))),
            }
        }
        [names, dropped]
    }

    /// The other set of a tensor: the one with the longest matching prefix.
    fn other_set(&self, name: &str) -> Option<&str> {
        let under = |prefix: &&str| name.starts_with(*prefix);
        let all = self.others.iter().map(|(prefix, _)| prefix.as_str());
        let longest = all.filter(under).max_by_key(|prefix| prefix.len())?;
        (longest != self.prefix && !longest.is_empty()).then_some(longest)
    }

    /// A linear layer beside the set that fits as its head, if the set has none: its name, and its tensors with
    /// their new names.
    fn head_beside(&mut self, kept: &[(String, String)]) -> Option<(String, Vec<(String, String)>)> {
        let inner = &self.prefix[self.container().len()..];
        let heads = self.naming.heads;
        let at = if self.naming.beside.is_empty() { inner } else { "" };
        let target = format!("{at}{}", heads.first()?);
        let is_own = |name: &str| {
            let inside = |name: &str| heads.iter().any(|head| name.starts_with(&format!("{head}.")));
            name.strip_prefix(inner).is_some_and(inside) || (!self.naming.beside.is_empty() && inside(name))
        };
        if self.prefix.ends_with("visual.trunk.") || kept.iter().any(|(_, name)| is_own(name)) {
            return None;
        }
        let places: BTreeSet<String> =
            self.ancestors().into_iter().flat_map(|at| self.linear_layers(&at)).collect();
        let [place] = &places.into_iter().collect::<Vec<_>>()[..] else { return None };
        let tensors = ["weight", "bias"].iter().filter_map(|part| {
            let file = self.plain.get(&format!("{place}.{part}"))?;
            Some((file.to_string(), format!("{target}.{part}")))
        });
        Some((place.clone(), tensors.collect()))
    }

    /// The set's prefix, shorter by a word each time.
    fn ancestors(&self) -> Vec<String> {
        let words: Vec<&str> = self.prefix.split_inclusive('.').collect();
        (0..words.len().max(1)).map(|n| words[..n].concat()).collect()
    }

    /// Layers under `at` that may be the set's head: `[K, D]`, and at most a bias `[K]`.
    fn linear_layers(&self, at: &str) -> Vec<String> {
        let digits = (0..10).map(|n| n.to_string());
        let words = HEADS.iter().map(ToString::to_string).chain(digits);
        words.map(|word| format!("{at}{word}")).filter(|module| self.is_head(module)).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.plain.get(name).and_then(|file| self.shapes.get(file)).copied()
    }

    /// Width of the vector before the classifier.
    fn width(&self) -> Option<usize> {
        let shape_at = |name: &str, stage: usize| {
            self.shape(&format!("{}{}", self.prefix, name.replace("{N}", &stage.to_string())))
        };
        let last = |name: &&str| (0..10).rev().find_map(|stage| shape_at(name, stage));
        self.naming.widths().iter().find_map(last)?.first().copied()
    }

    fn is_head(&self, module: &str) -> bool {
        let width = self.width();
        let inside = format!("{module}.");
        if self.prefix.starts_with(&inside) {
            return false;
        }
        let tensors =
            self.plain.range(inside.clone()..).take_while(|(name, _)| name.starts_with(&inside)).count();
        match (self.shape(&format!("{module}.weight")), self.shape(&format!("{module}.bias"))) {
            (Some(&[classes, columns]), None) => tensors == 1 && classes > 0 && Some(columns) == width,
            (Some(&[classes, columns]), Some(&[bias])) => {
                tensors == 2 && classes > 0 && bias == classes && Some(columns) == width
            }
            _ => false,
        }
    }
}
