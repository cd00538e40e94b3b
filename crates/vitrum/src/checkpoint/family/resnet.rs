//! Files of ResNets: timm and torchvision, which share their names, and transformers.

use serde_json::{Map, Value, json};

use super::maps::{Shapes, add_counts, counts, refuse_args};
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::LoadError;
use crate::checkpoint::fields::Fields;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::models::resnet::{GateLayer, MapNormLayer, ResNetBlock, ResNetConfig, ResNetStem};

/// transformers' names.
const HUGGING_FACE: [Row; 10] = [
    ("embedder.embedder.convolution", "conv1", Edit::Keep),
    ("embedder.embedder.normalization", "bn1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.0.convolution", "layer{N+1}.{M}.conv1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.0.normalization", "layer{N+1}.{M}.bn1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.1.convolution", "layer{N+1}.{M}.conv2", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.1.normalization", "layer{N+1}.{M}.bn2", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.2.convolution", "layer{N+1}.{M}.conv3", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.2.normalization", "layer{N+1}.{M}.bn3", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.shortcut.convolution", "layer{N+1}.{M}.downsample.0", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.shortcut.normalization", "layer{N+1}.{M}.downsample.1", Edit::Keep),
];

/// transformers' head, outside the base model.
const HEAD: [Row; 1] = [("classifier.1", "fc", Edit::Keep)];

impl Files for ResNetConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            heads: &["fc"],
            // The first stage of basic blocks has no projection.
            widths: &["layer{N}.0.downsample.1.weight", "layer1.0.bn2.weight"],
            left_out: counts,
            ..Naming::new(Dialect::Timm, &["layer1.0.conv1.weight", "layer1.0.bn1.weight", "bn1.weight"])
        },
        Naming {
            rows: &[&HUGGING_FACE],
            beside: &HEAD,
            base: "resnet.",
            heads: &["classifier.1"],
            widths: &[
                "encoder.stages.{N}.layers.0.shortcut.normalization.weight",
                "encoder.stages.0.layers.0.layer.1.normalization.weight",
            ],
            left_out: counts,
            complete: add_counts,
            ..Naming::new(
                Dialect::HuggingFace,
                &[
                    "embedder.embedder.convolution.weight",
                    "encoder.stages.0.layers.0.layer.0.convolution.weight",
                ],
            )
        },
    ];
    const TIMM_TAKES_SIZE: bool = false;

    fn first_conv(&self) -> String {
        if self.stem_type == ResNetStem::Plain { "conv1".into() } else { "conv1.0".into() }
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let mut config = Self { layers: Vec::new(), channels: Vec::new(), ..Self::default() };
        if let Some([first, channels, ..]) = shapes.find::<4>("conv1.0.weight") {
            let [width, ..] = shapes.get::<4>("conv1.3.weight")?;
            config.in_chans = channels;
            config.stem_width = width;
            config.stem_type = if first == width { ResNetStem::Deep } else { ResNetStem::DeepTiered };
        } else {
            let [_, channels, ..] = shapes.get::<4>("conv1.weight")?;
            config.in_chans = channels;
        }
        let bottleneck = file.map.contains("layer1.0.conv3.weight");
        config.block = if bottleneck { ResNetBlock::Bottleneck } else { ResNetBlock::Basic };
        for stage in 1..=shapes.count("layer{}.0.conv1.weight", 1) {
            config.layers.push(shapes.count(&format!("layer{stage}.{{}}.conv1.weight"), 0));
            let last = if bottleneck { "conv3" } else { "conv2" };
            let [width, ..] = shapes.get::<4>(&format!("layer{stage}.0.{last}.weight"))?;
            config.channels.push(if bottleneck { width / 4 } else { width });
        }
        let [inner, group, ..] = shapes.get::<4>("layer1.0.conv2.weight")?;
        let [first, ..] = shapes.get::<4>("layer1.0.conv1.weight")?;
        config.block_reduce_first = (inner / first.max(1)).max(1);
        if bottleneck {
            config.cardinality = (first / group.max(1)).max(1);
            let planes = config.channels.first().copied().unwrap_or(1);
            // The smallest width that gives this group: `floor(planes · base_width / 64)`.
            config.base_width = (inner / config.cardinality * 64).div_ceil(planes.max(1));
        }
        let last = config.channels.len();
        let width = config.channels.last().map_or(1, |width| if bottleneck { 4 * width } else { *width });
        if let Some([reduced, ..]) = shapes.find::<4>(&format!("layer{last}.0.se.fc1.weight")) {
            config.attn_layer = GateLayer::Se;
            let ratio = reduced as f64 / width.max(1) as f64;
            // A gate of 8 may be rounded up.
            config.rd_ratio = if reduced == 8 { config.rd_ratio.min(ratio) } else { ratio };
        } else if file.map.contains(&format!("layer{last}.0.se.conv.weight")) {
            config.attn_layer = GateLayer::Eca;
        }
        if !file.map.contains("bn1.running_mean") {
            config.norm_layer = MapNormLayer::GroupNorm;
        }
        config.replace_stem_pool = file.map.contains("maxpool.0.weight");
        if let Some([_, _, side, _]) = shapes.find::<4>("layer2.0.downsample.0.weight") {
            config.down_kernel_size = side;
        }
        let is_kernel = |key: &str| shapes.find::<4>(key).is_some();
        config.avg_down = (1..=4).any(|stage| is_kernel(&format!("layer{stage}.0.downsample.1.weight")));
        config.num_classes = file.map.rows("fc.weight").unwrap_or(0);
        let notes = vec![
            "activation and epsilon are assumed as usual for a ResNet, and kernels with steps of 2 (aa_layer)".to_string(),
        ];
        Ok(Inferred { config, notes })
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        refuse_args(args, &["block", "norm_eps", "attn_layer", "rd_ratio", "aa_layer"])
    }

    fn of_huggingface(fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        let read = || {
            let sizes =
                |key: &str, usual: &[usize]| Ok::<_, String>(fields.sizes(key)?.unwrap_or(usual.to_vec()));
            let block = match fields.text("layer_type")?.unwrap_or("bottleneck") {
                "bottleneck" => ResNetBlock::Bottleneck,
                "basic" => ResNetBlock::Basic,
                other => return Err(format!("`layer_type` `{other}` is not supported")),
            };
            let embedding = fields.size("embedding_size")?.unwrap_or(64);
            for (is_other, what) in [
                // transformers applies it at the ends of blocks. Inside, it always has ReLU.
                (
                    fields.text("hidden_act")?.unwrap_or("relu") != "relu",
                    "`hidden_act` other than `relu`".into(),
                ),
                (embedding != 64, format!("`embedding_size` {embedding}, only 64")),
                (
                    fields.flag("downsample_in_first_stage")? == Some(true),
                    "`downsample_in_first_stage`".into(),
                ),
                (fields.flag("downsample_in_bottleneck")? == Some(true), "`downsample_in_bottleneck`".into()),
            ] {
                if is_other {
                    return Err(format!("{what} is not supported"));
                }
            }
            let expansion = if block == ResNetBlock::Bottleneck { 4 } else { 1 };
            let widths = sizes("hidden_sizes", &[256, 512, 1024, 2048])?;
            if let Some(odd) = widths.iter().find(|width| !width.is_multiple_of(expansion)) {
                return Err(format!("`hidden_sizes` has {odd}, which is not a multiple of {expansion}"));
            }
            Ok(Self {
                in_chans: fields.size("num_channels")?.unwrap_or(3),
                block,
                layers: sizes("depths", &[3, 4, 6, 3])?,
                channels: widths.into_iter().map(|width| width / expansion).collect(),
                ..Self::default()
            })
        };
        (fields.text("model_type") == Ok(Some("resnet"))).then(read)
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        let plain = Self {
            img_size: self.img_size,
            in_chans: self.in_chans,
            num_classes: self.num_classes,
            block: self.block,
            layers: self.layers.clone(),
            channels: self.channels.clone(),
            drop_rate: self.drop_rate,
            drop_path_rate: self.drop_path_rate,
            zero_init_last: self.zero_init_last,
            ..Self::default()
        };
        if *self != plain {
            return Err(
                "transformers' ResNet has the plain stem and block with ReLU and the mean as pool".into()
            );
        }
        let expansion = if self.block == ResNetBlock::Bottleneck { 4 } else { 1 };
        let fields = json!({
            "num_channels": self.in_chans,
            "embedding_size": 64,
            "hidden_sizes": self.channels.iter().map(|width| width * expansion).collect::<Vec<_>>(),
            "depths": self.layers,
            "layer_type": if self.block == ResNetBlock::Bottleneck { "bottleneck" } else { "basic" },
            "hidden_act": "relu",
            "downsample_in_first_stage": false,
            "downsample_in_bottleneck": false,
        });
        let Value::Object(fields) = fields else { unreachable!("an object") };
        let class = if self.num_classes > 0 { "ResNetForImageClassification" } else { "ResNetModel" };
        Ok(HuggingFaceModel { model_type: "resnet", class, fields, is_own: false })
    }
}
