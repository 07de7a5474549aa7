//! `act-as`: a key that works in the name of another tenant sees what that tenant sees, and nothing of anybody else's.

use comfygate_tests::browser;
use comfygate_tests::tokens::{Signer, claims};
use comfygate_tests::{Browser, Client, Gateway, workflows};
use serde_json::{Value, json};

const ISSUER: &str = "https://id.example.com/";

async fn gateway() -> Gateway {
    let tenants = "[[tenant]]\nid = \"agency\"\nplan = \"usual\"\n\
        [[tenant]]\nid = \"closed\"\nplan = \"usual\"\ndisabled = true\n\
        [[tenant]]\nid = \"house\"\nplan = \"usual\"\npolicy = \"owner\"\npool = \"house\"\n";
    let signer = Signer::hs256();
    Gateway::builder()
        .tenants_toml(tenants)
        .backend_lines(1, "pool = \"house\"\n")
        .file("issuer.key", &signer.verifier())
        .gateway_toml(&signer.configuration(ISSUER, "issuer.key"))
        .start()
        .await
}

fn agent(gateway: &Gateway) -> (Client, String) {
    let scopes = ["submit", "read", "files", "cancel", "admin", "act-as"];
    let scopes: Vec<&str> = scopes.iter().flat_map(|scope| ["--scope", scope]).collect();
    let key = gateway.new_key(&[&["--tenant", "agency", "--user", "bot"], scopes.as_slice()].concat());
    (gateway.stranger().bearer(&key), key)
}

