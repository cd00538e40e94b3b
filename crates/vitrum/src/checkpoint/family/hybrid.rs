//! Files of hybrids: timm, and Google's `.npz`. They have the tensors of a Vision Transformer and of its backbone.

use serde_json::{Map, Value};

use super::maps::Shapes;
use super::{Files, HuggingFaceModel, Inferred, Naming, family, vit};
use crate::checkpoint::dialect::Known;
use crate::checkpoint::fields::Fields;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::Report;
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::bit::{BitConfig, BitStem};
use crate::models::hybrid::{BACKBONE, HybridConfig};
use crate::models::vit::VitConfig;
use crate::models::{Config, ModelConfig};

/// Google's names of the backbone, a BiT with norms behind the convolutions.
const GOOGLE: [Row; 14] = [
    ("conv_root/kernel", "patch_embed.backbone.stem.conv.weight", Edit::Kernel),
    ("gn_root/scale", "patch_embed.backbone.stem.norm.weight", Edit::Flatten),
    ("gn_root/bias", "patch_embed.backbone.stem.norm.bias", Edit::Flatten),
    (
        "block{N+1}/unit{M+1}/conv1/kernel",
        "patch_embed.backbone.stages.{N}.blocks.{M}.conv1.weight",
        Edit::Kernel,
    ),
    (
        "block{N+1}/unit{M+1}/conv2/kernel",
        "patch_embed.backbone.stages.{N}.blocks.{M}.conv2.weight",
        Edit::Kernel,
    ),
    (
        "block{N+1}/unit{M+1}/conv3/kernel",
        "patch_embed.backbone.stages.{N}.blocks.{M}.conv3.weight",
        Edit::Kernel,
    ),
    (
        "block{N+1}/unit{M+1}/gn1/scale",
        "patch_embed.backbone.stages.{N}.blocks.{M}.norm1.weight",
        Edit::Flatten,
    ),
    ("block{N+1}/unit{M+1}/gn1/bias", "patch_embed.backbone.stages.{N}.blocks.{M}.norm1.bias", Edit::Flatten),
    (
        "block{N+1}/unit{M+1}/gn2/scale",
        "patch_embed.backbone.stages.{N}.blocks.{M}.norm2.weight",
        Edit::Flatten,
    ),
    ("block{N+1}/unit{M+1}/gn2/bias", "patch_embed.backbone.stages.{N}.blocks.{M}.norm2.bias", Edit::Flatten),
    (
        "block{N+1}/unit{M+1}/gn3/scale",
        "patch_embed.backbone.stages.{N}.blocks.{M}.norm3.weight",
        Edit::Flatten,
    ),
    ("block{N+1}/unit{M+1}/gn3/bias", "patch_embed.backbone.stages.{N}.blocks.{M}.norm3.bias", Edit::Flatten),
    (
        "block{N+1}/unit{M+1}/gn_proj/scale",
        "patch_embed.backbone.stages.{N}.blocks.{M}.downsample.norm.weight",
        Edit::Flatten,
    ),
    (
        "block{N+1}/unit{M+1}/gn_proj/bias",
        "patch_embed.backbone.stages.{N}.blocks.{M}.downsample.norm.bias",
        Edit::Flatten,
    ),
];

/// Google's projection of a shortcut.
const GOOGLE_PROJECTION: [Row; 1] = [(
    "block{N+1}/unit{M+1}/conv_proj/kernel",
    "patch_embed.backbone.stages.{N}.blocks.{M}.downsample.conv.weight",
    Edit::Kernel,
)];

const fn timm(telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows: &[&vit::keys::timm::ROWS],
        inside: &[BACKBONE],
        left_out: |name, tensors| {
            super::maps::counts(name, tensors).or_else(|| vit::keys::official::left_out(name))
        },
        ..Naming::new(Dialect::Timm, telltales)
    }
}

