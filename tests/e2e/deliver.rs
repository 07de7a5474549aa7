//! Stage 7: events to exactly the sockets of the submitter, history and queue in ComfyUI's shapes, results by signed URL.

use comfygate_tests::client::files_of;
use comfygate_tests::ws::kinds;
use comfygate_tests::{Client, Event, Gateway, Response, eventually, workflows};
use http::Method;
use serde_json::{Value, json};

async fn gateway() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

/// A finished job's first file object.
async fn a_file(client: &Client, prefix: &str) -> (String, Value) {
    let prompt = client.submit(workflows::quick(prefix)).await;
    let entry = client.finished(&prompt).await;
    (prompt, files_of(&entry).remove(0))
}

async fn head(client: &Client, path: &str, headers: &[(&str, &str)]) -> Response {
    client.call(Method::GET, path, headers, Vec::new().into()).await
}

fn is_png(body: &[u8]) -> bool {
    body.starts_with(b"\x89PNG\r\n\x1a\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_hears_its_jobs_events_in_comfyuis_order_previews_included() {
    let (_gateway, acme) = gateway().await;
    let mut socket = acme.socket(Some("page")).await;
    assert_eq!(socket.sid().await, "page");
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("seen", 6, 30, true), "client_id": "page"})).await;
    let events = socket.until_end_of(&prompt).await;
    let all = kinds(&events);
    for kind in ["execution_start", "executing", "progress", "preview", "executed", "execution_success", "status"] {
        assert!(all.iter().any(|found| found == kind), "{kind} is missing: {all:?}");
    }
    let at = |kind: &str| all.iter().position(|found| found == kind).unwrap();
    assert!(
        at("execution_start") < at("progress")
            && at("progress") < at("executed")
            && at("executed") < at("execution_success"),
        "{all:?}"
    );
    let previews = events.iter().filter(|event| event.kind() == "preview");
    for preview in previews {
        let Event::Preview { format, image } = preview else { panic!("metadata was not announced: {preview:?}") };
        assert_eq!((*format, &image[..2]), (1, &b"\xff\xd8"[..]), "a JPEG");
    }
    for event in &events {
        assert!(event.prompt_id().is_none_or(|id| id == prompt), "{event:?}");
    }
    let executed = events.iter().find(|event| event.kind() == "executed").unwrap().data();
    let file = &executed["output"]["images"][0];
    assert_eq!(
        (&executed["node"], &file["filename"], &file["type"]),
        (&json!("9"), &json!("seen_00001_.png"), &json!("output"))
    );
    acme.stranger().get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_announces_it_gets_previews_with_metadata() {
    let (_gateway, acme) = gateway().await;
    let mut socket = acme.socket(Some("page")).await;
    socket.sid().await;
    socket.send(&json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}})).await;
    let answered = socket.until("the answer", |event| event.kind() == "feature_flags").await;
    assert_eq!(answered.last().unwrap().data()["supports_preview_metadata"], true);
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("meta", 6, 30, true), "client_id": "page"})).await;
    let events = socket.until_end_of(&prompt).await;
    let mut previews = 0;
    for event in &events {
        if let Event::PreviewWithMetadata { metadata, image } = event {
            assert_eq!((&metadata["prompt_id"], &metadata["node_id"]), (&json!(prompt), &json!("2")));
            assert!(image.starts_with(b"\xff\xd8"));
            previews += 1;
        }
        assert!(!matches!(event, Event::Preview { .. }));
    }
    assert!(previews > 0, "{:?}", kinds(&events));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_sockets_of_the_submitting_client_hear_a_job_and_each_of_them_does() {
    let gateway = Gateway::builder().start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut mine = acme.socket(Some("page")).await;
    let mut twin = acme.socket(Some("page")).await;
    let mut other_tab = acme.socket(Some("other")).await;
    let mut theirs = bravo.socket(Some("page")).await;
    for socket in [&mut mine, &mut twin, &mut other_tab, &mut theirs] {
        socket.sid().await;
    }
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("mine", 5, 20, true), "client_id": "page"})).await;
    let (first, second) = (mine.until_end_of(&prompt).await, twin.until_end_of(&prompt).await);
    let told = |events: &[Event]| {
        events
            .iter()
            .filter(|event| event.prompt_id().is_some())
            .map(|event| event.kind().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&first), told(&second), "each tab of one client gets its own copy");
    // Their own job is the fence: what they were to hear before, they have heard by then.
    let fence = bravo.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": "page"})).await;
    for event in theirs.until_end_of(&fence).await {
        assert!(event.prompt_id().is_none_or(|id| id == fence), "of another tenant: {event:?}");
        assert_ne!(event.kind(), "preview", "of another tenant");
    }
    let fence = acme.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": "other"})).await;
    for event in other_tab.until_end_of(&fence).await {
        assert!(event.prompt_id().is_none_or(|id| id == fence), "of another client: {event:?}");
        assert_ne!(event.kind(), "preview", "of another client");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_without_a_client_id_gets_one_that_works() {
    let (_gateway, acme) = gateway().await;
    let mut socket = acme.socket(None).await;
    let sid = socket.sid().await;
    assert!(sid.len() >= 16, "not to be guessed: {sid}");
    let prompt = acme.submit_with(json!({"prompt": workflows::quick("x"), "client_id": sid})).await;
    socket.until_end_of(&prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_client_id_reaches_all_sockets_of_its_user() {
    let (_gateway, acme) = gateway().await;
    let mut sockets = [acme.socket(Some("one")).await, acme.socket(Some("two")).await];
    for socket in &mut sockets {
        socket.sid().await;
    }
    let prompt = acme.submit(workflows::quick("x")).await;
    for socket in &mut sockets {
        socket.until_end_of(&prompt).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_counts_the_owners_own_queue() {
    let (gateway, acme) = gateway().await;
    let bravo = gateway.client("bravo");
    let remaining = |event: &Event| event.data().pointer("/status/exec_info/queue_remaining").and_then(Value::as_u64);
    let mut theirs = bravo.socket(None).await;
    let first = theirs.next_event().await;
    assert_eq!((first.kind(), remaining(&first)), ("status", Some(0)));
    let mut mine = acme.socket(None).await;
    mine.sid().await;
    let running = acme.submit(workflows::slow("long", 150, 400, false)).await;
    acme.running(&running).await;
    acme.submit(workflows::quick("held")).await;
    mine.until("two in my queue", |event| remaining(event) == Some(2)).await;
    assert_eq!(bravo.get("/prompt").await.expect(200).json()["exec_info"]["queue_remaining"], 0);
    let fence = bravo.submit(workflows::quick("fence")).await;
    let heard = theirs.until("one in their queue", |event| remaining(event) == Some(1)).await;
    assert!(heard.iter().all(|event| remaining(event).is_none_or(|count| count <= 1)), "{heard:?}");
    acme.call(Method::POST, "/interrupt", &[], Vec::new().into()).await.expect(200);
    theirs.until_end_of(&fence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upgrade_needs_a_credential_the_right_headers_and_no_foreign_origin() {
    let (gateway, acme) = gateway().await;
    assert_eq!(gateway.stranger().try_socket("/ws", None, &[]).await.unwrap_err(), 401);
    assert_eq!(acme.try_socket("/ws", None, &[("origin", "https://evil.example")]).await.unwrap_err(), 403);
    assert_eq!(acme.try_socket("/ws", None, &[("origin", "null")]).await.unwrap_err(), 403);
    let own = gateway.url();
    acme.try_socket("/ws", None, &[("origin", &own)]).await.unwrap().sid().await;
    acme.try_socket("/api/ws", Some("x"), &[]).await.unwrap().sid().await;
    assert!(acme.get("/ws").await.status.is_client_error(), "a plain GET");
    let too_long = "a".repeat(129);
    assert_eq!(acme.try_socket("/ws", Some(&too_long), &[]).await.unwrap_err(), 400);
    acme.try_socket("/ws", Some(&too_long[..128]), &[]).await.unwrap().sid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_is_not_passed_on_and_too_much_closes_the_socket() {
    let (gateway, acme) = gateway().await;
    let mut socket = acme.socket(Some("talker")).await;
    socket.sid().await;
    for text in ["not json", "[1]", "null", "{\"type\":\"execution_start\",\"data\":{}}"] {
        socket.send_text(text).await;
    }
    let prompt = acme.submit_with(json!({"prompt": workflows::quick("x"), "client_id": "talker"})).await;
    socket.until_end_of(&prompt).await;
    socket.send_text(&"a".repeat((64 << 10) + 1)).await;
    let heard = socket.until("the close", |event| matches!(event, Event::Closed(_))).await;
    assert!(matches!(heard.last(), Some(Event::Closed(Some(1009) | None))), "{heard:?}");
    assert!(!gateway.log_text().contains("not json"), "what clients say does not fill the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_and_queue_have_comfyuis_shapes_and_the_owners_own_ids() {
    let (_gateway, acme) = gateway().await;
    let workflow = workflows::quick("shaped");
    let envelope = json!({"prompt": workflow, "prompt_id": "shaped-1", "client_id": "page", "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}});
    acme.submit_with(envelope).await;
    let entry = acme.finished("shaped-1").await;
    let item = entry["prompt"].as_array().unwrap();
    assert_eq!(item.len(), 5, "{entry}");
    assert_eq!((&item[0], &item[1], &item[2], &item[4]), (&json!(0), &json!("shaped-1"), &workflow, &json!(["9"])));
    assert_eq!((&item[3]["client_id"], &item[3]["extra_pnginfo"]["workflow"]["id"]), (&json!("page"), &json!("w")));
    assert!(item[3]["create_time"].as_u64().is_some_and(|ms| ms > 1_500_000_000_000));
    assert_eq!(entry["status"]["completed"], true);
    let told: Vec<&str> =
        entry["status"]["messages"].as_array().unwrap().iter().map(|message| message[0].as_str().unwrap()).collect();
    assert_eq!(told, ["execution_start", "execution_cached", "execution_success"]);
    for message in entry["status"]["messages"].as_array().unwrap() {
        assert_eq!(message[1]["prompt_id"], "shaped-1");
    }
    assert_eq!(entry["meta"]["9"]["node_id"], "9");
    let file = &entry["outputs"]["9"]["images"][0];
    assert_eq!(
        (&file["filename"], &file["subfolder"], &file["type"]),
        (&json!("shaped_00001_.png"), &json!(""), &json!("output"))
    );
    assert!(file["url"].as_str().is_some_and(|url| url.starts_with("https://localhost:")), "{file}");

    let running = acme.submit(workflows::slow("long", 150, 400, false)).await;
    acme.running(&running).await;
    let held = acme.submit(workflows::quick("held")).await;
    let queue = acme.get("/queue").await.expect(200).json();
    assert_eq!((&queue["queue_running"][0][1], &queue["queue_pending"][0][1]), (&json!(running), &json!(held)));
    assert_eq!(queue["queue_pending"][0].as_array().unwrap().len(), 5);
    acme.post("/queue", &json!({"clear": true})).await.expect(200);
    assert_eq!(acme.get("/queue").await.expect(200).json()["queue_pending"], json!([]));
    acme.post("/interrupt", &json!({})).await.expect(200);
    acme.finished(&running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_paged_as_comfyui_does_and_deleted_by_its_owner() {
    let (_gateway, acme) = gateway().await;
    let mut prompts = Vec::new();
    for number in 0..4 {
        let prompt =
            acme.submit_with(json!({"prompt": workflows::quick("paged"), "prompt_id": format!("p{number}")})).await;
        acme.finished(&prompt).await;
        prompts.push(prompt);
    }
    let listed = async |query: &str| {
        let history = acme.get(&format!("/history{query}")).await.expect(200).json();
        history.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, prompts);
    assert_eq!(listed("?max_items=2").await, prompts[2..]);
    assert_eq!(listed("?max_items=2&offset=1").await, prompts[1..3]);
    assert_eq!(listed("?max_items=0").await, Vec::<String>::new());
    assert_eq!(acme.get("/history?max_items=x").await.status, 400);
    acme.post("/history", &json!({"delete": ["p1", "unknown"]})).await.expect(200);
    assert_eq!(listed("").await, ["p0", "p2", "p3"]);
    acme.post("/history", &json!({"delete": [{}]})).await.expect(400);
    acme.post("/history", &json!({"clear": true})).await.expect(200);
    assert_eq!(listed("").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_go_on_as_one_comfyui_would_number_them() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    for expected in ["row_00001_.png", "row_00002_.png", "row_00003_.png"] {
        assert_eq!(a_file(&acme, "row").await.1["filename"], expected, "whichever backend ran it");
    }
    let (_, file) = a_file(&acme, "holiday/beach").await;
    assert_eq!((&file["filename"], &file["subfolder"]), (&json!("beach_00001_.png"), &json!("holiday")));
    assert_eq!(
        a_file(&gateway.client("bravo"), "row").await.1["filename"],
        "row_00001_.png",
        "each owner counts alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_works_without_credentials_for_exactly_its_file() {
    let (_gateway, acme) = gateway().await;
    let (_, file) = a_file(&acme, "signed").await;
    let path = acme.path_of(file["url"].as_str().unwrap());
    let stranger = acme.stranger();
    let answer = stranger.get(&path).await.expect(200);
    assert!(is_png(&answer.body));
    assert_eq!(answer.header("content-type"), Some("image/png"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert!(answer.header("content-security-policy").unwrap().contains("sandbox"));
    assert!(answer.header("cache-control").unwrap().contains("private"));
    assert!(answer.header("content-disposition").unwrap().contains("signed_00001_.png"));
    let head = stranger.call(Method::HEAD, &path, &[], Vec::new().into()).await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), answer.header("content-length"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_etags_of_a_file_are_kept() {
    let (_gateway, acme) = gateway().await;
    let (_, file) = a_file(&acme, "ranged").await;
    let path = acme.path_of(file["url"].as_str().unwrap());
    let stranger = acme.stranger();
    let whole = stranger.get(&path).await.expect(200);
    let (size, etag) = (whole.body.len(), whole.header("etag").unwrap().to_owned());
    let part = head(&stranger, &path, &[("range", "bytes=0-7")]).await.expect(206);
    assert_eq!(part.body, whole.body[..8]);
    assert_eq!(part.header("content-range"), Some(format!("bytes 0-7/{size}").as_str()));
    let end = head(&stranger, &path, &[("range", "bytes=-4")]).await.expect(206);
    assert_eq!(end.body, whole.body[size - 4..]);
    let open = head(&stranger, &path, &[("range", &format!("bytes={}-", size - 1))]).await.expect(206);
    assert_eq!(open.body.len(), 1);
    let beyond = head(&stranger, &path, &[("range", &format!("bytes={size}-"))]).await.expect(416);
    assert_eq!(beyond.header("content-range"), Some(format!("bytes */{size}").as_str()));
    head(&stranger, &path, &[("if-none-match", &etag)]).await.expect(304);
    head(&stranger, &path, &[("if-none-match", "\"other\"")]).await.expect(200);
    head(&stranger, &path, &[("range", "bytes=0-7"), ("if-range", &etag)]).await.expect(206);
    head(&stranger, &path, &[("range", "bytes=0-7"), ("if-range", "\"other\"")]).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_with_anything_changed_answers_as_if_there_were_no_file() {
    let (_gateway, acme) = gateway().await;
    let (_, first) = a_file(&acme, "one").await;
    let (_, second) = a_file(&acme, "two").await;
    let (first, second) = (acme.path_of(first["url"].as_str().unwrap()), acme.path_of(second["url"].as_str().unwrap()));
    let (path, query) = first.split_once('?').unwrap();
    let (other_path, other_query) = second.split_once('?').unwrap();
    let fields: Vec<(&str, &str)> = query.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    let stranger = acme.stranger();
    let nothing = stranger
        .get(&format!(
            "{}?{query}",
            path.replace(path.split('/').nth(3).unwrap(), "00000000-0000-4000-8000-000000000000")
        ))
        .await;
    assert!(matches!(nothing.status.as_u16(), 403 | 404), "{}", nothing.text());
    let mut tampered = vec![format!("{path}?{other_query}"), format!("{other_path}?{query}"), path.to_owned()];
    for (name, value) in &fields {
        let mut bytes = value.as_bytes().to_vec();
        bytes[0] = if bytes[0] == b'1' { b'2' } else { b'1' };
        let changed = String::from_utf8(bytes).unwrap();
        tampered.push(format!("{path}?{}", query.replace(&format!("{name}={value}"), &format!("{name}={changed}"))));
        let rest: Vec<String> =
            fields.iter().filter(|(other, _)| other != name).map(|(name, value)| format!("{name}={value}")).collect();
        tampered.push(format!("{path}?{}", rest.join("&")));
    }
    let mut known: Vec<u16> = Vec::new();
    for url in &tampered {
        let answer = stranger.get(url).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403 | 404), "{url}: {} {}", answer.status, answer.text());
        known.push(answer.status.as_u16());
    }
    let twice = stranger.get(&format!("{first}&{query}")).await;
    assert!(twice.status.is_client_error(), "duplicates");
    stranger.get(&first).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_expires() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[views]\nlifetime = \"1m\"").start().await;
    let acme = gateway.client("acme");
    let (prompt, file) = a_file(&acme, "soon").await;
    let path = acme.path_of(file["url"].as_str().unwrap());
    let expires: u64 =
        path.split(&['?', '&'][..]).find_map(|pair| pair.strip_prefix("expires=")).unwrap().parse().unwrap();
    let seconds = if expires > 100_000_000_000 { expires / 1000 } else { expires };
    let now = comfygate_tests::tokens::now();
    assert!((now..=now + 61).contains(&seconds), "a minute from now: {path}");
    // The shortest lifetime is a minute: waiting for it is left to the unit tests, which turn the clock. Here: a lifetime of the past is refused.
    let past = path.replace(&format!("expires={expires}"), &format!("expires={}", expires - 120));
    assert!(acme.stranger().get(&past).await.status.is_client_error());
    let again = files_of(&acme.finished(&prompt).await).remove(0);
    acme.stranger().get(&acme.path_of(again["url"].as_str().unwrap())).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_serves_the_owner_by_shown_names_and_ignores_the_pages_own_keys() {
    let (gateway, acme) = gateway().await;
    let (_, file) = a_file(&acme, "folder/viewed").await;
    let signed = acme.get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(200);
    for query in [
        "filename=viewed_00001_.png&subfolder=folder&type=output",
        "filename=viewed_00001_.png&subfolder=folder",
        "filename=viewed_00001_.png&subfolder=folder&type=output&rand=0.123&t=5",
    ] {
        assert_eq!(acme.get(&format!("/view?{query}")).await.expect(200).body, signed.body, "{query}");
        acme.get(&format!("/api/view?{query}")).await.expect(200);
    }
    for query in [
        "filename=viewed_00001_.png&type=output",
        "filename=viewed_00002_.png&subfolder=folder&type=output",
        "filename=viewed_00001_.png&subfolder=folder&type=temp",
        "filename=viewed_00001_.png&subfolder=folder%2F..%2Ffolder&type=output",
        "filename=..%2Fviewed_00001_.png&subfolder=folder&type=output",
        "filename=%2Fetc%2Fpasswd",
        "filename=",
        "",
    ] {
        let answer = acme.get(&format!("/view?{query}")).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{query}: {} {}", answer.status, answer.text());
    }
    acme.get("/view?filename=viewed_00001_.png&subfolder=folder&preview=webp").await.expect(200);
    gateway.client("bravo").get("/view?filename=viewed_00001_.png&subfolder=folder&type=output").await.expect(404);
    gateway.stranger().get("/view?filename=viewed_00001_.png&subfolder=folder&type=output").await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_copied_so_that_a_lost_backend_loses_none() {
    let (gateway, acme) = gateway().await;
    let (_, file) = a_file(&acme, "copied").await;
    gateway.stand_ins()[0].kill();
    std::fs::remove_dir_all(gateway.stand_ins()[0].directory().join("output")).unwrap();
    gateway.backend_is(0, false).await;
    let answer = acme.stranger().get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(200);
    assert!(is_png(&answer.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previews_of_preview_image_nodes_are_results_too() {
    let (_gateway, acme) = gateway().await;
    let mut workflow = workflows::quick("saved");
    workflow["8"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
    let prompt = acme.submit(workflow).await;
    let files = files_of(&acme.finished(&prompt).await);
    let temp = files.iter().find(|file| file["type"] == "temp").expect("the preview");
    let answer = acme.stranger().get(&acme.path_of(temp["url"].as_str().unwrap())).await.expect(200);
    assert!(is_png(&answer.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_comes_back_in_mid_run_hears_the_rest() {
    let (_gateway, acme) = gateway().await;
    let mut first = acme.socket(Some("page")).await;
    first.sid().await;
    let prompt =
        acme.submit_with(json!({"prompt": workflows::slow("long", 30, 100, false), "client_id": "page"})).await;
    first.until("it runs", |event| event.kind() == "progress").await;
    drop(first);
    let mut second = acme.socket(Some("page")).await;
    second.sid().await;
    let events = second.until_end_of(&prompt).await;
    assert!(events.iter().any(|event| event.kind() == "execution_success"), "{:?}", kinds(&events));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_to_image_runs_as_clients_send_it() {
    let (_gateway, acme) = gateway().await;
    let prompt = acme.submit(workflows::text_to_image("lighthouse")).await;
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let file = files_of(&entry).remove(0);
    let picture = acme.stranger().get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(200);
    let number = |at: usize| u32::from_be_bytes(picture.body[at..at + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), (512, 512), "width and height in the PNG's header");
    eventually("it is gone from the queue", || async {
        (acme.get("/prompt").await.expect(200).json()["exec_info"]["queue_remaining"] == 0).then_some(())
    })
    .await;
}
