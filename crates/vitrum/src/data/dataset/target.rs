//! What an image is labelled with: a class, several classes, or numbers.

/// What one image is labelled with. JSON: a number, or a list of numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Target {
    /// Index of its one class.
    Class(usize),
    /// Indexes of its classes, ascending and each once; may be empty.
    Classes(Vec<usize>),
    /// Numbers, one per output of a model.
    Values(Vec<f32>),
    /// Nothing: the picture is all there is to learn from.
    Nothing,
}

/// The kind of a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetKind {
    /// One class per image.
    #[default]
    Class,
    /// Any number of classes per image.
    Classes,
    /// Numbers.
    Values,
    /// No labels are read.
    Nothing,
}

impl Target {
    /// Several classes, sorted, each once.
    pub fn classes(classes: impl IntoIterator<Item = usize>) -> Self {
        let mut classes: Vec<usize> = classes.into_iter().collect();
        classes.sort_unstable();
        classes.dedup();
        Self::Classes(classes)
    }

    /// Its kind.
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::Class(_) => TargetKind::Class,
            Self::Classes(_) => TargetKind::Classes,
            Self::Values(_) => TargetKind::Values,
            Self::Nothing => TargetKind::Nothing,
        }
    }

    /// The class of a target with one class.
    pub fn class(&self) -> Option<usize> {
        match self {
            Self::Class(class) => Some(*class),
            _ => None,
        }
    }

    /// Outputs that a model needs for it: one more than its largest class, or its number of values.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Class(class) => class.saturating_add(1),
            Self::Classes(classes) => classes.iter().max().map_or(0, |most| most.saturating_add(1)),
            Self::Values(values) => values.len(),
            Self::Nothing => 0,
        }
    }

    /// Its classes; none for numbers.
    pub fn class_indexes(&self) -> &[usize] {
        match self {
            Self::Class(class) => std::slice::from_ref(class),
            Self::Classes(classes) => classes,
            Self::Values(_) | Self::Nothing => &[],
        }
    }
}

impl From<usize> for Target {
    fn from(class: usize) -> Self {
        Self::Class(class)
    }
}

impl TargetKind {
    /// The kind in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Class => "one class",
            Self::Classes => "a list of classes",
            Self::Values => "numbers",
            Self::Nothing => "nothing",
        }
    }
}

impl std::fmt::Display for TargetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words())
    }
}
