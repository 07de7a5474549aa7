//! Calls of our own: what the recordings do not show.

use comfygate_stand_in::{Options, StandIn};
use serde_json::{Value, json};

use crate::client::Server;

/// A graph of one picture, saved. `name` keeps it apart from other tests on the same server.
fn picture(name: &str, salt: Option<&str>) -> Value {
    let mut prompt = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 48, "height": 32, "batch_size": 1, "color": 7}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("own/{name}")}}
    });
    if let Some(salt) = salt {
        for node in ["1", "2"] {
            prompt[node]["inputs"]["salt"] = json!(salt);
        }
    }
    prompt
}

fn sleeper(name: &str, steps: u32, tick_ms: u32) -> Value {
    let mut prompt = picture(name, Some(name));
    prompt["3"] = json!({
        "class_type": "GateProbeSleep",
        "inputs": {"image": ["1", 0], "steps": steps, "tick_ms": tick_ms, "preview": false}
    });
    prompt["2"]["inputs"]["images"] = json!(["3", 0]);
    prompt
}

fn cached_nodes(entry: &Value) -> usize {
    let messages = entry["status"]["messages"].as_array().expect("messages");
    let cached = messages.iter().find(|message| message[0] == "execution_cached").expect("an execution_cached");
    cached[1]["nodes"].as_array().expect("nodes").len()
}

/// Everything that may also be asked of a real server.
pub async fn real_too(server: Server) {
    an_undeclared_literal_separates_the_cache(server).await;
    a_cached_output_is_replayed_with_the_first_file_name(server).await;
    counters_continue_by_listing_the_folder(server).await;
    files_are_found_by_suffix_and_by_range(server).await;
    an_interrupt_without_an_id_hits_whoever_runs(server).await;
    a_prompt_without_a_client_is_heard_by_everybody(server).await;
    a_replaced_socket_takes_its_successor_along(server).await;
    a_switch_runs_only_the_side_it_takes(server).await;
    undeclared_links_run_and_then_fail_the_node(server).await;
    a_png_carries_the_graph(server).await;
    a_compressed_file_beside_is_served_in_its_place(server).await;
}

async fn an_undeclared_literal_separates_the_cache(server: Server) {
    for (salt, hits) in [("A", 0), ("B", 0), ("B", 2), ("A", 0)] {
        // The cache keeps what the last prompt used, so A misses again after B.
        let id = server.submit(picture("salted", Some(salt)), "salted").await;
        assert_eq!(cached_nodes(&server.finished(&id).await), hits, "salt {salt}");
    }
}

async fn a_cached_output_is_replayed_with_the_first_file_name(server: Server) {
    let first = server.submit(picture("replayed", None), "replayed").await;
    let first = server.finished(&first).await;
    let second = server.submit(picture("replayed", None), "replayed").await;
    let second = server.finished(&second).await;
    assert_eq!(cached_nodes(&second), 2);
    assert_eq!(first["outputs"], second["outputs"]);
}

async fn counters_continue_by_listing_the_folder(server: Server) {
    for number in 1..=3 {
        let id = server.submit(picture("counted", Some(&number.to_string())), "counted").await;
        let entry = server.finished(&id).await;
        let name = &entry["outputs"]["2"]["images"][0];
        assert_eq!(name["filename"], format!("counted_{number:05}_.png"));
        assert_eq!(name["subfolder"], "own");
    }
}

async fn files_are_found_by_suffix_and_by_range(server: Server) {
    let id = server.submit(picture("viewed", None), "viewed").await;
    server.finished(&id).await;
    let path = "/view?filename=viewed_00001_.png&subfolder=own";
    let whole = server.get(path).await;
    assert_eq!(whole.header("content-type"), Some("image/png"));
    assert_eq!(whole.body.get(16..24), Some(&[0, 0, 0, 48, 0, 0, 0, 32][..]), "width and height");
    assert_eq!(server.get("/view?filename=viewed_00001_.png%20[output]&type=input&subfolder=own").await.status, 200);
    assert_eq!(server.get("/view?filename=own/viewed_00001_.png").await.status, 404);
    assert_eq!(server.get("/view?filename=viewed_00001_.png&subfolder=own/../own").await.status, 200);
    let range = [("range".to_owned(), "bytes=0-7".to_owned())];
    let part = server.send("GET", path, &range, Vec::new()).await.expect("an answer");
    assert_eq!((part.status, part.body.len()), (206, 8));
    let etag = whole.header("etag").expect("an ETag").to_owned();
    let known = [("if-none-match".to_owned(), etag)];
    assert_eq!(server.send("GET", path, &known, Vec::new()).await.expect("an answer").status, 304);
}

