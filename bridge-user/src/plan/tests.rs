//! The plan on hand-made models.
