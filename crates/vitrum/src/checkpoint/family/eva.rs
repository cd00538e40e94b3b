//! Files of EVA and its relatives: timm, BAAI's EVA and EVA-02, Meta's DINOv3, Perception Encoder and Sapiens2,
//! transformers' DINOv3.

use serde_json::{Map, Value, json};

use super::beit::left_out as pretraining;
use super::maps::{Shapes, heads, refuse_args};
use super::{Files, HuggingFaceModel, Inferred, Naming, vit};
use crate::checkpoint::convert::join;
use crate::checkpoint::fields::{Fields, mlp_ratio};
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::Report;
use crate::checkpoint::tensors::{HostTensor, TensorError, Tensors};
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::Config;
use crate::models::eva::{AttnType, EvaConfig, GridIndexing, KvHeads, RopeType};
use crate::models::vit::{Activation, GlobalPool, NormLayer};

const PATCHES: &str = vit::keys::timm::TELLTALE;

/// BAAI's names.
const EVA: [Row; 6] = [
    ("blocks.{N}.mlp.ffn_ln", "blocks.{N}.mlp.norm", Edit::Keep),
    ("blocks.{N}.attn.inner_attn_ln", "blocks.{N}.attn.norm", Edit::Keep),
    ("blocks.{N}.mlp.w12", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("blocks.{N}.mlp.w1", "blocks.{N}.mlp.fc1_g", Edit::Keep),
    ("blocks.{N}.mlp.w2", "blocks.{N}.mlp.fc1_x", Edit::Keep),
    ("blocks.{N}.mlp.w3", "blocks.{N}.mlp.fc2", Edit::Keep),
];

/// Meta's names in DINOv3.
const DINOV3: [Row; 3] = [
    ("storage_tokens", "reg_token", Edit::Keep),
    ("blocks.{N}.ls1.gamma", "blocks.{N}.gamma_1", Edit::Keep),
    ("blocks.{N}.ls2.gamma", "blocks.{N}.gamma_2", Edit::Keep),
];

/// Meta's names in Sapiens2.
const SAPIENS2: [Row; 10] = [
    ("storage_tokens", "reg_token", Edit::Keep),
    ("patch_embed.projection", "patch_embed.proj", Edit::Keep),
    ("blocks.{N}.ln1", "blocks.{N}.norm1", Edit::Keep),
    ("blocks.{N}.attn.wq", "blocks.{N}.attn.q_proj", Edit::Keep),
    ("blocks.{N}.attn.wk", "blocks.{N}.attn.k_proj", Edit::Keep),
    ("blocks.{N}.attn.wv", "blocks.{N}.attn.v_proj", Edit::Keep),
    ("blocks.{N}.attn.gamma.weight", "blocks.{N}.gamma_1", Edit::Keep),
    ("blocks.{N}.ln2", "blocks.{N}.norm2", Edit::Keep),
    ("blocks.{N}.ffn.w12", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("blocks.{N}.ffn.w3", "blocks.{N}.mlp.fc2", Edit::Keep),
];

/// The last norm in Sapiens2.
const SAPIENS2_NORM: [Row; 1] = [("ln1", "norm", Edit::Keep)];

/// Meta's names in the Perception Encoder besides those of OpenAI's CLIP: gains, and a pool by attention.
const PERCEPTION: [Row; 7] = [
    ("transformer.resblocks.{N}.ls_1.gamma", "blocks.{N}.gamma_1", Edit::Keep),
    ("transformer.resblocks.{N}.ls_2.gamma", "blocks.{N}.gamma_2", Edit::Keep),
    ("attn_pool.probe", "attn_pool.latent", Edit::Keep),
    ("attn_pool.attn.out_proj", "attn_pool.proj", Edit::Keep),
    ("attn_pool.layernorm", "attn_pool.norm", Edit::Keep),
    ("attn_pool.mlp.c_fc", "attn_pool.mlp.fc1", Edit::Keep),
    ("attn_pool.mlp.c_proj", "attn_pool.mlp.fc2", Edit::Keep),
];

/// transformers' names of DINOv3 outside the blocks.
const HUGGING_FACE: [Row; 4] = [
    ("embeddings.cls_token", "cls_token", Edit::Keep),
    ("embeddings.register_tokens", "reg_token", Edit::Keep),
    ("embeddings.patch_embeddings", "patch_embed.proj", Edit::Keep),
    ("norm", "norm", Edit::Keep),
];

/// transformers' names of DINOv3's blocks, after a prefix. `up_proj` is the first product of an MLP without a gate. An MLP
/// with a gate has `gate_proj` for the gate, and `up_proj` for what the gate multiplies.
macro_rules! hugging_face_blocks {
    ($prefix:literal) => {
        [
            (concat!($prefix, "layer.{N}.norm1"), "blocks.{N}.norm1", Edit::Keep),
            (concat!($prefix, "layer.{N}.attention.q_proj.bias"), "blocks.{N}.attn.q_bias", Edit::Keep),
            (concat!($prefix, "layer.{N}.attention.v_proj.bias"), "blocks.{N}.attn.v_bias", Edit::Keep),
            (concat!($prefix, "layer.{N}.attention.q_proj"), "blocks.{N}.attn.q", Edit::Keep),
            (concat!($prefix, "layer.{N}.attention.k_proj"), "blocks.{N}.attn.k", Edit::Keep),
            (concat!($prefix, "layer.{N}.attention.v_proj"), "blocks.{N}.attn.v", Edit::Keep),
            (concat!($prefix, "layer.{N}.attention.o_proj"), "blocks.{N}.attn.proj", Edit::Keep),
            (concat!($prefix, "layer.{N}.layer_scale1.lambda1"), "blocks.{N}.gamma_1", Edit::Keep),
            (concat!($prefix, "layer.{N}.norm2"), "blocks.{N}.norm2", Edit::Keep),
            (concat!($prefix, "layer.{N}.mlp.gate_proj"), "blocks.{N}.mlp.fc1_g", Edit::Keep),
            (concat!($prefix, "layer.{N}.mlp.up_proj"), "blocks.{N}.mlp.fc1", Edit::Keep),
            (concat!($prefix, "layer.{N}.mlp.up_proj"), "blocks.{N}.mlp.fc1_x", Edit::Keep),
            (concat!($prefix, "layer.{N}.mlp.down_proj"), "blocks.{N}.mlp.fc2", Edit::Keep),
            (concat!($prefix, "layer.{N}.layer_scale2.lambda1"), "blocks.{N}.gamma_2", Edit::Keep),
        ]
    };
}

/// In files.
const IN_FILES: [Row; 14] = hugging_face_blocks!("");

/// In memory.
const IN_MEMORY: [Row; 14] = hugging_face_blocks!("model.");

const REGISTERS: &str = "embeddings.register_tokens";
const HF_PATCHES: &str = "embeddings.patch_embeddings.weight";

/// Query, key and value of PE's pool, in one tensor.
const POOL_QKV: &str = "attn_pool.attn.in_proj_";

const fn timm(telltales: &'static [&'static str]) -> Naming {
    Naming { rows: &[&EVA], left_out, ..Naming::new(Dialect::Timm, telltales) }
}

const fn hugging_face(telltales: &'static [&'static str], rows: &'static [&'static [Row]]) -> Naming {
    Naming {
        rows,
        heads: &[],
        widths: &["norm.weight"],
        left_out: |name, _| (name == "embeddings.mask_token").then_some("used only while pretraining"),
        finish: |map| finish_huggingface(map).map(|()| None),
        complete: add_mask_token,
        ..Naming::new(Dialect::HuggingFace, telltales)
    }
}

