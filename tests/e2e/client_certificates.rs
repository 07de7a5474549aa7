//! Certificates of callers as credentials: verified against the listener's CA, mapped by a closed list.

use crate::live_sockets::{closes_with_4401, ends_with_4401, opened};
use comfygate_tests::control::control;
use comfygate_tests::gateway::{free_address, said};
use comfygate_tests::tls::Trust;
use comfygate_tests::tokens::now;
use comfygate_tests::{Client, Gateway, RawConnection};
use http::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A CA of callers.
struct Ca(CertifiedIssuer<'static, KeyPair>);

/// Certificate and key in PEM.
type Identity = (String, String);

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn identity(&self, dns: &str, end_year: i32) -> Identity {
        self.signed(dns, |params| params.not_after = date_time_ymd(end_year, 1, 1))
    }

    /// One that is good up to that second, counted from 1970.
    fn identity_until(&self, dns: &str, second: u64) -> Identity {
        self.signed(dns, |params| params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(second))
    }

    fn signed(&self, dns: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(format!("spiffe://example/{dns}").try_into().unwrap()));
        change(&mut params);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

const ENTRIES: &str = "[[client_certificate]]\ndns = \"worker.example\"\ntenant = \"acme\"\nuser = \"worker\"\n\
    [[client_certificate]]\nuri = \"spiffe://example/reader.example\"\ntenant = \"bravo\"\nscopes = [\"read\"]\n\
    [[client_certificate]]\ndns = \"both.example\"\ntenant = \"acme\"\n\
    [[client_certificate]]\nuri = \"spiffe://example/both.example\"\ntenant = \"bravo\"\n";

/// A gateway with one more listener, which asks for certificates of `ca`.
async fn asking(ca: &Ca, wanted: &str) -> (Gateway, SocketAddr) {
    asking_for(ca, wanted, ENTRIES).await
}

/// The same, which stand for these.
async fn asking_for(ca: &Ca, wanted: &str, entries: &str) -> (Gateway, SocketAddr) {
    let address = free_address();
    let listener = format!(
        "[[listen]]\naddress = \"{address}\"\nclient_ca = \"clients.pem\"\nclient_certificates = \"{wanted}\"\n"
    );
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("clients.pem", &ca.0.pem())
        .gateway_toml(&format!("{listener}{entries}"))
        .start()
        .await;
    (gateway, address)
}

fn holder(gateway: &Gateway, address: SocketAddr, (certificate, key): &Identity) -> Client {
    gateway.stranger_at(address, gateway.trust().showing(certificate, key))
}

/// Whether a request gets any answer at all. In TLS 1.3 the client learns only then that its certificate was refused.
async fn is_answered(address: SocketAddr, trust: &Trust) -> bool {
    let Ok(_) = comfygate_tests::tls::try_connect(address, Ipv4Addr::LOCALHOST, trust, &["http/1.1"]).await else {
        return false;
    };
    let mut connection = RawConnection::tls(address, Ipv4Addr::LOCALHOST, trust).await;
    connection.write(b"GET /gate/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    connection.response().await.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_certificate_is_its_tenants_user_over_http_1_and_2() {
    let ca = Ca::new();
    let (gateway, address) = asking(&ca, "required").await;
    let worker = holder(&gateway, address, &ca.identity("worker.example", 2100));
    let me = worker.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("acme"), &json!("worker")), "{me}");
    let me = worker.call_h2(Method::GET, "/gate/me", &[], Default::default()).await.expect(200).json();
    assert_eq!(me["user"], "worker", "{me}");
    let prompt = worker.submit(comfygate_tests::workflows::quick("mine")).await;
    worker.finished(&prompt).await;
    let foreign = holder(&gateway, address, &ca.identity("reader.example", 2100));
    assert_eq!(foreign.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
    foreign.post("/prompt", &json!({"prompt": comfygate_tests::workflows::quick("x")})).await.expect(403);
    worker.try_socket("/ws", None, &[]).await.expect("upgraded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_is_required_every_other_certificate_and_none_get_nothing() {
    let ca = Ca::new();
    let (gateway, address) = asking(&ca, "required").await;
    let show = |(certificate, key): &Identity| gateway.trust().showing(certificate, key);
    assert!(is_answered(address, &show(&ca.identity("worker.example", 2100))).await);
    assert!(!is_answered(address, &gateway.trust()).await, "without a certificate");
    assert!(!is_answered(address, &show(&Ca::new().identity("worker.example", 2100))).await, "of another CA");
    assert!(!is_answered(address, &show(&ca.identity("worker.example", 2020))).await, "expired");
    // One that is good and not listed: let in by TLS, by nobody else; a key beside it does not help.
    let unknown = holder(&gateway, address, &ca.identity("unknown.example", 2100));
    unknown.get("/gate/health").await.expect(200);
    unknown.get("/queue").await.expect(401);
    unknown.bearer(&gateway.key("acme")).get("/queue").await.expect(401);
    let line = gateway.audited("the refusal", |line| line["code"] == "unauthenticated").await;
    assert!(line["reason"].as_str().unwrap().contains("no [[client_certificate]]"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_is_optional_other_credentials_do_and_two_are_refused() {
    let ca = Ca::new();
    let (gateway, address) = asking(&ca, "optional").await;
    let key = gateway.key("acme");
    let stranger = gateway.stranger_at(address, gateway.trust());
    stranger.get("/queue").await.expect(401);
    stranger.bearer(&key).get("/queue").await.expect(200);
    let unknown = holder(&gateway, address, &ca.identity("unknown.example", 2100));
    unknown.get("/queue").await.expect(401);
    unknown.bearer(&key).get("/queue").await.expect(200);
    let worker = holder(&gateway, address, &ca.identity("worker.example", 2100));
    worker.get("/queue").await.expect(200);
    worker.bearer(&key).get("/queue").await.expect(401);
    worker.bearer("wrong").get("/queue").await.expect(401);
    // Entries that name different owners.
    holder(&gateway, address, &ca.identity("both.example", 2100)).get("/queue").await.expect(401);
    let show = |(certificate, key): &Identity| gateway.trust().showing(certificate, key);
    assert!(!is_answered(address, &show(&Ca::new().identity("worker.example", 2100))).await, "of another CA");
    // At a listener that asks for none it is never shown, so it opens nothing.
    holder(&gateway, gateway.addresses().https, &ca.identity("worker.example", 2100)).get("/queue").await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_with_a_certificate_is_its_holder_and_serves_no_other_sites_page() {
    let ca = Ca::new();
    let (gateway, address) = asking(&ca, "optional").await;
    let worker = holder(&gateway, address, &ca.identity("worker.example", 2100));
    let browser = comfygate_tests::Browser::of(&gateway, "bravo").await;
    // Browsers send cookies by themselves, so one beside a certificate is no second opinion.
    let both = worker.with_headers(&[("cookie", browser.cookie())]);
    let me = both.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["credential"]), (&json!("acme"), &json!("client_certificate")), "{me}");
    let foreign = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
    worker.with_headers(&foreign).get("/queue").await.expect(403);
    worker.with_headers(&[("sec-fetch-site", "same-origin")]).get("/queue").await.expect(200);
    let body = json!({"clear": true});
    worker.with_headers(&[("origin", "https://evil.example")]).post("/queue", &body).await.expect(403);
    // By the browser's word alone, too.
    worker.with_headers(&foreign).post("/queue", &body).await.expect(403);
    worker.post("/queue", &body).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_certificate_that_expires_is_closed_and_others_stay() {
    let ca = Ca::new();
    let (gateway, address) = asking(&ca, "required").await;
    let lasting = holder(&gateway, address, &ca.identity("worker.example", 2100));
    let mut stays = opened(&lasting).await;
    let ending = ca.identity_until("worker.example", now() + 6);
    closes_with_4401(opened(&holder(&gateway, address, &ending)).await).await;
    assert!(!is_answered(address, &gateway.trust().showing(&ending.0, &ending.1)).await, "nor is a new one opened");
    stays.heard_so_far().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_certificate_that_a_reload_takes_off_the_list_is_closed_and_others_stay() {
    let ca = Ca::new();
    let (gateway, address) = asking(&ca, "required").await;
    let worker = holder(&gateway, address, &ca.identity("worker.example", 2100));
    let reader = holder(&gateway, address, &ca.identity("reader.example", 2100));
    // Of a ticket that the certificate got, too.
    let ticket = worker.post("/gate/ticket", &json!({})).await.expect(200).json();
    let path = format!("/ws?token={}", ticket["ticket"].as_str().unwrap());
    let mut by_ticket = worker.try_socket(&path, None, &[]).await.unwrap();
    by_ticket.sid().await;
    let (socket, mut stays) = (opened(&worker).await, opened(&reader).await);
    gateway.edit("gateway.toml", |text| text.replace("dns = \"worker.example\"", "dns = \"another.example\""));
    assert!(gateway.command(&["reload"]).status.success());
    ends_with_4401(socket, &worker).await;
    closes_with_4401(by_ticket).await;
    stays.heard_so_far().await;
    // It is on the list as another's: what it reads is not the former one's, so the socket ends as well.
    gateway.edit("gateway.toml", |text| text.replacen("tenant = \"bravo\"", "tenant = \"acme\"", 1));
    assert!(gateway.command(&["reload"]).status.success());
    closes_with_4401(stays).await;
    opened(&reader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_certificate_got_does_not_live_on_by_the_cookie_beside_it() {
    let ca = Ca::new();
    // The same owner by both: only by the credential is it told what the socket stands on.
    let entries = "[[client_certificate]]\ndns = \"worker.example\"\ntenant = \"acme\"\n";
    let (gateway, address) = asking_for(&ca, "optional", entries).await;
    let browser = comfygate_tests::Browser::of(&gateway, "acme").await;
    let worker = holder(&gateway, address, &ca.identity("worker.example", 2100));
    let both = worker.with_headers(&[("cookie", browser.cookie()), ("sec-fetch-site", "same-origin")]);
    let ticket = async || both.post("/gate/ticket", &json!({})).await.expect(200).json()["ticket"].clone();
    let path = |ticket: Value| format!("/ws?token={}", ticket.as_str().unwrap());
    let (used, waiting) = (path(ticket().await), path(ticket().await));
    let mut by_ticket = gateway.stranger().try_socket(&used, None, &[]).await.unwrap();
    by_ticket.sid().await;
    let socket = opened(&both).await;
    gateway.edit("gateway.toml", |text| text.replace("dns = \"worker.example\"", "dns = \"another.example\""));
    assert!(gateway.command(&["reload"]).status.success());
    closes_with_4401(socket).await;
    closes_with_4401(by_ticket).await;
    assert_eq!(gateway.stranger().try_socket(&waiting, None, &[]).await.map(|_| ()), Err(401));
    // The session is good, and lets in by itself.
    opened(&browser.page()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_a_tenant_that_is_not_in_the_file_lets_in_as_long_as_there_is_that_tenant() {
    let ca = Ca::new();
    let entries = "[[client_certificate]]\ndns = \"zebra.example\"\ntenant = \"zebra\"\n\
        [[client_certificate]]\ndns = \"worker.example\"\ntenant = \"acme\"\n";
    let (gateway, address) = asking_for(&ca, "optional", entries).await;
    let asked = async |method: &str, query: &str| {
        let body = (method == "PUT").then(|| json!({"plan": "usual"}));
        control(&gateway, method, &format!("/v1/tenants/zebra{query}"), &[], body.as_ref()).await
    };
    let zebra = holder(&gateway, address, &ca.identity("zebra.example", 2100));
    let worker = holder(&gateway, address, &ca.identity("worker.example", 2100));
    let mut stays = opened(&worker).await;

    // Nobody has made it: refused as a key of a tenant that is gone is, and told of.
    let absent = "there is no tenant `zebra`";
    assert!(gateway.log_text().contains(absent));
    let reloaded = || {
        let reloaded = gateway.command(&["reload"]);
        assert!(reloaded.status.success(), "{}", said(&reloaded));
        said(&reloaded)
    };
    assert!(reloaded().contains(absent) && !reloaded().contains("`acme`"), "{}", reloaded());
    let checked = gateway.command(&["check"]);
    assert!(checked.status.success() && said(&checked).contains(absent), "{}", said(&checked));
    zebra.get("/queue").await.expect(401);
    zebra.get("/ws").await.expect(401);
    zebra.bearer(&gateway.key("acme")).get("/queue").await.expect(401);
    let reason = "tenant `zebra` is gone or disabled";
    let is_it = |line: &Value| line["reason"].as_str().is_some_and(|text| text.contains(reason));
    let line = gateway.audited("the refusal", is_it).await;
    assert_eq!(line["code"], "unauthenticated", "{line}");

    // It is made: let in without a reload.
    let made = asked("PUT", "").await;
    assert!(made.status == 201 && made.text().contains("names this id"), "{}", made.text());
    assert_eq!(zebra.get("/gate/me").await.expect(200).json()["tenant"], "zebra");
    assert!(!reloaded().contains(absent), "{}", reloaded());
    let socket = opened(&zebra).await;
    assert_eq!(asked("POST", "/disable").await.status, 200);
    ends_with_4401(socket, &zebra).await;
    assert_eq!(asked("POST", "/enable").await.status, 200);
    let socket = opened(&zebra).await;

    // It is deleted, and made anew by nobody who does not say so.
    assert_eq!(asked("DELETE", "?erase=true").await.status, 200);
    ends_with_4401(socket, &zebra).await;
    zebra.get("/queue").await.expect(401);
    assert!(reloaded().contains(absent), "{}", reloaded());
    let refused = asked("PUT", "").await;
    assert!(refused.status == 409 && refused.text().contains("[[client_certificate]]"), "{}", refused.text());
    zebra.get("/queue").await.expect(401);
    assert_eq!(asked("PUT", "?reuse=true").await.status, 201);
    zebra.get("/queue").await.expect(200);
    worker.get("/queue").await.expect(200);
    stays.heard_so_far().await;
}
