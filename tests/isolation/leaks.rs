//! The leak detector: everything that a tenant does holds marker texts that stand nowhere else; another tenant's page goes through a whole session
//! meanwhile. Nothing that the gateway gives to that page, writes of its requests, or counts in public, may hold a marker.

use crate::matrix::paths;
use crate::world::{endless, generous, listening, real_urls};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfygate::route::{Prefix, TABLE, Verb};
use comfygate_tests::client::files_of;
use comfygate_tests::{Browser, Client, Event, Gateway, Response, eventually, pictures, workflows};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Letters and digits only, so that no encoding but base64 changes them; lower case, for the ids that want it.
const TENANT: &str = "mktenant7q";
const USER: &str = "mkuser7q";
const CLIENT: &str = "mkclient7q";
const PROMPT_ID: &str = "mkpromptid7q";
const WORKFLOW_ID: &str = "mkworkflow7q";
const NODE_TITLE: &str = "mktitle7q";
const NOTE: &str = "mknote7q";
const TEXT: &str = "mktext7q";
const PREFIX: &str = "mkprefix7q";
const UPLOAD: &str = "mkupload7q";
const FOLDER: &str = "mkfolder7q";
const MASK: &str = "mkmask7q";
const ERROR: &str = "mkerror7q";
const CLASS: &str = "MkClass7q";
const NODE_ID: &str = "mknode7q";
const USER_FILE: &str = "mkuserfile7q";
const USER_TEXT: &str = "mkusertext7q";
const SETTING: &str = "mksetting7q";
const SETTING_VALUE: &str = "mkvalue7q";
/// Those that their owner is told of again, by which the detector is tried out.
const MARKS: [&str; 20] = [
    TENANT,
    USER,
    CLIENT,
    PROMPT_ID,
    WORKFLOW_ID,
    NODE_TITLE,
    NOTE,
    TEXT,
    PREFIX,
    UPLOAD,
    FOLDER,
    MASK,
    ERROR,
    CLASS,
    NODE_ID,
    USER_FILE,
    USER_TEXT,
    SETTING,
    SETTING_VALUE,
    EVERYWHERE,
];
/// Stands in what nobody is told again: a path, headers, an idempotency key. And in one text, so that it is found at all.
const EVERYWHERE: &str = "mkodd7q";

/// Which markers a text holds, in any case of letters, plain or in base64 at any offset.
fn marks_in(bytes: &[u8]) -> BTreeSet<&'static str> {
    let text = String::from_utf8_lossy(bytes);
    let lower = text.to_ascii_lowercase();
    let encoded = |mark: &str| {
        (0..3).any(|offset| {
            let padded = STANDARD.encode([&vec![0; offset][..], mark.as_bytes()].concat());
            // What the neighbours change is cut off: the first group at an offset, and the last.
            text.contains(&padded[if offset == 0 { 0 } else { 4 }..padded.len() - 4])
        })
    };
    MARKS.into_iter().filter(|mark| lower.contains(&mark.to_ascii_lowercase()) || encoded(mark)).collect()
}

#[test]
fn the_detector_finds_a_mark_plain_in_other_letters_and_in_base64() {
    for text in [
        format!("x{TEXT}y"),
        TEXT.to_uppercase(),
        STANDARD.encode(format!("ab{TEXT}c")),
        STANDARD.encode(format!("{{\"a\":\"{TEXT}\"}}")),
    ] {
        assert_eq!(marks_in(text.as_bytes()), BTreeSet::from([TEXT]), "{text}");
    }
    assert!(marks_in(b"mktex7q, and whatever else is said").is_empty());
}

/// Gathers all that one side is told.
#[derive(Default)]
struct Told {
    requests: BTreeSet<String>,
    leaks: Vec<String>,
    marks: BTreeSet<&'static str>,
    answers: usize,
}

impl Told {
    fn look(&mut self, what: &str, bytes: &[u8]) {
        self.answers += 1;
        let marks = marks_in(bytes);
        if !marks.is_empty() {
            let text: String = String::from_utf8_lossy(bytes).chars().take(800).collect();
            self.leaks.push(format!("{what}: {marks:?} in {text}"));
        }
        self.marks.extend(marks);
    }

    fn answer(&mut self, what: &str, answer: &Response) {
        self.requests.extend(answer.header("x-request-id").map(str::to_owned));
        self.look(what, format!("{} {:?}", answer.status, answer.headers).as_bytes());
        self.look(what, &answer.body);
        assert!(answer.status.as_u16() < 500 || answer.status == 501, "{what}: {} {}", answer.status, answer.text());
    }

    async fn get(&mut self, client: &Client, path: &str) -> Response {
        let answer = client.get(path).await;
        self.answer(path, &answer);
        answer
    }

    async fn post(&mut self, client: &Client, path: &str, body: &Value) -> Response {
        let answer = client.post(path, body).await;
        self.answer(path, &answer);
        answer
    }

    fn heard(&mut self, event: &Event) {
        self.look("a socket", format!("{event:?}").as_bytes());
        if let Event::Binary(bytes)
        | Event::Preview { image: bytes, .. }
        | Event::PreviewWithMetadata { image: bytes, .. } = event
        {
            self.look("a socket", bytes);
        }
    }
}

