//! Stage 3 for browsers that come by an identity provider: the login, what is refused of it, and the session that its tokens renew. A real provider is asked by `make oidc`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comfygate_tests::control::control;
use comfygate_tests::jwks::{Answer, token_of};
use comfygate_tests::oidc::{CLIENT_ID, Forge, Provider, Sent, log_in, pairs, refusal};
use comfygate_tests::tokens::{Signer, altered, now};
use comfygate_tests::{Browser, Event, Gateway, Response, eventually, gateway};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const SECRET: &str = comfygate_tests::oidc::CLIENT_SECRET;
const BY_CLAIM: &str = "algorithms = [\"ES256\"]\ntenant_claim = \"org_id\"";
const START: &str = "/gate/oidc/studio";

async fn with(provider: &Provider, lines: &str) -> Gateway {
    let table = provider.configuration("studio", &format!("{BY_CLAIM}\n{lines}"));
    Gateway::builder().stand_ins(1).file("oidc.secret", SECRET).gateway_toml(&table).start().await
}

async fn house() -> (Provider, Gateway) {
    let provider = Provider::start().await;
    let gateway = with(&provider, "").await;
    (provider, gateway)
}

fn browser(gateway: &Gateway, cookie: &str) -> Browser {
    Browser::with_cookie(&gateway.stranger(), cookie.to_owned())
}

async fn me(gateway: &Gateway, cookie: &str) -> Response {
    browser(gateway, cookie).page().get("/gate/me").await
}

/// A page with the form, that sets no session.
fn refused(what: &str, answer: &Response, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text());
    assert!(!answer.headers.contains_key("set-cookie"), "{what}");
    assert!(
        answer.text().contains("role=\"alert\"") && answer.text().contains("name=\"key\""),
        "{what}: {}",
        answer.text()
    );
    assert!(!answer.headers.contains_key("www-authenticate"), "{what}");
}

