//! The catalogue, parity with reference libraries, families.

mod catalogue;
mod convnext;
mod cpvt;
mod families;
mod hybrid;
mod ladder;
mod parity;
mod regnet;
mod relative_keys;
mod twins;
