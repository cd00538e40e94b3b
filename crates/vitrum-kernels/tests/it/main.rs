//! Integration tests of the kernels in one binary.

mod attention;
mod bf16;
mod cross_attention;
mod int8;
mod layer_norm;
mod levels;
mod linear;
mod maps;
mod memory;
mod narrow;
mod optim;
mod packed;
mod patch_embed;
mod pixels;
mod support;
mod unit_heads;
mod windows;
