//! The catalogue, parity with reference libraries, families.

mod beit;
mod catalogue;
mod convnext;
mod families;
mod hybrid;
mod ladder;
mod parity;
mod regnet;
