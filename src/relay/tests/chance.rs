//! Placeholder until the model is there.
