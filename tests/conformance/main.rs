//! Is the stand-in a ComfyUI 0.8.0? See README.md in this folder.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod client;
mod normal;
mod own;
mod promises;
mod replay;
mod through;

use std::net::ToSocketAddrs as _;

use client::Server;
use comfygate_stand_in::{Models, Options, StandIn};
use replay::{Fault, Mode, replay};

/// A stand-in like the recorded server: no models, one user or several. Its folders lie deep enough that the recorded
/// `../../../etc/passwd` is not a file: what ComfyUI answers to it depends on nothing else.
async fn stand_in(multi_user: bool) -> (StandIn, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let deep = Some(directory.path().join("a/b/c"));
    let options = Options { multi_user, directory: deep, models: Models::new(), ..Options::default() };
    (StandIn::start(options).await.expect("a free port"), directory)
}

/// The real server that an environment variable names.
fn real(variable: &str) -> Option<Server> {
    let url = std::env::var(variable).ok()?;
    let authority = url.strip_prefix("http://").expect("an http URL").trim_end_matches('/');
    let addr = authority.to_socket_addrs().expect("a host and port").next().expect("an address");
    Some(Server::Plain(addr))
}

fn none_of(faults: &[Fault]) {
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), told.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_answers_as_recorded_with_one_user() {
    let (subject, _directory) = stand_in(false).await;
    none_of(&replay(Server::Plain(subject.addr()), Mode::Single, "http.json", true).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_answers_as_recorded_with_several_users() {
    let (subject, _directory) = stand_in(true).await;
    none_of(&replay(Server::Plain(subject.addr()), Mode::Multi, "http.json", true).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_answers_odd_requests_as_recorded() {
    let (subject, _directory) = stand_in(false).await;
    none_of(&replay(Server::Plain(subject.addr()), Mode::Single, "odd.json", true).await);
}

/// One test for the whole real server: its state is shared, so the order is fixed.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_comfyui_answers_as_recorded_and_passes_our_own_calls() {
    match real("COMFYUI_URL") {
        Some(server) => {
            let faults = replay(server, Mode::Single, "http.json", false).await;
            own::real_too(server).await;
            println!("skipped: K1, K2 and K3: they end the real server or its worker");
            none_of(&faults);
        }
        None => println!("skipped: COMFYUI_URL is not set"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_comfyui_answers_odd_requests_as_recorded() {
    match real("COMFYUI_ODD_URL") {
        Some(server) => none_of(&replay(server, Mode::Single, "odd.json", false).await),
        None => println!("skipped: COMFYUI_ODD_URL is not set"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_comfyui_with_several_users_answers_as_recorded() {
    match real("COMFYUI_MULTI_USER_URL") {
        Some(server) => none_of(&replay(server, Mode::Multi, "http.json", false).await),
        None => println!("skipped: COMFYUI_MULTI_USER_URL is not set"),
    }
}
