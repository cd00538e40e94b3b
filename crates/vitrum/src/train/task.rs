//! Tasks by name: the recipe's `task`.

use super::score::Measure;

/// What a run trains a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// One class per image.
    Classify,
}

impl Task {
    /// The scores of classification: mean cross entropy in nats, and percentages of images.
    pub const CLASSIFY: [Measure; 3] =
        [Measure::lower("loss"), Measure::higher("top1"), Measure::higher("top5")];

    /// Every task.
    pub const ALL: [Self; 1] = [Self::Classify];

    /// The name: a value of the recipe's `task`, and a folder below the recipe's `output`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
        }
    }

    /// The task of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }

    /// The scores of a validation.
    pub const fn measures(self) -> &'static [Measure] {
        match self {
            Self::Classify => &Self::CLASSIFY,
        }
    }
}
