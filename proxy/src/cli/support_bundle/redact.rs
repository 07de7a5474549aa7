//! What of a gateway may be shown to somebody else: decided by lists of what may, never of what may not.
//!
//! A value is shown only if its key stands below *and* it has the shape that the key's values have: a password in the wrong place is no duration.
//! Ids become pseudonyms, the same one for the same id within one bundle and another in the next, so that what belongs together can be seen.

use crate::config::units::{parse_duration, parse_size};
use crate::ids::BackendId;
use crate::route::TABLE;
use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;

/// What stands in place of a value.
const HIDDEN: &str = "(set)";
/// Hexadecimal digits of a pseudonym.
const PSEUDONYM_DIGITS: usize = 12;
/// A word of our own: longer ones are none.
const WORD_CHARS_MAX: usize = 40;

/// Methods that HTTP itself names, and none.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "-"];

/// How the values of a key look.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A number or `true` and `false`.
    Plain,
    /// `"10s"`.
    Duration,
    /// `"10MiB"`.
    Size,
    /// `"127.0.0.1:8443"`.
    Address,
    /// `"gpu0"`: the label of metrics.
    Backend,
    /// `"http://127.0.0.1:8188"`: its scheme and port, and its host if that is this machine.
    Url,
    /// One of these words.
    Word(&'static [&'static str]),
    /// The key is known, its value is never shown.
    Hidden,
}

const ALGORITHMS: &[&str] =
    &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512"];

