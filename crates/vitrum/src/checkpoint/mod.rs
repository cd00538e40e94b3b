//! Pretrained weights: files, dialects, cards, reports.
