//! Files of ConvNeXt: timm, torchvision, transformers (`ConvNext` and `ConvNextV2`), and the authors' code of both versions.

use serde_json::{Map, Value, json};

use super::maps::{Shapes, refuse_args};
use super::vit::convert::add_bias;
use super::vit::huggingface::{huggingface_activation, side};
use super::{Files, HuggingFaceModel, Inferred, Naming, headless};
use crate::checkpoint::fields::{Fields, activation};
use crate::checkpoint::keys::{Edit, Row, lookup};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::{HostTensor, LoadError, TensorMap};
use crate::layers::norm::NormLayer;
use crate::models::convnext::{ConvNextConfig, ConvNextStem};
use crate::models::vit::Activation;

/// torchvision's names: `features` are the stem, a stage, a downsampling layer, a stage and so on in turn.
const TORCHVISION: [Row; 11] = [
    ("features.0.0", "stem.0", Edit::Keep),
    ("features.0.1", "stem.1", Edit::Keep),
    ("features.{2N+1}.{M}.block.0", "stages.{N}.blocks.{M}.conv_dw", Edit::Keep),
    ("features.{2N+1}.{M}.block.2", "stages.{N}.blocks.{M}.norm", Edit::Keep),
    ("features.{2N+1}.{M}.block.3", "stages.{N}.blocks.{M}.mlp.fc1", Edit::Keep),
    ("features.{2N+1}.{M}.block.5", "stages.{N}.blocks.{M}.mlp.fc2", Edit::Keep),
    ("features.{2N+1}.{M}.layer_scale", "stages.{N}.blocks.{M}.gamma", Edit::Flatten),
    ("features.{2N+2}.0", "stages.{N+1}.downsample.0", Edit::Keep),
    ("features.{2N+2}.1", "stages.{N+1}.downsample.1", Edit::Keep),
    ("classifier.0", "head.norm", Edit::Keep),
    ("classifier.2", "head.fc", Edit::Keep),
];

/// Names of the authors' code, of both versions.
const OFFICIAL: [Row; 13] = [
    ("downsample_layers.0.0", "stem.0", Edit::Keep),
    ("downsample_layers.0.1", "stem.1", Edit::Keep),
    ("downsample_layers.{N+1}.0", "stages.{N+1}.downsample.0", Edit::Keep),
    ("downsample_layers.{N+1}.1", "stages.{N+1}.downsample.1", Edit::Keep),
    ("stages.{N}.{M}.dwconv", "stages.{N}.blocks.{M}.conv_dw", Edit::Keep),
    ("stages.{N}.{M}.norm", "stages.{N}.blocks.{M}.norm", Edit::Keep),
    ("stages.{N}.{M}.pwconv1", "stages.{N}.blocks.{M}.mlp.fc1", Edit::Keep),
    ("stages.{N}.{M}.pwconv2", "stages.{N}.blocks.{M}.mlp.fc2", Edit::Keep),
    ("stages.{N}.{M}.gamma", "stages.{N}.blocks.{M}.gamma", Edit::Keep),
    ("stages.{N}.{M}.grn.gamma", "stages.{N}.blocks.{M}.mlp.grn.weight", Edit::Flatten),
    ("stages.{N}.{M}.grn.beta", "stages.{N}.blocks.{M}.mlp.grn.bias", Edit::Flatten),
    ("norm", "head.norm", Edit::Keep),
    ("head", "head.fc", Edit::Keep),
];

/// The projection of OpenCLIP, of one layer or two.
const OPEN_CLIP: [Row; 3] = [
    ("head.proj", "head.fc", Edit::Keep),
    ("head.mlp.fc1", "head.pre_logits.fc", Edit::Keep),
    ("head.mlp.fc2", "head.fc", Edit::Keep),
];

/// transformers' names in both versions.
const HUGGING_FACE: [Row; 9] = [
    ("embeddings.patch_embeddings", "stem.0", Edit::Keep),
    ("embeddings.layernorm", "stem.1", Edit::Keep),
    ("encoder.stages.{N}.downsampling_layer.0", "stages.{N}.downsample.0", Edit::Keep),
    ("encoder.stages.{N}.downsampling_layer.1", "stages.{N}.downsample.1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.dwconv", "stages.{N}.blocks.{M}.conv_dw", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layernorm", "stages.{N}.blocks.{M}.norm", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.pwconv1", "stages.{N}.blocks.{M}.mlp.fc1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.pwconv2", "stages.{N}.blocks.{M}.mlp.fc2", Edit::Keep),
    ("layernorm", "head.norm", Edit::Keep),
];

