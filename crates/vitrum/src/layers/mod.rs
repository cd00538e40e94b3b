//! The parts every family is made of.
