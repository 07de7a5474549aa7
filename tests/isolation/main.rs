//! Tenant A against tenant B, and one user of a tenant against another.
//!
//! | file | what |
//! |---|---|
//! | `matrix` | every route of the table × every kind of object: what is another's answers like what never existed |
//! | `leaks` | a session of the stock page beside another tenant at work: nothing that is given to the page holds a marker of the other |
//! | `pairs` | single pairs by hand, with what they leave behind at the backend |
//! | `targets`, `files`, `control`, `sockets` | the bypass catalogue, entries 11 to 22 and 34, 69 to 94, 95 to 108, 109 to 115 |
//! | `resources` | what one tenant takes is not taken from another |
//! | `fatal` | K1 to K15: what ends or freezes a ComfyUI, sent through the gateway, and two backends that run jobs afterwards |
//! | `caches` | results found in a backend's cache are their owner's |
//!
//! The matrix, the leak detector, `fatal` and `caches` also run in front of real ComfyUIs, where `COMFYUI_URLS` names them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

mod caches;
mod control;
mod fatal;
mod files;
mod leaks;
mod matrix;
mod pairs;
mod resources;
mod sockets;
mod targets;
mod wire;
mod world;
