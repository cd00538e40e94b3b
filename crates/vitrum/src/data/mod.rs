//! Image files to pixels, and pixels to the tensor a model expects.
