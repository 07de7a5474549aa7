//! The config part.
