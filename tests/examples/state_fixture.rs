//! Makes `tests/fixtures/state-v1`: the state directory of a gateway of ledger schema 1, in a form small enough to keep.
//!
//! It was run once, by the last gateway that wrote schema 1 (commit c852a9b): `cargo build --workspace --bins`, then
//! `cargo run -p comfygate-tests --example state_fixture -- tests/fixtures/state-v1`. A later gateway writes a later schema, and its fixture
//! needs a folder of its own. What the fixture holds is in its `expected.json`; private keys are left out, the gateway makes its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool of the tests: a failure has to end it, with the place where it happened"
)]

use comfygate_tests::client::files_of;
use comfygate_tests::{Gateway, gateway, workflows};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let target = PathBuf::from(std::env::args().nth(1).expect("the folder to make"));
    assert!(!target.exists(), "`{}` is there already", target.display());
    let mut running = Gateway::builder().stand_ins_with(vec![gateway::fast()]).start().await;
    let (acme, bravo) = (running.client("acme"), running.client("bravo"));

    let mut ended = Vec::new();
    for (name, workflow) in [
        ("done", workflows::quick("lake")),
        ("second", workflows::quick("lake")),
        ("failed", workflows::failing("as planned")),
    ] {
        let prompt = acme.submit_with(json!({"prompt": workflow, "prompt_id": name})).await;
        ended.push(seen(name, &acme.finished(&prompt).await));
    }
    let others = bravo.submit_with(json!({"prompt": workflows::picture("hill", 32, 32), "prompt_id": "done"})).await;
    let others = seen("done", &bravo.finished(&others).await);
    let mut views = Vec::new();
    for name in ["lake_00001_.png", "lake_00002_.png"] {
        let path = format!("/view?filename={name}&type=output&subfolder=");
        views.push(json!({"path": path, "sha256": sha256(&acme.get(&path).await.expect(200).body)}));
    }

    // One at the backend and two in the queue when the gateway stops.
    let held = ["running", "held-1", "held-2"];
    for name in held {
        acme.submit_with(json!({"prompt": workflows::slow(name, 30, 100, false), "prompt_id": name})).await;
    }
    acme.submit_with(json!({"prompt": workflows::quick("never"), "prompt_id": "cancelled"})).await;
    acme.post("/queue", &json!({"delete": ["cancelled"]})).await.expect(200);
    acme.running("running").await;
    let revoked = running.new_key(&["--tenant", "bravo", "--label", "revoked"]);
    let id = revoked.split('_').nth(1).unwrap().to_owned();
    assert!(running.command(&["key", "revoke", &id]).status.success());
    let keys = json!({"acme": running.key("acme"), "bravo": running.key("bravo"), "revoked": revoked});
    running.terminate().await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let expected = json!({
        "keys": keys, "ended": ended, "other_tenant": others, "views": views, "active": held, "cancelled": "cancelled",
        "made_by": "tests/examples/state_fixture.rs with the gateway of commit c852a9b (ledger schema 1)",
    });
    fs::create_dir_all(&target).unwrap();
    fs::write(target.join("expected.json"), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
    for folder in ["graphs", "blobs"] {
        copy_contents(&running.state().join(folder), &target.join(folder));
    }
    compress(&running.state().join("ledger.redb"), &target.join("ledger.redb.gz"));
}

/// What of a history entry must be the same for ever.
fn seen(prompt: &str, entry: &Value) -> Value {
    let names: Vec<Value> = files_of(entry).iter().map(|file| file["filename"].clone()).collect();
    json!({"prompt_id": prompt, "status": entry["status"]["status_str"], "files": names, "number": entry["prompt"][0]})
}

fn sha256(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The shards of a content-addressed folder; not `tmp`.
fn copy_contents(from: &Path, to: &Path) {
    for shard in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "tmp") {
        let folder = to.join(shard.file_name());
        fs::create_dir_all(&folder).unwrap();
        for content in fs::read_dir(shard.path()).unwrap().map(Result::unwrap) {
            fs::copy(content.path(), folder.join(content.file_name())).unwrap();
        }
    }
}

/// By `gzip`, which every machine that builds this has; reading it back is the tests' own work.
fn compress(from: &Path, to: &Path) {
    let mut gzip = Command::new("gzip");
    let out = fs::File::create(to).unwrap();
    gzip.args(["-9", "-n", "-c"]).stdin(Stdio::from(fs::File::open(from).unwrap())).stdout(out);
    assert!(gzip.status().unwrap().success());
}