/// Goes there and back by whatever the provider does now.
async fn tried(gateway: &Gateway, provider: &Provider) -> Response {
    let sent = Sent::from(&gateway.stranger(), START).await;
    sent.get(&sent.back(&provider.code(&sent))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_logs_in_at_the_provider_and_comes_back_to_where_they_were() {
    let (provider, gateway) = house().await;
    let page = gateway.stranger().get("/gate/login?next=/queue").await.expect(200);
    assert!(page.text().contains("href=\"/gate/oidc/studio?next=/queue\""), "{}", page.text());
    let sent = Sent::from(&gateway.stranger(), "/gate/oidc/studio?next=/queue").await;
    assert_eq!(sent.to, format!("{}/authorize", provider.issuer()));
    let asked = |key: &str| sent.asked.get(key).map(String::as_str);
    assert_eq!((asked("response_type"), asked("client_id")), (Some("code"), Some(CLIENT_ID)));
    assert_eq!((asked("scope"), asked("code_challenge_method")), (Some("openid profile email"), Some("S256")));
    assert_eq!(asked("redirect_uri"), Some(format!("{}/gate/oidc/callback", gateway.url()).as_str()));
    assert!(
        sent.asked["state"].len() == 64 && sent.asked["nonce"].len() == 64 && sent.asked["code_challenge"].len() == 43
    );
    assert!(sent.cookie.starts_with("__Host-comfygate-login-"), "{}", sent.cookie);
    let back = sent.back(&provider.code(&sent));
    let answer = sent.get(&back).await.expect(303);
    assert_eq!(answer.header("location"), Some("/queue"));
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let me = me(&gateway, &cookie).await.expect(200).json();
    assert_eq!(
        (&me["tenant"], &me["user"], &me["credential"]),
        (&json!("acme"), &json!("ada"), &json!("session")),
        "{me}"
    );
    let line = gateway.audited("the login", |line| line["event"] == "logged_in").await;
    assert_eq!((&line["owner"]["tenant"], &line["owner"]["user"]), (&json!("acme"), &json!("ada")), "{line}");
    assert_eq!(line["provider"], "studio", "{line}");
    let form = provider.state().asked[0].clone();
    assert_eq!((form["code_verifier"].len(), form.contains_key("client_secret")), (64, false));
    for secret in [SECRET, &sent.asked["state"], &sent.asked["nonce"], &form["code"], &form["code_verifier"]] {
        assert!(!gateway.log_text().contains(secret), "the log has {secret}");
        assert!(gateway.audit().iter().all(|line| !line.to_string().contains(secret)), "audit has {secret}");
    }
    // Whom the provider vouches for, and who is not let in all the same, has a name.
    provider.state().claims = json!({"org_id": "nowhere"});
    tried(&gateway, &provider).await.expect(403);
    let stranger = |line: &Value| line["reason"].as_str().is_some_and(|reason| reason.contains("`sub` \"ada\""));
    gateway.audited("who was refused", stranger).await;
    provider.state().claims = json!({});
    let bare = Sent::from(&gateway.stranger(), "/gate/oidc/studio?next=//evil.example").await;
    let answer = bare.get(&bare.back(&provider.code(&bare))).await.expect(303);
    assert_eq!(answer.header("location"), Some("/"));
    gateway.stranger().get("/gate/oidc/nobody").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_good_once_and_for_the_browser_that_began_the_login() {
    let (provider, gateway) = house().await;
    let sent = Sent::from(&gateway.stranger(), START).await;
    let foreign = Sent::from(&gateway.stranger(), START).await;
    let back = sent.back(&provider.code(&sent));
    let without = gateway.stranger().get(&back).await;
    refused("no cookie", &without, 400);
    refused("another browser's cookie", &foreign.get(&back).await, 400);
    refused("no state", &sent.get("/gate/oidc/callback?code=code-1").await, 400);
    refused("no query", &sent.get("/gate/oidc/callback").await, 400);
    let foreign_state = format!("/gate/oidc/callback?code=code-1&state={}", foreign.asked["state"]);
    refused("another browser's state", &sent.get(&foreign_state).await, 400);
    refused(
        "a made-up state",
        &sent.get(&format!("/gate/oidc/callback?code=code-1&state={}", "0".repeat(64))).await,
        400,
    );
    let twice = sent.get(&format!("{back}&state={}", sent.asked["state"])).await.expect(303);
    assert!(twice.header("location").unwrap().starts_with("/gate/login") && twice.header("set-cookie").is_none());
    let cookie = [("cookie", sent.cookie.as_str())];
    assert_eq!(
        gateway.stranger().with_headers(&cookie).call(Method::HEAD, &back, &[], bytes::Bytes::new()).await.status,
        405
    );
    assert_eq!(provider.state().asked.len(), 0, "nothing of that is worth a question");
    sent.get(&back).await.expect(303);
    refused("a second time", &sent.get(&back).await, 400);
    assert_eq!(provider.state().asked.len(), 1);
    // Two tabs of one browser have one cookie, and each its own login.
    let tab = gateway.stranger().with_headers(&cookie);
    let answer = tab.get(START).await.expect(303);
    assert_eq!(answer.header("set-cookie").unwrap().split(';').next(), Some(sent.cookie.as_str()));
    // A code that the provider does not know.
    let other = Sent::from(&gateway.stranger(), START).await;
    refused("a foreign code", &other.get(&other.back("code-of-somebody")).await, 403);
    // A code of another login: PKCE.
    let (mine, theirs) = (Sent::from(&gateway.stranger(), START).await, Sent::from(&gateway.stranger(), START).await);
    let injected = mine.get(&mine.back(&provider.code(&theirs))).await;
    refused("an injected code", &injected, 403);
}

fn forge(make: impl Fn(&Signer, &Value) -> Option<String> + Send + Sync + 'static) -> Forge {
    Arc::new(make)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_id_token_of_this_login_for_this_client_by_this_provider_lets_anybody_in() {
    let (provider, gateway) = house().await;
    tried(&gateway, &provider).await.expect(303);
    let changed =
        |changes: Value| forge(move |signer, claims| Some(token_of(signer, "k1", &altered(claims, &changes))));
    let headed = |header: Value| forge(move |signer, claims| Some(signer.token_with(&header, claims)));
    let other = Signer::es256();
    let issuer = provider.issuer();
    let cases = [
        ("another nonce", changed(json!({"nonce": "x"}))),
        ("no nonce", changed(json!({"nonce": null}))),
        ("another audience", changed(json!({"aud": "other"}))),
        ("several audiences and no party", changed(json!({"aud": [CLIENT_ID, "other"]}))),
        ("several audiences, another party", changed(json!({"aud": [CLIENT_ID, "other"], "azp": "other"}))),
        ("another party", changed(json!({"azp": "other"}))),
        ("another issuer", changed(json!({"iss": format!("{issuer}/")}))),
        ("no issuer", changed(json!({"iss": null}))),
        ("expired", changed(json!({"exp": now() - 120}))),
        ("no end", changed(json!({"exp": null}))),
        ("of the future", changed(json!({"iat": now() + 600}))),
        ("of yesterday", changed(json!({"iat": now() - 86_400}))),
        ("no time", changed(json!({"iat": null}))),
        ("another access token", changed(json!({"at_hash": URL_SAFE_NO_PAD.encode([7; 16])}))),
        ("no subject", changed(json!({"sub": null}))),
        ("a subject that is no text", changed(json!({"sub": 7}))),
        (
            "no algorithm",
            forge(|_, claims| {
                Some(format!("{}.", comfygate_tests::tokens::unsigned(&json!({"alg": "none", "kid": "k1"}), claims)))
            }),
        ),
        (
            "HS256 with the public key",
            forge(|signer, claims| {
                let confused = Signer::Hs256(signer.verifier().into_bytes());
                Some(token_of(&confused, "k1", claims))
            }),
        ),
        ("an algorithm that is not listed", headed(json!({"alg": "EdDSA", "kid": "k1"}))),
        ("a key of its own", headed(json!({"alg": "ES256", "jwk": {"kty": "EC"}}))),
        ("a key of another set", headed(json!({"alg": "ES256", "kid": "k1", "jku": "https://evil.example"}))),
        ("another key", forge(move |_, claims| Some(token_of(&other, "k1", claims)))),
        ("no token", forge(|_, _| None)),
        ("an empty token", forge(|_, _| Some(String::new()))),
        ("a token of a megabyte", forge(|_, _| Some("a".repeat(1 << 20)))),
        ("no JWT", forge(|_, _| Some("a.b.c".to_owned()))),
    ];
    for (what, forged) in cases {
        provider.state().forge = Some(forged);
        let answer = tried(&gateway, &provider).await;
        let status = if what == "a token of a megabyte" { 503 } else { 403 };
        refused(what, &answer, status);
        let text = answer.text();
        assert!(!text.contains("nonce") && !text.contains("audience") && !text.contains("ID token"), "{what}: {text}");
    }
    provider.state().forge = Some(changed(json!({"aud": [CLIENT_ID, "other"], "azp": CLIENT_ID})));
    tried(&gateway, &provider).await.expect(303);
    let line =
        gateway.audited("the refusal", |line| line["route"] == "/gate/oidc/callback" && line["status"] == 403).await;
    assert!(
        line["reason"].as_str().unwrap().contains("nonce")
            && line["reason"].as_str().unwrap().contains("provider `studio`"),
        "{line}"
    );
    assert!(!line.to_string().contains("`sub`"), "nobody has vouched for it: {line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_of_a_token_endpoint_logs_nobody_in() {
    let (provider, gateway) = house().await;
    let elsewhere = Provider::start().await;
    let redirect =
        format!("HTTP/1.1 307 Elsewhere\r\nlocation: {}/token\r\ncontent-length: 0\r\n\r\n", elsewhere.issuer());
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>";
    let json = |value: Value| Answer::Document(value.to_string().into_bytes(), String::new());
    for (what, answer, status) in [
        ("too many bytes", json(json!({"access_token": "x".repeat(70 << 10), "token_type": "Bearer"})), 503),
        ("a redirect", Answer::Raw(redirect.into_bytes()), 503),
        ("a page", Answer::Raw(page.as_bytes().to_vec()), 503),
        ("its own trouble", Answer::Raw(b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n".to_vec()), 503),
        ("a closed connection", Answer::Close, 503),
        ("half an answer", Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec()), 503),
        ("our client is not known", refusal("invalid_client"), 503),
        ("the code is not", refusal("invalid_grant"), 403),
        ("a word of its own", refusal("<script>alert(1)</script>"), 403),
        ("another kind of token", json(json!({"access_token": "a", "token_type": "mac", "id_token": "a.b.c"})), 403),
        ("no access token", json(json!({"token_type": "Bearer", "id_token": "a.b.c"})), 503),
        ("nothing", Answer::Silence, 503),
    ] {
        provider.state().token_answer = Some(answer);
        let answer = tried(&gateway, &provider).await;
        refused(what, &answer, status);
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{what}");
        assert!(!answer.text().contains("<script"), "{what}");
    }
    assert_eq!(elsewhere.state().asked.len(), 0, "a redirect was followed");
    provider.state().token_answer = None;
    tried(&gateway, &provider).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_is_not_this_issuers_own_begins_no_login() {
    let html = b"<html><body>Sign in</body></html>".to_vec();
    let redirect = b"HTTP/1.1 302 x\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n".to_vec();
    let cases = [
        ("another-issuer", json!({"issuer": "http://127.0.0.1:1"}), None),
        ("a-slash-more", json!({}), None),
        ("plain-elsewhere", json!({"token_endpoint": "http://192.0.2.1/token"}), None),
        ("no-keys", json!({"jwks_uri": null}), None),
        ("no-code-flow", json!({"response_types_supported": ["id_token"]}), None),
        ("no-pkce", json!({"code_challenge_methods_supported": ["plain"]}), None),
        ("a-page", json!({}), Some(Answer::Document(html, String::new()))),
        ("too-much", json!({"pad": "x".repeat(70 << 10)}), None),
        ("a-redirect", json!({}), Some(Answer::Raw(redirect))),
        ("nobody", json!({}), Some(Answer::Close)),
    ];
    let mut builder = Gateway::builder().stand_ins(1).file("oidc.secret", SECRET);
    let mut providers = Vec::new();
    for (id, metadata, answer) in cases {
        let provider = Provider::start().await;
        let slash = json!({"issuer": format!("{}/", provider.issuer())});
        provider.state().metadata = if id == "a-slash-more" { slash } else { metadata };
        provider.state().metadata_answer = answer;
        builder = builder.gateway_toml(&provider.configuration(id, &format!("{BY_CLAIM}\ncallback = \"own\"")));
        providers.push((id, provider));
    }
    let gateway = builder.start().await;
    for (id, provider) in &providers {
        let path = format!("/gate/oidc/{id}");
        refused(id, &gateway.stranger().get(&path).await, 503);
        // Not asked again at once.
        refused(id, &gateway.stranger().get(&path).await, 503);
        assert_eq!(provider.state().looks, 1, "{id}");
    }
    Browser::of(&gateway, "acme").await.page().get("/gate/me").await.expect(200);
    let (id, nobody) = providers.last().unwrap();
    nobody.state().metadata_answer = None;
    let back = || async { (gateway.stranger().get(&format!("/gate/oidc/{id}")).await.status == 303).then_some(()) };
    eventually("it is back", back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_names_its_provider_and_an_error_is_told_without_its_words() {
    let provider = Provider::start().await;
    provider.state().metadata = json!({"authorization_response_iss_parameter_supported": true});
    let gateway = with(&provider, "").await;
    for (what, iss) in [("another name", "&iss=https://evil.example"), ("no name", "")] {
        let sent = Sent::from(&gateway.stranger(), START).await;
        let answer = sent.get(&format!("{}{iss}", sent.back(&provider.code(&sent)))).await;
        refused(what, &answer, 403);
    }
    assert_eq!(provider.state().asked.len(), 0, "no code was sent to anybody");
    let sent = Sent::from(&gateway.stranger(), START).await;
    let named = format!("{}&iss={}", sent.back(&provider.code(&sent)), provider.issuer());
    sent.get(&named).await.expect(303);

    for word in ["access_denied", "%3Cscript%3Ealert(1)%3C/script%3E"] {
        let sent = Sent::from(&gateway.stranger(), START).await;
        let (state, iss) = (&sent.asked["state"], provider.issuer());
        let path = format!(
            "/gate/oidc/callback?error={word}&error_description=%3Cb%3EPay%20here%3C/b%3E&state={state}&iss={iss}"
        );
        let foreign = Sent::from(&gateway.stranger(), START).await;
        refused("an error for another browser", &foreign.get(&path).await, 400);
        let answer = sent.get(&path).await;
        refused(word, &answer, 403);
        assert!(!answer.text().contains("Pay here") && !answer.text().contains("script"), "{}", answer.text());
        refused("an error twice", &sent.get(&path).await, 400);
    }
    assert!(!gateway.audit().iter().any(|line| line.to_string().contains("Pay here")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_providers_none_can_answer_for_another() {
    let (good, bad) = (Provider::start().await, Provider::start().await);
    let mut gateway = Gateway::builder()
        .stand_ins(1)
        .file("oidc.secret", SECRET)
        .gateway_toml(&good.configuration("good", &format!("{BY_CLAIM}\ncallback = \"own\"")))
        .gateway_toml(&bad.configuration("bad", BY_CLAIM))
        .start()
        .await;
    // It shares the address and does not say who it is.
    refused("no name", &gateway.stranger().get("/gate/oidc/bad").await, 503);
    bad.state().metadata = json!({"authorization_response_iss_parameter_supported": true});
    // Metadata is kept for an hour.
    gateway.restart().await;
    // The bad one sends the browser on to the good one, with the state of its own login: the good one's code comes to the good one's address.
    let sent = Sent::from(&gateway.stranger(), "/gate/oidc/bad").await;
    assert!(sent.asked["redirect_uri"].ends_with("/gate/oidc/callback"));
    let stolen = format!("/gate/oidc/callback/good?code=code-1&state={}", sent.asked["state"]);
    refused("the other's address", &sent.get(&stolen).await, 403);
    assert_eq!((good.state().asked.len(), bad.state().asked.len()), (0, 0), "the code was sent to nobody");
    let (cookie, _) = log_in(&gateway.stranger(), &good, "/gate/oidc/good").await;
    me(&gateway, &cookie).await.expect(200);
    let page = gateway.stranger().get("/gate/login").await.expect(200).text();
    assert!(page.contains("/gate/oidc/good") && page.contains("/gate/oidc/bad"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_in_and_as_whom_is_decided_by_claims() {
    let provider = Provider::start().await;
    let lines = "require = { groups = [\"artists\", \"editors\"] }\nscope_claim = \"rights\"\nuser_claim = \"email\"\n";
    let made = "unknown_tenant = \"create\"\ncreate_plan = \"usual\"";
    let gateway = with(&provider, &format!("{lines}{made}")).await;
    let good = json!({"groups": ["x", "artists"], "rights": "read files openid", "email": "ada@example.com", "email_verified": true, "org_id": "Org 7"});
    provider.state().claims = good.clone();
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let seen = me(&gateway, &cookie).await.expect(200).json();
    assert!(seen["tenant"].as_str().unwrap().starts_with("j-"), "{seen}");
    assert_eq!(seen["user"], "ada@example.com");
    browser(&gateway, &cookie).page().get("/queue").await.expect(200);
    browser(&gateway, &cookie).page().post("/prompt", &json!({})).await.expect(403);
    for (what, changes) in [
        ("another group", json!({"groups": ["guests"]})),
        ("no group", json!({"groups": null})),
        ("a group that only begins so", json!({"groups": "artists2"})),
        ("an address that nobody has verified", json!({"email_verified": false})),
        ("nor said so", json!({"email_verified": null})),
        ("nor by a word", json!({"email_verified": "true"})),
        ("no user", json!({"email": null})),
        ("no tenant", json!({"org_id": null})),
        ("no rights", json!({"rights": null})),
    ] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        provider.state().claims = claims;
        let answer = tried(&gateway, &provider).await;
        refused(what, &answer, 403);
        assert!(answer.text().contains("may not come in here"), "{what}: {}", answer.text());
    }
    provider.state().claims = altered(&good, &json!({"groups": "editors"}));
    tried(&gateway, &provider).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_of_a_tenant_that_is_not_in_the_file_lets_in_as_long_as_there_is_that_tenant() {
    let provider = Provider::start().await;
    let table = provider.configuration("studio", "tenant = \"zebra\"");
    let gateway = Gateway::builder().stand_ins(1).file("oidc.secret", SECRET).gateway_toml(&table).start().await;
    let asked = async |method: &str, query: &str| {
        let body = (method == "PUT").then(|| json!({"plan": "usual"}));
        control(&gateway, method, &format!("/v1/tenants/zebra{query}"), &[], body.as_ref()).await.status
    };
    let is_told = || gateway::said(&gateway.command(&["reload"])).contains("there is no tenant `zebra`");
    refused("nobody has made it", &tried(&gateway, &provider).await, 403);
    assert!(is_told());
    assert_eq!(asked("PUT", "").await, 201);
    assert!(!is_told());
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    assert_eq!(me(&gateway, &cookie).await.expect(200).json()["tenant"], "zebra");
    assert_eq!(asked("DELETE", "?erase=true").await, 200);
    me(&gateway, &cookie).await.expect(401);
    refused("it is deleted", &tried(&gateway, &provider).await, 403);
    assert_eq!(asked("PUT", "").await, 409, "the configuration names it still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_renewed_by_its_refresh_token_with_the_claims_of_then() {
    let provider = Provider::start().await;
    {
        let mut state = provider.state();
        (state.renews, state.expires_in) = (true, Some(5));
        state.claims = json!({"rights": "read submit"});
    }
    let mut gateway = with(&provider, "scope_claim = \"rights\"").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    browser(&gateway, &cookie).page().get("/queue").await.expect(200);
    let first = eventually("it is renewed", || async {
        me(&gateway, &cookie).await.expect(200);
        let asked = provider.state().asked.clone();
        asked.into_iter().find(|form| form["grant_type"] == "refresh_token")
    })
    .await;
    assert_eq!(first["refresh_token"], "refresh-3");
    // By the next one, many requests at once ask once, and what the provider says then counts.
    provider.state().claims = json!({"rights": "files"});
    // Another key from here on, too.
    {
        let mut state = provider.state();
        (state.signer, state.kid) = (Arc::new(Signer::es256()), "k2".to_owned());
    }
    // In its own time: a process that is killed while the provider answers takes the only good token with it.
    assert!(gateway.terminate().await.success());
    gateway.restart().await;
    eventually("the scopes are the new ones", || async {
        let page = browser(&gateway, &cookie).page();
        let all = futures_util::future::join_all((0..8).map(|_| page.get("/queue"))).await;
        all.iter().all(|answer| answer.status == 403).then_some(())
    })
    .await;
    me(&gateway, &cookie).await.expect(200);
    let tokens: Vec<String> =
        provider.state().asked.iter().filter_map(|form| form.get("refresh_token").cloned()).collect();
    let once: BTreeSet<&String> = tokens.iter().collect();
    assert_eq!(tokens.len(), once.len(), "a token was shown twice: the provider would have taken it for stolen");
    let ledger = std::fs::read(gateway.state().join("ledger.redb")).unwrap();
    let has = |text: &str| ledger.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("http://127.0.0.1") && !has("refresh-"), "a token lies open in the ledger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_grant_ends_the_session_and_its_sockets() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    let gateway = with(&provider, "").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let other = log_in(&gateway.stranger(), &provider, START).await.0;
    let mut socket = browser(&gateway, &cookie).page().socket(None).await;
    provider.state().revoke();
    eventually("it is over", || async { (me(&gateway, &cookie).await.status == 401).then_some(()) }).await;
    let line = gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(line["reason"].as_str().unwrap().contains("invalid_grant"), "{line}");
    eventually("so is the other", || async { (me(&gateway, &other).await.status == 401).then_some(()) }).await;
    provider.state().renews = false;
    let (again, _) = log_in(&gateway.stranger(), &provider, START).await;
    me(&gateway, &again).await.expect(200);
    // A page's socket is held in silence from the end of its session on: what happens now it does not hear.
    let prompt = browser(&gateway, &again).page().submit(comfygate_tests::workflows::quick("unheard")).await;
    browser(&gateway, &again).page().finished(&prompt).await;
    let heard = socket.heard_so_far().await;
    assert!(heard.iter().all(|event| event.prompt_id().as_ref() != Some(&prompt)), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_provider_is_away_a_session_goes_on_for_the_stated_time_and_comes_back_with_it() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    let gateway = with(&provider, "refresh_stale_max = \"4s\"").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    provider.state().token_answer = Some(Answer::Close);
    // Let in without a word of the provider, since its tokens ended.
    eventually("a renewal failed", || async {
        me(&gateway, &cookie).await.expect(200);
        gateway.log_text().contains("a session can't be renewed now").then_some(())
    })
    .await;
    eventually("the time is over", || async { (me(&gateway, &cookie).await.status == 401).then_some(()) }).await;
    assert!(gateway.audit().iter().all(|line| line["event"] != "session_ended"), "nobody ended it");
    provider.state().token_answer = None;
    eventually("it is renewed", || async { (me(&gateway, &cookie).await.status == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_logs_out_while_the_provider_is_away_does_not_come_back_with_it() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    let gateway = with(&provider, "refresh_stale_max = \"1s\"").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    provider.state().token_answer = Some(Answer::Close);
    eventually("nobody vouches for it", || async { (me(&gateway, &cookie).await.status == 401).then_some(()) }).await;
    assert!(sessions(&gateway).contains("\"oidc\""), "it may come back: {}", sessions(&gateway));
    let answer = browser(&gateway, &cookie).press("/gate/logout", &[]).await;
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"), "{}", answer.text());
    assert!(!sessions(&gateway).contains("\"oidc\""), "{}", sessions(&gateway));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_about_somebody_else_or_for_another_tenant_ends_the_session() {
    for (what, changes) in [
        ("another person", json!({"sub": "eve"})),
        ("another login's answer", json!({"nonce": "zz"})),
        ("another tenant", json!({"org_id": "bravo"})),
        ("no tenant", json!({"org_id": null})),
    ] {
        let provider = Provider::start().await;
        (provider.state().renews, provider.state().expires_in) = (true, Some(5));
        let gateway = with(&provider, "").await;
        let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
        me(&gateway, &cookie).await.expect(200);
        provider.state().claims = changes;
        eventually(what, || async { (me(&gateway, &cookie).await.status == 401).then_some(()) }).await;
        gateway.audited(what, |line| line["event"] == "session_ended").await;
    }
}

/// How many renewals were asked for.
fn renewals(provider: &Provider) -> usize {
    provider.state().asked.iter().filter(|form| form["grant_type"] == "refresh_token").count()
}

/// Changes the configuration, and waits until it is in force.
async fn reconfigured(gateway: &Gateway, from: &str, to: &str) {
    let generation = gateway.generation().await;
    gateway.edit("gateway.toml", |text| {
        assert!(text.contains(from), "{text}");
        text.replace(from, to)
    });
    gateway.generation_is(generation + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_looked_at_again_when_the_rules_have_changed_and_not_when_other_things_have() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().claims) = (true, json!({"groups": ["artists"]}));
    let gateway = with(&provider, "require = { groups = [\"artists\"] }").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    reconfigured(&gateway, "client_id = \"gate\"", "client_id = \"gate\"\nname = \"Studio\"").await;
    me(&gateway, &cookie).await.expect(200);
    assert_eq!(renewals(&provider), 0, "a name decides nothing");
    reconfigured(&gateway, "[\"artists\"]", "[\"artists\", \"editors\"]").await;
    me(&gateway, &cookie).await.expect(200);
    me(&gateway, &cookie).await.expect(200);
    assert_eq!(renewals(&provider), 1, "once");
    // Whoever can't be asked about is not let in meanwhile, and not logged out.
    provider.state().token_answer = Some(Answer::Close);
    reconfigured(&gateway, "[\"artists\", \"editors\"]", "[\"artists\", \"owners\"]").await;
    let open = me(&gateway, &cookie).await.expect(503);
    assert!(open.header("retry-after").is_some() && open.header("set-cookie").is_none(), "{open:?}");
    let opens = browser(&gateway, &cookie).sending(&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]);
    let page = opens.get("/").await;
    assert_eq!((page.status.as_u16(), page.header("location")), (503, None), "a login is not what it takes");
    provider.state().token_answer = None;
    eventually("it is read again", || async { (me(&gateway, &cookie).await.status == 200).then_some(()) }).await;
    reconfigured(&gateway, "[\"artists\", \"owners\"]", "[\"owners\"]").await;
    me(&gateway, &cookie).await.expect(401);
    let line = gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(line["reason"].as_str().unwrap().contains("groups"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_refresh_token_is_refused_under_rules_that_it_was_not_let_in_by() {
    let provider = Provider::start().await;
    provider.state().claims = json!({"groups": ["artists"]});
    let gateway = with(&provider, "require = { groups = [\"artists\"] }").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    me(&gateway, &cookie).await.expect(200);
    reconfigured(&gateway, "[\"artists\"]", "[\"editors\"]").await;
    me(&gateway, &cookie).await.expect(401);
    reconfigured(&gateway, "[\"editors\"]", "[\"artists\"]").await;
    me(&gateway, &cookie).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_without_an_id_token_counts_for_claims_that_were_read_by_the_rules_of_now_and_for_no_others() {
    let provider = Provider::start().await;
    {
        let mut state = provider.state();
        (state.renews, state.expires_in, state.claims) = (true, Some(5), json!({"groups": ["artists"]}));
        // With a code only: a renewal has no nonce.
        let with_nonce = |claims: &Value| claims.get("nonce").is_some_and(|nonce| !nonce.is_null());
        state.forge = Some(forge(move |signer, claims| with_nonce(claims).then(|| token_of(signer, "k1", claims))));
    }
    let gateway = with(&provider, "require = { groups = [\"artists\"] }").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    eventually("it is renewed twice", || async {
        me(&gateway, &cookie).await.expect(200);
        (renewals(&provider) >= 2).then_some(())
    })
    .await;
    reconfigured(&gateway, "[\"artists\"]", "[\"artists\", \"editors\"]").await;
    me(&gateway, &cookie).await.expect(401);
    let line = gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(line["reason"].as_str().unwrap().contains("no ID token"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_provider_was_not_asked_logs_nobody_out() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    let gateway = with(&provider, "refresh_stale_max = \"1s\"").await;
    let first = log_in(&gateway.stranger(), &provider, START).await.0;
    let second = log_in(&gateway.stranger(), &provider, START).await.0;
    provider.state().token_answer = Some(Answer::Close);
    eventually("it was asked in vain", || async { (me(&gateway, &first).await.status == 401).then_some(()) }).await;
    // The gateway leaves the provider alone for a while now; the second session is as late.
    let asked = provider.state().asked.len();
    let answer = me(&gateway, &second).await.expect(503);
    assert!(answer.header("retry-after").is_some() && answer.header("set-cookie").is_none(), "{answer:?}");
    assert_eq!(provider.state().asked.len(), asked);
    provider.state().token_answer = None;
    // Its token was the provider's last: the first one's is used up.
    eventually("it is renewed", || async { (me(&gateway, &second).await.status == 200).then_some(()) }).await;
    for outcome in ["failed", "not_asked", "renewed"] {
        let series = format!("comfygate_session_renewals_total{{outcome=\"{outcome}\",provider=\"studio\"}}");
        assert!(gateway.metric(&series).await >= 1.0, "{}", gateway.metrics().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_which_only_a_socket_is_open_is_renewed_in_time_and_ends_with_the_providers_word() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    let gateway = with(&provider, "").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let _socket = browser(&gateway, &cookie).page().socket(None).await;
    eventually("it is renewed", || async { (renewals(&provider) >= 2).then_some(()) }).await;
    assert!(gateway.audit().iter().all(|line| line["event"] != "session_ended"));
    provider.state().revoke();
    // Nothing asks but the socket.
    let line = gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(line["reason"].as_str().unwrap().contains("invalid_grant"), "{line}");
    me(&gateway, &cookie).await.expect(401);
    let ended = "comfygate_session_renewals_total{outcome=\"ended\",provider=\"studio\"}";
    assert_eq!(gateway.metric(ended).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pages_socket_is_told_to_come_again_where_its_session_only_cant_be_renewed_now() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().claims) = (true, json!({"groups": ["artists"]}));
    let gateway = with(&provider, "require = { groups = [\"artists\"] }").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let page = browser(&gateway, &cookie).page();
    let mut socket = page.socket(None).await;
    socket.sid().await;
    provider.state().token_answer = Some(Answer::Close);
    reconfigured(&gateway, "[\"artists\"]", "[\"artists\", \"editors\"]").await;
    let told = |heard: Vec<Event>| assert_eq!(heard.last(), Some(&Event::Closed(Some(1013))), "{heard:?}");
    told(socket.until("the close", |event| event.kind() == "closed").await);
    // Programs are told at once.
    let program = browser(&gateway, &cookie).sending(&[]);
    assert_eq!(program.try_socket("/ws", None, &[]).await.map(|_| ()), Err(503));
    // A page would open one after the other until then: it is held.
    let mut next = page.socket(None).await;
    told(next.until("the close", |event| event.kind() == "closed").await);
    provider.state().token_answer = None;
    eventually("it is renewed", || async { (me(&gateway, &cookie).await.status == 200).then_some(()) }).await;
    page.socket(None).await.sid().await;
    assert!(gateway.audit().iter().all(|line| line["event"] != "session_ended"), "nothing has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_codes_up_waits_before_the_provider_is_asked_and_others_need_not() {
    let provider = Provider::start().await;
    let table = provider.configuration("studio", BY_CLAIM);
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("oidc.secret", SECRET)
        .gateway_toml(&table)
        .gateway_toml("[limits]\nfailed_logins_free = 2")
        .start()
        .await;
    let mut asked = 0;
    let blocked = loop {
        let sent = Sent::from(&gateway.stranger(), START).await;
        let answer = sent.get(&sent.back("made-up")).await;
        if answer.status == 429 {
            break answer;
        }
        refused("a made-up code", &answer, 403);
        asked += 1;
        assert_eq!(provider.state().asked.len(), asked);
        assert!(asked < 12, "nobody has it wait");
    };
    assert!(asked > 2, "two are free");
    assert!(blocked.header("retry-after").is_some(), "{blocked:?}");
    assert_eq!(provider.state().asked.len(), asked, "the provider was asked");
    gateway.audited("the wait", |line| line["event"] == "login_failed" && line["kind"] == "code").await;
    let elsewhere = gateway.stranger().from_address([127, 0, 0, 9]);
    let (cookie, _) = log_in(&elsewhere, &provider, START).await;
    me(&gateway, &cookie).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_began_at_what_the_provider_was_before_a_reload_is_lost() {
    let (provider, gateway) = house().await;
    let kept = Sent::from(&gateway.stranger(), START).await;
    reconfigured(&gateway, "client_id = \"gate\"", "client_id = \"gate\"\nname = \"Studio\"").await;
    kept.get(&kept.back(&provider.code(&kept))).await.expect(303);
    let asked = provider.state().asked.len();
    let lost = Sent::from(&gateway.stranger(), START).await;
    reconfigured(&gateway, "client_id = \"gate\"", "client_id = \"gate2\"").await;
    refused("another client", &lost.get(&lost.back(&provider.code(&lost))).await, 400);
    assert_eq!(provider.state().asked.len(), asked, "its code went to nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_names_another_tenant_makes_none() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    provider.state().claims = json!({"org_id": "Org 7"});
    let gateway = with(&provider, "unknown_tenant = \"create\"\ncreate_plan = \"usual\"").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let made = || String::from_utf8(gateway.command(&["tenant", "list", "--json"]).stdout).unwrap();
    me(&gateway, &cookie).await.expect(200);
    assert!(made().contains("Org 7"), "{}", made());
    provider.state().claims = json!({"org_id": "Org 8"});
    eventually("it is over", || async { (me(&gateway, &cookie).await.status == 401).then_some(()) }).await;
    gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(made().contains("Org 7") && !made().contains("Org 8"), "{}", made());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_leaves_the_configuration_takes_its_sessions_along() {
    let (provider, gateway) = house().await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let by_key = Browser::of(&gateway, "acme").await;
    let generation = gateway.generation().await;
    gateway.edit("gateway.toml", |text| {
        text.replace("client_id = \"gate\"", "client_id = \"gate\"\nname = \"Studio <b>\"")
    });
    gateway.generation_is(generation + 1).await;
    me(&gateway, &cookie).await.expect(200);
    assert!(gateway.stranger().get("/gate/login").await.text().contains("Studio &lt;b&gt;"));
    assert_eq!(provider.state().looks, 1, "a reload forgets no metadata");
    let table = provider.configuration("studio", BY_CLAIM);
    gateway.edit("gateway.toml", |text| {
        let begin = text.find("[[oidc]]").unwrap();
        let length = table.len() + "\nname = \"Studio <b>\"".len();
        format!("{}{}", &text[..begin], text.get(begin + length..).unwrap_or_default())
    });
    gateway.generation_is(generation + 2).await;
    me(&gateway, &cookie).await.expect(401);
    by_key.page().get("/gate/me").await.expect(200);
    gateway.stranger().get(START).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_leads_to_the_provider_with_the_token_that_names_its_session() {
    let (provider, gateway) = house().await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let form = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
    let leave = |cookie: String| {
        let page = browser(&gateway, &cookie).sending(&[]);
        async move { page.call(Method::POST, "/gate/logout", &form, bytes::Bytes::new()).await }
    };
    let answer = leave(cookie.clone()).await.expect(200);
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"));
    let text = answer.text();
    let url = text.split("content=\"0;url=").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    let (to, query) = url.split_once('?').unwrap();
    let query = pairs(query);
    assert_eq!(to, format!("{}/logout", provider.issuer()));
    assert_eq!((query["client_id"].as_str(), query["id_token_hint"].split('.').count()), (CLIENT_ID, 3));
    assert_eq!(query["post_logout_redirect_uri"], format!("{}/gate/logout", gateway.url()));
    me(&gateway, &cookie).await.expect(401);
    let by_key = Browser::of(&gateway, "acme").await;
    assert_eq!(by_key.log_out().await.header("location"), Some("/gate/login"));
}

const BACKCHANNEL: &str = "/gate/oidc/backchannel/studio";
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A logout token's claims, with these changes; null takes one away.
fn logout_claims(provider: &Provider, jti: &str, changes: &Value) -> Value {
    let claims = json!({
        "iss": provider.issuer(), "aud": CLIENT_ID, "iat": now(), "exp": now() + 120, "jti": jti, "sub": "ada",
        "events": {LOGOUT_EVENT: {}},
    });
    altered(&claims, changes)
}

/// The provider's own request: no browser's headers.
async fn told(gateway: &Gateway, body: &str) -> Response {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    gateway.stranger().call(Method::POST, BACKCHANNEL, &form, bytes::Bytes::from(body.to_owned())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_at_the_provider_ends_the_sessions_that_it_means_with_their_sockets_and_no_others() {
    let provider = Provider::start().await;
    let gateway = with(&provider, "backchannel_logout = true").await;
    let session = async |sub: &str, sid: &str| {
        provider.state().claims = json!({"sub": sub, "sid": sid});
        log_in(&gateway.stranger(), &provider, START).await.0
    };
    let (first, second, bob) = (session("ada", "s-1").await, session("ada", "s-2").await, session("bob", "s-3").await);
    let by_key = Browser::of(&gateway, "acme").await;
    let mut socket = browser(&gateway, &first).page().socket(None).await;
    let token = |jti: &str, changes: &Value| {
        let signer = Arc::clone(&provider.state().signer);
        signer.token_with(
            &json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"}),
            &logout_claims(&provider, jti, changes),
        )
    };
    let statuses = async || {
        let mut all = Vec::new();
        for cookie in [&first, &second, &bob] {
            all.push(me(&gateway, cookie).await.status.as_u16());
        }
        all
    };
    let of_first = format!("logout_token={}", token("t-1", &json!({"sid": "s-1"})));
    let answer = told(&gateway, &of_first).await.expect(200);
    assert!(answer.header("cache-control").unwrap().contains("no-store"), "{answer:?}");
    assert_eq!(statuses().await, [401, 200, 200]);
    let line = gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(line["reason"].as_str().unwrap().contains("logout there"), "{line}");
    // Held in silence: what the others do now it does not hear.
    let prompt = browser(&gateway, &second).page().submit(comfygate_tests::workflows::quick("unheard")).await;
    browser(&gateway, &second).page().finished(&prompt).await;
    let heard = socket.heard_so_far().await;
    assert!(heard.iter().all(|event| event.prompt_id().as_ref() != Some(&prompt)), "{heard:?}");
    let again = told(&gateway, &of_first).await.expect(400);
    assert!(again.header("cache-control").unwrap().contains("no-store"), "{again:?}");
    // Of a user that has no session: nothing is left to do.
    told(&gateway, &format!("logout_token={}", token("t-2", &json!({"sub": "eve"})))).await.expect(200);
    assert_eq!(statuses().await, [401, 200, 200]);
    told(&gateway, &format!("logout_token={}", token("t-3", &json!({})))).await.expect(200);
    assert_eq!(statuses().await, [401, 401, 200]);
    told(&gateway, &format!("logout_token={}", token("t-4", &json!({"sub": null, "sid": "s-3"})))).await.expect(200);
    assert_eq!(statuses().await, [401, 401, 401]);
    by_key.page().get("/gate/me").await.expect(200);
}

/// A logout token with these changes, as the provider posts it.
fn logout_form(provider: &Provider, jti: &str, changes: &Value) -> String {
    let signer = Arc::clone(&provider.state().signer);
    format!("logout_token={}", token_of(&signer, "k1", &logout_claims(provider, jti, changes)))
}

/// The sessions that came by a provider are in there as `"oidc"`.
fn sessions(gateway: &Gateway) -> String {
    String::from_utf8(gateway.command(&["session", "list", "--json"]).stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_that_comes_while_a_code_is_answered_ends_that_login_and_none_that_begins_after_it() {
    let provider = Provider::start().await;
    let gateway = with(&provider, "backchannel_logout = true").await;
    // Its keys are known from here on.
    log_in(&gateway.stranger(), &provider, START).await;
    let met = async |jti: &str, changes: Value| {
        let sent = Sent::from(&gateway.stranger(), START).await;
        let (held, asked) = (provider.hold_tokens(), provider.state().asked.len());
        let logout = async {
            eventually("the code is answered", || async { (provider.state().asked.len() > asked).then_some(()) }).await;
            told(&gateway, &logout_form(&provider, jti, &changes)).await.expect(200);
            drop(held);
        };
        let back = sent.back(&provider.code(&sent));
        tokio::join!(sent.get(&back), logout).0
    };
    for (jti, changes) in
        [("t-1", json!({})), ("t-2", json!({"sub": null, "sid": "s-1"})), ("t-3", json!({"sid": "s-1"}))]
    {
        refused(jti, &met(jti, changes).await, 403);
        assert!(!sessions(&gateway).contains("\"oidc\""), "{jti}: {}", sessions(&gateway));
    }
    let why =
        |line: &Value| line["reason"].as_str().is_some_and(|reason| reason.contains("told of a logout there while"));
    gateway.audited("the refusal", |line| line["route"] == "/gate/oidc/callback" && why(line)).await;
    for (jti, changes) in [("t-4", json!({"sub": "eve"})), ("t-5", json!({"sid": "s-2"}))] {
        let answer = met(jti, changes).await.expect(303);
        assert!(answer.header("set-cookie").is_some(), "{jti}: somebody else's, or of another session");
    }
    // By no clock: the provider's may be ahead of ours, and behind.
    for (jti, off) in [("t-6", 30), ("t-7", -30)] {
        let times = json!({"iat": now().saturating_add_signed(off), "exp": now() + 120});
        told(&gateway, &logout_form(&provider, jti, &times)).await.expect(200);
        let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
        me(&gateway, &cookie).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_logged_out_while_it_is_renewed_does_not_come_back() {
    let provider = Provider::start().await;
    (provider.state().renews, provider.state().expires_in) = (true, Some(5));
    let mut gateway = with(&provider, "backchannel_logout = true").await;
    for (jti, renewed_sid, known) in [("t-1", "s-1", true), ("t-2", "s-2", false)] {
        provider.state().claims = json!({"sid": "s-1"});
        let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
        let (held, before) = (provider.hold_tokens(), renewals(&provider));
        provider.state().claims = json!({"sid": renewed_sid});
        eventually("it is renewed", || async {
            me(&gateway, &cookie).await;
            (renewals(&provider) > before).then_some(())
        })
        .await;
        let logout = json!({"sub": null, "sid": renewed_sid});
        told(&gateway, &logout_form(&provider, jti, &logout)).await.expect(200);
        assert_eq!(sessions(&gateway).contains("\"oidc\""), !known, "{jti}");
        drop(held);
        // Waits until the renewal is over.
        assert!(gateway.terminate().await.success());
        gateway.restart().await;
        me(&gateway, &cookie).await.expect(401);
        assert!(!sessions(&gateway).contains("\"oidc\""), "{jti}: {}", sessions(&gateway));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_logout_token_of_this_provider_ends_no_session() {
    let provider = Provider::start().await;
    let gateway = with(&provider, "backchannel_logout = true").await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let signer = Arc::clone(&provider.state().signer);
    let good = |changes: Value| logout_claims(&provider, "t-1", &changes);
    let signed = |changes: Value| token_of(&signer, "k1", &good(changes));
    let headed = |header: Value| signer.token_with(&header, &good(json!({})));
    let typed = |typ: &str| headed(json!({"alg": "ES256", "kid": "k1", "typ": typ}));
    let confused = Signer::Hs256(signer.verifier().into_bytes());
    let unsigned = comfygate_tests::tokens::unsigned(&json!({"alg": "none", "kid": "k1"}), &good(json!({})));
    let id_token = json!({"events": null, "nonce": "n"});
    for (what, token) in [
        ("an ID token", signed(id_token)),
        ("an event beside a nonce", signed(json!({"nonce": "n"}))),
        ("no event", signed(json!({"events": {}}))),
        ("another issuer", signed(json!({"iss": "https://id.example"}))),
        ("another audience", signed(json!({"aud": "other"}))),
        ("no `iat`", signed(json!({"iat": null}))),
        ("of an hour ago", signed(json!({"iat": now() - 3600}))),
        ("no `exp`", signed(json!({"exp": null}))),
        ("expired", signed(json!({"exp": now() - 120}))),
        ("no `jti`", signed(json!({"jti": null}))),
        ("nobody", signed(json!({"sub": null}))),
        ("an access token", typed("at+jwt")),
        ("another type", typed("secevent+jwt")),
        ("an algorithm that is not listed", headed(json!({"alg": "EdDSA", "kid": "k1"}))),
        ("a key of its own", headed(json!({"alg": "ES256", "jwk": {"kty": "EC"}}))),
        ("another key", token_of(&Signer::es256(), "k1", &good(json!({})))),
        ("HS256 with the public key", token_of(&confused, "k1", &good(json!({})))),
        ("no signature", format!("{unsigned}.")),
        ("no token", String::new()),
        ("no JWT", "a.b.c".to_owned()),
    ] {
        let answer = told(&gateway, &format!("logout_token={token}")).await;
        assert!([400, 429].contains(&answer.status.as_u16()), "{what}: {}", answer.text());
        assert!(answer.header("cache-control").unwrap().contains("no-store"), "{what}");
        assert!(!answer.text().contains("nonce") && !answer.text().contains("audience"), "{what}: {}", answer.text());
        me(&gateway, &cookie).await.expect(200);
    }
    // Refused ones are counted at their address; a good one is taken all the same.
    let twice = format!("logout_token={0}&logout_token={0}", signed(json!({})));
    told(&gateway, &twice).await.expect(400);
    assert_ne!(told(&gateway, "").await.status, 200);
    told(&gateway, &format!("logout_token={}", "a".repeat(13 << 10))).await.expect(413);
    // Not its method: as for any path that nobody unknown is shown.
    gateway.stranger().get(BACKCHANNEL).await.expect(401);
    gateway.stranger().post(BACKCHANNEL, &json!({"logout_token": signed(json!({}))})).await.expect(415);
    me(&gateway, &cookie).await.expect(200);
    told(&gateway, &format!("logout_token={}", signed(json!({})))).await.expect(200);
    me(&gateway, &cookie).await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_may_not_tell_of_logouts_is_not_listened_to() {
    let (provider, gateway) = house().await;
    let (cookie, _) = log_in(&gateway.stranger(), &provider, START).await;
    let token = token_of(&provider.state().signer, "k1", &logout_claims(&provider, "t-1", &json!({})));
    told(&gateway, &format!("logout_token={token}")).await.expect(404);
    me(&gateway, &cookie).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_automatic_provider_is_the_login_page_and_leaves_a_way_to_the_form_and_out() {
    let provider = Provider::start().await;
    let gateway = with(&provider, "automatic = true\nmax_age = \"1h\"\nprompt = \"select_account\"").await;
    provider.state().claims = json!({"auth_time": now()});
    let sent = Sent::from(&gateway.stranger(), "/gate/login?next=/queue").await;
    assert_eq!((sent.asked["max_age"].as_str(), sent.asked["prompt"].as_str()), ("3600", "select_account"));
    assert_eq!(sent.get(&sent.back(&provider.code(&sent))).await.expect(303).header("location"), Some("/queue"));
    let form = gateway.stranger().get("/gate/login?form").await.expect(200);
    assert!(form.text().contains("name=\"key\""));
    let out = gateway.stranger().get("/gate/logout").await.expect(200);
    assert!(out.text().contains("You are logged out") && out.text().contains("href=\"/gate/login\""), "{}", out.text());
    provider.state().claims = json!({"auth_time": now() - 4000});
    let late = Sent::from(&gateway.stranger(), "/gate/login").await;
    refused("too long ago", &late.get(&late.back(&provider.code(&late))).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sites_link_begins_no_login_and_ends_no_session() {
    let provider = Provider::start().await;
    let gateway = with(&provider, "automatic = true").await;
    let own = Browser::of(&gateway, "bravo").await;
    for site in ["cross-site", "same-site"] {
        let link = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
        let led = own.sending(&link).get("/gate/oidc/studio?next=/queue").await.expect(303);
        let form = "/gate/login?next=/queue&form";
        assert_eq!((led.header("location"), led.header("set-cookie")), (Some(form), None), "{site}");
        // Whoever is logged in goes on; whoever is not presses our own page's link.
        let on = own.sending(&link).get(form).await.expect(303);
        assert_eq!((on.header("location"), on.header("set-cookie")), (Some("/queue"), None));
        let page = gateway.stranger().and(&link).get(form).await.expect(200);
        assert!(page.text().contains("href=\"/gate/oidc/studio?next=/queue\""), "{}", page.text());
        let bare = gateway.stranger().and(&link).get(START).await.expect(303);
        assert_eq!(bare.header("location"), Some("/gate/login?form"));
    }
    for site in ["same-origin", "none"] {
        let sent = gateway.stranger().and(&[("sec-fetch-site", site)]).get(START).await.expect(303);
        assert!(sent.header("location").unwrap().starts_with(&provider.issuer()), "{site}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_ahead_begins_no_login() {
    let provider = Provider::start().await;
    let gateway = with(&provider, "automatic = true").await;
    for path in [START, "/gate/login"] {
        let stranger = gateway.stranger();
        let looked = stranger.call(Method::HEAD, path, &[], bytes::Bytes::new()).await.expect(303);
        assert_eq!(
            (looked.header("location"), looked.header("set-cookie")),
            (Some("/gate/login?form"), None),
            "{path}"
        );
        Sent::from(&stranger, path).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_begins_at_the_public_address_since_the_provider_leads_back_there() {
    let provider = Provider::start().await;
    let gateway = Gateway::builder()
        .stand_ins(1)
        .top("public_url = \"https://gate.example/comfy\"")
        .file("oidc.secret", SECRET)
        .gateway_toml(&provider.configuration("studio", BY_CLAIM))
        .start()
        .await;
    let moved = gateway.stranger().get("/comfy/gate/oidc/studio?next=/comfy/queue").await.expect(303);
    let there = "https://gate.example/comfy/gate/oidc/studio?next=/comfy/queue&moved=1";
    assert_eq!((moved.header("location"), moved.header("set-cookie")), (Some(there), None));
    let sent = Sent::from(&gateway.stranger(), there.strip_prefix("https://gate.example").unwrap()).await;
    assert_eq!(sent.asked["redirect_uri"], "https://gate.example/comfy/gate/oidc/callback");
    assert!(sent.cookie.starts_with("__Secure-comfygate-login-"), "{}", sent.cookie);
    let answer = sent.get(&sent.back(&provider.code(&sent))).await.expect(303);
    assert_eq!(answer.header("location"), Some("/comfy/queue"));
}
