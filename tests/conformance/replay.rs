//! The recorded exchanges and sockets, replayed in order.

use std::path::Path;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Answer, Server, Socket, parse};
use crate::normal::{events, normal, sort};
use crate::through;

/// How a server was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Single,
    Multi,
}

impl Mode {
    fn folder(self) -> &'static str {
        match self {
            Mode::Single => "single-user",
            Mode::Multi => "multi-user",
        }
    }
}

/// Exchanges during which a prompt runs; before every other one the queue is empty.
const WHILE_RUNNING: [&str; 8] = [
    "GET /queue while running (success-legacy-preview)",
    "GET /queue while running (success-preview-metadata)",
    "POST /prompt pending",
    "GET /queue running+pending",
    "GET /prompt busy",
    "POST /queue delete",
    "POST /interrupt other",
    "POST /interrupt own",
];

/// Exchanges whose bodies are not compared, and why.
const STATUS_ONLY: [(&str, &str); 13] = [
    ("width float huge", "the stand-in's integers have 128 bits"),
    ("GET /api/jobs?sort_by=EXECUTION_DURATION", "durations differ from run to run"),
    ("GET /models/custom_nodes", "depends on installed packs"),
    ("GET /object_info/SaveImageWebsocket", "its pack was not in the base directory of the recording"),
    ("GET /internal/logs", "the log is of the run"),
    ("GET /extensions", "the front end's files are not served by the stand-in"),
    ("GET /history/ID (error)", "recorded in a race with the worker"),
    ("GET /api/jobs/ID (error)", "recorded in a race with the worker"),
    ("GET /api/jobs busy", "recorded while other prompts had been queued in another order"),
    ("GET /workflow_templates", "depends on installed packs"),
    ("GET /i18n", "depends on installed packs"),
    ("GET /global_subgraphs", "depends on installed packs"),
    ("GET /ws", "text of aiohttp that changes with its version"),
];

fn recorded(mode: Mode, file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/recordings").join(mode.folder()).join(file);
    parse(&std::fs::read_to_string(path).expect("the recording is in the repository"))
}

/// One difference between the recording and now.
#[derive(Debug)]
pub struct Fault {
    /// The name of the exchange, or the file of a socket.
    pub exchange: String,
    /// `status`, `body`, `events`, or a header.
    pub part: &'static str,
    pub recorded: String,
    pub now: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fault { exchange, part, recorded, now } = self;
        write!(f, "{exchange}: {part}\n  recorded {recorded}\n  now      {now}")
    }
}

/// Replays all exchanges of a recording; returns what differs, and prints what is skipped.
pub async fn replay(server: Server, mode: Mode, file: &str, imitation: bool) -> Vec<Fault> {
    let mut state = State::new(server, mode);
    state.all(file, imitation).await;
    state.faults
}

/// [`replay`] of the single-user exchanges through a gateway, with another tenant's job before each one whose events were recorded.
pub async fn replay_beside(server: Server, rounds: watch::Receiver<usize>, imitation: bool) -> Vec<Fault> {
    let mut state = State { beside: Some(rounds), ..State::new(server, Mode::Single) };
    state.all("http.json", imitation).await;
    state.faults
}

struct State {
    server: Server,
    mode: Mode,
    /// Number of the first accepted submission: recorded and now.
    first: (i64, i64),
    /// User id: recorded and now.
    users: Vec<(String, String)>,
    /// Open sockets with the recording that each is compared to.
    sockets: Vec<(Socket, &'static str)>,
    faults: Vec<Fault>,
    /// Rounds of the other tenant's.
    beside: Option<watch::Receiver<usize>>,
}

impl State {
    fn new(server: Server, mode: Mode) -> State {
        State { server, mode, first: (0, 0), users: Vec::new(), sockets: Vec::new(), faults: Vec::new(), beside: None }
    }

    async fn all(&mut self, file: &str, imitation: bool) {
        let exchanges = recorded(self.mode, file);
        if self.mode == Mode::Multi {
            self.prepare_user().await;
        }
        for exchange in exchanges.as_array().expect("a list") {
            self.exchange(exchange, imitation).await;
        }
    }

