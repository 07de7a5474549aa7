//! The matrix: for each route of the table and each kind of object, a caller asks for what is another's.
//!
//! Each request is sent to two worlds: in one `acme` has one of everything and is at work, in the other nobody has ever been. The answers have to be
//! equal byte for byte, status, headers and body, with only ids and times of day taken out. In the first world the answer has also to be the one
//! for a name of nothing. The callers are another tenant and another user of the same tenant.
//!
//! Requests are made from the table: a new action does not compile here before it has its row ([`variants`]), a new parameter has no value
//! ([`values`]), and an entry that no request reaches fails the test.

use crate::world::{Thing, Victim, generous_with, real_urls};
use bytes::Bytes;
use comfygate::route::{Action, BodyRule, Entry, Handling, Prefix, QueryKeys, RouteError, TABLE, Verb, matched_route};
use comfygate_tests::client::Kept;
use comfygate_tests::{Browser, Client, Gateway, Response, pictures, workflows};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One request, written without knowing the world that it is sent to.
#[derive(Debug, Clone)]
struct Ask {
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// A WebSocket is asked for.
    upgrade: bool,
}

/// Where the name of the session's cookie goes, which each gateway draws for itself.
const COOKIE_NAME: &str = "{COOKIE}";

/// What is sent beside method and path.
#[derive(Debug, Default)]
struct Variant {
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    upgrade: bool,
}

fn plain() -> Variant {
    Variant::default()
}

fn query(query: impl Into<String>) -> Variant {
    Variant { query: query.into(), ..plain() }
}

fn typed(content_type: &str, body: impl Into<Vec<u8>>) -> Variant {
    Variant { headers: vec![("content-type", content_type.to_owned())], body: body.into(), ..plain() }
}

fn sends(body: &Value) -> Variant {
    typed("application/json", body.to_string())
}

/// A form's `POST` from our own page.
fn urlencoded(fields: &str) -> Variant {
    let mut variant = typed("application/x-www-form-urlencoded", fields);
    variant.headers.push(("sec-fetch-site", "same-origin".to_owned()));
    variant
}

fn form(fields: &[(&str, &str)], filename: &str) -> Variant {
    let boundary = format!("multipart/form-data; boundary={}", pictures::BOUNDARY);
    typed(&boundary, pictures::form(fields, filename, &pictures::png(3, 3, [7, 7, 7])))
}