/// `gateway.toml` and `tenants.toml`, by the path of a key; `[]` stands for each entry of a list.
const KEYS: &[(&str, Shape)] = &[
    ("public_url", Shape::Hidden),
    ("listen[].address", Shape::Address),
    ("listen[].redirect", Shape::Plain),
    ("listen[].tls.certificate", Shape::Hidden),
    ("listen[].tls.key", Shape::Hidden),
    ("listen[].plain", Shape::Plain),
    ("listen[].behind_tls_terminator", Shape::Plain),
    ("listen[].proxy_protocol", Shape::Plain),
    ("listen[].trusted_proxies", Shape::Hidden),
    ("listen[].client_ca", Shape::Hidden),
    ("listen[].client_certificates", Shape::Word(&["optional", "required"])),
    ("metrics.address", Shape::Address),
    ("state.dir", Shape::Hidden),
    ("state.free_space_min", Shape::Size),
    ("backends[].id", Shape::Backend),
    ("backends[].url", Shape::Url),
    ("backends[].gpu", Shape::Plain),
    ("tenants.file", Shape::Hidden),
    ("jwt[].issuer", Shape::Hidden),
    ("jwt[].audience", Shape::Hidden),
    ("jwt[].algorithms[]", Shape::Word(ALGORITHMS)),
    ("jwt[].key_file", Shape::Hidden),
    ("jwt[].secret", Shape::Hidden),
    ("jwt[].tenant_claim", Shape::Hidden),
    ("jwt[].user_claim", Shape::Hidden),
    ("jwt[].scope_claim", Shape::Hidden),
    ("jwt[].leeway", Shape::Duration),
    ("jwt[].unknown_tenant", Shape::Word(&["refuse"])),
    ("oidc[].id", Shape::Hidden),
    ("oidc[].name", Shape::Hidden),
    ("oidc[].issuer", Shape::Hidden),
    ("oidc[].client_id", Shape::Hidden),
    ("oidc[].client_secret", Shape::Hidden),
    ("oidc[].scopes", Shape::Hidden),
    ("oidc[].ca", Shape::Hidden),
    ("oidc[].algorithms[]", Shape::Word(ALGORITHMS)),
    ("oidc[].tenant", Shape::Hidden),
    ("oidc[].tenant_claim", Shape::Hidden),
    ("oidc[].unknown_tenant", Shape::Word(&["create", "refuse"])),
    ("oidc[].create_plan", Shape::Hidden),
    ("oidc[].plan_claim", Shape::Hidden),
    ("oidc[].plans_from_claim", Shape::Hidden),
    ("oidc[].user_claim", Shape::Hidden),
    ("oidc[].scope_claim", Shape::Hidden),
    ("oidc[].require", Shape::Hidden),
    ("oidc[].leeway", Shape::Duration),
    ("oidc[].session_max", Shape::Duration),
    ("oidc[].refresh_stale_max", Shape::Duration),
    ("oidc[].max_age", Shape::Duration),
    ("oidc[].prompt", Shape::Word(&["consent", "login", "select_account"])),
    ("oidc[].callback", Shape::Word(&["own", "shared"])),
    ("oidc[].automatic", Shape::Plain),
    ("oidc[].backchannel_logout", Shape::Plain),
    ("views.lifetime", Shape::Duration),
    ("limits.prompt_bytes_max", Shape::Size),
    ("limits.upload_bytes_max", Shape::Size),
    ("limits.userdata_bytes_max", Shape::Size),
    ("limits.userdata_total_bytes_max", Shape::Size),
    ("limits.upload_deadline", Shape::Duration),
    ("limits.bodies_bytes_max", Shape::Size),
    ("limits.head_deadline", Shape::Duration),
    ("limits.body_deadline", Shape::Duration),
    ("limits.connections_max", Shape::Plain),
    ("limits.websockets_max", Shape::Plain),
    ("limits.failed_logins_free", Shape::Plain),
    ("limits.users_max", Shape::Plain),
    ("limits.keys_max", Shape::Plain),
    ("limits.ended_keys_kept", Shape::Duration),
    ("sessions.idle_timeout", Shape::Duration),
    ("sessions.lifetime", Shape::Duration),
    ("sessions.per_owner_max", Shape::Plain),
    ("sessions.total_max", Shape::Plain),
    ("dispatch.canary_interval", Shape::Duration),
    ("dispatch.canary_deadline", Shape::Duration),
    ("dispatch.stall_timeout", Shape::Duration),
    ("dispatch.no_backend_timeout", Shape::Duration),
    ("dispatch.ahead", Shape::Duration),
    ("dispatch.attempts_max", Shape::Plain),
    ("dispatch.poll_interval", Shape::Duration),
    ("dispatch.results", Shape::Word(&["copy", "leave"])),
    ("catalogue.object_info", Shape::Hidden),
    ("comfy_org.api_key", Shape::Hidden),
    ("audit.file", Shape::Word(&["-"])),
    ("audit.rotate_bytes", Shape::Size),
    ("audit.keep", Shape::Plain),
    ("plan[].id", Shape::Hidden),
    ("plan[].policy", Shape::Word(&["default", "strict"])),
    ("plan[].rate.per_second", Shape::Plain),
    ("plan[].rate.burst", Shape::Plain),
    ("plan[].requests.per_second", Shape::Plain),
    ("plan[].requests.burst", Shape::Plain),
    ("plan[].active_jobs_max", Shape::Plain),
    ("plan[].running_jobs_max", Shape::Plain),
    ("plan[].priority", Shape::Word(&["high", "normal", "low"])),
    ("plan[].budget_seconds", Shape::Plain),
    ("plan[].user_budget_seconds", Shape::Plain),
    ("plan[].budget_period", Shape::Word(&["day", "week", "month"])),
    ("plan[].websockets_max", Shape::Plain),
    ("plan[].storage_bytes_max", Shape::Size),
    ("plan[].pace.pages", Shape::Duration),
    ("plan[].pace.programs", Shape::Duration),
    ("plan[].weight", Shape::Plain),
    ("plan[].retry_paid", Shape::Plain),
    ("plan[].retry_sent", Shape::Plain),
    ("plan[].cors_origins", Shape::Hidden),
    ("plan[].users", Shape::Plain),
    ("plan[].users_limited", Shape::Hidden),
    ("plan[].allow_addresses", Shape::Hidden),
    ("plan[].deny_addresses", Shape::Hidden),
    ("tenant[].id", Shape::Hidden),
    ("tenant[].plan", Shape::Hidden),
    ("tenant[].name", Shape::Hidden),
    ("tenant[].claim", Shape::Hidden),
    ("tenant[].disabled", Shape::Plain),
    ("tenant[].policy", Shape::Word(&["default", "strict"])),
    ("tenant[].rate.per_second", Shape::Plain),
    ("tenant[].rate.burst", Shape::Plain),
    ("tenant[].requests.per_second", Shape::Plain),
    ("tenant[].requests.burst", Shape::Plain),
    ("tenant[].active_jobs_max", Shape::Plain),
    ("tenant[].running_jobs_max", Shape::Plain),
    ("tenant[].priority", Shape::Word(&["high", "normal", "low"])),
    ("tenant[].budget_seconds", Shape::Plain),
    ("tenant[].user_budget_seconds", Shape::Plain),
    ("tenant[].budget_period", Shape::Word(&["day", "week", "month"])),
    ("tenant[].websockets_max", Shape::Plain),
    ("tenant[].storage_bytes_max", Shape::Size),
    ("tenant[].pace.pages", Shape::Duration),
    ("tenant[].pace.programs", Shape::Duration),
    ("tenant[].weight", Shape::Plain),
    ("tenant[].retry_paid", Shape::Plain),
    ("tenant[].retry_sent", Shape::Plain),
    ("tenant[].cors_origins", Shape::Hidden),
    ("tenant[].users", Shape::Plain),
    ("tenant[].users_limited", Shape::Hidden),
    ("tenant[].allow_addresses", Shape::Hidden),
    ("tenant[].deny_addresses", Shape::Hidden),
];

