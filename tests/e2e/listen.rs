//! Stage 1: what is refused before a route is looked for (pingora-notes §7), TLS, HTTP/2, the redirecting listener.

use bytes::Bytes;
use comfygate_tests::tls::{self, Trust};
use comfygate_tests::{Client, Gateway, RawConnection, RawResponse};
use http::Method;
use std::net::Ipv4Addr;

async fn gateway() -> Gateway {
    Gateway::builder().stand_ins(1).start().await
}

fn get(client: &Client, path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{}{headers}\r\n", client.authority(), client.credential_lines())
        .into_bytes()
}

async fn answer(client: &Client, bytes: &[u8]) -> RawResponse {
    client.raw(bytes).await.unwrap_or_else(|| panic!("closed without an answer: {:?}", String::from_utf8_lossy(bytes)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lenient_forms_of_a_head_are_refused_and_the_connection_is_closed() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    let sound = String::from_utf8(get(&acme, "/queue", "")).unwrap();
    let line = "GET /queue HTTP/1.1";
    let cases = [
        ("no Host", sound.replace(&format!("host: {}\r\n", acme.authority()), "")),
        ("two Hosts", sound.replace("host: ", "host: other\r\nhost: ")),
        ("bare LF after the request line", sound.replacen("\r\n", "\n", 1)),
        ("bare LF everywhere", sound.replace("\r\n", "\n")),
        ("bare CR", sound.replacen("host: ", "x: a\rb\r\nhost: ", 1)),
        ("obs-fold", sound.replacen("host: ", "x: a\r\n b\r\nhost: ", 1)),
        ("space before the colon", sound.replacen("host:", "host :", 1)),
        ("NUL in a header", sound.replacen("host: ", "x: a\0b\r\nhost: ", 1)),
        ("absolute-form", sound.replacen("/queue", &format!("https://{}/queue", acme.authority()), 1)),
        ("authority-form", sound.replacen("/queue", "localhost:443", 1)),
        ("CONNECT", sound.replacen(line, "CONNECT localhost:443 HTTP/1.1", 1)),
        ("OPTIONS *", sound.replacen(line, "OPTIONS * HTTP/1.1", 1)),
        ("lower-case method", sound.replacen("GET", "get", 1)),
        ("unknown method", sound.replacen("GET", "BREW", 1)),
        ("TRACE", sound.replacen("GET", "TRACE", 1)),
        (
            "HTTP/1.0 with TE",
            sound.replacen("HTTP/1.1", "HTTP/1.0", 1).replacen("host: ", "transfer-encoding: chunked\r\nhost: ", 1),
        ),
        ("HTTP/0.9", "GET /queue\r\n\r\n".to_owned()),
        ("HTTP/2.0 in words", sound.replacen("HTTP/1.1", "HTTP/2.0", 1)),
        ("raw UTF-8 in the target", sound.replacen("/queue", "/queu\u{e9}", 1)),
        ("space in the target", sound.replacen("/queue", "/que ue", 1)),
        ("another upgrade", sound.replacen("host: ", "connection: upgrade\r\nupgrade: h2c\r\nhost: ", 1)),
        ("129 headers", sound.replacen("host: ", &format!("{}host: ", "x-a: 1\r\n".repeat(130)), 1)),
    ];
    for (what, bytes) in cases {
        let mut connection = acme.raw_connection().await;
        connection.write(bytes.as_bytes()).await;
        let answer = connection.response().await.unwrap_or_else(|| panic!("{what}: closed without an answer"));
        assert!(
            (400..500).contains(&answer.status) || answer.status == 501 || answer.status == 505,
            "{what}: {answer:?}"
        );
        assert!(!answer.code().is_empty(), "{what}: {answer:?}");
        assert!(connection.is_over().await, "{what}: the connection stays open");
    }
    assert!(answer(&acme, sound.as_bytes()).await.status == 200, "and the sound form passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_smuggled_behind_another_is_not_answered() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    let hidden = String::from_utf8(get(&acme, "/history", "")).unwrap();
    let head = format!("POST /interrupt HTTP/1.1\r\nhost: {}\r\n{}", acme.authority(), acme.credential_lines());
    let mut connection = acme.raw_connection().await;
    connection
        .write(format!("{head}content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}").as_bytes())
        .await;
    assert_eq!(connection.response().await.unwrap().status, 400);
    assert!(connection.response().await.is_none(), "what followed was taken as a request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_again_for_the_next_request() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    let mut connection = acme.raw_connection().await;
    for _ in 0..3 {
        connection.write(&get(&acme, "/queue", "")).await;
        assert_eq!(connection.response().await.expect("kept alive").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_more_than_32_kib_is_431_and_one_just_below_passes() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    // Eight headers, so that the sum is what counts.
    let padded = |bytes: usize| (0..8).map(|n| format!("x-pad-{n}: {}\r\n", "a".repeat(bytes / 8))).collect::<String>();
    assert_eq!(answer(&acme, &get(&acme, "/queue", &padded(31 << 10))).await.status, 200);
    assert_eq!(answer(&acme, &get(&acme, "/queue", &padded(33 << 10))).await.status, 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_arrive_in_time_is_408() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nhead_deadline = \"1s\"").start().await;
    let stranger = gateway.stranger();
    let mut connection = stranger.raw_connection().await;
    connection
        .write(format!("GET /gate/health HTTP/1.1\r\nhost: {}\r\nx-slow: ", stranger.authority()).as_bytes())
        .await;
    let answer = connection.response().await.expect("told why");
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(connection.is_over().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_served_by_the_same_rules() {
    let gateway = gateway().await;
    let (stranger, acme) = (gateway.stranger(), gateway.client("acme"));
    let h2 = async |client: &Client, method: Method, path: &str| client.call_h2(method, path, &[], Bytes::new()).await;
    h2(&stranger, Method::GET, "/gate/health").await.expect(200);
    h2(&stranger, Method::GET, "/queue").await.expect(401);
    let queue = h2(&acme, Method::GET, "/queue").await.expect(200);
    assert_eq!(queue.json(), acme.get("/queue").await.expect(200).json());
    h2(&acme, Method::GET, "/nowhere").await.expect(404);
    let odd = h2(&acme, Method::GET, "/%71ueue").await;
    assert!([400, 404].contains(&odd.status.as_u16()));
    let typed = [("content-type", "application/json")];
    let refused = acme.call_h2(Method::POST, "/prompt", &typed, "{".into()).await;
    assert_eq!(refused.status, 400);
    let large = acme.call_h2(Method::POST, "/prompt", &typed, vec![b' '; 11 << 20].into()).await;
    assert_eq!(large.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_2_authority_that_differs_from_host_is_refused() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    // The HTTP/2 layer answers by itself, with nothing but a status.
    let answer = acme.call_h2_unchecked(Method::GET, "/queue", &[("host", "evil.example")], Bytes::new()).await;
    assert_eq!(answer.status, 400);
    let same = acme.authority();
    acme.call_h2(Method::GET, "/queue", &[("host", &same)], Bytes::new()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_without_its_preface_is_closed_in_time() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nhead_deadline = \"1s\"").start().await;
    let mut connection =
        RawConnection::tls_alpn(gateway.addresses().https, Ipv4Addr::LOCALHOST, &gateway.trust(), "h2").await;
    connection.write(b"PRI * HTTP/2.0\r\n").await;
    // The read has a deadline of its own: without an end it panics.
    connection.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_makes_a_ca_of_its_own_and_only_who_trusts_it_gets_in() {
    let gateway = gateway().await;
    gateway.stranger().get("/gate/health").await.expect(200);
    let https = gateway.addresses().https;
    let refused = tls::try_connect(https, Ipv4Addr::LOCALHOST, &Trust::nobody(), &["http/1.1"]).await;
    assert!(refused.is_err(), "a client without the CA must not be able to trust the certificate");
    #[cfg(unix)]
    for (name, mode) in [("tls", 0o700), ("tls/ca.key", 0o600), ("tls/gateway.key", 0o600), ("", 0o700)] {
        use std::os::unix::fs::PermissionsExt;
        let found = std::fs::metadata(gateway.state().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_ca_stays_over_a_restart() {
    let mut gateway = gateway().await;
    let before = std::fs::read(gateway.state().join("tls/ca.crt")).unwrap();
    gateway.restart().await;
    assert_eq!(before, std::fs::read(gateway.state().join("tls/ca.crt")).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_redirected_to_the_public_url_and_never_elsewhere() {
    let gateway = gateway().await;
    let address = gateway.addresses().redirect;
    for host in ["localhost", "evil.example", "localhost:80"] {
        let mut connection = RawConnection::plain(address, Ipv4Addr::LOCALHOST).await;
        connection.write(format!("GET /queue?a=b HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        let answer = connection.response().await.unwrap();
        assert_eq!(answer.status, 308, "{answer:?}");
        assert_eq!(answer.header("location"), Some(format!("{}/queue?a=b", gateway.url()).as_str()));
    }
    let mut connection = RawConnection::plain(address, Ipv4Addr::LOCALHOST).await;
    connection.write(b"GET /queue HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    assert_eq!(connection.response().await.unwrap().status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_without_a_public_url_reflects_no_odd_host() {
    let gateway = Gateway::builder().stand_ins(1).top("").start().await;
    let https = gateway.addresses().https.port();
    let ask = async |host: &str| {
        let mut connection = RawConnection::plain(gateway.addresses().redirect, Ipv4Addr::LOCALHOST).await;
        connection.write(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        connection.response().await.unwrap()
    };
    let answer = ask("images.example.com").await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some(format!("https://images.example.com:{https}/").as_str()));
    for odd in ["a/b", "user@evil.example", "a b", "evil.example:80:80", "<script>", ""] {
        let answer = ask(odd).await;
        assert_eq!(answer.status, 400, "{odd}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_to_continue_if_it_asked_and_not_otherwise() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    let head = format!("POST /interrupt HTTP/1.1\r\nhost: {}\r\n{}", acme.authority(), acme.credential_lines());
    let typed = "content-type: application/json\r\ncontent-length: 2\r\n";
    assert_eq!(answer(&acme, format!("{head}{typed}\r\n{{}}").as_bytes()).await.status, 200);
    let mut connection = acme.raw_connection().await;
    connection.write(format!("{head}{typed}expect: 100-continue\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.response().await.unwrap().status, 100);
    connection.write(b"{}").await;
    assert_eq!(connection.response().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_trust_the_certificate_is_no_error_in_the_log_and_other_failed_handshakes_are() {
    let gateway = gateway().await;
    let https = gateway.addresses().https;
    for _ in 0..3 {
        let refused = tls::try_connect(https, Ipv4Addr::LOCALHOST, &Trust::nobody(), &["http/1.1"]).await;
        assert!(refused.is_err());
    }
    // After these, so that its line comes after theirs.
    RawConnection::plain(https, Ipv4Addr::LOCALHOST).await.write(b"\x16\x03\x01\x00\x02\xff\xff").await;
    comfygate_tests::eventually("the broken handshake is told", || async {
        gateway.log_text().contains("Downstream handshake error").then_some(())
    })
    .await;
    assert!(!gateway.log_text().contains("fatal alert"), "{}", gateway.log_text());
}
