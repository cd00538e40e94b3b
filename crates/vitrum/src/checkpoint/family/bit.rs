//! Files of BiT: timm, transformers, and Google's `.npz`.

use serde_json::{Map, Value, json};

use super::maps::{Shapes, refuse_args};
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::LoadError;
use crate::checkpoint::fields::{Fields, activation};
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::models::bit::{BitConfig, BitStem};
use crate::models::vit::Activation;

/// transformers' names.
const HUGGING_FACE: [Row; 11] = [
    ("embedder.convolution", "stem.conv", Edit::Keep),
    ("embedder.norm", "stem.norm", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.conv1", "stages.{N}.blocks.{M}.conv1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.conv2", "stages.{N}.blocks.{M}.conv2", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.conv3", "stages.{N}.blocks.{M}.conv3", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.norm1", "stages.{N}.blocks.{M}.norm1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.norm2", "stages.{N}.blocks.{M}.norm2", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.norm3", "stages.{N}.blocks.{M}.norm3", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.downsample.conv", "stages.{N}.blocks.{M}.downsample.conv", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.downsample.norm", "stages.{N}.blocks.{M}.downsample.norm", Edit::Keep),
    ("norm", "norm", Edit::Keep),
];

/// transformers' head, outside the base model.
const HEAD: [Row; 1] = [("classifier.1", "head.fc", Edit::Keep)];

/// Google's names. `a`, `b` and `c` are the three convolutions of a unit with their norms.
const GOOGLE: [Row; 15] = [
    ("root_block/standardized_conv2d/kernel", "stem.conv.weight", Edit::Kernel),
    ("block{N+1}/unit{M+1}/a/standardized_conv2d/kernel", "stages.{N}.blocks.{M}.conv1.weight", Edit::Kernel),
    ("block{N+1}/unit{M+1}/b/standardized_conv2d/kernel", "stages.{N}.blocks.{M}.conv2.weight", Edit::Kernel),
    ("block{N+1}/unit{M+1}/c/standardized_conv2d/kernel", "stages.{N}.blocks.{M}.conv3.weight", Edit::Kernel),
    (
        "block{N+1}/unit{M+1}/a/proj/standardized_conv2d/kernel",
        "stages.{N}.blocks.{M}.downsample.conv.weight",
        Edit::Kernel,
    ),
    ("block{N+1}/unit{M+1}/a/group_norm/gamma", "stages.{N}.blocks.{M}.norm1.weight", Edit::Flatten),
    ("block{N+1}/unit{M+1}/a/group_norm/beta", "stages.{N}.blocks.{M}.norm1.bias", Edit::Flatten),
    ("block{N+1}/unit{M+1}/b/group_norm/gamma", "stages.{N}.blocks.{M}.norm2.weight", Edit::Flatten),
    ("block{N+1}/unit{M+1}/b/group_norm/beta", "stages.{N}.blocks.{M}.norm2.bias", Edit::Flatten),
    ("block{N+1}/unit{M+1}/c/group_norm/gamma", "stages.{N}.blocks.{M}.norm3.weight", Edit::Flatten),
    ("block{N+1}/unit{M+1}/c/group_norm/beta", "stages.{N}.blocks.{M}.norm3.bias", Edit::Flatten),
    ("group_norm/gamma", "norm.weight", Edit::Flatten),
    ("group_norm/beta", "norm.bias", Edit::Flatten),
    ("head/conv2d/kernel", "head.fc.weight", Edit::Kernel),
    ("head/conv2d/bias", "head.fc.bias", Edit::Flatten),
];

