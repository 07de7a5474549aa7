//! Stage 3: who is let in, and by what.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comfygate_tests::tokens::{Signer, altered, claims, now, unsigned};
use comfygate_tests::{Client, Gateway, Response, skipped};
use serde_json::{Value, json};

const ISSUER: &str = "https://id.example.com/";

/// Each call as from another address, so that the limit on failed logins does not answer instead.
struct Doors {
    stranger: Client,
    next: std::cell::Cell<u8>,
}

impl Doors {
    fn of(gateway: &Gateway) -> Doors {
        Doors { stranger: gateway.stranger(), next: std::cell::Cell::new(1) }
    }

    fn client(&self) -> Client {
        let number = self.next.get();
        self.next.set(number.checked_add(1).unwrap());
        self.stranger.from_address([127, 1, 0, number])
    }

    async fn with(&self, headers: &[(&str, &str)]) -> Response {
        self.client().with_headers(headers).get("/gate/me").await
    }

    async fn token(&self, token: &str) -> Response {
        self.with(&[("authorization", &format!("Bearer {token}"))]).await
    }
}

fn refused(what: &str, answer: &Response) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    assert_eq!(answer.code(), "unauthenticated", "{what}");
    let challenges: Vec<_> =
        answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(challenges.iter().any(|challenge| challenge.starts_with("Bearer")), "{what}: {challenges:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_taken_as_bearer_as_x_api_key_and_as_basic_password() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (doors, key) = (Doors::of(&gateway), gateway.key("acme"));
    for answer in [
        doors.token(&key).await,
        doors.with(&[("x-api-key", &key)]).await,
        doors.client().basic("anyone", &key).get("/gate/me").await,
        doors.client().basic("", &key).get("/gate/me").await,
        doors.with(&[("authorization", &format!("bearer {key}"))]).await,
    ] {
        assert_eq!(answer.expect(200).json()["tenant"], "acme");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_credential_gets_the_same_401() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (doors, key) = (Doors::of(&gateway), gateway.key("acme"));
    let other = gateway.key("bravo");
    let flipped = |at: usize| {
        let mut bytes = key.clone().into_bytes();
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        String::from_utf8(bytes).unwrap()
    };
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let cases: Vec<(&str, Vec<(&str, String)>)> = vec![
        ("nothing", vec![]),
        ("an empty bearer", bearer("")),
        ("no key at all", bearer("hunter2")),
        ("a wrong checksum", bearer(&flipped(key.len() - 1))),
        ("a wrong secret", bearer(&flipped(key.len() - 12))),
        ("a wrong id", bearer(&flipped(4))),
        ("a key cut short", bearer(&key[..key.len() - 1])),
        ("a key with more behind it", bearer(&format!("{key}x"))),
        ("a very long key", bearer(&format!("cg_{}", "a".repeat(20_000)))),
        ("another scheme", vec![("authorization", format!("Digest {key}"))]),
        ("basic that is not base64", vec![("authorization", "Basic !!!".into())]),
        ("two different keys", vec![("authorization", format!("Bearer {key}")), ("x-api-key", other.clone())]),
        ("ComfyUI's own user header", vec![("comfy-user", "acme".into())]),
    ];
    let mut told = Vec::new();
    for (what, headers) in &cases {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = doors.with(&headers).await;
        refused(what, &answer);
        told.push(answer.without_request_id());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "the answer tells what was wrong: {told:?}");
    // Which of two would count is ambiguous before anybody looks at what they say.
    let authorization = format!("Bearer {key}");
    let twice = doors.with(&[("authorization", &authorization), ("authorization", &authorization)]).await;
    assert_eq!(twice.status, 400, "{}", twice.text());
    let in_query = doors.client().get(&format!("/gate/me?token={key}")).await;
    refused("a key in the query", &in_query);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_leaves_its_audit_lines_without_the_secret() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.key("acme");
    let (start, last) = key.split_at(key.len() - 1);
    let wrong = format!("{start}{}", if last == "x" { "y" } else { "x" });
    let answer = gateway.stranger().bearer(&wrong).get("/queue").await.expect(401);
    let id = answer.header("x-request-id").unwrap().to_owned();
    let line =
        gateway.audited("the refusal", |line| line["request"] == id.as_str() && line["event"] == "refused").await;
    assert_eq!((&line["stage"], &line["status"]), (&json!("authenticate"), &json!(401)), "{line}");
    // Beside it the first failure of this address.
    let events: Vec<_> = gateway.audit().into_iter().filter(|line| line["request"] == id.as_str()).collect();
    assert_eq!(events.iter().map(|line| &line["event"]).collect::<Vec<_>>(), ["login_failed", "refused"]);
    let secret = &wrong[16..];
    assert!(gateway.audit().iter().all(|line| !line.to_string().contains(secret)), "a secret in the audit log");
    assert!(!gateway.log_text().contains(secret), "a secret in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_key_is_refused_and_one_that_lasts_is_not() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let doors = Doors::of(&gateway);
    let lasting = gateway.new_key(&["--tenant", "acme", "--expires", "90d"]);
    doors.token(&lasting).await.expect(200);
    let short = gateway.new_key(&["--tenant", "acme", "--expires", "2s"]);
    comfygate_tests::eventually("the key expires", || async {
        (gateway.stranger().from_address([127, 1, 1, 1]).bearer(&short).get("/gate/me").await.status == 401)
            .then_some(())
    })
    .await;
    doors.token(&lasting).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_at_once() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let doors = Doors::of(&gateway);
    let (key, other) = (gateway.new_key(&["--tenant", "acme"]), gateway.key("acme"));
    doors.token(&key).await.expect(200);
    let id = key.split('_').nth(1).unwrap();
    let revoked = gateway.command(&["key", "revoke", id]);
    assert!(revoked.status.success(), "{}", comfygate_tests::gateway::said(&revoked));
    refused("revoked", &doors.token(&key).await);
    doors.token(&other).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_fewer_scopes_may_do_less() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let reader = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--scope", "read"]));
    reader.get("/queue").await.expect(200);
    let refused = reader.post("/prompt", &json!({"prompt": comfygate_tests::workflows::quick("x")})).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}

async fn with_issuer(signer: &Signer) -> Gateway {
    Gateway::builder()
        .stand_ins(1)
        .file("issuer.key", &signer.verifier())
        .gateway_toml(&signer.configuration(ISSUER, "issuer.key"))
        .start()
        .await
}

/// A good token is let in; every alteration of it is refused.
async fn good_token_passes_and_altered_ones_do_not(signer: Signer) {
    let gateway = with_issuer(&signer).await;
    let doors = Doors::of(&gateway);
    let good = claims(ISSUER, "acme");
    let me = doors.token(&signer.token(&good)).await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("acme"), &json!("ada")), "{me}");
    let audiences = altered(&good, &json!({"aud": ["other", "comfygate"]}));
    doors.token(&signer.token(&audiences)).await.expect(200);

    for (what, changes) in wrong_claims() {
        refused(what, &doors.token(&signer.token(&altered(&good, &changes))).await);
    }
    for (what, header) in wrong_headers(&signer) {
        refused(what, &doors.token(&signer.token_with(&header, &good)).await);
    }
    for (what, token) in broken_tokens(&signer, &good) {
        refused(what, &doors.token(&token).await);
    }
}

