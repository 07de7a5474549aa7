//! The catalogue that a caller sees: of all backends as one, cut to what its policy allows, kept by its browser, compressed.

use bytes::Bytes;
use comfygate_stand_in::{Options, default_models};
use comfygate_tests::client::Response;
use comfygate_tests::gateway::fast;
use comfygate_tests::{Client, Gateway, pictures, workflows};
use flate2::read::GzDecoder;
use http::Method;
use serde_json::{Value, json};
use std::io::Read;

fn with_checkpoints(names: &[&str]) -> Options {
    let mut options = Options { models: default_models(), ..fast() };
    options.models.insert("checkpoints".into(), names.iter().map(|name| (*name).to_owned()).collect());
    options
}

async fn offered(client: &Client) -> Value {
    let info = client.get("/object_info").await.expect(200).json();
    info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0].clone()
}

async fn with(client: &Client, headers: &[(&str, &str)]) -> Response {
    client.call(Method::GET, "/object_info", headers, Bytes::new()).await
}

fn tag(answer: &Response) -> String {
    answer.header("etag").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_all_backends_are_offered_and_run_where_they_are() {
    let first = with_checkpoints(&["both.safetensors", "first.safetensors"]);
    let second = with_checkpoints(&["both.safetensors", "second.safetensors"]);
    let gateway = Gateway::builder().stand_ins_with(vec![first, second]).start().await;
    gateway.backends_are_up().await;
    let acme = gateway.client("acme");
    assert_eq!(offered(&acme).await, json!(["both.safetensors", "first.safetensors", "second.safetensors"]));
    let one = acme.get("/object_info/CheckpointLoaderSimple").await.expect(200).json();
    assert_eq!(one["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0].as_array().unwrap().len(), 3);
    let listed = acme.get("/models/checkpoints").await.expect(200).json();
    assert_eq!(listed, json!(["both.safetensors", "first.safetensors", "second.safetensors"]));
    for name in ["first.safetensors", "second.safetensors"] {
        let mut workflow = workflows::text_to_image("x");
        workflow["4"]["inputs"]["ckpt_name"] = json!(name);
        let ended = acme.finished(&acme.submit(workflow).await).await;
        assert_eq!(ended["status"]["status_str"], "success", "{name}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_the_policy_denies_are_not_offered() {
    let policy = "name = \"own\"\nextends = \"default\"\n[[models]]\ninput = \"*\"\ndeny = [\"secret/*\"]\n[texts]\nembeddings = []\n";
    let gateway = Gateway::builder()
        .stand_ins_with(vec![with_checkpoints(&["a.safetensors", "secret/b.safetensors"])])
        .file("own.toml", policy)
        .plan("policy = \"own.toml\"\nrequests = { per_second = 1000, burst = 1000 }")
        .start()
        .await;
    gateway.backends_are_up().await;
    let acme = gateway.client("acme");
    assert_eq!(offered(&acme).await, json!(["a.safetensors"]));
    assert_eq!(acme.get("/models/checkpoints").await.expect(200).json(), json!(["a.safetensors"]));
    assert_eq!(acme.get("/embeddings").await.expect(200).json(), json!([]));
    assert!(!acme.get("/object_info").await.expect(200).text().contains("secret/b"));
    let mut workflow = workflows::text_to_image("x");
    workflow["4"]["inputs"]["ckpt_name"] = json!("secret/b.safetensors");
    acme.post("/prompt", &json!({"prompt": workflow})).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_it_is_told_so_and_who_takes_gzip_gets_the_same_in_less() {
    let gateway = Gateway::builder().stand_ins(2).start().await;
    gateway.backends_are_up().await;
    let acme = gateway.client("acme");
    let plain = acme.get("/object_info").await.expect(200);
    assert!(plain.header("content-encoding").is_none());
    assert_eq!(plain.header("cache-control"), Some("private, no-cache"));
    let packed = with(&acme, &[("accept-encoding", "gzip, br")]).await.expect(200);
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), (Some("gzip"), Some("accept-encoding")));
    let mut text = Vec::new();
    GzDecoder::new(&packed.body[..]).read_to_end(&mut text).unwrap();
    assert!(text == plain.body && packed.body.len() * 5 < text.len(), "{} of {}", packed.body.len(), text.len());
    assert_ne!(tag(&plain), tag(&packed));
    let unchanged = with(&acme, &[("if-none-match", &tag(&plain))]).await.expect(304);
    assert!(unchanged.body.is_empty());
    with(&acme, &[("if-none-match", &tag(&packed)), ("accept-encoding", "gzip")]).await.expect(304);
    with(&acme, &[("if-none-match", &tag(&packed))]).await.expect(200);
    // An upload of one's own is another answer for oneself, and none for another.
    let bravo = gateway.client("bravo");
    let before = tag(&bravo.get("/object_info").await.expect(200));
    acme.upload("/upload/image", &[("type", "input")], "mine.png", &pictures::png(8, 8, [1, 2, 3])).await.expect(200);
    let changed = with(&acme, &[("if-none-match", &tag(&plain))]).await.expect(200);
    assert!(changed.text().contains("mine.png"));
    assert_eq!(tag(&bravo.get("/object_info").await.expect(200)), before);
}
