//! The catalogue, parity with reference libraries, families.

mod catalogue;
mod convnext;
mod cpvt;
mod families;
mod hybrid;
mod ladder;
mod parity;
mod pit;
mod regnet;
mod swin;
mod t2t;
mod relative_keys;
mod twins;
