//! What the control socket answers when it says no: one form, whatever the operation and the fault.

use comfygate_tests::control::control;
use comfygate_tests::gateway::said;
use comfygate_tests::raw::RawResponse;
use comfygate_tests::{Gateway, RawConnection};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "PATCH"];
/// Bytes of a body that the control socket takes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// They are as wanted already where nothing of that name is there.
const GOOD_FOR_NOBODY: [&str; 3] =
    ["DELETE /v1/users/{name}", "DELETE /v1/users/{name}/link", "DELETE /v1/sessions/{id}"];

/// One operation of the document.
struct Operation<'a> {
    path: &'a str,
    method: String,
    told: &'a Value,
}

impl Operation<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Its path, with that in the place of what is an id or a name.
    fn concrete(&self, name: &str) -> String {
        match (self.path.find('{'), self.path.find('}')) {
            (Some(begin), Some(end)) => format!("{}{name}{}", &self.path[..begin], &self.path[end + 1..]),
            _ => self.path.to_owned(),
        }
    }

    fn has_query(&self) -> bool {
        self.told["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "query"))
    }
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let of_path = |(path, operations): (&'_ String, &'_ Value)| -> Vec<(String, String)> {
        operations.as_object().unwrap().keys().map(|method| (path.clone(), method.clone())).collect()
    };
    let names: Vec<(String, String)> = document["paths"].as_object().unwrap().iter().flat_map(of_path).collect();
    let paths = document["paths"].as_object().unwrap();
    let of_name = |(path, method): &(String, String)| {
        let (path, operations) = paths.get_key_value(path).unwrap();
        Operation { path, method: method.to_uppercase(), told: &operations[method] }
    };
    names.iter().map(of_name).collect()
}

async fn sent(gateway: &Gateway, method: &str, path: &str, content_type: &str, body: &str) -> RawResponse {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: control\r\ncontent-type: {content_type}\r\n");
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    let mut connection = RawConnection::unix(&gateway.state().join("control.sock")).await;
    connection.write(format!("{head}{body}").as_bytes()).await;
    connection.response().await.expect("the control socket answers")
}

/// The form's schema, with the document's own parts beside it.
fn form(document: &Value) -> jsonschema::Validator {
    let schema = json!({"$ref": "#/components/schemas/ApiError", "components": document["components"]});
    jsonschema::validator_for(&schema).unwrap()
}