    /// The multi-user recording was made on a server that knew the user already.
    async fn prepare_user(&mut self) {
        let answer = self.server.post("/users", json!({"username": "acme"})).await;
        let id = answer.json().as_str().expect("an id").to_owned();
        let headers = [("comfy-user".to_owned(), id.clone())];
        let settings = self.server.send("POST", "/settings", &headers, br#"{"a": 1}"#.to_vec()).await;
        assert_eq!(settings.expect("an answer").status, 200);
        let recorded = recorded(self.mode, "http.json");
        let known = recorded.as_array().into_iter().flatten().find(|exchange| exchange["name"] == "GET /users");
        let users = known.expect("the exchange")["response"]["body"]["users"].clone();
        let old = users.as_object().and_then(|users| users.keys().next()).expect("a user").clone();
        self.users.push((old, id));
    }

    fn fault(&mut self, exchange: &str, part: &'static str, recorded: String, now: String) {
        self.faults.push(Fault { exchange: exchange.to_owned(), part, recorded, now });
    }

    async fn exchange(&mut self, exchange: &Value, imitation: bool) {
        let name = exchange["name"].as_str().expect("a name");
        if WHILE_RUNNING.contains(&name) || name == "GET /api/jobs busy" {
            self.server.running().await;
        } else {
            self.server.idle().await;
            self.close_sockets().await;
        }
        if imitation && name.contains("preview=webp") {
            println!("skipped: the stand-in writes WebP without loss, in other bytes than the recording ({name})");
            return;
        }
        if name == "POST /interrupt own" {
            let (socket, _) = self.sockets.first().expect("the socket of the running prompt is open");
            socket.until_event("progress").await;
        }
        let request = &exchange["request"];
        self.open_sockets(name, &request["body"]).await;
        let (headers, body) = self.request(name, request);
        let method = request["method"].as_str().expect("a method");
        let path = request["path"].as_str().expect("a path");
        let answer = self.server.send(method, path, &headers, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        if name == "POST /prompt takeover" {
            self.take_over(&request["body"]).await;
        }
        self.compare(name, &exchange["response"], &answer);
    }

    /// The sockets that had been open when this exchange was recorded.
    async fn open_sockets(&mut self, name: &str, body: &Value) {
        let file = match name {
            "POST /prompt success-legacy-preview" => "ws-success-legacy-preview.json",
            "POST /prompt success-preview-metadata" => "ws-success-preview-metadata.json",
            "POST /prompt cached" => "ws-cached.json",
            "POST /prompt failing" => "ws-error.json",
            "POST /prompt to-interrupt" => "ws-interrupt.json",
            "POST /prompt takeover" => "ws-takeover-first.json",
            _ => return,
        };
        if let Some(rounds) = &self.beside {
            through::a_round(rounds).await;
        }
        let client = body["client_id"].as_str().expect("a client id");
        let mut socket = self.server.socket(client).await;
        if file == "ws-success-preview-metadata.json" {
            socket.say(json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}})).await;
            socket.until_event("feature_flags").await;
        }
        self.sockets.push((socket, file));
        if file == "ws-takeover-first.json" {
            self.sockets.push((self.server.socket("a-bystander").await, "ws-observer.json"));
        }
    }

    /// A second socket of the same name, once the first has heard two steps.
    async fn take_over(&mut self, body: &Value) {
        let (first, _) = self.sockets.first().expect("the first socket is open");
        let steps = |events: &[Value]| events.iter().filter(|event| event["type"] == "progress").count();
        first.until("two steps", |events| steps(events) >= 2).await;
        let second = self.server.socket(body["client_id"].as_str().expect("a client id")).await;
        self.sockets.push((second, "ws-takeover-second.json"));
    }