/// Percent-encodes all that is not unreserved (RFC 3986 §2.3), and nothing else: the gateway refuses encoding without need.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Folder and name of a shown name.
fn parted(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// What submissions can say of a name.
fn envelopes(name: &str) -> Vec<Value> {
    let mut all = vec![
        json!({"prompt": workflows::quick("mine"), "prompt_id": name}),
        json!({"prompt": workflows::quick("mine"), "client_id": name}),
        json!({"prompt": workflows::quick("mine"), "partial_execution_targets": ["9"], "extra_data": {"extra_pnginfo": {"workflow": {"id": name}}}}),
    ];
    let readable = ["", " [input]", " [output]", " [temp]"];
    all.extend(readable.map(|suffix| json!({"prompt": workflows::inverted(&format!("{name}{suffix}"), "mine")})));
    all
}

/// The row of an action: what is sent, with the name of a thing wherever the action reads one. `signed` is the query of a signed URL of the victim's.
fn variants(action: Action, name: &str, signed: &str) -> Vec<Variant> {
    match action {
        // What they say is in the path, or nothing.
        Action::CaCertificate
        | Action::DeleteUserFile
        | Action::Embeddings
        | Action::Features
        | Action::FolderPaths
        | Action::GateHealth
        | Action::HistoryEntry
        | Action::InternalFiles
        | Action::Job
        | Action::Logs
        | Action::LogoutPage
        | Action::SessionsPage
        | Action::ModelDetails
        | Action::ModelFolderDetails
        | Action::ModelFolders
        | Action::Models
        | Action::NodeReplacements
        | Action::ObjectInfo
        | Action::ObjectInfoClass
        | Action::Options
        | Action::PromptInfo
        | Action::Queue
        | Action::RawLogs
        | Action::Setting
        | Action::Settings
        | Action::Subgraph
        | Action::Subgraphs
        | Action::SystemStats
        | Action::TemplateFile
        | Action::Templates
        | Action::Ticket
        | Action::Translations
        | Action::UserFile
        | Action::Users => vec![plain()],
        Action::CancelJob => vec![plain(), sends(&json!({}))],
        Action::CancelJobs => vec![sends(&json!({"job_ids": [name]}))],
        Action::ChangeHistory | Action::ChangeQueue => vec![
            sends(&json!({"delete": [name]})),
            sends(&json!({"clear": true, "delete": [name]})),
            sends(&json!({"clear": "false"})),
        ],
        Action::ChangeSetting => vec![typed("text/plain", "1")],
        Action::ChangeSettings => vec![sends(&json!({name: 1}))],
        Action::ChangePassword => {
            vec![urlencoded(&format!("user={0}&old={0}&password={0}&again={0}", escaped(name))), plain()]
        }
        Action::ChangeSessions => vec![
            urlencoded(&format!("end={}", escaped(name))),
            urlencoded("others=1"),
            Variant { headers: cookie(name).headers, ..urlencoded("others=1") },
        ],
        Action::CheckPrompt => envelopes(name).iter().map(sends).collect(),
        Action::Free => vec![plain(), sends(&json!({"unload_models": true, "free_memory": true}))],
        Action::GateMe => vec![plain(), cookie(name)],
        Action::History => vec![
            plain(),
            query("max_items=1"),
            query("max_items=8&offset=0"),
            query(format!("prompt_id={}", escaped(name))),
        ],
        Action::Interrupt => vec![plain(), sends(&json!({})), sends(&json!({"prompt_id": name}))],
        Action::Jobs => vec![
            plain(),
            query("status=in_progress,pending&limit=200&offset=0"),
            query("status=completed,failed,cancelled&sort_by=execution_duration&limit=1"),
            query(format!("workflow_id={}", escaped(name))),
        ],
        Action::First => vec![urlencoded(&format!("token={0}&user={0}&password={0}&again={0}", escaped(name)))],
        Action::FirstPage => vec![query(format!("token={}", escaped(name)))],
        Action::Login => vec![
            urlencoded(&format!("key={}", escaped(name))),
            urlencoded(&format!("user={0}&password={0}", escaped(name))),
        ],
        Action::LoginPage | Action::OidcStart => vec![query(format!("next=/{}", escaped(name)))],
        Action::Logout => vec![plain(), cookie(name)],
        Action::ModelMetadata => vec![
            plain(),
            query(format!("filename={}", escaped(name))),
            query(format!("filename={}.safetensors", escaped(parted(name).1))),
        ],
        Action::MoveUserFile => vec![plain(), query("overwrite=true&full_info=true")],
        Action::OidcBackchannel => vec![urlencoded(&format!("logout_token={}", escaped(name))), cookie(name)],
        Action::OidcCallback | Action::OidcOwnCallback => {
            vec![plain(), query(format!("code=c&state={}", escaped(name))), cookie(name)]
        }
        Action::SignedFile => {
            let mut forged = signed.to_owned();
            let last = forged.pop().unwrap();
            forged.push(if last == 'A' { 'B' } else { 'A' });
            vec![plain(), query(forged), query("exp=9999999999&sig=AAAA")]
        }
        // Together with the events and the history of what becomes of it: `submissions` below.
        Action::SubmitPrompt => Vec::new(),
        Action::SubscribeLogs => vec![sends(&json!({"enabled": true, "clientId": name}))],
        Action::UploadImage => {
            let (folder, file) = parted(name);
            vec![form(&[("subfolder", folder)], file), form(&[("subfolder", folder), ("overwrite", "true")], file)]
        }
        Action::UploadMask => {
            let (folder, file) = parted(name);
            let original = |kind: &str| json!({"filename": file, "subfolder": folder, "type": kind}).to_string();
            let mut all: Vec<Variant> =
                ["input", "output", "temp"].map(|kind| form(&[("original_ref", &original(kind))], "mask.png")).into();
            all.push(form(&[("original_ref", &json!({"filename": name}).to_string())], "mask.png"));
            all
        }
        Action::UserFiles => vec![
            query(format!("dir={}", escaped(name))),
            query(format!("dir={}&recurse=true&full_info=true&split=true", escaped(parted(name).0))),
            query("dir=.&recurse=true&full_info=true"),
        ],
        Action::UserFilesBelow => vec![plain(), query(format!("path={}", escaped(name)))],
        Action::View => {
            let (folder, file) = parted(name);
            let mut all = vec![query(format!("filename={}", escaped(name)))];
            for kind in ["input", "output", "temp"] {
                for folder in [folder, "vault"] {
                    let named = format!("filename={}&subfolder={}&type={kind}", escaped(file), escaped(folder));
                    all.push(query(format!("{named}&preview=webp;90&rand=0.5")));
                    all.push(query(format!("{named}&channel=a")));
                    all.push(query(named));
                }
            }
            all
        }
        Action::WebSocket => {
            let named = format!("clientId={}", escaped(name));
            let upgrade = |query: String| Variant { query, upgrade: true, ..plain() };
            vec![
                query(named.clone()),
                upgrade(named),
                upgrade(format!("token={}", escaped(name))),
                upgrade(String::new()),
            ]
        }
        Action::WriteUserFile => {
            let mut all = vec![typed("text/plain", "mine"), typed("text/plain", "mine")];
            all[0].query = "overwrite=false&full_info=true".to_owned();
            all
        }
    }
}

/// A cookie of the session of that id, if it is one, with a secret that is wrong.
fn cookie(name: &str) -> Variant {
    let value = format!("{COOKIE_NAME}={name}{}", "0".repeat(64));
    Variant { headers: vec![("cookie", value)], ..plain() }
}

/// Whether the action makes something under the name that is asked for: those come last, or the caller would ask for what is its own.
fn makes(action: Action) -> bool {
    matches!(
        action,
        Action::ChangeSetting
            | Action::ChangeSettings
            | Action::UploadImage
            | Action::UploadMask
            | Action::WriteUserFile
    )
}

/// The values of a parameter of the table.
///
/// # Panics
/// For one that nobody has thought of.
fn values(parameter: &str, name: &str) -> Vec<String> {
    let as_page = || format!("{}.png", name.trim_end_matches(".png"));
    match parameter {
        "prompt_id" | "id" | "file_id" | "batch" | "file%2F" | "provider" => vec![escaped(name)],
        "dest%2F" => vec![escaped(&format!("{name}-moved"))],
        "class" => vec![escaped(name), "LoadImage".to_owned(), "LoadImageOutput".to_owned()],
        "folder" => vec![escaped(name), "checkpoints".to_owned()],
        "directory" => vec!["input".to_owned(), "output".to_owned(), "temp".to_owned(), escaped(name)],
        "file.web" => vec![escaped(parted(&as_page()).1)],
        "file..web" => vec![as_page()],
        "file.." | "rest.." => vec![name.split('/').map(escaped).collect::<Vec<_>>().join("/")],
        other => panic!("`{{{other}}}` of the table has no value here"),
    }
}

/// Every path that an entry stands for.
pub fn paths(entry: &Entry, prefix: &str, name: &str) -> Vec<String> {
    let mut all = vec![prefix.to_owned()];
    for piece in entry.path.split('/').skip(1) {
        let parameter = piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}'));
        let filled = parameter.map_or_else(|| vec![piece.to_owned()], |parameter| values(parameter, name));
        all = all.iter().flat_map(|path| filled.iter().map(move |value| format!("{path}/{value}"))).collect();
    }
    all
}

