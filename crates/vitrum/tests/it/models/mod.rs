//! The catalogue, parity with reference libraries, families.

mod catalogue;
mod convnext;
mod families;
mod parity;
mod regnet;
