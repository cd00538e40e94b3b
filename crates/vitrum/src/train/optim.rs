//! Optimisers, as in torch and timm.
