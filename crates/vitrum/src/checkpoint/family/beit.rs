//! Files of BEiT: timm and unilm (the authors' code), transformers' BEiT and data2vec.

use serde_json::{Map, Value, json};

use super::maps::{Shapes, heads, refuse_args};
use super::{Files, HuggingFaceModel, Inferred, Naming, headless, vit};
use crate::checkpoint::fields::{Fields, activation, mlp_ratio};
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::{Adaptation, Report};
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::Config;
use crate::models::beit::BeitConfig;
use crate::models::vit::{Activation, GlobalPool, PosResize};

const PATCHES: &str = vit::keys::timm::TELLTALE;
const TABLE: &str = "blocks.0.attn.relative_position_bias_table";
const SHARED_TABLE: &str = "rel_pos_bias.relative_position_bias_table";

/// transformers' names that its Vision Transformer has not: those of files (4.x), then those in memory (5.x).
const HUGGING_FACE: [Row; 15] = [
    ("encoder.layer.{N}.attention.attention.query.bias", "blocks.{N}.attn.q_bias", Edit::Keep),
    ("encoder.layer.{N}.attention.attention.value.bias", "blocks.{N}.attn.v_bias", Edit::Keep),
    (
        "encoder.layer.{N}.attention.attention.relative_position_bias.relative_position_bias_table",
        "blocks.{N}.attn.relative_position_bias_table",
        Edit::Keep,
    ),
    ("encoder.relative_position_bias.relative_position_bias_table", SHARED_TABLE, Edit::Keep),
    ("encoder.layer.{N}.lambda_1", "blocks.{N}.gamma_1", Edit::Keep),
    ("encoder.layer.{N}.lambda_2", "blocks.{N}.gamma_2", Edit::Keep),
    ("pooler.layernorm", "fc_norm", Edit::Keep),
    ("layers.{N}.attention.q_proj.bias", "blocks.{N}.attn.q_bias", Edit::Keep),
    ("layers.{N}.attention.v_proj.bias", "blocks.{N}.attn.v_bias", Edit::Keep),
    (
        "layers.{N}.relative_position_bias.relative_position_bias_table",
        "blocks.{N}.attn.relative_position_bias_table",
        Edit::Keep,
    ),
    ("shared_position_bias.relative_position_bias_table", SHARED_TABLE, Edit::Keep),
    ("layers.{N}.lambda_1", "blocks.{N}.gamma_1", Edit::Keep),
    ("layers.{N}.lambda_2", "blocks.{N}.gamma_2", Edit::Keep),
    ("embeddings.cls_token", "cls_token", Edit::Keep),
    ("embeddings.position_embeddings", "pos_embed", Edit::Keep),
];

const HF_PATCHES: &str = vit::keys::huggingface::TELLTALE;

const fn timm(telltales: &'static [&'static str]) -> Naming {
    Naming { left_out, ..Naming::new(Dialect::Timm, telltales) }
}

const fn hugging_face(telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows: &[&HUGGING_FACE, &vit::keys::huggingface::ROWS],
        beside: &[("classifier", "head", Edit::Keep)],
        base: "beit.",
        heads: &["classifier"],
        left_out,
        ..Naming::new(Dialect::HuggingFace, telltales)
    }
}

/// The reason to leave out a tensor; `None` to keep it.
pub(super) fn left_out(name: &str, _: &Tensors) -> Option<&'static str> {
    match name {
        _ if name.ends_with("relative_position_index") => Some("follows from the grid"),
        _ if ["mask_token", "embeddings.mask_token"].contains(&name) => Some("used only while pretraining"),
        _ if name.starts_with("lm_head.") || name.starts_with("cls_pt_layers.") => {
            Some("the head of pretraining")
        }
        _ => None,
    }
}