/// A configuration file, key by key. Keys that do not stand in the list are counted: they may be what somebody typed in the wrong place.
pub fn configuration(file: &Value) -> Value {
    shown(file, "")
}

fn shown(value: &Value, path: &str) -> Value {
    match value {
        Value::Object(table) => {
            let mut out = Map::new();
            let mut unknown = 0_u32;
            for (key, value) in table {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if is_known(&inner) {
                    out.insert(key.clone(), shown(value, &inner));
                } else {
                    unknown += 1;
                }
            }
            if unknown > 0 {
                out.insert("(keys that are not shown)".to_owned(), json!(unknown));
            }
            Value::Object(out)
        }
        Value::Array(list) => {
            let inner = format!("{path}[]");
            if is_known(&inner) { list.iter().map(|value| shown(value, &inner)).collect() } else { json!(HIDDEN) }
        }
        single => KEYS.iter().find(|(key, _)| *key == path).map_or(json!(HIDDEN), |(_, shape)| fitting(single, *shape)),
    }
}

/// Whether the path is a key of the list, or leads to one.
fn is_known(path: &str) -> bool {
    let leads = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    KEYS.iter().any(|(key, _)| leads(key))
}

fn fitting(value: &Value, shape: Shape) -> Value {
    let text = value.as_str().unwrap_or_default();
    let fits = match shape {
        Shape::Plain => value.is_number() || value.is_boolean(),
        Shape::Duration => parse_duration(text).is_ok(),
        Shape::Size => parse_size(text).is_ok(),
        Shape::Address => text.parse::<SocketAddr>().is_ok(),
        Shape::Backend => text.parse::<BackendId>().is_ok(),
        Shape::Word(words) => words.contains(&text),
        Shape::Url => return json!(place(text)),
        Shape::Hidden => false,
    };
    if fits { value.clone() } else { json!(HIDDEN) }
}

/// Scheme and port of a URL, and its host if that is this machine. User names, hosts, paths and queries may hold secrets.
pub fn place(url: &str) -> String {
    let Ok(uri) = url.parse::<http::Uri>() else { return HIDDEN.to_owned() };
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => return HIDDEN.to_owned(),
    };
    let this_machine = |host: &&str| ["127.0.0.1", "localhost", "[::1]"].contains(host);
    let host = uri.host().filter(this_machine).unwrap_or("(host)");
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}")
}

/// Names for ids, drawn for one bundle.
pub struct Pseudonyms(hmac::Key);

