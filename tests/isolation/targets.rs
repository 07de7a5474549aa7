//! The bypass catalogue, entries 11 to 22 and 34, in spellings of our own; those of the catalogue itself are in `bypass/`.

use crate::wire::{gets, posts, refused, request, two};
use comfygate_tests::workflows;
use http::Method;
use serde_json::{Value, json};

fn body() -> Value {
    json!({"prompt": workflows::quick("bypass")})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_011_further_ambiguous_framings_are_refused_and_what_follows_them_is_not_answered() {
    let (gateway, acme, _) = two().await;
    let text = body().to_string();
    let chunked = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let framed = |headers: &str, body: &str| {
        let headers = format!("content-type: application/json\r\n{headers}");
        (headers.clone(), request(&acme, "POST /prompt HTTP/1.1", &headers, body.as_bytes()))
    };
    let length = text.len();
    let requests = vec![
        framed("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", &chunked),
        framed("transfer-encoding: chunked, chunked\r\n", &chunked),
        framed("transfer-encoding: identity\r\n", &text),
        framed("transfer-encoding: \"chunked\"\r\n", &chunked),
        framed("transfer-encoding: chunked;a=b\r\n", &chunked),
        framed("transfer-encoding: chunked\r\ncontent-length: 0\r\n", &chunked),
        framed(&format!("content-length: 0x{length:x}\r\n"), &text),
        framed(&format!("content-length: {length} {length}\r\n"), &text),
        framed("content-length: -1\r\n", &text),
        framed("content-length: 99999999999999999999\r\n", &text),
        framed(&format!("content-length: {length}\r\ncontent_length: 3\r\nContent-Length : 3\r\n"), &text),
    ];
    refused(&gateway, &acme, requests, &[400, 413]).await;
    // A second request in the body of an ambiguous first one.
    let hidden = String::from_utf8(request(&acme, "GET /gate/me HTTP/1.1", "", b"")).unwrap();
    let (_, smuggling) = framed("content-length: 5\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n\r\n{hidden}"));
    let mut connection = acme.raw_connection().await;
    connection.write(&smuggling).await;
    assert_eq!(connection.response().await.unwrap().status, 400);
    assert!(connection.response().await.is_none(), "what stood behind it was answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_012_further_hosts_and_targets_are_refused() {
    let (gateway, acme, _) = two().await;
    let credential = acme.credential_lines();
    let authority = acme.authority();
    let with =
        |line: &str, host: &str| (format!("{line} {host}"), format!("{line}\r\n{host}{credential}\r\n").into_bytes());
    let requests = vec![
        with("GET /queue HTTP/1.1", "host: \r\n"),
        with("GET /queue HTTP/1.1", &format!("host: acme@{authority}\r\n")),
        with("GET /queue HTTP/1.1", &format!("host: {authority}, evil.example\r\n")),
        with("GET /queue HTTP/1.1", &format!("host: {authority}/gate\r\n")),
        with("GET //evil.example/queue HTTP/1.1", &format!("host: {authority}\r\n")),
        with("GET HTTPS://localhost/queue HTTP/1.1", &format!("host: {authority}\r\n")),
        with("GET ws://localhost/ws HTTP/1.1", &format!("host: {authority}\r\n")),
        with("GET * HTTP/1.1", &format!("host: {authority}\r\n")),
        with("CONNECT 127.0.0.1:8188 HTTP/1.1", &format!("host: {authority}\r\n")),
    ];
    refused(&gateway, &acme, requests, &[400, 404, 405]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_013_one_long_text_and_many_links_are_refused_within_bounds() {
    let (gateway, acme, _) = two().await;
    let mut long = workflows::quick("x");
    long["9"]["inputs"]["filename_prefix"] = json!("x".repeat(3 << 20));
    let mut many = workflows::quick("x");
    for number in 100..700 {
        many[number.to_string()] = json!({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}});
    }
    let mut wide = workflows::quick("x");
    for number in 0..100_000 {
        wide["1"]["inputs"][format!("x{number}")] = json!(["1", 0]);
    }
    for graph in [long, many, wide] {
        let requests = posts(&acme, &["/prompt"], &json!({"prompt": graph}));
        refused(&gateway, &acme, requests, &[400, 403, 413]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_014_both_prefixes_decide_alike_over_http_2_too() {
    let (gateway, acme, _) = two().await;
    let denied = json!({"prompt": workflows::picture("x", 5000, 8)}).to_string();
    let json_type = [("content-type", "application/json")];
    let plain = acme.call_h2(Method::POST, "/prompt", &json_type, denied.clone().into()).await;
    let api = acme.call_h2(Method::POST, "/api/prompt", &json_type, denied.into()).await;
    assert_eq!((plain.status.as_u16(), plain.code()), (403, api.code()));
    assert_eq!(plain.without_request_id().2, api.without_request_id().2);
    for (plain, api) in
        [("/queue", "/api/queue"), ("/history/x", "/api/history/x"), ("/view?filename=x", "/api/view?filename=x")]
    {
        assert_eq!(acme.get(plain).await.without_request_id(), acme.get(api).await.without_request_id());
    }
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_015_to_017_paths_that_another_reader_might_take_for_a_route_are_not_there() {
    let (gateway, acme, _) = two().await;
    let targets = [
        // 15: the prefix twice, in capitals, or before what has none.
        "/api/api/queue",
        "/API/queue",
        "/api/internal/files/output",
        "/api/gate/me",
        "/apiqueue",
        // 16: encoded, once, twice, or in halves.
        "/%61pi/queue",
        "/qu%65ue",
        "/%2Fqueue",
        "/queue%2F",
        "/%2571ueue",
        "/queu%C1%A5",
        "/queue%",
        "/queue%2",
        // 17: dots, blanks, and what ends a path elsewhere.
        "/queue/.",
        "/x/%2E%2E/queue",
        "/%2e/queue",
        "/queue%20",
        "/queue%09",
        "/queue;jsessionid=1",
        "/queue\\",
        "/queue%5C",
        "/queue%00.png",
        "/queue%0A",
        "/queue%23",
        "/Queue",
        "/queue.",
        "/./queue",
    ];
    refused(&gateway, &acme, gets(&acme, &targets), &[400, 404]).await;
    let targets = ["/api/api/prompt", "/prompt%20", "/prompt.json", "/prompt/x", "/api/prompt%2f", "/promp%74?x=1"];
    refused(&gateway, &acme, posts(&acme, &targets, &body()), &[400, 404, 405]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_018_the_preview_route_is_not_there_for_sound_names_either() {
    let (gateway, acme, _) = two().await;
    let targets = [
        "/experiment/models/preview/checkpoints/0/model.png",
        "/api/experiment/models/preview/loras/0/x.webp",
        "/api/experiment/models/preview/checkpoints/0/..%5C..%5Cinput%5Cx.png",
        "/experiment/models/preview/checkpoints/-1/..%2F..%2Fx.png",
    ];
    refused(&gateway, &acme, gets(&acme, &targets), &[400, 404]).await;
    // One segment more than a folder has: neither the preview's route nor the folder's.
    refused(&gateway, &acme, gets(&acme, &["/experiment/models/checkpoints/0/x.png"]), &[404]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_019_further_spellings_of_a_userdata_name_lead_nowhere() {
    let (gateway, acme, bravo) = two().await;
    acme.post_bytes("/userdata/workflows%2Fa.json", "text/plain", "secret").await.expect(200);
    let targets = [
        "/userdata/..%5Cworkflows%5Ca.json",
        "/userdata/%2E%2E%2Facme%2Fworkflows%2Fa.json",
        "/userdata/workflows%2F.%2Fa.json",
        "/userdata/workflows%2F%2Fa.json",
        "/userdata/%2Fworkflows%2Fa.json",
        "/userdata/workflows%252Fa.json",
        "/userdata/C%3A%2Fa.json",
        "/userdata/a%00.json",
        "/v2/userdata?path=..%2Facme",
        "/v2/userdata?path=%252e%252e%2Facme",
        "/userdata?dir=..%2F..%2Facme%2Fworkflows",
    ];
    for client in [&acme, &bravo] {
        for (what, bytes) in gets(client, &targets) {
            let answer = client.raw(&bytes).await.unwrap();
            assert!([400, 403, 404].contains(&answer.status), "{what}: {} {}", answer.head, answer.text());
        }
    }
    assert!(gateway.stand_ins()[0].requests().iter().all(|seen| !seen.1.contains("userdata")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_020_a_key_that_is_spelt_twice_in_different_ways_is_refused() {
    let (gateway, acme, _) = two().await;
    let targets = [
        "/history?max_items=1&max_items=2",
        "/view?filename=a.png&%66ilename=b.png",
        "/view?filename=a.png&type=input&subfolder=&subfolder=x",
        "/ws?clientId=a&clientId=b",
        "/ws?clientId=a&client%49d=b",
        "/userdata?dir=a&dir=b",
        "/api/jobs?status=pending&status=completed",
        "/v2/userdata?path=a&path=",
    ];
    refused(&gateway, &acme, gets(&acme, &targets), &[400]).await;
    // An ampersand in capitals of its encoding is part of a value, and a semicolon no separator.
    acme.get("/view?filename=a.png%26type=input").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_021_head_and_options_tell_no_more_than_get_does() {
    let (gateway, acme, bravo) = two().await;
    let prompt = acme.submit(workflows::quick("seen")).await;
    acme.finished(&prompt).await;
    let none = "00000000-0000-4000-8000-000000000000";
    for method in [Method::HEAD, Method::OPTIONS] {
        for path in ["/history", "/api/jobs"] {
            let foreign = bravo.call(method.clone(), &format!("{path}/{prompt}"), &[], bytes::Bytes::new()).await;
            let nothing = bravo.call(method.clone(), &format!("{path}/{none}"), &[], bytes::Bytes::new()).await;
            assert_eq!(foreign.without_request_id(), nothing.without_request_id(), "{method} {path}");
        }
    }
    gateway.settled().await;
    let before = gateway.stand_ins()[0].requests().len();
    // A method that a header names is not one.
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let answer = acme.call(Method::GET, "/queue", &[(name, "POST")], bytes::Bytes::new()).await.expect(200);
        assert!(answer.json()["queue_running"].is_array(), "{name}");
    }
    for method in ["TRACE", "PROPFIND", "get", "POST2"] {
        let answer = acme.raw(&request(&acme, &format!("{method} /queue HTTP/1.1"), "", b"")).await.unwrap();
        assert!([400, 404, 405, 501].contains(&answer.status), "{method}: {}", answer.head);
    }
    assert_eq!(crate::wire::strange_requests(&gateway.stand_ins()[0], before), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_022_no_route_of_a_pack_is_there_however_it_dresses_up() {
    let (gateway, acme, _) = two().await;
    let read = [
        "/extensions/pack/run",
        "/extensions/pack/api/run.php",
        "/impact/view/validate",
        "/api/impact/queue",
        "/crystools/monitor",
        "/rgthree/api/loras",
        "/vhs/viewvideo?filename=x",
        "/pysssss/autocomplete",
    ];
    refused(&gateway, &acme, gets(&acme, &read), &[400, 404]).await;
    let written = [
        "/easyuse/save/x",
        "/upload/any",
        "/upload/image/x",
        "/rgthree/api/loras/info",
        "/extensions/pack/x.js",
        "/queue/x",
    ];
    refused(&gateway, &acme, posts(&acme, &written, &json!({})), &[400, 404, 405]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_034_targets_are_a_bounded_list_of_own_output_nodes() {
    let (gateway, acme, _) = two().await;
    let with = |targets: Value| json!({"prompt": workflows::quick("x"), "partial_execution_targets": targets});
    for targets in [
        json!([["9"]]),
        json!([null]),
        json!(["99"]),
        json!([{"id": "9"}]),
        json!(true),
        json!(["9 "]),
        json!(vec!["8"; 10_000]),
    ] {
        refused(&gateway, &acme, posts(&acme, &["/prompt"], &with(targets)), &[400, 403, 413]).await;
    }
    // The whole graph counts, whatever of it is asked for.
    let mut hidden = workflows::quick("x");
    hidden["20"] =
        json!({"class_type": "EmptyImage", "inputs": {"width": 16000, "height": 16000, "batch_size": 64, "color": 0}});
    hidden["21"] = json!({"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "x"}});
    let envelope = json!({"prompt": hidden, "partial_execution_targets": ["9"]});
    refused(&gateway, &acme, posts(&acme, &["/prompt"], &envelope), &[403]).await;
}