/// The prefixes under which an entry is asked: plain and `/api` in turns, since they lead to the same row.
fn prefix(entry: &Entry, turn: usize) -> &'static str {
    match entry.prefix {
        Prefix::PlainOnly => "",
        Prefix::ApiOnly => "/api",
        Prefix::Both if turn.is_multiple_of(2) => "",
        Prefix::Both => "/api",
    }
}

/// What is asked of an entry about a name.
fn asks(entry: &Entry, turn: usize, name: &str, signed: &str) -> Vec<Ask> {
    let variants = match entry.handling {
        Handling::Answer(action) => variants(action, name, signed),
        // Nothing is read of these: the path is all there is.
        Handling::Forward | Handling::Refuse => vec![plain()],
    };
    let mut all = Vec::new();
    for path in paths(entry, prefix(entry, turn), name) {
        let methods = match entry.handling {
            Handling::Answer(_) => entry.methods,
            // The thing decides nothing: each method in turn.
            _ => entry.methods.get(turn % entry.methods.len()..=turn % entry.methods.len()).unwrap(),
        };
        for verb in methods {
            let method: Method = verb.name().parse().unwrap();
            all.extend(variants.iter().map(|variant| ask(method.clone(), &path, variant)));
            if turn < 2 {
                let further =
                    if *verb == Verb::Get { vec![Method::HEAD, Method::OPTIONS] } else { vec![Method::OPTIONS] };
                all.extend(further.into_iter().map(|method| ask(method, &path, &plain())));
            }
        }
    }
    all
}

