//! The bypass catalogue, entries 1 to 35, as bytes on the wire: requests that ComfyUI takes and the gateway has to refuse or to defuse.
//!
//! The tests in `bypass/` send them in front of stand-ins and look that nothing of a refused one arrives there; those in `real/` in front of
//! real ComfyUIs, which have to be alive afterwards.

use crate::client::Client;
use crate::raw::RawResponse;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A request that has to be refused.
#[derive(Debug)]
pub struct Attempt {
    what: String,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    /// The stable code; empty if any will do.
    code: &'static str,
}

/// A workflow that would run if it were not for the attempt around it.
const GRAPH: &str = r#"{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"bypass"}}}"#;

/// The graph with another width, as text.
fn width(width: &str) -> String {
    GRAPH.replace("\"width\":64", &format!("\"width\":{width}"))
}

/// An envelope around the graph with further members, as text.
fn envelope(members: &str) -> String {
    format!("{{{members}{}\"prompt\":{GRAPH}}}", if members.is_empty() { "" } else { "," })
}

/// A raw request with the caller's credential.
struct Raw<'a> {
    caller: &'a Client,
}

impl Raw<'_> {
    fn request(&self, line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let (authority, credential) = (self.caller.authority(), self.caller.credential_lines());
        let mut bytes = format!("{line}\r\nhost: {authority}\r\n{credential}{headers}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    fn post(&self, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        self.request(&format!("POST {path} HTTP/1.1"), &format!("{headers}content-length: {}\r\n", body.len()), body)
    }

    fn prompt(&self, body: &str) -> Vec<u8> {
        self.post("/prompt", "content-type: application/json\r\n", body.as_bytes())
    }

    fn get(&self, path: &str) -> Vec<u8> {
        self.request(&format!("GET {path} HTTP/1.1"), "", b"")
    }
}

fn attempt(what: impl Into<String>, bytes: Vec<u8>, statuses: &'static [u16], code: &'static str) -> Attempt {
    Attempt { what: what.into(), bytes, statuses, code }
}

