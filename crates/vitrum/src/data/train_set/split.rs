//! The training and the validation pictures of a run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngCore;

use super::{Cache, Subset, TrainDataError, TrainSet, TrainSetOptions};
use crate::data::dataset::{ClassMap, DatasetOptions, Entry, Skipped, Split, Target, TargetKind, splits_of};
use crate::data::decode::DecodeOptions;
use crate::data::random::{DataRng, split_rng};

/// The training and validation pictures. Fields are those of a recipe.
#[derive(Debug, Clone)]
pub struct TrainDataOptions {
    /// Training images, as for [`open_dataset`](crate::data::open_dataset).
    pub data: PathBuf,
    /// Validation images, if they are elsewhere.
    pub val_data: Option<PathBuf>,
    /// Name of the part to train on, if there are several.
    pub train_split: String,
    /// Name of the part to validate on. Falls back to `test` (or `validation`) if absent.
    pub val_split: String,
    /// Share of the training images set aside for validation if there is no validation part, per class if images
    /// have one class. 0: none.
    pub val_fraction: f64,
    /// Share of the training images used, per class if images have one class.
    pub fraction: f64,
    /// Class names and their numbers; by default those of the training images in natural order.
    pub class_map: Option<ClassMap>,
    /// Whether classes may have no training image: gaps in class numbers.
    pub allow_empty_classes: bool,
    /// Base of a table's relative paths.
    pub image_dir: Option<PathBuf>,
    /// The kind of the targets.
    pub targets: TargetKind,
    /// The columns of a table that hold the targets; see [`DatasetOptions::target_columns`].
    pub target_columns: Vec<String>,
    /// Seed of the split.
    pub seed: u64,
    /// Side of the demo set's pictures in pixels.
    pub demo_size: u32,
    /// Limits and orientation.
    pub decode: DecodeOptions,
    /// Whether decoded images stay in memory.
    pub cache: Cache,
    /// Number of encoded pictures of a stream in the shuffle buffer.
    pub shuffle_buffer: usize,
    /// Also read plain archives as streams.
    pub sequential: bool,
}

impl TrainDataOptions {
    /// A recipe's defaults for `data`; demo pictures are 224 pixels wide.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            val_data: None,
            train_split: "train".into(),
            val_split: "validation".into(),
            val_fraction: 0.1,
            fraction: 1.0,
            class_map: None,
            allow_empty_classes: false,
            image_dir: None,
            targets: TargetKind::Class,
            target_columns: Vec::new(),
            seed: 42,
            demo_size: 224,
            decode: DecodeOptions::timm(),
            cache: Cache::Auto,
            shuffle_buffer: 2048,
            sequential: false,
        }
    }

    fn check(&self) -> Result<[Split; 2], TrainDataError> {
        let wrong = |field, found: String, expected| Err(TrainDataError::Option { field, found, expected });
        if !(0.0..1.0).contains(&self.val_fraction) {
            return wrong("val_fraction", self.val_fraction.to_string(), "a share of at least 0, below 1");
        }
        if !(self.fraction > 0.0 && self.fraction <= 1.0) {
            return wrong("fraction", self.fraction.to_string(), "a share above 0, at most 1");
        }
        let names = [("train_split", &self.train_split), ("val_split", &self.val_split)];
        let splits = names.map(|(_, name)| Split::of_name(name));
        for ((field, name), split) in names.iter().zip(splits) {
            if split.is_none() {
                return wrong(field, format!("`{name}`"), "train, validation or test");
            }
        }
        match splits {
            [Some(train), Some(val)] if train == val => {
                wrong("val_split", format!("`{}`", self.val_split), "another part than `train_split`")
            }
            [Some(train), Some(val)] => Ok([train, val]),
            _ => unreachable!("both were found above"),
        }
    }

    fn open(&self, path: &Path, split: Option<Split>) -> Result<TrainSet, TrainDataError> {
        let dataset = DatasetOptions {
            class_map: self.class_map.clone(),
            image_dir: self.image_dir.clone(),
            split,
            demo_size: Some(self.demo_size),
            targets: self.targets,
            target_columns: self.target_columns.clone(),
            ..DatasetOptions::default()
        };
        let options = TrainSetOptions {
            dataset,
            decode: self.decode.clone(),
            sequential: self.sequential,
            shuffle_buffer: self.shuffle_buffer,
        };
        let set = TrainSet::open(path, &options)?;
        Ok(if self.targets == TargetKind::Nothing { set.without_targets() } else { set })
    }
}