fn ask(method: Method, path: &str, variant: &Variant) -> Ask {
    let Variant { query, headers, body, upgrade } = variant;
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    Ask { method, target, headers: headers.clone(), body: body.clone(), upgrade: *upgrade }
}

/// Whether the table leads this request to this entry.
fn reaches(ask: &Ask, entry: &'static Entry) -> bool {
    match matched_route(&ask.method, &ask.target, TABLE) {
        Ok(found) => std::ptr::eq(found.entry, entry),
        Err(RouteError::NotFound { reason }) => entry.handling == Handling::Refuse && reason == Some(entry.reason),
        Err(_) => false,
    }
}

/// A gateway as one caller sees it.
struct World {
    stranger: Client,
    caller: Client,
    kept: Kept,
    cookie: String,
    /// The caller is another user of the victim's own tenant.
    same_tenant: bool,
    /// Texts of this world alone, and what they stand for.
    own: Vec<(String, &'static str)>,
}

impl World {
    async fn of(gateway: &Gateway, arguments: &[&str]) -> World {
        let key = gateway.new_key(arguments);
        let caller = gateway.stranger().bearer(&key);
        let cookie = Browser::with_key(&gateway.stranger(), &key).await.cookie().split_once('=').unwrap().0.to_owned();
        let ca = gateway.stranger().get("/gate/ca.crt").await.expect(200).text();
        let own = vec![
            (ca, "CA"),
            (caller.authority(), "HOST"),
            (cookie.clone(), "COOKIE"),
            (key.split('_').nth(1).unwrap().to_owned(), "KEY"),
        ];
        let same_tenant = arguments.contains(&"acme");
        World { stranger: gateway.stranger(), kept: caller.kept(), caller, cookie, same_tenant, own }
    }

    /// The answer, without what differs between two answers to one request.
    async fn told(&mut self, ask: &Ask) -> Told {
        if ask.upgrade {
            return self.heard(ask).await;
        }
        let headers: Vec<(&str, String)> =
            ask.headers.iter().map(|(name, value)| (*name, value.replace(COOKIE_NAME, &self.cookie))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = Bytes::from(ask.body.clone());
        // A cookie counts only where no header's credential stands beside it.
        let answer = if headers.iter().any(|(name, _)| *name == "cookie") {
            self.stranger.call(ask.method.clone(), &ask.target, &headers, body).await
        } else {
            self.kept.call(ask.method.clone(), &ask.target, &headers, body).await
        };
        self.without_ids(ask, &answer)
    }

    async fn heard(&self, ask: &Ask) -> Told {
        match self.caller.try_socket(&ask.target, None, &[]).await {
            Err(status) => Told { status, headers: Vec::new(), body: String::new() },
            Ok(mut socket) => {
                let heard = socket.heard_so_far().await;
                let body = without_ids(&format!("{heard:?}"), &ask.target, &self.own);
                Told { status: 101, headers: Vec::new(), body }
            }
        }
    }

    fn without_ids(&self, ask: &Ask, answer: &Response) -> Told {
        let (status, mut headers, body) = answer.without_request_id();
        let sent = format!("{} {}", ask.target, String::from_utf8_lossy(&ask.body));
        for (name, value) in &mut headers {
            *value = match name.as_str() {
                // How much of a rate is left is the tenant's, and time gives it back. A connection ends after so many requests.
                "ratelimit-remaining" | "ratelimit-reset" | "last-modified" | "connection" => "TIME".to_owned(),
                // The body itself is compared; the milliseconds in it are sometimes a digit shorter.
                "content-length" if ask.method != Method::HEAD && *value == answer.body.len().to_string() => {
                    "BODY".to_owned()
                }
                _ => without_ids(value, &sent, &self.own),
            };
        }
        let mut told = Told { status, headers, body: without_ids(&body, &sent, &self.own) };
        if self.same_tenant && ask.target.ends_with("/gate/me") {
            told = told.without_the_tenants_use();
        }
        told
    }
}

/// An answer as the matrix compares it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Told {
    /// The same with a name, which the answer may repeat, taken out.
    fn without(&self, name: &str) -> Told {
        let out = |text: &str| text.replace(&escaped(name), "NAME").replace(name, "NAME");
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), out(value))).collect();
        Told { status: self.status, headers, body: out(&self.body) }
    }

    /// How much room uploads take is counted by tenant, and each of its users may know.
    fn without_the_tenants_use(mut self) -> Told {
        self.headers.retain(|(name, _)| name != "content-length");
        for sum in ["\"uploaded_bytes\":", "\"result_bytes\":"] {
            if let Some(at) = self.body.find(sum) {
                let end = self.body[at..].find(',').unwrap();
                self.body.replace_range(at..at + end, &format!("{sum}TENANT"));
            }
        }
        // Of the budget, only the tenant's part: the user's own is compared.
        if let Some(at) = self.body.find("\"tenant\":{\"used_seconds\":") {
            let end = self.body[at..].find('}').unwrap();
            self.body.replace_range(at..=at + end, "\"tenant\":TENANT");
        }
        self
    }

    fn shown(&self) -> String {
        let body: String = self.body.chars().take(600).collect();
        format!("{} {:?} {body}", self.status, self.headers)
    }
}

