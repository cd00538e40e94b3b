//! Rows from a library's names to timm's. The tables stand in each family's room ([`super::family`]).
//!
//! `{N}` in a row stands for the number of a block. A row that names a module also stands for its `.weight`
//! and `.bias`.

/// What happens to a tensor on its way to timm's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Nothing.
    Keep,
    /// Axes of length 1 in front until there are three: a token or a table without a batch axis.
    Rank3,
    /// `[in, out]` to `[out, in]`.
    Transpose,
    /// A convolution's `[height, width, in, out]` to `[out, in, height, width]`; `[height·width·in, out]` too.
    Kernel,
    /// A projection to heads, `[D, heads, dh]` to `[heads·dh, D]`.
    ToHeads,
    /// A projection from heads, `[heads, dh, D]` to `[D, heads·dh]`.
    FromHeads,
    /// To a vector.
    Flatten,
    /// A matrix of patches with their channels last, `[D, P·P·C]`, to a convolution's `[D, C, P, P]`; a vector `[P·P·C]`
    /// to the order of that kernel.
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

/// The name of an edit in a file of names.
pub(super) fn edit_name(edit: Edit) -> &'static str {
    let known = EDITS.iter().find(|(_, known)| *known == edit);
    known.map(|(name, _)| *name).expect("every edit has a name")
}

/// Name in the library, name in timm, and the edit between.
pub type Row = (&'static str, &'static str, Edit);

/// timm's name for `name`, and the edit, from the first row that fits.
pub fn lookup(table: &[Row], name: &str) -> Option<(String, Edit)> {
    table.iter().find_map(|&(from, to, edit)| Some((translate(from, to, name)?, edit)))
}

/// The library's name for timm's `name`, from the first row that fits.
pub fn lookup_back(table: &[Row], name: &str) -> Option<String> {
    table.iter().find_map(|&(to, from, _)| translate(from, to, name))
}

/// `name` under another pattern, if it fits the first one.
pub(super) fn translate(from: &str, to: &str, name: &str) -> Option<String> {
    let (number, rest) = match from.split_once("{N}") {
        None => ("", name.strip_prefix(from)?),
        Some((before, after)) => {
            let rest = name.strip_prefix(before)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, rest) = rest.split_at(digits);
            (Some(number).filter(|n| !n.is_empty())?, rest.strip_prefix(after)?)
        }
    };
    matches!(rest, "" | ".weight" | ".bias").then(|| to.replace("{N}", number) + rest)
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
        assert_eq!(lookup_back(&TABLE, "layers.3.attn.q.bias").as_deref(), Some("layer.3.query.bias"));
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
