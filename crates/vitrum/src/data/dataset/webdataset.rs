//! Labels of WebDataset samples: `000.jpg` and, with the same key, `000.cls`, `000.json` or `000.txt`.
//!
//! The key is the member's path up to the first dot of its base name, as in the webdataset library. The pass over
//! the headers reads the small companions, before or after their pictures, and keeps one number per picture.

mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

pub(super) use self::told::Kind;
use self::told::{Answer, Told};
use super::table::{Label, read};
use super::{ClassMap, DatasetError, DatasetOptions, DatasetProblem, MAX_CLASSES, Skipped};

/// Largest companion to read, in bytes.
pub(super) const MAX_COMPANION: u64 = 64 << 10;
/// With more pictures than this, mostly different texts are captions. With fewer, they are captions only if folders
/// could be the classes.
const MANY: usize = 1000;
const NONE: u32 = u32::MAX;
const BAD: u32 = u32::MAX - 1;

/// The part of a member's path that all members of a sample share.
pub(super) fn key(name: &str) -> &str {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    name[base..].find('.').map_or(name, |dot| &name[..base + dot])
}

/// The members of one key in a shard.
struct Draft {
    image: Option<usize>,
    told: [u32; Kind::COUNT],
}

impl Draft {
    const NEW: Self = Self { image: None, told: [NONE; Kind::COUNT] };
}

/// Collects the companions of all pictures, shard by shard.
#[derive(Default)]
pub(super) struct Companions {
    /// Distinct labels of companions.
    told: Vec<Told>,
    numbers: HashMap<Told, u32>,
    /// For each picture its index in `told`.
    images: Vec<u32>,
    drafts: HashMap<String, Draft>,
    /// The first companion of each kind that holds no class.
    bad: BTreeMap<Kind, DatasetError>,
    /// The first key with two pictures.
    twice: Option<DatasetError>,
    /// The first long text.
    caption: Option<String>,
    unread: Vec<String>,
    unread_count: usize,
}

impl Companions {
    /// Adds a picture, in reading order.
    pub(super) fn image(&mut self, shard: &Path, name: &str) {
        let draft = self.drafts.entry(key(name).into()).or_insert(Draft::NEW);
        if draft.image.is_some() && self.twice.is_none() {
            let problem = DatasetProblem::SeveralImages { key: key(name).into(), second: name.into() };
            self.twice = Some(problem.at(shard));
        }
        draft.image = Some(self.images.len());
        self.images.push(NONE);
    }

    /// Notes a companion that is too large to read.
    pub(super) fn leave_unread(&mut self, name: &str) {
        self.unread_count += 1;
        if self.unread.is_empty() {
            self.unread.push(name.into());
        }
    }

    /// Adds a companion with its content.
    ///
    /// # Errors
    /// [`DatasetProblem::TooLarge`] for too many classes.
    pub(super) fn companion(
        &mut self,
        shard: &Path,
        name: &str,
        kind: Kind,
        content: &[u8],
    ) -> Result<(), DatasetError> {
        let mut number = match told::parse(kind, content) {
            Answer::Told(told) => self.number(shard, told)?,
            Answer::Nothing => return Ok(()),
            Answer::Caption => {
                self.caption.get_or_insert_with(|| name.into());
                return Ok(());
            }
            Answer::Bad(reason) => self.refuse(shard, name, kind, reason),
        };
        let known = self.drafts.get(key(name)).map_or(NONE, |draft| draft.told[kind as usize]);
        if known != NONE && known != number {
            number = self.refuse(shard, name, kind, "the key has another label of this kind".into());
        }
        self.drafts.entry(key(name).into()).or_insert(Draft::NEW).told[kind as usize] = number;
        Ok(())
    }

    fn refuse(&mut self, shard: &Path, name: &str, kind: Kind, reason: String) -> u32 {
        let problem = DatasetProblem::Member { name: name.escape_debug().to_string(), reason };
        self.bad.entry(kind).or_insert_with(|| problem.at(shard));
        BAD
    }

