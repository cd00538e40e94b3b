//! Files of masked autoencoders: the authors' code (with timm's names) and transformers. They have the tensors of a Vision
//! Transformer, and a decoder.

use serde_json::{Map, Value, json};

use super::maps::{Shapes, assumed_heads};
use super::{Files, HuggingFaceModel, Inferred, Naming, vit};
use crate::checkpoint::fields::{Fields, mlp_ratio};
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::{Report, ShapeChange};
use crate::checkpoint::{LoadError, TensorMap};
use crate::layers::position::fixed_table;
use crate::models::mae::{MaeConfig, is_decoder};
use crate::models::vit::{PosEmbed, VitConfig, WeightInit};
use crate::models::{Config, ModelConfig};

/// Tensors of a whole decoder.
const DECODER: [&str; 3] = ["decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_pred.weight"];

/// transformers' names of the decoder, of 4.x, then those that 5.x has in memory.
const HUGGING_FACE: [Row; 27] = [
    ("decoder.mask_token", "mask_token", Edit::Keep),
    ("decoder.decoder_pos_embed", "decoder_pos_embed", Edit::Keep),
    ("decoder.decoder_embed", "decoder_embed", Edit::Keep),
    ("decoder.decoder_norm", "decoder_norm", Edit::Keep),
    ("decoder.decoder_pred", "decoder_pred", Edit::Keep),
    ("decoder.decoder_layers.{N}.layernorm_before", "decoder_blocks.{N}.norm1", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.attention.query", "decoder_blocks.{N}.attn.q", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.attention.key", "decoder_blocks.{N}.attn.k", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.attention.value", "decoder_blocks.{N}.attn.v", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.output.dense", "decoder_blocks.{N}.attn.proj", Edit::Keep),
    ("decoder.decoder_layers.{N}.layernorm_after", "decoder_blocks.{N}.norm2", Edit::Keep),
    ("decoder.decoder_layers.{N}.intermediate.dense", "decoder_blocks.{N}.mlp.fc1", Edit::Keep),
    ("decoder.decoder_layers.{N}.output.dense", "decoder_blocks.{N}.mlp.fc2", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.q_proj", "decoder_blocks.{N}.attn.q", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.k_proj", "decoder_blocks.{N}.attn.k", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.v_proj", "decoder_blocks.{N}.attn.v", Edit::Keep),
    ("decoder.decoder_layers.{N}.attention.o_proj", "decoder_blocks.{N}.attn.proj", Edit::Keep),
    ("decoder.decoder_layers.{N}.mlp.fc1", "decoder_blocks.{N}.mlp.fc1", Edit::Keep),
    ("decoder.decoder_layers.{N}.mlp.fc2", "decoder_blocks.{N}.mlp.fc2", Edit::Keep),
    // What 5.24 writes.
    ("decoder.decoder_encoder.layer.{N}.attention.attention.query", "decoder_blocks.{N}.attn.q", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.attention.attention.key", "decoder_blocks.{N}.attn.k", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.attention.attention.value", "decoder_blocks.{N}.attn.v", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.attention.output.dense", "decoder_blocks.{N}.attn.proj", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.layernorm_before", "decoder_blocks.{N}.norm1", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.layernorm_after", "decoder_blocks.{N}.norm2", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.intermediate.dense", "decoder_blocks.{N}.mlp.fc1", Edit::Keep),
    ("decoder.decoder_encoder.layer.{N}.output.dense", "decoder_blocks.{N}.mlp.fc2", Edit::Keep),
];

impl Files for MaeConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            rows: &[&vit::keys::timm::ROWS],
            ..Naming::new(
                Dialect::Timm,
                &[vit::keys::timm::TELLTALE, DECODER[0], DECODER[1], DECODER[2], "mask_token"],
            )
        },
        Naming {
            rows: &[&vit::keys::huggingface::ROWS],
            beside: &HUGGING_FACE,
            base: "vit.",
            heads: &[],
            ..Naming::new(
                Dialect::HuggingFace,
                &[
                    vit::keys::huggingface::TELLTALE,
                    "decoder.decoder_embed.weight",
                    "decoder.decoder_pred.weight",
                    "decoder.mask_token",
                ],
            )
        },
    ];

    fn first_conv(&self) -> String {
        self.vit.first_conv()
    }

    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        VitConfig::finish(tensors)
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let Inferred { config, mut notes } = vit::infer_with(&file.map, None, &vit::Told::of(file, 0))?;
        let shapes = Shapes(&file.map);
        let [decoder_embed_dim, _] = shapes.get(DECODER[0])?;
        let [hidden, _] = shapes.get("decoder_blocks.0.mlp.fc1.weight")?;
        let decoder_num_heads = assumed_heads(&file.map.path, decoder_embed_dim, 32, &mut notes)?;
        let mut vit = VitConfig { weight_init: WeightInit::Mae, ..vit::usual(config, file.dialect) };
        if has_formula(&vit, &file.map) {
            vit.pos_embed = PosEmbed::SinCos2dMae;
        }
        notes.push(format!("activation and epsilon are assumed as usual for {}", file.dialect.name()));
        notes.push("the tensors do not show norm_pix_loss and mask_ratio; false and 0.75 are assumed".into());
        let config = Self {
            vit,
            decoder_embed_dim,
            decoder_depth: shapes.count("decoder_blocks.{}.norm1.weight", 0),
            decoder_num_heads,
            decoder_mlp_ratio: mlp_ratio(hidden, decoder_embed_dim),
            ..Self::default()
        };
        config.validate().map_err(|error| LoadError::config(&file.map.path, error))?;
        Ok(Inferred { config, notes })
    }

    fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let vit = match file.dialect {
            Dialect::Timm | Dialect::Custom => self.vit,
            other => vit::usual(self.vit, other),
        };
        Ok(Inferred { config: Self { vit, ..self }, notes: Vec::new() })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        self.vit.fit(tensors, of.map(|of| &of.vit), report);
        let grid = self.vit.grid();
        let fixed =
            ["pos_embed"].into_iter().filter(|_| self.vit.pos_embed.is_fixed()).chain(["decoder_pos_embed"]);
        let changed = of.is_some_and(|of| of.vit.grid() != grid);
        // The formula gives the tables of another grid.
        for key in fixed.filter(|_| changed) {
            let Some(old) = tensors.tensors.remove(key) else { continue };
            let found = old.shape().to_vec();
            let rows = self.vit.prefix_rows() + grid[0] * grid[1];
            let expected = vec![1, rows, found.last().copied().unwrap_or(0)];
            report.resized.push(ShapeChange { key: key.into(), found, expected });
        }
    }

    fn num_features(&self) -> usize {
        self.vit.embed_dim
    }

    fn encoder(&self) -> Option<ModelConfig> {
        Some(MaeConfig::encoder(self).into())
    }

    fn serves_pretraining(key: &str) -> bool {
        is_decoder(key)
    }

    fn timm_args(&self, _: &Self, _: &mut Map<String, Value>) -> Result<(), String> {
        Err("timm has the encoder of a masked autoencoder alone".into())
    }

    fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<Self, String>> {
        let is_whole = class.is_none_or(|class| class == "ViTMAEForPreTraining");
        let is_mae = fields.text("model_type") == Ok(Some("vit_mae")) && is_whole;
        is_mae.then(|| read(fields))
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        let positions = self.vit.pos_embed;
        if positions != PosEmbed::SinCos2dMae && positions != PosEmbed::Learn {
            return Err("transformers' ViTMAE has no counterpart for this value of pos_embed".into());
        }
        let mut fields =
            vit::huggingface::fields(&VitConfig { pos_embed: PosEmbed::Learn, ..self.vit.clone() })?;
        let hidden = (self.decoder_embed_dim as f64 * self.decoder_mlp_ratio) as usize;
        for unused in ["encoder_stride", "pooler_act", "pooler_output_size"] {
            fields.remove(unused);
        }
        for (key, value) in [
            ("decoder_hidden_size", json!(self.decoder_embed_dim)),
            ("decoder_intermediate_size", json!(hidden)),
            ("decoder_num_attention_heads", json!(self.decoder_num_heads)),
            ("decoder_num_hidden_layers", json!(self.decoder_depth)),
            ("mask_ratio", json!(self.mask_ratio)),
            ("norm_pix_loss", json!(self.norm_pix_loss)),
        ] {
            fields.insert(key.into(), value);
        }
        let is_own = vit::huggingface::is_own(&self.vit);
        Ok(HuggingFaceModel { model_type: "vit_mae", class: "ViTMAEForPreTraining", fields, is_own })
    }
}

