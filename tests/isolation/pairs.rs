//! Pairs by hand: what is B's answers A exactly like what does not exist. "Exactly": status, headers and body are compared, with only the
//! request's own id taken out.

use comfygate_tests::client::files_of;
use comfygate_tests::{Client, Gateway, Response, pictures, workflows};
use http::Method;
use serde_json::{Value, json};

/// Tenant A with a finished job, a running one and a held one; tenant B with nothing.
struct Stage {
    gateway: Gateway,
    a: Client,
    b: Client,
    finished: String,
    running: String,
    held: String,
    file: Value,
}

const CLIENT: &str = "the-client-of-a";
/// Names of nothing, of the same form and length as the names of A's things.
const NOTHING: &str = "00000000-0000-4000-8000-000000000000";

async fn stage() -> Stage {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (a, b) = (gateway.client("acme"), gateway.client("bravo"));
    let finished = a.submit_with(json!({"prompt": workflows::quick("secret/plan"), "client_id": CLIENT})).await;
    let entry = a.finished(&finished).await;
    let file = files_of(&entry).remove(0);
    let long = workflows::slow("secret", 150, 400, false);
    let running = a.submit_with(json!({"prompt": long.clone(), "client_id": CLIENT})).await;
    a.running(&running).await;
    let held = a.submit_with(json!({"prompt": long, "client_id": CLIENT})).await;
    Stage { gateway, a, b, finished, running, held, file }
}

impl Stage {
    /// A still has what it had: nothing that B did changed anything.
    async fn a_is_untouched(&self) {
        let queue = self.a.get("/queue").await.expect(200).json();
        assert_eq!(
            (&queue["queue_running"][0][1], &queue["queue_pending"][0][1]),
            (&json!(self.running), &json!(self.held))
        );
        let entry = self.a.finished(&self.finished).await;
        assert_eq!(entry["status"]["status_str"], "success");
        self.a.stranger().get(&self.a.path_of(self.file["url"].as_str().unwrap())).await.expect(200);
    }
}

