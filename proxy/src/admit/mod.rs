//! The admit part.
