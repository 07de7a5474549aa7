//! Open sockets end with what they were let in by. That this takes less than five seconds is shown by the unit tests of `authenticate::endings`, under a clock that is turned by hand.

use comfygate_tests::control::control;
use comfygate_tests::jwks::{Answer, KeyServer, published, token_of};
use comfygate_tests::tokens::{Signer, altered, claims, now};
use comfygate_tests::{Browser, Client, Event, Gateway, Socket, eventually, gateway};
use serde_json::json;
use std::time::{Duration, Instant};

/// Open sockets look for themselves every 25 s: what is told, or known in advance, comes well before that.
const LOOK: Duration = Duration::from_secs(20);
const ISSUER: &str = "https://id.example.com/";

pub(crate) async fn opened(client: &Client) -> Socket {
    let mut socket = client.socket(None).await;
    socket.sid().await;
    socket
}

/// Waits for the close itself.
pub(crate) async fn closes_with_4401(mut socket: Socket) {
    let begun = Instant::now();
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert!(begun.elapsed() < LOOK, "it was looked for, and not told");
    assert_eq!(heard.last(), Some(&Event::Closed(Some(4401))), "{heard:?}");
}

/// The same, and sees that who connects again is refused and told to wait.
pub(crate) async fn ends_with_4401(socket: Socket, client: &Client) {
    closes_with_4401(socket).await;
    let again = client.get("/ws").await.expect(401);
    assert_eq!(again.header("retry-after"), Some("30"));
}

