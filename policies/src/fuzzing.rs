//! Bodies of the fuzz targets, here so that they build on stable and replay in `cargo test`. Each panics when its property fails.
