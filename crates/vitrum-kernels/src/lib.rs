//! Fused operations for vision transformers and convolutional networks on the CPU, with their own backward passes.
//!
//! The functions take and return plain tensors and are safe. A reference in ordinary tensor operations defines each of
//! them. A portable version runs on any backend, and a fast one on Burn's CPU backend (flex) in `f32` and `f64`. All
//! versions give the same numbers up to rounding.

mod activation;
mod attention;
mod bf16;
mod check;
mod columns;
mod conv;
mod device;
mod extension;
mod functions;
mod gate;
mod gemm;
mod int8;
mod layer_norm;
mod linear;
mod map_norm;
#[cfg(feature = "mimalloc")]
pub mod memory;
mod mlp;
pub mod optim;
mod packed;
mod patch_embed;
mod peak;
pub mod pixels;
mod pool;
mod portable;
mod prefetch;
mod product;
mod reference;
mod rotate;
mod simd;
mod tensors;
mod threads;
mod unit_heads;

pub use activation::Activation;
pub use attention::Windows;
pub use conv::{ConvForm, PackedConv};
pub use device::{has_fast_path, narrows};
pub use functions::{
    Folding, activate, after_attention_packed, attention, attention_bf16, attention_of_first,
    attention_padded, batch_norm, conv, conv_folded, conv_packed, cross_attention, cross_attention_bf16,
    cross_attention_kv, gate, group_norm, layer_norm, linear, linear_add, linear_add_int8, linear_add_packed,
    linear_int8, linear_packed, mlp, mlp_add_int8, mlp_int8, norm_linear_packed, norm_mlp_packed,
    patch_embed, pool, rms_norm, rotate, squeeze, unit_heads, window_attention,
};
pub use gate::Squeeze;
pub use int8::{QuantizeError, QuantizedWeight, quantize_weight_rows};
pub use map_norm::MapNorm;
pub use packed::{AfterAttention, NormMlp, PackedWeight};
pub use peak::peak_gflops;
pub use pool::Pool;
pub use reference::{
    activate_reference, attention_reference, attention_weights, conv_reference, cross_attention_reference,
    cross_attention_weights, gate_reference, layer_norm_reference, linear_add_reference, linear_reference,
    map_norm_reference, mlp_reference, patch_embed_reference, pool_reference, rms_norm_reference,
    rotate_reference, squeeze_reference, unit_heads_reference, window_attention_reference,
};
pub use simd::{bf16_level, int8_level, simd_level};
pub use threads::in_parts;
