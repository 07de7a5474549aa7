//! The events part.