fn id_of(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

/// Without the queries of signed URLs, which are signed anew, for another second perhaps, each time.
fn unsigned(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(members) => {
            if let Some(Value::String(url)) = members.get_mut("url") {
                url.truncate(url.find('?').expect("a signed URL has a query"));
            }
            members.values_mut().for_each(|member| *member = unsigned(member.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = unsigned(item.take())),
        _ => (),
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_sees_as_a_tenant_exactly_what_that_tenant_sees() {
    let gateway = gateway().await;
    let (agent, key) = agent(&gateway);
    let (as_acme, as_bravo) = (agent.and(&[("comfygate-tenant", "acme")]), agent.and(&[("comfygate-tenant", "bravo")]));
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let of_bravo = bravo.submit(workflows::quick("of-bravo")).await;
    bravo.finished(&of_bravo).await;
    let mut socket = as_acme.socket(None).await;
    socket.sid().await;
    let prompt = as_acme.submit(workflows::quick("by-agent")).await;
    let entry = acme.finished(&prompt).await;
    socket.until_end_of(&prompt).await;
    let its = as_acme.get(&format!("/history/{prompt}")).await.json()[&prompt]["outputs"].take();
    assert_eq!(unsigned(its), unsigned(entry["outputs"].clone()));
    for path in ["/queue", "/history", "/api/jobs", "/settings", "/internal/files/output"] {
        let (theirs, its) = (acme.get(path).await.expect(200), as_acme.get(path).await.expect(200));
        assert_eq!(unsigned(theirs.json()), unsigned(its.json()), "{path}");
        assert!(!its.text().contains(&of_bravo), "{path}");
    }
    let me = as_acme.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("acme"), &json!(null)), "{me}");
    assert_eq!(me["scopes"], json!(["submit", "read", "files", "cancel"]), "neither admin nor act-as");
    assert_eq!(as_bravo.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
    assert_eq!(as_acme.get(&format!("/history/{of_bravo}")).await.expect(200).json(), json!({}));
    assert_eq!(agent.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}), "nor is it the agency's");
    // The key is known to audit and usage.
    let line = gateway
        .audited("the submission", |line| line["owner"]["key"] == id_of(&key) && line["owner"]["tenant"] == "acme");
    line.await;
    for stand_in in gateway.stand_ins() {
        let sent = format!("{:?}", stand_in.submissions());
        assert!(!sent.contains("comfygate-tenant") && !sent.contains("acme"), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_as_a_user_where_it_names_one_and_as_itself_without_the_header() {
    let gateway = gateway().await;
    let (agent, _) = agent(&gateway);
    let me = agent.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("agency"), &json!("bot")), "{me}");
    let as_ada = agent.and(&[("comfygate-tenant", "acme"), ("comfygate-user", "ada")]);
    let prompt = as_ada.submit(workflows::quick("adas")).await;
    as_ada.finished(&prompt).await;
    let key = gateway.new_key(&["--tenant", "acme", "--user", "ada"]);
    let ada = gateway.stranger().bearer(&key);
    assert!(ada.get(&format!("/history/{prompt}")).await.json()[&prompt].is_object());
    let service = gateway.client("acme").get(&format!("/history/{prompt}")).await;
    assert_eq!(service.json(), json!({}), "not the tenant's service user's");
    // By a ticket the socket is hers too.
    let made = as_ada.post("/gate/ticket", &json!({})).await.expect(200).json();
    let path = format!("/ws?token={}", made["ticket"].as_str().unwrap());
    let mut socket = gateway.stranger().try_socket(&path, None, &[]).await.unwrap();
    socket.sid().await;
    let prompt = ada.submit(workflows::quick("again")).await;
    socket.until_end_of(&prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_tenants_and_callers_who_may_not_are_refused_in_one_text() {
    let gateway = gateway().await;
    let (agent, _) = agent(&gateway);
    let mut told = Vec::new();
    for tenant in ["nobody", "closed", "house"] {
        told.push(agent.and(&[("comfygate-tenant", tenant)]).get("/queue").await.expect(403));
    }
    let named = &[("comfygate-tenant", "acme")];
    let admin = gateway.new_key(&["--tenant", "agency", "--scope", "read", "--scope", "admin"]);
    told.push(gateway.stranger().bearer(&admin).and(named).get("/queue").await.expect(403));
    // Its own tenant is no exception.
    told.push(gateway.client("acme").and(named).get("/queue").await.expect(403));
    let page = Browser::of(&gateway, "acme").await.page();
    told.push(page.and(named).get("/queue").await.expect(403));
    for answer in &told {
        assert_eq!(answer.code(), "act_as_refused");
    }
    let mut texts: Vec<_> = told.iter().map(|answer| answer.json()["detail"].clone()).collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(gateway.client("acme").try_socket("/ws", None, named).await.unwrap_err(), 403);
    // Nor where the cookie alone counts: what a proxy confines to a tenant must not end another's sessions.
    let browser = Browser::of(&gateway, "acme").await;
    let shown = browser.page().and(&[("accept", "text/html")]);
    for path in ["/gate/sessions", "/gate/logout", "/gate/login"] {
        shown.and(named).get(path).await.expect(403);
    }
    let pressed = browser.sending(named);
    for (path, fields) in [("/gate/sessions", &[("others", "1")][..]), ("/gate/logout", &[])] {
        browser::post_fields(&pressed, path, fields).await.expect(403);
    }
    shown.get("/gate/sessions").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_not_whatever_scopes_it_has() {
    let signer = Signer::hs256();
    let configuration = format!("{}scope_claim = \"scope\"\n", signer.configuration(ISSUER, "issuer.key"));
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("issuer.key", &signer.verifier())
        .gateway_toml(&configuration)
        .start()
        .await;
    let mut claims = claims(ISSUER, "acme");
    claims["scope"] = json!("read act-as");
    let client = gateway.stranger().bearer(&signer.token(&claims));
    client.get("/queue").await.expect(200);
    let refused = client.and(&[("comfygate-tenant", "bravo")]).get("/queue").await.expect(403);
    assert_eq!(refused.code(), "act_as_refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_stand_twice_or_name_nothing_are_400_and_a_wrong_key_stays_401() {
    let gateway = gateway().await;
    let (agent, _) = agent(&gateway);
    for headers in [
        &[("comfygate-tenant", "acme"), ("comfygate-tenant", "acme")][..],
        &[("comfygate-tenant", "acme bravo")],
        &[("comfygate-tenant", "acme"), ("comfygate-user", "a/b")],
        &[("comfygate-user", "ada")],
    ] {
        let refused = agent.and(headers).get("/queue").await.expect(400);
        assert_eq!(refused.code(), "bad_act_as", "{headers:?}");
    }
    let wrong = gateway.stranger().bearer("wrong").and(&[("comfygate-tenant", "acme")]);
    wrong.get("/queue").await.expect(401);
}
