//! The catalogue, parity with reference libraries, families.

pub mod beit;
mod blocks;
mod catalogue;
mod convnext;
mod cpvt;
mod families;
mod hybrid;
mod ladder;
mod mae;
mod mim;
mod mistakes;
mod parity;
mod pit;
mod pretrain;
mod regnet;
mod relative_keys;
mod resnet;
mod shared;
mod swin;
mod swin_cr;
mod t2t;
mod tables;
mod twins;
