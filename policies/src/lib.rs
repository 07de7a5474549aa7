//! The pure policy engine of Comfygate.
