#![doc = include_str!("../README.md")]
// Declared in the order of a request's life.

pub mod app;
pub mod gateway;
pub mod actions;
pub mod services;
pub mod context;
pub mod drain;

// The stages.
pub mod listen;
pub mod route;
pub mod authenticate;
pub mod admit;
pub mod inspect;
pub mod dispatch;
pub mod deliver;
pub mod record;
pub mod retention;

// Leaves that any stage may use.
pub mod budget;
pub mod calendar;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod ids;
pub mod owner;
pub mod reject;
pub mod tenants;

// The control plane.
pub mod admin;
pub mod cli;
