//! The bypass catalogue, entries 1 to 35: each is sent as raw bytes through TLS. A refused one must leave no trace at the backend; a defused one
//! must arrive there without what made it dangerous.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

use comfygate_tests::{Client, Gateway, StandIn, bypass, eventually, workflows};
use http::Method;
use serde_json::{Value, json};

/// What the gateway asks a backend of its own accord, and nothing else may be asked while only refused requests come in.
const OWN_QUESTIONS: &[&str] = &["/prompt", "/queue", "/history", "/object_info", "/system_stats", "/ws"];

async fn gateway() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

fn is_the_gateways_own(method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    method == Method::GET && (OWN_QUESTIONS.contains(&path) || path.starts_with("/history/"))
}

/// Sends the entry's requests; afterwards the backend has seen nothing of them, and the gateway still works.
async fn refused_without_a_trace(entry: u8) {
    let (gateway, acme) = gateway().await;
    let backend = &gateway.stand_ins()[0];
    let before = backend.requests().len();
    bypass::refused(entry, &acme).await;
    assert!(backend.submissions().is_empty(), "arrived: {:?}", backend.submissions());
    for seen in backend.requests().iter().skip(before) {
        assert!(is_the_gateways_own(&seen.0, &seen.1), "arrived: {} {}", seen.0, seen.1);
    }
    let prompt = acme.submit(workflows::quick("still-alive")).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    assert!(backend.is_running());
}

/// The one submission that arrives for a job that is accepted.
async fn arrived(backend: &StandIn, before: usize) -> Value {
    eventually("the submission arrives", || async { backend.submissions().get(before).cloned() }).await
}

/// Submits the entry's envelopes; what arrives has exactly the members that the gateway writes.
async fn arrives_clean(entry: u8) -> (Gateway, Vec<Value>) {
    let (gateway, acme) = gateway().await;
    let mut all = Vec::new();
    for envelope in bypass::defused(entry) {
        let prompt = acme.submit_with(envelope.clone()).await;
        let submission = arrived(&gateway.stand_ins()[0], all.len()).await;
        for name in submission.as_object().unwrap().keys() {
            assert!(
                ["prompt", "prompt_id", "client_id", "extra_data", "partial_execution_targets"]
                    .contains(&name.as_str()),
                "{submission}"
            );
        }
        assert_ne!(submission["prompt_id"], json!(prompt), "the id upstream is the gateway's own");
        assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success", "{envelope}");
        all.push(submission);
    }
    assert!(!all.is_empty());
    (gateway, all)
}

macro_rules! refused {
    ($($name:ident = $entry:literal)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            refused_without_a_trace($entry).await;
        }
    )*};
}

