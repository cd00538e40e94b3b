//! Rows from a library's names to timm's. Each family's module has its tables ([`super::family`]).
//!
//! `{N}` and `{M}` in a row are numbers of stages and blocks; `{N+1}` is one more than `{N}`, `{2N+1}` one more than twice
//! `{N}`. A letter that occurs twice is the same number. A row for a module also covers its `.weight`, its `.bias` and the
//! statistics of a batch norm.

use std::collections::BTreeSet;

/// How to convert a tensor to timm's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// No change.
    Keep,
    /// Prepends axes of length 1 up to rank 3, for a token or table without a batch axis.
    Rank3,
    /// `[in, out]` to `[out, in]`.
    Transpose,
    /// A convolution's `[height, width, in, out]` to `[out, in, height, width]`; `[P·P·3, out]` to `[out, 3, P, P]`.
    Kernel,
    /// A projection into heads, `[D, heads, dh]` to `[heads·dh, D]`.
    ToHeads,
    /// A projection out of heads, `[heads, dh, D]` to `[D, heads·dh]`.
    FromHeads,
    /// To a vector. Back, for a file to be written, `[C]` to `[1, 1, 1, C]`.
    Flatten,
    /// A patch projection with channels last, `[D, P·P·C]`, to a convolution's `[D, C, P, P]`. A vector `[P·P·C]` gets
    /// the order of that kernel.
    Pixels,
}

/// Edits by name.
pub(super) const EDITS: [(&str, Edit); 8] = [
    ("keep", Edit::Keep),
    ("rank3", Edit::Rank3),
    ("transpose", Edit::Transpose),
    ("kernel", Edit::Kernel),
    ("pixels", Edit::Pixels),
    ("to_heads", Edit::ToHeads),
    ("from_heads", Edit::FromHeads),
    ("flatten", Edit::Flatten),
];

/// The name of an edit in a key file.
pub(super) fn edit_name(edit: Edit) -> &'static str {
    let known = EDITS.iter().find(|(_, known)| *known == edit);
    known.map(|(name, _)| *name).expect("every edit has a name")
}

/// Name in the library, name in timm, and the edit between.
pub type Row = (&'static str, &'static str, Edit);

/// timm's name for `name`, and the edit, from the first row that matches.
pub fn lookup(table: &[Row], name: &str) -> Option<(String, Edit)> {
    table.iter().find_map(|&(from, to, edit)| Some((translate(from, to, name)?, edit)))
}

/// The library's name for timm's `name`, and the edit to undo, from the first row that matches.
pub fn lookup_back(table: &[Row], name: &str) -> Option<(String, Edit)> {
    table.iter().find_map(|&(to, from, edit)| Some((translate(from, to, name)?, edit)))
}

/// What may follow the name of a module.
const PARTS: [&str; 6] = ["", ".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked"];

/// Rewrites `name` from the pattern `from` to the pattern `to`; `None` if it does not match `from`.
pub(super) fn translate(from: &str, to: &str, name: &str) -> Option<String> {
    let (mut pattern, mut rest) = (from, name);
    let mut numbers: Vec<(&str, usize)> = Vec::new();
    while let Some((before, placeholder, after)) = placeholder(pattern) {
        rest = rest.strip_prefix(before)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, left) = rest.split_at(digits);
        let number = placeholder.read(number.parse().ok()?)?;
        if numbers.iter().any(|(letter, other)| *letter == placeholder.letter && *other != number) {
            return None;
        }
        numbers.push((placeholder.letter, number));
        (pattern, rest) = (after, left);
    }
    rest = rest.strip_prefix(pattern)?;
    if !PARTS.contains(&rest) {
        return None;
    }
    let (mut pattern, mut new) = (to, String::new());
    while let Some((before, placeholder, after)) = placeholder(pattern) {
        let (_, number) = numbers.iter().find(|(letter, _)| *letter == placeholder.letter)?;
        new += &format!("{before}{}", placeholder.write(*number)?);
        pattern = after;
    }
    Some(new + pattern + rest)
}

/// A number in a pattern: `{N}`, `{M}`, `{N+1}` for one more, `{2N+1}` for one more than twice the number.
struct Placeholder<'a> {
    times: usize,
    letter: &'a str,
    plus: usize,
}

impl Placeholder<'_> {
    /// The number that a name writes as `written`.
    fn read(&self, written: usize) -> Option<usize> {
        let rest = written.checked_sub(self.plus)?;
        (rest.checked_rem(self.times)? == 0).then(|| rest / self.times)
    }

    /// How a name writes `number`.
    fn write(&self, number: usize) -> Option<usize> {
        number.checked_mul(self.times)?.checked_add(self.plus)
    }
}