impl Files for BeitConfig {
    const NAMINGS: &'static [Naming] = &[
        timm(&[PATCHES, TABLE]),
        timm(&[PATCHES, SHARED_TABLE]),
        Naming { is_weak: true, ..timm(&[PATCHES]) },
        hugging_face(&[
            HF_PATCHES,
            "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
        ]),
        hugging_face(&[HF_PATCHES, "layers.0.relative_position_bias.relative_position_bias_table"]),
        hugging_face(&[HF_PATCHES, "encoder.relative_position_bias.relative_position_bias_table"]),
        hugging_face(&[HF_PATCHES, "shared_position_bias.relative_position_bias_table"]),
        hugging_face(&[HF_PATCHES, "encoder.layer.0.lambda_1"]),
        hugging_face(&[HF_PATCHES, "layers.0.lambda_1"]),
        Naming { is_weak: true, ..hugging_face(&[HF_PATCHES]) },
    ];

    fn first_conv(&self) -> String {
        "patch_embed.proj".into()
    }

    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        vit::convert::finish(tensors)
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let (map, shapes) = (&file.map, Shapes(&file.map));
        let mut config = Self::default();
        let [width, channels, rows, columns] = shapes.get::<4>("patch_embed.proj.weight")?;
        (config.embed_dim, config.in_chans, config.patch_size) = (width, channels, [rows, columns]);
        config.depth = shapes.count("blocks.{}.attn.qkv.weight", 0);
        config.swiglu_mlp = map.contains("blocks.0.mlp.fc1_g.weight");
        config.scale_mlp = map.contains("blocks.0.mlp.norm.weight");
        let [_, hidden] = shapes.get::<2>("blocks.0.mlp.fc2.weight")?;
        config.mlp_ratio = mlp_ratio(hidden, width);
        config.qkv_bias = map.contains("blocks.0.attn.q_bias");
        config.init_values = map.contains("blocks.0.gamma_1").then_some(1e-5);
        config.use_abs_pos_emb = map.contains("pos_embed");
        config.use_rel_pos_bias = map.contains(TABLE);
        config.use_shared_rel_pos_bias = map.contains(SHARED_TABLE);
        config.num_classes = map.rows("head.weight").unwrap_or(0);
        let fc_norm = map.contains("fc_norm.weight");
        config.global_pool = if fc_norm { GlobalPool::Avg } else { GlobalPool::Token };
        let mut notes = Vec::new();
        let table = [TABLE, SHARED_TABLE].into_iter().find_map(|key| shapes.find::<2>(key));
        config.num_heads = match table {
            Some([_, heads]) => heads,
            None => heads(file, width, 64, &mut notes)?,
        };
        match (file.img_size(), grid(table.map(|[rows, _]| rows), map.get("pos_embed").map(|t| t.shape()))) {
            (Some(size), _) => config.img_size = size,
            (None, Some(side)) => config.img_size = [side * rows, side * columns],
            (None, None) => notes
                .push(format!("the tensors do not show a square image; {:?} is assumed", config.img_size)),
        }
        let Inferred { config, notes: more } = config.settle_named(file)?;
        config.validate().map_err(|error| LoadError::config(&map.path, error))?;
        notes.extend(more);
        notes.push("activation, epsilon and pooling are assumed as usual for a BEiT".into());
        Ok(Inferred { config, notes })
    }

    fn settle_named(mut self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let mut notes = headless(&self);
        if file.dialect == Dialect::HuggingFace {
            (self.pos_resize, self.bias_resize) = resize(&self);
            self.norm_eps = HUGGING_FACE_EPS;
            notes.push(format!("Hugging Face names, so norm_eps={HUGGING_FACE_EPS:e}"));
        }
        if self.starts_from_shared_table(&file.map) {
            notes.push(
                "one table of relative biases for all blocks in this file: each block begins with a copy of it"
                    .into(),
            );
        }
        Ok(Inferred { config: self, notes })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        self.copy_shared_table(tensors, report);
        self.encoder().fit(tensors, of.map(BeitConfig::encoder).as_ref(), report);
    }

    fn num_features(&self) -> usize {
        self.embed_dim
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        match key {
            "norm_layer" if matches!(value.as_str(), Some("layernorm" | "LayerNorm")) => {
                Some(Ok(self.clone()))
            }
            "norm_layer" => Some(Err(format!("`norm_layer` {value} is not supported"))),
            _ => None,
        }
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        args.remove("pos_resize");
        args.remove("bias_resize");
        refuse_args(args, &["act_layer", "norm_eps"])
    }

    fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<Self, String>> {
        match fields.text("model_type") {
            Ok(Some("beit" | "data2vec-vision")) => Some(of_huggingface(fields, class)),
            _ => None,
        }
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        to_huggingface(self)
    }
}