fn wrong_claims() -> Vec<(&'static str, Value)> {
    let now = now();
    vec![
        ("expired", json!({"exp": now - 120})),
        ("no exp", json!({"exp": null})),
        ("exp as text", json!({"exp": (now + 300).to_string()})),
        ("not valid yet", json!({"nbf": now + 3600})),
        ("another audience", json!({"aud": "other"})),
        ("no audience", json!({"aud": null})),
        ("another issuer", json!({"iss": "https://evil.example/"})),
        ("no issuer", json!({"iss": null})),
        ("an unknown tenant", json!({"org_id": "nobody"})),
        ("no tenant", json!({"org_id": null})),
        ("a tenant that is a list", json!({"org_id": ["acme"]})),
    ]
}

fn wrong_headers(signer: &Signer) -> Vec<(&'static str, Value)> {
    let algorithm = signer.algorithm();
    let other = if algorithm == "HS256" { "HS384" } else { "HS256" };
    vec![
        ("alg none", json!({"alg": "none", "typ": "JWT"})),
        ("alg None", json!({"alg": "None", "typ": "JWT"})),
        ("another alg", json!({"alg": other, "typ": "JWT"})),
        ("no alg", json!({"typ": "JWT"})),
        ("crit", json!({"alg": algorithm, "crit": ["exp"]})),
    ]
}

