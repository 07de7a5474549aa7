//! Comfygate.