impl Pseudonyms {
    /// Names that no other bundle has.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn draw() -> anyhow::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        key.map(Self).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))
    }

    fn of(&self, id: &str) -> String {
        let sum = hmac::sign(&self.0, id.as_bytes());
        let digits: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("#{}", digits.get(..PSEUDONYM_DIGITS).unwrap_or_default())
    }

    /// One line of the audit log; `None` for what is no line of it. Reasons are left out: some of their text comes from callers.
    pub fn audit_line(&self, line: &str) -> Option<Value> {
        let line: Map<String, Value> = serde_json::from_str(line).ok()?;
        let mut out = Map::new();
        for (key, value) in &line {
            let kept = match key.as_str() {
                "time" => value.as_str().filter(|text| is_time(text)).map(|text| json!(text)),
                "event" | "stage" | "code" => value.as_str().filter(|text| is_word(text)).map(|text| json!(text)),
                "method" => value.as_str().filter(|text| METHODS.contains(text)).map(|text| json!(text)),
                "route" => value.as_str().filter(|text| is_route(text)).map(|text| json!(text)),
                "version" => value.as_str().filter(|text| *text == env!("CARGO_PKG_VERSION")).map(|text| json!(text)),
                "backend" => value.as_str().filter(|text| text.parse::<BackendId>().is_ok()).map(|text| json!(text)),
                "status" | "up" | "count" | "lines" | "entries" | "bytes" => {
                    Some(value).filter(|value| value.is_number() || value.is_boolean()).cloned()
                }
                "request" | "job" | "prompt_id" | "client" | "key" | "submission" | "policy" | "catalogue" => {
                    value.as_str().map(|id| json!(self.of(id)))
                }
                "owner" => value.as_object().map(|owner| self.owner(owner)),
                _ => None,
            };
            if let Some(kept) = kept {
                out.insert(key.clone(), kept);
            }
        }
        out.contains_key("event").then_some(Value::Object(out))
    }

    fn owner(&self, owner: &Map<String, Value>) -> Value {
        let mut out = Map::new();
        for name in ["tenant", "user", "key"] {
            if let Some(id) = owner.get(name).and_then(Value::as_str) {
                out.insert(name.to_owned(), json!(self.of(id)));
            }
        }
        Value::Object(out)
    }
}

fn is_time(text: &str) -> bool {
    text.len() <= WORD_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.TZ".contains(&byte))
}