fn broken_tokens(signer: &Signer, good: &Value) -> Vec<(&'static str, String)> {
    let token = signer.token(good);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[0] ^= 1;
    let richer =
        unsigned(&json!({"alg": signer.algorithm(), "typ": "JWT"}), &altered(good, &json!({"org_id": "bravo"})));
    vec![
        ("no signature", format!("{message}.")),
        ("two parts", message.to_owned()),
        ("four parts", format!("{token}.x")),
        ("a bit flipped", format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes))),
        ("other claims under the same signature", format!("{richer}.{signature}")),
        ("alg none without signature", format!("{}.", unsigned(&json!({"alg": "none"}), good))),
        ("padding", format!("{token}=")),
        ("too long", signer.token(&altered(good, &json!({"pad": "a".repeat(9000)})))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hs256_tokens_are_checked_whole() {
    good_token_passes_and_altered_ones_do_not(Signer::hs256()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs256_tokens_are_checked_whole() {
    match Signer::rs256() {
        Some(signer) => good_token_passes_and_altered_ones_do_not(signer).await,
        None => skipped("RS256 tokens: the openssl command, which makes the RSA key, is missing"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn es256_tokens_are_checked_whole() {
    good_token_passes_and_altered_ones_do_not(Signer::es256()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eddsa_tokens_are_checked_whole() {
    good_token_passes_and_altered_ones_do_not(Signer::eddsa()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_key_is_never_taken_as_a_shared_secret() {
    let signer = Signer::es256();
    let gateway = with_issuer(&signer).await;
    let confused = Signer::Hs256(signer.verifier().into_bytes());
    let doors = Doors::of(&gateway);
    refused("HS256 over the public key", &doors.token(&confused.token(&claims(ISSUER, "acme"))).await);
    refused("another key", &doors.token(&Signer::es256().token(&claims(ISSUER, "acme"))).await);
    doors.token(&signer.token(&claims(ISSUER, "acme"))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_users_of_one_tenant_do_not_see_each_other() {
    let signer = Signer::hs256();
    let gateway = with_issuer(&signer).await;
    let user =
        |name: &str| gateway.stranger().bearer(&signer.token(&altered(&claims(ISSUER, "acme"), &json!({"sub": name}))));
    let (ada, bob) = (user("ada"), user("bob"));
    let prompt = ada.submit(comfygate_tests::workflows::quick("adas")).await;
    ada.finished(&prompt).await;
    assert_eq!(bob.get("/history").await.expect(200).json(), json!({}));
    assert_eq!(bob.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_page_can_not_use_a_remembered_password() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme").basic("any", &gateway.key("acme"));
    let own = format!("https://{}", acme.authority());
    let credential = acme.credential().to_vec();
    let with_origin = |origin: &str| {
        let mut headers: Vec<(&str, &str)> =
            credential.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.push(("origin", origin));
        acme.with_headers(&headers)
    };
    for foreign in ["https://evil.example", "null", "http://localhost"] {
        let answer =
            with_origin(foreign).post_bytes("/interrupt", "application/json", "{}".to_owned()).await.expect(403);
        assert_eq!(answer.code(), "foreign_origin", "{foreign}");
    }
    with_origin(&own).post_bytes("/interrupt", "application/json", "{}".to_owned()).await.expect(200);
    // Reading is left to the browser's same-origin policy, which lets no foreign page see the answer.
    with_origin("https://evil.example").get("/queue").await.expect(200);
}