/// The first placeholder of a pattern, and what stands before and after it.
fn placeholder(pattern: &str) -> Option<(&str, Placeholder<'_>, &str)> {
    let (before, rest) = pattern.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    let (number, plus) = match inside.split_once('+') {
        Some((number, plus)) => (number, plus.parse().ok()?),
        None => (inside, 0),
    };
    let letter = number.trim_start_matches(|c: char| c.is_ascii_digit());
    let times = match &number[..number.len() - letter.len()] {
        "" => 1,
        times => times.parse().ok()?,
    };
    Some((before, Placeholder { times, letter, plus }, after))
}

/// The letters of a pattern's numbers; `None` if one of its braces is not a number.
pub(super) fn letters(mut pattern: &str) -> Option<BTreeSet<&str>> {
    let mut letters = BTreeSet::new();
    while let Some((before, number, after)) = placeholder(pattern) {
        let is_number = number.times > 0 && number.letter.len() == 1 && !before.contains('}');
        letters.insert(Some(number.letter).filter(|_| is_number)?);
        pattern = after;
    }
    (!pattern.contains(['{', '}'])).then_some(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Row; 2] =
        [("layer.{N}.query", "layers.{N}.attn.q", Edit::Keep), ("token", "cls_token", Edit::Rank3)];

    #[test]
    fn rows_stand_for_weight_and_bias_of_every_block() {
        assert_eq!(
            lookup(&TABLE, "layer.11.query.weight"),
            Some(("layers.11.attn.q.weight".into(), Edit::Keep))
        );
        assert_eq!(lookup(&TABLE, "token"), Some(("cls_token".into(), Edit::Rank3)));
        assert_eq!(
            lookup_back(&TABLE, "layers.3.attn.q.bias"),
            Some(("layer.3.query.bias".into(), Edit::Keep))
        );
    }

    #[test]
    fn rows_may_have_two_numbers_and_count_from_one() {
        let table = [("stages.{N}.layers.{M}.conv", "layer{N+1}.{M}.conv1", Edit::Keep)];
        let found = lookup(&table, "stages.0.layers.11.conv.running_mean");
        assert_eq!(found, Some(("layer1.11.conv1.running_mean".into(), Edit::Keep)));
        assert_eq!(
            lookup_back(&table, "layer3.2.conv1.weight"),
            Some(("stages.2.layers.2.conv.weight".into(), Edit::Keep))
        );
        assert_eq!(lookup_back(&table, "layer0.2.conv1.weight"), None);
    }

    #[test]
    fn rows_may_take_every_second_number() {
        let table = [
            ("features.{2N+1}.{M}.block", "stages.{N}.blocks.{M}.conv", Edit::Keep),
            ("features.{2N+2}.0", "stages.{N+1}.downsample", Edit::Keep),
        ];
        for (theirs, ours) in [
            ("features.1.4.block.bias", "stages.0.blocks.4.conv.bias"),
            ("features.7.0.block.bias", "stages.3.blocks.0.conv.bias"),
            ("features.2.0.weight", "stages.1.downsample.weight"),
            ("features.6.0.weight", "stages.3.downsample.weight"),
        ] {
            assert_eq!(lookup(&table, theirs), Some((ours.into(), Edit::Keep)));
            assert_eq!(lookup_back(&table, ours), Some((theirs.into(), Edit::Keep)));
        }
        assert_eq!(lookup(&table, "features.2.4.block.bias"), None);
        assert_eq!(lookup_back(&table, "stages.0.downsample.weight"), None);
        assert_eq!(lookup(&[("{0N}", "{N}", Edit::Keep)], "0"), None);
        assert_eq!(lookup(&[("{N}", "{99N}", Edit::Keep)], &usize::MAX.to_string()), None);
    }

    #[test]
    fn a_number_that_stands_twice_is_the_same() {
        let table = [("block{N}.block{N}-{M}.a", "s{N}.b{M+1}.a", Edit::Keep)];
        let found = lookup(&table, "block3.block3-10.a.weight");
        assert_eq!(found, Some(("s3.b11.a.weight".into(), Edit::Keep)));
        assert_eq!(lookup(&table, "block3.block2-10.a.weight"), None);
        assert_eq!(
            lookup_back(&table, "s3.b11.a.bias"),
            Some(("block3.block3-10.a.bias".into(), Edit::Keep))
        );
        assert_eq!(lookup_back(&table, "s3.b0.a.bias"), None);
    }

    #[test]
    fn near_misses_are_not_taken() {
        for name in
            ["layer..query.weight", "layer.1.query.scale", "xlayer.1.query.bias", "tokens", "layer.1.queryX"]
        {
            assert_eq!(lookup(&TABLE, name), None, "{name}");
        }
    }
}
