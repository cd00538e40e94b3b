//! Files of Swin and Swin V2: timm, the authors' code (and timm before 0.9), torchvision, transformers.

mod buffers;
mod huggingface;
mod keys;

use serde_json::{Map, Value, json};

use super::maps::{Shapes, change_channels, refuse_args};
use super::vit::fit::resize_patches;
use super::{Files, HuggingFaceModel, Inferred, Naming, headless};
use crate::checkpoint::convert::join;
use crate::checkpoint::fields::Fields;
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::{Report, ShapeChange};
use crate::checkpoint::{HostTensor, LoadError, TensorMap};
use crate::layers::resample::resample_offsets;
use crate::layers::window::StageSizes;
use crate::models::swin::{SwinConfig, SwinVersion, WindowFit};
use crate::models::vit::PosResize;

use buffers::Buffers;

/// Side of V2's windows, which parameters do not show.
const USUAL_WINDOW: usize = 8;

impl Files for SwinConfig {
    const NAMINGS: &'static [Naming] = &keys::NAMINGS;

    fn first_conv(&self) -> String {
        "patch_embed.proj".into()
    }

    /// Joins query, key and value. Of torchvision's biases of V2 takes those of queries and values: it adds 0 to the keys.
    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        let path = tensors.path.clone();
        let fail = |(name, error): (String, _)| LoadError::tensor(&path, &name, error);
        join(&mut tensors.tensors).map_err(fail)?;
        let scales = tensors.names().filter_map(|name| name.strip_suffix(".logit_scale"));
        let layers: Vec<String> = scales.map(str::to_string).collect();
        for layer in layers {
            let name = format!("{layer}.qkv.bias");
            let Some(bias) = tensors.tensors.remove(&name) else { continue };
            let third = bias.num_elements() / 3;
            for (index, part) in [(0, "q_bias"), (2, "v_bias")] {
                let values = bias.slice(0, index * third..(index + 1) * third);
                let values = values.map_err(|error| LoadError::tensor(&path, &name, error))?;
                tensors.tensors.insert(format!("{layer}.{part}"), values);
            }
        }
        Ok(())
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let (shapes, mut notes) = (Shapes(&file.map), Vec::new());
        let [embed_dim, in_chans, p, q] = shapes.get::<4>("patch_embed.proj.weight")?;
        let stages = shapes.count("layers.{}.blocks.0.attn.qkv.weight", 0);
        let mut config = Self { embed_dim, in_chans, patch_size: [p, q], ..Self::default() };
        let is_v2 = file.map.contains("layers.0.blocks.0.attn.logit_scale");
        (config.depths, config.num_heads) = (Vec::new(), Vec::new());
        for stage in 0..stages {
            let of_block = |block: &str, part: &str| format!("layers.{stage}.blocks.{block}.{part}");
            config.depths.push(shapes.count(&of_block("{}", "attn.qkv.weight"), 0));
            config.num_heads.push(match is_v2 {
                true => shapes.get::<3>(&of_block("0", "attn.logit_scale"))?[0],
                false => shapes.get::<2>(&of_block("0", "attn.relative_position_bias_table"))?[1],
            });
        }
        let [rows, _] = shapes.get::<2>("layers.0.blocks.0.attn.qkv.weight")?;
        let heads = config.num_heads.first().copied().unwrap_or(1).max(1);
        config.head_dim = (!is_v2 && rows != 3 * embed_dim).then_some(rows / 3 / heads);
        let [hidden, width] = shapes.get::<2>("layers.0.blocks.0.mlp.fc1.weight")?;
        config.mlp_ratio = crate::checkpoint::fields::mlp_ratio(hidden, width);
        let bias = if is_v2 { "q_bias" } else { "qkv.bias" };
        config.qkv_bias = file.map.contains(&format!("layers.0.blocks.0.attn.{bias}"));
        config.num_classes = file.map.rows("head.fc.weight").unwrap_or(0);
        if is_v2 {
            config.version = SwinVersion::V2;
        }
        config.window_size = match file.told_as("window_size") {
            Some(told) => told,
            None => windows(file, stages, is_v2, &mut notes)?,
        };
        if config.window_size.fits(stages) {
            if is_v2 && !file.tells("pretrained_window_sizes") {
                config.pretrained_window_sizes = origins(file, &config, &mut notes);
            }
            if !file.tells("img_size") {
                config.img_size = image_of(file, &config, &mut notes);
            }
        }
        let config = file.checked(config)?;
        if !(file.tells("act_layer") && file.tells("norm_eps")) {
            notes.push("activation and epsilon are assumed as usual for a Swin".into());
        }
        let Inferred { config, notes: more } = config.settle_named(file)?;
        notes.extend(more);
        Ok(Inferred { config, notes })
    }

    fn settle_named(mut self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        Buffers(file).check(&self)?;
        let mut notes = headless(&self);
        let library = file.dialect.name();
        match (file.dialect, self.version) {
            (Dialect::Torchvision, _) => (self.window_fit, self.pad_first) = (WindowFit::Image, true),
            (Dialect::HuggingFace, SwinVersion::V1) => {
                (self.window_fit, self.pad_first) = (WindowFit::ShorterSide, true);
            }
            (Dialect::HuggingFace, SwinVersion::V2) => self.pad_first = true,
            (Dialect::Official, _) => {
                self.pos_resize = PosResize::Bicubic;
                notes.push(format!("names of {library}, so pos_resize=bicubic"));
            }
            _ => {}
        }
        if self.pad_first {
            let fit = json!(self.window_fit);
            notes.push(format!("{library} names, so window_fit={fit}, pad_first=true"));
        }
        Ok(Inferred { config: self, notes })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        for (stage, &depth) in self.depths.iter().enumerate() {
            for block in 0..depth {
                let key = format!("layers.{stage}.blocks.{block}.attn.relative_position_bias_table");
                let old = of.filter(|of| stage < of.depths.len()).map(|of| of.window(stage));
                report.resized.extend(resize_table(tensors, key, old, self.window(stage), self.pos_resize));
            }
        }
        report.resized.extend(of.and_then(|of| resize_patches(tensors, of.patch_size, self.patch_size)));
        change_channels(&self.first_conv(), self.in_chans, of.map(|of| of.in_chans), tensors, report);
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let same = || Some(Ok(self.clone()));
        match (key, value) {
            // They concern input and initialisation, not the computation.
            ("dynamic_img_size" | "strict_img_size", Value::Bool(_)) | ("weight_init", Value::String(_)) => {
                same()
            }
            ("norm_layer", _) if matches!(value.as_str(), Some("layernorm" | "LayerNorm")) => same(),
            ("norm_layer", _) => Some(Err(format!("`norm_layer` {value} is not supported"))),
            // A list of two is two stages here, and each is one side or a pair.
            ("pretrained_window_sizes", Value::Array(sizes)) => {
                let side = |side: &Value| usize::try_from(side.as_u64()?).ok();
                let size = |size: &Value| match size.as_array().map(Vec::as_slice) {
                    Some([rows, columns]) => Some([side(rows)?, side(columns)?]),
                    Some(_) => None,
                    None => side(size).map(|side| [side; 2]),
                };
                let sizes: Option<Vec<[usize; 2]>> = sizes.iter().map(size).collect();
                Some(Ok(Self { pretrained_window_sizes: StageSizes::of_stages(sizes?), ..self.clone() }))
            }
            _ => None,
        }
    }

    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        if self.version != base.version {
            return Err("timm's architecture is of the other version of Swin".into());
        }
        args.remove("pos_resize");
        let timm = Self { window_fit: base.window_fit, pad_first: base.pad_first, ..self.clone() };
        if self.cuts_as(&timm) {
            args.remove("window_fit");
            args.remove("pad_first");
        }
        if args.contains_key("pretrained_window_sizes") {
            let size = |stage| match self.pretrained_window_sizes.at(stage) {
                [h, w] if h == w => json!(h),
                pair => json!(pair),
            };
            let sizes: Vec<Value> = (0..self.depths.len()).map(size).collect();
            args.insert("pretrained_window_sizes".into(), json!(sizes));
        }
        let of_v2: &[&str] = if self.version == SwinVersion::V2 { &[] } else { &["act_layer"] };
        refuse_args(args, &[&["norm_eps", "window_fit", "pad_first"], of_v2].concat())
    }

    fn of_huggingface(fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        match fields.text("model_type") {
            Ok(Some("swin")) => Some(huggingface::read(fields, SwinVersion::V1)),
            Ok(Some("swinv2")) => Some(huggingface::read(fields, SwinVersion::V2)),
            _ => None,
        }
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        huggingface::write(self)
    }
}