const fn perception(telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows: &[&PERCEPTION, &vit::keys::clip::ROWS],
        heads: &[],
        finish: |map| split_pool(map).map(|()| None),
        ..Naming::new(Dialect::Clip, telltales)
    }
}

/// The reason to leave out a tensor; `None` to keep it.
fn left_out(name: &str, file: &Tensors) -> Option<&'static str> {
    match name {
        _ if name.contains("rope") && !name.ends_with("rope.freqs") => Some("follows from the grid"),
        _ if name.ends_with(".bias_mask") => Some("follows from the form of attention"),
        _ if name.starts_with("local_cls_norm.") || name.starts_with("projectors.") => {
            Some("used only while pretraining")
        }
        _ => pretraining(name, file),
    }
}

impl Files for EvaConfig {
    const NAMINGS: &'static [Naming] = &[
        timm(&[PATCHES, "blocks.0.attn.q_bias"]),
        timm(&[PATCHES, "blocks.0.attn.q_proj.weight"]),
        timm(&[PATCHES, "rope.freqs"]),
        timm(&[PATCHES, "blocks.0.gamma_1", "reg_token"]),
        timm(&[PATCHES, "norm_pre.weight", "attn_pool.latent"]),
        // The Perception Encoder for language and for dense tasks has no norm after the blocks.
        Naming {
            absent: &["norm.weight", "fc_norm.weight", "blocks.0.ls1.gamma"],
            ..timm(&[PATCHES, "norm_pre.weight"])
        },
        Naming { is_weak: true, ..timm(&[PATCHES]) },
        Naming {
            rows: &[&DINOV3, &EVA],
            left_out,
            finish: |map| split_biases(map).map(|()| None),
            ..Naming::new(Dialect::Official, &[PATCHES, "storage_tokens"])
        },
        Naming {
            rows: &[&SAPIENS2, &SAPIENS2_NORM],
            left_out,
            ..Naming::new(
                Dialect::Official,
                &["patch_embed.projection.weight", "storage_tokens", "blocks.0.attn.wq.weight"],
            )
        },
        hugging_face(
            &[REGISTERS, HF_PATCHES, "layer.0.attention.q_proj.weight"],
            &[&IN_FILES, &HUGGING_FACE],
        ),
        hugging_face(
            &[REGISTERS, HF_PATCHES, "model.layer.0.attention.q_proj.weight"],
            &[&IN_MEMORY, &HUGGING_FACE],
        ),
        perception(&["positional_embedding", "conv1.weight", "attn_pool.probe"]),
        Naming {
            is_weak: true,
            // A CLIP has it.
            absent: &["ln_post.weight"],
            ..perception(&["positional_embedding", "conv1.weight", "ln_pre.weight"])
        },
    ];

    fn first_conv(&self) -> String {
        "patch_embed.proj".into()
    }

    /// Biases of separate products, which BAAI's files hold beside the weights, go to these. A head without a bias gets
    /// one of zeros.
    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        let names: Vec<String> = tensors.names().map(str::to_string).collect();
        for name in names {
            for part in ["q", "v"] {
                if let Some(attention) = name.strip_suffix(&format!(".{part}_bias"))
                    && tensors.contains(&format!("{attention}.{part}_proj.weight"))
                    && let Some(bias) = tensors.tensors.remove(&name)
                {
                    tensors.tensors.insert(format!("{attention}.{part}_proj.bias"), bias);
                }
            }
        }
        vit::convert::add_bias(tensors, "head")
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let (map, shapes) = (&file.map, Shapes(&file.map));
        let mut config = Self::default();
        let [width, channels, rows, columns] = shapes.get::<4>("patch_embed.proj.weight")?;
        (config.embed_dim, config.in_chans, config.patch_size) = (width, channels, [rows, columns]);
        config.depth = shapes.count("blocks.{}.norm1.weight", 0);
        config.qkv_fused = map.contains("blocks.0.attn.qkv.weight");
        let has_key_bias =
            ["qkv", "k_proj"].iter().any(|layer| map.contains(&format!("blocks.0.attn.{layer}.bias")));
        config.attn_type = if has_key_bias { AttnType::Rope } else { AttnType::Eva };
        config.qkv_bias = has_key_bias
            || ["q_bias", "q_proj.bias"].iter().any(|bias| map.contains(&format!("blocks.0.attn.{bias}")));
        config.qk_norm = map.contains("blocks.0.attn.q_norm.weight");
        config.scale_attn_inner = map.contains("blocks.0.attn.norm.weight");
        config.scale_mlp = map.contains("blocks.0.mlp.norm.weight");
        let [_, hidden] = shapes.get::<2>("blocks.0.mlp.fc2.weight")?;
        let first = map.rows("blocks.0.mlp.fc1.weight");
        config.swiglu_mlp = first != Some(hidden);
        config.mlp_ratio = mlp_ratio(hidden, width);
        if config.swiglu_mlp && first.is_none() && !config.scale_mlp {
            config.swiglu_align_to = 1;
        }
        config.init_values = map.contains("blocks.0.gamma_1").then_some(1e-5);
        config.attn_only_layer_scale = config.init_values.is_some() && !map.contains("blocks.0.gamma_2");
        if !map.contains("blocks.0.norm1.bias") {
            config.norm_layer = NormLayer::RmsNorm;
        }
        config.class_token = map.contains("cls_token");
        config.num_reg_tokens = shapes.find::<3>("reg_token").map_or(0, |[_, registers, _]| registers);
        config.use_abs_pos_emb = map.contains("pos_embed");
        config.use_pre_transformer_norm = map.contains("norm_pre.weight");
        config.num_classes = map.rows("head.weight").unwrap_or(0);
        let [norm, fc_norm] = ["norm", "fc_norm"].map(|norm| map.contains(&format!("{norm}.weight")));
        let relative = config.relative(norm || fc_norm, file);
        // timm pools a DINOv3 by the mean, its authors and transformers by the class token. A Perception Encoder has a
        // pool, or gives its tokens, which timm pools by the mean.
        let is_timms_mean =
            relative == Relative::Perception || relative == Relative::DinoV3 && file.dialect == Dialect::Timm;
        config.global_pool = match (map.contains("attn_pool.latent"), fc_norm || !config.class_token) {
            (true, _) => GlobalPool::Map,
            (false, true) => GlobalPool::Avg,
            (false, false) if is_timms_mean => GlobalPool::Avg,
            (false, false) => GlobalPool::Token,
        };
        if config.norms() != [fc_norm, norm] {
            (config.use_fc_norm, config.use_post_transformer_norm) = (Some(fc_norm), Some(norm));
        }
        let mut notes = Vec::new();
        let freqs = shapes.find::<4>("rope.freqs");
        config.num_heads = match (freqs, shapes.find::<1>("blocks.0.attn.q_norm.weight")) {
            (Some([_, _, heads, _]), _) => heads,
            (None, Some([head])) if head > 0 => width / head,
            _ => heads(file, width, 64, &mut notes)?,
        };
        config.num_kv_heads = kv_heads(map, config.depth, config.num_heads);
        if config.num_kv_heads.is_some() {
            config.attn_type = AttnType::Rope;
        }
        let pool_ratio = map.rows("attn_pool.mlp.fc1.weight").map(|hidden| mlp_ratio(hidden, width));
        config.attn_pool_mlp_ratio = pool_ratio.filter(|ratio| *ratio != config.mlp_ratio);
        let grid = config.set_grid(file, &mut notes);
        config.assume(relative, grid, &mut notes);
        let Inferred { config, notes: more } = config.settle_named(file)?;
        config.validate().map_err(|error| LoadError::config(&map.path, error))?;
        notes.extend(more);
        Ok(Inferred { config, notes })
    }

    /// DINOv3's distilled files have biases of zeros, which timm's models without biases leave out.
    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        if !self.qkv_bias && self.qkv_fused {
            let is_bias = |name: &&str| name.ends_with(".attn.q_bias") || name.ends_with(".attn.v_bias");
            let zeros: Vec<String> = tensors
                .names()
                .filter(is_bias)
                .filter(|name| tensors.get(name).is_some_and(|t| t.to_f64().iter().all(|x| *x == 0.0)))
                .map(str::to_string)
                .collect();
            zeros.iter().for_each(|name| drop(tensors.tensors.remove(name)));
        }
        self.encoder().fit(tensors, of.map(EvaConfig::encoder).as_ref(), report);
    }

    fn num_features(&self) -> usize {
        self.embed_dim
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let same = || Some(Ok(self.clone()));
        match key {
            // They concern the sizes of images, and training.
            "dynamic_img_size" if value.is_boolean() => same(),
            "rope_shift_coords" | "rope_jitter_coords" | "rope_rescale_coords" | "rope_mrope_section"
                if value.is_null() =>
            {
                same()
            }
            "rope_shift_coords" | "rope_jitter_coords" | "rope_rescale_coords" => Some(Err(format!(
                "`{key}` {value} is not supported: places are never moved or scaled at random in training"
            ))),
            "patch_drop_rate" if value.as_f64() == Some(0.0) => same(),
            "patch_drop_rate" => Some(Err(format!(
                "`{key}` {value} is not supported: rotations do not follow the patches that stay"
            ))),
            "dynamic_img_pad" if value == &Value::Bool(false) => same(),
            // One number for both sides.
            "ref_feat_shape" if value.is_u64() => {
                let side = value.as_u64().and_then(|side| usize::try_from(side).ok());
                Some(Ok(Self { ref_feat_shape: side.map(|side| [side, side]), ..self.clone() }))
            }
            "norm_layer" => Some(match vit::norm_layer(value) {
                Some(norm_layer) => Ok(Self { norm_layer, ..self.clone() }),
                None => Err(format!("`norm_layer` {value} is not supported")),
            }),
            _ => None,
        }
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        args.remove("pos_resize");
        refuse_args(args, &["norm_eps", "norm_layer"])
    }

    fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<Self, String>> {
        (fields.text("model_type") == Ok(Some("dinov3_vit"))).then(|| of_huggingface(fields, class))
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        to_huggingface(self)
    }
}

