//! What one ordinary request ends or freezes a ComfyUI with, K1 to K15, sent through the gateway before two backends: after each, both run a job to its
//! end, and their lists can be read. What is just inside of the rules is accepted, under a policy that allows everything, and survived as well; which
//! rule it is that refuses, the engine's own tests say (`policies/tests/bypass/crash.rs`).
//!
//! With `COMFYUI_URLS` the backends are real ones, which then stand to lose something: `--test-threads 1`.

use crate::resources::goes_on;
use crate::sockets::by_hand;
use crate::world::real_urls;
use comfygate_tests::{Client, Gateway, RawConnection, Response, eventually, pictures, workflows};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

/// Two backends, an ordinary tenant, and one whose policy allows every class and caps nothing.
struct World {
    gateway: Gateway,
    backends: Vec<SocketAddr>,
    acme: Client,
    open: Client,
}

impl World {
    async fn new() -> World {
        let builder = Gateway::builder()
            .file("open.toml", "name = \"open\"\n[classes]\nallow = [\"*\"]\n")
            .tenants_toml("[[tenant]]\nid = \"open\"\nplan = \"usual\"\npolicy = \"open.toml\"\n");
        let builder = match real_urls() {
            Some(urls) => builder.backends(&urls),
            None => builder.stand_ins(2),
        };
        let gateway = builder.start().await;
        let urls = real_urls().unwrap_or_else(|| gateway.stand_ins().iter().map(|one| one.url()).collect());
        let address = |url: &String| url.strip_prefix("http://").unwrap().to_socket_addrs().unwrap().next().unwrap();
        let backends = urls.iter().map(address).collect();
        let (acme, open) = (gateway.client("acme"), gateway.client("open"));
        World { gateway, backends, acme, open }
    }

    /// Submissions that have arrived at stand-ins; a real one is not asked.
    fn arrived(&self) -> usize {
        self.gateway.stand_ins().iter().map(|backend| backend.submissions().len()).sum()
    }

    /// Both tenants' attempts are refused, the open one's with this code, and nothing of them arrives.
    async fn refuses(&self, what: &str, envelope: &Value, code: &str) {
        self.refuses_bytes(what, &envelope.to_string(), code).await;
    }

    async fn refuses_bytes(&self, what: &str, body: &str, code: &str) {
        let before = self.arrived();
        for (who, client) in [("an ordinary tenant", &self.acme), ("one who may everything", &self.open)] {
            let answer = client.post_bytes("/prompt", "application/json", body.to_owned()).await;
            assert!(answer.status.is_client_error(), "{what}, {who}: {} {}", answer.status, answer.text());
            if who != "an ordinary tenant" {
                assert!(tells(&answer, code), "{what}: not `{code}`: {}", answer.text());
            }
        }
        assert_eq!(self.arrived(), before, "{what}: something arrived");
    }

    /// It is accepted from the tenant who may everything, and runs to an end of whatever kind.
    async fn survives(&self, what: &str, envelope: &Value) -> Value {
        let answer = self.open.post("/prompt", envelope).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        let entry = self.open.finished(answer.json()["prompt_id"].as_str().unwrap()).await;
        assert!(entry["status"]["status_str"].is_string(), "{what}: {entry}");
        entry
    }

    /// Every backend, asked directly, runs a job to its end and can list what it has; so does the gateway for a tenant.
    async fn both_still_work(&self) {
        assert_eq!(self.backends.len(), 2);
        for backend in &self.backends {
            runs_a_job(*backend).await;
        }
        self.gateway.backends_are_up().await;
        let prompt = self.acme.submit(workflows::quick("alive")).await;
        assert_eq!(self.acme.finished(&prompt).await["status"]["status_str"], "success");
        for path in ["/queue", "/history", "/api/jobs"] {
            self.acme.get(path).await.expect(200).json();
        }
    }
}