    /// Compares what every open socket heard, and closes it.
    async fn close_sockets(&mut self) {
        for (socket, file) in std::mem::take(&mut self.sockets) {
            match file {
                // A bystander and a socket taken over hear nothing of the end.
                "ws-observer.json" => {
                    let ended = |event: &Value| event["data"]["status"]["exec_info"]["queue_remaining"] == 0;
                    socket.until("the queue is empty again", |events| events.iter().skip(1).any(ended)).await;
                }
                "ws-takeover-first.json" => {}
                "ws-takeover-second.json" => socket.until_end().await,
                _ => socket.until_end_of_what_began().await,
            }
            assert!(socket.is_open(), "{file}: the socket was closed");
            self.compare_events(file, &socket.heard());
        }
    }

    fn compare_events(&mut self, file: &str, heard: &[Value]) {
        const OUTPUTS: [&str; 3] = ["2", "4", "5"];
        let recorded: Vec<Value> = recorded(self.mode_of_events(), file)
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| match event.get("text") {
                Some(text) => text.clone(),
                None => json!({"binary": decoded(event["binary_base64"].as_str().expect("base64"))}),
            })
            .collect();
        let (mut wanted_statuses, mut wanted) = events(&recorded, &OUTPUTS);
        let (heard, earlier) =
            if self.server.is_gateway() { through::of_this_run(heard) } else { (heard.to_vec(), None) };
        self.faults.extend(earlier);
        let (mut statuses, mut told) = events(&heard, &OUTPUTS);
        if self.server.is_gateway() {
            self.faults.extend(through::levelled_events(&mut wanted, &mut told));
        }
        // The end of a recording is where its client left.
        if self.server.is_gateway() && told.len() >= wanted.len() {
            for (old, new) in wanted.iter().zip(&told).filter(|(old, new)| old != new) {
                self.fault(file, "events", old.clone(), new.clone());
            }
        } else if told.get(..wanted.len()) != Some(&wanted) {
            self.fault(file, "events", format!("{wanted:#?}"), format!("{told:#?}"));
        }
        wanted_statuses.dedup();
        statuses.dedup();
        if statuses.get(..wanted_statuses.len()) != Some(&wanted_statuses) {
            self.fault(file, "status events", format!("{wanted_statuses:?}"), format!("{statuses:?}"));
        }
    }

    /// Only the single-user server's sockets were recorded.
    fn mode_of_events(&self) -> Mode {
        Mode::Single
    }

    fn request(&self, name: &str, request: &Value) -> (Vec<(String, String)>, Vec<u8>) {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (key, value) in request["headers"].as_object().into_iter().flatten() {
            let mut value = value.as_str().expect("a header").to_owned();
            for (old, new) in &self.users {
                value = value.replace(old, new);
            }
            headers.push((key.clone(), value));
        }
        let body = match &request["body"] {
            Value::Null => Vec::new(),
            Value::String(text) if text == "<multipart>" => {
                headers.push(("content-type".into(), "multipart/form-data; boundary=frontier".into()));
                form(name)
            }
            // Raw bodies were kept as one code point a byte.
            Value::String(text) => text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect(),
            json => {
                // ComfyUI takes JSON under any name; a gateway wants to be told, and clients tell.
                if self.server.is_gateway() {
                    headers.push(("content-type".into(), "application/json".into()));
                }
                json.to_string().into_bytes()
            }
        };
        (headers, body)
    }

    fn compare(&mut self, name: &str, recorded: &Value, answer: &Answer) {
        if recorded["status"] != answer.status {
            let body = String::from_utf8_lossy(&answer.body);
            self.fault(name, "status", recorded["status"].to_string(), format!("{} {body}", answer.status));
            return;
        }
        for header in ["Content-Type", "Content-Disposition", "Accept-Ranges", "Content-Range"] {
            let (mut wanted, mut told) =
                (recorded["headers"].get(header).and_then(Value::as_str), answer.header(header));
            if header == "Content-Range" {
                // The length behind the slash is the encoder's.
                (wanted, told) =
                    (wanted.and_then(|text| text.split('/').next()), told.and_then(|text| text.split('/').next()));
            }
            if wanted != told {
                let (wanted, told) = (format!("{wanted:?}"), format!("{told:?}"));
                self.fault(name, header, wanted, told);
            }
        }
        if let Some((_, reason)) = STATUS_ONLY.iter().find(|(skipped, _)| *skipped == name) {
            println!("skipped: body of {name}: {reason}");
            return;
        }
        if self.mode == Mode::Multi && name == "GET /internal/files/output" {
            println!("skipped: body of {name}: recorded on a server that had run before");
            return;
        }
        self.compare_body(name, recorded, answer);
    }

    fn compare_body(&mut self, name: &str, recorded: &Value, answer: &Answer) {
        let (wanted, told) = match recorded["body_kind"].as_str() {
            Some("json") => {
                let (wanted, told) = (&recorded["body"], answer.json());
                if name == "POST /prompt int_from_string" {
                    self.first = (number(wanted), number(&told));
                }
                let multi = |value: Value| {
                    if self.mode == Mode::Multi { without_cache(value) } else { value }
                };
                let (mut wanted, mut told) = (multi(normal(wanted, self.first.0)), multi(normal(&told, self.first.1)));
                if name.starts_with("userdata list") {
                    // The order is the file system's.
                    sort(Some(&mut wanted));
                    sort(Some(&mut told));
                }
                if self.server.is_gateway() {
                    self.faults.extend(through::levelled(&mut wanted, &mut told));
                }
                (wanted, told)
            }
            Some("base64-prefix") => {
                let wanted = decoded(recorded["body"].as_str().expect("base64"));
                let told = answer.body.get(..wanted.len().min(answer.body.len())).unwrap_or_default();
                // Compressed pixels differ between encoders; the size of the picture does not.
                let whole = usize::try_from(recorded["length"].as_u64().unwrap_or(0)).expect("a small length");
                let encoded = whole > 100 || name.contains("channel=");
                let kept = |bytes: &[u8]| json!(bytes.get(..if encoded { 24 } else { 512 }).unwrap_or(bytes));
                (kept(&wanted), kept(told))
            }
            _ => (recorded["body"].clone(), json!(String::from_utf8_lossy(&answer.body))),
        };
        if wanted != told {
            self.fault(name, "body", wanted.to_string(), told.to_string());
        }
    }
}