/// What only the first version has.
const HUGGING_FACE_1: [Row; 1] =
    [("encoder.stages.{N}.layers.{M}.layer_scale_parameter", "stages.{N}.blocks.{M}.gamma", Edit::Keep)];

/// What only the second version has.
const HUGGING_FACE_2: [Row; 2] = [
    ("encoder.stages.{N}.layers.{M}.grn.weight", "stages.{N}.blocks.{M}.mlp.grn.weight", Edit::Flatten),
    ("encoder.stages.{N}.layers.{M}.grn.bias", "stages.{N}.blocks.{M}.mlp.grn.bias", Edit::Flatten),
];

/// transformers' head, outside the base model.
const HEAD: [Row; 1] = [("classifier", "head.fc", Edit::Keep)];

const PATCHES: &str = "embeddings.patch_embeddings.weight";
const DEPTHWISE: &str = "encoder.stages.0.layers.0.dwconv.weight";

const fn hugging_face(
    telltales: &'static [&'static str],
    rows: &'static [&'static [Row]],
    base: &'static str,
) -> Naming {
    Naming {
        rows,
        beside: &HEAD,
        base,
        heads: &["classifier"],
        widths: &["encoder.stages.3.layers.0.layernorm.weight"],
        ..Naming::new(Dialect::HuggingFace, telltales)
    }
}

/// The epsilon of transformers' last norm, unless a configuration says otherwise.
const HUGGING_FACE_EPS: f64 = 1e-12;

