//! Operating the policy: what was refused is kept, a check costs no job, a ban holds at once.

use comfygate_tests::deadline::eventually;
use comfygate_tests::gateway::{fast, said};
use comfygate_tests::{Client, Gateway, workflows};
use serde_json::{Value, json};

async fn gateway() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

fn too_wide() -> Value {
    json!({"prompt": workflows::picture("wide", 4097, 8)})
}

/// Lines of JSON that a command prints.
fn told(gateway: &Gateway, arguments: &[&str]) -> Vec<Value> {
    let output = gateway.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_submission_is_kept_with_its_rules_and_the_lines_that_would_allow_it() {
    let (mut gateway, acme) = gateway().await;
    let refused = acme.post("/prompt", &too_wide()).await.expect(403);
    let request = refused.header("x-request-id").unwrap().to_owned();
    gateway.client("bravo").post_bytes("/prompt", "application/json", "{\"prompt\": 1}").await.expect(400);
    acme.submit(workflows::quick("allowed")).await;
    let rows = told(&gateway, &["refusals", "--json"]);
    assert_eq!(rows.len(), 2, "what is accepted is no refusal: {rows:?}");
    assert_eq!(rows[0]["owner"]["tenant"], "bravo", "newest first");
    let rows = told(&gateway, &["refusals", "--json", "--tenant", "acme", "--since", "1h"]);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&row["request"], &row["policy"]), (&json!(request), &json!("default")));
    let rule = &row["rules"][0];
    assert_eq!((&rule["code"], &rule["node"]), (&json!("cap_exceeded"), &json!("1")), "{row}");
    assert_eq!((&rule["bound"], &rule["limit"], &rule["input"]), (&json!("4097"), &json!("4096"), &json!("width")));
    let shown = |gateway: &Gateway| said(&gateway.command(&["refusals", "--request", &request]));
    let text = shown(&gateway);
    assert!(text.contains("width = 4097") && text.contains("\"class_type\":\"EmptyImage\""), "{text}");
    gateway.terminate().await;
    let stopped = shown(&gateway);
    assert!(stopped.starts_with(&text), "and of a gateway that does not run: {stopped}");
    assert!(stopped.contains("no gateway runs"), "{stopped}");
    let unknown = gateway.command(&["refusals", "--request", "00000000-0000-4000-8000-000000000000"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_gives_verdict_and_cost_and_makes_no_job() {
    let (gateway, acme) = gateway().await;
    let answer = acme.post("/gate/check", &json!({"prompt": workflows::quick("x")})).await.expect(200).json();
    assert_eq!((&answer["verdict"], &answer["violations"]), (&json!("allow"), &json!([])), "{answer}");
    assert!(answer["cost"].as_f64().is_some_and(f64::is_finite), "{answer}");
    let answer = acme.post("/gate/check", &too_wide()).await.expect(200).json();
    assert_eq!(answer["verdict"], "deny");
    assert!(answer["cost"].as_f64().is_some_and(|cost| cost > 0.0), "{answer}");
    assert_eq!(answer["violations"][0]["pointer"], "/prompt/1/inputs/width", "{answer}");
    let answer = acme.post_bytes("/gate/check", "application/json", "{\"prompt\": 1}").await.expect(200).json();
    assert_eq!(
        (&answer["verdict"], &answer["cost"]),
        (&json!("deny"), &Value::Null),
        "what can't be read costs nothing: {answer}"
    );
    acme.post_bytes("/gate/check", "text/html", "{}").await.expect(415);
    acme.stranger().post("/gate/check", &too_wide()).await.expect(401);
    assert_eq!(acme.get("/queue").await.expect(200).json()["queue_pending"], json!([]));
    assert_eq!(acme.get("/history").await.expect(200).json(), json!({}));
    assert!(told(&gateway, &["refusals", "--json"]).is_empty(), "a check is no submission");
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_holds_at_once_fails_what_waits_and_outlives_a_restart() {
    let (mut gateway, acme) = gateway().await;
    let running = acme.submit(workflows::slow("runs", 60, 100, false)).await;
    acme.running(&running).await;
    let waiting = acme.submit(workflows::text_to_image("waits")).await;
    let other = acme.submit(workflows::slow("stays", 1, 10, false)).await;
    let banned = gateway.command(&["policy", "ban", "KSampler", "--reason", "it leaks"]);
    assert!(banned.status.success(), "{}", said(&banned));
    let ended = acme.finished(&waiting).await;
    assert_eq!(ended["status"]["status_str"], "error", "{ended}");
    assert!(ended.to_string().contains("it leaks") && ended.to_string().contains("KSampler"), "{ended}");
    let queue = acme.get("/queue").await.expect(200).json();
    assert!(queue["queue_running"].to_string().contains(&running), "what runs is left to run: {queue}");
    gateway.audited("the ban", |line| line["event"] == "class_banned" && line["class"] == "KSampler").await;
    gateway.audited("the failed job", |line| line["event"] == "withdrawn").await;
    for tenant in ["acme", "bravo"] {
        let client = gateway.client(tenant);
        let answer = client.post("/prompt", &json!({"prompt": workflows::text_to_image("x")})).await.expect(403);
        assert!(answer.text().contains("it leaks"), "{}", answer.text());
        assert_eq!(client.get("/object_info/KSampler").await.expect(200).json(), json!({}));
    }
    assert_eq!(acme.finished(&running).await["status"]["status_str"], "success");
    assert_eq!(acme.finished(&other).await["status"]["status_str"], "success");
    gateway.restart().await;
    gateway.backends_are_up().await;
    acme.post("/prompt", &json!({"prompt": workflows::text_to_image("x")})).await.expect(403);
    let bans = told(&gateway, &["policy", "bans", "--json"]);
    assert_eq!((bans.len(), &bans[0]["class"], &bans[0]["reason"]), (1, &json!("KSampler"), &json!("it leaks")));
    assert!(gateway.command(&["policy", "unban", "KSampler"]).status.success());
    assert_eq!(gateway.command(&["policy", "unban", "KSampler"]).status.code(), Some(1));
    acme.submit(workflows::text_to_image("again")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_made_while_the_gateway_is_down_fails_what_waited() {
    let mut gateway = Gateway::builder().backends(&["http://127.0.0.1:9".to_owned()]).prepare().await;
    gateway.start().await;
    let acme = gateway.client("acme");
    let waiting = acme.submit(workflows::quick("waits")).await;
    gateway.terminate().await;
    let banned = gateway.command(&["policy", "ban", "EmptyImage"]);
    assert!(banned.status.success(), "{}", said(&banned));
    gateway.start().await;
    let ended = acme.finished(&waiting).await;
    assert!(ended.to_string().contains("is banned"), "no backend is needed to say so: {ended}");
}

/// A gateway whose tenants have a policy of their own, in a file.
async fn with_own_policy(text: &str) -> (Gateway, Client) {
    let plan = "policy = \"own.toml\"\nrate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 5000, burst = 5000 }\n";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).file("own.toml", text).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allow_shows_the_difference_writes_it_once_confirmed_and_keeps_comments() {
    let own = "# Ours\nname = \"own\"\n\n[classes]\nallow = [\n    \"PreviewImage\", # looks\n]\n\n[caps]\nwidth = 100 # small\nheight = 100\n";
    let (gateway, acme) = with_own_policy(own).await;
    let mut workflow = workflows::picture("wide", 120, 8);
    workflow["3"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
    let refused = acme.post("/prompt", &json!({"prompt": workflow})).await.expect(403);
    let request = refused.header("x-request-id").unwrap().to_owned();
    let file = gateway.directory().join("own.toml");
    let asked = gateway.command(&["policy", "allow", "--request", &request]);
    let text = said(&asked);
    assert_eq!(asked.status.code(), Some(1), "nobody confirmed it: {text}");
    for line in ["-width = 100 # small", "+width = 120 # small", "+    \"EmptyImage\",", "+    \"SaveImage\",", "@@ "] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.contains("with this change the submission is accepted"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), own, "nothing was written");
    let done = gateway.command(&["policy", "allow", "--request", &request, "--yes"]);
    assert!(done.status.success(), "{}", said(&done));
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("# Ours\n") && written.contains("\"PreviewImage\", # looks\n"), "{written}");
    acme.submit(workflow).await;
    acme.post("/prompt", &json!({"prompt": workflows::picture("wider", 121, 8)})).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allow_says_what_no_policy_allows_and_does_not_change_what_ships() {
    let (gateway, acme) = gateway().await;
    let id = |answer: &comfygate_tests::Response| answer.header("x-request-id").unwrap().to_owned();
    let unknown = json!({"prompt": {"1": {"class_type": "NoSuchClass", "inputs": {}}}});
    let refused = id(&acme.post("/prompt", &unknown).await);
    let told = gateway.command(&["policy", "allow", "--request", &refused, "--yes"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(said(&told).contains("no line of a policy allows"), "{}", said(&told));
    let refused = id(&acme.post("/prompt", &too_wide()).await);
    let told = gateway.command(&["policy", "allow", "--request", &refused, "--yes"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(said(&told).contains("extends = \"default\"") && said(&told).contains("width = 4097"), "{}", said(&told));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_where_its_models_are_and_one_without_any_is_refused_at_once() {
    let rare = "rare.safetensors";
    let mut options = [fast(), fast()];
    options[1].models.entry("checkpoints".into()).or_default().push(rare.into());
    let gateway = Gateway::builder().stand_ins_with(options.to_vec()).start().await;
    let acme = gateway.client("acme");
    let naming = |model: &str| {
        let mut workflow = workflows::text_to_image("models");
        workflow["4"]["inputs"]["ckpt_name"] = json!(model);
        workflow
    };
    for _ in 0..2 {
        let prompt = acme.submit(naming(rare)).await;
        assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    }
    assert_eq!(gateway.stand_ins().iter().map(|one| one.submissions().len()).collect::<Vec<_>>(), [0, 2]);
    let answer = acme.post("/prompt", &json!({"prompt": naming("nowhere.safetensors")})).await.expect(400);
    let error = &answer.json()["node_errors"]["4"]["errors"][0];
    assert_eq!(
        (&error["type"], &error["extra_info"]["input_name"]),
        (&json!("value_not_in_list"), &json!("ckpt_name"))
    );
    assert!(answer.text().contains("nowhere.safetensors"), "{}", answer.text());
    let answer = acme.post("/gate/check", &json!({"prompt": naming("nowhere.safetensors")})).await.expect(200).json();
    assert_eq!((&answer["verdict"], &answer["missing_models"]), (&json!("allow"), &json!(["nowhere.safetensors"])));
    let mut two = naming("nowhere.safetensors");
    two["20"] = workflows::quick("other")["1"].clone();
    two["21"] = json!({"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "other"}});
    let prompt = acme.submit(two).await;
    let ended = acme.finished(&prompt).await;
    assert_eq!(ended["status"]["status_str"], "success", "the output that needs no model runs, as in ComfyUI: {ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_of_packs_are_closed_until_an_operator_accepts_them() {
    let own = "name = \"own\"\n[classes]\nallow = [\"EmptyImage\", \"SaveImage\", \"Pack1Say\"]\n";
    let plan = "policy = \"own.toml\"\nrate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 5000, burst = 5000 }\n";
    let options = comfygate_tests::Options { packs: 1, ..fast() };
    let builder = Gateway::builder().stand_ins_with(vec![options]).plan(plan).file("own.toml", own);
    let mut gateway = builder.start().await;
    let acme = gateway.client("acme");
    let says = json!({"prompt": {"1": {"class_type": "Pack1Say", "inputs": {"text": "hello"}}}});
    let answer = acme.post("/gate/check", &says).await.expect(200).json();
    assert_eq!(answer["violations"][0]["code"], "class_unknown", "{answer}");
    let diff = gateway.command(&["catalogue", "diff", "--json"]);
    assert_eq!(diff.status.code(), Some(1), "{}", said(&diff));
    let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
    assert_eq!((&diff["pinned"], &diff["changed"], &diff["gone"]), (&json!(false), &json!([]), &json!([])), "{diff}");
    assert!(diff["new"].as_array().unwrap().iter().any(|class| class["class"] == "Pack1Say"), "{diff}");
    assert_eq!(gateway.command(&["catalogue", "accept"]).status.code(), Some(1), "nobody confirmed it");
    let accepted = gateway.command(&["catalogue", "accept", "--yes"]);
    assert!(accepted.status.success(), "{}", said(&accepted));
    gateway.audited("the pin", |line| line["event"] == "catalogue_accepted").await;
    gateway.backends_are_up().await;
    let answer = acme.post("/gate/check", &says).await.expect(200).json();
    assert!(!answer["violations"].to_string().contains("class_unknown"), "{answer}");
    let mut refused = json!({"prompt": workflows::picture("said", 64, 8)});
    refused["prompt"]["20"] = says["prompt"]["1"].clone();
    refused["prompt"]["21"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
    acme.post("/prompt", &refused).await.expect(403);
    let learned = gateway.command(&["policy", "learn", "--from-refusals", "--without-caps"]);
    let told = said(&learned);
    for wanted in ["\"Pack1Say\"", "judged by the catalogue that was accepted for the pool `default`\n"] {
        assert!(told.contains(wanted), "`{wanted}` is missing: {told}");
    }
    let elsewhere = gateway.command(&["policy", "learn", "--from-refusals", "--pool", "nowhere"]);
    assert!(said(&elsewhere).contains("no backend is in a pool `nowhere`"), "{}", said(&elsewhere));
    gateway.restart().await;
    gateway.backends_are_up().await;
    let answer = acme.post("/gate/check", &says).await.expect(200).json();
    assert!(!answer["violations"].to_string().contains("class_unknown"), "the pin outlives a restart: {answer}");
    let diff = gateway.command(&["catalogue", "diff"]);
    assert!(diff.status.success() && said(&diff).contains("no difference"), "{}", said(&diff));
    let unknown = gateway.command(&["catalogue", "diff", "--pool", "nowhere"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", said(&unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_nodes_keep_their_annotations_when_an_installation_is_accepted() {
    let own = "name = \"own\"\n[classes]\nallow = [\"EmptyImage\", \"GateProbe*\", \"SaveImage\"]\n[caps]\nsteps = 10\nwidth = 512\nheight = 512\n";
    for folder in ["gate_probe", "probe_nodes"] {
        let options = comfygate_tests::Options { probe_folder: Some(folder.to_owned()), ..fast() };
        let builder =
            Gateway::builder().stand_ins_with(vec![options]).plan("policy = \"own.toml\"\n").file("own.toml", own);
        let gateway = builder.start().await;
        let acme = gateway.client("acme");
        let quick = json!({"prompt": workflows::slow("probe", 2, 1, false)});
        let mut over = quick.clone();
        over["prompt"]["2"]["inputs"]["steps"] = json!(11);
        for accepted in [false, true] {
            if accepted {
                let accept = gateway.command(&["catalogue", "accept", "--yes"]);
                assert!(accept.status.success(), "{}", said(&accept));
                gateway.backends_are_up().await;
            }
            let answer = acme.post("/gate/check", &quick).await.expect(200).json();
            assert_eq!(
                (&answer["verdict"], &answer["violations"]),
                (&json!("allow"), &json!([])),
                "{folder} {accepted}: {answer}"
            );
            let answer = acme.post("/gate/check", &over).await.expect(200).json();
            assert_eq!(answer["violations"][0]["code"], "cap_exceeded", "{folder} {accepted}: {answer}");
        }
        let prompt = acme.submit(workflows::slow("probe", 2, 1, false)).await;
        assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success", "{folder}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_a_pool_that_differ_from_one_another_are_named() {
    let with = |packs| comfygate_tests::Options { packs, ..fast() };
    let gateway = Gateway::builder().stand_ins_with(vec![with(1), with(1), with(2), with(2)]).start().await;
    let diff = gateway.command(&["catalogue", "diff", "--json"]);
    let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
    let others = diff["others"].as_array().unwrap();
    let ids: Vec<&str> = others.iter().map(|other| other["backend"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3, "{diff}");
    assert_eq!((&others[0]["same_as"], &others[0]["beside_shown"]), (&diff["backend"], &Value::Null), "{diff}");
    assert_eq!(others[1]["beside_shown"], json!({"new": ["Pack2Say"], "changed": [], "gone": []}), "{diff}");
    assert_eq!((&others[1]["same_as"], &others[2]["same_as"]), (&Value::Null, &others[1]["backend"]), "{diff}");
    let accepted = gateway.command(&["catalogue", "accept", "--yes"]);
    assert!(accepted.status.success(), "{}", said(&accepted));
    gateway.backends_are_up().await;
    let diff = gateway.command(&["catalogue", "diff"]);
    let (shown, told) = (said(&diff), |id: &str, what: &str| format!("{id}: {what}"));
    assert_eq!(diff.status.code(), Some(1), "others differ from the pin: {shown}");
    assert!(shown.contains("no difference\n") && shown.contains(&told(ids[0], "as at ")), "{shown}");
    for id in &ids[1..] {
        assert!(shown.contains(&told(id, "beside the catalogue that holds:\n  + Pack2Say")), "{shown}");
    }
    gateway.stand_ins()[3].kill();
    eventually("the backend is down", async || {
        let shown = said(&gateway.command(&["catalogue", "diff"]));
        shown.contains(&told(ids[2], "not compared: it is not up")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_mode_runs_what_it_would_refuse_keeps_it_and_is_learned_from() {
    let own = "name = \"own\"\nmode = \"shadow\"\n[classes]\nallow = [\"SaveImage\"]\n[caps]\nwidth = 100\n";
    let (gateway, acme) = with_own_policy(own).await;
    let wide = || workflows::picture("wide", 120, 8);
    let codes = |rules: &Value| -> Vec<String> {
        rules.as_array().unwrap().iter().map(|rule| rule["code"].as_str().unwrap().to_owned()).collect()
    };
    let answer = acme.post("/gate/check", &json!({"prompt": wide()})).await.expect(200).json();
    assert_eq!((&answer["verdict"], &answer["violations"]), (&json!("allow"), &json!([])), "{answer}");
    assert_eq!(codes(&answer["shadowed"]), ["class_not_allowed", "cap_exceeded"], "{answer}");
    let prompt = acme.submit(wide()).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    assert_eq!(gateway.metric("comfygate_shadow_refusals_total").await, 1.0, "a check is no submission");
    assert!(told(&gateway, &["refusals", "--json"]).is_empty(), "nothing was refused");
    let rows = told(&gateway, &["refusals", "--shadow", "--json"]);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(codes(&row["rules"]), ["class_not_allowed", "cap_exceeded"]);
    let learned = gateway.command(&["policy", "learn", "--from-shadow", "--headroom", "1"]);
    assert!(
        said(&learned).contains("\"EmptyImage\"") && said(&learned).contains("width = 128\n"),
        "{}",
        said(&learned)
    );
    let request = row["request"].as_str().unwrap();
    let allowed = gateway.command(&["policy", "allow", "--request", request, "--yes"]);
    assert!(allowed.status.success(), "{}", said(&allowed));
    let again = gateway.command(&["policy", "allow", "--request", request, "--yes"]);
    assert!(again.status.success() && said(&again).contains("nothing to write: the policy allows"), "{}", said(&again));
    let prompt = acme.submit(wide()).await;
    acme.finished(&prompt).await;
    assert_eq!(told(&gateway, &["refusals", "--shadow", "--json"]).len(), 1, "what the policy allows is not told");
    // Rules that no policy lifts hold in shadow mode too.
    acme.post("/prompt", &json!({"prompt": {"1": {"class_type": "NoSuchClass", "inputs": {}}}})).await.expect(400);
    let banned = gateway.command(&["policy", "ban", "EmptyImage"]);
    assert!(banned.status.success(), "{}", said(&banned));
    acme.post("/prompt", &json!({"prompt": wide()})).await.expect(403);
}
