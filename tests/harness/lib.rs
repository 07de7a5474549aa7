//! What the tests that see Comfygate from outside stand on: the real binary as a child process, stand-ins as backends, and clients that look
//! at every answer with suspicion.
//!
//! ```no_run
//! # async fn example() {
//! use comfygate_tests::{Gateway, workflows};
//! let gateway = Gateway::builder().start().await;
//! let acme = gateway.client("acme");
//! let prompt = acme.submit(workflows::quick("picture")).await;
//! let entry = acme.finished(&prompt).await;
//! # }
//! ```
//!
//! Rules: deadlines instead of sleeps; each test has a gateway, ports and directories of its own; a test that can't run here prints
//! `skipped: why`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness is test code: a failure has to end the test, with the place where it happened"
)]

pub mod browser;
pub mod bypass;
pub mod client;
pub mod control;
pub mod deadline;
pub mod gateway;
pub mod headers;
pub mod jwks;
pub mod oidc;
pub mod pictures;
pub mod raw;
pub mod relay;
pub mod reopened;
pub mod tls;
pub mod tokens;
pub mod workflows;
pub mod ws;

pub use browser::Browser;
pub use client::{Client, Response};
pub use comfygate_stand_in::{Options, StandIn};
pub use deadline::{DEADLINE, eventually};
pub use gateway::Gateway;
pub use raw::{RawConnection, RawResponse};
pub use ws::{Event, Socket};

/// Says why a test could not run here, in the form that `make test` counts.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
