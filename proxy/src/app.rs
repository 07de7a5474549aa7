//! The app part.
