//! vit-pytorch's files: what its layers leave out, and how its models pool.

use crate::checkpoint::dialect::Dialect;
use crate::checkpoint::family::Naming;
use crate::checkpoint::keys::Row;
use crate::checkpoint::tensors::{Dtype, TensorError};
use crate::checkpoint::{HostTensor, LoadError, TensorMap};
use crate::models::vit::{GlobalPool, PosEmbed, VitConfig};

/// One layout of the patch embedding.
pub(super) const fn naming(rows: &'static [&'static [Row]], telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows,
        heads: &["mlp_head", "linear_head"],
        finish,
        ..Naming::new(Dialect::Lucidrains, telltales)
    }
}

/// Renamed tensors with all that timm's layout has. A single head as wide as a token has no output projection.
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

/// A block that is there, its width and its type.
fn block_of(map: &TensorMap, block: &str) -> Option<(String, usize, Dtype)> {
    let qkv = map.get(&format!("{block}.attn.qkv.weight")).filter(|qkv| qkv.num_elements() > 0)?;
    let [_, width] = *qkv.shape() else { return None };
    Some((block.to_string(), width, qkv.dtype()))
}

/// Whether queries, keys and values are as wide as a token.
fn is_square(map: &TensorMap, block: &str, width: usize) -> bool {
    map.rows(&format!("{block}.attn.qkv.weight")) == width.checked_mul(3)
}

/// The matrix that changes nothing.
fn identity(width: usize, dtype: Dtype) -> Result<HostTensor, TensorError> {
    let ones = (0..width * width).map(|i| if i % (width + 1) == 0 { 1.0 } else { 0.0 });
    HostTensor::from_f32(vec![width, width], &ones.collect::<Vec<f32>>())?.cast(dtype)
}

/// What these models are beyond their tensors. `ViT` pools its class token, or, made with `pool="mean"`, averages: all
/// tokens up to 1.15, the patches alone since. `SimpleViT` has fixed positions and averages.
pub(super) fn settle(mut config: VitConfig, map: &TensorMap, notes: &mut Vec<String>) -> VitConfig {
    let norm = map.contains("norm.weight");
    if config.class_token {
        config.global_pool = GlobalPool::Token;
        config.fc_norm = map.contains("fc_norm.weight").then_some(true);
        notes.push(
            "whether it pools the class token or all tokens (`pool=\"mean\"`) is not in the tensors; the class token is assumed"
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

/// [`finish`] for the names before 0.7: releases up to 0.6.6 scale scores in another way.
pub(super) fn finish_old(map: &mut TensorMap) -> Result<Option<usize>, LoadError> {
    map.notes.push(format!(
        "{}: read as vit-pytorch 0.6.7 and 0.6.8 compute it; releases before, whose names are the same, divide scores by the \
         root of the whole width",
        map.path.display()
    ));
    finish(map)
}
