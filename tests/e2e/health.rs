//! Stage 6: whether a backend is alive.
