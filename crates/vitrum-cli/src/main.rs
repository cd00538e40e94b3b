//! vitrum
fn main() {}
