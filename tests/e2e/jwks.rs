//! Stage 3: tokens checked by the keys that their issuer publishes, and tenants that tokens make.

use comfygate_tests::jwks::{Answer, KeyServer, published, rsa_token_of, token_of};
use comfygate_tests::tokens::{Signer, altered, claims, now};
use comfygate_tests::{Gateway, Response, eventually, skipped};
use serde_json::{Value, json};

const ISSUER: &str = "https://id.example.com/";
const OTHER: &str = "https://other.example.com/";

async fn me(gateway: &Gateway, token: &str) -> Response {
    gateway.stranger().bearer(token).get("/gate/me").await
}

async fn trusting(server: &KeyServer, algorithms: &[&str], lines: &str) -> Gateway {
    let configuration = format!("{}{lines}\n", server.configuration(ISSUER, algorithms));
    Gateway::builder().stand_ins(1).gateway_toml(&configuration).start().await
}

fn unavailable(what: &str, answer: &Response) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "unavailable"), "{what}: {}", answer.text());
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&seconds), "{what}: {seconds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_published_keys_of_every_kind_are_let_in() {
    let (es, ed) = (Signer::es256(), Signer::eddsa());
    let mut keys = vec![published(&es, "es"), published(&ed, "ed")];
    let rs = Signer::rs256();
    match &rs {
        Some(rs) => keys.push(published(rs, "rs")),
        None => skipped("RS256 tokens of a key set: the openssl command, which makes the RSA key, is missing"),
    }
    let server = KeyServer::start(&keys).await;
    let gateway = trusting(&server, &["RS256", "ES256", "EdDSA"], "").await;
    let good = claims(ISSUER, "acme");
    for (signer, kid) in [(Some(&es), "es"), (Some(&ed), "ed"), (rs.as_ref(), "rs")] {
        let Some(signer) = signer else { continue };
        assert_eq!(me(&gateway, &token_of(signer, kid, &good)).await.expect(200).json()["tenant"], "acme");
    }
    // Without a `kid` exactly one key fits each algorithm.
    me(&gateway, &es.token(&good)).await.expect(200);
    assert_eq!(server.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rsa_key_serves_the_listed_algorithms_of_rsa_and_no_other() {
    let Some(signer) = Signer::rs256() else {
        return skipped("RSA's other algorithms: the openssl command, which makes the RSA key, is missing");
    };
    let mut key = published(&signer, "k");
    key.as_object_mut().unwrap().remove("alg");
    let server = KeyServer::start(&[key]).await;
    let gateway = trusting(&server, &["RS384", "RS512", "PS256", "PS384"], "").await;
    let good = claims(ISSUER, "acme");
    for algorithm in ["RS384", "RS512", "PS256", "PS384"] {
        me(&gateway, &rsa_token_of(&signer, algorithm, "k", &good)).await.expect(200);
    }
    me(&gateway, &rsa_token_of(&signer, "PS512", "k", &good)).await.expect(401);
    me(&gateway, &token_of(&signer, "k", &good)).await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_set_is_used_with_its_own_algorithm_only() {
    let (es, ed) = (Signer::es256(), Signer::eddsa());
    let server = KeyServer::start(&[published(&es, "es"), published(&ed, "ed")]).await;
    let gateway = trusting(&server, &["ES256", "EdDSA"], "").await;
    let good = claims(ISSUER, "acme");
    me(&gateway, &token_of(&es, "es", &good)).await.expect(200);
    let confused = Signer::Hs256(es.verifier().into_bytes());
    let foreign = Signer::es256();
    for (what, token) in [
        ("the public key as a secret", token_of(&confused, "es", &good)),
        ("no algorithm", es.token_with(&json!({"alg": "none", "kid": "es"}), &good)),
        ("another key's kid", token_of(&es, "ed", &good)),
        ("a listed algorithm that the key is not for", es.token_with(&json!({"alg": "EdDSA", "kid": "es"}), &good)),
        ("an algorithm that is not listed", es.token_with(&json!({"alg": "RS256", "kid": "es"}), &good)),
        ("a foreign key under a known kid", token_of(&foreign, "es", &good)),
        ("a kid that is no text", es.token_with(&json!({"alg": "ES256", "kid": 7}), &good)),
        ("a key of its own", es.token_with(&json!({"alg": "ES256", "kid": "es", "jku": server.url()}), &good)),
    ] {
        let answer = gateway.stranger().bearer(&token).get("/gate/me").await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
    assert_eq!(server.fetches(), 1, "none of them is a reason to fetch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_is_let_in_at_once_and_the_one_that_left_is_refused() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let server = KeyServer::start(&[published(&old, "old")]).await;
    let gateway = trusting(&server, &["ES256"], "").await;
    let good = claims(ISSUER, "acme");
    me(&gateway, &token_of(&old, "old", &good)).await.expect(200);
    server.publish(&[published(&new, "new")]);
    me(&gateway, &token_of(&new, "new", &good)).await.expect(200);
    me(&gateway, &token_of(&old, "old", &good)).await.expect(401);
    assert_eq!(server.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_invented_kids_is_one_fetch_and_no_lock_out() {
    let signer = Signer::es256();
    let server = KeyServer::start(&[published(&signer, "k")]).await;
    let gateway = trusting(&server, &["ES256"], "").await;
    let good = claims(ISSUER, "acme");
    me(&gateway, &token_of(&signer, "k", &good)).await.expect(200);
    let stranger = gateway.stranger();
    let flood = (0..60).map(|n| {
        let client = stranger.bearer(&token_of(&signer, &format!("invented-{n}"), &good));
        async move { client.get("/gate/me").await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(flood).await;
    assert!(statuses.iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(server.fetches(), 2);
    me(&gateway, &token_of(&signer, "k", &good)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_the_issuers_keys_and_answers_503_until_they_are_there() {
    let signer = Signer::es256();
    let server = KeyServer::start(&[published(&signer, "k")]).await;
    server.answer(Answer::Close);
    let gateway = trusting(&server, &["ES256"], "").await;
    let token = token_of(&signer, "k", &claims(ISSUER, "acme"));
    unavailable("the issuer is down", &me(&gateway, &token).await);
    gateway.client("acme").get("/gate/me").await.expect(200);
    // One that says itself that it has expired is refused all the same.
    let expired = altered(&claims(ISSUER, "acme"), &json!({"exp": now() - 120}));
    me(&gateway, &token_of(&signer, "k", &expired)).await.expect(401);
    server.publish(&[published(&signer, "k")]);
    eventually("the keys are there", || async { (me(&gateway, &token).await.status == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_key_set_leaves_the_old_keys_and_makes_unknown_ones_unavailable() {
    let signer = Signer::es256();
    let good = claims(ISSUER, "acme");
    let huge = json!({"keys": [published(&signer, "new")], "pad": "x".repeat(300 << 10)}).to_string().into_bytes();
    let many: Vec<Value> = (0..101).map(|n| published(&signer, &format!("k{n}"))).collect();
    let elsewhere = KeyServer::start(&[published(&signer, "new")]).await;
    let redirect = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let fitting = json!({"keys": [published(&signer, "new")]}).to_string().into_bytes();
    for (what, answer) in [
        ("a page", Answer::Document(b"<html><body>Sign in</body></html>".to_vec(), String::new())),
        ("too many bytes", Answer::Document(huge, String::new())),
        ("too many keys", Answer::Document(json!({"keys": many}).to_string().into_bytes(), String::new())),
        ("a redirect", Answer::Raw(redirect.into_bytes())),
        ("an error", Answer::Raw(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec())),
        ("a compression", Answer::Document(fitting, "content-encoding: gzip\r\n".to_owned())),
        ("no HTTP", Answer::Raw(b"hello\r\n\r\n".to_vec())),
        ("half an answer", Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"keys\":[".to_vec())),
        ("nothing", Answer::Silence),
    ] {
        let server = KeyServer::start(&[published(&signer, "k")]).await;
        let gateway = trusting(&server, &["ES256"], "").await;
        me(&gateway, &token_of(&signer, "k", &good)).await.expect(200);
        server.answer(answer);
        unavailable(what, &me(&gateway, &token_of(&signer, "new", &good)).await);
        me(&gateway, &token_of(&signer, "k", &good)).await.expect(200);
        assert!(gateway.log_text().contains("the issuer's keys can't be fetched"), "{what}");
    }
    assert_eq!(elsewhere.fetches(), 0, "a redirect was followed");
}

/// Issuers `ISSUER` and `OTHER`, each with a signer, that make tenants on the plan `usual`; `gold` may be chosen at the first.
async fn creating(lines: &str) -> (Gateway, Signer, Signer) {
    let (first, second) = (Signer::es256(), Signer::eddsa());
    let server = KeyServer::start(&[published(&first, "k")]).await;
    let created = "unknown_tenant = \"create\"\ncreate_plan = \"usual\"\n";
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("other.pem", &second.verifier())
        .tenants_toml(
            "[[plan]]\nid = \"gold\"\n[[tenant]]\nid = \"mapped\"\nplan = \"usual\"\nclaim = \"org_mapped\"\n",
        )
        .gateway_toml(&server.configuration(ISSUER, &["ES256"]))
        .gateway_toml(created)
        .gateway_toml("plan_claim = \"/app_metadata/plan\"\nplans_from_claim = [\"gold\"]\n")
        .gateway_toml(&second.configuration(OTHER, "other.pem"))
        .gateway_toml(created)
        .gateway_toml(lines)
        .start()
        .await;
    // The first token waits for the keys.
    me(&gateway, &token_of(&first, "k", &claims(ISSUER, "org_mapped"))).await.expect(200);
    (gateway, first, second)
}

fn tenants(gateway: &Gateway) -> Vec<Value> {
    let listed = gateway.command(&["tenant", "list", "--json"]);
    assert!(listed.status.success(), "{}", comfygate_tests::gateway::said(&listed));
    String::from_utf8(listed.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_issuers_make_two_tenants_of_one_claim_and_neither_sees_the_other() {
    let (gateway, first, second) = creating("").await;
    let ones = token_of(&first, "k", &claims(ISSUER, "Org 1"));
    let others = second.token(&claims(OTHER, "Org 1"));
    let id = |answer: Response| answer.expect(200).json()["tenant"].as_str().unwrap().to_owned();
    let (one, other) = (id(me(&gateway, &ones).await), id(me(&gateway, &others).await));
    assert_ne!(one, other);
    assert!(one.starts_with("j-") && other.starts_with("j-"), "{one} {other}");
    // Naming the other's id is naming a third organisation.
    let thief = id(me(&gateway, &second.token(&claims(OTHER, &one))).await);
    assert!(thief != one && thief != other);
    let ada = gateway.stranger().bearer(&ones);
    let prompt = ada.submit(comfygate_tests::workflows::quick("one")).await;
    ada.finished(&prompt).await;
    let history = gateway.stranger().bearer(&others).get("/history").await.expect(200).json();
    assert_eq!(history, json!({}));
    // An organisation that somebody names like a configured tenant is not that tenant; its own claim leads to it.
    assert!(id(me(&gateway, &second.token(&claims(OTHER, "acme"))).await).starts_with("j-"));
    assert_eq!(id(me(&gateway, &second.token(&claims(OTHER, "org_mapped"))).await), "mapped");
    let line = gateway.audited("the tenant", |line| line["event"] == "tenant_created" && line["tenant"] == one).await;
    assert_eq!((&line["issuer"], &line["claim"], &line["plan"]), (&json!(ISSUER), &json!("Org 1"), &json!("usual")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_claim_chooses_a_listed_plan_and_no_other() {
    let (gateway, first, second) = creating("").await;
    let with_plan = |org: &str, plan: &str| {
        let changes = json!({"app_metadata": {"plan": plan}});
        token_of(&first, "k", &altered(&claims(ISSUER, org), &changes))
    };
    me(&gateway, &with_plan("golden", "gold")).await.expect(200);
    me(&gateway, &with_plan("greedy", "unlimited")).await.expect(401);
    me(&gateway, &with_plan("usual one", "usual")).await.expect(401);
    // At the other issuer no claim chooses.
    let other = altered(&claims(OTHER, "plain"), &json!({"app_metadata": {"plan": "gold"}}));
    me(&gateway, &second.token(&other)).await.expect(200);
    let plan = |name: &str| {
        let found = tenants(&gateway).into_iter().find(|tenant| tenant["name"] == name);
        found.map(|tenant| tenant["plan"].as_str().unwrap().to_owned())
    };
    assert_eq!(plan("golden").as_deref(), Some("gold"));
    assert_eq!(plan("plain").as_deref(), Some("usual"));
    assert_eq!((plan("greedy"), plan("usual one")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_made_tenant_survives_a_restart_and_is_closed_and_opened_by_an_operator() {
    let (mut gateway, _, second) = creating("").await;
    let token = second.token(&claims(OTHER, "Org 1"));
    let id = me(&gateway, &token).await.expect(200).json()["tenant"].as_str().unwrap().to_owned();
    let key = gateway.new_key(&["--tenant", &id]);
    gateway.restart().await;
    let listed = tenants(&gateway);
    let made: Vec<&Value> = listed.iter().filter(|tenant| tenant["source"] == "token").collect();
    assert_eq!(made.len(), 1, "{listed:?}");
    assert_eq!((&made[0]["id"], &made[0]["name"], &made[0]["issuer"]), (&json!(id), &json!("Org 1"), &json!(OTHER)));
    assert!(listed.iter().any(|tenant| tenant["id"] == "acme" && tenant["source"] == "file"));

    assert!(gateway.command(&["tenant", "disable", &id]).status.success());
    me(&gateway, &token).await.expect(401);
    me(&gateway, &key).await.expect(401);
    gateway.restart().await;
    me(&gateway, &token).await.expect(401);
    assert!(gateway.command(&["tenant", "enable", &id]).status.success());
    me(&gateway, &token).await.expect(200);
    me(&gateway, &key).await.expect(200);

    let configured = gateway.command(&["tenant", "disable", "acme"]);
    assert_eq!(configured.status.code(), Some(1));
    assert!(comfygate_tests::gateway::said(&configured).contains("set `disabled` there"));
    assert_eq!(gateway.command(&["tenant", "disable", "j-0123456789abcdef01234567"]).status.code(), Some(1));

    // The same while no gateway runs.
    gateway.terminate().await;
    assert!(gateway.command(&["tenant", "disable", &id]).status.success());
    let told = |line: &Value| line["event"] == "tenant_disabled" && line["tenant"] == id && line["disabled"] == true;
    assert_eq!(gateway.audit().into_iter().filter(told).count(), 2);
    assert!(tenants(&gateway).iter().any(|tenant| tenant["id"] == id && tenant["disabled"] == true));
    gateway.start().await;
    me(&gateway, &token).await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_tenants_are_made_than_may_be() {
    let (gateway, _, second) = creating("[limits]\ncreated_tenants_max = 2").await;
    for org in ["a", "b"] {
        me(&gateway, &second.token(&claims(OTHER, org))).await.expect(200);
    }
    unavailable("a third tenant", &me(&gateway, &second.token(&claims(OTHER, "c"))).await);
    me(&gateway, &second.token(&claims(OTHER, "a"))).await.expect(200);
    gateway.client("acme").get("/gate/me").await.expect(200);
}
