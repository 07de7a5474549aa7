//! The route part.
