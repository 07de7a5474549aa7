//! The gateway part.
