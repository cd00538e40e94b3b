//! The catalogue, parity with reference libraries, families.

mod catalogue;
mod convnext;
mod families;
mod ladder;
mod parity;
mod regnet;
