//! Integration tests of the library, one binary. The folders mirror the source.

mod checkpoint;
mod compare;
mod data;
mod explain;
mod formula;
mod layers;
mod models;
mod probe;
mod study;
mod tasks;
mod train;
