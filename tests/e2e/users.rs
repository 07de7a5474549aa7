//! Local users: login by password and every way it ends, one-time links, and where somebody is logged in.

use comfygate_tests::browser::{post_fields, post_login};
use comfygate_tests::gateway::said;
use comfygate_tests::{Browser, Client, Event, Gateway, Response, Socket, eventually};
use http::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "correct staple of horses";
const OTHER: &str = "another staple of horses";

async fn gateway() -> Gateway {
    Gateway::builder().stand_ins(1).start().await
}

async fn with_ann() -> Gateway {
    let gateway = gateway().await;
    gateway.new_user("Ann", "acme", PASSWORD);
    gateway
}

async fn login(client: &Client, user: &str, password: &str) -> Response {
    post_fields(client, "/gate/login", &[("user", user), ("password", password)]).await
}

fn is_done(output: &std::process::Output) {
    assert!(output.status.success(), "{}", said(output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_asks_for_a_password_while_there_is_a_user_and_lets_one_in_by_it() {
    let gateway = gateway().await;
    let fields = async || gateway.stranger().get("/gate/login").await.expect(200).text();
    assert!(!fields().await.contains("name=\"password\""), "nobody has one");
    gateway.new_user("Ann", "acme", PASSWORD);
    let page = fields().await;
    assert!(page.contains("name=\"user\"") && page.contains("name=\"key\""), "{page}");
    let browser = Browser::with_password(&gateway.stranger(), "ANN", PASSWORD).await;
    let me = browser.page().get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"], &me["credential"]), (&json!("acme"), &json!("Ann"), &json!("session")));
    let line = gateway.audited("the login", |line| line["event"] == "logged_in").await;
    assert_eq!((&line["by"], &line["owner"]["user"]), (&json!("password"), &json!("Ann")), "{line}");
    // Both ways in one form are neither.
    let both = [("user", "Ann"), ("password", PASSWORD), ("key", "cg_x")];
    post_fields(&gateway.stranger(), "/gate/login", &both).await.expect(401);
    is_done(&gateway.command(&["user", "remove", "ann"]));
    assert!(!fields().await.contains("name=\"password\""));
    let everything = format!("{}{:?}", gateway.log_text(), gateway.audit());
    assert!(!everything.contains(PASSWORD) && !everything.contains("argon2"), "{everything}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_an_unknown_user_and_a_disabled_one_get_the_same_answer() {
    let gateway = with_ann().await;
    gateway.new_user("bob", "acme", PASSWORD);
    is_done(&gateway.command(&["user", "disable", "bob"]));
    let mut told = Vec::new();
    for (user, password) in [("Ann", OTHER), ("nobody", PASSWORD), ("bob", PASSWORD), ("no name at all", PASSWORD)] {
        let client = gateway.stranger().from_address([127, 3, 2, u8::try_from(told.len()).unwrap() + 1]);
        let answer = login(&client, user, password).await.expect(401);
        assert!(!answer.headers.contains_key("set-cookie"));
        told.push(answer.without_request_id());
    }
    // And as a bad key does.
    told.push(post_login(&gateway.stranger(), "/gate/login", "cg_hunter2").await.expect(401).without_request_id());
    told.dedup();
    assert_eq!(told.len(), 1, "the page tells what was wrong: {told:?}");
    assert!(told[0].2.contains("aria-describedby=\"notice\""), "{told:?}");
    is_done(&gateway.command(&["user", "enable", "bob"]));
    login(&gateway.stranger(), "bob", PASSWORD).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_by_password_ends_with_the_user_the_password_and_by_an_operators_word() {
    let gateway = with_ann().await;
    let enter = async |password: &'static str| {
        let browser = Browser::with_password(&gateway.stranger(), "ann", password).await;
        browser.page().get("/queue").await.expect(200);
        browser
    };
    let by_key = Browser::with_key(&gateway.stranger(), &gateway.new_key(&["--tenant", "acme", "--user", "Ann"])).await;

    let browser = enter(PASSWORD).await;
    let mut socket = browser.page().socket(None).await;
    socket.sid().await;
    is_done(&gateway.command(&["user", "disable", "ann"]));
    browser.page().get("/queue").await.expect(401);
    eventually("the session's socket leaves the hub", || async {
        (gateway.metric("comfygate_websockets").await == 0.0).then_some(())
    })
    .await;
    is_done(&gateway.command(&["user", "enable", "ann"]));
    browser.page().get("/queue").await.expect(401);

    let browser = enter(PASSWORD).await;
    is_done(&gateway.command_reading(&["user", "passwd", "ann", "--password-stdin"], &format!("{OTHER}\n")));
    browser.page().get("/queue").await.expect(401);
    login(&gateway.stranger(), "ann", PASSWORD).await.expect(401);

    let browser = enter(OTHER).await;
    let listed = gateway.command(&["session", "list", "--user", "Ann", "--json"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let own = listed.iter().find(|session| session["by"] == "password").unwrap()["id"].as_str().unwrap().to_owned();
    is_done(&gateway.command(&["session", "revoke", &own]));
    browser.page().get("/queue").await.expect(401);
    let again = gateway.command(&["session", "revoke", &own]);
    assert!(again.status.code() == Some(1) && said(&again).contains("has ended"), "{}", said(&again));

    let browser = enter(OTHER).await;
    browser.log_out().await;
    browser.page().get("/queue").await.expect(401);

    by_key.page().get("/queue").await.expect(200);
    let browser = enter(OTHER).await;
    is_done(&gateway.command(&["user", "remove", "ANN"]));
    browser.page().get("/queue").await.expect(401);
    // A user of that name who comes later is another.
    gateway.new_user("Ann", "acme", OTHER);
    browser.page().get("/queue").await.expect(401);

    // The key's session was about none of this, until the user was removed and the key revoked.
    by_key.page().get("/queue").await.expect(401);
    let by_key = Browser::with_key(&gateway.stranger(), &gateway.new_key(&["--tenant", "acme", "--user", "Ann"])).await;
    let browser = enter(OTHER).await;
    is_done(&gateway.command(&["session", "revoke", "--tenant", "acme"]));
    for ended in [browser, by_key] {
        ended.page().get("/queue").await.expect(401);
    }
    assert!(!gateway.command(&["session", "revoke"]).status.success(), "everybody's sessions are not ended by a slip");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_by_password_ends_with_its_tenant_and_has_the_users_scopes_of_now() {
    let mut gateway =
        Gateway::builder().stand_ins(1).tenants_toml("[[tenant]]\nid = \"closing\"\nplan = \"usual\"").start().await;
    gateway.new_user("ann", "closing", PASSWORD);
    let browser = Browser::with_password(&gateway.stranger(), "ann", PASSWORD).await;
    browser.page().get("/queue").await.expect(200);
    let body = json!({"tenant": "closing", "scopes": ["submit"]}).to_string();
    assert_eq!(gateway.control("PUT", "/v1/users/ann", &body).await.0, 200);
    browser.page().get("/queue").await.expect(403);
    let body = json!({"tenant": "closing"}).to_string();
    assert_eq!(gateway.control("PUT", "/v1/users/ann", &body).await.0, 200);
    browser.page().get("/queue").await.expect(200);
    gateway.edit("tenants.toml", |text| text.replace("id = \"closing\"", "id = \"closing\"\ndisabled = true"));
    gateway.restart().await;
    browser.page().get("/queue").await.expect(401);
    login(&gateway.stranger(), "ann", PASSWORD).await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_put_and_removed_as_often_as_one_likes_and_a_name_is_one_users() {
    let gateway = gateway().await;
    let body = json!({"tenant": "acme", "label": "Ann", "password": PASSWORD}).to_string();
    let (status, first) = gateway.control("PUT", "/v1/users/Ann", &body).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(gateway.control("PUT", "/v1/users/Ann", &body).await, (200, first.clone()));
    assert_eq!(gateway.control("GET", "/v1/users/ANN", "").await, (200, first.clone()));
    assert_eq!(gateway.control("GET", "/v1/users?tenant=acme", "").await, (200, format!("[{first}]")));
    assert_eq!(gateway.control("GET", "/v1/users?tenant=bravo", "").await, (200, "[]".into()));
    assert!(!first.contains("argon2") && !first.contains(PASSWORD), "{first}");
    let elsewhere = json!({"tenant": "bravo", "password": PASSWORD}).to_string();
    let (status, text) = gateway.control("PUT", "/v1/users/aNN", &elsewhere).await;
    assert!(status == 409 && text.contains("unique"), "{status} {text}");
    for (body, wanted) in [
        (json!({"tenant": "acme", "password": "short"}), 422),
        (json!({"tenant": "acme"}), 422),
        (json!({"tenant": "nowhere", "password": PASSWORD}), 422),
        (json!({"tenant": "acme", "pasword": PASSWORD}), 422),
    ] {
        assert_eq!(gateway.control("PUT", "/v1/users/new", &body.to_string()).await.0, wanted, "{body}");
    }
    assert_eq!(gateway.control("GET", "/v1/users/new", "").await.0, 404);
    assert_eq!(gateway.control("GET", "/v1/users?tennant=acme", "").await.0, 400);
    for _ in 0..2 {
        assert_eq!(gateway.control("DELETE", "/v1/users/ann", "").await.0, 204);
    }
    assert_eq!(gateway.control("DELETE", "/v1/sessions", "").await.0, 400);
    let none = "/v1/sessions/00000000-0000-4000-8000-000000000000";
    assert_eq!(gateway.control("DELETE", none, "").await, (200, r#"{"ended":0}"#.into()));
    let done: Vec<Value> = gateway.audit().iter().map(|line| line["event"].clone()).collect();
    assert_eq!(done.iter().filter(|event| event.as_str().is_some_and(|name| name.starts_with("user_"))).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_keeps_users_with_and_without_a_running_gateway() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    gateway.new_user("ann", "acme", PASSWORD);
    let again = ["user", "add", "ANN", "--tenant", "acme", "--password-stdin"];
    let said_no = gateway.command_reading(&again, OTHER);
    assert!(said_no.status.code() == Some(1) && said(&said_no).contains("already"), "{}", said(&said_no));
    let bad = gateway.command_reading(&["user", "add", "x", "--tenant", "acme", "--password-stdin"], "short\n");
    assert!(bad.status.code() == Some(2) && said(&bad).contains("too short"), "{}", said(&bad));
    let nowhere = gateway.command_reading(&["user", "add", "x", "--tenant", "nowhere", "--password-stdin"], PASSWORD);
    assert!(said(&nowhere).contains("no tenant `nowhere`"), "{}", said(&nowhere));
    let no_link = gateway.command(&["user", "link", "ann", "--tenant", "acme"]);
    assert_eq!(no_link.status.code(), Some(2), "{}", said(&no_link));
    let listed = gateway.command(&["user", "list", "--json"]);
    gateway.start().await;
    assert_eq!(gateway.command(&["user", "list", "--json"]).stdout, listed.stdout);
    login(&gateway.stranger(), "ann", PASSWORD).await.expect(303);
    gateway.terminate().await;
    let removed = gateway.command(&["user", "remove", "ann", "--json"]);
    let removed: Value = serde_json::from_slice(&removed.stdout).unwrap_or_else(|_| panic!("{}", said(&removed)));
    assert_eq!(removed, json!({"removed": "user", "name": "ann"}));
    assert_eq!(gateway.command(&["user", "remove", "ann"]).status.code(), Some(1));
    assert!(gateway.command(&["session", "list"]).stdout.is_empty(), "they went with their user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_sees_and_ends_their_own_sessions_and_no_one_elses() {
    let gateway = with_ann().await;
    gateway.new_user("bob", "acme", PASSWORD);
    let desk = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    let enter = async |user: &'static str| {
        let stranger = gateway.stranger().with_headers(&[("user-agent", desk)]);
        Browser::with_password(&stranger, user, PASSWORD).await
    };
    let (ann, second, third, bob) = (enter("Ann").await, enter("Ann").await, enter("Ann").await, enter("bob").await);
    let ids = |page: &str| -> Vec<String> {
        page.split("name=\"end\" value=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let page = ann.sending(&[]).get("/gate/sessions").await.expect(200).text();
    assert_eq!((ids(&page).len(), page.matches("Firefox on Linux (this one)").count()), (3, 1), "{page}");
    assert!(!page.contains("X11"), "{page}");
    let bobs = ids(&bob.sending(&[]).get("/gate/sessions").await.expect(200).text());
    assert_eq!(bobs.len(), 1);
    // Another's is not there; the answer is the one for nothing.
    for other in [&bobs[0], "00000000-0000-4000-8000-000000000000"] {
        ann.press("/gate/sessions", &[("end", other)]).await.expect(303);
    }
    bob.page().get("/queue").await.expect(200);
    let of_second = ids(&page)[1].clone();
    let led = ann.press("/gate/sessions", &[("end", &of_second)]).await.expect(303);
    assert_eq!(led.header("location"), Some("/gate/sessions"));
    second.page().get("/queue").await.expect(401);
    third.page().get("/queue").await.expect(200);
    ann.press("/gate/sessions", &[("others", "1")]).await.expect(303);
    third.page().get("/queue").await.expect(401);
    ann.page().get("/queue").await.expect(200);
    for no_form in [&[][..], &[("end", "x")], &[("others", "2")], &[("end", &of_second), ("others", "1")]] {
        ann.press("/gate/sessions", no_form).await.expect(400);
    }
    let own = ann.press("/gate/sessions", &[("end", &ids(&page)[0])]).await.expect(303);
    assert_eq!(own.header("location"), Some("/gate/login"));
    assert!(own.header("set-cookie").unwrap().contains("Max-Age=0"));
    ann.page().get("/queue").await.expect(401);
    let led = ann.sending(&[]).get("/gate/sessions").await.expect(303);
    assert_eq!(led.header("location"), Some("/gate/login?next=/gate/sessions"));
    bob.page().get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_stay_a_persons_own_where_a_tenant_shares_its_jobs() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .tenants_toml("[[tenant]]\nid = \"team\"\nplan = \"usual\"\nusers = \"shared\"\n")
        .start()
        .await;
    gateway.new_user("ann", "team", PASSWORD);
    let of_service = Browser::with_key(&gateway.stranger(), &gateway.new_key(&["--tenant", "team"])).await;
    let of_key = gateway.new_key(&["--tenant", "team", "--user", "ann"]);
    let enter = async || Browser::with_password(&gateway.stranger(), "ann", PASSWORD).await;
    let (ann, second, by_key) = (enter().await, enter().await, Browser::with_key(&gateway.stranger(), &of_key).await);
    let page = ann.sending(&[]).get("/gate/sessions").await.expect(200).text();
    assert_eq!(page.matches("name=\"end\"").count(), 3, "{page}");
    assert!(page.contains("autocomplete=\"new-password\""), "{page}");
    ann.press("/gate/sessions", &[("others", "1")]).await.expect(303);
    for ended in [&second, &by_key] {
        ended.page().get("/queue").await.expect(401);
    }
    for stays in [&ann, &of_service] {
        stays.page().get("/queue").await.expect(200);
    }
    let again = Browser::with_key(&gateway.stranger(), &of_key).await;
    is_done(&gateway.command(&["session", "revoke", "--tenant", "team", "--user", "ann"]));
    for ended in [&ann, &again] {
        ended.page().get("/queue").await.expect(401);
    }
    of_service.page().get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_knows_the_password_gets_another_and_all_other_sessions_end() {
    let gateway = with_ann().await;
    let enter = async || Browser::with_password(&gateway.stranger(), "Ann", PASSWORD).await;
    let (ann, other) = (enter().await, enter().await);
    let change = async |old: &str, new: &str, again: &str| {
        ann.press("/gate/password", &[("old", old), ("password", new), ("again", again)]).await
    };
    let page = ann.sending(&[]).get("/gate/sessions").await.expect(200).text();
    assert!(page.contains("autocomplete=\"new-password\""), "{page}");
    for (old, new, again, told) in [
        (OTHER, OTHER, OTHER, "present password is wrong"),
        (PASSWORD, OTHER, PASSWORD, "differ"),
        (PASSWORD, "short", "short", "too short"),
    ] {
        let answer = change(old, new, again).await.expect(422);
        assert!(answer.text().contains(told) && answer.text().contains("role=\"alert\""), "{}", answer.text());
    }
    other.page().get("/queue").await.expect(200);
    let renewed = change(PASSWORD, OTHER, OTHER).await.expect(303);
    let renewed = Browser::after(&gateway.stranger(), &renewed);
    for ended in [&ann, &other] {
        ended.page().get("/queue").await.expect(401);
    }
    renewed.page().get("/queue").await.expect(200);
    login(&gateway.stranger(), "ann", PASSWORD).await.expect(401);
    login(&gateway.stranger(), "ann", OTHER).await.expect(303);
    let line = gateway.audited("the change", |line| line["event"] == "password_chosen").await;
    assert_eq!(line["by"], "password", "{line}");
    // A session by key has no password to change.
    let by_key = Browser::of(&gateway, "acme").await;
    by_key.press("/gate/password", &[("old", OTHER), ("password", PASSWORD), ("again", PASSWORD)]).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_passwords_in_any_letters_fit_into_the_forms() {
    let (old, new) = ("🦀🐙".repeat(64), "🐙🦀".repeat(64));
    let gateway = Gateway::builder().stand_ins(1).start().await;
    gateway.new_user("Ann", "acme", &old);
    let ann = Browser::with_password(&gateway.stranger(), "Ann", &old).await;
    ann.press("/gate/password", &[("old", &old), ("password", &new), ("again", &new)]).await.expect(303);
    Browser::with_password(&gateway.stranger(), "Ann", &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_is_taken_from_our_own_page_only_and_with_each_field_once() {
    let gateway = with_ann().await;
    let ann = Browser::with_password(&gateway.stranger(), "Ann", PASSWORD).await;
    let link = link_of(&gateway.command(&["user", "link", "bob", "--tenant", "acme"]));
    let forms = [
        ("/gate/login", format!("user=Ann&password={}", PASSWORD.replace(' ', "+"))),
        ("/gate/sessions", "others=1".to_owned()),
        ("/gate/password", format!("old={0}&password={0}&again={0}", PASSWORD.replace(' ', "+"))),
        ("/gate/first", format!("token={}&password={1}&again={1}", token(&link), PASSWORD.replace(' ', "+"))),
    ];
    for (path, body) in &forms {
        for foreign in [
            &[][..],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
            &[("origin", "null"), ("sec-fetch-site", "same-origin")],
        ] {
            let kind = [("content-type", "application/x-www-form-urlencoded")];
            let headers: Vec<_> = kind.iter().chain(foreign).copied().collect();
            let sending = ann.sending(&[]);
            let answer = sending.call(Method::POST, path, &headers, body.clone().into()).await;
            assert_eq!(answer.status, 403, "{path} {foreign:?}");
            assert!(!answer.headers.contains_key("set-cookie"), "{path} {foreign:?}");
        }
    }
    ann.page().get("/queue").await.expect(200);
    let own = gateway.url();
    for (path, body) in forms {
        // One of its own each: most of them end the session that sends them.
        let browser = Browser::with_password(&gateway.stranger(), "Ann", PASSWORD).await;
        let sending = browser.sending(&[("origin", &own)]);
        let last = body.rsplit('&').next().unwrap();
        let twice = format!("{body}&{last}");
        let answer = sending.post_bytes(path, "application/x-www-form-urlencoded", twice).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(!answer.headers.contains_key("set-cookie"), "{path}");
        let answer = sending.post_bytes(path, "application/x-www-form-urlencoded", body).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.text());
    }
}

fn link_of(output: &std::process::Output) -> String {
    is_done(output);
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

fn token(link: &str) -> &str {
    link.split_once("/gate/first?token=").unwrap().1
}

/// Presses the button behind a link.
async fn choose(gateway: &Gateway, link: &str, user: &str, password: &str) -> Response {
    let fields = [("token", token(link)), ("user", user), ("password", password), ("again", password)];
    post_fields(&gateway.stranger(), "/gate/first", &fields).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_of_an_operator_makes_a_user_or_gives_another_password_once() {
    let gateway = with_ann().await;
    let ann = Browser::with_password(&gateway.stranger(), "Ann", PASSWORD).await;
    let link = link_of(&gateway.command(&["user", "link", "ANN", "--tenant", "acme"]));
    assert!(link.starts_with(&format!("{}/gate/first?token=", gateway.url())), "{link}");
    let path = link.strip_prefix(&gateway.url()).unwrap();
    for _ in 0..2 {
        let page = gateway.stranger().get(path).await.expect(200);
        assert_eq!(page.header("referrer-policy"), Some("strict-origin"));
        assert!(page.header("cache-control").unwrap().contains("no-store"));
        assert!(page.text().contains("value=\"Ann\"") && page.text().contains("readonly"), "{}", page.text());
    }
    let short = choose(&gateway, &link, "", "short").await.expect(422);
    assert!(short.text().contains("too short") && short.text().contains(token(&link)), "{}", short.text());
    // The name is the link's, whatever the form says.
    let done = choose(&gateway, &link, "bob", OTHER).await.expect(303);
    let renewed = Browser::after(&gateway.stranger(), &done);
    assert_eq!(renewed.page().get("/gate/me").await.expect(200).json()["user"], "Ann");
    ann.page().get("/queue").await.expect(401);
    choose(&gateway, &link, "", PASSWORD).await.expect(403);
    gateway.stranger().get(path).await.expect(403);

    let link = link_of(&gateway.command(&["user", "link", "bob", "--tenant", "bravo", "--scope", "read"]));
    let bob = Browser::after(&gateway.stranger(), &choose(&gateway, &link, "", PASSWORD).await.expect(303));
    let me = bob.page().get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("bravo"), &json!("bob")), "{me}");
    bob.page().post("/prompt", &json!({})).await.expect(403);
    let elsewhere = gateway.command(&["user", "link", "bob", "--tenant", "acme"]);
    assert!(said(&elsewhere).contains("unique"), "{}", said(&elsewhere));

    let link = link_of(&gateway.command(&["user", "link", "bob", "--tenant", "bravo"]));
    is_done(&gateway.command(&["user", "remove", "bob"]));
    choose(&gateway, &link, "", PASSWORD).await.expect(403);
    let everything = format!("{}{:?}", gateway.log_text(), gateway.audit());
    assert!(!everything.contains(token(&link)), "{everything}");
    // Of a name that is no user yet.
    let link = link_of(&gateway.command(&["user", "link", "bne", "--tenant", "bravo"]));
    let ended = gateway.command(&["user", "remove", "bne"]);
    assert!(ended.status.success() && said(&ended).contains("is over"), "{}", said(&ended));
    choose(&gateway, &link, "", PASSWORD).await.expect(403);
    assert_eq!(gateway.command(&["user", "remove", "bne"]).status.code(), Some(1));
    link_of(&gateway.command(&["user", "link", "bne", "--tenant", "bravo"]));
    let ended = gateway.command(&["user", "remove", "bne", "--json"]);
    let ended: Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{}", said(&ended)));
    assert_eq!(ended, json!({"removed": "link", "name": "bne"}));
}

/// A prepared gateway with one tenant in force and no key.
async fn unused() -> Gateway {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let closed = |text: String| text.replace("id = \"bravo\"", "id = \"bravo\"\ndisabled = true");
    gateway.edit("tenants.toml", closed);
    gateway
}

/// Where the link of a start is: tests have no terminal.
fn first_link_file(gateway: &Gateway) -> std::path::PathBuf {
    gateway.state().join("first-link")
}

/// The link of this start.
async fn first_link(gateway: &Gateway) -> String {
    eventually("the link", || async { std::fs::read_to_string(first_link_file(gateway)).ok() }).await.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_prints_a_link_by_which_one_person_becomes_the_first_user() {
    let mut gateway = unused().await;
    gateway.start().await;
    let old = first_link(&gateway).await;
    // Whoever keeps what a gateway writes is told where the link is, and not the link.
    let told = first_link_file(&gateway).display().to_string();
    eventually("the file is told", || async { gateway.log_text().contains(&told).then_some(()) }).await;
    assert!(!format!("{}{:?}", gateway.log_text(), gateway.audit()).contains(token(&old)));
    let made: Vec<Value> = gateway.audit().into_iter().filter(|line| line["event"] == "login_link_made").collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0]["owner"], json!({"tenant": "acme"}));
    gateway.terminate().await;
    assert!(!first_link_file(&gateway).exists(), "it ended with the process");
    gateway.start().await;
    let link = first_link(&gateway).await;
    assert_ne!(link, old, "each start has its own");
    choose(&gateway, &old, "mallory", PASSWORD).await.expect(403);
    let line = gateway.audited("the failure", |line| line["event"] == "login_failed").await;
    assert_eq!(line["kind"], "link", "{line}");
    // A preview of a chat uses nothing up.
    let path = link.strip_prefix(&gateway.url()).unwrap();
    gateway.stranger().get(path).await.expect(200);
    gateway.stranger().call(Method::HEAD, path, &[], bytes::Bytes::new()).await;
    for (user, password, told) in [("no name", PASSWORD, "user id"), ("ann", "short", "too short")] {
        let page = choose(&gateway, &link, user, password).await.expect(422).text();
        assert!(page.contains(told) && page.contains(user), "{page}");
    }
    let (one, two) = tokio::join!(choose(&gateway, &link, "ann", PASSWORD), choose(&gateway, &link, "bob", PASSWORD));
    let (winner, loser) = if one.status == 303 { (one, two) } else { (two, one) };
    loser.expect(403);
    let first = Browser::after(&gateway.stranger(), &winner.expect(303));
    first.page().get("/queue").await.expect(200);
    let (_, users) = gateway.control("GET", "/v1/users", "").await;
    let users: Value = serde_json::from_str(&users).unwrap();
    assert_eq!(users.as_array().unwrap().len(), 1, "{users}");
    assert!(users[0]["scopes"].as_array().unwrap().contains(&json!("admin")), "{users}");
    choose(&gateway, &link, "carl", PASSWORD).await.expect(403);
    assert!(!first_link_file(&gateway).exists(), "it is used");
    assert!(!format!("{}{:?}", gateway.log_text(), gateway.audit()).contains(token(&link)));
    gateway.restart().await;
    first.page().get("/queue").await.expect(200);
    assert!(!first_link_file(&gateway).exists(), "there is somebody now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_link_is_void_once_there_is_a_user_and_none_is_printed_where_there_is_another_way_in() {
    let mut gateway = unused().await;
    gateway.start().await;
    let link = first_link(&gateway).await;
    gateway.new_user("ann", "acme", PASSWORD);
    assert!(!first_link_file(&gateway).exists());
    choose(&gateway, &link, "mallory", PASSWORD).await.expect(403);

    let mut with_key = unused().await;
    with_key.key("acme");
    with_key.start().await;
    let mut two_tenants = Gateway::builder().stand_ins(1).prepare().await;
    two_tenants.start().await;
    for gateway in [&with_key, &two_tenants] {
        eventually("the start is told", || async { gateway.log_text().contains("backend gpu0").then_some(()) }).await;
        // Whoever is answered comes after all lines of the start.
        gateway.stranger().get("/gate/login").await.expect(200);
        assert!(!gateway.log_text().contains("first-link") && !first_link_file(gateway).exists());
    }
}

/// Whether the login page says where the first link is, in place of its form. It tells nothing of this gateway in any case.
async fn login_page_points_to_the_link(gateway: &Gateway, link: &str) -> bool {
    let page = gateway.stranger().get("/gate/login").await.expect(200).text();
    for secret in [token(link), "acme", gateway.state().to_str().unwrap()] {
        assert!(!page.contains(secret), "{secret}: {page}");
    }
    let points = page.contains("first-link");
    assert_ne!(points, page.contains("<form"), "{page}");
    points
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nobody_can_log_in_the_login_page_says_where_the_first_link_is() {
    let mut gateway = unused().await;
    gateway.start().await;
    let link = first_link(&gateway).await;
    assert!(login_page_points_to_the_link(&gateway, &link).await);
    let form = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
    let tried = gateway.stranger().call(Method::POST, "/gate/login", &form, bytes::Bytes::from("key=x")).await;
    let text = tried.expect(401).text();
    assert!(text.contains("role=\"alert\"") && text.contains("first-link"), "{text}");
    choose(&gateway, &link, "ann", PASSWORD).await.expect(303);
    assert!(!login_page_points_to_the_link(&gateway, &link).await, "there is a user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_link_is_void_as_soon_as_there_is_another_way_in_and_stays_so() {
    let over = async |gateway: &Gateway, link: &str, after: &str| {
        // First, and so the one that finds out.
        assert!(!login_page_points_to_the_link(gateway, link).await, "after {after}");
        let path = link.strip_prefix(&gateway.url()).unwrap();
        assert_eq!(gateway.stranger().get(path).await.status, 403, "after {after}");
        assert!(!first_link_file(gateway).exists(), "after {after}");
        assert_eq!(choose(gateway, link, "mallory", PASSWORD).await.status, 403, "after {after}");
        assert_eq!(gateway.control("GET", "/v1/users", "").await, (200, "[]".into()), "after {after}");
    };
    // One that nobody looked at meanwhile is refused at the button.
    let mut gateway = unused().await;
    gateway.start().await;
    let link = first_link(&gateway).await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    choose(&gateway, &link, "mallory", PASSWORD).await.expect(403);
    over(&gateway, &link, "a key").await;
    let id = &key[3..15];
    is_done(&gateway.command(&["key", "revoke", id]));
    gateway.restart().await;
    over(&gateway, &link, "a key that was revoked").await;

    let mut gateway = unused().await;
    gateway.start().await;
    let link = first_link(&gateway).await;
    let spec = json!({"plan": "usual"}).to_string();
    let (status, text) = gateway.control("PUT", "/v1/tenants/zebra", &spec).await;
    assert!(status < 300, "{status} {text}");
    over(&gateway, &link, "a tenant by the control socket").await;

    let mut gateway = unused().await;
    gateway.start().await;
    let link = first_link(&gateway).await;
    let opened = |text: String| text.replace("disabled = true", "");
    let closed = |text: String| text.replace("id = \"bravo\"", "id = \"bravo\"\ndisabled = true");
    gateway.edit("tenants.toml", opened);
    is_done(&gateway.command(&["reload"]));
    over(&gateway, &link, "a tenant in the file").await;
    gateway.edit("tenants.toml", closed);
    is_done(&gateway.command(&["reload"]));
    over(&gateway, &link, "a tenant that is closed again").await;

    let mut gateway = unused().await;
    gateway.start().await;
    let link = first_link(&gateway).await;
    let issuer = "[[jwt]]\nissuer = \"https://id.example/\"\naudience = \"x\"\nalgorithms = [\"HS256\"]\nsecret = \"file:jwt.secret\"\ntenant_claim = \"org\"\n";
    std::fs::write(gateway.directory().join("jwt.secret"), "0123456789abcdef0123456789abcdef").unwrap();
    gateway.edit("gateway.toml", |text| format!("{text}\n{issuer}"));
    is_done(&gateway.command(&["reload"]));
    over(&gateway, &link, "an issuer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_leads_to_no_session_is_not_used_up_and_makes_nobody() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[sessions]\ntotal_max = 1").start().await;
    gateway.new_user("Ann", "acme", PASSWORD);
    let ann = Browser::with_password(&gateway.stranger(), "ann", PASSWORD).await;
    let for_bob = link_of(&gateway.command(&["user", "link", "bob", "--tenant", "acme"]));
    let for_ann = link_of(&gateway.command(&["user", "link", "ann", "--tenant", "acme"]));
    let full = choose(&gateway, &for_bob, "", PASSWORD).await.expect(503);
    assert!(full.header("retry-after").is_some() && !full.headers.contains_key("set-cookie"));
    assert_eq!(gateway.command(&["user", "list", "--json"]).stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    // The session by the former password ends in the same moment: there is room for its own.
    let renewed = Browser::after(&gateway.stranger(), &choose(&gateway, &for_ann, "", OTHER).await.expect(303));
    ann.page().get("/queue").await.expect(401);
    renewed.page().get("/queue").await.expect(200);
    let again = [("old", OTHER), ("password", PASSWORD), ("again", PASSWORD)];
    let again = Browser::after(&gateway.stranger(), &renewed.press("/gate/password", &again).await.expect(303));
    again.page().get("/queue").await.expect(200);
    choose(&gateway, &for_bob, "", PASSWORD).await.expect(503);
    again.log_out().await;
    let bob = Browser::after(&gateway.stranger(), &choose(&gateway, &for_bob, "", PASSWORD).await.expect(303));
    assert_eq!(bob.page().get("/gate/me").await.expect(200).json()["user"], "bob");
    choose(&gateway, &for_bob, "", PASSWORD).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_over_its_tenants_rate_is_not_used_up() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan("policy = \"default\"\nrequests = { per_second = 0.001, burst = 1 }")
        .start()
        .await;
    let link = link_of(&gateway.command(&["user", "link", "ann", "--tenant", "acme"]));
    gateway.client("acme").get("/queue").await.expect(200);
    choose(&gateway, &link, "", PASSWORD).await.expect(429);
    assert_eq!(
        gateway.control("GET", "/v1/users", "").await,
        (200, "[]".into()),
        "over the tenant's rate nothing is made"
    );
    gateway.stranger().get(link.strip_prefix(&gateway.url()).unwrap()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_that_fail_are_slowed_down_at_their_own_address_only() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nfailed_logins_free = 2").start().await;
    gateway.new_user("ann", "acme", PASSWORD);
    let guesser = gateway.stranger().from_address([127, 3, 3, 1]);
    // Until it has to wait for so long that the next try comes too early even on a slow machine.
    eventually("its failures cost something", || async {
        let told = login(&guesser, "ANN", OTHER).await;
        let wait: u64 = told.header("retry-after").and_then(|wait| wait.parse().ok()).unwrap_or(0);
        (told.status == 429 && wait >= 4).then_some(())
    })
    .await;
    let waits = login(&guesser, "ann", PASSWORD).await.expect(429);
    assert!(waits.header("retry-after").is_some() && waits.text().contains("<form"), "{}", waits.text());
    login(&gateway.stranger().from_address([127, 3, 3, 2]), "ann", PASSWORD).await.expect(303);
}

async fn opened(client: &Client) -> Socket {
    let mut socket = client.socket(None).await;
    socket.sid().await;
    socket
}

async fn ends_with_4401(mut socket: Socket) {
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert_eq!(heard.last(), Some(&Event::Closed(Some(4401))), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_disabled_user_are_refused_until_it_is_enabled_and_those_of_a_removed_one_for_good() {
    let gateway = with_ann().await;
    gateway.new_user("bob", "acme", PASSWORD);
    let made = |tenant: &str, user: &str| gateway.new_key(&["--tenant", tenant, "--user", user]);
    let (exact, lower) = (made("acme", "Ann"), made("acme", "ann"));
    let theirs = [&exact, &lower].map(|key| gateway.stranger().bearer(key));
    // Another user's, a service's, one of a name that no local user has, and one of that name elsewhere.
    let others = [&made("acme", "bob"), &gateway.key("acme"), &made("acme", "nobody"), &made("bravo", "Ann")];
    let others = others.map(|key| gateway.stranger().bearer(key));
    let by_key = Browser::with_key(&gateway.stranger(), &exact).await;
    let all = async |clients: &[Client], status: u16| {
        for client in clients {
            client.get("/queue").await.expect(status);
        }
    };
    all(&theirs, 200).await;
    let sockets = [opened(&theirs[0]).await, opened(&theirs[1]).await];
    let mut stays = opened(&others[0]).await;

    is_done(&gateway.command(&["user", "disable", "ann"]));
    all(&theirs, 401).await;
    all(&others, 200).await;
    by_key.page().get("/queue").await.expect(401);
    for socket in sockets {
        ends_with_4401(socket).await;
    }
    stays.heard_so_far().await;
    let is_why = |line: &Value| line["reason"].as_str().is_some_and(|why| why.contains("whose key it is is disabled"));
    gateway.audited("why", is_why).await;
    // It was proved: nobody is a guesser by it.
    assert!(!gateway.audit().iter().any(|line| line["event"] == "login_failed"));
    post_login(&gateway.stranger(), "/gate/login", &exact).await.expect(401);

    is_done(&gateway.command(&["user", "enable", "ann"]));
    all(&theirs, 200).await;
    by_key.page().get("/queue").await.expect(200);

    let socket = opened(&theirs[1]).await;
    is_done(&gateway.command(&["user", "remove", "ann"]));
    ends_with_4401(socket).await;
    all(&theirs, 401).await;
    all(&others, 200).await;
    gateway.new_user("Ann", "acme", PASSWORD);
    all(&theirs, 401).await;
    let revoked = gateway.audit().iter().filter(|line| line["event"] == "key_revoked").count();
    assert_eq!(revoked, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_user_are_listed_in_whatever_case_the_name_is_written() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    for user in ["Ann", "ann", "bob"] {
        gateway.new_key(&["--tenant", "acme", "--user", user]);
    }
    let count = |gateway: &Gateway, user: &str| {
        let listed = gateway.command(&["key", "list", "--user", user, "--json"]);
        assert!(listed.status.success(), "{}", said(&listed));
        String::from_utf8(listed.stdout).unwrap().lines().count()
    };
    assert_eq!((count(&gateway, "ANN"), count(&gateway, "bob"), count(&gateway, "carl")), (2, 1, 0));
    // And removed while nothing runs.
    gateway.new_user("Ann", "acme", PASSWORD);
    is_done(&gateway.command(&["user", "remove", "ann"]));
    gateway.start().await;
    assert_eq!((count(&gateway, "ANN"), count(&gateway, "bob"), count(&gateway, "carl")), (2, 1, 0));
    let states = async |user: &str| gateway.control("GET", &format!("/v1/keys?user={user}&state=good"), "").await.1;
    assert_eq!((states("aNN").await.as_str(), states("bob").await == "[]"), ("[]", false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_acts_for_a_local_user_who_is_disabled() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    gateway.new_user("Ann", "acme", PASSWORD);
    let key = gateway.new_key(&["--tenant", "bravo", "--scope", "read", "--scope", "submit", "--scope", "act-as"]);
    let acting = |tenant: &str, user: &str| {
        gateway.stranger().bearer(&key).and(&[("comfygate-tenant", tenant), ("comfygate-user", user)])
    };
    let (ann, lower) = (acting("acme", "Ann"), acting("acme", "ann"));
    let others = [
        acting("acme", "ada"),
        acting("bravo", "Ann"),
        gateway.stranger().bearer(&key).and(&[("comfygate-tenant", "acme")]),
    ];
    let ticket = ann.post("/gate/ticket", &json!({})).await.expect(200).json()["ticket"].as_str().unwrap().to_owned();
    let socket = opened(&ann).await;
    is_done(&gateway.command(&["user", "disable", "ann"]));
    for refused in [&ann, &lower] {
        assert_eq!(refused.get("/queue").await.expect(403).code(), "act_as_refused");
    }
    ends_with_4401(socket).await;
    assert!(gateway.stranger().try_socket(&format!("/ws?token={ticket}"), None, &[]).await.is_err());
    for other in &others {
        other.get("/queue").await.expect(200);
    }
    is_done(&gateway.command(&["user", "enable", "ann"]));
    ann.get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_revoked_by_name_in_whatever_case_and_a_name_that_nobody_has_is_told() {
    let mut gateway = with_ann().await;
    let revoke = |gateway: &Gateway, arguments: &[&str]| {
        let done = gateway.command(&[&["session", "revoke"], arguments].concat());
        (done.status.code(), said(&done))
    };
    for whose in [&["--user", "ANN"][..], &["--tenant", "acme", "--user", "ann"]] {
        let ann = Browser::with_password(&gateway.stranger(), "ann", PASSWORD).await;
        let listed = gateway.command(&[&["session", "list"], whose].concat());
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.starts_with("session ") && listed.lines().count() == 2, "{listed}");
        let elsewhere = revoke(&gateway, &["--tenant", "bravo", "--user", "Ann"]);
        assert!(elsewhere.0 == Some(1) && elsewhere.1.contains("no local user"), "{elsewhere:?}");
        let done = revoke(&gateway, whose);
        assert!(done.0 == Some(0) && done.1.contains("1 ended"), "{done:?}");
        ann.page().get("/queue").await.expect(401);
        // Somebody who is there and logged in nowhere is as wanted.
        let done = revoke(&gateway, whose);
        assert!(done.0 == Some(0) && done.1.contains("0 ended"), "{done:?}");
    }
    for stopped in [false, true] {
        if stopped {
            gateway.terminate().await;
        }
        let nobody = revoke(&gateway, &["--user", "nobody"]);
        assert!(nobody.0 == Some(1) && nobody.1.contains("`nobody`"), "{nobody:?}");
        let nobody = revoke(&gateway, &["--tenant", "bravo", "--user", "ann"]);
        assert_eq!(nobody.0, Some(1), "{nobody:?}");
        assert_eq!(revoke(&gateway, &["--user", "ann"]).0, Some(0));
    }
}
