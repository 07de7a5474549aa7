//! `make bench`: what the gateway adds to five calls, against the same calls made directly to the same stand-in ComfyUI; and its memory.
//!
//! Pairs are interleaved (A B, B A, …) in one run, so that whatever else the machine does falls on both. Printed are medians, their difference and
//! their ratio; nothing is asserted, since figures of a shared machine prove nothing alone. Directly means plain HTTP/1.1, through the gateway
//! means HTTP/1.1 over TLS 1.3; connections are kept in both cases, and client and stand-in share one process.
//!
//! `BENCH_PAIRS=20 make bench` makes a short run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark is a test: a failure has to end it, with the place where it happened"
)]

mod figures;
mod side;

use comfygate_tests::client::files_of;
use comfygate_tests::{Gateway, pictures, workflows};
use figures::Pairs;
use serde_json::Value;
use side::Side;
use std::time::Duration;

/// Pairs of each measurement, unless `BENCH_PAIRS` says otherwise.
const PAIRS: u32 = 200;
/// Pairs before those that count: connections, caches and the branch predictor get warm.
const WARM_UP: u32 = 10;
/// What the gateway should need when idle (README.md).
const IDLE_MEMORY_AIM_MB: f64 = 40.0;

#[tokio::main]
async fn main() {
    let pairs = std::env::var("BENCH_PAIRS").map_or(PAIRS, |text| text.parse().expect("BENCH_PAIRS is a number"));
    // Limits out of the way: they are measured by no call here, but would end the run.
    let plan = "policy = \"default\"\nrate = { per_second = 100000, burst = 100000 }\nrequests = { per_second = 100000, burst = 100000 }\n";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    let idle = figures::resident_megabytes(gateway.process_id().expect("it runs"));

    let mut through = Side::through(&gateway).await;
    let mut directly = Side::directly(gateway.stand_ins()[0].addr()).await;
    let prompt = prompts(&mut directly, &mut through, pairs).await;
    let view = views(&mut directly, &mut through, pairs).await;
    let event = events(&mut directly, &mut through, pairs).await;
    let upload = uploads(&mut directly, &mut through, pairs).await;
    let setting = settings(&mut directly, &mut through, pairs).await;
    let after = figures::resident_megabytes(gateway.process_id().expect("it runs"));

    println!("{pairs} interleaved pairs each, medians in ms, {} cores", std::thread::available_parallelism().unwrap());
    println!("{:<34} {:>9} {:>9} {:>9} {:>7}", "", "directly", "through", "added", "ratio");
    prompt.print("POST /prompt, fsynced before 200");
    view.print("GET of a result, signed URL");
    event.print("submit to first progress event");
    upload.print("POST /upload/image, 1 MB, fsynced");
    setting.print("POST /settings/{id}, fsynced");
    catalogue(pairs).await;
    println!("{:<34} {idle:>9.1} MB (aim: {IDLE_MEMORY_AIM_MB:.0} MB at most)", "resident memory, idle after start");
    println!("{:<34} {after:>9.1} MB", "resident memory, after this run");
}

/// `POST /prompt` of a two-node workflow until its answer; the job ends before the next call.
async fn prompts(directly: &mut Side, through: &mut Side, pairs: u32) -> Pairs {
    let mut taken = Pairs::default();
    for round in 0..WARM_UP + pairs {
        let (mut direct, mut gated) = (Duration::ZERO, Duration::ZERO);
        for of_gateway in order(round) {
            let (side, time) = if of_gateway { (&mut *through, &mut gated) } else { (&mut *directly, &mut direct) };
            let (prompt, elapsed) = side.submit(&varied(workflows::quick("bench"), round)).await;
            side.until_end_of(&prompt).await;
            *time = elapsed;
        }
        taken.add(round >= WARM_UP, direct, gated);
    }
    taken
}

/// A picture of 512 × 512 by `/view`, and by the gateway's signed URL without a credential.
async fn views(directly: &mut Side, through: &mut Side, pairs: u32) -> Pairs {
    let mut paths = Vec::new();
    for side in [&mut *directly, &mut *through] {
        let (prompt, _) = side.submit(&workflows::text_to_image("bench-view")).await;
        side.until_end_of(&prompt).await;
        let file = files_of(&side.history(&prompt).await).remove(0);
        paths.push(side.path_of(&file));
    }
    let mut taken = Pairs::default();
    for round in 0..WARM_UP + pairs {
        let (mut direct, mut gated) = (Duration::ZERO, Duration::ZERO);
        for of_gateway in order(round) {
            if of_gateway {
                gated = through.fetch(&paths[1]).await;
            } else {
                direct = directly.fetch(&paths[0]).await;
            }
        }
        taken.add(round >= WARM_UP, direct, gated);
    }
    taken
}