/// Takes out what is drawn anew for each answer: UUIDs, with hyphens or without, tickets, signatures of URLs, times in milliseconds. What the caller has sent stays.
fn without_ids(text: &str, sent: &str, own: &[(String, &'static str)]) -> String {
    let mut text = text.to_owned();
    for (own, word) in own {
        text = text.replace(own.as_str(), word);
    }
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let word_end = rest.find(|c: char| !(c.is_ascii_hexdigit() || c == '-')).unwrap_or(rest.len());
        let word = &rest[..word_end];
        let drawn = (word.len() == 36 && word.matches('-').count() == 4) || (word.len() == 32 && !word.contains('-'));
        let fraction = fraction_of_seconds(word, &rest[word_end..]);
        let time = word.len() >= 13 && word.bytes().all(|byte| byte.is_ascii_digit()) || fraction > 0;
        let ticket = word.len() == 64 && out.ends_with("cgt_");
        if (drawn || ticket) && !sent.contains(word) {
            out.push_str("ID");
        } else if time && !sent.contains(word) {
            out.push_str("TIME");
        } else if word.is_empty() {
            out.push(first);
        } else {
            out.push_str(word);
        }
        rest = &rest[if word.is_empty() { first.len_utf8() } else { word_end + fraction }..];
        if out.ends_with("/gate/files/") {
            rest = &rest[rest.find('"').unwrap_or(rest.len())..];
            out.push_str("SIGNED");
        }
    }
    out
}

/// The length of `.391` behind the seconds of a time such as 1795275092.391; 0 if it is none.
fn fraction_of_seconds(word: &str, behind: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let is_time = word.len() == 10 && digits(word) == 10 && word.starts_with('1');
    behind.strip_prefix('.').filter(|_| is_time).map_or(0, |fraction| 1 + digits(fraction))
}

#[test]
fn only_ids_and_times_are_taken_out_of_an_answer() {
    let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
    let text =
        format!("{{\"a\":\"{id}\",\"at\":1795233170034,\"n\":12345,\"u\":\"https://x:1/gate/files/{id}?sig=ab\"}}");
    let own = [("x:1".to_owned(), "HOST")];
    let wanted = "{\"a\":\"ID\",\"at\":TIME,\"n\":12345,\"u\":\"https://HOST/gate/files/SIGNED\"}";
    assert_eq!(without_ids(&text, "", &own), wanted);
    assert!(without_ids(&text, id, &own).contains(id), "what was sent stays");
}

/// Entries of the table in the order in which they are asked.
fn rows() -> Vec<&'static Entry> {
    let last = |entry: &Entry| matches!(entry.handling, Handling::Answer(action) if makes(action));
    let (last, first): (Vec<_>, Vec<_>) = TABLE.iter().partition(|entry| last(entry));
    first.into_iter().chain(last).collect()
}

/// Whether anything of a request to this entry depends on a name.
fn reads_a_name(entry: &Entry) -> bool {
    let keys = !matches!(entry.keys, QueryKeys::Known([]));
    // What a ticket is asked for with is not read, and only so many may wait.
    let takes = !matches!(entry.body, BodyRule::None) && entry.handling != Handling::Answer(Action::Ticket);
    entry.path.contains('{') || keys || takes
}

