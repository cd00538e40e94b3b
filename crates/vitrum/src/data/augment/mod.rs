//! Random changes to training images, with timm's names and meanings.
