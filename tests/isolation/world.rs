//! A gateway with a tenant that has one of everything, and what those things are called.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::Builder;
use comfygate_tests::{Browser, Client, Event, Gateway, Socket, pictures, workflows};
use http::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// The client id of the victim's page.
pub const CLIENT: &str = "vault-client";

/// The backends that a test runs against: `COMFYUI_URLS`, or none for stand-ins.
pub fn real_urls() -> Option<Vec<String>> {
    let urls = std::env::var("COMFYUI_URLS").ok()?;
    let urls: Vec<String> = urls.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
    (!urls.is_empty() && !urls[0].is_empty()).then_some(urls)
}

/// Limits that no test of thousands of requests meets.
pub fn generous() -> Builder {
    generous_with("")
}

/// The same with further lines of the plan.
pub fn generous_with(lines: &str) -> Builder {
    let plan = "policy = \"default\"\nrate = { per_second = 100000, burst = 100000 }\n\
                requests = { per_second = 100000, burst = 100000 }\nactive_jobs_max = 1000\n";
    Gateway::builder().plan(&format!("{plan}{lines}")).gateway_toml("[limits]\nfailed_logins_free = 100000")
}

/// A thing of the victim's, and a name of nothing that has the same form and length.
#[derive(Debug, Clone)]
pub struct Thing {
    /// Which kind of object.
    pub kind: &'static str,
    /// What it is called.
    pub name: String,
    /// What nothing is called.
    pub none: String,
}

impl Thing {
    fn new(kind: &'static str, name: impl Into<String>) -> Thing {
        let name = name.into();
        let none = nothing_like(&name);
        assert_ne!(name, none, "{kind}: a name that nothing else has");
        assert_eq!(name.len(), none.len());
        Thing { kind, name, none }
    }
}

/// The words of the victim's names turn into others; ids, which have none, into zeros and `e`s.
fn nothing_like(name: &str) -> String {
    if name.contains("vault") {
        return name.replace("vault", "blank");
    }
    if name == "acme" {
        return "zzyx".to_owned();
    }
    // Not all digits: it has to look like an id still.
    let other = |c: char| {
        if c.is_ascii_digit() {
            '0'
        } else if c.is_ascii_hexdigit() {
            'e'
        } else {
            c
        }
    };
    name.chars().map(other).collect()
}

/// Tenant `acme`, who has one of everything.
pub struct Victim {
    /// Its caller.
    pub client: Client,
    /// A job that has succeeded, one that runs, one that waits.
    pub prompts: [String; 3],
    /// All that could be asked for.
    pub things: Vec<Thing>,
    /// Path and query of the signed URL of a result.
    pub signed: String,
    /// What its page's socket has heard, which is open all the time.
    pub heard: Arc<Mutex<Vec<Event>>>,
    was: Value,
}

/// A job that runs until somebody stops it.
pub fn endless(prefix: &str) -> Value {
    workflows::slow(prefix, 150, 2000, false)
}