/// The models of this family. They differ in what tensors do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relative {
    Eva,
    Eva02,
    /// Vision Transformers with learned rotary positions.
    Mixed,
    /// timm's Vision Transformers with registers and without a class token (`rope_reg1_gap`).
    Gap,
    DinoV3,
    Sapiens2,
    Perception,
}

impl EvaConfig {
    /// The model that tensors of these options are usual for. `has_norm`: whether a norm is after the blocks.
    fn relative(&self, has_norm: bool, file: &Converted) -> Relative {
        let is_plain = self.norm_layer == NormLayer::LayerNorm;
        let registers = self.num_reg_tokens > 0 && self.init_values.is_some() && !self.use_abs_pos_emb;
        let pool = file.map.contains("attn_pool.latent");
        let pre_norm = self.use_pre_transformer_norm && self.attn_type == AttnType::Rope;
        match file.dialect {
            _ if file.map.contains("rope.freqs") => Relative::Mixed,
            _ if self.attn_only_layer_scale && !is_plain => Relative::Sapiens2,
            Dialect::Official | Dialect::HuggingFace => Relative::DinoV3,
            Dialect::Clip => Relative::Perception,
            _ if pre_norm && (pool || !has_norm) => Relative::Perception,
            _ if registers && is_plain && self.class_token => Relative::DinoV3,
            _ if registers && is_plain => Relative::Gap,
            _ if self.swiglu_mlp => Relative::Eva02,
            _ => Relative::Eva,
        }
    }

