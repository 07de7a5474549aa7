//! Comfygate from outside, stage by stage: the real binary, stand-ins as backends, TLS in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

mod acting;
mod accounts;
mod admit;
mod adopt;
mod authenticate;
mod backends;
mod behind;
mod budgets;
mod cli;
mod client_certificates;
mod control;
mod cors;
mod deliver;
mod dispatch;
mod docs;
mod faults;
mod eligible;
mod fleet;
mod guessing;
mod health;
mod inspect;
mod jwks;
mod keys;
mod live_sockets;
mod lists;
mod listen;
mod login;
mod newer;
mod object_info;
mod oidc;
mod oidc_real;
mod operate;
mod owner;
mod pacing;
mod paid;
mod policy;
mod programs;
mod record;
mod refusals;
mod reach;
mod reload;
mod reopened;
mod retention;
mod route;
mod sent;
mod setup;
mod state;
mod tickets;
mod upgrade;
mod userdata;
mod users;
mod uploads;
mod views;