    fn number(&mut self, shard: &Path, told: Told) -> Result<u32, DatasetError> {
        if let Some(&number) = self.numbers.get(&told) {
            return Ok(number);
        }
        if self.told.len() >= MAX_CLASSES {
            if told.kind == Kind::Txt {
                self.caption.get_or_insert(told.text);
                return Ok(NONE);
            }
            let (found, limit) = (self.told.len() as u64 + 1, MAX_CLASSES as u64);
            return Err(DatasetProblem::TooLarge { what: "labels".into(), found, limit }.at(shard));
        }
        let number = self.told.len() as u32;
        self.told.push(told.clone());
        self.numbers.insert(told, number);
        Ok(number)
    }

    /// Labels the shard's pictures. Keys do not carry over to the next shard.
    ///
    /// # Errors
    /// As [`companion`](Self::companion).
    pub(super) fn end_shard(&mut self, shard: &Path) -> Result<(), DatasetError> {
        for (_, draft) in std::mem::take(&mut self.drafts) {
            let Some(image) = draft.image else { continue };
            let Some(&best) = draft.told.iter().find(|&&number| number != NONE) else { continue };
            let json = draft.told[Kind::Json as usize];
            self.images[image] = self.with_name(shard, best, json)?;
        }
        Ok(())
    }

    /// Adds the name from the sample's JSON to a numeric label.
    fn with_name(&mut self, shard: &Path, best: u32, json: u32) -> Result<u32, DatasetError> {
        let (Some(told), Some(json)) = (self.told.get(best as usize), self.told.get(json as usize)) else {
            return Ok(best);
        };
        if told.name.is_some() || !told.is_number() {
            return Ok(best);
        }
        let name = json.name.clone().or_else(|| (!json.is_number()).then(|| json.text.clone()));
        let told = Told { name, ..told.clone() };
        self.number(shard, told)
    }

    /// The labels, if companions hold any. `folders` is the number of class folders.
    ///
    /// # Errors
    /// [`DatasetError`] for a label that is not a class, or a key with several pictures.
    pub(super) fn finish(
        mut self,
        options: &DatasetOptions,
        folders: usize,
        skipped: &mut Skipped,
    ) -> Result<Option<Labels>, DatasetError> {
        if let Some(first) = self.unread.first() {
            let count = self.unread_count;
            skipped.note(format!(
                "companions of more than {} KiB are not read: {count}, first {first}",
                MAX_COMPANION >> 10
            ));
        }
        self.drop_captions(folders, skipped);
        if let Some(error) = self.first_bad() {
            return Err(error);
        }
        let used: BTreeSet<u32> = self.images.iter().copied().filter(|&number| number != NONE).collect();
        if used.is_empty() {
            return Ok(None);
        }
        if let Some(error) = self.twice {
            return Err(error);
        }
        let used: Vec<(u32, Told)> =
            used.into_iter().map(|number| (number, self.told[number as usize].clone())).collect();
        Ok(Some(Labels::of(self.images, &used, options, skipped)))
    }

    fn first_bad(&mut self) -> Option<DatasetError> {
        if self.images.contains(&BAD) { self.bad.pop_first().map(|(_, error)| error) } else { None }
    }

    /// Treats the texts as captions if one is long or most are different.
    fn drop_captions(&mut self, folders: usize, skipped: &mut Skipped) {
        let is_text = |number: u32| self.told.get(number as usize).is_some_and(|told| told.kind == Kind::Txt);
        let texts: BTreeSet<u32> = self.images.iter().copied().filter(|&number| is_text(number)).collect();
        let differ = (self.images.len() > MANY || folders > 1) && texts.len() * 2 > self.images.len();
        let reason = match &self.caption {
            Some(first) => format!("{first} is too long for the name of a class"),
            None if differ => format!("{} differ among {} pictures", texts.len(), self.images.len()),
            None => return,
        };
        skipped.note(format!("`.txt` members are captions, not labels: {reason}"));
        self.images.iter_mut().filter(|number| texts.contains(number)).for_each(|number| *number = NONE);
    }
}

