//! Stage 6: backends behind TLS, unix sockets, path prefixes and proxies that want a key.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::fast;
use comfygate_tests::relay::{self, Authority, Identity};
use comfygate_tests::{Gateway, StandIn, eventually, workflows};
use serde_json::json;
use std::net::SocketAddr;

/// A job with its events, its file, and a file of the page: each of our three clients has reached the backend.
async fn carries_everything(gateway: &Gateway) {
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    let prompt = acme.submit_with(json!({"prompt": workflows::quick("far"), "client_id": "watcher"})).await;
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let events = socket.until_end_of(&prompt).await;
    assert!(
        events.iter().any(|event| event.kind() == "execution_cached"),
        "an event that only the backend's socket brings"
    );
    let files = files_of(&entry);
    assert_eq!(files.len(), 1, "{entry}");
    let url = files[0]["url"].as_str().expect("a signed URL");
    let picture = gateway.stranger().get(&acme.path_of(url)).await.expect(200);
    assert!(picture.body.starts_with(b"\x89PNG"));
    // Twice: a connection that was kept must not come without prefix and key either.
    for _ in 0..2 {
        let page = acme.get("/").await.expect(200);
        assert!(page.text().contains("ComfyUI stand-in"), "{}", page.text());
    }
}

fn tls_lines(server_name: &str) -> String {
    format!(
        "ca = \"ca.pem\"\nserver_name = \"{server_name}\"\nclient_certificate = \"client.pem\"\nclient_key = \"client.key\"\n"
    )
}

/// A gateway before one TLS backend that calls itself `gpu0.rack` and lets in who shows a certificate of `clients`.
fn behind_tls(
    address: SocketAddr,
    ca: &Authority,
    client: &Identity,
    lines: &str,
) -> comfygate_tests::gateway::Builder {
    Gateway::builder()
        .backends(&[format!("https://{address}")])
        .backend_lines(0, lines)
        .file("ca.pem", &ca.pem)
        .file("client.pem", &client.certificate)
        .file("client.key", &client.key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_behind_tls_with_an_own_ca_and_client_certificates_carries_everything() {
    let comfyui = StandIn::start(fast()).await.unwrap();
    let (ca, clients) = (Authority::new(), Authority::new());
    let (address, passed) = relay::tls(comfyui.addr(), &ca.identity("gpu0.rack"), &clients).await;
    let client = clients.identity("gateway");
    let gateway = behind_tls(address, &ca, &client, &tls_lines("gpu0.rack")).start().await;
    carries_everything(&gateway).await;
    assert_eq!(passed.refused(), 0);
    assert!(passed.through() > 4);
    for (_, path, headers) in comfyui.requests() {
        assert_eq!(headers["host"], address.to_string().as_str(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_backend_of_another_ca_or_name_is_never_sent_anything() {
    let comfyui = StandIn::start(fast()).await.unwrap();
    let (ca, other, clients) = (Authority::new(), Authority::new(), Authority::new());
    let (address, passed) = relay::tls(comfyui.addr(), &ca.identity("gpu0.rack"), &clients).await;
    let client = clients.identity("gateway");
    for (trusted, name) in [(&other, "gpu0.rack"), (&ca, "gpu1.rack")] {
        let before = passed.refused();
        let mut gateway = behind_tls(address, trusted, &client, &tls_lines(name)).prepare().await;
        gateway.start().await;
        eventually("the backend is tried", || async { (passed.refused() > before).then_some(()) }).await;
        let prompt = gateway.client("acme").submit(workflows::quick("waits")).await;
        let queue = gateway.client("acme").get("/queue").await.expect(200).json();
        assert_eq!(queue["queue_pending"][0][1], prompt.as_str());
    }
    assert_eq!(comfyui.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_backend_that_does_not_accept_our_certificate_is_down_and_the_others_run_the_jobs() {
    let (secured, plain) = (StandIn::start(fast()).await.unwrap(), StandIn::start(fast()).await.unwrap());
    let (ca, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (address, _) = relay::tls(secured.addr(), &ca.identity("gpu0.rack"), &clients).await;
    let client = strangers.identity("gateway");
    let mut gateway = behind_tls(address, &ca, &client, &tls_lines("gpu0.rack"))
        .backends(&[format!("https://{address}"), plain.url()])
        .prepare()
        .await;
    gateway.start().await;
    gateway.backend_is(1, true).await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("elsewhere")).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    assert_eq!((secured.requests().len(), plain.executed().len()), (0, 1));
    gateway.backend_is(0, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_on_a_unix_socket_carries_everything() {
    let comfyui = StandIn::start(fast()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("comfyui.sock");
    let passed = relay::unix(&path, comfyui.addr());
    let gateway = Gateway::builder().backends(&[format!("unix:{}", path.display())]).start().await;
    carries_everything(&gateway).await;
    assert!(passed.through() > 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_behind_a_prefix_and_a_key_carries_everything_and_the_key_is_told_nobody() {
    const KEY: &str = "a-key-that-nobody-else-knows";
    let comfyui = StandIn::start(fast()).await.unwrap();
    let (address, passed) =
        relay::prefixed(comfyui.addr(), "/farm/gpu0", "x-backend-key: a-key-that-nobody-else-knows").await;
    let gateway = Gateway::builder()
        .backends(&[format!("http://{address}/farm/gpu0")])
        .backend_lines(0, "headers = { X-Backend-Key = \"file:backend.key\" }\n")
        .file("backend.key", &format!("{KEY}\n"))
        .start()
        .await;
    carries_everything(&gateway).await;
    assert!(passed.through() > 4);
    let seen = comfyui.requests();
    assert!(seen.iter().all(|(_, path, _)| !path.contains("farm")), "the proxy took the prefix away");
    assert!(seen.iter().all(|(_, _, headers)| headers["x-backend-key"] == KEY));
    let status = gateway.command(&["check"]);
    let said = comfygate_tests::gateway::said(&status);
    for text in [gateway.log_text(), gateway.metrics().await, said, format!("{:?}", gateway.audit())] {
        assert!(!text.contains(KEY), "{text}");
    }
}