fn number(body: &Value) -> i64 {
    body["number"].as_i64().expect("a number")
}

/// The multi-user server had run before, so what it found in its cache is not comparable.
fn without_cache(value: Value) -> Value {
    match value {
        Value::Array(items) => match items.as_slice() {
            [Value::String(event), _] if event == "execution_cached" => json!([event]),
            _ => items.into_iter().map(without_cache).collect(),
        },
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, _)| !matches!(key.as_str(), "outputs" | "meta" | "outputs_count" | "preview_output"))
            .map(|(key, value)| (key, without_cache(value)))
            .collect(),
        other => other,
    }
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

/// The forms of the uploads; the recorder kept only their names.
fn form(name: &str) -> Vec<u8> {
    const PIXEL: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let pixel = decoded(PIXEL);
    let other = [pixel.as_slice(), b"x"].concat();
    let html = b"<script>alert(1)</script>".to_vec();
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>".to_vec();
    let (file, content, fields): (&str, Vec<u8>, &[(&str, &str)]) = match name {
        "POST /upload/image" | "POST /upload/image again same" => ("a.png", pixel, &[]),
        "POST /upload/image differing" => ("a.png", other, &[]),
        "POST /upload/image overwrite" => ("a.png", pixel, &[("overwrite", "true")]),
        "POST /upload/image subfolder" => ("b.png", pixel, &[("subfolder", "t/acme")]),
        "POST /upload/image traversal" => ("b.png", pixel, &[("subfolder", "../../x")]),
        "POST /upload/image name traversal" => ("..%2F..%2Fevil.png", pixel, &[]),
        "POST /upload/image type output" => ("c.png", pixel, &[("type", "output")]),
        "POST /upload/image html" => ("x.html", html, &[]),
        "POST /upload/image svg" => ("x.svg", svg, &[]),
        other => panic!("no form is known for {other}"),
    };
    let mut body = Vec::new();
    for (key, value) in fields {
        let part = format!("--frontier\r\nContent-Disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    let head = format!(
        "--frontier\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{file}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&content);
    body.extend_from_slice(b"\r\n--frontier--\r\n");
    body
}