/// Whether one of the reasons of a refusal has this code, or the refusal of the workflow as a whole.
fn tells(answer: &Response, code: &str) -> bool {
    let text = answer.text();
    text.contains(&format!("\"code\":\"{code}\"")) || text.contains(&format!("\"type\":\"{code}\""))
}

async fn direct(backend: SocketAddr, request: &str) -> Value {
    let mut connection = RawConnection::plain(backend, Ipv4Addr::LOCALHOST).await;
    connection.write(request.as_bytes()).await;
    let answer = connection.response().await.expect("the backend answers");
    assert_eq!(answer.status, 200, "{request}: {}", answer.text());
    answer.json()
}

async fn runs_a_job(backend: SocketAddr) {
    // Another picture each time, so that it has to run.
    let [one, two, three, ..] = uuid::Uuid::new_v4().into_bytes();
    let mut graph = workflows::quick("direct");
    graph["1"]["inputs"]["color"] = json!(u32::from_be_bytes([0, one, two, three]));
    let body = json!({"prompt": graph, "client_id": "direct"}).to_string();
    let head = format!("POST /prompt HTTP/1.1\r\nhost: {backend}\r\ncontent-type: application/json\r\n");
    let answer = direct(backend, &format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    let prompt = answer["prompt_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    let get = async |path: &str| direct(backend, &format!("GET {path} HTTP/1.1\r\nhost: {backend}\r\n\r\n")).await;
    let entry = eventually("a job at the backend itself ends", || async {
        get(&format!("/history/{prompt}")).await.get_mut(&prompt).map(Value::take)
    })
    .await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    for path in ["/queue", "/history", "/api/jobs"] {
        assert!(get(path).await.is_object(), "{path} of the backend");
    }
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

fn envelope(graph: Value) -> Value {
    json!({"prompt": graph})
}

/// A graph that shows the first output of `last`.
fn shown(last: &str, nodes: Value) -> Value {
    let mut all = nodes;
    all["shown"] = node("PreviewAny", json!({"source": [last, 0]}));
    envelope(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k01_a_client_id_that_is_no_text_ends_no_process() {
    let world = World::new().await;
    for id in [json!({}), json!([1]), json!(7)] {
        let above = json!({"prompt": workflows::quick("k1"), "client_id": id});
        world.refuses("above", &above, "invalid_type").await;
        let within = json!({"prompt": workflows::quick("k1"), "extra_data": {"client_id": id}});
        world.refuses("in extra_data", &within, "invalid_type").await;
    }
    world.survives("a text", &json!({"prompt": workflows::quick("k1"), "client_id": "text"})).await;
    let within = json!({"prompt": workflows::quick("k1"), "extra_data": {"client_id": "text"}});
    world.survives("a text in extra_data", &within).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k02_an_undeclared_link_ends_no_worker() {
    let world = World::new().await;
    for (target, code) in [("nope", "bad_linked_input"), ("1", "undeclared_input")] {
        let mut graph = workflows::quick("k2");
        graph["9"]["inputs"]["zzz"] = json!([target, 0]);
        world.refuses(target, &envelope(graph), code).await;
    }
    world.survives("declared links", &envelope(workflows::quick("k2"))).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k03_inputs_that_are_no_object_end_no_worker() {
    let world = World::new().await;
    for inputs in [json!({"inputs": null}), json!({"inputs": []}), json!({"inputs": "x"}), json!({})] {
        let mut graph = workflows::quick("k3");
        graph["77"] = inputs;
        graph["77"]["class_type"] = json!("EmptyImage");
        world.refuses("a node beside a good output", &envelope(graph), "invalid_inputs").await;
    }
    let mut graph = workflows::quick("k3");
    graph["77"] = node("KSamplerSelect", json!({"sampler_name": "euler"}));
    world.survives("a node beside a good output that is one", &envelope(graph)).await;
    world.both_still_work().await;
}

fn chain(length: usize) -> Value {
    let mut nodes = json!({"n0": node("PrimitiveInt", json!({"value": 1}))});
    for n in 1..length {
        nodes[format!("n{n}")] = node("PrimitiveInt", json!({"value": [format!("n{}", n - 1), 0]}));
    }
    shown(&format!("n{}", length - 1), nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k04_long_chains_end_no_worker() {
    let world = World::new().await;
    let mut beside = workflows::quick("k4");
    beside["n0"] = node("PrimitiveInt", json!({"value": 1}));
    for n in 1..1000 {
        let inputs = json!({"value": 1, "zzz": [format!("n{}", n - 1), 0]});
        beside[format!("n{n}")] = node("PrimitiveInt", inputs);
    }
    world.refuses("by undeclared links, unreachable", &envelope(beside), "too_many_nodes").await;
    world.refuses("by declared links", &chain(200), "path_too_long").await;
    world.survives("one shorter", &chain(199)).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k05_deep_literals_end_no_worker() {
    let world = World::new().await;
    let graph = workflows::quick("k5").to_string();
    let nested = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels) + "1", "}".repeat(levels));
    for levels in [480, 900] {
        let mut quick = workflows::quick("k5");
        quick["1"]["inputs"]["color"] = json!("DEEP");
        let within = format!("{{\"prompt\":{}}}", quick.to_string().replace("\"DEEP\"", &nested(levels)));
        world.refuses_bytes("in an input", &within, "too_deep").await;
        for place in [format!("{{\"a\":{}}}", nested(levels)), format!("{{\"extra_pnginfo\":{}}}", nested(levels))] {
            let body = format!("{{\"prompt\":{graph},\"extra_data\":{place}}}");
            world.refuses_bytes("in extra_data", &body, "too_deep").await;
        }
    }
    let inside: Value = serde_json::from_str(&nested(50)).unwrap();
    let page = json!({"prompt": workflows::quick("k5"), "extra_data": {"extra_pnginfo": {"workflow": inside}}});
    world.survives("a page's workflow", &page).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k06_equal_numbers_and_ids_while_busy_end_no_worker() {
    let world = World::new().await;
    let mut long = Vec::new();
    for _ in 0..2 {
        long.push(world.open.submit(workflows::slow("k6", 150, 400, false)).await);
    }
    for prompt in &long {
        world.open.running(prompt).await;
    }
    let same = |prefix: &str| json!({"prompt": workflows::quick(prefix), "prompt_id": "same", "number": 1});
    for client in [&world.open, &world.acme] {
        for _ in 0..3 {
            let answer = client.post("/prompt", &same("k6")).await.expect(200).json();
            assert_eq!(answer["prompt_id"], "same", "the first answer again");
        }
        let other = client.post("/prompt", &same("another")).await.expect(409);
        assert_eq!(other.code(), "name_taken");
        let waiting = client.get("/queue").await.expect(200).json()["queue_pending"].as_array().unwrap().len();
        assert_eq!(waiting, 1, "three submissions were one");
    }
    for prompt in &long {
        world.open.post("/interrupt", &json!({"prompt_id": prompt})).await.expect(200);
    }
    for client in [&world.open, &world.acme] {
        assert_eq!(client.finished("same").await["status"]["status_str"], "success");
    }
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k07_devices_and_pipes_hold_no_worker() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe.png").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["/dev/zero", "../../../../../../dev/zero", "/dev/stdin [input]", &pipe] {
        for (class, inputs) in [
            ("LoadImage", json!({"image": name})),
            ("LoadImageMask", json!({"image": name, "channel": "red"})),
            ("LoadAudio", json!({"audio": name})),
            ("LoadVideo", json!({"file": name})),
        ] {
            let mut graph = workflows::quick("k7");
            graph["66"] = node(class, inputs);
            world.refuses(&format!("{class} of {name}, which nothing uses"), &envelope(graph), "path_refused").await;
        }
    }
    world.open.upload("/upload/image", &[], "own.png", &pictures::png(8, 8, [1, 2, 3])).await.expect(200);
    let mut graph = workflows::quick("k7");
    graph["66"] = node("LoadImage", json!({"image": "own.png"}));
    world.survives("a picture of one's own, which nothing uses", &envelope(graph)).await;
    world.both_still_work().await;
}

fn pattern(text: &str, pattern: &str) -> Value {
    let inputs = json!({"string": text, "regex_pattern": pattern, "case_insensitive": true, "multiline": false, "dotall": false});
    shown("r", json!({"r": node("RegexMatch", inputs)}))
}

fn sigmas(text: Value) -> Value {
    let nodes = json!({"t": node("PrimitiveString", json!({"value": ".".repeat(8192)})), "g": node("ManualSigmas", json!({"sigmas": text}))});
    shown("g", nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k08_patterns_freeze_nothing() {
    let world = World::new().await;
    world.refuses("nested", &pattern(&"a".repeat(40), "(a+)+b"), "regex_refused").await;
    world.refuses("alternatives", &pattern(&"a".repeat(40), "(a|aa)+$"), "regex_refused").await;
    world.refuses("full stops", &sigmas(json!(".".repeat(65))), "regex_refused").await;
    world.refuses("many full stops", &sigmas(json!(".".repeat(100_000))), "regex_refused").await;
    world.survives("a square", &pattern(&"a".repeat(4000), "a*b")).await;
    world.survives("some full stops", &sigmas(json!(format!("{} 1", ".".repeat(64))))).await;
    world.survives("full stops by a link", &sigmas(json!(["t", 0]))).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k09_schedules_without_end_are_not_begun() {
    let world = World::new().await;
    let sampled = |denoise: f64| {
        let mut graph = workflows::text_to_image("k9");
        graph["3"]["inputs"]["denoise"] = json!(denoise);
        envelope(graph)
    };
    for denoise in [1e-9, 5e-324, 0.000_003_9] {
        world.refuses("denoise", &sampled(denoise), "schedule_too_long").await;
    }
    // Four steps are a million entries of a schedule. A backend without models has none to sample with; what it is refused for is not the schedule.
    let answer = world.open.post("/prompt", &sampled(0.000_004_1)).await;
    assert!(!tells(&answer, "schedule_too_long"), "{}", answer.text());
    if real_urls().is_none() {
        world.open.finished(answer.expect(200).json()["prompt_id"].as_str().unwrap()).await;
    }
    world.both_still_work().await;
}

/// A text of 1 KiB × 2^`times`.
fn doubled_text(times: usize) -> Value {
    let mut nodes = json!({"d0": node("PrimitiveString", json!({"value": "x".repeat(1024)}))});
    for n in 1..=times {
        let from = json!([format!("d{}", n - 1), 0]);
        nodes[format!("d{n}")] =
            node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
    }
    nodes
}

fn length_of(times: usize) -> Value {
    let mut nodes = doubled_text(times);
    nodes["length"] = node("StringLength", json!({"string": [format!("d{times}"), 0]}));
    shown("length", nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k10_no_memory_is_asked_for_that_nobody_has() {
    let world = World::new().await;
    let audio = json!({"x": node("EmptyAudio", json!({"duration": 1e18, "sample_rate": 44100, "channels": 2}))});
    world.refuses("sound", &shown("x", audio), "memory_exceeded").await;
    let image = |batch: u32| {
        let inputs = json!({"width": 16384, "height": 16384, "batch_size": batch, "color": 0});
        shown("x", json!({"x": node("EmptyImage", inputs)}))
    };
    world.refuses("a picture", &image(4096), "memory_exceeded").await;
    world.refuses("a picture, just too large", &image(17), "memory_exceeded").await;
    let latent = json!({"x": node("EmptyLatentImage", json!({"width": 16384, "height": 16384, "batch_size": 4096}))});
    world.refuses("a latent picture", &shown("x", latent), "memory_exceeded").await;
    world.refuses("a text", &length_of(15), "text_exceeded").await;
    world.survives("half that text", &length_of(14)).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k11_page_information_that_is_no_object_spoils_no_list() {
    let world = World::new().await;
    let with = |info: Value| json!({"prompt": workflows::quick("k11"), "extra_data": {"extra_pnginfo": info}});
    for info in [json!([]), json!("x"), json!({"workflow": []})] {
        world.refuses("page information", &with(info), "invalid_type").await;
    }
    for info in [json!(null), json!({"workflow": null}), json!({"workflow": {"id": "mine"}})] {
        world.survives("page information", &with(info)).await;
    }
    world.open.get("/api/jobs").await.expect(200);
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k12_a_number_that_is_none_spoils_no_queue() {
    let world = World::new().await;
    let graph = workflows::quick("k12");
    for (number, code) in
        [("NaN", "not_finite"), ("Infinity", "not_finite"), ("-Infinity", "invalid_json"), ("1e400", "not_finite")]
    {
        let body = format!("{{\"prompt\":{graph},\"number\":{number}}}");
        world.refuses_bytes(number, &body, code).await;
    }
    for number in [json!("nan"), json!("-inf"), json!(-1e308), json!(true)] {
        let mut numbered = envelope(graph.clone());
        numbered["number"] = number;
        world.survives("a number that is not sent on", &numbered).await;
    }
    world.both_still_work().await;
}

/// Layers of three nodes, each linked to two of the layer before; nothing runs them, but they get cache keys.
fn dense(layers: usize) -> Value {
    let mut nodes = json!({"e": node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": 1, "color": 0})), "v": node("PrimitiveInt", json!({"value": 7}))});
    for layer in 0..layers {
        for place in 0..3 {
            let from = |place: usize| {
                if layer == 0 { json!(["e", 0]) } else { json!([format!("n{}-{}", layer - 1, place % 3), 0]) }
            };
            let inputs =
                json!({"destination": from(place), "source": from(place + 1), "x": 0, "y": 0, "resize_source": false});
            nodes[format!("n{layer}-{place}")] = node("ImageCompositeMasked", inputs);
        }
    }
    shown("v", nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k13_dense_graphs_hold_no_worker() {
    let world = World::new().await;
    world.refuses("dense", &dense(90), "too_densely_linked").await;
    world.survives("less dense", &dense(50)).await;
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k14_objects_of_python_are_shown_to_nobody() {
    let world = World::new().await;
    let shows = |class: &str, input: &str| {
        let mut nodes = json!({
            "k": node("KSamplerSelect", json!({"sampler_name": "euler"})),
            "w": node("ComfySwitchNode", json!({"switch": true, "on_true": ["k", 0], "on_false": ["k", 0]})),
        });
        nodes["p"] = node(class, json!({ input: ["w", 0] }));
        json!({"prompt": nodes, "client_id": "page"})
    };
    // With a page open, which would be told.
    let mut page = world.open.socket(Some("page")).await;
    page.sid().await;
    world.refuses("Preview3D", &shows("Preview3D", "model_file"), "type_unknown").await;
    world.survives("PreviewAny, which prints it", &shows("PreviewAny", "source")).await;
    for path in ["/history", "/api/jobs"] {
        world.open.get(path).await.expect(200);
    }
    world.both_still_work().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k15_a_socket_that_never_reads_stalls_no_events_of_another() {
    let world = World::new().await;
    let (deaf, answer) = by_hand(&world.open, "/ws?clientId=deaf", "").await;
    assert_eq!(answer.status, 101);
    // More than waits in the buffers of two connections, and to a real ComfyUI the most that is let through: 16 MiB of text.
    let times = if real_urls().is_some() { 14 } else { 13 };
    let mut graph = doubled_text(times);
    graph["shown"] = node("PreviewAny", json!({"source": [format!("d{times}"), 0]}));
    let told = world.open.submit_with(json!({"prompt": graph, "client_id": "deaf"})).await;
    goes_on(&world.acme).await;
    let entry = world.open.finished(&told).await;
    assert_eq!(entry["status"]["status_str"], "success", "{}", entry["status"]);
    // And now that the text waits for its reader.
    goes_on(&world.acme).await;
    world.both_still_work().await;
    drop(deaf);
}