/// The label of every picture.
pub(super) struct Labels {
    /// The class names; empty if labels are numbers without names.
    pub names: Vec<String>,
    images: Vec<u32>,
    labels: HashMap<u32, Result<usize, String>>,
}

impl Labels {
    fn of(images: Vec<u32>, used: &[(u32, Told)], options: &DatasetOptions, skipped: &mut Skipped) -> Self {
        note_kinds(used, skipped);
        let has_name = used.iter().any(|(_, told)| !told.is_number());
        if has_name && used.iter().any(|(_, told)| told.is_number()) {
            skipped.note("labels are names and numbers; the numbers count as names");
        }
        let texts = || used.iter().map(|(_, told)| told.text.clone()).collect();
        let map = options.class_map.clone().or_else(|| has_name.then(|| ClassMap::sorted(texts())));
        let names = map.as_ref().map_or_else(|| names_of_numbers(used, skipped), |map| map.names().to_vec());
        let labels = used.iter().map(|(number, told)| (*number, label(told, map.as_ref()))).collect();
        Self { names, images, labels }
    }

    /// Number of pictures with a label.
    pub(super) fn count(&self) -> usize {
        self.images.iter().filter(|&&number| number != NONE).count()
    }

    /// The label of picture `index`: `None` if it has none, or why it has no class.
    pub(super) fn get(&self, index: usize) -> Option<&Result<usize, String>> {
        self.labels.get(self.images.get(index)?)
    }
}

/// If there is a class map, a name beside a number is looked up in it. A number that is not a name is the class
/// number.
fn label(told: &Told, map: Option<&ClassMap>) -> Result<usize, String> {
    let named = |text: &String| map.and_then(|map| map.get(text));
    if let Some(label) = told.name.as_ref().and_then(named).or_else(|| named(&told.text)) {
        return Ok(label);
    }
    match read(&told.text) {
        Label::Number(number) => Ok(number),
        _ => Err(format!("class `{}` is not in the class map", told.text)),
    }
}

fn note_kinds(used: &[(u32, Told)], skipped: &mut Skipped) {
    let kinds: BTreeSet<Kind> = used.iter().map(|(_, told)| told.kind).collect();
    let kinds: Vec<String> = kinds.into_iter().map(|kind| format!("`.{}`", kind.name())).collect();
    skipped.note(format!("labels from {} members", kinds.join(" and ")));
}

/// The names of the numbers, if every number from 0 on has exactly one.
fn names_of_numbers(used: &[(u32, Told)], skipped: &mut Skipped) -> Vec<String> {
    let mut names: BTreeMap<usize, &str> = BTreeMap::new();
    for (_, told) in used {
        let (Label::Number(number), Some(name)) = (read(&told.text), &told.name) else { continue };
        if *names.entry(number).or_insert(name) != name {
            skipped.note(format!("class {number} has several names; the classes are numbers"));
            return Vec::new();
        }
    }
    let complete = names.keys().copied().eq(0..names.len());
    let covers = |told: &Told| matches!(read(&told.text), Label::Number(n) if names.contains_key(&n));
    if complete && used.iter().all(|(_, told)| covers(told)) {
        return names.into_values().map(String::from).collect();
    }
    Vec::new()
}

/// The name of a member; with several shards, prefixed with the shard's name.
pub(super) fn member_name(shards: &[PathBuf], at: usize, member: &str) -> String {
    match shards.get(at).and_then(|shard| shard.file_name()).filter(|_| shards.len() > 1) {
        Some(shard) => format!("{}/{member}", shard.to_string_lossy()),
        None => member.into(),
    }
}