/// transformers' `ViTMAEConfig`.
fn read(fields: &Fields<'_>) -> Result<MaeConfig, String> {
    let paper = MaeConfig::default();
    let width = fields.size("decoder_hidden_size")?.unwrap_or(paper.decoder_embed_dim);
    let hidden = fields.size("decoder_intermediate_size")?.unwrap_or(2048);
    Ok(MaeConfig {
        vit: VitConfig {
            num_classes: 0,
            pos_embed: PosEmbed::SinCos2dMae,
            weight_init: WeightInit::Mae,
            ..vit::huggingface::common(fields)?
        },
        decoder_embed_dim: width,
        decoder_depth: fields.size("decoder_num_hidden_layers")?.unwrap_or(paper.decoder_depth),
        decoder_num_heads: fields.size("decoder_num_attention_heads")?.unwrap_or(paper.decoder_num_heads),
        decoder_mlp_ratio: mlp_ratio(hidden, width),
        norm_pix_loss: fields.flag("norm_pix_loss")?.unwrap_or(false),
        mask_ratio: fields.number("mask_ratio")?.unwrap_or(paper.mask_ratio),
    })
}

/// Whether the file's positions are the ones of MAE's formula.
fn has_formula(vit: &VitConfig, file: &TensorMap) -> bool {
    let sincos = VitConfig { pos_embed: PosEmbed::SinCos2dMae, ..vit.clone() };
    let Some(table) = file.get("pos_embed").filter(|_| sincos.validate().is_ok()) else { return false };
    let expected = fixed_table(&sincos.position(), sincos.grid());
    let found = table.to_f64();
    found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3)
}
