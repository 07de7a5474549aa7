//! The fleet: whose job runs next, where, and what those who wait are told.

use comfygate_tests::gateway::fast;
use comfygate_tests::{Client, Gateway, StandIn, eventually, workflows};
use serde_json::{Value, json};

/// Three tenants, with limits of their own beside those of their plan.
async fn with_tenants(limits: &[(&str, &str)], backends: usize) -> Gateway {
    let plan = "rate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 1000, burst = 1000 }\nactive_jobs_max = 600";
    let mut gateway = Gateway::builder()
        .stand_ins_with(vec![fast(); backends])
        .plan(plan)
        .tenants_toml("[[tenant]]\nid = \"carol\"\nplan = \"usual\"")
        .prepare()
        .await;
    for (tenant, lines) in limits {
        let id = format!("id = \"{tenant}\"\n");
        gateway.edit("tenants.toml", |text| text.replacen(&id, &format!("{id}{lines}\n"), 1));
    }
    gateway.start().await;
    gateway.backends_are_up().await;
    gateway
}

/// The prefixes under which the jobs of a backend saved, in the order in which they were sent there.
fn order(stand_in: &StandIn) -> Vec<String> {
    let prefix = |submission: &Value| {
        let path = submission.pointer("/prompt/9/inputs/filename_prefix")?.as_str()?;
        Some(path.rsplit('/').next()?.to_owned())
    };
    stand_in.submissions().iter().filter_map(prefix).collect()
}

/// Submits a job that runs until it is interrupted, and waits until it does.
async fn blocks(client: &Client) -> String {
    let prompt = client.submit(workflows::slow("blocks", 100, 600, false)).await;
    client.running(&prompt).await;
    prompt
}

async fn release(client: &Client, prompt: &str) {
    client.post("/interrupt", &json!({"prompt_id": prompt})).await.expect(200);
    client.finished(prompt).await;
}

async fn all_finished(client: &Client, prompts: &[String]) {
    for prompt in prompts {
        client.finished(prompt).await;
    }
}

