//! The `vitrum` binary, driven as a user drives it. One test binary.

mod brought;
mod checkpoint;
mod data;
mod embed;
mod errors;
mod explain;
mod forward;
mod help;
mod keys;
mod models;
mod output;
mod predict;
mod pretrain;
mod probe;
mod quantize;
mod resume;
mod sandbox;
#[cfg(unix)]
mod serve;
mod shards;
#[cfg(unix)]
mod signals;
mod small;
mod study;
mod targets;
mod told;
mod train;
mod val;
mod weights;
