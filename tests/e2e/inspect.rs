//! Stage 5: bad input is refused with what and where; what passes is rewritten before it goes upstream.

use comfygate_tests::{Client, Gateway, Response, StandIn, eventually, workflows};
use serde_json::{Value, json};

async fn gateway() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

async fn posted(client: &Client, body: &str) -> Response {
    client.post_bytes("/prompt", "application/json", body.to_owned()).await
}

fn error(answer: &Response) -> Value {
    answer.json()["error"].clone()
}

/// The submission that arrives at a backend after those known.
async fn arrived(backend: &StandIn, before: usize) -> Value {
    eventually("the submission arrives", || async { backend.submissions().get(before).cloned() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_json_is_400_with_line_and_column() {
    let (_gateway, acme) = gateway().await;
    let cases = [
        ("{\n  \"prompt\": {,}\n}", "line 2, column 14"),
        ("{\"prompt\":{}}x", "line 1, column 14"),
        ("", "line 1, column 1"),
    ];
    for (body, place) in cases {
        let answer = posted(&acme, body).await.expect(400);
        let error = error(&answer);
        assert!(error["details"].as_str().unwrap().contains(place), "{body:?}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(answer.json()["node_errors"], json!({}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_key_is_400_with_its_pointer() {
    let (_gateway, acme) = gateway().await;
    let body = workflows::quick("x").to_string().replacen("\"width\":64", "\"width\":64,\"width\":65", 1);
    let answer = posted(&acme, &format!("{{\"prompt\":{body}}}")).await.expect(400);
    assert_eq!(answer.code(), "duplicate_key");
    assert_eq!(error(&answer)["extra_info"]["pointer"], "/prompt/1/inputs/width", "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_is_refused_just_over_the_bound() {
    let (_gateway, acme) = gateway().await;
    let nested = |depth: usize| {
        let list = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        format!(
            "{{\"prompt\":{},\"extra_data\":{{\"extra_pnginfo\":{{\"workflow\":{{\"x\":{list}}}}}}}}}",
            workflows::quick("deep")
        )
    };
    posted(&acme, &nested(40)).await.expect(200);
    let refused = posted(&acme, &nested(80)).await;
    assert!(matches!(refused.status.as_u16(), 400 | 413), "{}", refused.text());
    assert_eq!(refused.code(), "too_deep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_charset_coding_or_type_is_415_and_says_what_is_taken() {
    let (gateway, acme) = gateway().await;
    let body = json!({"prompt": workflows::quick("x")}).to_string();
    for content_type in
        ["text/html", "application/json; charset=utf-16", "application/xml", "multipart/form-data; boundary=x"]
    {
        let answer = acme.post_bytes("/prompt", content_type, body.clone()).await.expect(415);
        assert!(error(&answer)["message"].as_str().unwrap().contains("application/json"), "{}", answer.text());
    }
    for content_type in
        ["application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"]
    {
        acme.post_bytes("/prompt", content_type, body.clone()).await.expect(200);
    }
    let coded = [("content-type", "application/json"), ("content-encoding", "gzip")];
    acme.call(http::Method::POST, "/prompt", &coded, body.into()).await.expect(415);
    eventually("four arrived", || async { (gateway.stand_ins()[0].submissions().len() == 4).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_violation_is_told_at_once_at_its_node() {
    let (gateway, acme) = gateway().await;
    let prompt = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 5000, "height": 5000, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveSVGNode", "inputs": {"svg": ["1", 0], "filename_prefix": "x"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../x"}},
        "4": {"class_type": "EmptyImage", "inputs": {"width": "64", "height": 64, "batch_size": 17, "color": 0, "zzz": 1}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    });
    let answer = acme.post("/prompt", &json!({"prompt": prompt})).await.expect(403).json();
    let errors = |node: &str| answer["node_errors"][node]["errors"].as_array().cloned().unwrap_or_default();
    for (node, input) in
        [("1", "width"), ("1", "height"), ("3", "filename_prefix"), ("4", "width"), ("4", "batch_size"), ("4", "zzz")]
    {
        let found = errors(node).iter().any(|error| error["extra_info"]["input_name"] == input);
        assert!(found, "{node}.{input} is not told: {answer}");
    }
    assert!(!errors("2").is_empty(), "{answer}");
    assert_eq!(answer["node_errors"]["1"]["class_type"], "EmptyImage");
    assert!(answer["node_errors"]["1"]["dependent_outputs"].as_array().unwrap().contains(&json!("3")), "{answer}");
    let wide = errors("1").into_iter().find(|error| error["extra_info"]["input_name"] == "width").unwrap();
    assert_eq!(wide["extra_info"]["limit"], "4096", "{wide}");
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caps_hold_just_at_the_limit_for_literals_and_through_links() {
    let (_gateway, acme) = gateway().await;
    acme.submit(workflows::picture("wide", 4096, 8)).await;
    let refused = acme.post("/prompt", &json!({"prompt": workflows::picture("wide", 4097, 8)})).await;
    refused.expect(403);
    let linked = |value: i64, class: &str| {
        let mut workflow = workflows::picture("linked", 64, 8);
        workflow["7"] = json!({"class_type": class, "inputs": {"value": value}});
        workflow["1"]["inputs"]["width"] = json!(["7", 0]);
        workflow
    };
    acme.submit(linked(4096, "PrimitiveInt")).await;
    let answer = acme.post("/prompt", &json!({"prompt": linked(4097, "PrimitiveInt")})).await.expect(403).json();
    let told = answer["node_errors"]["1"]["errors"][0]["extra_info"]["chain"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains('7') && told.contains("PrimitiveInt"), "the chain is told: {answer}");
    let mut switched = linked(64, "PrimitiveInt");
    switched["6"] = json!({"class_type": "PrimitiveInt", "inputs": {"value": 5000}});
    switched["8"] =
        json!({"class_type": "ComfySwitchNode", "inputs": {"switch": true, "on_true": ["7", 0], "on_false": ["6", 0]}});
    switched["1"]["inputs"]["width"] = json!(["8", 0]);
    let answer = acme.post("/prompt", &json!({"prompt": switched})).await;
    assert!(answer.status == 403 || answer.status == 200, "a known switch may be followed: {}", answer.text());
    switched["8"]["inputs"]["switch"] = json!(false);
    acme.post("/prompt", &json!({"prompt": switched})).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn literals_have_the_declared_json_type() {
    let (_gateway, acme) = gateway().await;
    for value in [
        json!("64"),
        json!("1_0"),
        json!(64.5),
        json!(true),
        json!({"__value__": 64}),
        json!([64]),
        json!(null),
        json!(["9", -1]),
    ] {
        let mut workflow = workflows::quick("typed");
        workflow["1"]["inputs"]["width"] = value.clone();
        let answer = acme.post("/prompt", &json!({"prompt": workflow})).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403), "{value}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_a_client_id_that_is_no_text_does_not_reach_a_backend() {
    let (gateway, acme) = gateway().await;
    for envelope in [
        json!({"client_id": {}}),
        json!({"client_id": [1]}),
        json!({"extra_data": {"client_id": [1]}}),
        json!({"extra_data": {"client_id": {}}}),
    ] {
        let mut envelope = envelope;
        envelope["prompt"] = workflows::quick("x");
        acme.post("/prompt", &envelope).await.expect(400);
    }
    backend_is_unhurt(&gateway, &acme).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_a_link_under_an_undeclared_name_does_not_reach_a_backend() {
    let (gateway, acme) = gateway().await;
    for link in [json!(["nope", 0]), json!(["1", 0])] {
        let mut workflow = workflows::quick("x");
        workflow["1"]["inputs"]["zzz"] = link;
        let answer = acme.post("/prompt", &json!({"prompt": workflow})).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403), "{}", answer.text());
    }
    backend_is_unhurt(&gateway, &acme).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_a_node_whose_inputs_are_no_object_does_not_reach_a_backend() {
    let (gateway, acme) = gateway().await;
    for node in [
        json!({"class_type": "EmptyImage"}),
        json!({"class_type": "EmptyImage", "inputs": null}),
        json!({"class_type": "EmptyImage", "inputs": []}),
    ] {
        let mut workflow = workflows::quick("x");
        workflow["77"] = node;
        let answer = acme.post("/prompt", &json!({"prompt": workflow})).await.expect(400);
        assert!(answer.text().contains("77"), "says which node: {}", answer.text());
    }
    backend_is_unhurt(&gateway, &acme).await;
}

async fn backend_is_unhurt(gateway: &Gateway, acme: &Client) {
    let backend = &gateway.stand_ins()[0];
    assert!(backend.submissions().is_empty());
    let prompt = acme.submit(workflows::quick("alive")).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    assert!(backend.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_prefixes_and_salts_upstream_are_the_gateways_own() {
    let (gateway, acme) = gateway().await;
    let bravo = gateway.client("bravo");
    let envelope = json!({"prompt": workflows::quick("holiday/beach"), "prompt_id": "my-own-label", "client_id": "my-own-client", "number": -5});
    assert_eq!(acme.submit_with(envelope.clone()).await, "my-own-label");
    let mine = arrived(&gateway.stand_ins()[0], 0).await;
    assert_eq!(bravo.submit_with(envelope).await, "my-own-label");
    let theirs = arrived(&gateway.stand_ins()[0], 1).await;

    let text = mine.to_string();
    for own in ["my-own-label", "my-own-client", "acme", "usual"] {
        assert!(!text.contains(own), "`{own}` went upstream: {text}");
    }
    let prefix =
        |submission: &Value| submission["prompt"]["9"]["inputs"]["filename_prefix"].as_str().unwrap().to_owned();
    let (my_prefix, their_prefix) = (prefix(&mine), prefix(&theirs));
    assert!(my_prefix.starts_with("t/") && my_prefix.ends_with("beach"), "{my_prefix}");
    let folder = |prefix: &str| prefix.split('/').nth(1).unwrap().to_owned();
    assert_ne!(folder(&my_prefix), folder(&their_prefix), "each tenant has a folder of its own");
    let salt = |submission: &Value| {
        let inputs = submission["prompt"]["1"]["inputs"].as_object().unwrap();
        let undeclared =
            inputs.iter().find(|(name, _)| !["width", "height", "batch_size", "color"].contains(&name.as_str()));
        undeclared.map(|(_, value)| value.as_str().unwrap().to_owned()).expect("a salt")
    };
    assert_ne!(salt(&mine), salt(&theirs), "each owner has a salt of its own");
    acme.submit(workflows::quick("again")).await;
    assert_eq!(salt(&arrived(&gateway.stand_ins()[0], 2).await), salt(&mine), "and it stays");
    for client in [&acme, &bravo] {
        client.finished("my-own-label").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_shares_a_cache_with_itself_only() {
    let (gateway, acme) = gateway().await;
    let bravo = gateway.client("bravo");
    let run = async |client: &Client| {
        let prompt = client.submit(workflows::text_to_image("cached")).await;
        let entry = client.finished(&prompt).await;
        let messages = entry["status"]["messages"].as_array().unwrap().clone();
        let cached = messages.iter().find(|message| message[0] == "execution_cached").unwrap();
        cached[1]["nodes"].as_array().unwrap().iter().any(|node| node == "3")
    };
    assert!(!run(&acme).await, "the first run samples");
    assert!(run(&acme).await, "the second run of the same owner hits");
    assert!(!run(&bravo).await, "another owner's run does not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_salt_that_the_caller_sends_does_not_arrive() {
    let (gateway, acme) = gateway().await;
    acme.submit(workflows::quick("x")).await;
    let sent = arrived(&gateway.stand_ins()[0], 0).await;
    let inputs = sent["prompt"]["1"]["inputs"].as_object().unwrap();
    let name = inputs.keys().find(|name| !["width", "height", "batch_size", "color"].contains(&name.as_str())).unwrap();
    let mut workflow = workflows::quick("x");
    // Pictures carry it, so it comes back; whose it is does not matter.
    workflow["1"]["inputs"][name.as_str()] = json!("of-another");
    acme.submit(workflow.clone()).await;
    let again = arrived(&gateway.stand_ins()[0], 1).await;
    assert_eq!(again["prompt"]["1"]["inputs"], sent["prompt"]["1"]["inputs"]);
    for odd in [json!(1), json!(["9", 0]), json!("a b")] {
        workflow["1"]["inputs"][name.as_str()] = odd;
        let status = acme.post("/prompt", &json!({"prompt": workflow})).await.status.as_u16();
        assert!(matches!(status, 400 | 403), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_prompt_id_with_the_same_body_is_answered_again_and_with_another_is_409() {
    let (gateway, acme) = gateway().await;
    let envelope = json!({"prompt": workflows::quick("once"), "prompt_id": "once"});
    let first = acme.post("/prompt", &envelope).await.expect(200).json();
    let again = acme.post("/prompt", &envelope).await.expect(200).json();
    // How it stands is told once.
    let without_place = |mut answer: serde_json::Value| {
        answer.as_object_mut().unwrap().remove("queue");
        answer
    };
    assert_eq!(without_place(first), without_place(again));
    acme.post("/prompt", &json!({"prompt": workflows::quick("other"), "prompt_id": "once"})).await.expect(409);
    let keyed = [("content-type", "application/json"), ("idempotency-key", "key-1")];
    let body = json!({"prompt": workflows::quick("keyed")}).to_string();
    let one = acme.call(http::Method::POST, "/prompt", &keyed, body.clone().into()).await.expect(200).json();
    let two = acme.call(http::Method::POST, "/prompt", &keyed, body.into()).await.expect(200).json();
    assert_eq!(one["prompt_id"], two["prompt_id"]);
    acme.finished(one["prompt_id"].as_str().unwrap()).await;
    acme.finished("once").await;
    assert_eq!(gateway.stand_ins()[0].submissions().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_own_policy_decides() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .tenants_toml("[[tenant]]\nid = \"small\"\nplan = \"usual\"\npolicy = \"strict\"")
        .start()
        .await;
    let small = gateway.client("small");
    small.submit(workflows::text_to_image("fine")).await;
    let answer = small.post("/prompt", &json!({"prompt": workflows::quick("x")})).await.expect(403).json();
    assert_eq!(answer["node_errors"]["1"]["errors"][0]["extra_info"]["code"], "class_not_allowed", "{answer}");
    gateway.client("acme").submit(workflows::quick("x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_validate_run_and_the_others_are_told_as_comfyui_tells_them() {
    let (gateway, acme) = gateway().await;
    let mut workflow = workflows::quick("good");
    workflow["2"] =
        json!({"class_type": "EmptyImage", "inputs": {"width": "64", "height": 64, "batch_size": 1, "color": 0}});
    workflow["3"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}});
    workflow["4"] = json!({"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "never"}});
    let answer = acme.post("/prompt", &json!({"prompt": workflow})).await.expect(200).json();
    assert_eq!(answer["node_errors"].as_object().unwrap().keys().collect::<Vec<_>>(), ["2"], "{answer}");
    let told = &answer["node_errors"]["2"];
    assert_eq!((&told["class_type"], &told["dependent_outputs"]), (&json!("EmptyImage"), &json!(["4"])), "{answer}");
    assert_eq!(told["errors"][0]["type"], "invalid_input_type");
    let sent = arrived(&gateway.stand_ins()[0], 0).await;
    assert_eq!(sent["prompt"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1", "9"], "{sent}");
    let entry = acme.finished(answer["prompt_id"].as_str().unwrap()).await;
    assert_eq!(entry["status"]["status_str"], "success");
    assert_eq!(comfygate_tests::client::files_of(&entry).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_without_any_output_that_validates_is_400_and_a_broken_rule_beside_it_403() {
    let (gateway, acme) = gateway().await;
    let mut workflow = workflows::quick("x");
    workflow["1"]["inputs"]["width"] = json!("64");
    let answer = acme.post("/prompt", &json!({"prompt": workflow})).await.expect(400).json();
    assert_eq!(answer["error"]["type"], "prompt_outputs_failed_validation", "{answer}");
    assert_eq!(answer["node_errors"]["1"]["dependent_outputs"], json!(["9"]), "{answer}");
    let mut workflow = workflows::quick("x");
    workflow["2"] =
        json!({"class_type": "EmptyImage", "inputs": {"width": "64", "height": 5000, "batch_size": 1, "color": 0}});
    acme.post("/prompt", &json!({"prompt": workflow})).await.expect(403);
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}
