//! Stage 3 for browsers: the login page, the session, and what a cookie may do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use comfygate_tests::browser::post_login;
use comfygate_tests::gateway::fast;
use comfygate_tests::{Browser, Client, Event, Gateway, Options, Response, StandIn, eventually, workflows};
use http::Method;
use serde_json::{Value, json};

async fn gateway() -> Gateway {
    Gateway::builder().stand_ins(1).start().await
}

/// Somebody who types an address.
fn navigating(client: &Client) -> Client {
    client.with_headers(&[("sec-fetch-mode", "navigate"), ("sec-fetch-site", "none"), ("accept", "text/html,*/*")])
}

fn leads_to(answer: Response, status: u16) -> String {
    answer.expect(status).header("location").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_sent_to_the_login_and_back_to_where_they_were() {
    let gateway = gateway().await;
    let stranger = navigating(&gateway.stranger());
    let login = leads_to(stranger.get("/api/queue?x=1%202").await, 303);
    assert_eq!(login, "/gate/login?next=/api/queue%3Fx%3D1%25202");
    assert_eq!(leads_to(stranger.get("/").await, 303), "/gate/login");
    let page = stranger.get(&login).await.expect(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert!(page.text().contains("action=\"/gate/login?next=/api/queue%3Fx%3D1%25202\""), "{}", page.text());
    let answer = post_login(&gateway.stranger(), &login, &gateway.key("acme")).await;
    assert!(answer.header("set-cookie").unwrap().starts_with("__Host-comfygate-"));
    assert_eq!(leads_to(answer, 303), "/api/queue?x=1%202");
    let old_browser = gateway.stranger().with_headers(&[("accept", "text/html")]);
    assert_eq!(leads_to(old_browser.get("/nowhere").await, 303), "/gate/login?next=/nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_and_fetches_without_a_session_get_401_and_no_password_prompt() {
    let gateway = gateway().await;
    let challenges = |answer: &Response| -> Vec<String> {
        answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let program = gateway.stranger().get("/queue").await.expect(401);
    assert!(challenges(&program).iter().any(|challenge| challenge.starts_with("Basic")));
    let fetch = [("sec-fetch-mode", "cors"), ("sec-fetch-site", "same-origin"), ("accept", "*/*")];
    let fetched = gateway.stranger().with_headers(&fetch).get("/queue").await.expect(401);
    assert_eq!(challenges(&fetched), ["Bearer realm=\"comfygate\""]);
    let posted = navigating(&gateway.stranger()).post("/prompt", &json!({})).await.expect(401);
    assert_eq!(posted.json()["error"]["type"], "unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_acts_as_its_key_and_tells_its_end() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let me = browser.page().get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["credential"]), (&json!("acme"), &json!("session")), "{me}");
    let (idle, ends) = (me["session"]["idle_until"].as_u64().unwrap(), me["session"]["ends_at"].as_u64().unwrap());
    let day = 24 * 3_600_000;
    assert!(ends - idle == 6 * day + day / 2, "{idle} {ends}");
    assert_eq!(gateway.client("acme").get("/gate/me").await.expect(200).json()["session"], Value::Null);
    // Logged in already: on to where the link leads.
    let again = navigating(&browser.page());
    let again = again.with_headers(&[("cookie", browser.cookie())]);
    assert_eq!(leads_to(again.get("/gate/login").await, 303), "/");
    assert_eq!(leads_to(again.get("/gate/login?next=/queue").await, 303), "/queue");
    assert_eq!(leads_to(again.get("/gate/login?next=//evil.example").await, 303), "/");
    let line = gateway.audited("the login", |line| line["event"] == "logged_in").await;
    assert_eq!(line["owner"]["tenant"], "acme", "{line}");
    let secret = browser.cookie().split_once('=').unwrap().1;
    assert!(
        !gateway.log_text().contains(secret) && gateway.audit().iter().all(|line| !line.to_string().contains(secret))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_key_gets_the_same_page_and_too_many_get_429() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nfailed_logins_free = 4").start().await;
    let key = gateway.key("acme");
    let revoked = gateway.new_key(&["--tenant", "acme"]);
    let said = gateway.command(&["key", "revoke", revoked.split('_').nth(1).unwrap()]);
    assert!(said.status.success());
    let wrong_secret = format!("{}{}", &key[..20], &revoked[20..]);
    let mut told = Vec::new();
    for bad in ["", "hunter2", &key[1..], &wrong_secret, &revoked] {
        let client = gateway.stranger().from_address([127, 3, 0, u8::try_from(told.len()).unwrap() + 1]);
        let answer = post_login(&client, "/gate/login?next=/queue", bad).await.expect(401);
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(answer.text().contains("role=\"alert\"") && answer.text().contains("next=/queue"), "{}", answer.text());
        told.push(answer.without_request_id());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "the page tells what was wrong: {told:?}");
    let guesser = gateway.stranger().from_address([127, 3, 1, 1]);
    let mut answer = post_login(&guesser, "/gate/login", "hunter2").await.expect(401);
    for _ in 0..50 {
        answer = post_login(&guesser, "/gate/login", "hunter2").await;
        if answer.status == 429 {
            break;
        }
    }
    let closed = answer.expect(429);
    assert!(closed.header("retry-after").is_some() && closed.text().contains("<form"), "{}", closed.text());
    post_login(&guesser, "/gate/login", &key).await.expect(303);
    post_login(&gateway.stranger(), "/gate/login", &key).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_form_is_taken_from_our_own_page_only_and_within_its_bounds() {
    let gateway = gateway().await;
    let form = format!("key={}", gateway.key("acme"));
    let post = |headers: &'static [(&'static str, &'static str)], body: String| {
        let client = gateway.stranger();
        async move {
            let kind = [("content-type", "application/x-www-form-urlencoded")];
            let headers: Vec<_> = kind.iter().chain(headers).copied().collect();
            client.call(Method::POST, "/gate/login", &headers, Bytes::from(body)).await
        }
    };
    post(&[("sec-fetch-site", "same-origin")], form.clone()).await.expect(303);
    for foreign in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        let answer = post(foreign, form.clone()).await.expect(403);
        assert!(!answer.headers.contains_key("set-cookie"), "{foreign:?}");
    }
    let own = gateway.url();
    let by_origin = gateway.stranger().with_headers(&[("origin", &own)]);
    by_origin.post_bytes("/gate/login", "application/x-www-form-urlencoded", form.clone()).await.expect(303);
    let pad = |bytes: usize| format!("{form}&pad={}", "x".repeat(bytes - form.len() - 5));
    post(&[("sec-fetch-site", "same-origin")], pad(8192)).await.expect(303);
    post(&[("sec-fetch-site", "same-origin")], pad(8193)).await.expect(413);
    let json = [("sec-fetch-site", "same-origin")];
    let json = gateway.stranger().with_headers(&json).post("/gate/login", &json!({"key": gateway.key("acme")})).await;
    json.expect(415);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_changes_things_from_our_own_page_only() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let own = gateway.url();
    let prompt = json!({"prompt": workflows::quick("x")});
    browser.page().post("/prompt", &prompt).await.expect(200);
    browser.sending(&[("origin", &own)]).post("/prompt", &prompt).await.expect(200);
    for foreign in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", own.as_str())],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
    ] {
        browser.sending(foreign).post("/prompt", &prompt).await.expect(403);
        let upgrade = browser.sending(foreign).try_socket("/ws", None, &[]).await.map(|_| ());
        assert_eq!(upgrade, Err(403), "{foreign:?}");
    }
    // Reading is left to browsers, which say whose page it is.
    browser.sending(&[]).get("/queue").await.expect(200);
    browser.sending(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]).get("/queue").await.expect(403);
    browser
        .sending(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")])
        .get("/queue")
        .await
        .expect(200);
    assert_eq!(gateway.stand_ins()[0].requests().iter().filter(|(_, path, _)| path.contains("gate")).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_in_a_header_counts_and_the_cookie_beside_it_does_not() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let bearer = format!("Bearer {}", gateway.key("bravo"));
    let both = browser.sending(&[("authorization", &bearer)]);
    assert_eq!(both.get("/gate/me").await.expect(200).json()["tenant"], "bravo");
    // A program in a browser's profile: no proof of a page is asked, since the header is one.
    both.post("/prompt", &json!({"prompt": workflows::quick("x")})).await.expect(200);
    browser.sending(&[("authorization", "Bearer wrong")]).get("/gate/me").await.expect(401);
    browser.log_out().await;
    assert_eq!(both.get("/gate/me").await.expect(200).json()["tenant"], "bravo", "a dead cookie harms nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_ends_the_session_and_no_other() {
    let gateway = gateway().await;
    let (browser, other) = (Browser::of(&gateway, "acme").await, Browser::of(&gateway, "acme").await);
    let page = browser.sending(&[]).get("/gate/logout").await.expect(200);
    assert!(page.text().contains("acme") && page.text().contains("<button>Log out"), "{}", page.text());
    browser.page().get("/queue").await.expect(200);
    // A link or a foreign page logs nobody out.
    let foreign = browser.sending(&[("sec-fetch-site", "cross-site")]);
    foreign.call(Method::POST, "/gate/logout", &[], Bytes::new()).await.expect(403);
    browser.page().get("/queue").await.expect(200);
    let answer = browser.log_out().await;
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(answer.header("location"), Some("/gate/login"));
    browser.page().get("/queue").await.expect(401);
    other.page().get("/queue").await.expect(200);
    assert_eq!(leads_to(browser.sending(&[]).get("/gate/logout").await, 303), "/gate/login");
    browser.log_out().await;
    let line = gateway.audited("the logout", |line| line["event"] == "logged_out").await;
    assert_eq!(line["owner"]["tenant"], "acme", "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_key_and_outlives_a_restart() {
    let mut gateway = gateway().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let browser = Browser::with_key(&gateway.stranger(), &key).await;
    gateway.restart().await;
    browser.page().get("/queue").await.expect(200);
    let said = gateway.command(&["key", "revoke", key.split('_').nth(1).unwrap()]);
    assert!(said.status.success());
    browser.page().get("/queue").await.expect(401);
    let line = gateway.audited("the refusal", |line| line["status"] == 401 && line["route"] == "/queue").await;
    assert!(line["reason"].as_str().unwrap().contains("key"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_too_many_of_an_owner_ends_its_oldest_and_logging_in_again_replaces_its_own() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[sessions]\nper_owner_max = 2").start().await;
    let first = Browser::of(&gateway, "acme").await;
    let second = Browser::of(&gateway, "acme").await;
    let renewed = Browser::with_key(&second.sending(&[]), &gateway.key("acme")).await;
    second.page().get("/queue").await.expect(401);
    first.page().get("/queue").await.expect(200);
    let third = Browser::of(&gateway, "acme").await;
    first.page().get("/queue").await.expect(401);
    for left in [&renewed, &third] {
        left.page().get("/queue").await.expect(200);
    }
    Browser::of(&gateway, "bravo").await.page().get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_shows_its_owner_only_its_own_world() {
    let gateway = gateway().await;
    let (acme, bravo) = (Browser::of(&gateway, "acme").await, Browser::of(&gateway, "bravo").await);
    let prompt = acme.page().submit(workflows::quick("mine")).await;
    let entry = acme.page().finished(&prompt).await;
    let file = &comfygate_tests::client::files_of(&entry)[0];
    let view = format!("/api/view?filename={}&type=output&subfolder=&rand=0.5", file["filename"].as_str().unwrap());
    let image = acme.sending(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors")]).get(&view).await;
    assert_eq!(image.expect(200).header("content-type"), Some("image/png"));
    bravo.page().get(&view).await.expect(404);
    assert_eq!(bravo.page().get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_an_ended_session_falls_silent_and_a_new_one_is_held_too() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let mut socket = browser.page().socket(None).await;
    socket.sid().await;
    let prompt = browser.page().submit(workflows::quick("before")).await;
    socket.until("the end", |event| event.kind() == "executing" && event.data()["node"].is_null()).await;
    browser.page().finished(&prompt).await;
    let observer = gateway.client("acme");
    browser.log_out().await;
    eventually("the session's socket leaves the hub", || async {
        (gateway.metric("comfygate_websockets").await == 0.0).then_some(())
    })
    .await;
    // What came before the logout may still lie in the connection.
    socket.heard_so_far().await;
    let held = async |wanted: f64| {
        let seen = async || (gateway.metric("comfygate_websockets_held").await == wanted).then_some(());
        eventually(&format!("{wanted} silent sockets"), seen).await;
    };
    held(1.0).await;
    assert_eq!(gateway.metric("comfygate_websockets_by_credential{credential=\"session\"}").await, 0.0);
    // The page's next socket, with its dead cookie, and without any once the browser has dropped it.
    let mut second = browser.page().try_socket("/ws", None, &[]).await.unwrap();
    let own = gateway.url();
    let mut third = gateway.stranger().try_socket("/ws", None, &[("origin", own.as_str())]).await.unwrap();
    let prompt = observer.submit(workflows::quick("later")).await;
    observer.finished(&prompt).await;
    for socket in [&mut socket, &mut second, &mut third] {
        assert_eq!(socket.heard_so_far().await, []);
    }
    held(3.0).await;
    drop(third);
    held(2.0).await;
    // Programs are told.
    assert_eq!(gateway.stranger().try_socket("/ws", None, &[]).await.map(|_| ()), Err(401));
    let bad = gateway.stranger().bearer("wrong").try_socket("/ws", None, &[("origin", own.as_str())]).await;
    assert_eq!(bad.map(|_| ()), Err(401));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_sockets_of_one_address_are_bounded() {
    let gateway = gateway().await;
    let own = gateway.url();
    let page = |last: u8| gateway.stranger().from_address([127, 4, 0, last]).with_headers(&[("origin", own.as_str())]);
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(page(1).try_socket("/ws", None, &[]).await.unwrap());
    }
    assert_eq!(page(1).try_socket("/ws", None, &[]).await.map(|_| ()), Err(401));
    open.push(page(2).try_socket("/ws", None, &[]).await.unwrap());
    open.remove(0);
    eventually("the place is free again", || async { page(1).try_socket("/ws", None, &[]).await.ok().map(drop) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pages_socket_hears_its_own_run_by_cookie() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let mut socket = browser.page().socket(None).await;
    let sid = socket.sid().await;
    let envelope = json!({"prompt": workflows::quick("seen"), "client_id": sid});
    let prompt = browser.page().submit_with(envelope).await;
    let heard = socket.until_end_of(&prompt).await;
    assert!(heard.iter().any(|event| matches!(event, Event::Json { kind, .. } if kind == "executed")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_style_sheet_is_missing_and_of_no_wrong_type() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let own = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors")];
    let styles = browser.sending(&[own[0], own[1], ("sec-fetch-dest", "style")]);
    let scripts = browser.sending(&[own[0], own[1], ("sec-fetch-dest", "script")]);
    for path in ["/user.css", "/history/none/user.css"] {
        assert_eq!(styles.get(path).await.expect(404).header("content-type"), Some("text/css"), "{path}");
        assert_ne!(scripts.get(path).await.expect(404).header("content-type"), Some("text/css"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_public_path_the_login_leads_there_and_the_cookie_stays_there() {
    let gateway = Gateway::builder().stand_ins(1).top("public_url = \"https://images.example/comfy\"").start().await;
    let stranger = navigating(&gateway.stranger());
    assert_eq!(leads_to(stranger.get("/comfy/").await, 303), "/comfy/gate/login");
    let login = leads_to(stranger.get("/comfy/queue").await, 303);
    assert_eq!(login, "/comfy/gate/login?next=/comfy/queue");
    let refused = post_login(&gateway.stranger(), &login, "hunter2").await.expect(401);
    assert!(refused.text().contains("action=\"/comfy/gate/login?next=/comfy/queue\""), "{}", refused.text());
    let answer = post_login(&gateway.stranger(), &login, &gateway.key("acme")).await;
    let set = answer.header("set-cookie").unwrap().to_owned();
    assert!(set.starts_with("__Secure-comfygate-") && set.contains("; Path=/comfy;"), "{set}");
    assert_eq!(leads_to(answer, 303), "/comfy/queue");
    let cookie = set.split(';').next().unwrap();
    let page = gateway.stranger().with_headers(&[("cookie", cookie), ("sec-fetch-site", "same-origin")]);
    page.get("/comfy/queue").await.expect(200);
    for elsewhere in ["//evil.example", "/queue", "/comfyx"] {
        let login = format!("/comfy/gate/login?next={elsewhere}");
        let answer = post_login(&gateway.stranger(), &login, &gateway.key("acme")).await;
        assert_eq!(leads_to(answer, 303), "/comfy/", "{elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packs_route_is_run_by_cookie_from_our_own_page_only() {
    let installation = StandIn::start(Options { packs: 2, ..fast() }).await.unwrap();
    let gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml(&format!("[[backends]]\nid = \"own\"\npool = \"own\"\nurl = \"{}\"", installation.url()))
        .tenants_toml("[[tenant]]\nid = \"mine\"\nplan = \"usual\"\npolicy = \"owner\"\npool = \"own\"")
        .start()
        .await;
    let browser = Browser::of(&gateway, "mine").await;
    eventually("the installation is up", || async {
        (browser.page().get("/pack_2/hello").await.status == 200).then_some(())
    })
    .await;
    let hello = browser.page().get("/pack_2/hello").await.expect(200).json();
    assert_eq!(hello, json!({"hello": "pack_2"}));
    browser.page().post("/pack_2/hello", &json!({"from": "page"})).await.expect(200);
    let asked = || installation.requests().iter().filter(|(_, path, _)| path.contains("hello")).count();
    let before = asked();
    for foreign in [
        // Somebody followed a link of another site: what a pack's GET does is not known.
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")][..],
        &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
    ] {
        browser.sending(foreign).get("/pack_2/hello").await.expect(403);
        browser.sending(foreign).post("/pack_2/hello", &json!({})).await.expect(403);
    }
    browser.sending(&[]).post("/pack_2/hello", &json!({})).await.expect(403);
    // A password that a browser remembers is sent by itself as well as a cookie.
    let basic = format!("Basic {}", STANDARD.encode(format!("anybody:{}", gateway.key("mine"))));
    let remembered = |site| gateway.stranger().with_headers(&[("authorization", &basic), ("sec-fetch-site", site)]);
    remembered("cross-site").get("/pack_2/hello").await.expect(403);
    assert_eq!(asked(), before, "the backend heard of it");
    remembered("same-origin").get("/pack_2/hello").await.expect(200);
    browser.log_out().await;
    browser.page().get("/pack_2/hello").await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remembered_password_reads_nothing_for_another_sites_page_and_a_key_of_the_page_does() {
    let gateway = gateway().await;
    let basic = format!("Basic {}", STANDARD.encode(format!("anybody:{}", gateway.key("acme"))));
    let by_basic = |headers: &[(&str, &str)]| {
        gateway.stranger().with_headers(&[&[("authorization", basic.as_str())], headers].concat())
    };
    for path in ["/queue", "/history", "/object_info", "/view?filename=x.png", "/gate/me"] {
        for site in ["cross-site", "same-site"] {
            for mode in [&[][..], &[("sec-fetch-mode", "no-cors")], &[("sec-fetch-mode", "cors")]] {
                let refused = by_basic(&[&[("sec-fetch-site", site)], mode].concat()).get(path).await.expect(403);
                assert_eq!(refused.json()["code"], "not_our_page", "{path} {site} {mode:?}");
            }
        }
    }
    // Our own page, a person who follows a link, a program, and a page that shows its key itself.
    for good in [
        &[("sec-fetch-site", "same-origin")][..],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        &[],
    ] {
        by_basic(good).get("/queue").await.expect(200);
    }
    let foreign = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")];
    gateway.client("acme").and(&foreign).get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_with_a_good_key_count_in_the_tenants_rate() {
    let plan = "policy = \"default\"\nrequests = { per_second = 0.001, burst = 3 }";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    for _ in 0..3 {
        post_login(&gateway.stranger(), "/gate/login", &gateway.key("acme")).await.expect(303);
    }
    let refused = post_login(&gateway.stranger(), "/gate/login", &gateway.key("acme")).await.expect(429);
    assert!(refused.header("retry-after").is_some() && refused.text().contains("<form"), "{}", refused.text());
    post_login(&gateway.stranger(), "/gate/login", &gateway.key("bravo")).await.expect(303);
}