/// The training and validation pictures of a run; both have the same classes.
#[derive(Debug, Clone)]
pub struct TrainValSets {
    /// Training pictures.
    pub train: Subset,
    /// Validation pictures, none of them among the training pictures; may be empty.
    pub val: Subset,
    /// Class names, in the order of the labels; of numbers, the names of the values.
    pub classes: Vec<String>,
    /// Where the validation pictures come from, in words.
    pub how: String,
}

impl TrainValSets {
    /// Opens the training pictures, and the validation pictures: `val_data`, otherwise the dataset's own part,
    /// otherwise a share of every class. Where pictures have no single class, the share is one of all pictures.
    ///
    /// # Errors
    /// [`TrainDataError`] if data cannot be read, pictures have no label or one of another kind, there is only one
    /// class, or the validation pictures have classes or values that training lacks.
    pub fn open(options: &TrainDataOptions) -> Result<Self, TrainDataError> {
        let [train_split, val_split] = options.check()?;
        let parts = splits_of(&options.data)?;
        let mut train = options.open(&options.data, (!parts.is_empty()).then_some(train_split))?;
        check_labels(&train, options.targets)?;
        check_empty(&mut train, options.allow_empty_classes)?;
        let (path, part) = match &options.val_data {
            Some(path) => (path, choose(&splits_of(path)?, val_split)),
            None => (&options.data, choose(&parts, val_split).filter(|&part| part != train_split)),
        };
        let name = path.display();
        if options.val_data.is_none() && part.is_none() {
            return Self::split_off(train, options);
        }
        let mut val = options.open(path, part)?;
        match_targets(&mut val, &train, options.targets)?;
        let how = match part {
            Some(part) => format!("validation on the part `{}` of {name}", part.name()),
            None => format!("validation on all of {name}"),
        };
        Self::joined(train, val, how, options)
    }

    /// Sets of your own ([`TrainSet::from_source`]). Without `val`, a share of every class is set aside. Of the options,
    /// `targets`, `val_fraction`, `fraction`, `seed`, `cache` and `allow_empty_classes` count.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_sets(
        train: TrainSet,
        val: Option<TrainSet>,
        options: &TrainDataOptions,
    ) -> Result<Self, TrainDataError> {
        options.check()?;
        let bare = |set: TrainSet| {
            if options.targets == TargetKind::Nothing { set.without_targets() } else { set }
        };
        let (mut train, val) = (bare(train), val.map(bare));
        check_labels(&train, options.targets)?;
        check_empty(&mut train, options.allow_empty_classes)?;
        let Some(mut val) = val else { return Self::split_off(train, options) };
        match_targets(&mut val, &train, options.targets)?;
        let how = format!("validation on all of {}", val.path().display());
        Self::joined(train, val, how, options)
    }

    fn joined(
        train: TrainSet,
        val: TrainSet,
        how: String,
        options: &TrainDataOptions,
    ) -> Result<Self, TrainDataError> {
        let (kept, _) = stratified(&train, options.seed, 0.0, options.fraction);
        let train = train.with_cache(options.cache, kept.len())?;
        let count = val.len();
        let val = val.with_cache(options.cache, count)?;
        Ok(Self {
            classes: train.classes().to_vec(),
            train: Subset::new(Arc::new(train), kept),
            val: Subset::all(Arc::new(val)),
            how,
        })
    }

    fn split_off(set: TrainSet, options: &TrainDataOptions) -> Result<Self, TrainDataError> {
        let (train, val) = stratified(&set, options.seed, options.val_fraction, options.fraction);
        let how = if val.is_empty() {
            "no validation images".into()
        } else {
            let way = if options.targets == TargetKind::Class { "per class" } else { "at random" };
            format!(
                "validation on {} of {} images of {}, split off {way} with seed {}",
                val.len(),
                set.len(),
                set.path().display(),
                options.seed
            )
        };
        let set = Arc::new(set.with_cache(options.cache, train.len() + val.len())?);
        let classes = set.classes().to_vec();
        Ok(Self { train: Subset::new(Arc::clone(&set), train), val: Subset::new(set, val), classes, how })
    }

    /// Entries left out of both parts, and notes on how they were read.
    pub fn skipped(&self) -> Skipped {
        let mut all = self.train.set().skipped().clone();
        if !Arc::ptr_eq(self.train.set(), self.val.set()) {
            all.merge(self.val.set().skipped());
        }
        all
    }

    /// Choices made while reading either part, for the user.
    pub fn notes(&self) -> Vec<String> {
        self.skipped().notes
    }

    /// The fingerprints of both parts; see [`Subset::fingerprint`].
    pub fn fingerprints(&self) -> [String; 2] {
        [self.train.fingerprint(), self.val.fingerprint()]
    }
}

