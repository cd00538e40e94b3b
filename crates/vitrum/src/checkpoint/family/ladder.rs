//! Files of the ladder's networks. No other library has them.

use serde_json::{Map, Value};

use super::maps::{Shapes, counts};
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::LoadError;
use crate::checkpoint::naming::{Converted, Dialect};
use crate::models::ladder::{LadderConfig, LadderStep};

impl Files for LadderConfig {
    const NAMINGS: &'static [Naming] = &[Naming {
        heads: &["head.fc"],
        widths: &["stages.3.blocks.0.c.conv.weight"],
        left_out: counts,
        ..Naming::new(
            Dialect::Timm,
            &["stages.0.blocks.0.a.conv.weight", "stages.0.blocks.0.c.conv.weight", "stem.conv.weight"],
        )
    }];
    const TIMM_TAKES_SIZE: bool = false;

    fn first_conv(&self) -> String {
        "stem.conv".into()
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let [width, channels, stem, _] = shapes.get::<4>("stem.conv.weight")?;
        // The second block shows the usual shapes of its stage.
        let [_, _, first, _] = shapes.get::<4>("stages.0.blocks.1.a.conv.weight")?;
        let [inside, inputs, ..] = shapes.get::<4>("stages.0.blocks.1.b.conv.weight")?;
        let [outside, ..] = shapes.get::<4>("stages.0.blocks.1.c.conv.weight")?;
        let has = |key: &str| file.map.contains(key);
        let mut notes = vec!["activation and epsilons are those of the step".to_string()];
        let step = if first == 1 {
            let is_wide = width % 3 == 0;
            match (stem, inputs, inside > outside) {
                (7, ..) if has("stages.1.blocks.3.a.conv.weight") => LadderStep::Resnet50,
                (7, ..) => LadderStep::StageRatio,
                (_, _, true) => LadderStep::InvertedBottleneck,
                (_, 1, _) if is_wide => LadderStep::Width,
                (_, 1, _) => LadderStep::Depthwise,
                _ => LadderStep::Patchify,
            }
        } else if has("stages.0.blocks.0.gamma") {
            LadderStep::Downsample
        } else if !has("stem.norm.running_mean") {
            LadderStep::LayerNorm
        } else if !has("stages.0.blocks.0.b.norm.weight") {
            LadderStep::FewerNorms
        } else {
            match first {
                5 => LadderStep::Kernel5,
                7 => {
                    notes.push(
                        "kernel7, gelu and fewer_activations have the same tensors; step=kernel7".into(),
                    );
                    LadderStep::Kernel7
                }
                9 => LadderStep::Kernel9,
                11 => LadderStep::Kernel11,
                _ => LadderStep::MoveUp,
            }
        };
        let config = Self {
            in_chans: channels,
            num_classes: file.map.rows("head.fc.weight").unwrap_or(0),
            width: if step >= LadderStep::Width { width * 2 / 3 } else { width },
            step,
            ..Self::default()
        };
        Ok(Inferred { config, notes })
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_args(&self, _base: &Self, _args: &mut Map<String, Value>) -> Result<(), String> {
        Err("timm does not have the steps of the ladder".into())
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        Err("transformers does not have the steps of the ladder".into())
    }
}