/// The answer has the form, with that code.
fn is_in_form(form: &jsonschema::Validator, what: &str, answer: &RawResponse) -> String {
    let body = answer.json();
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}: {}", answer.text());
    let faults: Vec<String> = form.iter_errors(&body).map(|error| error.to_string()).collect();
    assert!(faults.is_empty(), "{what}: {faults:?}\n{body:#}");
    assert!(!body["error"].as_str().unwrap().is_empty(), "{what}: {body}");
    body["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_of_the_control_socket_refuses_in_the_one_form_that_its_document_declares() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let document = control(&gateway, "GET", "/v1/openapi.json", &[], None).await.json();
    let form = form(&document);
    let operations = operations(&document);
    assert!(operations.len() > 40, "{}", operations.len());
    for operation in &operations {
        let name = operation.name();
        let reference = json!({"$ref": "#/components/schemas/ApiError"});
        for (status, declared) in operation.told["responses"].as_object().unwrap() {
            let schema = &declared["content"]["application/json"]["schema"];
            let is_form = *schema == reference || schema["allOf"][0] == reference;
            let expected = !status.starts_with('2') && status != "default";
            assert_eq!(is_form, expected, "{name} {status}");
        }
        assert_eq!(operation.told["responses"]["default"]["$ref"], "#/components/responses/Refused", "{name}");
        let method = operation.method.as_str();
        let named = operation.concrete("nobody");
        let json_type = "application/json";
        let mut bad = Vec::new();
        if let Some(body) = operation.told.get("requestBody") {
            bad.push(("bad_json", sent(&gateway, method, &named, json_type, "{\"a").await));
            bad.push(("bad_body", sent(&gateway, method, &named, json_type, "{\"nonsense\": 1}").await));
            bad.push(("bad_body", sent(&gateway, method, &named, json_type, "7").await));
            let large = format!("\"{}\"", "x".repeat(BODY_BYTES_MAX - 1));
            bad.push(("body_too_large", sent(&gateway, method, &named, json_type, &large).await));
            let just = format!("\"{}\"", "x".repeat(BODY_BYTES_MAX - 2));
            bad.push(("bad_body", sent(&gateway, method, &named, json_type, &just).await));
            if body["required"] == true {
                bad.push(("content_type", sent(&gateway, method, &named, "text/plain", "{}").await));
            }
        }
        if operation.has_query() {
            bad.push(("bad_query", sent(&gateway, method, &format!("{named}?nonsense=1"), json_type, "{}").await));
        }
        if named != operation.path {
            bad.push(("bad_path", sent(&gateway, method, &operation.concrete("%FF"), json_type, "{}").await));
            let nobody = sent(&gateway, method, &named, json_type, "{}").await;
            if GOOD_FOR_NOBODY.contains(&name.as_str()) {
                assert!((200..300).contains(&nobody.status), "{name}: {}", nobody.text());
            } else {
                // What of the body is missing may be told first.
                let code = if nobody.status == 422 { "bad_body" } else { "not_found" };
                bad.push((code, nobody));
            }
        }
        for (code, answer) in &bad {
            assert_eq!(is_in_form(&form, &name, answer), *code, "{name}: {}", answer.text());
            let declared = &operation.told["responses"][answer.status.to_string()]["description"];
            let declared = declared.as_str().unwrap_or_default();
            assert!(declared.contains(&format!("`{code}`")), "{name} {} {code} is not declared", answer.status);
        }
        let others = operations.iter().filter(|other| other.path == operation.path);
        let known: BTreeSet<&str> = others.map(|other| other.method.as_str()).collect();
        for method in METHODS.into_iter().filter(|method| !known.contains(method)) {
            let answer = sent(&gateway, method, &named, json_type, "{}").await;
            assert_eq!(is_in_form(&form, &name, &answer), "method_not_allowed", "{method} {}", operation.path);
            let allowed: BTreeSet<&str> = answer.header("allow").unwrap().split(',').collect();
            assert!(answer.status == 405 && known.is_subset(&allowed), "{method} {}: {allowed:?}", operation.path);
        }
    }
    for path in ["/", "/v1", "/v1/keys/", "/v2/keys", "/v1/keys/a/b/c"] {
        let answer = control(&gateway, "GET", path, &[], None).await;
        assert_eq!((answer.status, is_in_form(&form, path, &answer).as_str()), (404, "unknown_path"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_which_member_it_means_and_the_command_line_tells_its_text() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let ask = async |method: &str, path: &str, body: Value| {
        let answer = control(&gateway, method, path, &[], Some(&body)).await;
        let body = answer.json();
        (answer.status, answer.code(), body["faults"][0]["pointer"].as_str().unwrap_or("-").to_owned())
    };
    let refused = |status: u16, code: &str, pointer: &str| (status, code.to_owned(), pointer.to_owned());
    assert_eq!(ask("POST", "/v1/keys", json!({"tenant": "nowhere"})).await, refused(422, "unknown_tenant", "/tenant"));
    let long = json!({"tenant": "acme", "label": "x".repeat(101)});
    assert_eq!(ask("POST", "/v1/keys", long).await, refused(422, "faulty", "/label"));
    let just = json!({"tenant": "acme", "label": "x".repeat(100)});
    assert_eq!(ask("POST", "/v1/keys", just).await, refused(201, "", "-"));
    assert_eq!(ask("POST", "/v1/keys/check", json!({"key": "x"})).await, refused(422, "no_key", "/key"));
    assert_eq!(ask("PUT", "/v1/users/ann", json!({"tenant": "acme"})).await, refused(422, "faulty", "/password"));
    assert_eq!(ask("POST", "/v1/bans", json!({"class": ""})).await, refused(422, "faulty", "/class"));
    assert_eq!(ask("POST", "/v1/bans/lift", json!({"class": "None"})).await, refused(404, "not_found", "-"));
    assert_eq!(ask("PUT", "/v1/tenants/A", json!({"plan": "usual"})).await, refused(422, "bad_id", "-"));
    assert_eq!(ask("POST", "/v1/retention", json!({"tenant": "nowhere"})).await, refused(404, "not_found", "-"));
    assert_eq!(ask("DELETE", "/v1/sessions", json!({})).await, refused(400, "nobody_named", "-"));
    let usage = control(&gateway, "GET", "/v1/usage?by=colour", &[], None).await;
    assert_eq!((usage.status, usage.code().as_str()), (400, "bad_query"));

    // People read the text, and no JSON.
    let told = gateway.command(&["key", "create", "--tenant", "nowhere"]);
    assert_eq!(told.status.code(), Some(1), "{}", said(&told));
    let text = said(&told);
    assert!(text.contains("no tenant `nowhere`") && !text.contains('{'), "{text}");

    // A refused reload tells the form, and its report as before.
    gateway.edit("gateway.toml", |text| format!("nonsense = 1\n{text}"));
    let reload = control(&gateway, "POST", "/v1/reload", &[], None).await;
    let report = reload.json();
    assert_eq!(
        (reload.status, reload.code().as_str(), &report["applied"]),
        (422, "configuration_refused", &json!(false))
    );
    assert!(report["errors"][0].as_str().unwrap().contains("nonsense"), "{report}");
    assert_eq!(report["faults"][0]["message"], report["errors"][0]);
}