/// The two worlds as one caller sees them, and what was found so far.
struct Worlds {
    full: World,
    empty: World,
    found: Vec<String>,
    asked: usize,
}

impl Worlds {
    /// Sends one request to both worlds; they have to answer alike. Gives the full world's answer.
    async fn alike(&mut self, what: &str, ask: &Ask) -> Told {
        let (full, empty) = (self.full.told(ask).await, self.empty.told(ask).await);
        self.asked += 1;
        if full != empty {
            let (shown, other) = (full.shown(), empty.shown());
            self.found
                .push(format!("{what}: {} {}\n  beside the other: {shown}\n  alone: {other}", ask.method, ask.target));
        }
        full
    }

    async fn row(&mut self, entry: &'static Entry, things: &[Thing], signed: &str) -> bool {
        let mut reached = false;
        let things = if reads_a_name(entry) { things } else { &things[..2] };
        for (turn, thing) in things.iter().enumerate() {
            let foreign = asks(entry, turn, &thing.name, signed);
            let none = asks(entry, turn, &thing.none, signed);
            for (foreign, none) in foreign.iter().zip(&none) {
                reached |= reaches(foreign, entry);
                let told = self.alike(thing.kind, foreign).await.without(&thing.name);
                let nothing = self.alike(thing.kind, none).await.without(&thing.none);
                let made = matches!(entry.handling, Handling::Answer(action) if makes(action));
                if told != nothing && !made {
                    self.found.push(format!(
                        "{}: {} {} can be told from nothing\n  foreign: {}\n  nothing: {}",
                        thing.kind,
                        foreign.method,
                        foreign.target,
                        told.shown(),
                        nothing.shown()
                    ));
                }
            }
        }
        // Answered without a request that is compared: `submissions`.
        reached || matches!(entry.handling, Handling::Answer(Action::SubmitPrompt))
    }

    /// Submissions that name what is another's, and what becomes of them.
    async fn submissions(&mut self, things: &[Thing]) {
        for (turn, thing) in things.iter().enumerate() {
            let path = if turn % 2 == 0 { "/prompt" } else { "/api/prompt" };
            for (number, envelope) in envelopes(&thing.name).iter().enumerate() {
                let mut variant = sends(envelope);
                if number == 1 {
                    variant.headers.push(("idempotency-key", thing.name.clone()));
                }
                let told = self.alike(thing.kind, &ask(Method::POST, path, &variant)).await;
                if told.status == 200 {
                    for world in [&self.full, &self.empty] {
                        world.is_idle().await;
                    }
                }
            }
            for path in ["/history", "/queue", "/api/jobs?sort_order=asc"] {
                self.alike(thing.kind, &ask(Method::GET, path, &plain())).await;
            }
        }
    }
}

impl World {
    async fn is_idle(&self) {
        comfygate_tests::eventually("the caller's jobs have ended", || async {
            (self.caller.get("/prompt").await.expect(200).json()["exec_info"]["queue_remaining"] == 0).then_some(())
        })
        .await;
    }
}

/// Two gateways before backends of their own, in the first of which `acme` has one of everything.
async fn two_worlds(plan: &str) -> (Gateway, Gateway, Victim) {
    let urls = real_urls().unwrap_or_default();
    let world = async |number: usize| match urls.get(number % urls.len().max(1)) {
        Some(url) => generous_with(plan).backends(std::slice::from_ref(url)).start().await,
        None => generous_with(plan).stand_ins(1).start().await,
    };
    let (full, empty) = (world(0).await, world(1).await);
    let victim = Victim::of(&full).await;
    (full, empty, victim)
}

