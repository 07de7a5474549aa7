//! The cli part.
