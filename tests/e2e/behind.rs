//! The gateway behind other things: proxies that are trusted and others, the PROXY protocol, unix sockets, plain listeners, a path prefix, IPv6.

use comfygate_tests::browser::post_login;
use comfygate_tests::client::files_of;
use comfygate_tests::gateway::{free_address, run_in, said};
use comfygate_tests::{Client, Gateway, RawConnection, RawResponse, skipped, workflows};
use http::Method;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

/// The proxy that tests trust, and an address that nobody does.
const PROXY: [u8; 4] = [127, 0, 0, 2];
const STRANGER: [u8; 4] = [127, 0, 0, 3];

/// A gateway with one more listener.
async fn with_listener(lines: &str) -> Gateway {
    Gateway::builder().stand_ins(1).gateway_toml(&format!("[[listen]]\n{lines}")).start().await
}

fn trusting(address: SocketAddr) -> String {
    format!("address = \"{address}\"\ntrusted_proxies = [\"127.0.0.2\"]\n")
}

/// Waits for the audit line of a refusal of this caller.
async fn refused_as(gateway: &Gateway, code: &str, client: &str) -> Value {
    gateway.audited(&format!("{code} for {client}"), |line| line["code"] == code && line["client"] == client).await
}

async fn forwarded(client: &Client, values: &[&str]) -> u16 {
    let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
    client.call(Method::GET, "/queue", &headers, Default::default()).await.status.as_u16()
}

fn plain_get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n").into_bytes()
}

async fn plain_answer(connection: &mut RawConnection, path: &str, more: &str) -> RawResponse {
    connection.write(&plain_get(path, more)).await;
    connection.response().await.expect("an answer")
}