fn same(what: &str, foreign: &Response, nothing: &Response) {
    assert_eq!(
        foreign.without_request_id(),
        nothing.without_request_id(),
        "{what}: a foreign thing can be told from none"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_list_of_b_is_as_if_there_were_no_a() {
    let stage = stage().await;
    let empty = Gateway::builder().stand_ins(1).start().await;
    let alone = empty.client("bravo");
    for path in [
        "/queue",
        "/api/queue",
        "/prompt",
        "/history",
        "/api/history",
        "/history?max_items=10",
        "/history?max_items=10&offset=0",
        "/users",
        "/features",
        "/internal/folder_paths",
        "/object_info",
        "/api/jobs",
        "/api/jobs?status=in_progress,pending&limit=200&offset=0",
        "/userdata?dir=.&recurse=true",
        "/v2/userdata",
        "/settings",
    ] {
        let (here, there) = (stage.b.get(path).await, alone.get(path).await);
        assert_eq!(here.expect(200).json(), there.expect(200).json(), "{path}");
    }
    assert_eq!(stage.b.get("/gate/me").await.expect(200).json()["queue_remaining"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompt_ids_of_a_answer_b_like_no_prompt() {
    let stage = stage().await;
    for prefix in ["", "/api"] {
        let nothing = stage.b.get(&format!("{prefix}/history/{NOTHING}")).await;
        for prompt in [&stage.finished, &stage.running, &stage.held] {
            let foreign = stage.b.get(&format!("{prefix}/history/{prompt}")).await;
            same("history", &foreign, &nothing);
        }
        assert_eq!(nothing.expect(200).json(), json!({}));
    }
    let nothing = stage.b.get(&format!("/api/jobs/{NOTHING}")).await;
    for prompt in [&stage.finished, &stage.running, &stage.held] {
        same("jobs", &stage.b.get(&format!("/api/jobs/{prompt}")).await, &nothing);
    }
    assert_eq!(nothing.expect(404).json(), json!({"error": "Job not found"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_cannot_delete_clear_or_interrupt_what_is_as() {
    let stage = stage().await;
    let nothing = json!({"delete": [NOTHING]});
    for (path, foreign) in [
        ("/queue", json!({"delete": [stage.held]})),
        ("/queue", json!({"delete": [stage.running]})),
        ("/queue", json!({"delete": [stage.held, stage.running, stage.finished]})),
        ("/queue", json!({"clear": true})),
        ("/queue", json!({"clear": "false"})),
        ("/history", json!({"delete": [stage.finished]})),
        ("/history", json!({"clear": true})),
    ] {
        same(path, &stage.b.post(path, &foreign).await, &stage.b.post(path, &nothing).await);
    }
    let none = stage.b.post("/interrupt", &json!({"prompt_id": NOTHING})).await;
    for prompt in [&stage.running, &stage.held, &stage.finished] {
        same("/interrupt", &stage.b.post("/interrupt", &json!({"prompt_id": prompt})).await, &none);
    }
    for body in ["", "{}"] {
        let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[("content-type", "application/json")] };
        stage.b.call(Method::POST, "/interrupt", headers, body.into()).await.expect(200);
    }
    stage.b.post("/free", &json!({"unload_models": true, "free_memory": true})).await.expect(200);
    stage.a_is_untouched().await;
    let asked: Vec<String> = stage.gateway.stand_ins()[0]
        .requests()
        .into_iter()
        .filter(|seen| seen.0 == Method::POST)
        .map(|seen| seen.1)
        .collect();
    assert!(!asked.iter().any(|path| path.contains("interrupt") || path.contains("free")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_as_files_answer_b_like_no_file() {
    let stage = stage().await;
    let name = stage.file["filename"].as_str().unwrap();
    let ask = async |name: &str, rest: &str| stage.b.get(&format!("/view?filename={name}{rest}")).await;
    stage.a.get(&format!("/view?filename={name}&subfolder=secret&type=output")).await.expect(200);
    for rest in [
        "&subfolder=secret&type=output",
        "&subfolder=secret",
        "&type=output",
        "",
        "&subfolder=secret&type=temp",
        "&subfolder=secret&type=input",
    ] {
        let nothing = ask(&name.replace("plan", "none"), rest).await;
        same(rest, &ask(name, rest).await, &nothing);
        assert_eq!(nothing.status, 404, "{rest}");
    }
    // The name on the backend's disk, in the attempt's own folder, is nobody's name.
    let sent = &stage.gateway.stand_ins()[0].submissions()[0];
    let prefix = sent["prompt"]["9"]["inputs"]["filename_prefix"].as_str().unwrap();
    let (folder, base) = prefix.rsplit_once('/').unwrap();
    for client in [&stage.a, &stage.b] {
        let folder = folder.replace('/', "%2F");
        client.get(&format!("/view?filename={base}_00001_.png&subfolder={folder}&type=output")).await.expect(404);
    }
}

/// Every way in which a workflow can name a file that A uploaded, or that a backend has of A's.
fn names_of(name: &str, folder: &str, upstream: &str) -> Vec<String> {
    let mut names =
        vec![name.to_owned(), format!("{folder}/{name}"), upstream.to_owned(), format!("{folder}/../{name}")];
    names.extend(
        names.clone().iter().flat_map(|name| ["input", "output", "temp"].map(|kind| format!("{name} [{kind}]"))),
    );
    names.extend([
        format!("{name}[temp]"),
        format!("{upstream}Z[input]"),
        format!("../{upstream}"),
        format!("/{upstream}"),
    ]);
    names.push(upstream.replace("t/", "t//"));
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_a_are_no_inputs_masks_or_views_of_b() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (a, b) = (gateway.client("acme"), gateway.client("bravo"));
    let picture = pictures::png(20, 10, [1, 2, 3]);
    a.upload("/upload/image", &[], "plan.png", &picture).await.expect(200);
    a.upload("/upload/image", &[("subfolder", "secret")], "plan.png", &picture).await.expect(200);
    let prompt = a.submit(workflows::inverted("secret/plan.png", "x")).await;
    assert_eq!(a.finished(&prompt).await["status"]["status_str"], "success");
    let sent = gateway.stand_ins()[0].submissions()[0].clone();
    let upstream = sent["prompt"]["1"]["inputs"]["image"].as_str().unwrap().to_owned();
    let (folder, file) = upstream.rsplit_once('/').unwrap();
    // The same names of nothing: as long, of the same characters, so that only what is behind them differs.
    let nothing = format!("{folder}/{}", file.replace(|c: char| c.is_ascii_hexdigit(), "0"));
    let theirs = names_of("plan.png", "secret", &upstream);
    let none = names_of("none.png", "secret", &nothing);
    for (foreign, none) in theirs.iter().zip(&none) {
        let ask = async |name: &str| {
            let answer = b.post("/prompt", &json!({"prompt": workflows::inverted(name, "x")})).await;
            let (status, headers, body) = answer.without_request_id();
            let rate = |header: &(String, String)| !header.0.starts_with("ratelimit") && header.0 != "content-length";
            (status, headers.into_iter().filter(rate).collect::<Vec<_>>(), body.replace(name, "NAME"))
        };
        let (foreign_answer, none_answer) = (ask(foreign).await, ask(none).await);
        assert_eq!(foreign_answer.0, 403, "{foreign}: {foreign_answer:?}");
        assert_eq!(foreign_answer, none_answer, "{foreign}: a foreign file can be told from none");
    }
    for (name, subfolder) in [("plan.png", ""), ("plan.png", "secret"), (file, folder)] {
        let reference = |name: &str| json!({"filename": name, "subfolder": subfolder, "type": "input"}).to_string();
        let ask =
            async |name: &str| b.upload("/upload/mask", &[("original_ref", &reference(name))], "m.png", &picture).await;
        let none = ask("none.png").await;
        assert_eq!(none.status, 404);
        same("a mask", &ask(name).await, &none);
        let query =
            |name: &str| format!("/view?type=input&subfolder={}&filename={name}", subfolder.replace('/', "%2F"));
        same("a view", &b.get(&query(name)).await, &b.get(&query("none.png")).await);
    }
    for path in ["/internal/files/input", "/internal/files/output", "/internal/files/temp"] {
        assert_eq!(b.get(path).await.expect(200).json(), json!([]), "{path}");
    }
    assert!(!b.get("/object_info").await.expect(200).text().contains("plan.png"));
    // B's own file of that name is B's, and A's stays A's.
    b.upload("/upload/image", &[("overwrite", "true")], "plan.png", &pictures::png(7, 7, [9, 9, 9])).await.expect(200);
    assert_eq!(a.get("/view?filename=plan.png&type=input").await.expect(200).body, picture);
    assert_eq!(b.get("/gate/me").await.expect(200).json()["queue_remaining"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_good_for_its_own_file_only() {
    let stage = stage().await;
    let mine = stage.b.submit(workflows::quick("mine")).await;
    // What is held goes first: an interrupt that comes before it begins would not meet it.
    stage.a.post("/queue", &json!({"clear": true})).await.expect(200);
    stage.a.post("/interrupt", &json!({})).await.expect(200);
    stage.a.finished(&stage.running).await;
    let own = files_of(&stage.b.finished(&mine).await).remove(0);
    let (own, theirs) =
        (stage.b.path_of(own["url"].as_str().unwrap()), stage.b.path_of(stage.file["url"].as_str().unwrap()));
    let (own_path, own_query) = own.split_once('?').unwrap();
    let (their_path, _) = theirs.split_once('?').unwrap();
    let own_id = own_path.split('/').nth(3).unwrap();
    let forged = stage.b.get(&format!("{their_path}?{own_query}")).await;
    let nothing = stage.b.get(&format!("{}?{own_query}", own_path.replace(own_id, NOTHING))).await;
    assert!(matches!(forged.status.as_u16(), 403 | 404));
    assert_eq!(
        (forged.status, forged.code()),
        (nothing.status, nothing.code()),
        "a forged signature can be told from no file"
    );
    stage.b.get(&own).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_id_and_an_idempotency_key_of_a_mean_nothing_for_b() {
    let stage = stage().await;
    let envelope = json!({"prompt": workflows::quick("other"), "prompt_id": stage.finished});
    let answer = stage.b.post("/prompt", &envelope).await.expect(200).json();
    assert_eq!((&answer["prompt_id"], &answer["number"]), (&json!(stage.finished), &json!(0)), "B's own first job");
    let keyed = [("content-type", "application/json"), ("idempotency-key", "the-same")];
    let body = json!({"prompt": workflows::quick("keyed")}).to_string();
    let first = stage.a.call(Method::POST, "/prompt", &keyed, body.clone().into()).await.expect(200).json();
    let second = stage.b.call(Method::POST, "/prompt", &keyed, body.into()).await.expect(200).json();
    assert_ne!(first["prompt_id"], second["prompt_id"]);
    stage.a_is_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_id_of_a_takes_nothing_from_a_and_gives_nothing_to_b() {
    let gateway = Gateway::builder().start().await;
    let (a, b) = (gateway.client("acme"), gateway.client("bravo"));
    let mut mine = a.socket(Some(CLIENT)).await;
    mine.sid().await;
    let mut thief = b.socket(Some(CLIENT)).await;
    assert_eq!(thief.sid().await, CLIENT);
    let prompt = a.submit_with(json!({"prompt": workflows::slow("watched", 8, 40, true), "client_id": CLIENT})).await;
    let heard = mine.until_end_of(&prompt).await;
    assert!(heard.iter().filter(|event| event.kind() == "preview").count() > 0, "{heard:?}");
    assert!(heard.iter().any(|event| event.kind() == "execution_success"));
    // B's own job is the fence: whatever was to reach B's socket has reached it by then.
    let fence = b.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": CLIENT})).await;
    for event in thief.until_end_of(&fence).await {
        assert_ne!(event.kind(), "preview", "a preview of A's");
        assert!(event.prompt_id().is_none_or(|id| id == fence), "an event of A's: {event:?}");
        let queue = event.data().pointer("/status/exec_info/queue_remaining").and_then(Value::as_u64);
        assert!(queue.is_none_or(|count| count <= 1), "A's jobs are counted: {event:?}");
    }
    // And B's job under A's client id said nothing to A.
    let fence = a.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": CLIENT})).await;
    for event in mine.until_end_of(&fence).await {
        assert!(event.prompt_id().is_none_or(|id| id == fence || id == prompt), "an event of B's: {event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_b_that_opens_while_a_runs_is_not_told_of_it() {
    let stage = stage().await;
    let mut socket = stage.b.socket(Some(CLIENT)).await;
    let first = socket.next_event().await;
    assert_eq!(first.data().pointer("/status/exec_info/queue_remaining"), Some(&json!(0)), "{first:?}");
    stage.a.post("/queue", &json!({"clear": true})).await.expect(200);
    stage.a.post("/interrupt", &json!({})).await.expect(200);
    let fence = stage.b.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": CLIENT})).await;
    for event in socket.until_end_of(&fence).await {
        assert!(event.prompt_id().is_none_or(|id| id == fence), "{event:?}");
        assert!(event.kind() != "executing" || event.prompt_id().is_some(), "the running node of A: {event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_graph_of_b_is_not_answered_from_as_cache() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (a, b) = (gateway.client("acme"), gateway.client("bravo"));
    let first = a.submit(workflows::quick("cached")).await;
    let of_a = a.finished(&first).await;
    let second = b.submit(workflows::quick("cached")).await;
    let of_b = b.finished(&second).await;
    let cached =
        of_b["status"]["messages"].as_array().unwrap().iter().find(|message| message[0] == "execution_cached").unwrap();
    assert_eq!(cached[1]["nodes"], json!([]), "{of_b}");
    assert_ne!(files_of(&of_a)[0]["url"], files_of(&of_b)[0]["url"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_did_is_in_no_error_text_and_no_limit_of_b() {
    let plan = "policy = \"default\"\nrate = { per_second = 0.01, burst = 2 }\nactive_jobs_max = 2";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    let (a, b) = (gateway.client("acme"), gateway.client("bravo"));
    for _ in 0..2 {
        a.submit(workflows::slow("secret", 150, 400, false)).await;
    }
    a.post("/prompt", &json!({"prompt": workflows::quick("secret")})).await.expect(429);
    let answer = b.post("/prompt", &json!({"prompt": workflows::quick("mine")})).await.expect(200);
    assert_eq!((answer.json()["number"].clone(), answer.header("ratelimit-remaining")), (json!(0), Some("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn userdata_and_settings_of_a_answer_b_like_none() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let a = gateway.client("acme");
    let user = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    a.post_bytes("/userdata/secret%2Fplan.json", "text/plain", "{}").await.expect(200);
    a.post("/settings", &json!({"secret": 1})).await.expect(200);
    // Another tenant, and another person of the same one.
    for b in [&gateway.client("bravo"), &user] {
        let ask = async |method: Method, path: &str| b.call(method, path, &[], bytes::Bytes::new()).await;
        for (method, foreign, none) in [
            (Method::GET, "/userdata/secret%2Fplan.json", "/userdata/secret%2Fnone.json"),
            (Method::DELETE, "/userdata/secret%2Fplan.json", "/userdata/secret%2Fnone.json"),
            (Method::POST, "/userdata/secret%2Fplan.json/move/x", "/userdata/secret%2Fnone.json/move/x"),
            (Method::GET, "/userdata?dir=secret", "/userdata?dir=n0thin"),
            (Method::GET, "/v2/userdata?path=secret", "/v2/userdata?path=n0thin"),
            (Method::GET, "/v2/userdata?path=secret%2Fplan.json", "/v2/userdata?path=n0thin"),
            (Method::GET, "/settings/secret", "/settings/n0thin"),
        ] {
            same(foreign, &ask(method.clone(), foreign).await, &ask(method, none).await);
        }
        // A's name is free for B, and what B does with it is B's.
        b.post_bytes("/userdata/secret%2Fplan.json?overwrite=false", "text/plain", "mine").await.expect(200);
        b.post("/settings", &json!({"secret": 2})).await.expect(200);
    }
    assert_eq!(a.get("/userdata/secret%2Fplan.json").await.expect(200).text(), "{}");
    assert_eq!(a.get("/settings").await.expect(200).json(), json!({"secret": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_are_neither_shown_to_b_nor_cancelled_by_b() {
    let stage = stage().await;
    assert_eq!(stage.b.get("/api/jobs?workflow_id=x").await.expect(200).json()["pagination"]["total"], 0);
    let cancel =
        async |id: &str| stage.b.call(Method::POST, &format!("/api/jobs/{id}/cancel"), &[], bytes::Bytes::new()).await;
    let nothing = cancel(NOTHING).await;
    for id in [&stage.finished, &stage.running, &stage.held] {
        same("cancel", &cancel(id).await, &nothing);
    }
    let none = stage.b.post("/api/jobs/cancel", &json!({"job_ids": [NOTHING]})).await;
    let foreign = json!({"job_ids": [stage.held, stage.running, stage.finished]});
    same("cancel", &stage.b.post("/api/jobs/cancel", &foreign).await, &none);
    stage.a_is_untouched().await;
}