impl SwinConfig {
    /// Whether `other` cuts the maps of an image of `img_size` in the same way.
    fn cuts_as(&self, other: &Self) -> bool {
        (0..self.depths.len()).all(|stage| {
            let windows = |config: &Self| config.windows(stage, 1, self.grid(stage));
            windows(self).same(&windows(other))
        })
    }
}

/// The windows of the stages: from buffers, or from the tables of V1, which show squares.
fn windows(
    file: &Converted,
    stages: usize,
    is_v2: bool,
    notes: &mut Vec<String>,
) -> Result<StageSizes, LoadError> {
    let mut windows = Vec::new();
    let mut is_assumed = false;
    for stage in 0..stages {
        let shown = Buffers(file).window(stage);
        if is_v2 {
            is_assumed |= shown.is_none();
            windows.push(shown.unwrap_or([USUAL_WINDOW; 2]));
            continue;
        }
        let key = format!("layers.{stage}.blocks.0.attn.relative_position_bias_table");
        let [rows, _] = Shapes(&file.map).get::<2>(&key)?;
        let has_rows = |window: &[usize; 2]| offsets(*window).iter().product::<usize>() == rows;
        let window = shown.filter(has_rows).or_else(|| side_of(rows).map(|side| [side; 2]));
        windows.push(window.ok_or_else(|| {
            let reason = format!("tensor `{key}`: has {rows} rows, no square window has");
            LoadError::unshown(&file.map.path, "window_size", reason)
        })?);
    }
    if is_assumed {
        notes.push(format!(
            "tensors of Swin V2 do not show the windows: assumed {USUAL_WINDOW}x{USUAL_WINDOW}"
        ));
    }
    Ok(StageSizes::of_stages(windows))
}