    /// Sets the image size, and whether the table of positions has rows for class token and registers. Returns the
    /// table's grid.
    fn set_grid(&mut self, file: &Converted, notes: &mut Vec<String>) -> Option<[usize; 2]> {
        let patch = self.patch_size;
        let prefix = usize::from(self.class_token) + self.num_reg_tokens;
        let rows = file.map.get("pos_embed").and_then(|table| table.shape().get(1).copied());
        let told = file.img_size().map(|[height, width]| [height / patch[0], width / patch[1]]);
        let table = rows.and_then(|rows| vit::split_rows(rows, prefix, told));
        self.no_embed_class = prefix > 0 && table.is_some_and(|(in_front, _)| in_front == 0);
        let grid = table.map(|(_, grid)| grid);
        self.img_size = match (file.img_size(), grid) {
            (Some(size), _) => size,
            (None, Some([rows, columns])) => {
                [rows.saturating_mul(patch[0]), columns.saturating_mul(patch[1])]
            }
            (None, None) => {
                let size = patch.map(|side| (224 / side).max(1).saturating_mul(side));
                notes.push(format!("the image size is not in the tensors; {size:?} is assumed"));
                size
            }
        };
        grid
    }

    /// Sets what tensors do not show as usual for these models: rotary positions, epsilon, heads of the pool. `grid` is
    /// that of the table of positions.
    fn assume(&mut self, relative: Relative, grid: Option<[usize; 2]>, notes: &mut Vec<String>) {
        self.use_rot_pos_emb = relative != Relative::Eva;
        let note = match relative {
            Relative::Mixed => {
                (self.rope_type, self.rope_temperature) = (RopeType::Mixed, 10.0);
                self.rope_grid_indexing = GridIndexing::Xy;
                "rotary positions of columns before rows are assumed".into()
            }
            Relative::Sapiens2 | Relative::DinoV3 => {
                (self.rope_type, self.rope_temperature) = (RopeType::DinoV3, 100.0);
                self.rope_rotate_half = true;
                let is_dinov3 = relative == Relative::DinoV3;
                self.norm_eps = if is_dinov3 { 1e-5 } else { self.norm_eps };
                let name = if is_dinov3 { "DINOv3" } else { "Sapiens2" };
                format!("rotary positions are assumed as usual for a {name}")
            }
            Relative::Perception => {
                let [rows, columns] = grid.unwrap_or([24, 24]);
                (self.ref_feat_shape, self.norm_eps) = (Some([rows, columns]), 1e-5);
                self.rope_grid_indexing = GridIndexing::Xy;
                self.rope_grid_offset = if self.class_token { 1.0 } else { 0.0 };
                let heads = match self.global_pool {
                    GlobalPool::Map if self.embed_dim.is_multiple_of(PERCEPTION_HEADS) => {
                        self.attn_pool_num_heads = Some(PERCEPTION_HEADS);
                        format!(" and {PERCEPTION_HEADS} heads of pooling")
                    }
                    _ => String::new(),
                };
                format!(
                    "rotary positions for a grid of {rows}x{columns}{heads} are assumed as usual for a Perception \
                     Encoder"
                )
            }
            Relative::Gap | Relative::Eva02 => {
                self.ref_feat_shape = Some([16, 16]);
                let name = if relative == Relative::Gap { "timm's rope_reg1_gap" } else { "EVA-02" };
                format!("rotary positions for a grid of 16x16 are assumed as in {name}")
            }
            Relative::Eva if self.use_abs_pos_emb => "no rotary positions are assumed, as in EVA".into(),
            Relative::Eva => {
                "no positions in the tensors, so none are assumed; rotary positions need the model's name or \
                              configuration"
                    .into()
            }
        };
        notes.push(note);
        let pool = match self.global_pool {
            GlobalPool::Token => "the class token",
            GlobalPool::Map => "attention",
            _ => "the mean over patches",
        };
        notes.push(format!("pooling by {pool} and an epsilon of {:e} are assumed", self.norm_eps));
        let may_end_in_norms = self.init_values.is_none() && !self.qk_norm && self.num_kv_heads.is_none();
        if may_end_in_norms && matches!(relative, Relative::Eva | Relative::Eva02) {
            notes.push(
                "the tensors do not show whether norms are before the branches of a block or at their end \
                 (use_post_norm); before is assumed"
                    .into(),
            );
        }
    }
}