async fn submit_all(client: &Client, count: usize, workflow: Value) -> Vec<String> {
    let mut prompts = Vec::new();
    for _ in 0..count {
        prompts.push(client.submit(workflow.clone()).await);
    }
    prompts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_one_job_does_not_wait_behind_anothers_flood() {
    let gateway = with_tenants(&[("acme", ""), ("bravo", "")], 1).await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = blocks(&acme).await;
    let flood = submit_all(&acme, 30, workflows::quick("flood")).await;
    let light = bravo.submit(workflows::quick("light")).await;
    release(&acme, &first).await;
    bravo.finished(&light).await;
    all_finished(&acme, &flood).await;
    let order = order(&gateway.stand_ins()[0]);
    let place = order.iter().position(|prefix| prefix == "light").unwrap();
    assert!(place <= 2, "one job that was begun, and one whose turn it is: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_share_by_their_weights() {
    let gateway = with_tenants(&[("acme", "weight = 3"), ("bravo", "weight = 1")], 1).await;
    let (acme, bravo, carol) = (gateway.client("acme"), gateway.client("bravo"), gateway.client("carol"));
    let first = blocks(&carol).await;
    // What is shared is time: all take as long, and longer than a hiccup of the machine, which would be charged too.
    let job = |prefix: &str| workflows::slow(prefix, 2, 100, false);
    let (three, one) = (submit_all(&acme, 20, job("three")).await, submit_all(&bravo, 12, job("one")).await);
    release(&carol, &first).await;
    all_finished(&acme, &three).await;
    all_finished(&bravo, &one).await;
    let order = order(&gateway.stand_ins()[0]);
    let threes = order.iter().skip(1).take(20).filter(|prefix| *prefix == "three").count();
    assert!((12..=18).contains(&threes), "{threes} of 20 are of the tenant with three times the weight: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_band_goes_first() {
    let gateway = with_tenants(&[("acme", "priority = \"low\""), ("bravo", "")], 1).await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = blocks(&acme).await;
    let low = submit_all(&acme, 3, workflows::quick("low")).await;
    let normal = submit_all(&bravo, 3, workflows::quick("normal")).await;
    release(&acme, &first).await;
    all_finished(&acme, &low).await;
    all_finished(&bravo, &normal).await;
    assert_eq!(order(&gateway.stand_ins()[0])[1..], ["normal", "normal", "normal", "low", "low", "low"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_runs_no_more_jobs_at_once_than_it_may_and_leaves_the_rest_to_others() {
    let gateway = with_tenants(&[("acme", "running_jobs_max = 1"), ("bravo", "")], 2).await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = blocks(&acme).await;
    let waits = acme.submit(workflows::quick("waits")).await;
    let other = bravo.submit(workflows::quick("other")).await;
    bravo.finished(&other).await;
    let sent: Vec<String> = gateway.stand_ins().iter().flat_map(order).collect();
    assert!(!sent.contains(&"waits".to_owned()), "{sent:?}");
    release(&acme, &first).await;
    assert_eq!(acme.finished(&waits).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn number_and_front_order_a_callers_own_jobs_and_nobody_elses() {
    let gateway = with_tenants(&[("acme", ""), ("bravo", "")], 1).await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = blocks(&acme).await;
    let wished = |prefix: &str, wish: Value| {
        let mut envelope = json!({"prompt": workflows::quick(prefix)});
        envelope.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        envelope
    };
    let mut prompts = Vec::new();
    for (prefix, wish) in [("plain", json!({})), ("late", json!({"number": 1e6})), ("front", json!({"front": true}))] {
        prompts.push(acme.submit_with(wished(prefix, wish)).await);
    }
    prompts.push(acme.submit_with(wished("number", json!({"number": -1e9}))).await);
    let other = bravo.submit(workflows::quick("other")).await;
    let queue = acme.get("/queue").await.json();
    let numbers: Vec<f64> =
        queue["queue_pending"].as_array().unwrap().iter().map(|item| item[0].as_f64().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() == 4 && numbers[0] == -1e9, "{numbers:?}");
    release(&acme, &first).await;
    all_finished(&acme, &prompts).await;
    bravo.finished(&other).await;
    let order = order(&gateway.stand_ins()[0]);
    let own: Vec<&String> = order.iter().skip(1).filter(|prefix| *prefix != "other").collect();
    assert_eq!(own, ["number", "front", "plain", "late"]);
    assert!(order.iter().position(|prefix| prefix == "other").unwrap() <= 2, "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_stay_where_they_are() {
    let gateway = with_tenants(&[("acme", "")], 2).await;
    let acme = gateway.client("acme");
    let models = ["sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly-fp16.safetensors"];
    let with = |model: &str| {
        let mut workflow = workflows::text_to_image("model");
        workflow["4"]["inputs"]["ckpt_name"] = json!(model);
        workflow
    };
    let mut prompts = Vec::new();
    for turn in 0..16 {
        prompts.push(acme.submit(with(models[turn / 2 % 2])).await);
    }
    all_finished(&acme, &prompts).await;
    let loaded = |stand_in: &StandIn| -> Vec<String> {
        let name = |submission: &Value| Some(submission.pointer("/prompt/4/inputs/ckpt_name")?.as_str()?.to_owned());
        stand_in.submissions().iter().filter_map(name).collect()
    };
    let switches: usize = gateway
        .stand_ins()
        .iter()
        .map(|stand_in| loaded(stand_in).windows(2).filter(|pair| pair[0] != pair[1]).count())
        .sum();
    let all: Vec<_> = gateway.stand_ins().iter().map(loaded).collect();
    assert!(switches <= 2, "each model has its backend: {switches} switches: {all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_how_it_stands_and_who_does_not_is_told_nothing() {
    let gateway = with_tenants(&[("acme", ""), ("bravo", "")], 1).await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = blocks(&acme).await;
    let (mut prompts, mut told) = (Vec::new(), 0);
    for (position, prefix) in ["a", "b"].into_iter().enumerate() {
        let answer = acme.post("/prompt", &json!({"prompt": workflows::quick(prefix)})).await.expect(200).json();
        prompts.push(answer["prompt_id"].as_str().unwrap().to_owned());
        // Where the dispatcher is busy for seconds, an answer does not wait for it.
        if let Some(said) = answer.pointer("/queue/position") {
            assert_eq!(said, position, "{answer}");
            told += 1;
        }
    }
    assert!(told > 0, "no answer told its position");
    let [second, third] = &prompts[..] else { panic!("{prompts:?}") };
    let queue = eventually("the outlook names both", || async {
        let me = acme.get("/gate/me").await.json();
        (me["queue"].as_array()?.len() == 2).then(|| me["queue"].clone())
    })
    .await;
    assert_eq!((&queue[0]["prompt_id"], &queue[1]["prompt_id"]), (&json!(second), &json!(third)));
    let job = acme.get(&format!("/api/jobs/{third}")).await.json();
    assert_eq!(job["queue"]["position"], 1, "{job}");
    assert_eq!(bravo.get("/gate/me").await.json()["queue"], json!([]));
    assert!(acme.get(&format!("/api/jobs/{first}")).await.json().get("queue").is_none());
    release(&acme, &first).await;
    all_finished(&acme, &prompts).await;
    assert!(acme.get(&format!("/api/jobs/{second}")).await.json().get("queue").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_wants_it_hears_how_held_jobs_stand_and_another_does_not() {
    let gateway = with_tenants(&[("acme", "")], 1).await;
    let acme = gateway.client("acme");
    let (mut wants, mut plain) = (acme.socket(Some("wants")).await, acme.socket(Some("plain")).await);
    let flags = |wanted: bool| json!({"type": "feature_flags", "data": {"comfygate_queue": wanted}}).to_string();
    wants.send_text(&flags(true)).await;
    plain.send_text(&flags(false)).await;
    let first = blocks(&acme).await;
    let waits = acme.submit(workflows::quick("a")).await;
    let told = wants.until("how jobs stand", |event| event.kind() == "comfygate_queue").await;
    let jobs = told.last().unwrap().data()["jobs"].clone();
    assert_eq!((&jobs[0]["prompt_id"], &jobs[0]["position"]), (&json!(waits), &json!(0)), "{jobs}");
    release(&acme, &first).await;
    // Its end comes after everything that was told of how it stood.
    let heard = plain.until_end_of(&waits).await;
    assert!(!heard.iter().any(|event| event.kind() == "comfygate_queue"), "{heard:?}");
}

/// Gives the gateway enough runs to know what such a job takes.
async fn learn(client: &Client, workflow: &Value) {
    for _ in 0..6 {
        let prompt = client.submit(workflow.clone()).await;
        client.finished(&prompt).await;
    }
}

fn waiting_at(stand_in_queue: &Value) -> usize {
    stand_in_queue["queue_pending"].as_array().map_or(0, Vec::len)
}

async fn queue_at(gateway: &Gateway) -> Value {
    serde_json::from_str(&gateway.plain_get(gateway.stand_ins()[0].addr(), "/queue").await.1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_job_is_sent_ahead_only_when_the_one_that_runs_is_about_to_end() {
    let gateway = with_tenants(&[("acme", "")], 1).await;
    let acme = gateway.client("acme");
    let short = workflows::slow("short", 4, 250, false);
    let first = acme.submit(short.clone()).await;
    acme.running(&first).await;
    let second = acme.submit(short.clone()).await;
    all_finished(&acme, &[first, second.clone()]).await;
    let sent = gateway.stand_ins()[0].submissions().len();
    assert_eq!(sent, 2, "nothing is known of such jobs yet: one after the other");
    learn(&acme, &short).await;
    // As much work as that by its number of steps, and slower: it is thought to be about to end, and does not for a while.
    let first = acme.submit(workflows::slow("short", 4, 1500, false)).await;
    acme.running(&first).await;
    let second = acme.submit(short).await;
    eventually("the next job waits at the backend", || async {
        (waiting_at(&queue_at(&gateway).await) == 1).then_some(())
    })
    .await;
    all_finished(&acme, &[first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_behind_a_job_is_taken_back_before_that_is_interrupted_and_runs_later() {
    let gateway = with_tenants(&[("acme", ""), ("bravo", "")], 1).await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let short = workflows::slow("short", 8, 200, false);
    learn(&acme, &short).await;
    // As much work as that by its number of steps, and slower: it is thought to be about to end, and does not.
    let first = acme.submit(workflows::slow("short", 8, 1000, false)).await;
    acme.running(&first).await;
    let behind = bravo.submit(short).await;
    eventually("the next job waits at the backend", || async {
        (waiting_at(&queue_at(&gateway).await) == 1).then_some(())
    })
    .await;
    acme.post("/interrupt", &json!({"prompt_id": first})).await.expect(200);
    assert_ne!(acme.finished(&first).await["status"]["status_str"], "success");
    assert_eq!(bravo.finished(&behind).await["status"]["status_str"], "success");
    // Taken back, not lost: what was lost may have run, and would not be repeated by itself if it had cost.
    assert!(!gateway.log_text().contains("attempt lost"), "{}", gateway.log_text());
    assert_eq!(gateway.metric("comfygate_attempts_total{backend=\"gpu0\",outcome=\"lost\"}").await, 0.0);
}