/// The windows of pretraining: from buffers of V2. Those of the model itself are written as 0.
fn origins(file: &Converted, config: &SwinConfig, notes: &mut Vec<String>) -> StageSizes {
    let stages = 0..config.depths.len();
    let windows = || stages.clone().map(|stage| config.window_size.at(stage));
    let shown = stages.clone().zip(windows()).map(|(stage, window)| Buffers(file).origin(stage, window));
    match shown.collect::<Option<Vec<_>>>() {
        Some(origins) if !windows().eq(origins.iter().copied()) => StageSizes::of_stages(origins),
        Some(_) => StageSizes::square(0),
        None => {
            notes.push(
                "tensors do not show the windows of pretraining: pretrained_window_sizes=0 is assumed".into(),
            );
            StageSizes::square(0)
        }
    }
}

/// The size of the images: from the number of masks, else the last window covers the last map as in all published models.
fn image_of(file: &Converted, config: &SwinConfig, notes: &mut Vec<String>) -> [usize; 2] {
    let stages = config.depths.len();
    let times = |sizes: [usize; 2], by: [usize; 2]| [0, 1].map(|axis| sizes[axis].saturating_mul(by[axis]));
    if let Some(side) = Buffers(file).windows_aside().filter(|_| stages > 0) {
        let size = times(times(config.window_size.at(0), config.patch_size), [side; 2]);
        let [h, w] = size;
        notes.push(format!(
            "images of {h}x{w} are assumed: {side}x{side} windows, as many as there are masks"
        ));
        return size;
    }
    let last = if stages == 0 { [USUAL_WINDOW; 2] } else { config.window_size.at(stages - 1) };
    let scale = 1_usize.checked_shl(stages.saturating_sub(1) as u32).unwrap_or(usize::MAX);
    let size = times(times(last, config.patch_size), [scale; 2]);
    let [h, w] = size;
    notes.push(format!("images of {h}x{w} are assumed: the last window covers the last map"));
    size
}

/// Rows and columns of the offsets within a window.
fn offsets(window: [usize; 2]) -> [usize; 2] {
    window.map(|side| 2 * side - 1)
}

/// The side of the window whose table has this number of rows.
fn side_of(rows: usize) -> Option<usize> {
    let offsets = rows.isqrt();
    (offsets * offsets == rows && offsets % 2 == 1).then(|| offsets.div_ceil(2))
}

/// Resizes a table of biases from windows of `old` to windows of `new`. Without `old`, or if the table has another number
/// of rows, the window is a square. A table of no window stays, and is reported as mismatched.
fn resize_table(
    tensors: &mut TensorMap,
    key: String,
    old: Option<[usize; 2]>,
    new: [usize; 2],
    method: PosResize,
) -> Option<ShapeChange> {
    let table = tensors.get(&key)?;
    let &[rows, heads] = table.shape() else { return None };
    let named = old.filter(|window| offsets(*window).iter().product::<usize>() == rows);
    let old = named.or_else(|| side_of(rows).map(|side| [side; 2]))?;
    if old == new {
        return None;
    }
    let values = resample_offsets(&table.to_f64(), heads, offsets(old), offsets(new), method);
    let (found, expected) = (table.shape().to_vec(), vec![values.len() / heads.max(1), heads]);
    tensors.tensors.insert(key.clone(), HostTensor::from_f64(expected.clone(), &values).ok()?);
    Some(ShapeChange { key, found, expected })
}
