//! Names of the 1000 classes of ImageNet-1k, for checkpoints whose card has none.

/// WordNet's synset and lemmas of each class, in the order every library numbers them (ILSVRC 2012,
/// sorted by synset). Names are WordNet's (© Princeton University, WordNet licence).
const TABLE: &str = include_str!("imagenet1k.txt");

/// The names, `tench, Tinca tinca` first.
pub fn names() -> Vec<String> {
    TABLE.lines().filter_map(|line| Some(line.split_once('\t')?.1.to_string())).collect()
}

/// The synsets, `n01440764` first: the folder names of ImageNet itself.
pub fn synsets() -> Vec<String> {
    TABLE.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_string())).collect()
}
