//! Names of the 1000 classes of ImageNet-1k, for checkpoints without labels.

/// WordNet's synset and lemmas of each class, in the usual order (ILSVRC 2012, sorted by synset). Names are
/// WordNet's (© Princeton University, WordNet licence).
const TABLE: &str = include_str!("imagenet1k.txt");

/// The names, `tench, Tinca tinca` first.
pub fn names() -> Vec<String> {
    TABLE.lines().filter_map(|line| Some(line.split_once('\t')?.1.to_string())).collect()
}

/// The synsets, `n01440764` first: ImageNet's folder names.
pub fn synsets() -> Vec<String> {
    TABLE.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_string())).collect()
}
