//! How a dataset is read: its part, its classes.

use std::path::PathBuf;

use super::class_map::ClassMap;
use super::target::TargetKind;

/// A part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// `train`, `training`.
    Train,
    /// `val`, `valid`, `validation`, `eval`, `evaluation`.
    Val,
    /// `test`, `testing`.
    Test,
}

impl Split {
    /// The split of a folder with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "eval" | "evaluation" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// The folder of `a/b/c/picture.jpg` that names the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassFolder {
    /// The innermost, `c`, as in timm.
    #[default]
    Innermost,
    /// The outermost below the root or split, `a`, as in torchvision's `ImageFolder`.
    Outermost,
}

/// How to read a dataset.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// Class names and their numbers, for instance those of the model's training. Without a map, the class folders
    /// are numbered from 0 in natural order. Pictures of other classes are skipped.
    pub class_map: Option<ClassMap>,
    /// Base of a table's relative paths; by default the table's folder.
    pub image_dir: Option<PathBuf>,
    /// The wanted part, if there are several.
    pub split: Option<Split>,
    /// The folder that names the class.
    pub class_folder: ClassFolder,
    /// Side of the demo set's pictures in pixels; by default 224.
    pub demo_size: Option<u32>,
    /// The kind of the targets. Only tables have lists of classes and numbers; other kinds of datasets give one
    /// class per picture, whatever this says. With [`TargetKind::Nothing`] folders, tables and archives give every
    /// picture, whatever its folder or label.
    pub targets: TargetKind,
    /// The columns of a table that hold the targets, by their names in the header. Of lists of classes: one column of
    /// lists, or several columns of 0 and 1. Of numbers: the columns of numbers. Empty: columns of the usual names.
    /// Not used for one class.
    pub target_columns: Vec<String>,
}
