//! The catalogue, parity with reference libraries, families.

mod catalogue;
mod convnext;
mod families;
mod hybrid;
mod ladder;
mod parity;
mod pit;
mod regnet;
mod swin;
mod t2t;
