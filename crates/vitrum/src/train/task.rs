//! Tasks by name: the recipe's `task`.

use super::score::Measure;
use crate::checkpoint::card::ProblemType;
use crate::data::dataset::TargetKind;

/// What a run trains a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// One class per image.
    Classify,
    /// Any number of classes per image: a yes or no for each class.
    Multilabel,
    /// Numbers: one for each output of the model.
    Regress,
    /// Masked patches, from images alone.
    Pretrain,
}

impl Task {
    /// The scores of classification: mean cross entropy in nats, and percentages of images.
    pub const CLASSIFY: [Measure; 3] =
        [Measure::lower("loss"), Measure::higher("top1"), Measure::higher("top5")];

    /// The scores of several classes per image: mean binary cross entropy in nats; from 0 to 1, mean average precision,
    /// F1 of all decisions, and the share of images with every class right.
    pub const MULTILABEL: [Measure; 4] =
        [Measure::lower("loss"), Measure::higher("map"), Measure::higher("f1"), Measure::higher("exact")];

    /// The scores of numbers: the loss, mean absolute error, root of the mean squared error, coefficient of
    /// determination.
    pub const REGRESS: [Measure; 4] =
        [Measure::lower("loss"), Measure::lower("mae"), Measure::lower("rmse"), Measure::higher("r2")];

    /// The score of pretraining: the mean loss of the masked patches.
    pub const PRETRAIN: [Measure; 1] = [Measure::lower("loss")];

    /// Every task.
    pub const ALL: [Self; 4] = [Self::Classify, Self::Multilabel, Self::Regress, Self::Pretrain];

    /// The name: a value of the recipe's `task`, and a folder below the recipe's `output`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Multilabel => "multilabel",
            Self::Regress => "regress",
            Self::Pretrain => "pretrain",
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
            Self::Multilabel => &Self::MULTILABEL,
            Self::Regress => &Self::REGRESS,
            Self::Pretrain => &Self::PRETRAIN,
        }
    }

    /// The score that chooses the best checkpoint unless the recipe names another: the first besides the loss, which
    /// is `top1`, `map` or `mae`; of pretraining, the loss.
    pub const fn metric(self) -> Measure {
        match self {
            Self::Pretrain => self.measures()[0],
            _ => self.measures()[1],
        }
    }

    /// The kind of the targets.
    pub const fn targets(self) -> TargetKind {
        match self {
            Self::Classify => TargetKind::Class,
            Self::Multilabel => TargetKind::Classes,
            Self::Regress => TargetKind::Values,
            Self::Pretrain => TargetKind::Nothing,
        }
    }

    /// What the card of a trained model says about its outputs.
    pub const fn problem(self) -> ProblemType {
        match self {
            Self::Classify | Self::Pretrain => ProblemType::SingleLabel,
            Self::Multilabel => ProblemType::MultiLabel,
            Self::Regress => ProblemType::Regression,
        }
    }

    /// The task of models with this kind of outputs.
    pub const fn of_problem(problem: ProblemType) -> Self {
        match problem {
            ProblemType::SingleLabel => Self::Classify,
            ProblemType::MultiLabel => Self::Multilabel,
            ProblemType::Regression => Self::Regress,
        }
    }
}
