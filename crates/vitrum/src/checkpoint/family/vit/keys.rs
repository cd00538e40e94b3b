//! Tables from each library's names of a Vision Transformer to timm's.

pub mod aimv2;
pub mod beit3;
pub mod clip;
pub mod google;
pub mod huggingface;
pub mod lucidrains;
pub mod official;
pub mod timm;
pub mod torch;
pub mod torchvision;