impl Files for ConvNextConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            heads: &["head.fc"],
            widths: &["head.pre_logits.fc.weight", "stages.3.blocks.0.norm.weight"],
            // OpenCLIP keeps the projection into the shared space outside timm's trunk.
            outside: |prefix, name| {
                let (_, name) = name.split_once("visual.").filter(|_| prefix.ends_with("visual.trunk."))?;
                lookup(&OPEN_CLIP, name)
            },
            ..Naming::new(Dialect::Timm, &["stages.0.blocks.0.conv_dw.weight", "stem.0.weight"])
        },
        hugging_face(&[PATCHES, DEPTHWISE], &[&HUGGING_FACE, &HUGGING_FACE_1], "convnext."),
        hugging_face(
            &[PATCHES, DEPTHWISE, "encoder.stages.0.layers.0.grn.weight"],
            &[&HUGGING_FACE, &HUGGING_FACE_2],
            "convnextv2.",
        ),
        Naming {
            rows: &[&TORCHVISION],
            heads: &["classifier.2"],
            widths: &["features.7.0.block.2.weight"],
            ..Naming::new(
                Dialect::Torchvision,
                &["features.0.0.weight", "features.1.0.block.0.weight", "features.1.0.block.2.weight"],
            )
        },
        Naming {
            rows: &[&OFFICIAL],
            widths: &["stages.3.0.norm.weight"],
            left_out: |name, _| {
                let is_teacher = name.starts_with("norms.") || name.starts_with("projectors.");
                is_teacher.then_some("used only while pretraining")
            },
            ..Naming::new(Dialect::Official, &["downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"])
        },
    ];
    const TIMM_TAKES_SIZE: bool = false;

    fn first_conv(&self) -> String {
        "stem.0".into()
    }

    /// As timm, adds the bias that CLIP's projection lacks, and first values of the last norm to files that end with the
    /// last stage (V2's pretraining, FCMAE).
    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        add_bias(tensors, "head.fc")?;
        let has_end = tensors.names().any(|name| name.starts_with("head.") || name.starts_with("norm_pre."));
        let Some(last) = tensors.get("stages.3.blocks.0.norm.weight").filter(|_| !has_end) else {
            return Ok(());
        };
        let (dtype, shape, n) = (last.dtype(), last.shape().to_vec(), last.num_elements());
        let has_bias = tensors.contains("stages.3.blocks.0.norm.bias");
        for (key, value) in [("head.norm.weight", 1.0), ("head.norm.bias", 0.0)] {
            if value == 0.0 && !has_bias {
                continue; // RMSNorm
            }
            let made =
                HostTensor::from_f32(shape.clone(), &vec![value; n]).and_then(|tensor| tensor.cast(dtype));
            let tensor = made.map_err(|error| LoadError::tensor(&tensors.path, key, error))?;
            tensors.tensors.insert(key.into(), tensor);
        }
        let path = tensors.path.display();
        tensors
            .notes
            .push(format!("{path}: no last norm in this file; head.norm is 1 and 0, as in a new model"));
        Ok(())
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let mut config = Self::default();
        let [first, channels, side, _] = shapes.get::<4>("stem.0.weight")?;
        config.in_chans = channels;
        let is_kernel = |key: &str| shapes.find::<4>(key).is_some();
        for stage in 0..4 {
            let block = |index: &str| format!("stages.{stage}.blocks.{index}.conv_dw.weight");
            let [width, _, kernel, _] = shapes.get::<4>(&block("0"))?;
            (config.dims[stage], config.kernel_sizes[stage]) = (width, kernel);
            config.depths[stage] = shapes.count(&block("{}"), 0);
        }
        config.stem_type = match (is_kernel("stem.1.weight"), is_kernel("stem.2.weight")) {
            (_, true) => ConvNextStem::OverlapAct,
            (true, _) if first == config.dims[0] => ConvNextStem::Overlap,
            (true, _) => ConvNextStem::OverlapTiered,
            (false, _) => ConvNextStem::Patch,
        };
        if config.stem_type == ConvNextStem::Patch {
            config.patch_size = side;
        }
        config.conv_bias = file.map.contains("stem.0.bias");
        config.conv_mlp = is_kernel("stages.0.blocks.0.mlp.fc1.weight");
        config.use_grn = file.map.contains("stages.0.blocks.0.mlp.grn.weight");
        config.ls_init_value = config.ls_init_value.filter(|_| file.map.contains("stages.0.blocks.0.gamma"));
        config.head_norm_first = file.map.contains("norm_pre.weight");
        config.head_hidden_size = file.map.rows("head.pre_logits.fc.weight");
        config.num_classes = file.map.rows("head.fc.weight").unwrap_or(0);
        let is_rms = !file.map.contains("stages.0.blocks.0.norm.bias");
        if is_rms {
            config.norm_layer = NormLayer::RmsNorm;
        }
        let Inferred { config, mut notes } = config.settle_named(file)?;
        if is_rms {
            notes.push(
                "norms without an offset are assumed to be RMSNorm; SimpleNorm has the same tensors".into(),
            );
        }
        notes.push("activation and epsilon are assumed as usual for a ConvNeXt".into());
        Ok(Inferred { config, notes })
    }

    fn settle_named(mut self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let mut notes = headless(&self);
        if file.dialect == Dialect::HuggingFace {
            self.head_norm_eps = Some(HUGGING_FACE_EPS);
            notes.push(format!("Hugging Face names, so head_norm_eps={HUGGING_FACE_EPS:e}"));
        }
        Ok(Inferred { config: self, notes })
    }

    fn kernels(&self) -> Vec<String> {
        if !self.conv_mlp {
            return Vec::new();
        }
        let blocks =
            self.depths.iter().enumerate().flat_map(|(stage, &depth)| (0..depth).map(move |i| (stage, i)));
        let of_block = |(stage, block)| {
            ["fc1", "fc2"].map(|layer| format!("stages.{stage}.blocks.{block}.mlp.{layer}.weight"))
        };
        blocks.flat_map(of_block).collect()
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let same = || Some(Ok(self.clone()));
        match (key, value) {
            ("output_stride", Value::Number(stride)) if stride.as_u64() == Some(32) => same(),
            ("output_stride", _) => Some(Err(format!("`output_stride` {value} is not supported, only 32"))),
            ("norm_layer", Value::Null) => {
                Some(Ok(Self { norm_layer: NormLayer::LayerNorm, ..self.clone() }))
            }
            ("norm_layer", _) => Some(match norm_layer(value) {
                Some(norm_layer) => Ok(Self { norm_layer, ..self.clone() }),
                None => Err(format!("`norm_layer` {value} is not supported")),
            }),
            ("kernel_sizes", Value::Number(side)) => {
                let side = usize::try_from(side.as_u64()?).ok()?;
                Some(Ok(Self { kernel_sizes: [side; 4], ..self.clone() }))
            }
            _ => None,
        }
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        if self.head_norm_eps.is_none_or(|eps| eps == self.norm_eps) {
            args.remove("head_norm_eps");
        }
        refuse_args(args, &["head_norm_eps"])
    }

    fn of_huggingface(fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        match fields.text("model_type") {
            Ok(Some("convnext")) => Some(of_huggingface(fields, false)),
            Ok(Some("convnextv2")) => Some(of_huggingface(fields, true)),
            _ => None,
        }
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        to_huggingface(self)
    }
}

/// The norm of this name in timm, with or without the `2d` of maps.
fn norm_layer(value: &Value) -> Option<NormLayer> {
    let name = value.as_str()?.replace('_', "").to_lowercase();
    let name = name.strip_suffix("2d").unwrap_or(&name);
    serde_json::from_value(Value::from(name)).ok()
}

