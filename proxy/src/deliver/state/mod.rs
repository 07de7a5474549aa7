//! The state part.
