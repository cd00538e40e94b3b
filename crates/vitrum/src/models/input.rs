//! Checks of the tensors that enter a model.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use serde_json::json;

use super::Network;
use crate::layers::mask::Masks;

use super::{CannotError, Config, ConfigError, ImageInput, Inputs, Model, ModelConfig};

/// Inputs that a model does not take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Another number of channels.
    #[error("images have {found} channels, the model takes {expected}")]
    Channels {
        /// Channels of the images.
        found: usize,
        /// Channels of the model.
        expected: usize,
    },
    /// Another size than the model's.
    #[error(
        "images are {}x{}, the model takes {}x{}\n\
         hint: resize the images, load the model at their size, or use a function for images of any size",
        found[0], found[1], expected[0], expected[1]
    )]
    Size {
        /// Height and width of the images.
        found: [usize; 2],
        /// Height and width of the model's images.
        expected: [usize; 2],
    },
    /// A size that the model cannot take at all, such as an image smaller than a patch.
    #[error("images of {}x{}: {reason}", found[0], found[1])]
    Unfit {
        /// Height and width of the images.
        found: [usize; 2],
        /// Why the model cannot take them.
        reason: ConfigError,
    },
    /// Another float type than the model's weights.
    #[error("images are of type {}, the model's weights of type {}", found.name(), expected.name())]
    Type {
        /// Type of the images.
        found: DType,
        /// Type of the weights.
        expected: DType,
    },
    /// Masks that do not fit the images or the model.
    #[error("masks of {} images with {} patches, {reason}", found[0], found[1])]
    Masks {
        /// Images and patches of each that the masks are for.
        found: [usize; 2],
        /// Why the model cannot take them.
        reason: String,
    },
    /// Inputs of another kind, such as clips for a model of images.
    #[error("the inputs are {found}, the model takes {expected}")]
    Kind {
        /// Kind of the inputs.
        found: &'static str,
        /// Kind of the model's inputs.
        expected: &'static str,
    },
}

/// Why a model gives no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The family lacks the capability.
    #[error(transparent)]
    Cannot(#[from] CannotError),
    /// The inputs do not suit the model.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// Which sizes of images a function accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sizes {
    /// The model's own, as in timm without `dynamic_img_size`.
    #[default]
    Own,
    /// Any that the model can take. Positions are resized for each call.
    Any,
}

impl Model {
    /// The float type of the weights that are not prepared: `f32` or `f64`.
    pub fn dtype(&self) -> DType {
        struct First(Option<DType>);
        impl ModuleVisitor for First {
            fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
                // A matrix may be prepared; its value would have to be unpacked first.
                if self.0.is_none() && R != 2 {
                    self.0 = Some(param.val().dtype());
                }
            }
        }
        let mut first = First(None);
        self.visit(&mut first);
        first.0.unwrap_or(DType::F32)
    }

    /// Refuses images `[B, C, H, W]` that the model does not take. An empty batch is accepted.
    ///
    /// # Errors
    /// [`InputError`]: channels, size or type.
    pub fn check_images(&self, images: &Tensor<4>, sizes: Sizes) -> Result<(), InputError> {
        let config = self.config();
        let ImageInput { channels, size } = config.input().image();
        let [_, c, h, w] = images.dims();
        if c != channels {
            return Err(InputError::Channels { found: c, expected: channels });
        }
        check_size(&config, size, [h, w], sizes)?;
        let (found, expected) = (images.dtype(), self.dtype());
        if found != expected { Err(InputError::Type { found, expected }) } else { Ok(()) }
    }
}

impl Model {
    /// Refuses masks that do not fit the images, or leave images different numbers of patches if the model needs the same
    /// number.
    pub(crate) fn check_masks(&self, images: &Tensor<4>, masks: &Masks) -> Result<(), InputError> {
        let found = [masks.len(), masks.num_patches()];
        let refuse = |reason: String| Err(InputError::Masks { found, reason });
        let Some(model) = self.reconstruct() else {
            return refuse(format!("a {} takes no masks", self.family()));
        };
        let [rows, columns] = model.grid();
        let expected = [images.dims()[0], rows * columns];
        if found != expected {
            return refuse(format!("expected {} images with {}", expected[0], expected[1]));
        }
        match masks.num_seen() {
            Some(0) if model.masking().drops => refuse("no patch is left to see".into()),
            None if model.masking().drops => refuse("the images show different numbers of patches".into()),
            _ => Ok(()),
        }
    }
}

fn check_size(
    config: &ModelConfig,
    own: [usize; 2],
    found: [usize; 2],
    sizes: Sizes,
) -> Result<(), InputError> {
    match sizes {
        _ if found == own => Ok(()),
        Sizes::Own => Err(InputError::Size { found, expected: own }),
        Sizes::Any => {
            let sized = config.with("img_size", json!(found)).and_then(|config| config.validate());
            sized.map_err(|reason| InputError::Unfit { found, reason })
        }
    }
}

impl Inputs {
    /// What these are, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Images(_) => "images",
            Self::Clips(_) => "clips",
            Self::ImageText(..) => "images with texts",
            Self::Masked(..) => "masked images",
        }
    }
}