/// The configuration of transformers' `ConvNextConfig`, or of `ConvNextV2Config` if `is_second` is set.
fn of_huggingface(fields: &Fields<'_>, is_second: bool) -> Result<ConvNextConfig, String> {
    let plain = ConvNextConfig::default();
    let four = |key: &str, usual: [usize; 4]| {
        let Some(sizes) = fields.sizes(key)? else { return Ok(usual) };
        <[usize; 4]>::try_from(sizes).map_err(|found| format!("`{key}` has {} stages, only 4", found.len()))
    };
    let patch_size = match fields.pair("patch_size")?.unwrap_or([plain.patch_size; 2]) {
        [height, width] if height != width => {
            return Err(format!("`patch_size` [{height}, {width}] is not supported, only squares"));
        }
        [size, _] => size,
    };
    check_patch(patch_size)?;
    let scale = fields.number("layer_scale_init_value")?.unwrap_or(1e-6);
    let eps = fields.number("layer_norm_eps")?.unwrap_or(HUGGING_FACE_EPS);
    Ok(ConvNextConfig {
        img_size: fields.pair("image_size")?.unwrap_or(plain.img_size),
        in_chans: fields.size("num_channels")?.unwrap_or(plain.in_chans),
        depths: four("depths", plain.depths)?,
        dims: four("hidden_sizes", plain.dims)?,
        ls_init_value: (!is_second && scale > 0.0).then_some(scale),
        patch_size,
        use_grn: is_second,
        act_layer: match fields.text("hidden_act")? {
            Some(name) => activation("hidden_act", name)?,
            None => Activation::Gelu,
        },
        head_norm_eps: (eps != plain.norm_eps).then_some(eps),
        drop_path_rate: fields.number("drop_path_rate")?.unwrap_or(0.0),
        ..plain
    })
}

/// Refuses patches after which transformers' grids are not timm's.
fn check_patch(size: usize) -> Result<(), String> {
    match size {
        2 => Err("transformers does not halve the map after patches of 2, timm does".into()),
        8.. => Err(format!("`patch_size` {size} is not supported, only up to 7")),
        _ => Ok(()),
    }
}

fn to_huggingface(config: &ConvNextConfig) -> Result<HuggingFaceModel, String> {
    check_patch(config.patch_size)?;
    // What transformers can state, and what concerns only training and timm's files.
    let ConvNextConfig {
        img_size,
        in_chans,
        num_classes,
        depths,
        dims,
        ls_init_value,
        patch_size,
        head_init_scale,
        conv_mlp,
        use_grn,
        act_layer,
        head_norm_eps,
        drop_rate,
        drop_path_rate,
        ..
    } = *config;
    let plain = ConvNextConfig {
        img_size,
        in_chans,
        num_classes,
        depths,
        dims,
        ls_init_value,
        patch_size,
        head_init_scale,
        conv_mlp,
        use_grn,
        act_layer,
        head_norm_eps,
        drop_rate,
        drop_path_rate,
        ..ConvNextConfig::default()
    };
    if *config != plain {
        return Err("transformers' ConvNext has patches as its stem, kernels of 7x7, biases, an epsilon of 1e-6 except in the \
                    last norm, the mean as pool, and no hidden layer in the head"
            .into());
    }
    if use_grn && ls_init_value.is_some() {
        return Err("transformers' ConvNextV2 has no LayerScale (ls_init_value)".into());
    }
    let fields = json!({
        "num_channels": in_chans,
        "patch_size": patch_size,
        "num_stages": 4,
        "hidden_sizes": dims,
        "depths": depths,
        "hidden_act": huggingface_activation(act_layer),
        "layer_norm_eps": head_norm_eps.unwrap_or(config.norm_eps),
        "drop_path_rate": drop_path_rate,
        "image_size": side(img_size),
        "initializer_range": 0.02,
    });
    let Value::Object(mut fields) = fields else { unreachable!("an object") };
    if !use_grn {
        fields.insert("layer_scale_init_value".into(), json!(ls_init_value.unwrap_or(0.0)));
    }
    let (model_type, class) = match (use_grn, num_classes > 0) {
        (false, true) => ("convnext", "ConvNextForImageClassification"),
        (false, false) => ("convnext", "ConvNextModel"),
        (true, true) => ("convnextv2", "ConvNextV2ForImageClassification"),
        (true, false) => ("convnextv2", "ConvNextV2Model"),
    };
    let is_own = head_norm_eps.is_some_and(|eps| eps != config.norm_eps);
    Ok(HuggingFaceModel { model_type, class, fields, is_own })
}