impl Files for HybridConfig {
    const NAMINGS: &'static [Naming] = &[
        timm(&[vit::keys::timm::TELLTALE, "patch_embed.backbone.stem.conv.weight"]),
        timm(&[vit::keys::timm::TELLTALE, "patch_embed.backbone.conv.weight"]),
        timm(&[vit::keys::timm::TELLTALE, "patch_embed.backbone.conv1.weight"]),
        timm(&[vit::keys::timm::TELLTALE, "patch_embed.backbone.conv1.0.weight"]),
        timm(&[vit::keys::timm::TELLTALE, "patch_embed.backbone.stem.0.weight"]),
        Naming {
            rows: &[&GOOGLE, &GOOGLE_PROJECTION, &vit::keys::google::ROWS],
            stacked: Some([vit::keys::google::STACKED, vit::keys::google::NUMBERED]),
            ..Naming::new(Dialect::Google, &[vit::keys::google::TELLTALE, "conv_root/kernel"])
        },
    ];

    fn first_conv(&self) -> String {
        format!("{BACKBONE}{}", self.backbone.first_conv())
    }

    fn kernels(&self) -> Vec<String> {
        self.backbone.kernels().into_iter().map(|key| format!("{BACKBONE}{key}")).collect()
    }

    /// The ViT's conversion, and the short keys of a stem without stages.
    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        if !tensors.contains("patch_embed.backbone.stages.0.blocks.0.conv1.weight") {
            for part in ["conv.weight", "norm.weight", "norm.bias"] {
                if let Some(tensor) = tensors.tensors.remove(&format!("{BACKBONE}stem.{part}")) {
                    tensors.tensors.insert(format!("{BACKBONE}{part}"), tensor);
                }
            }
        }
        VitConfig::finish(tensors)
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let backbone = infer_backbone(file)?;
        let told = vit::Told::of(file, 0);
        let Inferred { config, mut notes } = vit::infer_with(&file.map, None, &told)?;
        let mut vit = vit::usual(config, file.dialect);
        let first = format!("{BACKBONE}{}.weight", backbone.first_conv());
        let [_, channels, ..] = Shapes(&file.map).get::<4>(&first)?;
        vit.in_chans = channels;
        // The tensors show the grid of the maps; the image is as many times larger as the usual one.
        let usual = backbone.with("img_size", serde_json::json!([224, 224])).ok();
        let usual = usual.and_then(|backbone| backbone.map_grid());
        vit.img_size = match (told_size(file), usual) {
            (Some(size), _) => size,
            (None, Some(usual)) => [0, 1].map(|axis| vit.img_size[axis] * 224 / usual[axis].max(1)),
            (None, None) => vit.img_size,
        };
        notes.push(format!(
            "activation and epsilon are assumed as usual for {}, the image as {}x{} pixels",
            file.dialect.name(),
            vit.img_size[0],
            vit.img_size[1]
        ));
        Ok(Inferred { config: Self { vit, backbone: Box::new(backbone) }, notes })
    }

    fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let Inferred { config: vit, notes } = self.vit.settle_named(file)?;
        Ok(Inferred { config: Self { vit, ..self }, notes })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        let Ok(encoder) = self.encoder() else { return };
        // Positions by the grid of the feature maps; the channels of the image concern the backbone alone.
        let source = of.and_then(|of| of.encoder().ok());
        encoder.fit(tensors, source.as_ref(), report);
        let channels = of.map(|of| of.vit.in_chans);
        super::maps::change_channels(&self.first_conv(), self.vit.in_chans, channels, tensors, report);
    }

    fn narrow(tensors: &mut TensorMap) -> Result<(), LoadError> {
        VitConfig::narrow(tensors)
    }

    fn num_features(&self) -> usize {
        self.vit.num_features()
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let vit = self.vit.timm_arg(key, value)?;
        Some(vit.map(|vit| Self { vit, ..self.clone() }))
    }

    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        // The image of the backbone is the hybrid's.
        let same =
            |config: &Self| config.backbone.with("img_size", serde_json::json!(base.vit.img_size)).ok();
        if same(self) == same(base) {
            args.remove("backbone");
        }
        super::maps::refuse_args(args, &["backbone"])?;
        self.vit.timm_args(&base.vit, args)
    }

    fn of_huggingface(_: &Fields<'_>, _: Option<&str>) -> Option<Result<Self, String>> {
        None
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        Err("transformers' hybrid cannot be written".into())
    }
}

/// The size of the image, if a key file states it.
fn told_size(file: &Converted) -> Option<[usize; 2]> {
    file.told.get("img_size").and_then(|size| serde_json::from_value(size.clone()).ok())
}

/// The backbone from its own tensors.
fn infer_backbone(file: &Converted) -> Result<ModelConfig, LoadError> {
    let mut map = file.map.without_tensors();
    for (key, tensor) in &file.map.tensors {
        if let Some(inner) = key.strip_prefix(BACKBONE) {
            map.tensors.insert(inner.to_string(), tensor.clone());
        }
    }
    if map.contains("conv.weight") {
        let [width, channels, ..] = Shapes(&map).get::<4>("conv.weight")?;
        let stem = BitConfig {
            in_chans: channels,
            stem_chs: width,
            layers: Vec::new(),
            stem_type: BitStem::Same,
            ..BitConfig::of_hybrid()
        };
        return Ok(stem.into());
    }
    let converted = crate::checkpoint::dialect::to_timm_with(map, &Known::default())?;
    let inferred = (family(converted.family).infer)(&converted)?;
    inferred
        .config
        .with("num_classes", serde_json::json!(0))
        .map_err(|error| LoadError::tensor(&file.map.path, BACKBONE, error.to_string()))
}
