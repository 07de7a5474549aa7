//! The state directory: taken over from an older release, backed up and restored, and what is in the way of either.

use comfygate_tests::client::files_of;
use comfygate_tests::{Client, Gateway, gateway, workflows};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sha256(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts the state directory of the first release in place of a gateway's that never ran, and tells what is in it.
fn with_state_of_schema_1(gateway: &Gateway) -> Value {
    let (from, to) = (fixture("state-v1"), gateway.state());
    for folder in ["graphs", "blobs"] {
        copy_tree(&from.join(folder), &to.join(folder));
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(from.join("ledger.redb.gz")).output().unwrap();
    assert!(unpacked.status.success(), "gzip: {}", gateway::said(&unpacked));
    fs::write(to.join("ledger.redb"), unpacked.stdout).unwrap();
    serde_json::from_str(&fs::read_to_string(from.join("expected.json")).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(text).collect()
}

/// That an ended job is as the older release told it.
async fn is_as_it_was(client: &Client, expected: &Value) {
    let prompt = text(&expected["prompt_id"]);
    let history = client.get(&format!("/history/{prompt}")).await.expect(200).json();
    let entry = &history[prompt];
    let names: Vec<Value> = files_of(entry).iter().map(|file| file["filename"].clone()).collect();
    let told = json!({
        "prompt_id": prompt, "status": entry["status"]["status_str"], "files": names, "number": entry["prompt"][0],
    });
    assert_eq!(&told, expected, "{entry}");
    for file in files_of(entry) {
        client.stranger().get(&client.path_of(text(&file["url"]))).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_directory_of_schema_1_is_taken_over_with_everything_in_it() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    let expected = with_state_of_schema_1(&gateway);
    gateway.start().await;
    gateway.backends_are_up().await;
    let stranger = gateway.stranger();
    let [acme, bravo, revoked] =
        ["acme", "bravo", "revoked"].map(|name| stranger.bearer(text(&expected["keys"][name])));
    for ended in expected["ended"].as_array().unwrap() {
        is_as_it_was(&acme, ended).await;
    }
    is_as_it_was(&bravo, &expected["other_tenant"]).await;
    revoked.get("/gate/me").await.expect(401);
    for view in expected["views"].as_array().unwrap() {
        let path = text(&view["path"]);
        assert_eq!(sha256(&acme.get(path).await.expect(200).body), text(&view["sha256"]));
        bravo.get(path).await.expect(404);
    }
    // What had not ended runs now, and nothing else does.
    for prompt in texts(&expected["active"]) {
        assert_eq!(acme.finished(prompt).await["status"]["status_str"], "success");
    }
    assert_eq!(gateway.stand_ins()[0].executed().len(), texts(&expected["active"]).len());
    let cancelled = text(&expected["cancelled"]);
    assert_eq!(acme.get(&format!("/history/{cancelled}")).await.expect(200).json(), json!({}));
    // Names go on where they ended, and the file as it was is kept.
    let next = acme.submit(workflows::quick("lake")).await;
    assert_eq!(files_of(&acme.finished(&next).await)[0]["filename"], "lake_00003_.png");
    assert!(gateway.state().join("ledger.redb.v1").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_that_a_migration_keeps_can_be_put_back_and_migrated_again() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    let expected = with_state_of_schema_1(&gateway);
    gateway.start().await;
    gateway.terminate().await;
    let (kept, ledger) = (gateway.state().join("ledger.redb.v1"), gateway.state().join("ledger.redb"));
    fs::rename(&kept, &ledger).unwrap();
    gateway.start().await;
    let acme = gateway.stranger().bearer(text(&expected["keys"]["acme"]));
    is_as_it_was(&acme, &expected["ended"][0]).await;
    assert!(kept.is_file(), "it was of schema 1 again");
}
