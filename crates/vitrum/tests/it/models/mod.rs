//! The catalogue, parity with reference libraries, families.

mod catalogue;
mod families;
mod parity;
mod regnet;