fn id_of(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_revoked_key_is_closed_and_others_stay() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let (client, other) = (gateway.stranger().bearer(&key), gateway.client("acme"));
    let (socket, mut stays) = (opened(&client).await, opened(&other).await);
    assert!(gateway.command(&["key", "revoke", id_of(&key)]).status.success());
    ends_with_4401(socket, &client).await;
    stays.heard_so_far().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_key_that_expires_is_closed() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let client = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--expires", "8s"]));
    ends_with_4401(opened(&client).await, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_rotated_key_is_closed_when_its_overlap_is_over() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let client = gateway.stranger().bearer(&key);
    let socket = opened(&client).await;
    let rotated = gateway.command(&["key", "rotate", id_of(&key), "--overlap", "6s"]);
    assert!(rotated.status.success(), "{}", gateway::said(&rotated));
    client.get("/queue").await.expect(200);
    let successor = String::from_utf8(rotated.stdout).unwrap().trim().to_owned();
    ends_with_4401(socket, &client).await;
    gateway.stranger().bearer(&successor).get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_token_that_runs_out_is_closed() {
    let signer = Signer::hs256();
    let configuration = format!("{}leeway = \"0s\"\n", signer.configuration(ISSUER, "issuer.key"));
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("issuer.key", &signer.verifier())
        .gateway_toml(&configuration)
        .start()
        .await;
    let token = signer.token(&altered(&claims(ISSUER, "acme"), &json!({"exp": now() + 8})));
    let client = gateway.stranger().bearer(&token);
    ends_with_4401(opened(&client).await, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_sessions_ticket_is_closed_when_the_session_ends() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let browser = Browser::of(&gateway, "acme").await;
    let ticket = browser.page().post("/gate/ticket", &json!({})).await.expect(200).json();
    let path = format!("/ws?token={}", ticket["ticket"].as_str().unwrap());
    let stranger = gateway.stranger();
    let mut socket = stranger.try_socket(&path, None, &[]).await.unwrap();
    socket.sid().await;
    browser.log_out().await;
    ends_with_4401(socket, &stranger.bearer("cgt_used")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_tenant_that_a_reload_takes_out_is_closed() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let (socket, mut stays) = (opened(&acme).await, opened(&bravo).await);
    gateway.edit("tenants.toml", |text| text.replace("[[tenant]]\nid = \"acme\"\nplan = \"usual\"\n", ""));
    assert!(gateway.command(&["reload"]).status.success());
    ends_with_4401(socket, &acme).await;
    stays.heard_so_far().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_disabled_tenant_is_closed() {
    let signer = Signer::hs256();
    let made = "unknown_tenant = \"create\"\ncreate_plan = \"usual\"\n";
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("issuer.key", &signer.verifier())
        .gateway_toml(&format!("{}{made}", signer.configuration(ISSUER, "issuer.key")))
        .start()
        .await;
    let client = gateway.stranger().bearer(&signer.token(&claims(ISSUER, "a-new-customer")));
    let tenant = client.get("/gate/me").await.expect(200).json()["tenant"].as_str().unwrap().to_owned();
    let socket = opened(&client).await;
    let disabled = control(&gateway, "POST", &format!("/v1/tenants/{tenant}/disable"), &[], None).await;
    assert_eq!(disabled.status, 200, "{}", disabled.text());
    ends_with_4401(socket, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_counted_by_what_they_stand_on_and_while_that_cant_be_checked() {
    let signer = Signer::es256();
    let keys = [published(&signer, "k")];
    let (server, silent) = (KeyServer::start(&keys).await, KeyServer::start(&keys).await);
    silent.answer(Answer::Close);
    let configuration = server.configuration(ISSUER, &["ES256"]);
    let gateway = Gateway::builder().stand_ins(1).gateway_toml(&configuration).start().await;
    let client = gateway.stranger().bearer(&token_of(&signer, "k", &claims(ISSUER, "acme")));
    // Of sockets by token and by key: those that are open, and those that can't be checked.
    let counts = async |wanted: [f64; 4]| {
        let count = async |name: &str, kind: &str| {
            gateway.metric(&format!("comfygate_websockets_{name}{{credential=\"{kind}\"}}")).await
        };
        eventually(&format!("{wanted:?}"), || async {
            let open = [count("by_credential", "jwt").await, count("by_credential", "api_key").await];
            let unchecked = [count("unchecked", "jwt").await, count("unchecked", "api_key").await];
            ([open, unchecked].concat() == wanted).then_some(())
        })
        .await;
    };
    let (mut by_token, by_key) = (opened(&client).await, opened(&gateway.client("bravo")).await);
    counts([1.0, 1.0, 0.0, 0.0]).await;
    // A reload has all sockets looked at; whose keys can't be had is neither let in nor refused.
    let moved = |from: &KeyServer, to: &KeyServer| {
        gateway.edit("gateway.toml", |text| text.replace(&from.url(), &to.url()));
        assert!(gateway.command(&["reload"]).status.success());
    };
    moved(&server, &silent);
    counts([1.0, 1.0, 1.0, 0.0]).await;
    moved(&silent, &server);
    counts([1.0, 1.0, 0.0, 0.0]).await;
    by_token.heard_so_far().await;
    drop(by_key);
    counts([1.0, 0.0, 0.0, 0.0]).await;
    drop(by_token);
    counts([0.0; 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_an_act_as_key_ends_with_the_key_and_with_either_tenant() {
    let gateway =
        Gateway::builder().stand_ins(1).tenants_toml("[[tenant]]\nid = \"agency\"\nplan = \"usual\"\n").start().await;
    let agent = || {
        let key = gateway.new_key(&["--tenant", "agency", "--scope", "read", "--scope", "act-as"]);
        (gateway.stranger().bearer(&key).and(&[("comfygate-tenant", "acme")]), key)
    };
    let (client, key) = agent();
    let socket = opened(&client).await;
    assert!(gateway.command(&["key", "revoke", id_of(&key)]).status.success());
    ends_with_4401(socket, &client).await;
    let (client, _) = agent();
    let socket = opened(&client).await;
    gateway.edit("tenants.toml", |text| text.replace("id = \"agency\"\n", "id = \"agency\"\ndisabled = true\n"));
    assert!(gateway.command(&["reload"]).status.success());
    ends_with_4401(socket, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refused_upgrade_says_when_to_try_again_and_other_routes_do_not() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme", "--expires", "1s"]);
    let expired = gateway.stranger().from_address([127, 3, 0, 1]).bearer(&key);
    eventually("the key expires", || async { (expired.get("/queue").await.status == 401).then_some(()) }).await;
    for client in [expired, gateway.stranger(), gateway.stranger().from_address([127, 3, 0, 2]).bearer("wrong")] {
        assert_eq!(client.get("/ws").await.expect(401).header("retry-after"), Some("30"));
        assert_eq!(client.get("/queue").await.expect(401).header("retry-after"), None);
    }
}
