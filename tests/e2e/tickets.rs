//! `/ws?token=`: one-use tickets, and API keys that were made for it.

use comfygate_tests::control::control;
use comfygate_tests::gateway::said;
use comfygate_tests::{Browser, Client, Gateway, Socket};
use http::Method;
use serde_json::json;

async fn ticket(client: &Client) -> String {
    let made = client.post("/gate/ticket", &json!({})).await.expect(200);
    assert_eq!(made.json()["expires_in"], 60);
    made.json()["ticket"].as_str().unwrap().to_owned()
}

async fn with_token(client: &Client, token: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
    client.try_socket(&format!("/ws?token={token}"), None, headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_opens_one_socket_as_whoever_asked_for_it() {
    let gateway = Gateway::builder().start().await;
    let (acme, stranger) = (gateway.client("acme"), gateway.stranger());
    let ticket = ticket(&acme).await;
    assert!(ticket.starts_with("cgt_") && ticket.len() == 68, "{ticket}");
    let mut socket = with_token(&stranger, &ticket, &[]).await.unwrap();
    socket.sid().await;
    let prompt = acme.submit(comfygate_tests::workflows::quick("by-ticket")).await;
    socket.until_end_of(&prompt).await;
    assert_eq!(with_token(&stranger, &ticket, &[]).await.unwrap_err(), 401, "a second time");
    assert!(!gateway.log_text().contains(&ticket[4..]), "a ticket in the log");
    assert!(gateway.audit().iter().all(|line| !line.to_string().contains(&ticket[4..])), "a ticket in the audit log");
    assert!(gateway.stand_ins().iter().all(|stand_in| !format!("{:?}", stand_in.submissions()).contains(&ticket[4..])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_use_a_ticket_at_once_one_is_let_in() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, stranger) = (gateway.client("acme"), gateway.stranger());
    for _ in 0..5 {
        let ticket = ticket(&acme).await;
        let both = tokio::join!(with_token(&stranger, &ticket, &[]), with_token(&stranger, &ticket, &[]));
        assert_eq!(u8::from(both.0.is_ok()) + u8::from(both.1.is_ok()), 1, "{both:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_nothing_anywhere_else() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, stranger) = (gateway.client("acme"), gateway.stranger());
    let ticket = ticket(&acme).await;
    stranger.get(&format!("/queue?token={ticket}")).await.expect(401);
    stranger.get(&format!("/view?filename=x.png&token={ticket}")).await.expect(401);
    stranger.bearer(&ticket).get("/queue").await.expect(401);
    stranger.with_headers(&[("x-api-key", &ticket)]).get("/queue").await.expect(401);
    stranger.from_address([127, 4, 0, 1]).bearer(&ticket).get("/ws").await.expect(401);
    // None of it has used it up.
    with_token(&stranger, &ticket, &[]).await.unwrap().sid().await;
    stranger.post("/gate/ticket", &json!({})).await.expect(401);
    assert_eq!(with_token(&stranger, "cgt_", &[]).await.unwrap_err(), 401);
    let made = ticket_text();
    assert_eq!(with_token(&stranger, &made, &[]).await.unwrap_err(), 401, "of the form, and never made");
}

fn ticket_text() -> String {
    format!("cgt_{}", "0123456789abcdef".repeat(4))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_ends_with_what_made_it() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let ticket = ticket(&gateway.stranger().bearer(&key)).await;
    assert!(gateway.command(&["key", "revoke", key.split('_').nth(1).unwrap()]).status.success());
    assert_eq!(with_token(&gateway.stranger(), &ticket, &[]).await.unwrap_err(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_ends_with_the_tenant_that_it_works_for_though_another_one_has_its_id() {
    const AGENCY: &str = "[[tenant]]\nid = \"agency\"\nplan = \"usual\"\n";
    let gateway = Gateway::builder().stand_ins(1).tenants_toml(AGENCY).start().await;
    let key = gateway.new_key(&["--tenant", "agency", "--scope", "read", "--scope", "act-as"]);
    let put = async |path: &str| control(&gateway, "PUT", path, &[], Some(&json!({"plan": "usual"}))).await.status;
    for name in ["zebra", "yak"] {
        assert_eq!(put(&format!("/v1/tenants/{name}")).await, 201);
    }
    let works_for = |name| gateway.stranger().bearer(&key).and(&[("comfygate-tenant", name)]);
    let (former, others) = (ticket(&works_for("zebra")).await, ticket(&works_for("yak")).await);
    assert_eq!(control(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", &[], None).await.status, 200);
    assert_eq!(put("/v1/tenants/zebra?reuse=true").await, 201);
    assert_eq!(with_token(&gateway.stranger(), &former, &[]).await.unwrap_err(), 401);
    with_token(&gateway.stranger(), &others, &[]).await.expect("another tenant's").sid().await;
    with_token(&gateway.stranger(), &ticket(&works_for("zebra")).await, &[]).await.expect("the next one's").sid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_another_credential_a_ticket_counts_only_if_both_are_one_callers() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let own = ticket(&acme).await;
    with_token(&acme, &own, &[]).await.unwrap().sid().await;
    let foreign = ticket(&acme).await;
    assert_eq!(with_token(&bravo, &foreign, &[]).await.unwrap_err(), 401);
    assert_eq!(with_token(&gateway.stranger(), &foreign, &[]).await.unwrap_err(), 401, "shown once, it is used up");
    // A browser adds its cookie by itself, whoever it is logged in as.
    let browser = Browser::of(&gateway, "bravo").await;
    let beside_a_cookie = ticket(&acme).await;
    with_token(&gateway.stranger(), &beside_a_cookie, &[("cookie", browser.cookie())]).await.unwrap().sid().await;
    // A header that says whom it is for is never ignored.
    let named = ticket(&acme).await;
    assert_eq!(with_token(&gateway.stranger(), &named, &[("comfygate-tenant", "bravo")]).await.unwrap_err(), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_needs_the_scope_read_and_by_cookie_our_own_page() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let writer = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--scope", "submit"]));
    writer.post("/gate/ticket", &json!({})).await.expect(403);
    let browser = Browser::of(&gateway, "acme").await;
    ticket(&browser.page()).await;
    let nobodys = browser.sending(&[]).call(Method::POST, "/gate/ticket", &[], bytes::Bytes::new()).await;
    assert_eq!(nobodys.status, 403, "{}", nobodys.text());
    let foreign = browser.sending(&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]);
    foreign.call(Method::POST, "/gate/ticket", &[], bytes::Bytes::new()).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_owner_has_32_tickets_that_wait_and_another_has_its_own() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = ticket(&acme).await;
    for _ in 1..32 {
        ticket(&acme).await;
    }
    let refused = acme.post("/gate/ticket", &json!({})).await.expect(429);
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("too_many_tickets", Some("60")));
    ticket(&bravo).await;
    with_token(&gateway.stranger(), &first, &[]).await.unwrap().sid().await;
    ticket(&acme).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_a_socket_by_the_query_only_if_it_was_made_for_that_and_nothing_else() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (plain, made_for_it) = (gateway.key("acme"), gateway.new_key(&["--tenant", "acme", "--allow-query"]));
    let stranger = gateway.stranger();
    assert_eq!(with_token(&stranger, &plain, &[]).await.unwrap_err(), 401);
    let mut socket = with_token(&stranger, &made_for_it, &[]).await.unwrap();
    socket.sid().await;
    for path in ["/queue", "/gate/me", "/view"] {
        stranger.get(&format!("{path}?token={made_for_it}")).await.expect(401);
    }
    let same = stranger.bearer(&made_for_it);
    with_token(&same, &made_for_it, &[]).await.unwrap().sid().await;
    assert_eq!(with_token(&stranger.bearer(&plain), &made_for_it, &[]).await.unwrap_err(), 401, "two that differ");
    let shown = gateway.command(&["key", "show", made_for_it.split('_').nth(1).unwrap()]);
    assert!(said(&shown).contains("may stand in /ws?token="), "{}", said(&shown));
    let revoked = gateway.command(&["key", "revoke", made_for_it.split('_').nth(1).unwrap()]);
    assert!(revoked.status.success());
    socket.until("the close", |event| event.kind() == "closed").await;
    assert!(!gateway.log_text().contains(&made_for_it[16..]), "a key in the log");
}
