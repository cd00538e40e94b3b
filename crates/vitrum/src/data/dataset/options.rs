//! How a dataset is read: its part, its classes.

use std::path::PathBuf;

use super::class_map::ClassMap;

/// Which part of a dataset is wanted.
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
    /// The split a folder of that name holds.
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

/// Which folder of `a/b/c/picture.jpg` names the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassFolder {
    /// The innermost, `c`, as timm.
    #[default]
    Innermost,
    /// The outermost below the root or split, `a`, as torchvision's `ImageFolder`.
    Outermost,
}

/// How to read a dataset.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// Class names and their numbers, for instance those the model was trained with. Without one, the class folders
    /// in natural order are numbered from 0. Pictures of other classes are skipped.
    pub class_map: Option<ClassMap>,
    /// Where the paths of a table begin; by default the table's own folder.
    pub image_dir: Option<PathBuf>,
    /// The part wanted, where there are several.
    pub split: Option<Split>,
    /// Which folder names the class.
    pub class_folder: ClassFolder,
    /// Side of the demo set's pictures in pixels; by default 224.
    pub demo_size: Option<u32>,
}
