//! The views part.
