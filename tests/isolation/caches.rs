//! ComfyUI's cache of results knows no tenants: it goes by the graph alone. Behind the gateway an owner finds its own results there and nobody
//! else's, and has its files whether they were made or found.
//!
//! With `COMFYUI_URLS` the backend is a real one: the first of them.

use crate::world::real_urls;
use comfygate_tests::client::files_of;
use comfygate_tests::gateway::Builder;
use comfygate_tests::{Client, Gateway, StandIn, pictures, workflows};
use serde_json::{Value, json};

/// What a run of the graph came to.
#[derive(Debug)]
struct Run {
    /// Nodes that were found in the cache.
    cached: Vec<String>,
    /// Names and pixels of the file that was saved and of the one that was shown, as their owner is told of them.
    files: Vec<(String, Vec<u8>)>,
}

async fn run(client: &Client, graph: &Value) -> Run {
    let prompt = client.submit(graph.clone()).await;
    let entry = client.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let messages = entry["status"]["messages"].as_array().unwrap();
    let told = messages.iter().find(|message| message[0] == "execution_cached").expect("it is always told");
    let mut cached: Vec<String> = serde_json::from_value(told[1]["nodes"].clone()).unwrap();
    cached.sort();
    let mut files = Vec::new();
    for kind in ["output", "temp"] {
        let of_kind: Vec<Value> = files_of(&entry).into_iter().filter(|file| file["type"] == kind).collect();
        assert_eq!(of_kind.len(), 1, "a run has its files, made or found: {entry}");
        let picture = client.stranger().get(&client.path_of(of_kind[0]["url"].as_str().unwrap())).await.expect(200);
        files.push((of_kind[0]["filename"].as_str().unwrap().to_owned(), pictures::pixels(&picture.body)));
    }
    Run { cached, files }
}

fn before_one_backend() -> Builder {
    match real_urls() {
        Some(urls) => Gateway::builder().backends(&urls[..1]),
        None => Gateway::builder().stand_ins(1),
    }
}

/// Another picture in each run of this test, so that nothing of an earlier one is found.
fn graph() -> Value {
    let [one, two, three, ..] = uuid::Uuid::new_v4().into_bytes();
    let mut graph = workflows::quick("cached");
    graph["1"]["inputs"]["color"] = json!(u32::from_be_bytes([0, one, two, three]));
    graph["10"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
    graph
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owners_second_run_is_found_with_its_file_and_another_owners_first_is_not() {
    let gateway = before_one_backend().start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let ann = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    let graph = graph();
    let mut shown: Vec<String> = Vec::new();
    for (who, client) in
        [("a tenant", &acme), ("another tenant", &bravo), ("a user of the first", &ann), ("the first", &acme)]
    {
        // ComfyUI 0.8.0 keeps the last run's results only: what came between ends a hit, and never is one.
        let made = run(client, &graph).await;
        assert_eq!(made.cached, [""; 0], "{who}: found what is another's");
        for _ in 0..2 {
            let found = run(client, &graph).await;
            assert_eq!(found.cached, ["1", "10"], "{who}: its own results; what is saved is saved again");
            assert_eq!(found.files[0].1, made.files[0].1, "{who}: the same picture");
            assert_eq!(found.files[1], made.files[1], "{who}: the file of its first run");
        }
        // The node lives on at the backend, with the letters and the count of all previews that it made for anybody.
        let preview = &made.files[1].0;
        assert!(preview.ends_with("_00001_.png"), "{who} is told how many previews others had: {preview}");
        assert!(!shown.contains(preview), "{who} is told a name of another's: {preview}");
        shown.push(preview.clone());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_graph_that_ran_before_is_found_too_and_only_by_its_owner() {
    let gateway = before_one_backend().start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = graph();
    let mut second = first.clone();
    second["2"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}});
    second["10"]["inputs"]["images"] = json!(["2", 0]);
    let cached = async |client: &Client, graph: &Value| run(client, graph).await.cached;
    assert_eq!(cached(&acme, &first).await, [""; 0]);
    assert_eq!(cached(&acme, &second).await, ["1"], "the picture, not what is made of it now");
    assert_eq!(cached(&bravo, &second).await, [""; 0]);
    assert!(gateway.stand_ins().iter().all(StandIn::is_running));
}
