//! vit-pytorch's files: adds the tensors that its layers lack, and settles how its models pool.

use crate::checkpoint::dialect::Dialect;
use crate::checkpoint::family::Naming;
use crate::checkpoint::keys::Row;
use crate::checkpoint::tensors::{Dtype, TensorError};
use crate::checkpoint::{HostTensor, LoadError, TensorMap};
use crate::models::vit::{GlobalPool, PosEmbed, VitConfig};

/// The naming for one layout of the patch embedding.
pub(super) const fn naming(rows: &'static [&'static [Row]], telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows,
        heads: &["mlp_head", "linear_head"],
        finish,
        ..Naming::new(Dialect::Lucidrains, telltales)
    }
}

/// Completes renamed tensors for timm's layout. A single head as wide as a token has no output projection: it gets the
/// identity. Missing biases become zeros. Returns the number of heads if it is known to be 1.
pub(super) fn finish(map: &mut TensorMap) -> Result<Option<usize>, LoadError> {
    if map.get("cls_token").is_some_and(|token| token.num_elements() == 0) {
        map.tensors.remove("cls_token");
        map.dropped.push(("cls_token".into(), "it has no values: the model has no class token".into()));
    }
    let path = map.path.clone();
    let fail = |name: &str, error: TensorError| LoadError::tensor(&path, name, error);
    let blocks = (0..).map(|i| format!("blocks.{i}")).map_while(|block| block_of(map, &block));
    let blocks: Vec<(String, usize, Dtype)> = blocks.collect();
    let mut heads = None;
    for (block, width, dtype) in blocks {
        let name = |part: &str| format!("{block}.attn.proj.{part}");
        if !map.contains(&name("weight")) && is_square(map, &block, width) {
            let identity = identity(width, dtype).map_err(|error| fail(&name("weight"), error))?;
            map.tensors.insert(name("weight"), identity);
            heads = Some(1);
        }
        if map.contains(&name("weight")) && !map.contains(&name("bias")) {
            let zeros = HostTensor::new(dtype, vec![width], vec![0; width * dtype.size()]);
            map.tensors.insert(name("bias"), zeros.map_err(|error| fail(&name("bias"), error))?);
        }
    }
    Ok(heads)
}

/// Name, width and dtype of a block; `None` if it does not exist.
fn block_of(map: &TensorMap, block: &str) -> Option<(String, usize, Dtype)> {
    let qkv = map.get(&format!("{block}.attn.qkv.weight")).filter(|qkv| qkv.num_elements() > 0)?;
    let [_, width] = *qkv.shape() else { return None };
    Some((block.to_string(), width, qkv.dtype()))
}

/// Whether queries, keys and values are as wide as a token.
fn is_square(map: &TensorMap, block: &str, width: usize) -> bool {
    map.rows(&format!("{block}.attn.qkv.weight")) == width.checked_mul(3)
}

/// The identity matrix.
fn identity(width: usize, dtype: Dtype) -> Result<HostTensor, TensorError> {
    let ones = (0..width * width).map(|i| if i % (width + 1) == 0 { 1.0 } else { 0.0 });
    HostTensor::from_f32(vec![width, width], &ones.collect::<Vec<f32>>())?.cast(dtype)
}

/// Sets what the tensors do not show. `ViT` pools its class token by default. With `pool="mean"` it averages all tokens
/// up to 1.15, and only the patches since. `SimpleViT` has fixed positions and averages.
pub(super) fn settle(mut config: VitConfig, map: &TensorMap, notes: &mut Vec<String>) -> VitConfig {
    let norm = map.contains("norm.weight");
    if config.class_token {
        config.global_pool = GlobalPool::Token;
        config.fc_norm = map.contains("fc_norm.weight").then_some(true);
        notes.push(
            "the tensors do not show whether the model pools the class token or all tokens (`pool=\"mean\"`); \
             the class token is assumed"
                .into(),
        );
    } else {
        config.global_pool = GlobalPool::Avg;
        config.fc_norm = norm.then_some(false);
    }
    if !map.contains("pos_embed") && !config.class_token {
        config.pos_embed = PosEmbed::SinCos2dBigVision;
    }
    config
}

/// [`finish`] for the names before 0.7, with a note: releases up to 0.6.6 scale scores differently.
pub(super) fn finish_old(map: &mut TensorMap) -> Result<Option<usize>, LoadError> {
    map.notes.push(format!(
        "{}: read as a file of vit-pytorch 0.6.7 or 0.6.8; earlier releases have the same names but divide scores by \
         the root of the whole width",
        map.path.display()
    ));
    finish(map)
}
