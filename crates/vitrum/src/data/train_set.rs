//! Datasets for training: any order, any part, any number of times.