async fn an_interrupt_without_an_id_hits_whoever_runs(server: Server) {
    let socket = server.socket("interrupted").await;
    let id = server.submit(sleeper("interrupted", 1000, 20), "interrupted").await;
    socket.until_event("progress").await;
    let unknown = server.post("/interrupt", json!({"prompt_id": "nobody's"})).await;
    assert_eq!(unknown.status, 200);
    assert_eq!(server.get("/prompt").await.json()["exec_info"]["queue_remaining"], 1);
    let empty = server.send("POST", "/interrupt", &[], Vec::new()).await.expect("an answer");
    assert_eq!(empty.status, 200);
    let entry = server.finished(&id).await;
    assert_eq!(entry["status"]["status_str"], "error");
    socket.until_event("execution_interrupted").await;
}

async fn a_prompt_without_a_client_is_heard_by_everybody(server: Server) {
    let bystander = server.socket("bystander").await;
    let answer = server.post("/prompt", json!({"prompt": sleeper("unowned", 2, 1)})).await;
    let id = answer.json()["prompt_id"].as_str().expect("an id").to_owned();
    server.finished(&id).await;
    bystander.until_event("progress").await;
    bystander.until_event("progress_state").await;
    let kinds: Vec<Value> = bystander.heard().iter().map(|event| event["type"].clone()).collect();
    for kind in ["execution_start", "executing", "executed", "execution_success"] {
        assert!(!kinds.contains(&json!(kind)), "{kind} is not for bystanders: {kinds:?}");
    }
}

async fn a_replaced_socket_takes_its_successor_along(server: Server) {
    let first = server.socket("replaced").await;
    let second = server.socket("replaced").await;
    drop(first);
    let witness = server.socket("witness").await;
    // The first one's clean-up has no sign of its own: repeat until a status reaches only the witness.
    server
        .until("the second socket is orphaned", async |server| {
            let (before, seen) = (second.heard().len(), witness.heard().len());
            let id = server.submit(picture("orphan", Some(&seen.to_string())), "nobody").await;
            server.finished(&id).await;
            witness.until("a status", |events| events.len() >= seen + 3).await;
            second.heard().len() == before
        })
        .await;
    assert!(second.is_open());
}

async fn a_switch_runs_only_the_side_it_takes(server: Server) {
    let mut prompt = picture("switched", None);
    prompt["4"] = json!({"class_type": "GateProbeFail", "inputs": {"image": ["1", 0], "message": "not taken"}});
    prompt["5"] = json!({
        "class_type": "ComfySwitchNode",
        "inputs": {"switch": true, "on_true": ["1", 0], "on_false": ["4", 0]}
    });
    prompt["2"]["inputs"]["images"] = json!(["5", 0]);
    let id = server.submit(prompt.clone(), "switched").await;
    assert_eq!(server.finished(&id).await["status"]["status_str"], "success");
    prompt["5"]["inputs"]["switch"] = json!(false);
    let id = server.submit(prompt, "switched").await;
    let entry = server.finished(&id).await;
    assert_eq!(entry["status"]["status_str"], "error");
    let messages = entry["status"]["messages"].as_array().expect("messages");
    assert_eq!(messages.last().expect("an end")[1]["exception_message"], "not taken\n");
}

async fn undeclared_links_run_and_then_fail_the_node(server: Server) {
    let mut prompt = picture("undeclared", None);
    prompt["6"] = json!({"class_type": "GateProbeSize", "inputs": {"image": ["1", 0], "zzz": ["1", 0]}});
    let id = server.submit(prompt, "undeclared").await;
    let entry = server.finished(&id).await;
    let messages = entry["status"]["messages"].as_array().expect("messages");
    let error = &messages.last().expect("an end")[1];
    assert_eq!(error["exception_type"], "TypeError");
    let text = error["exception_message"].as_str().expect("a text");
    assert!(text.contains("got an unexpected keyword argument 'zzz'"), "{text}");
}