/// A workflow of the marked tenant: markers as texts, titles, prefix, and in the page's own graph.
fn marked(mut prompt: Value) -> Value {
    prompt["5"] =
        json!({"class_type": "PrimitiveStringMultiline", "inputs": {"value": TEXT}, "_meta": {"title": NODE_TITLE}});
    prompt[NODE_ID] =
        json!({"class_type": "PreviewAny", "inputs": {"source": ["5", 0]}, "_meta": {"title": NODE_TITLE}});
    let graph = json!({"id": WORKFLOW_ID, "nodes": [{"id": 1, "type": "Note", "title": NODE_TITLE, "widgets_values": [NOTE, EVERYWHERE]}]});
    json!({"prompt": prompt, "client_id": CLIENT, "extra_data": {"extra_pnginfo": {"workflow": graph}}})
}

/// One round of the marked tenant: each way to leave something behind.
async fn round(client: &Client, number: usize) -> Told {
    let mut told = Told::default();
    let picture = pictures::png(16, 8, [1, 2, 3]);
    let (name, mask) = (format!("{UPLOAD}.png"), format!("{MASK}.png"));
    let fields = [("subfolder", FOLDER), ("overwrite", "true")];
    told.answer("upload", &client.upload("/upload/image", &fields, &name, &picture).await);
    told.answer("upload", &client.upload("/upload/image", &[("overwrite", "true")], &name, &picture).await);
    let original = json!({"filename": name, "type": "input"}).to_string();
    let painted = pictures::png_with_alpha(16, 8, [9, 9, 9], 55);
    told.answer(
        "mask",
        &client.upload("/upload/mask", &[("original_ref", &original), ("overwrite", "true")], &mask, &painted).await,
    );
    told.answer(
        "userdata",
        &client.post_bytes(&format!("/userdata/workflows%2F{USER_FILE}.json"), "text/plain", USER_TEXT).await,
    );
    told.post(client, "/settings", &json!({SETTING: SETTING_VALUE})).await;
    let shown = format!("{FOLDER}/{name}");
    let mut sampled = workflows::slow(PREFIX, 5, 30, true);
    sampled["3"] = json!({"class_type": "LoadImage", "inputs": {"image": shown}, "_meta": {"title": NODE_TITLE}});
    sampled["4"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}});
    let mut first = marked(sampled);
    first["prompt_id"] = json!(format!("{PROMPT_ID}-{number}"));
    let keyed = [("content-type", "application/json"), ("idempotency-key", EVERYWHERE), ("user-agent", EVERYWHERE)];
    told.answer(
        "keyed",
        &client
            .call(Method::POST, "/prompt", &keyed, json!({"prompt": workflows::quick(PREFIX)}).to_string().into())
            .await,
    );
    for envelope in [first, marked(workflows::failing(ERROR))] {
        let prompt = client.submit_with(envelope).await;
        told.get(client, "/queue").await;
        client.finished(&prompt).await;
        told.get(client, &format!("/history/{prompt}")).await;
        told.get(client, &format!("/api/jobs/{prompt}")).await;
    }
    let mut unknown = workflows::quick("x");
    unknown["7"] = json!({"class_type": CLASS, "inputs": {"a": TEXT}});
    told.post(client, "/prompt", &json!({"prompt": unknown})).await;
    told.get(client, &format!("/{EVERYWHERE}?{EVERYWHERE}=1")).await;
    let stopped = client.submit_with(marked(endless(PREFIX))).await;
    client.running(&stopped).await;
    let waiting = client.submit_with(marked(endless(PREFIX))).await;
    told.get(client, "/queue").await;
    told.post(client, "/queue", &json!({"delete": [waiting]})).await;
    told.post(client, "/interrupt", &json!({"prompt_id": stopped})).await;
    client.finished(&stopped).await;
    for path in ["/history", "/gate/me", "/settings", "/v2/userdata", "/internal/files/input", "/object_info/LoadImage"]
    {
        told.get(client, path).await;
    }
    told.get(client, &format!("/userdata/workflows%2F{USER_FILE}.json")).await;
    told
}

/// The recorded requests of a version of the stock page.
fn recorded(version: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/recordings");
    let text = std::fs::read_to_string(folder.join(format!("stock-page-{version}.json"))).unwrap();
    let recording: Value = serde_json::from_str(&text).unwrap();
    recording["requests"].as_array().unwrap().clone()
}