/// A file of the web page: its headers are the backend's, in part.
async fn page(client: &Client, path: &str) -> RawResponse {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{}\r\n", client.authority(), client.credential_lines());
    client.raw(asked.as_bytes()).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_trusted_proxy_can_not_choose_its_address() {
    let address = free_address();
    let gateway = with_listener(&trusting(address)).await;
    for client in [gateway.stranger(), gateway.stranger_at(address, gateway.trust())] {
        let spoofing = client.from_address(STRANGER);
        assert_eq!(forwarded(&spoofing, &["203.0.113.7"]).await, 401);
    }
    // A trusted address at a listener that trusts nobody.
    assert_eq!(forwarded(&gateway.stranger().from_address(PROXY), &["203.0.113.7"]).await, 401);
    refused_as(&gateway, "unauthenticated", "127.0.0.3").await;
    refused_as(&gateway, "unauthenticated", "127.0.0.2").await;
    assert!(gateway.audit().iter().all(|line| line["client"] != "203.0.113.7"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_names_the_caller_by_its_last_entry() {
    let address = free_address();
    let gateway = with_listener(&trusting(address)).await;
    let proxied = gateway.stranger_at(address, gateway.trust()).from_address(PROXY);
    assert_eq!(forwarded(&proxied, &["198.51.100.1, 203.0.113.7"]).await, 401);
    refused_as(&gateway, "unauthenticated", "203.0.113.7").await;
    assert_eq!(forwarded(&proxied, &["198.51.100.1", "203.0.113.8"]).await, 401);
    refused_as(&gateway, "unauthenticated", "203.0.113.8").await;
    assert_eq!(forwarded(&proxied, &["203.0.113.9, 127.0.0.2"]).await, 401);
    refused_as(&gateway, "unauthenticated", "203.0.113.9").await;
    // A bad entry ends the walk at the proxy itself.
    assert_eq!(forwarded(&proxied, &["203.0.113.10, unknown"]).await, 401);
    refused_as(&gateway, "unauthenticated", "127.0.0.2").await;
    let h2 = proxied.call_h2(Method::GET, "/queue", &[("x-forwarded-for", "2001:db8::1")], Default::default()).await;
    assert_eq!(h2.status, 401);
    refused_as(&gateway, "unauthenticated", "2001:db8::1").await;
    assert!(gateway.audit().iter().all(|line| line["client"] != "198.51.100.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_logins_behind_a_proxy_have_their_caller_alone_wait() {
    let address = free_address();
    let gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml(&format!("[limits]\nfailed_logins_free = 3\n[[listen]]\n{}", trusting(address)))
        .start()
        .await;
    let guesser = gateway.stranger_at(address, gateway.trust()).from_address(PROXY).bearer("wrong");
    let mut statuses = Vec::new();
    for n in 0..50 {
        // What the caller writes to the left changes nothing.
        statuses.push(forwarded(&guesser, &[&format!("198.51.100.{n}, 203.0.113.7")]).await);
        if statuses.last() == Some(&429) {
            break;
        }
    }
    assert!(statuses.len() > 4 && statuses.last() == Some(&429), "{statuses:?}");
    assert_eq!(forwarded(&guesser, &["203.0.113.8"]).await, 401);
    let good = gateway.stranger_at(address, gateway.trust()).from_address(PROXY).bearer(&gateway.key("acme"));
    assert_eq!(forwarded(&good, &["203.0.113.7"]).await, 200, "a good key is let in from there too");
    assert_eq!(forwarded(&good, &["203.0.113.9"]).await, 200);
}

/// Version 2 of the header for a TCP connection over IPv4, with a TLV that nobody reads.
fn binary_header(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend_from_slice(&(12_u16 + 6).to_be_bytes());
    header.extend_from_slice(&source);
    header.extend_from_slice(&[10, 0, 0, 1, 0x12, 0x34, 1, 187]);
    header.extend_from_slice(&[0x05, 0, 3, b'i', b'd', b'1']);
    header
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_before_tls_names_the_caller() {
    let address = free_address();
    let gateway = with_listener(&format!("{}proxy_protocol = true", trusting(address))).await;
    let behind = |header: &[u8]| gateway.stranger_at(address, gateway.trust().after(header)).from_address(PROXY);
    let line = behind(b"PROXY TCP4 203.0.113.1 10.0.0.1 4711 443\r\n");
    line.get("/gate/health").await.expect(200);
    // Whoever writes this header reads no HTTP: the other one is the caller's own.
    assert_eq!(forwarded(&line, &["198.51.100.1"]).await, 401);
    refused_as(&gateway, "unauthenticated", "203.0.113.1").await;
    behind(&binary_header([203, 0, 113, 2])).get("/queue").await.expect(401);
    refused_as(&gateway, "unauthenticated", "203.0.113.2").await;
    let h2 = behind(&binary_header([203, 0, 113, 3]));
    h2.call_h2(Method::GET, "/queue", &[], Default::default()).await.expect(401);
    refused_as(&gateway, "unauthenticated", "203.0.113.3").await;
    // The proxy's own health check.
    behind(b"PROXY UNKNOWN\r\n").get("/queue").await.expect(401);
    refused_as(&gateway, "unauthenticated", "127.0.0.2").await;
    assert!(gateway.audit().iter().all(|line| line["client"] != "198.51.100.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_its_proxy_header_or_with_a_strangers_is_closed() {
    let address = free_address();
    let gateway = with_listener(&format!("{}proxy_protocol = true", trusting(address))).await;
    let handshake = async |from: [u8; 4], header: &[u8]| {
        let trust = gateway.trust().after(header);
        comfygate_tests::tls::try_connect(address, Ipv4Addr::from(from), &trust, &["http/1.1"]).await.is_ok()
    };
    let good = b"PROXY TCP4 203.0.113.1 10.0.0.1 4711 443\r\n";
    assert!(handshake(PROXY, good).await);
    assert!(!handshake(PROXY, b"").await);
    refused_as(&gateway, "proxy_header_missing", "127.0.0.2").await;
    assert!(!handshake(PROXY, b"PROXY TCP4 203.0.113.1\r\n").await);
    refused_as(&gateway, "proxy_header_malformed", "127.0.0.2").await;
    assert!(!handshake(STRANGER, good).await);
    refused_as(&gateway, "proxy_header_untrusted", "127.0.0.3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_listener_takes_proxy_headers_too_and_keeps_the_connection() {
    let address = free_address();
    let gateway = with_listener(&format!("{}plain = true\nproxy_protocol = true", trusting(address))).await;
    let mut connection = RawConnection::plain(address, Ipv4Addr::from(PROXY)).await;
    // Header and request in one piece.
    connection.write(&[b"PROXY TCP4 203.0.113.1 10.0.0.1 1 2\r\n".to_vec(), plain_get("/queue", "")].concat()).await;
    assert_eq!(connection.response().await.expect("an answer").status, 401);
    refused_as(&gateway, "unauthenticated", "203.0.113.1").await;
    let credential = format!("x-api-key: {}\r\n", gateway.key("acme"));
    assert_eq!(plain_answer(&mut connection, "/queue", &credential).await.status, 200);
    let mut without = RawConnection::plain(address, Ipv4Addr::from(PROXY)).await;
    without.write(&plain_get("/gate/health", "")).await;
    assert!(without.response().await.is_none(), "answered without a PROXY header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_takes_proxy_headers_too() {
    let address = free_address();
    let gateway = with_listener(&format!("{}redirect = true\nproxy_protocol = true", trusting(address))).await;
    let asked = plain_get("/queue?a=b", "");
    let answer = async |from: [u8; 4], header: &[u8]| {
        let mut connection = RawConnection::plain(address, Ipv4Addr::from(from)).await;
        connection.write(&[header, &asked].concat()).await;
        connection.response().await
    };
    let led = answer(PROXY, &binary_header([203, 0, 113, 6])).await.expect("an answer");
    assert_eq!((led.status, led.header("location")), (308, Some(format!("{}/queue?a=b", gateway.url()).as_str())));
    assert_eq!(answer(PROXY, b"").await, None);
    assert_eq!(answer(STRANGER, &binary_header([203, 0, 113, 6])).await, None);
    refused_as(&gateway, "proxy_header_untrusted", "127.0.0.3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_listener_on_loopback_serves_everything_and_upgrades_for_its_own_pages() {
    let address = free_address();
    let gateway = with_listener(&format!("address = \"{address}\"\nplain = true")).await;
    let credential = format!("x-api-key: {}\r\n", gateway.key("acme"));
    let mut connection = RawConnection::plain(address, Ipv4Addr::LOCALHOST).await;
    assert_eq!(plain_answer(&mut connection, "/queue", &credential).await.status, 200);
    assert_eq!(plain_answer(&mut connection, "/queue", "").await.status, 401);
    let upgrade = format!(
        "{credential}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (origin, status) in [("http://localhost", 101), ("https://localhost", 101), ("http://evil.example", 403)] {
        let mut connection = RawConnection::plain(address, Ipv4Addr::LOCALHOST).await;
        let answer = plain_answer(&mut connection, "/ws", &format!("{upgrade}origin: {origin}\r\n")).await;
        assert_eq!(answer.status, status, "{origin}: {answer:?}");
    }
    // Beside TLS a plain page is somebody else's.
    let over_tls = gateway.client("acme").try_socket("/ws", None, &[("origin", "http://localhost")]).await;
    assert_eq!(over_tls.map(|_| ()), Err(403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_served_with_its_mode_and_its_proxy_is_believed() {
    let trusted = "address = \"unix:gate.sock\"\nplain = true\ntrusted_proxies = [\"unix\"]\n";
    let alone = "[[listen]]\naddress = \"unix:alone.sock\"\nplain = true\nmode = \"0600\"";
    let mut gateway = with_listener(&format!("{trusted}{alone}")).await;
    for (name, mode) in [("gate.sock", 0o660), ("alone.sock", 0o600)] {
        let found = std::fs::metadata(gateway.directory().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let forwarded = "x-forwarded-for: 203.0.113.4\r\n";
    let mut connection = RawConnection::unix(&gateway.directory().join("gate.sock")).await;
    assert_eq!(plain_answer(&mut connection, "/queue", forwarded).await.status, 401);
    refused_as(&gateway, "unauthenticated", "203.0.113.4").await;
    let credential = format!("x-api-key: {}\r\n", gateway.key("acme"));
    assert_eq!(plain_answer(&mut connection, "/queue", &credential).await.status, 200);
    let mut alone = RawConnection::unix(&gateway.directory().join("alone.sock")).await;
    assert_eq!(plain_answer(&mut alone, "/queue", "x-forwarded-for: 203.0.113.5\r\n").await.status, 401);
    refused_as(&gateway, "unauthenticated", "0.0.0.0").await;
    assert!(gateway.audit().iter().all(|line| line["client"] != "203.0.113.5"));
    // A socket that a killed gateway left behind is replaced.
    gateway.restart().await;
    let mut again = RawConnection::unix(&gateway.directory().join("gate.sock")).await;
    assert_eq!(plain_answer(&mut again, "/gate/health", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_socket_is_never_replaced_by_one() {
    let gateway = Gateway::builder()
        .stand_ins(0)
        .gateway_toml("[[listen]]\naddress = \"unix:precious\"\nplain = true")
        .file("precious", "kept")
        .prepare()
        .await;
    let started = gateway.command(&["serve"]);
    assert!(!started.status.success() && said(&started).contains("it is no socket"), "{}", said(&started));
    assert_eq!(std::fs::read_to_string(gateway.directory().join("precious")).unwrap(), "kept");
}

#[test]
fn check_refuses_plain_http_that_other_machines_reach() {
    let dir = tempfile::tempdir().unwrap();
    let checked = |lines: &str| {
        std::fs::write(dir.path().join("g.toml"), format!("[[listen]]\naddress = \"0.0.0.0:8080\"\n{lines}")).unwrap();
        run_in(dir.path(), &["check", "--config", "g.toml"])
    };
    let refused = checked("plain = true\n");
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(
        text.contains("g.toml:3:") && text.contains("credentials") && text.contains("behind_tls_terminator"),
        "{text}"
    );
    let behind = checked("plain = true\nbehind_tls_terminator = true\ntrusted_proxies = [\"10.0.0.2\"]\n");
    assert!(behind.status.success(), "{}", said(&behind));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_carries_more_connections_than_one_address_may_open() {
    let address = free_address();
    // However long it takes to open them, none has to ask before.
    let patient = format!("{}plain = true\n[limits]\nhead_deadline = \"60s\"", trusting(address));
    let _gateway = with_listener(&patient).await;
    // All are open at once before the first one asks.
    let answered = async |from: [u8; 4]| {
        let mut held = Vec::new();
        for _ in 0..300 {
            held.push(RawConnection::plain(address, Ipv4Addr::from(from)).await);
        }
        let mut good = 0;
        for connection in &mut held {
            connection.write(&plain_get("/gate/health", "")).await;
            good += u32::from(connection.response().await.is_some_and(|answer| answer.status == 200));
        }
        good
    };
    assert_eq!(answered(PROXY).await, 300);
    assert_eq!(answered(STRANGER).await, 256, "an address of its own has a cap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_public_path_everything_is_served_there_and_nothing_elsewhere() {
    let stripped = free_address();
    let gateway = Gateway::builder()
        .stand_ins(1)
        .top("public_url = \"https://images.example/comfy\"")
        .gateway_toml(&format!("[[listen]]\naddress = \"{stripped}\"\nprefix_stripped = true"))
        .start()
        .await;
    let acme = gateway.client("acme");
    acme.get("/comfy/queue").await.expect(200);
    acme.get("/comfy/api/queue").await.expect(200);
    acme.call_h2(Method::GET, "/comfy/queue", &[], Default::default()).await.expect(200);
    for outside in
        ["/queue", "/api/queue", "/comfyui/queue", "/%63omfy/queue", "/Comfy/queue", "/", "/comfy/comfy/queue"]
    {
        acme.get(outside).await.expect(404);
    }
    acme.get("/comfy//queue").await.expect(400);
    gateway.stranger().get("/queue").await.expect(401);
    // A health check asks the machine, not the site.
    gateway.stranger().get("/gate/health").await.expect(200);
    gateway.stranger().get("/comfy/gate/health").await.expect(200);
    let slash = gateway.stranger().get("/comfy").await.expect(308);
    assert_eq!(slash.header("location"), Some("/comfy/"));
    assert_eq!(page(&acme, "/comfy/").await.status, 200);

    let envelope = json!({"prompt": workflows::quick("below")});
    let answer = acme.post("/comfy/prompt", &envelope).await.expect(200).json();
    let prompt = answer["prompt_id"].as_str().unwrap();
    let path = format!("/comfy/history/{prompt}");
    let entry = comfygate_tests::eventually("the history entry", || async {
        acme.get(&path).await.json().get(prompt).cloned()
    })
    .await;
    let url = files_of(&entry)[0]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("https://images.example/comfy/gate/files/"), "{url}");
    gateway.stranger().get(&acme.path_of(&url)).await.expect(200);
    let mut socket =
        acme.try_socket("/comfy/ws", None, &[("origin", "https://images.example")]).await.expect("upgraded");
    assert!(matches!(socket.next_event().await, comfygate_tests::Event::Json { .. }));
    assert!(acme.try_socket("/ws", None, &[]).await.is_err());

    let behind = gateway.stranger_at(stripped, gateway.trust()).bearer(&gateway.key("acme"));
    behind.get("/queue").await.expect(200);
    behind.get("/comfy/queue").await.expect(404);
    let taken_off = acme.path_of(&url).strip_prefix("/comfy").unwrap().to_owned();
    gateway.stranger_at(stripped, gateway.trust()).get(&taken_off).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_public_path_a_login_leads_and_its_cookie_goes_there_too() {
    let stripped = free_address();
    let gateway = Gateway::builder()
        .stand_ins(1)
        .top("public_url = \"https://images.example/comfy\"")
        .gateway_toml(&format!("[[listen]]\naddress = \"{stripped}\"\nprefix_stripped = true"))
        .start()
        .await;
    let person = [("sec-fetch-mode", "navigate"), ("sec-fetch-site", "none"), ("accept", "text/html")];
    let leads_to = async |client: &Client, path: &str| {
        let answer = client.with_headers(&person).get(path).await.expect(303);
        answer.header("location").unwrap().to_owned()
    };
    let (kept, taken) = (gateway.stranger(), gateway.stranger_at(stripped, gateway.trust()));
    assert_eq!(leads_to(&kept, "/comfy/queue").await, "/comfy/gate/login?next=/comfy/queue");
    assert_eq!(leads_to(&kept, "/comfy/").await, "/comfy/gate/login");
    assert_eq!(leads_to(&kept, "/queue").await, "/comfy/gate/login");
    // The links are the browser's, whoever takes the prefix off on the way.
    assert_eq!(leads_to(&taken, "/queue").await, "/comfy/gate/login?next=/comfy/queue");
    for (client, form) in [(&kept, "/comfy/gate/login"), (&taken, "/gate/login")] {
        let refused = post_login(client, &format!("{form}?next=/comfy/queue"), "cg_wrong").await.expect(401);
        assert!(refused.text().contains("action=\"/comfy/gate/login?next=/comfy/queue\""), "{}", refused.text());
        let answer = post_login(client, form, &gateway.key("acme")).await.expect(303);
        assert_eq!(answer.header("location"), Some("/comfy/"));
        let cookie = answer.header("set-cookie").unwrap();
        assert!(cookie.starts_with("__Secure-comfygate-") && cookie.contains("; Path=/comfy;"), "{cookie}");
        let session = cookie.split(';').next().unwrap();
        let queue = form.replace("gate/login", "queue");
        client.with_headers(&[("cookie", session)]).get(&queue).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_hear_nothing_of_what_proxies_wrote() {
    let address = free_address();
    let gateway = with_listener(&trusting(address)).await;
    let acme = gateway.stranger_at(address, gateway.trust()).from_address(PROXY).bearer(&gateway.key("acme"));
    let headers = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=203.0.113.7;host=evil.example"),
        ("x-real-ip", "203.0.113.7"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
        ("via", "1.1 evil"),
    ];
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let asked = format!("GET / HTTP/1.1\r\nhost: {}\r\n{}{lines}\r\n", acme.authority(), acme.credential_lines());
    assert_eq!(acme.raw(asked.as_bytes()).await.expect("an answer").status, 200);
    let typed = [&headers[..], &[("content-type", "application/json")]].concat();
    let body = json!({"prompt": workflows::quick("quiet")}).to_string();
    let answer = acme.call(Method::POST, "/prompt", &typed, body.into()).await.expect(200).json();
    acme.finished(answer["prompt_id"].as_str().unwrap()).await;
    let seen = gateway.stand_ins()[0].requests();
    assert!(seen.iter().any(|(_, path, _)| path == "/") && seen.iter().any(|(_, path, _)| path.contains("prompt")));
    for (method, path, heard) in &seen {
        for (name, value) in heard {
            let told = headers.iter().any(|(header, text)| name == *header || value == *text);
            assert!(!told, "{method} {path}: {name}: {value:?}");
        }
    }
    // Nor is our own name taken from there.
    assert!(!answer.to_string().contains("evil"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_is_served_as_ipv4_is() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skipped("this machine has no IPv6");
    }
    let address = SocketAddr::new("::1".parse().unwrap(), free_address().port());
    let proxied = SocketAddr::new("::1".parse().unwrap(), free_address().port());
    let gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml(&format!(
            "[[listen]]\naddress = \"{address}\"\n[[listen]]\naddress = \"{proxied}\"\ntrusted_proxies = [\"::1\"]"
        ))
        .start()
        .await;
    let client = gateway.stranger_at(address, gateway.trust());
    client.bearer(&gateway.key("acme")).get("/queue").await.expect(200);
    assert_eq!(forwarded(&client, &["2001:db8::7"]).await, 401);
    refused_as(&gateway, "unauthenticated", "::1").await;
    assert_eq!(forwarded(&gateway.stranger_at(proxied, gateway.trust()), &["2001:db8::8"]).await, 401);
    refused_as(&gateway, "unauthenticated", "2001:db8::8").await;
    assert!(gateway.audit().iter().all(|line| line["client"] != "2001:db8::7"));
}