/// Heads of the pool in every published Perception Encoder.
const PERCEPTION_HEADS: usize = 8;

/// Heads of keys and values, from the widths of their products. `None`: as many as of queries.
fn kv_heads(map: &TensorMap, depth: usize, heads: usize) -> Option<KvHeads> {
    let rows = |block: usize, layer: &str| map.rows(&format!("blocks.{block}.attn.{layer}.weight"));
    let of_block = |block: usize| {
        let (keys, queries) = (rows(block, "k_proj")?, rows(block, "q_proj")?);
        keys.checked_mul(heads)?.checked_div(queries)
    };
    let each: Vec<usize> = (0..depth).map(of_block).collect::<Option<_>>()?;
    match each.first() {
        Some(first) if each.iter().any(|heads| heads != first) => Some(KvHeads::Each(each)),
        Some(first) => Some(KvHeads::All(*first)).filter(|_| *first != heads),
        None => None,
    }
}

/// Splits the fused bias of DINOv3 into those of queries and values. Keys have none.
fn split_biases(map: &mut TensorMap) -> Result<(), LoadError> {
    let names: Vec<String> =
        map.names().filter(|n| n.ends_with(".attn.qkv.bias")).map(str::to_string).collect();
    for name in names {
        let Some(attention) = name.strip_suffix(".qkv.bias") else { continue };
        for (part, place) in [("q_bias", 0), ("v_bias", 2)] {
            let third = part_of(map, &name, 3, place..place + 1)?;
            map.tensors.insert(format!("{attention}.{part}"), third);
        }
        map.tensors.remove(&name);
    }
    Ok(())
}

