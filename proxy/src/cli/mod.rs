//! The cli part.
pub mod check;