fn is_word(text: &str) -> bool {
    (1..=WORD_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
}

fn is_route(text: &str) -> bool {
    text == "-" || TABLE.iter().any(|entry| entry.path == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter2-planted";

    /// The shipped file with every key that is off set on.
    fn all_keys_on(text: &str) -> String {
        let on = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(on).collect::<Vec<_>>().join("\n")
    }

    fn parsed(text: &str) -> Value {
        toml::from_str(text).unwrap()
    }

    /// Puts the secret in place of each single value, one after the other, and gives what would be shown.
    fn planted(file: &Value) -> Vec<String> {
        fn places(value: &Value, at: &str, found: &mut Vec<String>) {
            match value {
                Value::Object(table) => {
                    table.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found));
                }
                Value::Array(list) => {
                    list.iter().enumerate().for_each(|(number, value)| places(value, &format!("{at}/{number}"), found));
                }
                _ => found.push(at.to_owned()),
            }
        }
        let mut pointers = Vec::new();
        places(file, "", &mut pointers);
        assert!(pointers.len() > 10, "{pointers:?}");
        let plant = |pointer: &String| {
            let mut file = file.clone();
            *file.pointer_mut(pointer).unwrap() = json!(SECRET);
            configuration(&file).to_string()
        };
        // Backend ids are labels of metrics, public by their nature.
        pointers
            .iter()
            .filter(|pointer| !pointer.ends_with("/id") || !pointer.contains("backends"))
            .map(plant)
            .collect()
    }

    #[test]
    fn a_secret_in_the_place_of_any_value_of_the_shipped_files_is_not_shown() {
        for text in [include_str!("../../../../config/gateway.toml"), include_str!("../../../../config/tenants.toml")] {
            for shown in planted(&parsed(&all_keys_on(text))) {
                assert!(!shown.contains(SECRET), "{shown}");
            }
        }
    }

    #[test]
    fn a_secret_as_a_key_or_in_an_unknown_table_is_not_shown() {
        let text = format!(
            "{SECRET} = 1\n[\"{SECRET}-2\"]\nx = \"{SECRET}\"\n[limits]\n{SECRET} = 3\n[state]\ndir = {{ {SECRET} = \"{SECRET}\" }}\n\
             [[backends]]\nid = \"a\"\nheaders = {{ \"x-key\" = \"{SECRET}\" }}\nurl = \"http://{SECRET}:{SECRET}@{SECRET}:1/{SECRET}?{SECRET}\"\n\
             gpu = [\"{SECRET}\"]\n[listen]\naddress = \"{SECRET}\"\n"
        );
        let shown = configuration(&parsed(&text));
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert_eq!(shown["(keys that are not shown)"], 2);
    }

    #[test]
    fn what_helps_is_shown_and_what_identifies_is_not() {
        let shown = configuration(&parsed(
            "public_url = \"https://a.example\"\n[[listen]]\naddress = \"0.0.0.0:8443\"\n[limits]\nprompt_bytes_max = \"1MiB\"\nhead_deadline = \"5s\"\n\
             connections_max = 7\n[[backends]]\nid = \"gpu0\"\nurl = \"http://10.1.2.3:8188/x\"\n[[jwt]]\nalgorithms = [\"RS256\", \"x\"]\nsecret = \"env:X\"",
        ));
        let expected = json!({
            "public_url": HIDDEN,
            "listen": [{"address": "0.0.0.0:8443"}],
            "limits": {"prompt_bytes_max": "1MiB", "head_deadline": "5s", "connections_max": 7},
            "backends": [{"id": "gpu0", "url": "http://(host):8188"}],
            "jwt": [{"algorithms": ["RS256", HIDDEN], "secret": HIDDEN}],
        });
        assert_eq!(shown, expected);
        assert_eq!(place("http://127.0.0.1:8188"), "http://127.0.0.1:8188");
        assert_eq!(place("unix:/run/secret.sock"), HIDDEN);
    }

    #[test]
    fn an_audit_line_keeps_its_kind_and_its_ids_are_the_same_ones_in_other_words() {
        let (names, others) = (Pseudonyms::draw().unwrap(), Pseudonyms::draw().unwrap());
        let line = json!({
            "time": "2024-12-31T23:59:59.001Z", "event": "refused", "stage": "admit", "code": "rate_limited", "status": 429,
            "owner": {"tenant": "acme", "user": "ann", "key": "abc"}, "client": "192.0.2.1", "method": "POST", "route": "/prompt",
            "reason": SECRET, "request": "r-1", SECRET: SECRET,
        });
        let shown = names.audit_line(&line.to_string()).unwrap();
        assert_eq!(
            (&shown["code"], &shown["status"], &shown["route"]),
            (&json!("rate_limited"), &json!(429), &json!("/prompt"))
        );
        let text = shown.to_string();
        for hidden in [SECRET, "acme", "ann", "192.0.2.1", "r-1", "\"abc\""] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        assert_eq!(shown["owner"], names.audit_line(&line.to_string()).unwrap()["owner"]);
        assert_ne!(shown["owner"], others.audit_line(&line.to_string()).unwrap()["owner"]);
    }

    #[test]
    fn a_line_with_secrets_in_every_field_shows_none() {
        let names = Pseudonyms::draw().unwrap();
        for key in
            ["time", "stage", "code", "method", "route", "version", "status", "up", "count", "owner", "job", "key"]
        {
            let text = names.audit_line(&json!({"event": "refused", key: SECRET}).to_string()).unwrap().to_string();
            assert!(!text.contains("hunter2"), "{key}: {text}");
        }
        for line in ["", "no json", "[1]", "{}", "{\"event\": \"Hunter2!\"}"] {
            assert!(names.audit_line(line).is_none(), "{line}");
        }
    }
}
