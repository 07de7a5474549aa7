//! API keys over their life: made, rotated, looked for, used, taken back; and what each scope opens.

use comfygate::owner::Scope;
use comfygate::route::{Access, Prefix, TABLE, Verb};
use comfygate_tests::control::control;
use comfygate_tests::gateway::said;
use comfygate_tests::{Gateway, eventually};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

fn id_of(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

/// `comfygate key check`, with this on its standard input.
fn checked(gateway: &Gateway, text: &str) -> (bool, String) {
    let mut child = Command::new(comfygate_tests::gateway::binary())
        .args(["key", "check", "--config"])
        .arg(gateway.config())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), said(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_with_an_overlap_and_each_names_the_other() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme", "--user", "ada", "--scope", "read", "--label", "ci"]);
    let rotated = gateway.command(&["key", "rotate", id_of(&key)]);
    assert!(rotated.status.success(), "{}", said(&rotated));
    let successor = String::from_utf8(rotated.stdout).unwrap().trim().to_owned();
    for good in [&key, &successor] {
        let me = gateway.stranger().bearer(good).get("/gate/me").await.expect(200).json();
        assert_eq!((&me["tenant"], &me["user"], &me["scopes"]), (&json!("acme"), &json!("ada"), &json!(["read"])));
    }
    let twice = gateway.command(&["key", "rotate", id_of(&key)]);
    assert!(!twice.status.success() && said(&twice).contains(id_of(&successor)), "{}", said(&twice));
    let shown = gateway.command(&["key", "show", id_of(&key), "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["rotated_to"], &shown["state"]), (&json!(id_of(&successor)), &json!("good")), "{shown}");
    gateway
        .audited("the rotation", |line| {
            line["event"] == "key_rotated" && line["key"] == id_of(&key) && line["successor"] == id_of(&successor)
        })
        .await;
    // An overlap of nothing ends the former key at once.
    let last = gateway.command(&["key", "rotate", id_of(&successor), "--overlap", "0s"]);
    assert!(last.status.success(), "{}", said(&last));
    gateway.stranger().bearer(&successor).get("/gate/me").await.expect(401);
    let revoked = gateway.command(&["key", "revoke", id_of(&key), "--json"]);
    let revoked: Value = serde_json::from_slice(&revoked.stdout).unwrap();
    assert_eq!((&revoked["id"], &revoked["state"]), (&json!(id_of(&key)), &json!("revoked")), "{revoked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_socket_makes_one_key_for_a_repeated_request() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let wanted = json!({"tenant": "acme", "label": "ordered"});
    let make = async |name: &str, body: &Value| {
        control(&gateway, "POST", "/v1/keys", &[("idempotency-key", name)], Some(body)).await
    };
    let first = make("order-1", &wanted).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let key = first.json()["key"].as_str().unwrap().to_owned();
    let again = make("order-1", &wanted).await;
    assert_eq!((again.status, &again.json()["key"]), (200, &Value::Null), "{}", again.text());
    assert!(again.json()["note"].as_str().unwrap().contains("once"));
    assert_eq!(again.json()["view"], first.json()["view"]);
    assert_eq!(make("order-1", &json!({"tenant": "bravo"})).await.status, 409);
    assert_eq!(make("", &wanted).await.status, 422);
    let id = id_of(&key);
    assert_eq!(control(&gateway, "GET", &format!("/v1/keys/{id}"), &[], None).await.json()["label"], "ordered");
    assert_eq!(control(&gateway, "GET", "/v1/keys/000000000000", &[], None).await.status, 404);
    let listed = control(&gateway, "GET", "/v1/keys?tenant=acme&state=good", &[], None).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert!(!listed.to_string().contains(&key[20..]));
    for (method, path) in [("POST", format!("/v1/keys/{id}/revoke")), ("DELETE", format!("/v1/keys/{id}"))] {
        let revoked = control(&gateway, method, &path, &[], None).await;
        assert_eq!((revoked.status, &revoked.json()["state"]), (200, &json!("revoked")), "{}", revoked.text());
    }
    gateway.stranger().bearer(&key).get("/queue").await.expect(401);
    let rotate = control(&gateway, "POST", &format!("/v1/keys/{id}/rotate"), &[], Some(&json!({}))).await;
    assert_eq!(rotate.status, 409, "{}", rotate.text());
    let odd = control(&gateway, "POST", "/v1/keys", &[], Some(&json!({"tenant": "acme", "scope": "read"}))).await;
    assert_eq!(odd.status, 422, "{}", odd.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_whose_answer_was_lost_can_be_repeated() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let id = id_of(&gateway.new_key(&["--tenant", "acme"])).to_owned();
    let rotate = async |id: &str, name: &str, body: Value| {
        let path = format!("/v1/keys/{id}/rotate");
        control(&gateway, "POST", &path, &[("idempotency-key", name)], Some(&body)).await
    };
    let first = rotate(&id, "rotation-1", json!({"overlap_seconds": 0})).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = rotate(&id, "rotation-1", json!({"overlap_seconds": 0})).await;
    assert_eq!((again.status, &again.json()["key"]), (200, &Value::Null), "{}", again.text());
    assert_eq!(again.json()["view"], first.json()["view"]);
    assert!(again.json()["note"].as_str().unwrap().contains("overlap of 0"));
    assert_eq!(rotate(&id, "rotation-1", json!({})).await.status, 409, "another request");
    assert_eq!(rotate(&id, "", json!({})).await.status, 422);
    let successor = first.json()["view"]["id"].as_str().unwrap().to_owned();
    // As the note says.
    let next = rotate(&successor, "rotation-2", json!({"overlap_seconds": 0})).await;
    let text = next.json()["key"].as_str().unwrap().to_owned();
    gateway.stranger().bearer(&text).get("/queue").await.expect(200);
    let rotations = gateway.audit().into_iter().filter(|line| line["event"] == "key_rotated").count();
    assert_eq!(rotations, 2, "a repeat changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_at_its_most_keys_is_told_what_helps_and_a_reload_does() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nkeys_max = 3\n").start().await;
    gateway.new_key(&["--tenant", "acme"]);
    gateway.new_key(&["--tenant", "acme"]);
    let last = gateway.new_key(&["--tenant", "acme"]);
    let wanted = json!({"tenant": "acme"});
    let full = control(&gateway, "POST", "/v1/keys", &[], Some(&wanted)).await;
    assert_eq!(full.status, 409, "{}", full.text());
    assert!(full.text().contains("`[limits] keys_max`"), "{}", full.text());
    assert!(!gateway.command(&["key", "rotate", id_of(&last)]).status.success());
    gateway.stranger().bearer(&last).get("/queue").await.expect(200);
    gateway.new_key(&["--tenant", "bravo"]);
    gateway.edit("gateway.toml", |text| text.replace("keys_max = 3", "keys_max = 4"));
    assert!(gateway.command(&["reload"]).status.success());
    assert_eq!(control(&gateway, "POST", "/v1/keys", &[], Some(&wanted)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_use_of_a_key_is_noted_and_lists_tell_expired_from_revoked() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let (used, unused) = (gateway.new_key(&["--tenant", "acme"]), gateway.new_key(&["--tenant", "bravo"]));
    let expired = gateway.new_key(&["--tenant", "acme", "--expires", "1s"]);
    gateway.stranger().bearer(&used).get("/queue").await.expect(200);
    assert!(gateway.command(&["key", "revoke", id_of(&unused)]).status.success());
    let states = |gateway: &Gateway, arguments: &[&str]| -> BTreeMap<String, Value> {
        let listed = gateway.command(&[&["key", "list", "--json"], arguments].concat());
        let text = String::from_utf8(listed.stdout).unwrap();
        let views = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        views.map(|view| (view["id"].as_str().unwrap().to_owned(), view)).collect()
    };
    eventually("the key expires and the use is noted", || async {
        let all = states(&gateway, &[]);
        let over = all[id_of(&expired)]["state"] == "expired";
        (over && all[id_of(&used)]["used_at"].is_u64()).then_some(())
    })
    .await;
    let all = states(&gateway, &[]);
    assert_eq!(all[id_of(&unused)]["state"], "revoked");
    assert!(all[id_of(&unused)]["used_at"].is_null());
    assert_eq!(states(&gateway, &["--tenant", "bravo"]).len(), 1);
    // What was noted last is there after a stop.
    let late = gateway.new_key(&["--tenant", "bravo"]);
    gateway.stranger().bearer(&late).get("/queue").await.expect(200);
    gateway.terminate().await;
    assert!(states(&gateway, &[])[id_of(&late)]["used_at"].is_u64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_taken_from_its_address_is_not_noted_as_used() {
    let listed = "[[tenant]]\nid = \"listed\"\nplan = \"usual\"\ndeny_addresses = [\"127.0.0.9\"]\n";
    let mut gateway = Gateway::builder().stand_ins(1).tenants_toml(listed).start().await;
    let (taken, refused) = (gateway.new_key(&["--tenant", "listed"]), gateway.new_key(&["--tenant", "listed"]));
    let at = |key: &str, last: u8| gateway.stranger().bearer(key).from_address([127, 0, 0, last]);
    at(&refused, 9).get("/queue").await.expect(403);
    at(&taken, 8).get("/queue").await.expect(200);
    // What was noted last is written by a stop.
    gateway.terminate().await;
    let listed = gateway.command(&["key", "list", "--json", "--tenant", "listed"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    let views: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let used_at = |key: &str| &views.iter().find(|view| view["id"] == id_of(key)).unwrap()["used_at"];
    assert!(used_at(&taken).is_u64() && used_at(&refused).is_null(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_found_key_is_recognised_and_told_whose_it_is() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme", "--label", "leaked"]);
    let other_gateway = Gateway::builder().stand_ins(1).start().await;
    let foreign = other_gateway.new_key(&["--tenant", "acme"]);
    for _ in 0..2 {
        let (ours, told) = checked(&gateway, &format!("export COMFY_KEY=\"{key}\" # in a log\n"));
        assert!(ours && told.contains("acme") && told.contains("leaked"), "{told}");
        assert!(told.contains(&format!("key revoke {}", id_of(&key))) && !told.contains(&key[20..]), "{told}");
        let (ours, told) = checked(&gateway, &foreign);
        assert!(!ours && told.contains("not of this gateway"), "{told}");
        let wrong = format!("{}{}", &key[..48], if key.ends_with('0') { '1' } else { '0' });
        let (ours, told) = checked(&gateway, &wrong);
        assert!(!ours && told.contains("no key in this text"), "{told}");
        // The second time on the ledger itself.
        if gateway.is_running() {
            gateway.terminate().await;
        }
    }
}

/// A concrete path of an entry: names of nothing.
fn path_of(pattern: &str) -> String {
    let parts: Vec<String> = pattern
        .split('/')
        .map(|part| match part {
            _ if !part.starts_with('{') => part.to_owned(),
            _ if part.ends_with(".web}") => "nothing.js".to_owned(),
            "{prompt_id}" => "00000000-0000-0000-0000-000000000000".to_owned(),
            _ => "nothing".to_owned(),
        })
        .collect();
    parts.join("/")
}

/// What docs/identity.md says that a scope opens: method and path.
fn documented() -> BTreeMap<String, Vec<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/identity.md")).unwrap();
    let table = page.split("<!-- scopes -->").nth(1).expect("the table of scopes");
    let table = table.trim_start().lines().take_while(|line| line.starts_with('|'));
    let rows = table.filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split(" | ");
        let scope = cells.next().unwrap().trim().trim_matches('`').to_owned();
        let routes = cells.next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (scope, routes)
    })
    .collect()
}

#[test]
fn the_table_of_scopes_in_the_documentation_is_that_of_the_routes() {
    let documented = documented();
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in TABLE {
        if entry.handling == comfygate::route::Handling::Refuse || entry.access != Access::Credential {
            continue;
        }
        let scope = entry.scope.map_or("none", Scope::name).to_owned();
        let verbs: Vec<_> = entry.methods.iter().map(|verb| verb.name()).collect();
        let prefix = if entry.prefix == Prefix::ApiOnly { "/api" } else { "" };
        wanted.entry(scope).or_default().push(format!("{} {prefix}{}", verbs.join(","), entry.path));
    }
    for (scope, mut routes) in wanted {
        routes.sort();
        let mut told = documented.get(&scope).cloned().unwrap_or_default();
        told.sort();
        assert_eq!(told, routes, "`{scope}` in docs/identity.md");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_one_scope_opens_exactly_what_that_scope_says() {
    let plan = "policy = \"default\"\nrate = { per_second = 100000, burst = 100000 }\nrequests = { per_second = 100000, burst = 100000 }\n";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    for scope in Scope::ALL {
        let client = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--scope", scope.name()]));
        for entry in TABLE.iter().filter(|entry| entry.access == Access::Credential) {
            let prefix = if entry.prefix == Prefix::ApiOnly { "/api" } else { "" };
            for verb in entry.methods.iter().filter(|verb| **verb != Verb::Options) {
                let (path, method) = (format!("{prefix}{}", path_of(entry.path)), verb.name());
                // The first entry that fits applies: another one may be meant by the names of nothing.
                let method: Method = method.parse().unwrap();
                let Ok(found) = comfygate::route::matched_route(&method, &path, TABLE) else { continue };
                let answer = client.call(method, &path, &[], bytes::Bytes::new()).await;
                let refused = answer.status == 403 && answer.code() == "forbidden";
                let may = found.entry.scope.is_none_or(|wanted| wanted == scope);
                assert_eq!(
                    !refused,
                    may,
                    "{} {} {path}: {} {}",
                    scope.name(),
                    verb.name(),
                    answer.status,
                    answer.text()
                );
            }
        }
    }
}