async fn a_png_carries_the_graph(server: Server) {
    let mut prompt = sleeper("carried", 1, 0);
    prompt["1"]["_meta"] = json!({"title": "source"});
    let body = json!({"prompt": prompt, "client_id": "c", "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}});
    let answer = server.post("/prompt", body).await;
    let id = answer.json()["prompt_id"].as_str().expect("an id").to_owned();
    server.finished(&id).await;
    let png = server.get("/view?filename=carried_00001_.png&subfolder=own").await.body;
    let text = String::from_utf8_lossy(&png);
    assert!(text.contains("tEXtprompt\0{\"1\": {\"class_type\": \"EmptyImage\""), "{text}");
    assert!(text.contains("\"is_changed\": [NaN]"), "{text}");
    assert!(text.contains("tEXtworkflow\0{\"id\": \"w\"}"), "{text}");
}

async fn a_compressed_file_beside_is_served_in_its_place(server: Server) {
    let kind = [("content-type".to_owned(), "multipart/form-data; boundary=b".to_owned())];
    for (name, content) in [("beside.txt", "plain"), ("beside.txt.gz", "other")] {
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\r\n");
        let body = format!("{head}{content}\r\n--b--\r\n").into_bytes();
        assert_eq!(server.send("POST", "/upload/image", &kind, body).await.expect("an answer").status, 200);
    }
    let path = "/view?filename=beside.txt&type=input";
    assert_eq!(server.get(path).await.body, "plain");
    let accepts = [("accept-encoding".to_owned(), "gzip".to_owned())];
    let answer = server.send("GET", path, &accepts, Vec::new()).await.expect("an answer");
    assert_eq!((answer.header("content-encoding"), &answer.body[..]), (Some("gzip"), &b"other"[..]));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
}

async fn started() -> StandIn {
    StandIn::start(Options { tick: 0.1, ..Options::default() }).await.expect("a free port")
}

fn server_of(subject: &StandIn) -> Server {
    Server::Plain(subject.addr())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_passes_the_calls_that_a_real_server_is_asked() {
    let subject = StandIn::start(Options::default()).await.expect("a free port");
    real_too(server_of(&subject)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_a_client_id_that_is_an_object_ends_the_process() {
    let subject = started().await;
    let server = server_of(&subject);
    let body = json!({"prompt": picture("k1", None), "client_id": {}}).to_string().into_bytes();
    // The answer may or may not arrive before the end.
    let _ = server.send("POST", "/prompt", &[], body).await;
    server.until("nothing listens", async |server| server.send("GET", "/prompt", &[], vec![]).await.is_err()).await;
    assert!(!subject.is_running());
}

/// After these the server answers, and nothing runs any more.
async fn worker_dies_of(prompt: Value) {
    let subject = started().await;
    let server = server_of(&subject);
    let id = server.submit(prompt, "k").await;
    // As text: a graph nested too deep for our own reader may be in there.
    server
        .until("it is taken", async |server| server.get("/queue").await.body.ends_with(b"\"queue_pending\": []}"))
        .await;
    let after = server.submit(picture("after", None), "k").await;
    assert_eq!(server.get("/system_stats").await.status, 200);
    assert_eq!(server.get("/queue").await.json()["queue_pending"][0][1], json!(after));
    for id in [id, after] {
        assert_eq!(server.get(&format!("/history/{id}")).await.json(), json!({}));
    }
    subject.restart().await.expect("the port is free");
    let again = server.submit(picture("again", None), "k").await;
    assert_eq!(server.finished(&again).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn k2_an_undeclared_link_to_nowhere_ends_the_worker() {
    let mut prompt = picture("k2", None);
    prompt["2"]["inputs"]["zzz"] = json!(["nope", 0]);
    worker_dies_of(prompt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k3_inputs_that_are_null_on_an_unreachable_node_end_the_worker() {
    let mut prompt = picture("k3", None);
    prompt["9"] = json!({"class_type": "ImageScale", "inputs": null});
    worker_dies_of(prompt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k4_a_chain_of_a_thousand_undeclared_links_ends_the_worker() {
    let mut prompt = picture("k4", None);
    for index in 10..1100 {
        let inputs = if index == 10 { json!({}) } else { json!({"zzz": [(index - 1).to_string(), 0]}) };
        prompt[index.to_string()] = json!({"class_type": "EmptyImage", "inputs": inputs});
    }
    // Keys are built in the order of the document: the deep end has to come first.
    let mut reversed = json!({"1099": prompt["1099"].clone()});
    for (key, value) in prompt.as_object().expect("an object") {
        reversed[key] = value.clone();
    }
    worker_dies_of(reversed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k5_a_deeply_nested_literal_ends_the_worker() {
    let mut prompt = picture("k5", None);
    prompt["1"]["inputs"]["deep"] = (0..600).fold(json!(0), |inner, _| json!([inner, 0, 0]));
    worker_dies_of(prompt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_resets_its_sockets_and_comes_back_empty() {
    let subject = started().await;
    let server = server_of(&subject);
    let socket = server.socket("killed").await;
    let id = server.submit(picture("killed", None), "killed").await;
    server.finished(&id).await;
    subject.kill();
    server.until("nothing listens", async |server| server.send("GET", "/prompt", &[], vec![]).await.is_err()).await;
    server.until("the socket is closed", async |_| !socket.is_open()).await;
    subject.restart().await.expect("the port is free");
    assert_eq!(server.get("/history").await.json(), json!({}));
    assert_eq!(server.get("/view?filename=killed_00001_.png&subfolder=own").await.status, 200);
    assert_eq!(subject.executed(), [id]);
    assert_eq!(subject.submissions().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_node_come_when_they_are_asked_for() {
    let subject = started().await;
    let server = server_of(&subject);
    let kind = async |name: &str| {
        let id = server.submit(picture(name, Some(name)), "faults").await;
        let entry = server.finished(&id).await;
        entry["status"]["messages"].as_array().expect("messages").last().expect("an end")[1]["exception_type"].clone()
    };
    assert_eq!(kind("sound").await, Value::Null);
    subject.faults().oom_next();
    assert_eq!(kind("oom").await, "torch.OutOfMemoryError");
    assert_eq!(kind("sound again").await, Value::Null);
    subject.faults().cuda_error_next();
    assert_eq!(kind("cuda").await, "torch.AcceleratorError");
    assert_eq!(kind("still broken").await, "torch.AcceleratorError");
    subject.restart().await.expect("the port is free");
    subject.faults().lose_disk(true);
    assert_eq!(kind("lost").await, "OSError");
    subject.faults().lose_disk(false);
    assert_eq!(kind("found").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_the_middle_leaves_the_job_running_for_ever() {
    let subject = started().await;
    let server = server_of(&subject);
    let socket = server.socket("dying").await;
    let id = server.submit(sleeper("dying", 10000, 50), "dying").await;
    socket.until_event("progress").await;
    subject.faults().worker_dies();
    let next = server.submit(picture("next", None), "dying").await;
    let queue = server.get("/queue").await.json();
    assert_eq!(queue["queue_running"][0][1], json!(id));
    assert_eq!(queue["queue_pending"][0][1], json!(next));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_stay_open_and_hear_nothing() {
    let subject = started().await;
    let server = server_of(&subject);
    let socket = server.socket("silent").await;
    subject.faults().silence_sockets(true);
    let id = server.submit(picture("silent", None), "silent").await;
    server.finished(&id).await;
    assert_eq!(socket.heard().len(), 1);
    assert!(socket.is_open());
    subject.faults().silence_sockets(false);
    let id = server.submit(picture("heard", Some("x")), "silent").await;
    server.finished(&id).await;
    socket.until_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_requests_are_answered_once_the_hang_is_lifted() {
    let subject = started().await;
    let server = server_of(&subject);
    subject.faults().hang_http(true);
    let waiting = tokio::spawn(async move { server.get("/prompt").await.status });
    server.until("the request has come", async |_| !subject.requests().is_empty()).await;
    assert!(!waiting.is_finished());
    subject.faults().hang_http(false);
    assert_eq!(waiting.await.expect("no panic"), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_text_to_image_workflow_runs_with_simulated_sampling() {
    let subject = started().await;
    let server = server_of(&subject);
    let socket = server.socket("painter").await;
    let prompt = json!({
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 42, "steps": 4, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 64, "batch_size": 2}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a bottle", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "watermark", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "painted", "images": ["8", 0]}}
    });
    let body = json!({"prompt": prompt, "client_id": "painter", "extra_data": {"preview_method": "auto"}});
    let answer = server.post("/prompt", body).await;
    let id = answer.json()["prompt_id"].as_str().expect("an id").to_owned();
    let entry = server.finished(&id).await;
    assert_eq!(entry["outputs"]["9"]["images"].as_array().expect("images").len(), 2, "{entry}");
    socket.until_end().await;
    let heard = socket.heard();
    assert_eq!(heard.iter().filter(|event| event["type"] == "progress").count(), 4);
    assert_eq!(heard.iter().filter(|event| event.get("binary").is_some()).count(), 4);
    let png = server.get("/view?filename=painted_00002_.png").await.body;
    assert_eq!(png.get(16..24), Some(&[0, 0, 0, 128, 0, 0, 0, 64][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_without_an_executor_says_so() {
    let subject = started().await;
    let server = server_of(&subject);
    let mut prompt = picture("unknown", None);
    prompt["3"] = json!({"class_type": "ImageSharpen", "inputs": {"image": ["1", 0], "sharpen_radius": 1, "sigma": 1, "alpha": 1}});
    prompt["2"]["inputs"]["images"] = json!(["3", 0]);
    let id = server.submit(prompt, "unknown").await;
    let entry = server.finished(&id).await;
    let error = &entry["status"]["messages"].as_array().expect("messages").last().expect("an end")[1];
    assert_eq!(error["exception_type"], "NotImplementedError");
    assert_eq!(error["node_type"], "ImageSharpen");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_by_http_are_refused_unless_they_were_allowed() {
    let subject = started().await;
    assert_eq!(server_of(&subject).post("/stand-in/faults", json!({"lose_disk": true})).await.status, 405);
    let options = Options { faults_by_http: true, ..Options::default() };
    let subject = StandIn::start(options).await.expect("a free port");
    let server = server_of(&subject);
    assert_eq!(server.post("/stand-in/faults", json!({"no_such": true})).await.status, 400);
    assert_eq!(server.post("/stand-in/faults", json!({"lose_disk": true})).await.status, 200);
    let id = server.submit(picture("lost", None), "lost").await;
    assert_eq!(server.finished(&id).await["status"]["status_str"], "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_refuses_connections_and_then_serves() {
    let start_delay = std::time::Duration::from_secs(2);
    let options = Options { start_delay, ..Options::default() };
    let subject = StandIn::start(options).await.expect("a free port");
    let server = server_of(&subject);
    assert!(server.send("GET", "/prompt", &[], vec![]).await.is_err());
    server.until("it serves", async |server| server.send("GET", "/prompt", &[], vec![]).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_nothing_hits() {
    let options = Options { cache: false, ..Options::default() };
    let subject = StandIn::start(options).await.expect("a free port");
    let server = server_of(&subject);
    for number in 1..=2 {
        let id = server.submit(picture("uncached", None), "uncached").await;
        let entry = server.finished(&id).await;
        assert_eq!(cached_nodes(&entry), 0);
        assert_eq!(entry["outputs"]["2"]["images"][0]["filename"], format!("uncached_{number:05}_.png"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_call_services_are_there_unless_they_are_switched_off() {
    for (api_nodes, there) in [(true, true), (false, false)] {
        let options = Options { api_nodes, ..Options::default() };
        let subject = StandIn::start(options).await.expect("a free port");
        let info = server_of(&subject).get("/object_info").await.json();
        assert_eq!(info.get("OpenAIDalle3").is_some(), there);
        assert!(info.get("KSampler").is_some());
        let listed = &info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0];
        assert!(listed.as_array().is_some_and(|names| !names.is_empty()), "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_appear_in_the_loaders_and_can_be_loaded() {
    let subject = started().await;
    let server = server_of(&subject);
    let id = server.submit(picture("source", None), "loader").await;
    server.finished(&id).await;
    let png = server.get("/view?filename=source_00001_.png&subfolder=own").await.body;
    let head = "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"up.png\"\r\n\r\n";
    let body = [head.as_bytes(), &png, b"\r\n--b--\r\n"].concat();
    let kind = [("content-type".to_owned(), "multipart/form-data; boundary=b".to_owned())];
    let answer = server.send("POST", "/upload/image", &kind, body).await.expect("an answer");
    assert_eq!(answer.json(), json!({"name": "up.png", "subfolder": "", "type": "input"}));
    let info = server.get("/object_info/LoadImage").await.json();
    assert_eq!(info["LoadImage"]["input"]["required"]["image"][0], json!(["up.png"]));
    let prompt = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "up.png"}},
        "2": {"class_type": "GateProbeSize", "inputs": {"image": ["1", 0]}}
    });
    let id = server.submit(prompt, "loader").await;
    let size = json!([{"batch": 1, "height": 32, "width": 48, "channels": 3}]);
    assert_eq!(server.finished(&id).await["outputs"]["2"]["probe_size"], size);
}
