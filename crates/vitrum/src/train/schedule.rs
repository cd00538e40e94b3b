//! The learning rate as a function of the update.