/// From sending the submission until the socket hears the first `progress` of it: queue, dispatch, upstream socket and hub included.
async fn events(directly: &mut Side, through: &mut Side, pairs: u32) -> Pairs {
    let mut taken = Pairs::default();
    for round in 0..WARM_UP + pairs {
        let (mut direct, mut gated) = (Duration::ZERO, Duration::ZERO);
        for of_gateway in order(round) {
            let (side, time) = if of_gateway { (&mut *through, &mut gated) } else { (&mut *directly, &mut direct) };
            // One tick of a millisecond: the stand-in reports progress as soon as it can.
            *time = side.first_progress(&varied(workflows::slow("bench-event", 1, 1, false), round)).await;
        }
        taken.add(round >= WARM_UP, direct, gated);
    }
    taken
}

/// A picture of about a megabyte, another one each round: hashed, read, synced and named before its answer.
async fn uploads(directly: &mut Side, through: &mut Side, pairs: u32) -> Pairs {
    let mut taken = Pairs::default();
    for round in 0..WARM_UP + pairs {
        let [_, high, middle, low] = round.to_be_bytes();
        let picture = pictures::png(600, 580, [high, middle, low]);
        let form = pictures::form(&[("type", "input")], &format!("bench-{round}.png"), &picture);
        let (mut direct, mut gated) = (Duration::ZERO, Duration::ZERO);
        for of_gateway in order(round) {
            let (side, time) = if of_gateway { (&mut *through, &mut gated) } else { (&mut *directly, &mut direct) };
            *time = side.post("/upload/image", &form_type(), form.clone().into()).await;
        }
        taken.add(round >= WARM_UP, direct, gated);
    }
    taken
}

fn form_type() -> String {
    format!("multipart/form-data; boundary={}", pictures::BOUNDARY)
}

/// A setting as the page writes it at each click: ComfyUI writes a file, the gateway commits a transaction.
async fn settings(directly: &mut Side, through: &mut Side, pairs: u32) -> Pairs {
    let mut taken = Pairs::default();
    for round in 0..WARM_UP + pairs {
        let (mut direct, mut gated) = (Duration::ZERO, Duration::ZERO);
        for of_gateway in order(round) {
            let (side, time) = if of_gateway { (&mut *through, &mut gated) } else { (&mut *directly, &mut direct) };
            *time = side.post("/settings/Bench.Round", "text/plain", round.to_string().into()).await;
        }
        taken.add(round >= WARM_UP, direct, gated);
    }
    taken
}

/// `GET /object_info` of a real ComfyUI: the stand-in answers it from memory, where ComfyUI imports, asks each class and reads folders. By gzip as a browser asks for it, and for one that has it already.
async fn catalogue(pairs: u32) {
    let Ok(url) = std::env::var("COMFYUI_URL") else {
        return println!("skipped: GET /object_info beside a real ComfyUI: COMFYUI_URL is not set");
    };
    let address =
        url.trim_start_matches("http://").trim_end_matches('/').parse().expect("COMFYUI_URL is http://ADDRESS:PORT");
    let plan = "policy = \"generous\"\nrequests = { per_second = 100000, burst = 100000 }\n";
    let gateway = Gateway::builder().backends(&[url]).plan(plan).start().await;
    gateway.backends_are_up().await;
    let (mut directly, mut through) = (Side::directly(address).await, Side::through(&gateway).await);
    let etag = gateway.client("acme").get("/object_info").await.expect(200).header("etag").unwrap().to_owned();
    for (what, asks) in [
        ("GET /object_info, plain", vec![]),
        ("GET /object_info, accepting gzip", vec![("accept-encoding", "gzip")]),
        ("GET /object_info, known", vec![("if-none-match", etag.as_str())]),
    ] {
        let mut taken = Pairs::default();
        for round in 0..WARM_UP + pairs {
            let (mut direct, mut gated) = (Duration::ZERO, Duration::ZERO);
            for of_gateway in order(round) {
                let (side, time) = if of_gateway { (&mut through, &mut gated) } else { (&mut directly, &mut direct) };
                *time = side.get("/object_info", &asks).await;
            }
            taken.add(round >= WARM_UP, direct, gated);
        }
        taken.print(what);
    }
}

/// Whether the gateway's call comes first or second: A B, B A, …
fn order(round: u32) -> [bool; 2] {
    if round.is_multiple_of(2) { [false, true] } else { [true, false] }
}

/// The same work with another colour each round, so that no cached output answers.
fn varied(mut workflow: Value, round: u32) -> Value {
    workflow["1"]["inputs"]["color"] = round.into();
    workflow
}
