//! Integration tests of the library, one binary.

mod bf16;
mod catalogue;
mod checkpoint;
mod data;
mod families;
mod formula;
mod hostile_checkpoint;
mod hostile_images;
mod hub;
mod init;
mod key_file;
mod parity;
mod photos;
mod positions;
mod processor;
mod quantize;
mod recipe;
mod resume;
mod train_log;
mod training;
mod weight_files;
mod weights;
