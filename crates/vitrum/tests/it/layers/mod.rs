//! First values, positions, products in bf16.

mod bf16;
mod init;
mod positions;
