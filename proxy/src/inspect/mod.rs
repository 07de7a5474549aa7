//! The inspect part.
