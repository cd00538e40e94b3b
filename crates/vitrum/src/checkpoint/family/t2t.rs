//! Files of T2T-ViT: the authors' code. No library has the family.

use serde_json::{Map, Value};

use super::maps::{Shapes, assumed_heads};
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::fields::mlp_ratio;
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::{Report, ShapeChange};
use crate::checkpoint::resample::resize_pos_embed;
use crate::checkpoint::{HostTensor, LoadError, TensorMap};
use crate::models::t2t::{T2tConfig, TokensType};

const PROJECT: &str = "tokens_to_token.project.weight";
const FIRST_NORM: &str = "tokens_to_token.attention1.norm1.weight";
const POSITIONS: &str = "pos_embed";
/// Pixels of a window of the first split.
const FIRST: usize = 49;
/// Tokens in a window of the other splits.
const OTHERS: usize = 9;
/// Pixels per token along a side.
const STEP: usize = 16;
/// Width of a head in the published models.
const HEAD: usize = 64;

impl Files for T2tConfig {
    const NAMINGS: &'static [Naming] =
        &[Naming { widths: &["norm.weight"], ..Naming::new(Dialect::Official, &[PROJECT, FIRST_NORM]) }];

    /// There is no convolution. This is the first layer that every such model has.
    fn first_conv(&self) -> String {
        "tokens_to_token.project".into()
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let [embed_dim, long] = shapes.get::<2>(PROJECT)?;
        let [pixels] = shapes.get::<1>(FIRST_NORM)?;
        let [hidden, _] = shapes.get::<2>("blocks.0.mlp.fc1.weight")?;
        let mut notes = Vec::new();
        let num_heads = match file.told_as("num_heads") {
            Some(told) => told,
            None => heads_of(embed_dim, &file.map, &mut notes)?,
        };
        if !file.tells("qk_scale") {
            notes.push("the scale of attention is not in the tensors; qk_scale=head_dim is assumed".into());
        }
        let img_size = match (file.img_size(), shapes.find::<3>(POSITIONS)) {
            (Some(size), _) => size,
            (None, Some([1, rows, _])) if rows > 1 => {
                let side = (rows - 1).isqrt();
                if side * side != rows - 1 {
                    let reason = format!("{rows} positions are of no square image");
                    return Err(LoadError::unshown(&file.map.path, "img_size", reason));
                }
                notes.push(format!("a square image of {0}x{0} is assumed", side * STEP));
                [side * STEP; 2]
            }
            _ => Self::default().img_size,
        };
        let has = |key: &str| file.map.contains(key);
        let tokens_type = match has("tokens_to_token.attention1.w") {
            true => TokensType::Performer,
            false => TokensType::Transformer,
        };
        let config = Self {
            img_size,
            in_chans: pixels / FIRST,
            num_classes: file.map.rows("head.weight").unwrap_or(0),
            tokens_type,
            token_dim: long / OTHERS,
            embed_dim,
            depth: shapes.count("blocks.{}.attn.qkv.weight", 0),
            num_heads,
            mlp_ratio: mlp_ratio(hidden, embed_dim),
            qkv_bias: has("blocks.0.attn.qkv.bias"),
            ..Self::default()
        };
        let Inferred { config, notes: more } = file.checked(config)?.settle_named(file)?;
        notes.extend(more);
        Ok(Inferred { config, notes })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        report.resized.extend(resize_positions(self, tensors, of.map(T2tConfig::grid)));
    }

    fn num_features(&self) -> usize {
        self.embed_dim
    }

    fn timm_args(&self, _base: &Self, _args: &mut Map<String, Value>) -> Result<(), String> {
        Err("timm has no T2T-ViT".into())
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        Err("transformers has no T2T-ViT".into())
    }
}

/// Number of heads of the blocks, which no tensor shows.
fn heads_of(width: usize, map: &TensorMap, notes: &mut Vec<String>) -> Result<usize, LoadError> {
    let heads = assumed_heads(&map.path, width, HEAD, notes)?;
    if width == T2tConfig::default().embed_dim {
        notes.push("t2t_vit_14_resnext has 32 heads: name it if it is that one".into());
    }
    Ok(heads)
}

/// Resizes the positions to the grid of the model, as the authors' transfer learning does. The class token's row stays. A
/// table that cannot be resized stays, and is reported as mismatched.
fn resize_positions(
    config: &T2tConfig,
    tensors: &mut TensorMap,
    source: Option<[usize; 2]>,
) -> Option<ShapeChange> {
    let table = tensors.get(POSITIONS)?;
    let &[1, rows, _] = table.shape() else { return None };
    let cells = rows.checked_sub(1)?;
    let square = [cells.isqrt(); 2];
    let old = source.unwrap_or(square);
    let new = config.grid();
    if old[0].checked_mul(old[1]) != Some(cells) || old == new {
        return None;
    }
    let found = table.shape().to_vec();
    // In f64, so that a model in f64 gets exact numbers.
    let exact = HostTensor::from_f64(found.clone(), &table.to_f64()).ok()?;
    let resized = resize_pos_embed(&exact, old, new, 1, config.pos_resize).ok()?;
    let expected = resized.shape().to_vec();
    tensors.tensors.insert(POSITIONS.into(), resized);
    Some(ShapeChange { key: POSITIONS.into(), found, expected })
}
