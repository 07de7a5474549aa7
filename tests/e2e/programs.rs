//! What client libraries do that the page does not: bodies without a type, Basic, other names of routes.

use comfygate_tests::{Gateway, workflows};
use http::Method;
use serde_json::json;

/// What their HTTP libraries call JSON: aiohttp, Node's fetch, Python's urllib and requests.
const MADE_UP: [Option<&str>; 4] = [
    None,
    Some("text/plain;charset=UTF-8"),
    Some("application/octet-stream"),
    Some("application/x-www-form-urlencoded"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_programs_json_is_taken_whatever_its_library_calls_it_and_a_pages_is_not() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let (_, token) = acme.credential()[0].clone();
    let key = token.trim_start_matches("Bearer ").to_owned();
    let basic = gateway.stranger().basic("anybody", &key);
    for (client, content_type) in MADE_UP.iter().flat_map(|kind| [(&acme, kind), (&basic, kind)]) {
        let typed: Vec<(&str, &str)> = content_type.iter().map(|kind| ("content-type", *kind)).collect();
        let body = json!({"prompt": workflows::quick("typed")}).to_string();
        client.call(Method::POST, "/prompt", &typed, body.clone().into()).await.expect(200);
        client.call(Method::POST, "/queue", &typed, r#"{"clear": true}"#.into()).await.expect(200);
        for page in [("origin", gateway.url()), ("sec-fetch-site", "same-origin".to_owned())] {
            let of_a_page = [typed.clone(), vec![(page.0, page.1.as_str())]].concat();
            let answer = client.call(Method::POST, "/prompt", &of_a_page, body.clone().into()).await;
            assert_eq!(answer.status.as_u16(), 415, "{content_type:?} from a page ({})", page.0);
        }
    }
    for strange in ["text/plain; charset=utf-16", "text/html", "multipart/form-data; boundary=x", "application/json5"] {
        acme.post_bytes("/prompt", strange, json!({"prompt": workflows::quick("x")}).to_string()).await.expect(415);
    }
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    acme.call(Method::POST, "/prompt", &[], utf16.into()).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_has_a_second_name_for_who_takes_the_gateway_for_a_cloud() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let prompt = acme.submit(workflows::quick("twice")).await;
    acme.finished(&prompt).await;
    let (first, second) = (
        acme.get(&format!("/history/{prompt}")).await.expect(200),
        acme.get(&format!("/api/history_v2/{prompt}")).await.expect(200),
    );
    assert_eq!(
        first.json()[&prompt]["outputs"]["9"]["images"][0]["filename"],
        second.json()[&prompt]["outputs"]["9"]["images"][0]["filename"]
    );
    assert_eq!(bravo.get(&format!("/api/history_v2/{prompt}")).await.expect(200).json(), json!({}));
    acme.get(&format!("/history_v2/{prompt}")).await.expect(404);
}