impl Files for BitConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            heads: &["head.fc"],
            widths: &["stages.{N}.blocks.0.downsample.conv.weight"],
            ..Naming::new(
                Dialect::Timm,
                &["stem.conv.weight", "stages.0.blocks.0.conv1.weight", "stages.0.blocks.0.norm1.weight"],
            )
        },
        Naming {
            rows: &[&HUGGING_FACE],
            beside: &HEAD,
            base: "bit.",
            heads: &["classifier.1"],
            widths: &["encoder.stages.{N}.layers.0.downsample.conv.weight"],
            ..Naming::new(
                Dialect::HuggingFace,
                &["embedder.convolution.weight", "encoder.stages.0.layers.0.conv1.weight"],
            )
        },
        Naming {
            rows: &[&GOOGLE],
            heads: &["head/conv2d"],
            ..Naming::new(Dialect::Google, &["root_block/standardized_conv2d/kernel"])
        },
    ];
    const TIMM_TAKES_SIZE: bool = false;

    fn first_conv(&self) -> String {
        if self.layers.is_empty() { "conv".into() } else { "stem.conv".into() }
    }

    fn kernels(&self) -> Vec<String> {
        vec!["head.fc.weight".into()]
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let [stem, channels, ..] = shapes.get::<4>("stem.conv.weight")?;
        let mut config = Self {
            in_chans: channels,
            stem_chs: stem,
            layers: Vec::new(),
            channels: Vec::new(),
            ..Self::default()
        };
        for stage in 0..shapes.count("stages.{}.blocks.0.conv1.weight", 0) {
            config.layers.push(shapes.count(&format!("stages.{stage}.blocks.{{}}.conv1.weight"), 0));
            let [width, ..] = shapes.get::<4>(&format!("stages.{stage}.blocks.0.conv3.weight"))?;
            config.channels.push(width);
        }
        let [inner, ..] = shapes.get::<4>("stages.0.blocks.0.conv1.weight")?;
        let first = config.channels.first().copied().unwrap_or(1);
        config.bottle_ratio = inner as f64 / first.max(1) as f64;
        if file.map.contains("stem.norm.weight") {
            (config.preact, config.same_padding, config.stem_type) = (false, true, BitStem::Same);
        }
        config.num_classes = file.map.rows("head.fc.weight").unwrap_or(0);
        let notes = vec!["groups, padding and epsilons are assumed as usual for a BiT".to_string()];
        Ok(Inferred { config, notes })
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        refuse_args(args, &["same_padding", "conv_eps", "norm_eps", "num_groups"])
    }

    fn of_huggingface(fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        let read = || {
            let sizes =
                |key: &str, usual: &[usize]| Ok::<_, String>(fields.sizes(key)?.unwrap_or(usual.to_vec()));
            let preact = match fields.text("layer_type")?.unwrap_or("preactivation") {
                "preactivation" => true,
                "bottleneck" => false,
                other => return Err(format!("`layer_type` `{other}` is not supported")),
            };
            let same =
                fields.text("global_padding")?.is_some_and(|padding| padding.eq_ignore_ascii_case("same"));
            if same == preact {
                // transformers pads these stems with zeros before a SAME pool, or before the norm. timm does not.
                let padding = if same { "SAME" } else { "no" };
                return Err(format!("`layer_type` with {padding} `global_padding` is not supported"));
            }
            if fields.size("output_stride")?.unwrap_or(32) != 32 {
                return Err("`output_stride` other than 32 is not supported".into());
            }
            Ok(Self {
                in_chans: fields.size("num_channels")?.unwrap_or(3),
                layers: sizes("depths", &[3, 4, 6, 3])?,
                channels: sizes("hidden_sizes", &[256, 512, 1024, 2048])?,
                width_factor: fields.size("width_factor")?.unwrap_or(1),
                stem_chs: fields.size("embedding_size")?.unwrap_or(64),
                stem_type: if same { BitStem::Same } else { BitStem::Fixed },
                preact,
                same_padding: same,
                num_groups: fields.size("num_groups")?.unwrap_or(32),
                act_layer: match fields.text("hidden_act")? {
                    Some(name) => activation("hidden_act", name)?,
                    None => Activation::Relu,
                },
                drop_path_rate: fields.number("drop_path_rate")?.unwrap_or(0.0),
                ..Self::default()
            })
        };
        (fields.text("model_type") == Ok(Some("bit"))).then(read)
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        let usual = Self::default();
        let same = self.same_padding;
        let stem = if same { BitStem::Same } else { BitStem::Fixed };
        if self.preact == same || self.stem_type != stem {
            return Err(
                "transformers' BiT has two forms: norms before kernels with BiT's padding, and norms after kernels with \
                 SAME padding"
                    .into()
            );
        }
        if (self.conv_eps, self.norm_eps, self.bottle_ratio)
            != (usual.conv_eps, usual.norm_eps, usual.bottle_ratio)
            || self.global_pool != usual.global_pool
        {
            return Err(
                "transformers' BiT has fixed epsilons, a quarter of the width inside, and the mean as pool"
                    .into(),
            );
        }
        let act = match self.act_layer {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::QuickGelu => "quick_gelu",
            Activation::Silu => "silu",
        };
        let fields = json!({
            "num_channels": self.in_chans,
            "embedding_size": self.stem_chs,
            "hidden_sizes": self.channels,
            "depths": self.layers,
            "layer_type": if self.preact { "preactivation" } else { "bottleneck" },
            "hidden_act": act,
            "global_padding": if same { json!("SAME") } else { Value::Null },
            "num_groups": self.num_groups,
            "drop_path_rate": self.drop_path_rate,
            "embedding_dynamic_padding": same,
            "output_stride": 32,
            "width_factor": self.width_factor,
        });
        let Value::Object(fields) = fields else { unreachable!("an object") };
        let class = if self.num_classes > 0 { "BitForImageClassification" } else { "BitModel" };
        Ok(HuggingFaceModel { model_type: "bit", class, fields, is_own: false })
    }
}