/// The default epsilon of transformers' BEiT.
const HUGGING_FACE_EPS: f64 = 1e-12;

/// Patches on a side of a square grid, from the rows of a relative table or the shape of a position table.
fn grid(table: Option<usize>, positions: Option<&[usize]>) -> Option<usize> {
    let root = |n: usize| Some(n.isqrt()).filter(|side| side * side == n && n > 0);
    let of_table = table.and_then(|rows| root(rows.checked_sub(3)?)).map(|side| side.div_ceil(2));
    of_table.or_else(|| match positions? {
        [1, rows, _] => root(rows.checked_sub(1)?),
        _ => None,
    })
}

/// How transformers resizes positions, and relative biases.
fn resize(config: &BeitConfig) -> (PosResize, Option<PosResize>) {
    let relative = config.use_rel_pos_bias || config.use_shared_rel_pos_bias;
    (PosResize::Bicubic, relative.then_some(PosResize::Bilinear))
}

impl BeitConfig {
    /// Whether the blocks have tables of their own, and the file one for all: Microsoft's files of pretraining, for
    /// fine-tuning.
    fn starts_from_shared_table(&self, file: &TensorMap) -> bool {
        let is_for_blocks = self.use_rel_pos_bias && !self.use_shared_rel_pos_bias;
        is_for_blocks && file.contains(SHARED_TABLE) && !file.contains(TABLE)
    }

    /// Gives each block a copy of the table for all blocks, as Microsoft's fine-tuning does.
    fn copy_shared_table(&self, tensors: &mut TensorMap, report: &mut Report) {
        if !self.starts_from_shared_table(tensors) {
            return;
        }
        let Some(table) = tensors.tensors.remove(SHARED_TABLE) else { return };
        let shape = table.shape().to_vec();
        for block in 0..self.depth {
            let key = TABLE.replacen('0', &block.to_string(), 1);
            let source = SHARED_TABLE.to_string();
            report.adapted.push(Adaptation {
                key: key.clone(),
                source,
                found: shape.clone(),
                expected: shape.clone(),
            });
            tensors.tensors.insert(key, table.clone());
        }
    }
}

fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Result<BeitConfig, String> {
    if let Some(class) = class
        && !(class.ends_with("Model") || class.ends_with("ForImageClassification"))
    {
        return Err(format!("{class} is not supported, only the base model and image classification"));
    }
    let width = fields.size("hidden_size")?.unwrap_or(768);
    let hidden = fields.size("intermediate_size")?.unwrap_or(3072);
    let gain = fields.number("layer_scale_init_value")?.unwrap_or(0.1);
    let mean = fields.flag("use_mean_pooling")?.unwrap_or(true);
    let config = BeitConfig {
        img_size: fields.pair("image_size")?.unwrap_or([224, 224]),
        patch_size: fields.pair("patch_size")?.unwrap_or([16, 16]),
        in_chans: fields.size("num_channels")?.unwrap_or(3),
        global_pool: if mean { GlobalPool::Avg } else { GlobalPool::Token },
        embed_dim: width,
        depth: fields.size("num_hidden_layers")?.unwrap_or(12),
        num_heads: fields.size("num_attention_heads")?.unwrap_or(12),
        mlp_ratio: mlp_ratio(hidden, width),
        init_values: (gain > 0.0).then_some(gain),
        use_abs_pos_emb: fields.flag("use_absolute_position_embeddings")?.unwrap_or(false),
        use_rel_pos_bias: fields.flag("use_relative_position_bias")?.unwrap_or(false),
        use_shared_rel_pos_bias: fields.flag("use_shared_relative_position_bias")?.unwrap_or(false),
        act_layer: match fields.text("hidden_act")? {
            Some(name) => activation("hidden_act", name)?,
            None => Activation::Gelu,
        },
        norm_eps: fields.number("layer_norm_eps")?.unwrap_or(HUGGING_FACE_EPS),
        proj_drop_rate: fields.number("hidden_dropout_prob")?.unwrap_or(0.0),
        attn_drop_rate: fields.number("attention_probs_dropout_prob")?.unwrap_or(0.0),
        drop_path_rate: fields.number("drop_path_rate")?.unwrap_or(0.1),
        ..BeitConfig::default()
    };
    let (pos_resize, bias_resize) = resize(&config);
    Ok(BeitConfig { pos_resize, bias_resize, ..config })
}

fn to_huggingface(config: &BeitConfig) -> Result<HuggingFaceModel, String> {
    let is_mean = config.global_pool == GlobalPool::Avg;
    let differs = [
        ("qkv_bias", !config.qkv_bias),
        ("swiglu_mlp", config.swiglu_mlp),
        ("scale_mlp", config.scale_mlp),
        ("use_fc_norm", config.has_fc_norm() != is_mean),
        ("patch_size", config.patch_size[0] != config.patch_size[1]),
    ];
    if let Some((field, _)) = differs.iter().find(|(_, differs)| *differs) {
        return Err(format!("transformers' BEiT has no counterpart for this value of {field}"));
    }
    let has_positions = config.use_abs_pos_emb || config.use_rel_pos_bias || config.use_shared_rel_pos_bias;
    let [rows, columns] = config.encoder().grid();
    if has_positions && rows != columns {
        return Err(format!(
            "transformers' BEiT has positions of square images only, not of {rows}x{columns} patches"
        ));
    }
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_string(), value);
    put("attention_probs_dropout_prob", json!(config.attn_drop_rate));
    put("drop_path_rate", json!(config.drop_path_rate));
    put("hidden_act", json!(vit::huggingface::huggingface_activation(config.act_layer)));
    put("hidden_dropout_prob", json!(config.proj_drop_rate));
    put("hidden_size", json!(config.embed_dim));
    put("image_size", vit::huggingface::side(config.img_size));
    put("initializer_range", json!(0.02));
    put("intermediate_size", json!(config.encoder().mlp_hidden_dim()));
    put("layer_norm_eps", json!(config.norm_eps));
    put("layer_scale_init_value", json!(config.init_values.unwrap_or(0.0)));
    put("num_attention_heads", json!(config.num_heads));
    put("num_channels", json!(config.in_chans));
    put("num_hidden_layers", json!(config.depth));
    put("patch_size", json!(config.patch_size[0]));
    put("use_absolute_position_embeddings", json!(config.use_abs_pos_emb));
    put("use_mask_token", json!(false));
    put("use_mean_pooling", json!(is_mean));
    put("use_relative_position_bias", json!(config.use_rel_pos_bias));
    put("use_shared_relative_position_bias", json!(config.use_shared_rel_pos_bias));
    Ok(HuggingFaceModel {
        model_type: "beit",
        class: if config.num_classes > 0 { "BeitForImageClassification" } else { "BeitModel" },
        fields,
        is_own: (config.pos_resize, config.bias_resize) == resize(config)
            && config.norm_eps != BeitConfig::default().norm_eps,
    })
}
