//! A ComfyUI that runs no models.