/// Splits the fused projection of PE's pool.
fn split_pool(map: &mut TensorMap) -> Result<(), LoadError> {
    for part in ["weight", "bias"] {
        let name = format!("{POOL_QKV}{part}");
        if !map.contains(&name) {
            continue;
        }
        for (layer, places) in [("q", 0..1), ("kv", 1..3)] {
            let rows = part_of(map, &name, 3, places)?;
            map.tensors.insert(format!("attn_pool.{layer}.{part}"), rows);
        }
        map.tensors.remove(&name);
    }
    Ok(())
}

/// Parts of a tensor that is divided into `parts` along its first axis.
fn part_of(
    map: &TensorMap,
    name: &str,
    parts: usize,
    places: std::ops::Range<usize>,
) -> Result<HostTensor, LoadError> {
    let fail = |error: TensorError| LoadError::tensor(&map.path, name, error);
    let tensor = map.get(name).ok_or_else(|| LoadError::tensor(&map.path, name, "is missing"))?;
    let rows = tensor.shape().first().copied().unwrap_or(0);
    if rows == 0 || rows % parts != 0 {
        return Err(fail(TensorError::shape(format!("[{parts}·D, …]"), tensor.shape())));
    }
    let one = rows / parts;
    tensor.slice(0, places.start * one..places.end * one).map_err(fail)
}

