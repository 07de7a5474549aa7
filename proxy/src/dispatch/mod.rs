//! The dispatch part.