/// The whole matrix for one caller.
async fn nothing_of_the_victims_shows_for(plan: &str, arguments: &[&str]) {
    let (full, empty, victim) = two_worlds(plan).await;
    let signed = victim.signed.split_once('?').unwrap().1.to_owned();
    let mut worlds = Worlds {
        full: World::of(&full, arguments).await,
        empty: World::of(&empty, arguments).await,
        found: Vec::new(),
        asked: 0,
    };
    let mut unreached: BTreeSet<&str> = BTreeSet::new();
    for entry in rows() {
        if !worlds.row(entry, &victim.things, &signed).await {
            unreached.insert(entry.path);
        }
    }
    assert!(unreached.is_empty(), "no request of the matrix reaches {unreached:?}");
    victim.is_untouched().await;
    victim.stops().await;
    worlds.submissions(&victim.things).await;
    println!("{} requests to each world", worlds.asked);
    assert!(worlds.found.is_empty(), "{} differences:\n{}", worlds.found.len(), worlds.found.join("\n"));
    let heard = victim.heard.lock().unwrap();
    assert!(heard.iter().any(|event| event.kind() == "progress"), "{heard:?}");
    for event in heard.iter() {
        let prompt = event.prompt_id();
        assert!(prompt.is_none_or(|id| victim.prompts.contains(&id)), "an event of the caller's: {event:?}");
        assert!(!matches!(event, comfygate_tests::Event::Closed(_)), "the victim's socket was closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_another_tenant_for_every_kind_of_object_as_if_it_had_never_been() {
    nothing_of_the_victims_shows_for("", &["--tenant", "bravo"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_another_user_for_every_kind_of_object_as_if_it_had_never_been() {
    nothing_of_the_victims_shows_for("", &["--tenant", "acme", "--user", "ann"]).await;
}

/// A plan whose tenants are teams, with a member who sees only its own all the same.
const TEAM: &str = "users = \"shared\"\nusers_limited = [\"eve\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_another_team_for_every_kind_of_object_as_if_it_had_never_been() {
    nothing_of_the_victims_shows_for(TEAM, &["--tenant", "bravo", "--user", "ann"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_a_limited_member_of_a_team_as_if_the_others_had_never_been() {
    nothing_of_the_victims_shows_for(TEAM, &["--tenant", "acme", "--user", "eve"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_team_sees_its_jobs_and_files_and_nobodys_userdata_settings_and_sessions() {
    let (full, empty, victim) = two_worlds(TEAM).await;
    let member = ["--tenant", "acme", "--user", "ann"];
    let (full, empty) = (World::of(&full, &member).await, World::of(&empty, &member).await);
    let mut worlds = Worlds { full, empty, found: Vec::new(), asked: 0 };
    let entry = |action| rows().into_iter().find(|entry| entry.handling == Handling::Answer(action)).unwrap();
    for action in [
        Action::UserFiles,
        Action::UserFilesBelow,
        Action::UserFile,
        Action::MoveUserFile,
        Action::DeleteUserFile,
        Action::Settings,
        Action::Setting,
        Action::SessionsPage,
        Action::ChangeSessions,
        Action::ChangePassword,
        Action::Logout,
    ] {
        worlds.row(entry(action), &victim.things, "x=1").await;
        assert!(worlds.found.is_empty(), "{action:?} is personal:\n{}", worlds.found.join("\n"));
    }
    for action in [
        Action::PromptInfo,
        Action::Queue,
        Action::History,
        Action::HistoryEntry,
        Action::Jobs,
        Action::Job,
        Action::View,
        Action::InternalFiles,
        Action::ObjectInfo,
        Action::ObjectInfoClass,
        Action::CheckPrompt,
        Action::WebSocket,
    ] {
        worlds.row(entry(action), &victim.things, "x=1").await;
        assert!(!worlds.found.is_empty(), "{action:?} shows a member nothing of its team");
        worlds.found.clear();
    }
    victim.is_untouched().await;
}

/// What would be found if anything were: the owner's own requests are told apart from those of somebody who has nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_finds_what_the_owner_is_told() {
    let (full, empty, victim) = two_worlds("").await;
    let owner = ["--tenant", "acme"];
    let (full, empty) = (World::of(&full, &owner).await, World::of(&empty, &owner).await);
    let mut worlds = Worlds { full, empty, found: Vec::new(), asked: 0 };
    for action in [
        Action::PromptInfo,
        Action::Queue,
        Action::History,
        Action::HistoryEntry,
        Action::Jobs,
        Action::Job,
        Action::View,
        Action::InternalFiles,
        Action::UserFiles,
        Action::UserFilesBelow,
        Action::UserFile,
        Action::Settings,
        Action::Setting,
        Action::ObjectInfo,
        Action::ObjectInfoClass,
        Action::CheckPrompt,
        Action::WebSocket,
    ] {
        let entry = rows().into_iter().find(|entry| entry.handling == Handling::Answer(action)).unwrap();
        worlds.row(entry, &victim.things, "x=1").await;
        assert!(!worlds.found.is_empty(), "{action:?} shows its owner nothing, or the matrix sees nothing");
        worlds.found.clear();
    }
    victim.is_untouched().await;
}
