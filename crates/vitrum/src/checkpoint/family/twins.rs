//! Files of Twins: timm's, whose names are those of the authors' code (Meituan-AutoML/Twins).

use serde_json::{Map, Value};

use super::maps::{Shapes, assumed_heads, refuse_args};
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::LoadError;
use crate::checkpoint::fields::mlp_ratio;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::models::twins::TwinsConfig;

/// timm's own names, for messages about files whose names resemble them.
const OWN: [Row; 15] = [
    same("patch_embeds.{N}.proj"),
    same("patch_embeds.{N}.norm"),
    same("blocks.{N}.{M}.norm1"),
    same("blocks.{N}.{M}.norm2"),
    same("blocks.{N}.{M}.attn.qkv"),
    same("blocks.{N}.{M}.attn.q"),
    same("blocks.{N}.{M}.attn.kv"),
    same("blocks.{N}.{M}.attn.sr"),
    same("blocks.{N}.{M}.attn.norm"),
    same("blocks.{N}.{M}.attn.proj"),
    same("blocks.{N}.{M}.mlp.fc1"),
    same("blocks.{N}.{M}.mlp.fc2"),
    same("pos_block.{N}.proj.0"),
    same("norm"),
    same("head"),
];

const fn same(name: &'static str) -> Row {
    (name, name, Edit::Keep)
}

/// Width of a head of Twins-PCPVT, and of Twins-SVT.
const HEAD_WIDTHS: [usize; 2] = [64, 32];

/// Side of the windows of every published Twins-SVT.
const WINDOW: usize = 7;

impl Files for TwinsConfig {
    const NAMINGS: &'static [Naming] = &[Naming {
        rows: &[&OWN],
        widths: &["patch_embeds.3.proj.weight"],
        ..Naming::new(Dialect::Timm, &["patch_embeds.0.proj.weight", "pos_block.0.proj.0.weight"])
    }];
    /// timm's constructor has `img_size`, but only to check that the patches fill it.
    const TIMM_TAKES_SIZE: bool = false;

    fn first_conv(&self) -> String {
        "patch_embeds.0.proj".into()
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let mut config = Self::default();
        let [_, channels, side, _] = shapes.get::<4>("patch_embeds.0.proj.weight")?;
        (config.in_chans, config.patch_size) = (channels, side);
        let has_windows = file.map.contains("blocks.0.0.attn.qkv.weight");
        let told_windows = file.told_as::<[usize; 4]>("wss");
        config.wss = has_windows.then_some(told_windows.unwrap_or([WINDOW; 4]));
        let told_heads = file.told_as::<[usize; 4]>("num_heads");
        let head_width = HEAD_WIDTHS[usize::from(has_windows)];
        for stage in 0..4 {
            let [width, ..] = shapes.get::<4>(&format!("patch_embeds.{stage}.proj.weight"))?;
            config.embed_dims[stage] = width;
            config.depths[stage] = shapes.count(&format!("blocks.{stage}.{{}}.norm1.weight"), 0);
            let [hidden, _] = shapes.get::<2>(&format!("blocks.{stage}.0.mlp.fc1.weight"))?;
            config.mlp_ratios[stage] = mlp_ratio(hidden, width);
            config.sr_ratios[stage] = (0..2)
                .find_map(|block| shapes.find::<4>(&format!("blocks.{stage}.{block}.attn.sr.weight")))
                .map_or(1, |[_, _, side, _]| side);
            config.num_heads[stage] = match told_heads {
                Some(heads) => heads[stage],
                None => assumed_heads(&file.map.path, width, head_width, &mut Vec::new())?,
            };
        }
        config.num_classes = file.map.rows("head.weight").unwrap_or(0);
        let Inferred { config, mut notes } = file.checked(config)?.settle_named(file)?;
        if told_heads.is_none() {
            notes.push(format!(
                "the number of heads is not in the tensors; heads of {head_width} are assumed"
            ));
        }
        if has_windows && told_windows.is_none() {
            notes.push(format!("the windows are not in the tensors; a side of {WINDOW} is assumed"));
        }
        if !file.tells("norm_eps") {
            notes.push("epsilon is assumed as usual for a Twins".into());
        }
        Ok(Inferred { config, notes })
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        match (key, value.as_str()) {
            ("global_pool", Some("avg")) => Some(Ok(self.clone())),
            ("global_pool", _) => Some(Err(format!("`global_pool` {value} is not supported, only avg"))),
            _ => None,
        }
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        refuse_args(args, &["norm_eps"])
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        Err("transformers does not have Twins".into())
    }
}