/// Joins query, key and value, and gives the second product of a gated MLP its name.
fn finish_huggingface(map: &mut TensorMap) -> Result<(), LoadError> {
    join(&mut map.tensors).map_err(|(name, error)| LoadError::tensor(&map.path, &name, error))?;
    let gates: Vec<String> =
        map.names().filter_map(|name| name.strip_suffix(".fc1_g.weight").map(str::to_string)).collect();
    for mlp in gates {
        for part in ["weight", "bias"] {
            if let Some(tensor) = map.tensors.remove(&format!("{mlp}.fc1.{part}")) {
                map.tensors.insert(format!("{mlp}.fc1_x.{part}"), tensor);
            }
        }
    }
    Ok(())
}

/// Adds the token for masked patches, which no answer reads; transformers expects it.
fn add_mask_token(tensors: &mut TensorMap) -> Result<(), LoadError> {
    let Some(token) = tensors.get("embeddings.cls_token") else { return Ok(()) };
    let (shape, bytes) = (token.shape().to_vec(), vec![0; token.bytes().len()]);
    let mask = HostTensor::new(token.dtype(), shape, bytes)
        .map_err(|error| LoadError::tensor(&tensors.path, "embeddings.mask_token", error))?;
    tensors.tensors.insert("embeddings.mask_token".into(), mask);
    Ok(())
}

/// A DINOv3 of transformers.
fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Result<EvaConfig, String> {
    if let Some(class) = class.filter(|class| *class != "DINOv3ViTModel") {
        return Err(format!("{class} is not supported, only DINOv3ViTModel"));
    }
    let flag = |key: &str, usual: bool| Ok::<bool, String>(fields.flag(key)?.unwrap_or(usual));
    let bias = flag("query_bias", true)?;
    for (key, expected) in
        [("value_bias", bias), ("key_bias", false), ("proj_bias", true), ("mlp_bias", true)]
    {
        if flag(key, key != "key_bias")? != expected {
            return Err(format!("`{key}` {} is not supported here, only {expected}", !expected));
        }
    }
    let gated = flag("use_gated_mlp", false)?;
    let act = if gated { "silu" } else { "gelu" };
    let found = fields.text("hidden_act")?.unwrap_or("gelu");
    if found != act {
        return Err(format!("`hidden_act` `{found}` is not supported here, only `{act}`"));
    }
    let width = fields.size("hidden_size")?.unwrap_or(384);
    let hidden = fields.size("intermediate_size")?.unwrap_or(1536);
    Ok(EvaConfig {
        img_size: fields.pair("image_size")?.unwrap_or([224, 224]),
        patch_size: fields.pair("patch_size")?.unwrap_or([16, 16]),
        in_chans: fields.size("num_channels")?.unwrap_or(3),
        num_classes: 0,
        global_pool: GlobalPool::Token,
        embed_dim: width,
        depth: fields.size("num_hidden_layers")?.unwrap_or(12),
        num_heads: fields.size("num_attention_heads")?.unwrap_or(6),
        qkv_bias: bias,
        mlp_ratio: mlp_ratio(hidden, width),
        swiglu_mlp: gated,
        swiglu_align_to: usize::from(gated),
        init_values: Some(fields.number("layerscale_value")?.unwrap_or(1.0)),
        num_reg_tokens: fields.size("num_register_tokens")?.unwrap_or(0),
        use_abs_pos_emb: false,
        use_rot_pos_emb: true,
        rope_type: RopeType::DinoV3,
        rope_temperature: fields.number("rope_theta")?.unwrap_or(100.0),
        rope_rotate_half: true,
        norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-5),
        attn_drop_rate: fields.number("attention_dropout")?.unwrap_or(0.0),
        drop_path_rate: fields.number("drop_path_rate")?.unwrap_or(0.0),
        ..EvaConfig::default()
    })
}