impl Victim {
    /// Gives `acme` one of everything.
    pub async fn of(gateway: &Gateway) -> Victim {
        let client = gateway.client("acme");
        let heard = listening(client.socket(Some(CLIENT)).await);
        let picture = pictures::png(20, 10, [1, 2, 3]);
        client.upload("/upload/image", &[], "vault.png", &picture).await.expect(200);
        client.upload("/upload/image", &[("subfolder", "vault")], "deep-vault.png", &picture).await.expect(200);
        let original = json!({"filename": "vault.png", "type": "input"}).to_string();
        let mask = pictures::png_with_alpha(20, 10, [9, 9, 9], 55);
        client.upload("/upload/mask", &[("original_ref", &original)], "vault-mask.png", &mask).await.expect(200);
        client.post_bytes("/userdata/workflows%2Fvault.json", "text/plain", "{\"vault\":1}").await.expect(200);
        client.post_bytes("/userdata/subgraphs%2Fvault-graph.json", "text/plain", "{}").await.expect(200);
        client.post("/settings", &json!({"vault.setting": "vault"})).await.expect(200);
        let mut graph = workflows::inverted("vault.png", "vault/plan");
        graph["10"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}});
        let envelope = json!({"prompt": graph, "client_id": CLIENT, "extra_data": {"extra_pnginfo": {"workflow": {"id": "vault-workflow"}}}});
        let keyed = [("content-type", "application/json"), ("idempotency-key", "vault-idempotent")];
        let accepted = client.call(Method::POST, "/prompt", &keyed, envelope.to_string().into()).await.expect(200);
        let finished = accepted.json()["prompt_id"].as_str().unwrap().to_owned();
        let entry = client.finished(&finished).await;
        assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        let running = client.submit_with(json!({"prompt": endless("vault"), "client_id": CLIENT})).await;
        client.running(&running).await;
        let held = client
            .submit_with(json!({"prompt": endless("vault"), "client_id": CLIENT, "prompt_id": "vault-prompt"}))
            .await;
        let files = files_of(&entry);
        let of_kind = |kind: &str| files.iter().find(|file| file["type"] == kind).expect("a file of this kind");
        let name = |file: &Value| file["filename"].as_str().unwrap().to_owned();
        let signed = client.path_of(of_kind("output")["url"].as_str().unwrap());
        let session = Browser::of(gateway, "acme").await;
        let cookie = session.cookie().split_once('=').unwrap().1.to_owned();
        let mut things = vec![
            Thing::new("prompt and history entry", &finished),
            Thing::new("running job", &running),
            Thing::new("held job and queue item", &held),
            Thing::new("output file", name(of_kind("output"))),
            Thing::new("output file with its folder", format!("vault/{}", name(of_kind("output")))),
            Thing::new("upload", "vault.png"),
            Thing::new("upload in a folder", "vault/deep-vault.png"),
            Thing::new("mask", "vault-mask.png"),
            Thing::new("userdata file", "workflows/vault.json"),
            Thing::new("subgraph", "subgraphs/vault-graph.json"),
            Thing::new("setting", "vault.setting"),
            Thing::new("socket", CLIENT),
            Thing::new("workflow id", "vault-workflow"),
            Thing::new("idempotency key", "vault-idempotent"),
            Thing::new("session", &cookie[..32]),
            Thing::new("file id of a signed URL", signed.split(['/', '?']).nth(3).unwrap()),
            Thing::new("tenant id", "acme"),
        ];
        // A temporary file's random letters are its own word; a preview's name is the gateway's to choose.
        let temp = name(of_kind("temp"));
        let (stem, extension) = temp.rsplit_once('.').unwrap();
        let none: String = stem.chars().map(|c| if c.is_ascii_lowercase() { 'q' } else { c }).collect();
        things.push(Thing { kind: "temp file", none: format!("{none}.{extension}"), name: temp });
        for sent in gateway.stand_ins().iter().flat_map(|backend| backend.submissions()) {
            if let Some(upstream) = sent["prompt"]["1"]["inputs"]["image"].as_str() {
                things.push(Thing::new("upload as a backend calls it", upstream));
                things.push(Thing::new("prompt as a backend calls it", sent["prompt_id"].as_str().unwrap()));
            }
        }
        let mut victim = Victim { client, prompts: [finished, running, held], things, signed, heard, was: Value::Null };
        victim.was = victim.state().await;
        victim
    }

    /// All that it has, as it sees it. Signed URLs are made anew at each answer and left out.
    async fn state(&self) -> Value {
        let mut all = Vec::new();
        for path in [
            "/queue",
            "/history",
            "/settings",
            "/internal/files/input",
            "/internal/files/output",
            "/internal/files/temp",
            "/v2/userdata",
            "/userdata/workflows%2Fvault.json",
        ] {
            all.push(without_urls(self.client.get(path).await.expect(200).json()));
        }
        json!(all)
    }

    /// Nothing that others did changed anything of it.
    pub async fn is_untouched(&self) {
        assert_eq!(self.state().await, self.was, "what is the victim's has changed");
        self.client.stranger().get(&self.signed).await.expect(200);
        self.client.get("/view?filename=vault.png&type=input").await.expect(200);
    }

    /// Ends its two jobs.
    pub async fn stops(&self) {
        self.client.post("/queue", &json!({"clear": true})).await.expect(200);
        self.client.post("/interrupt", &json!({"prompt_id": self.prompts[1]})).await.expect(200);
        self.client.finished(&self.prompts[1]).await;
    }
}

/// Reads a socket to its end, as a page does: pings are answered meanwhile.
pub fn listening(mut socket: Socket) -> Arc<Mutex<Vec<Event>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let event = socket.next_event().await;
            let over = matches!(event, Event::Closed(_));
            all.lock().unwrap().push(event);
            if over {
                return;
            }
        }
    });
    heard
}

/// The same without signed URLs.
pub fn without_urls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.remove("url");
            members.values_mut().for_each(|member| *member = without_urls(member.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_urls(item.take())),
        _ => {}
    }
    value
}
