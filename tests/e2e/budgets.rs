//! Stage 8: what jobs cost, how much of that there may be, and what is told of it.

use comfygate_tests::gateway::said;
use comfygate_tests::{Client, Gateway, Response, eventually, workflows};
use serde_json::{Value, json};

/// A plan with these limits, and rates that are in nobody's way.
fn plan(lines: &str) -> String {
    format!("policy = \"default\"\nrate = {{ per_second = 1000, burst = 1000 }}\n{lines}")
}

async fn submitted(client: &Client, workflow: Value) -> Response {
    client.post("/prompt", &json!({"prompt": workflow})).await
}

async fn budget(client: &Client) -> Value {
    client.get("/gate/me").await.expect(200).json()["budget"].clone()
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// A minute of next to no work: a step of the probe counts as one of a sampler.
fn long() -> Value {
    workflows::slow("long", 2, 30_000, false)
}

/// What `comfygate usage` tells, as rows.
fn usage(gateway: &Gateway, arguments: &[&str]) -> Vec<Value> {
    let told = gateway.command(&[&["usage", "--format", "json"], arguments].concat());
    assert!(told.status.success(), "{}", said(&told));
    serde_json::from_slice::<Value>(&told.stdout).unwrap()["rows"].as_array().unwrap().clone()
}

fn summed(rows: &[Value]) -> f64 {
    rows.iter().map(|row| seconds(&row["gpu_seconds"])).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_into_the_budget_is_accepted_and_the_next_one_refused_until_something_is_freed() {
    // Work that nobody has measured and that is next to nothing is thought to take a second.
    let gateway = Gateway::builder().stand_ins(1).plan(&plan("budget_seconds = 3")).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    for _ in 0..3 {
        acme.submit(long()).await;
    }
    let stands = budget(&acme).await;
    assert_eq!((&stands["tenant"]["reserved_seconds"], &stands["tenant"]["limit_seconds"]), (&json!(3.0), &json!(3.0)));
    assert_eq!((&stands["tenant"]["used_seconds"], &stands["user"]["limit_seconds"]), (&json!(0.0), &Value::Null));
    let refused = submitted(&acme, long()).await.expect(429);
    let error = &refused.json()["error"];
    assert_eq!((refused.code(), &error["type"]), ("budget_spent".to_owned(), &json!("budget_spent")));
    assert_eq!(refused.header("retry-after"), Some("60"), "jobs that have not ended are in the way");
    let told = &error["extra_info"];
    assert_eq!((&told["whose"], &told["reserved_seconds"]), (&json!("tenant"), &json!(3.0)), "{told}");
    assert_eq!((&told["wanted_seconds"], &told["limit_seconds"]), (&json!(1.0), &json!(3.0)), "{told}");
    assert_eq!((&told["renews_at"], &told["period"]), (&stands["renews_at"], &json!("month")));
    submitted(&bravo, long()).await.expect(200);
    let line = gateway.audited("the refusal", |line| line["code"] == "budget_spent").await;
    assert_eq!(line["owner"]["tenant"], "acme", "{line}");

    // Deleting a job that waits frees what it had set aside.
    acme.post("/queue", &json!({"clear": true})).await.expect(200);
    let stands = budget(&acme).await;
    assert!(seconds(&stands["tenant"]["reserved_seconds"]) <= 1.0, "{stands}");
    assert_eq!(stands["tenant"]["used_seconds"], 0.0, "nothing ran to its end");
    submitted(&acme, workflows::quick("again")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_no_period_has_room_for_is_refused_for_good() {
    let gateway = Gateway::builder().stand_ins(1).plan(&plan("budget_seconds = 1")).start().await;
    let acme = gateway.client("acme");
    let mut large = workflows::text_to_image("large");
    large["3"]["inputs"]["steps"] = json!(100);
    let refused = submitted(&acme, large).await.expect(403);
    assert_eq!((refused.code(), refused.header("retry-after")), ("budget_too_small".to_owned(), None));
    submitted(&acme, workflows::quick("small")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_have_budgets_of_their_own_and_the_tenants_bounds_them_all() {
    let limits = plan("budget_seconds = 4\nuser_budget_seconds = 2\nbudget_period = \"day\"");
    let gateway = Gateway::builder().stand_ins(1).plan(&limits).start().await;
    let user = |name| gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", name]));
    let (ann, bob, cyd) = (user("ann"), user("bob"), user("cyd"));
    for client in [&ann, &ann, &bob] {
        client.submit(long()).await;
    }
    let whose = |refused: &Response| refused.json()["error"]["extra_info"]["whose"].clone();
    assert_eq!(whose(&submitted(&ann, long()).await.expect(429)), "user");
    bob.submit(long()).await;
    assert_eq!(whose(&submitted(&cyd, long()).await.expect(429)), "tenant");
    let stands = budget(&bob).await;
    assert_eq!((&stands["user"]["reserved_seconds"], &stands["user"]["limit_seconds"]), (&json!(2.0), &json!(2.0)));
    assert_eq!(stands["period"], "day");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_charged_once_and_the_report_has_the_same_sums_over_restarts() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(&plan("budget_seconds = 1000")).start().await;
    let ann = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    let acme = gateway.client("acme");
    let prompts = [
        ann.submit(workflows::slow("one", 6, 50, false)).await,
        ann.submit(workflows::text_to_image("two")).await,
        ann.submit(workflows::failing("it fails")).await,
    ];
    let service = acme.submit(workflows::slow("service", 4, 50, false)).await;
    for prompt in &prompts {
        ann.finished(prompt).await;
    }
    acme.finished(&service).await;
    let stands = budget(&ann).await;
    assert_eq!(
        (&stands["tenant"]["reserved_seconds"], &stands["user"]["reserved_seconds"]),
        (&json!(0.0), &json!(0.0))
    );
    let (tenant, user) = (seconds(&stands["tenant"]["used_seconds"]), seconds(&stands["user"]["used_seconds"]));
    // The stand-in's nodes really wait so long; on a busy machine longer.
    assert!(user >= 0.3 && tenant >= user + 0.2, "{stands}");
    // Milliseconds, told as numbers.
    let near = |sum: f64, wanted: f64| assert!((sum - wanted).abs() < 1e-6, "{sum} and {wanted}");
    near(seconds(&budget(&acme).await["user"]["used_seconds"]) + user, tenant);

    let rows = usage(&gateway, &["--by", "tenant,user,model"]);
    near(summed(&rows), tenant);
    let anns: Vec<Value> = rows.iter().filter(|row| row["user"] == "ann").cloned().collect();
    near(summed(&anns), user);
    assert!(anns.iter().any(|row| row["model"] == "sd_xl_base_1.0.safetensors"), "{rows:?}");
    let workflows = usage(&gateway, &["--by", "workflow"]);
    assert_eq!(workflows.len(), 4, "{workflows:?}");
    near(summed(&workflows), tenant);
    near(gateway.metric("comfygate_charged_seconds_total{backend=\"gpu0\"}").await, tenant);

    // Of a gateway that was killed, the ledger itself tells; and the next one goes on from there.
    gateway.kill9();
    assert_eq!(usage(&gateway, &["--by", "tenant,user,model"]), rows);
    let csv = gateway.command(&["usage", "--by", "tenant", "--format", "csv", "--tenant", "acme"]);
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert!(csv.starts_with("tenant,jobs,gpu_seconds\r\nacme,4,") && csv.ends_with("\r\n"), "{csv}");
    gateway.start().await;
    assert_eq!(budget(&ann).await, stands);
    assert_eq!(usage(&gateway, &["--by", "tenant,user,model"]), rows);
    let refused = gateway.command(&["usage", "--by", "colour"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("take of day, tenant, user, model, workflow"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_run_pays_what_ran_and_one_that_never_began_pays_nothing() {
    let gateway = Gateway::builder().stand_ins(1).plan(&plan("budget_seconds = 1000")).start().await;
    let acme = gateway.client("acme");
    let running = acme.submit(workflows::slow("stopped", 150, 400, false)).await;
    acme.running(&running).await;
    let waiting = acme.submit(long()).await;
    acme.post("/queue", &json!({"delete": [waiting]})).await.expect(200);
    eventually("it has run a while", || async { (gateway.stand_ins()[0].executed().len() == 1).then_some(()) }).await;
    acme.post("/interrupt", &json!({"prompt_id": running})).await.expect(200);
    acme.finished(&running).await;
    let stands = budget(&acme).await;
    let used = seconds(&stands["tenant"]["used_seconds"]);
    assert!(used < 60.0, "not the whole minute that it would have taken: {stands}");
    assert_eq!(stands["tenant"]["reserved_seconds"], 0.0);
    let rows = usage(&gateway, &["--by", "tenant"]);
    assert_eq!((rows[0]["jobs"].as_u64(), seconds(&rows[0]["gpu_seconds"])), (Some(1), used), "one ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_runs_were_all_lost_costs_nothing() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan(&plan("budget_seconds = 1000"))
        .gateway_toml("[dispatch]\nattempts_max = 1\n")
        .start()
        .await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(long()).await;
    // In the queue it runs as soon as it is on its way; an attempt that reaches nobody is none, and the job would wait.
    let stand_in = &gateway.stand_ins()[0];
    eventually("the backend runs it", async || (!stand_in.executed().is_empty()).then_some(())).await;
    let running = "comfygate_jobs{state=\"running\"}";
    eventually("its start was heard", async || (gateway.metric(running).await == 1.0).then_some(())).await;
    stand_in.kill();
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "error", "{entry}");
    let stands = budget(&acme).await;
    assert_eq!((&stands["tenant"]["used_seconds"], &stands["tenant"]["reserved_seconds"]), (&json!(0.0), &json!(0.0)));
    assert_eq!(usage(&gateway, &[]), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_of_a_jobs_length_outlives_a_stop() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(&plan("")).start().await;
    let acme = gateway.client("acme");
    // Steps are cheap by the table of models, and take seconds here.
    let slow = |prefix: &str| {
        let mut workflow = workflows::text_to_image(prefix);
        workflow["10"] = json!({"class_type": "GateProbeSleep", "inputs": {"image": ["8", 0], "steps": 2, "tick_ms": 1500, "preview": false}});
        workflow["9"]["inputs"]["images"] = json!(["10", 0]);
        workflow
    };
    let reserved = async |client: &Client| {
        let prompt = client.submit(slow("next")).await;
        let reserved = seconds(&budget(client).await["tenant"]["reserved_seconds"]);
        client.finished(&prompt).await;
        reserved
    };
    let first = reserved(&acme).await;
    assert!(first < 1.5, "what nobody has measured is thought to be quick: {first}");
    let prompt = acme.submit(slow("measured")).await;
    acme.finished(&prompt).await;
    let learned = reserved(&acme).await;
    assert!(learned > 1.5, "{learned}");
    gateway.terminate().await;
    gateway.start().await;
    gateway.backends_are_up().await;
    let after = reserved(&acme).await;
    assert!(after > 1.5, "{after} after {learned}");
}
