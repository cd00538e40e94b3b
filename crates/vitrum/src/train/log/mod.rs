//! What a run tells of itself: its folder, tables, curves and pictures.
