//! Integration tests of the kernels, one binary.