/// The requested part, otherwise the other one of validation and test.
fn choose(parts: &[Split], wanted: Split) -> Option<Split> {
    [wanted, Split::Val, Split::Test].into_iter().find(|part| parts.contains(part))
}

/// Checks the validation pictures' targets, and gives them the numbers of the training pictures'.
fn match_targets(val: &mut TrainSet, train: &TrainSet, kind: TargetKind) -> Result<(), TrainDataError> {
    check_kinds(val, kind)?;
    match kind {
        TargetKind::Values => match_values(val, train),
        _ => match_classes(val, &train.classes),
    }
}

fn check_labels(set: &TrainSet, kind: TargetKind) -> Result<(), TrainDataError> {
    check_kinds(set, kind)?;
    let found = used_classes(set);
    match (kind, found.first()) {
        (TargetKind::Class, Some(&only)) if found.len() == 1 => {
            let class = set.classes.get(only).cloned().unwrap_or_default();
            Err(TrainDataError::OneClass { path: set.path.clone(), class })
        }
        (TargetKind::Classes, None) => Err(TrainDataError::NoClasses { path: set.path.clone() }),
        (TargetKind::Values, _) => check_values(set),
        _ => Ok(()),
    }
}

/// Refuses pictures without a target, and with one of another kind.
fn check_kinds(set: &TrainSet, expected: TargetKind) -> Result<(), TrainDataError> {
    let entries = &set.indexed.entries;
    let mut without = entries.iter().filter(|entry| entry.target.is_none());
    if let Some(first) = without.next() {
        let (path, first) = (set.path.clone(), first.name.clone());
        let count = 1 + without.count();
        return Err(TrainDataError::NoLabels { path, count, total: set.len(), first });
    }
    let kind = |entry: &Entry| entry.target.as_ref().map_or(expected, Target::kind);
    match entries.iter().find(|entry| kind(entry) != expected) {
        Some(entry) => {
            let (path, first, found) = (set.path.clone(), entry.name.clone(), kind(entry));
            Err(TrainDataError::OtherTargets { path, first, found, expected })
        }
        None => Ok(()),
    }
}

/// Refuses pictures with different numbers of values.
fn check_values(set: &TrainSet) -> Result<(), TrainDataError> {
    let count = |entry: &Entry| entry.target.as_ref().map_or(0, Target::outputs);
    let entries = &set.indexed.entries;
    let expected = entries.first().map_or(0, count);
    match entries.iter().find(|entry| count(entry) != expected) {
        Some(entry) => {
            let (path, name, found) = (set.path.clone(), entry.name.clone(), count(entry));
            Err(TrainDataError::Values { path, name, found, expected })
        }
        None => Ok(()),
    }
}

/// The classes of the pictures.
fn used_classes(set: &TrainSet) -> BTreeSet<usize> {
    let targets = set.indexed.entries.iter().filter_map(|entry| entry.target.as_ref());
    targets.flat_map(Target::class_indexes).copied().collect()
}

/// Refuses gaps in class numbers, unless allowed. Class names without a picture are only noted.
fn check_empty(set: &mut TrainSet, allowed: bool) -> Result<(), TrainDataError> {
    if set.indexed.entries.iter().any(|entry| matches!(entry.target, Some(Target::Values(_)))) {
        return Ok(());
    }
    let used = used_classes(set);
    let empty: Vec<usize> = (0..set.classes.len()).filter(|class| !used.contains(class)).collect();
    if empty.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = empty.iter().map(|&class| set.classes[class].clone()).collect();
    let total = set.classes.len();
    // A class name shows that such a class exists.
    if set.indexed.classes.is_empty() && !allowed {
        return Err(TrainDataError::EmptyClasses { path: set.path.clone(), empty: names, total });
    }
    let note =
        format!("{} of {total} classes have no training image: {}", names.len(), super::listed(&names));
    set.indexed.skipped.note(note);
    Ok(())
}