fn utf16(text: &str) -> Vec<u8> {
    [0xFF, 0xFE].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

/// An envelope with a surrogate in bytes of its own, as no UTF-8 has it.
fn surrogate_bytes() -> Vec<u8> {
    let text = envelope(r#""zzz":"?""#);
    let mut bytes = text.into_bytes();
    if let Some(at) = bytes.iter().position(|byte| *byte == b'?') {
        bytes.splice(at..=at, [0xED, 0xA0, 0x80]);
    }
    bytes
}

const DENIED: &[u16] = &[403];
const NOT_THERE: &[u16] = &[400, 404];
const MALFORMED: &[u16] = &[400];
const MALFORMED_OR_TOO_LARGE: &[u16] = &[400, 413];
const TOO_LARGE: &[u16] = &[413];
const MEDIA: &[u16] = &[415];
const CROSS_SITE: &[u16] = &[403, 415];

/// The requests of an entry that have to be refused. Empty for entries that are defused instead.
pub fn attempts(entry: u8, caller: &Client) -> Vec<Attempt> {
    let raw = Raw { caller };
    match entry {
        1..=3 | 10 => encodings(entry, &raw),
        4..=9 | 13 => texts(entry, &raw),
        11 | 12 => framing(entry, &raw),
        15..=22 => targets(entry, &raw),
        24..=28 | 31 | 33 | 34 => envelopes(entry, &raw),
        _ => Vec::new(),
    }
}

fn encodings(entry: u8, raw: &Raw<'_>) -> Vec<Attempt> {
    let body = envelope("");
    let typed =
        |content_type: &str, body: &[u8]| raw.post("/prompt", &format!("content-type: {content_type}\r\n"), body);
    let coded = |coding: &str| {
        raw.post(
            "/prompt",
            &format!("content-type: application/json\r\ncontent-encoding: {coding}\r\n"),
            body.as_bytes(),
        )
    };
    let simple =
        |headers: &str| raw.post("/prompt", &format!("sec-fetch-site: cross-site\r\n{headers}"), body.as_bytes());
    match entry {
        1 => {
            let mut list = vec![attempt("utf-16", typed("application/json; charset=utf-16", &utf16(&body)), MEDIA, "")];
            for charset in ["utf-7", "cp037", "idna", "unicode_escape", "\"utf-16\"", "UTF_16", "latin-1"] {
                list.push(attempt(
                    charset,
                    typed(&format!("application/json; charset={charset}"), body.as_bytes()),
                    MEDIA,
                    "",
                ));
            }
            list
        }
        2 => ["gzip", "deflate", "br", "zstd"].map(|coding| attempt(coding, coded(coding), MEDIA, "")).into(),
        3 => ["GZIP", "x-foo", "gzip, gzip", "x-gzip"].map(|coding| attempt(coding, coded(coding), MEDIA, "")).into(),
        // As a page of another site sends it, along with a password that the browser remembers. A program may leave the type out.
        _ => vec![
            attempt("text/plain", simple("content-type: text/plain\r\n"), CROSS_SITE, ""),
            attempt("a form", simple("content-type: application/x-www-form-urlencoded\r\n"), CROSS_SITE, ""),
            attempt("none", simple(""), CROSS_SITE, ""),
            attempt("another form", typed("multipart/form-data; boundary=x", body.as_bytes()), MEDIA, ""),
            attempt("a list of types", typed("application/json, text/plain", body.as_bytes()), MEDIA, ""),
            attempt("a near one", typed("application/json5", body.as_bytes()), MEDIA, ""),
        ],
    }
}

fn texts(entry: u8, raw: &Raw<'_>) -> Vec<Attempt> {
    let prompt = |what: &str, body: String, statuses, code| attempt(what, raw.prompt(&body), statuses, code);
    match entry {
        4 => vec![
            prompt(
                "client_id twice",
                envelope(r#""client_id":"mine","client_id":"victim""#),
                MALFORMED,
                "duplicate_key",
            ),
            prompt("width twice", format!("{{\"prompt\":{}}}", width("64,\"width\":65")), MALFORMED, "duplicate_key"),
            prompt(
                "escaped spelling",
                format!("{{\"prompt\":{}}}", width(r#"64,"w\u0069dth":65"#)),
                MALFORMED,
                "duplicate_key",
            ),
            prompt("prompt twice", format!("{{\"prompt\":{GRAPH},\"prompt\":{GRAPH}}}"), MALFORMED, "duplicate_key"),
        ],
        5 => ["NaN", "Infinity", "-Infinity", "1e400"]
            .map(|number| prompt(number, format!("{{\"prompt\":{}}}", width(number)), MALFORMED, ""))
            .into(),
        6 => [
            "1".repeat(4301),
            "-".to_owned() + &"1".repeat(4301),
            "0.".to_owned() + &"1".repeat(4301),
            format!("1e{}1", "0".repeat(4301)),
            "18446744073709551616".to_owned(),
        ]
        .map(|number| {
            let what = number.chars().take(24).collect::<String>();
            prompt(&what, format!("{{\"prompt\":{}}}", width(&number)), MALFORMED_OR_TOO_LARGE, "")
        })
        .into(),
        7 => vec![
            prompt("in a string", envelope(r#""client_id":"\ud800""#), MALFORMED, "lone_surrogate"),
            prompt("in a key", envelope(r#""\udfff":1"#), MALFORMED, "lone_surrogate"),
            prompt("the wrong way round", envelope(r#""zzz":"\udc00\ud800""#), MALFORMED, "lone_surrogate"),
            attempt(
                "as bytes",
                raw.post("/prompt", "content-type: application/json\r\n", &surrogate_bytes()),
                MALFORMED,
                "invalid_utf8",
            ),
        ],
        8 => [33, 500, 990]
            .map(|depth| {
                let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
                prompt(
                    &format!("{depth} levels"),
                    format!("{{\"prompt\":{}}}", width(&nested)),
                    MALFORMED_OR_TOO_LARGE,
                    "too_deep",
                )
            })
            .into(),
        9 => vec![
            prompt("byte order mark", format!("\u{feff}{}", envelope("")), MALFORMED, "byte_order_mark"),
            prompt("behind a space", format!(" \u{feff}{}", envelope("")), MALFORMED, "invalid_json"),
            attempt(
                "of UTF-16, with no charset",
                raw.post("/prompt", "content-type: application/json\r\n", &utf16(&envelope(""))),
                MALFORMED,
                "invalid_utf8",
            ),
        ],
        _ => {
            let declared = raw.request(
                "POST /prompt HTTP/1.1",
                "content-type: application/json\r\ncontent-length: 104857600\r\n",
                b"{",
            );
            let nodes: Vec<String> =
                (0..100_000).map(|n| format!("\"{n}\":{{\"class_type\":\"EmptyImage\",\"inputs\":{{}}}}")).collect();
            vec![
                attempt("100 MB declared", declared, TOO_LARGE, ""),
                prompt("100,000 nodes", format!("{{\"prompt\":{{{}}}}}", nodes.join(",")), MALFORMED_OR_TOO_LARGE, ""),
                prompt(
                    "501 nodes",
                    format!("{{\"prompt\":{{{}}}}}", nodes[..501].join(",")),
                    MALFORMED_OR_TOO_LARGE,
                    "",
                ),
            ]
        }
    }
}

fn framing(entry: u8, raw: &Raw<'_>) -> Vec<Attempt> {
    let body = envelope("");
    let length = body.len();
    let framed = |headers: &str| {
        raw.request("POST /prompt HTTP/1.1", &format!("content-type: application/json\r\n{headers}"), body.as_bytes())
    };
    let mut chunked = String::new();
    write!(chunked, "{length:x}\r\n{body}\r\n0\r\n\r\n").unwrap_or_default();
    let chunks = |headers: &str| {
        raw.request(
            "POST /prompt HTTP/1.1",
            &format!("content-type: application/json\r\n{headers}"),
            chunked.as_bytes(),
        )
    };
    let post = String::from_utf8_lossy(&raw.prompt(&body)).into_owned();
    if entry == 11 {
        let bare = post.replacen("\r\n", "\n", 1);
        return vec![
            attempt(
                "CL and TE",
                chunks(&format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n")),
                MALFORMED,
                "",
            ),
            attempt("TE and CL", chunks("transfer-encoding: chunked\r\ncontent-length: 4\r\n"), MALFORMED, ""),
            attempt(
                "two equal CL",
                framed(&format!("content-length: {length}\r\ncontent-length: {length}\r\n")),
                MALFORMED,
                "",
            ),
            attempt(
                "two different CL",
                framed(&format!("content-length: {length}\r\ncontent-length: 3\r\n")),
                MALFORMED,
                "",
            ),
            attempt("a list of CL", framed(&format!("content-length: {length}, {length}\r\n")), MALFORMED, ""),
            attempt("a signed CL", framed(&format!("content-length: +{length}\r\n")), MALFORMED, ""),
            attempt("bare LF", bare.into_bytes(), MALFORMED, ""),
            attempt("TE xchunked", chunks("transfer-encoding: xchunked\r\n"), MALFORMED, ""),
            attempt("TE gzip, chunked", chunks("transfer-encoding: gzip, chunked\r\n"), MALFORMED, ""),
            attempt("TE with a space before the colon", chunks("transfer-encoding : chunked\r\n"), MALFORMED, ""),
            attempt("folded TE", chunks("transfer-encoding:\r\n chunked\r\n"), MALFORMED, ""),
        ];
    }
    let authority = raw.caller.authority();
    let absolute = post.replacen("POST /prompt", "POST http://x/prompt", 1);
    let own_absolute = post.replacen("POST /prompt", &format!("POST https://{authority}/prompt"), 1);
    let no_host = post.replacen(&format!("host: {authority}\r\n"), "", 1);
    vec![
        attempt("two Hosts", framed(&format!("host: evil.example\r\ncontent-length: {length}\r\n")), MALFORMED, ""),
        attempt(
            "the same Host twice",
            framed(&format!("host: {authority}\r\ncontent-length: {length}\r\n")),
            MALFORMED,
            "",
        ),
        attempt("absolute-form", absolute.into_bytes(), MALFORMED, ""),
        attempt("absolute-form with the own name", own_absolute.into_bytes(), MALFORMED, ""),
        attempt("no Host", no_host.into_bytes(), MALFORMED, ""),
    ]
}

fn targets(entry: u8, raw: &Raw<'_>) -> Vec<Attempt> {
    let body = envelope("");
    let post = |path: &str| {
        attempt(path, raw.post(path, "content-type: application/json\r\n", body.as_bytes()), &[400, 404, 405], "")
    };
    let get = |path: &str| attempt(path, raw.get(path), NOT_THERE, "");
    match entry {
        15 => vec![get("/api/api/jobs"), get("/api/api/history"), post("/api/api/prompt")],
        16 => vec![post("/%70rompt"), post("/api/%70rompt"), post("/%61pi/prompt"), post("/promp%74")],
        17 => [
            "//prompt",
            "/prompt/",
            "/x/../prompt",
            "/./prompt",
            "/api%2fprompt",
            "/prompt%00",
            "/PROMPT",
            "/prompt;a",
            "/prompt%3Fa",
            "\\prompt",
        ]
        .map(post)
        .into(),
        18 => ["0/%2e%2e/%2e%2e/input/t/B/x.png", "0/../../input/x.png", "0//etc/x.png", "0/%2fetc/x.png", "-1/x.png"]
            .map(|rest| get(&format!("/experiment/models/preview/checkpoints/{rest}")))
            .into(),
        19 => ["workflows%252F..%252Fx", "workflows%2F..%2Fx", "..%2Fx", "%252e%252e%252fx"]
            .map(|name| get(&format!("/userdata/{name}")))
            .into(),
        20 => [
            "type=input&type=output",
            "filename=a.png&filename=b.png",
            "filename=a.png&subfolder=a&subfolder=b",
            "filename=a.png;type=input",
        ]
        .map(|query| get(&format!("/view?{query}")))
        .into(),
        21 => {
            let stranger = raw.caller.stranger();
            let stranger = Raw { caller: &stranger };
            let without = |method: &str, path: &str| {
                attempt(
                    format!("{method} {path} without a credential"),
                    stranger.request(&format!("{method} {path} HTTP/1.1"), "", b""),
                    &[401],
                    "",
                )
            };
            vec![
                without("HEAD", "/history"),
                without("OPTIONS", "/prompt"),
                without("HEAD", "/view?filename=a.png"),
                without("OPTIONS", "/nowhere"),
            ]
        }
        _ => vec![
            post("/easyuse/save/x"),
            post("/impact/set/x"),
            get("/impact/view/validate"),
            get("/pysssss/view/x"),
            post("/api/easyuse/save/x"),
            get("/extensions/pack/api/run"),
        ],
    }
}

fn envelopes(entry: u8, raw: &Raw<'_>) -> Vec<Attempt> {
    let prompt =
        |what: &str, members: String, statuses, code| attempt(what, raw.prompt(&envelope(&members)), statuses, code);
    match entry {
        24 => vec![
            prompt("an object", r#""prompt_id":{"a":1}"#.into(), MALFORMED, "invalid_type"),
            prompt("a number", r#""prompt_id":7"#.into(), MALFORMED, "invalid_type"),
            prompt("4 MB", format!("\"prompt_id\":\"{}\"", "a".repeat(4 << 20)), MALFORMED_OR_TOO_LARGE, ""),
            prompt("a path", r#""prompt_id":"../../x""#.into(), MALFORMED, "invalid_id"),
        ],
        26 => ["NaN", "Infinity", "1e999"]
            .map(|number| prompt(number, format!("\"number\":{number}"), MALFORMED, "not_finite"))
            .into(),
        31 => ["]]>", "<svg onload=alert(1)>"]
            .map(|text| {
                let graph = format!(
                    r#"{{"1":{{"class_type":"PrimitiveString","inputs":{{"value":"{text}"}}}},"9":{{"class_type":"SaveSVGNode","inputs":{{"svg":["1",0],"filename_prefix":"x"}}}}}}"#
                );
                attempt(text, raw.prompt(&format!("{{\"prompt\":{graph}}}")), DENIED, "")
            })
            .into(),
        33 => ["\"TAESD\"", "1", "{}", "[\"auto\"]"]
            .map(|method| {
                prompt(method, format!("\"extra_data\":{{\"preview_method\":{method}}}"), MALFORMED, "invalid_preview_method")
            })
            .into(),
        34 => [("\"9\"", "invalid_type"), ("{\"9\":1}", "invalid_type"), ("9", "invalid_type"), ("[\"8\"]", "invalid_target"), ("[9]", "invalid_target")]
            .map(|(targets, code)| prompt(targets, format!("\"partial_execution_targets\":{targets}"), MALFORMED, code))
            .into(),
        28 => vec![
            prompt("an object", r#""client_id":{}"#.into(), MALFORMED, "invalid_type"),
            prompt("a list in extra_data", r#""extra_data":{"client_id":[1]}"#.into(), MALFORMED, "invalid_type"),
            prompt(
                "an object below a sound one",
                r#""client_id":"fine","extra_data":{"client_id":{}}"#.into(),
                MALFORMED,
                "invalid_type",
            ),
            prompt("a number", r#""client_id":0"#.into(), MALFORMED, "invalid_type"),
            prompt("a truth", r#""extra_data":{"client_id":true}"#.into(), MALFORMED, "invalid_type"),
        ],
        _ => Vec::new(),
    }
}

/// Sends the requests of an entry, each on a connection of its own, and looks that each is refused as it should be.
///
/// # Panics
/// When one is not.
pub async fn refused(entry: u8, caller: &Client) {
    let attempts = attempts(entry, caller);
    assert!(!attempts.is_empty(), "entry {entry} has no attempts");
    for attempt in attempts {
        let answer = caller.raw(&attempt.bytes).await;
        let answer = answer.unwrap_or_else(|| panic!("{entry}, {}: closed without an answer", attempt.what));
        check(entry, &attempt, &answer);
    }
}

fn check(entry: u8, attempt: &Attempt, answer: &RawResponse) {
    let shown = format!("{entry}, {}: {} {}", attempt.what, answer.head, answer.text());
    assert!(attempt.statuses.contains(&answer.status), "wanted {:?}: {shown}", attempt.statuses);
    if answer.head.lines().next().is_some_and(|_| !answer.body.is_empty()) {
        assert!(!answer.code().is_empty(), "no stable code: {shown}");
    }
    if !attempt.code.is_empty() {
        assert_eq!(answer.code(), attempt.code, "{shown}");
    }
}

/// Envelopes of the entries that are defused: accepted, but what ComfyUI would take from them does not arrive.
pub fn defused(entry: u8) -> Vec<Value> {
    let graph: Value = serde_json::from_str(GRAPH).unwrap_or_default();
    let with = |members: Value| {
        let mut envelope = members;
        if let Some(members) = envelope.as_object_mut() {
            members.insert("prompt".to_owned(), graph.clone());
        }
        envelope
    };
    match entry {
        14 => vec![with(json!({}))],
        23 => vec![
            with(json!({"prompt_id": "the-victims-prompt"})),
            with(json!({"prompt_id": "3f2504e0-4f89-41d3-9a0c-0305e82c3301"})),
            with(json!({"extra_data": {"prompt_id": "the-victims-prompt"}})),
        ],
        25 => vec![
            with(json!({"number": -1e9})),
            with(json!({"number": "-inf"})),
            with(json!({"number": true})),
            with(json!({"front": true})),
        ],
        27 => vec![
            with(json!({"client_id": "the-victims-sid"})),
            with(json!({"extra_data": {"client_id": "the-victims-sid"}})),
            with(json!({"client_id": "mine", "extra_data": {"client_id": "the-victims-sid"}})),
            with(json!({"client_id": "mine", "clientId": "the-victims-sid", "sid": "the-victims-sid"})),
        ],
        29 => vec![with(json!({})), with(json!({"client_id": null})), with(json!({"extra_data": {"client_id": null}}))],
        30 => vec![
            with(json!({"extra_data": {"extra_pnginfo": null}})),
            with(json!({"extra_data": {"extra_pnginfo": {"workflow": null}}})),
            with(json!({"extra_data": {"extra_pnginfo": {}}})),
            with(json!({"extra_data": {"extra_pnginfo": {"other": null}}})),
        ],
        32 => vec![
            with(json!({"extra_data": {"api_key_comfy_org": "the-secret", "auth_token_comfy_org": "the-secret"}})),
            with(json!({"extra_data": {"my_token": "the-secret", "extra_pnginfo": {"token": "the-secret"}}})),
            with(json!({"api_key_comfy_org": "the-secret"})),
        ],
        35 => vec![
            with(json!({"workflow_id": "the-extra", "workflow_metadata": {"x": "the-extra"}})),
            with(json!({"zzz": ["the-extra"], "__proto__": {"prompt": "the-extra"}, "Prompt": {}})),
            with(json!({"extra_data": {"zzz": "the-extra", "create_time": -1}})),
        ],
        _ => Vec::new(),
    }
}