refused! {
    bypass_01_another_charset_is_refused = 1
    bypass_02_a_compressed_body_is_refused = 2
    bypass_03_any_content_encoding_is_refused_however_it_is_spelt = 3
    bypass_04_duplicate_keys_are_refused_at_every_depth_after_unescaping = 4
    bypass_05_numbers_that_are_not_finite_are_refused = 5
    bypass_06_an_integer_of_4301_digits_is_refused = 6
    bypass_07_a_lone_surrogate_is_refused = 7
    bypass_08_deep_nesting_is_refused = 8
    bypass_09_a_byte_order_mark_is_refused = 9
    bypass_10_a_simple_cross_site_content_type_is_refused = 10
    bypass_11_ambiguous_framing_is_refused = 11
    bypass_12_two_hosts_or_an_absolute_target_are_refused = 12
    bypass_13_too_much_json_is_refused = 13
    bypass_15_a_second_api_prefix_is_not_there = 15
    bypass_16_an_encoded_path_is_refused = 16
    bypass_17_odd_paths_are_refused_and_never_repaired = 17
    bypass_18_the_model_preview_route_is_not_there = 18
    bypass_19_a_doubly_encoded_userdata_name_is_refused = 19
    bypass_20_duplicate_query_keys_are_refused = 20
    bypass_21_head_and_options_need_the_same_credential = 21
    bypass_22_routes_of_node_packs_are_not_there = 22
    bypass_24_a_prompt_id_that_is_no_label_is_refused = 24
    bypass_26_a_number_that_is_not_a_number_is_refused = 26
    bypass_28_a_client_id_that_is_no_text_is_refused = 28
    bypass_31_a_class_that_stores_script_is_refused = 31
    bypass_33_a_preview_method_is_one_of_five = 33
    bypass_34_targets_are_a_list_of_own_ids = 34
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_14_the_api_prefix_leads_to_the_same_decision() {
    let (gateway, acme) = gateway().await;
    let envelope = &bypass::defused(14)[0];
    let answer = acme.post("/api/prompt", envelope).await.expect(200).json();
    acme.finished(answer["prompt_id"].as_str().unwrap()).await;
    let denied = json!({"prompt": {"1": {"class_type": "SaveSVGNode", "inputs": {}}}});
    let (plain, api) = (acme.post("/prompt", &denied).await, acme.post("/api/prompt", &denied).await);
    assert_eq!(plain.without_request_id(), api.without_request_id());
    assert!(plain.status.is_client_error());
    assert_eq!(gateway.stand_ins()[0].submissions().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_21_head_and_options_answer_an_authenticated_caller_without_asking_the_backend() {
    let (_gateway, acme) = gateway().await;
    let head = acme.call(Method::HEAD, "/history", &[], Vec::new().into()).await.expect(200);
    assert!(head.body.is_empty());
    let options = acme.call(Method::OPTIONS, "/prompt", &[], Vec::new().into()).await.expect(204);
    let allowed = options.header("allow").unwrap();
    assert!(allowed.contains("POST") && allowed.contains("GET") && !allowed.contains("DELETE"), "{allowed}");
    assert!(options.header("access-control-allow-origin").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_23_a_prompt_id_is_a_label_of_its_owner() {
    let (gateway, acme) = gateway().await;
    let bravo = gateway.client("bravo");
    let envelope = &bypass::defused(23)[0];
    let victim = acme.submit_with(envelope.clone()).await;
    let before = acme.finished(&victim).await;
    let same = bravo.submit_with(envelope.clone()).await;
    assert_eq!((victim.as_str(), same.as_str()), ("the-victims-prompt", "the-victims-prompt"));
    bravo.finished(&same).await;
    let after = acme.finished(&victim).await;
    assert_eq!(before["status"], after["status"], "the victim's entry is as it was");
    let submissions = gateway.stand_ins()[0].submissions();
    assert_eq!(submissions.len(), 2);
    assert_ne!(submissions[0]["prompt_id"], submissions[1]["prompt_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_25_number_and_front_do_not_arrive() {
    arrives_clean(25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_27_a_client_id_of_another_does_not_arrive() {
    let (_gateway, submissions) = arrives_clean(27).await;
    for submission in &submissions {
        assert!(!submission.to_string().contains("the-victims-sid"), "{submission}");
        assert_eq!(submission["client_id"], submissions[0]["client_id"], "one secret sid a backend");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_29_a_client_id_is_always_set_upstream() {
    let (_gateway, submissions) = arrives_clean(29).await;
    for submission in &submissions {
        assert!(submission["client_id"].as_str().is_some_and(|id| id.len() >= 16), "{submission}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_30_extra_data_is_rebuilt_from_objects_only() {
    let (_gateway, submissions) = arrives_clean(30).await;
    for submission in &submissions {
        let info = &submission["extra_data"]["extra_pnginfo"];
        assert!(
            info.is_null() && submission["extra_data"].get("extra_pnginfo").is_none() || info["workflow"].is_object(),
            "{submission}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_32_secrets_do_not_arrive() {
    let (_gateway, submissions) = arrives_clean(32).await;
    for submission in &submissions {
        assert!(!submission.to_string().contains("the-secret"), "{submission}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_35_what_is_not_of_the_envelope_does_not_arrive() {
    let (gateway, submissions) = arrives_clean(35).await;
    for submission in &submissions {
        assert!(!submission.to_string().contains("the-extra"), "{submission}");
    }
    // Nor does a header by which an extension is told where a submission comes from.
    let acme = gateway.client("acme");
    let headers = [("content-type", "application/json"), ("comfy-usage-source", "the-extra")];
    let body = bypass::defused(14)[0].to_string();
    acme.call(Method::POST, "/prompt", &headers, body.into()).await.expect(200);
    let last = arrived(&gateway.stand_ins()[0], submissions.len()).await;
    assert!(!last.to_string().contains("the-extra"), "{last}");
}