fn to_huggingface(config: &EvaConfig) -> Result<HuggingFaceModel, String> {
    let encoder = config.encoder();
    let differs = [
        ("num_classes", config.num_classes > 0),
        ("global_pool", config.global_pool != GlobalPool::Token),
        ("use_fc_norm", config.norms() != [false, true]),
        ("use_rot_pos_emb", !config.use_rot_pos_emb),
        ("rope_type", config.rope_type != RopeType::DinoV3),
        ("rope_rotate_half", !config.rope_rotate_half),
        ("rope_grid_indexing", config.rope_grid_indexing != GridIndexing::Ij),
        ("rope_grid_offset", config.rope_grid_offset != 0.0),
        ("use_abs_pos_emb", config.use_abs_pos_emb),
        ("num_reg_tokens", config.num_reg_tokens == 0),
        ("class_token", !config.class_token),
        ("init_values", encoder.init_values.is_none()),
        ("qkv_fused", !config.qkv_fused),
        ("attn_only_layer_scale", config.attn_only_layer_scale),
        ("norm_layer", config.norm_layer != NormLayer::LayerNorm),
        ("attn_type", config.attn_type != AttnType::Eva),
        ("qk_norm", config.qk_norm),
        ("scale_mlp", config.scale_mlp),
        ("scale_attn_inner", config.scale_attn_inner),
        ("swiglu_align_to", config.swiglu_mlp && config.swiglu_align_to == 0),
        ("use_post_norm", config.use_post_norm),
        ("use_pre_transformer_norm", config.use_pre_transformer_norm),
        ("proj_drop_rate", config.proj_drop_rate != 0.0),
    ];
    if let Some((field, _)) = differs.iter().find(|(_, differs)| *differs) {
        return Err(format!("transformers' DINOv3 has no counterpart for this value of {field}"));
    }
    let act = if config.swiglu_mlp { Activation::Silu } else { Activation::Gelu };
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_string(), value);
    put("attention_dropout", json!(config.attn_drop_rate));
    put("drop_path_rate", json!(config.drop_path_rate));
    put("hidden_act", json!(vit::huggingface::huggingface_activation(act)));
    put("hidden_size", json!(config.embed_dim));
    put("image_size", vit::huggingface::side(config.img_size));
    put("initializer_range", json!(0.02));
    put("intermediate_size", json!(encoder.mlp_hidden_dim()));
    put("key_bias", json!(false));
    put("layer_norm_eps", json!(config.norm_eps));
    put("layerscale_value", json!(config.init_values));
    put("mlp_bias", json!(true));
    put("num_attention_heads", json!(config.num_heads));
    put("num_channels", json!(config.in_chans));
    put("num_hidden_layers", json!(config.depth));
    put("num_register_tokens", json!(config.num_reg_tokens));
    put("patch_size", vit::huggingface::side(config.patch_size));
    put("proj_bias", json!(true));
    put("query_bias", json!(config.qkv_bias));
    put("rope_theta", json!(config.rope_temperature));
    put("use_gated_mlp", json!(config.swiglu_mlp));
    put("value_bias", json!(config.qkv_bias));
    Ok(HuggingFaceModel { model_type: "dinov3_vit", class: "DINOv3ViTModel", fields, is_own: false })
}
