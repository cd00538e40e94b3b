//! From logits and targets to the number that is made small.