/// What the page of a version asks, as it was recorded, with this socket's id.
async fn stock_session(told: &mut Told, client: &Client, version: &str, sid: &str) {
    for request in recorded(version) {
        let method: Method = request["method"].as_str().unwrap().parse().unwrap();
        let path = request["path"].as_str().unwrap();
        let mut body = request["body"].as_str().unwrap_or_default().to_owned();
        if let Ok(mut sent) = serde_json::from_str::<Value>(&body) {
            for member in ["client_id", "clientId"] {
                if sent.get(member).is_some() {
                    sent[member] = json!(sid);
                }
            }
            body = sent.to_string();
        }
        let kind = request["content_type"].as_str().map(|kind| ("content-type", kind));
        let answer = client.call(method, path, kind.as_slice(), body.into()).await;
        told.answer(&format!("{version}: {path}"), &answer);
        if let Some(prompt) = serde_json::from_slice::<Value>(&answer.body)
            .ok()
            .and_then(|said| Some(said.get("prompt_id")?.as_str()?.to_owned()))
        {
            let entry = client.finished(&prompt).await;
            told.look("history", entry.to_string().as_bytes());
            for file in files_of(&entry) {
                told.get(client, &client.path_of(file["url"].as_str().unwrap())).await;
            }
        }
    }
}

/// Every `GET` of the table, with names of nothing in particular.
async fn every_get(told: &mut Told, client: &Client) {
    for entry in TABLE.iter().filter(|entry| entry.methods.contains(&Verb::Get)) {
        let prefix = if entry.prefix == Prefix::ApiOnly { "/api" } else { "" };
        for path in paths(entry, prefix, "index") {
            told.get(client, &path).await;
        }
    }
    for path in [
        "/view?filename=x.png&type=input",
        "/userdata?dir=.&recurse=true&full_info=true",
        "/history?max_items=64",
        "/api/jobs?limit=64",
    ] {
        told.get(client, path).await;
    }
}

/// The lines that the gateway wrote of these requests or of this tenant.
fn written(gateway: &Gateway, told: &Told, tenant: &str) -> Vec<String> {
    let log = gateway.log_text();
    let log = log.lines().filter(|line| told.requests.iter().any(|id| line.contains(id.as_str()))).map(str::to_owned);
    let audit = gateway.audit().into_iter().filter(|line| line["owner"]["tenant"] == tenant);
    log.chain(audit.map(|line| line.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_session_beside_another_tenant_at_work_is_told_nothing_of_it() {
    let builder = generous()
        .tenants_toml(&format!("[[tenant]]\nid = \"{TENANT}\"\nplan = \"usual\""))
        .environment("RUST_LOG", "info,comfygate=debug");
    let gateway = match real_urls() {
        Some(urls) => builder.backends(&urls),
        None => builder.stand_ins(2),
    };
    let gateway = gateway.start().await;
    let key = gateway.new_key(&["--tenant", TENANT, "--user", USER]);
    let marked = gateway.stranger().bearer(&key);
    // Once before anybody else looks, so that there is something to be found all the time.
    let own = round(&marked, 0).await;
    let missing: Vec<_> = MARKS.iter().filter(|mark| !own.marks.contains(*mark)).collect();
    assert!(missing.is_empty(), "the detector finds nothing of {missing:?} even with the owner");
    let over = Arc::new(AtomicBool::new(false));
    let work = tokio::spawn({
        let (marked, over) = (marked.clone(), Arc::clone(&over));
        async move {
            let mut rounds = 1;
            while !over.load(Ordering::Relaxed) {
                round(&marked, rounds).await;
                rounds += 1;
            }
            rounds
        }
    });
    let acme = gateway.client("acme");
    let browser = Browser::of(&gateway, "acme").await;
    let mut told = Told::default();
    let mut sockets = [acme.socket(None).await, acme.socket(Some(CLIENT)).await, browser.page().socket(None).await];
    let sid = sockets[0].sid().await;
    assert_eq!(sockets[1].sid().await, CLIENT, "its own word: not to be found again");
    let sockets = sockets.map(listening);
    for client in [&acme, &browser.page()] {
        for version in ["1.35.9", "1.58.1"] {
            stock_session(&mut told, client, version, &sid).await;
        }
        every_get(&mut told, client).await;
    }
    over.store(true, Ordering::Relaxed);
    let rounds = work.await.unwrap();
    // A last look when all is done, and a job of its own behind whatever was still to be told.
    every_get(&mut told, &acme).await;
    let fence = acme.submit(workflows::quick("fence")).await;
    acme.finished(&fence).await;
    for heard in &sockets {
        let ended = |event: &Event| {
            event.kind() == "executing" && event.data()["node"].is_null() && event.prompt_id().as_ref() == Some(&fence)
        };
        eventually("its end is heard", || async { heard.lock().unwrap().iter().any(ended).then_some(()) }).await;
        heard.lock().unwrap().iter().for_each(|event| told.heard(event));
    }
    let addresses = gateway.addresses();
    for path in ["/metrics", "/healthz", "/readyz"] {
        told.look(path, gateway.plain_get(addresses.metrics, path).await.1.as_bytes());
    }
    for path in ["/", "/gate/health", "/gate/login", "/queue"] {
        told.get(&gateway.stranger(), path).await;
    }
    let lines = written(&gateway, &told, "acme");
    assert!(lines.len() > told.requests.len() / 2, "{} log lines of {} requests", lines.len(), told.requests.len());
    for line in &lines {
        told.look("log", line.as_bytes());
    }
    println!("{} texts of {} requests beside {rounds} rounds of work", told.answers, told.requests.len());
    assert!(told.leaks.is_empty(), "{} leaks:\n{}", told.leaks.len(), told.leaks.join("\n"));
}