/// Gives the pictures the labels of the classes with the same name in `classes`.
fn match_classes(set: &mut TrainSet, classes: &[String]) -> Result<(), TrainDataError> {
    // Numbers without names are the training images' numbers. If no image has a number, its name does not matter.
    let used = used_classes(set);
    let by_number = set.indexed.classes.is_empty();
    let map = ClassMap::from_names(classes.iter().cloned());
    let number_of = |label: usize| {
        if by_number {
            Some(label).filter(|&label| label < classes.len())
        } else {
            map.get(&set.classes[label])
        }
    };
    let unknown: Vec<String> = used
        .iter()
        .filter(|&&label| number_of(label).is_none())
        .map(|&label| set.classes[label].clone())
        .collect();
    if !unknown.is_empty() {
        return Err(TrainDataError::ValClasses { path: set.path.clone(), unknown, known: classes.to_vec() });
    }
    let numbers: Vec<Option<usize>> = (0..set.classes.len()).map(number_of).collect();
    for target in set.indexed.entries.iter_mut().filter_map(|entry| entry.target.as_mut()) {
        // Every class in use has a number.
        match target {
            Target::Class(label) => *label = numbers[*label].unwrap_or_default(),
            Target::Classes(labels) => {
                *target = Target::classes(labels.iter().filter_map(|&label| numbers[label]));
            }
            Target::Values(_) | Target::Nothing => {}
        }
    }
    set.classes = classes.to_vec();
    Ok(())
}

/// Gives the pictures the values in the order of the training pictures, by their names. Values without names keep
/// their order.
fn match_values(set: &mut TrainSet, train: &TrainSet) -> Result<(), TrainDataError> {
    check_values(set)?;
    let place = |name: &String| set.classes.iter().position(|found| found == name);
    let order: Option<Vec<usize>> = match set.indexed.classes.is_empty() || train.indexed.classes.is_empty() {
        true => Some((0..train.classes.len()).collect()),
        false => train.classes.iter().map(place).collect(),
    };
    let Some(order) = order.filter(|order| order.len() == set.classes.len()) else {
        let (path, found) = (set.path.clone(), set.classes.clone());
        return Err(TrainDataError::ValValues { path, found, expected: train.classes.clone() });
    };
    for entry in &mut set.indexed.entries {
        if let Some(Target::Values(values)) = &mut entry.target {
            *values = order.iter().map(|&at| values[at]).collect();
        }
    }
    set.classes.clone_from(&train.classes);
    Ok(())
}

/// Training and validation indexes, ascending. Each class is shuffled by the seed and its number of pictures; pictures
/// without a single class are shuffled together. The first are for validation: at least one and at most all but one, if the class has two. Of the rest, the first
/// `fraction` (at least one) is for training. A smaller fraction is a subset of a larger one.
fn stratified(set: &TrainSet, seed: u64, val_fraction: f64, fraction: f64) -> (Vec<u32>, Vec<u32>) {
    let mut classes = vec![Vec::new(); set.classes.len().max(1)];
    for (index, entry) in set.indexed.entries.iter().enumerate() {
        match &entry.target {
            Some(Target::Class(label)) => classes[*label].push(index as u32),
            Some(Target::Classes(_) | Target::Values(_) | Target::Nothing) => classes[0].push(index as u32),
            None => {}
        }
    }
    let mut rng = split_rng(seed);
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for mut indexes in classes.into_iter().filter(|indexes| !indexes.is_empty()) {
        shuffle(&mut indexes, &mut rng);
        let share = |count: usize, share: f64| (count as f64 * share).round() as usize;
        let aside = match indexes.len() {
            count if val_fraction > 0.0 && count > 1 => share(count, val_fraction).clamp(1, count - 1),
            _ => 0,
        };
        let rest = &indexes[aside..];
        val.extend(&indexes[..aside]);
        train.extend(&rest[..share(rest.len(), fraction).clamp(1, rest.len())]);
    }
    train.sort_unstable();
    val.sort_unstable();
    (train, val)
}

/// Fisher-Yates shuffle, written out so that orders do not depend on a library's version.
pub(crate) fn shuffle(items: &mut [u32], rng: &mut DataRng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last as u64 + 1, rng) as usize);
    }
}

/// A number below `bound`, all equally likely: draws beyond the last whole multiple are repeated.
pub(crate) fn below(bound: u64, rng: &mut DataRng) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = rng.next_u64();
        if drawn < limit {
            return drawn % bound;
        }
    }
}
