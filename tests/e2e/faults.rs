//! Stage 6: errors that ComfyUI reports as a job's own and that are its backend's, and jobs that lose every attempt.

use super::health::{ALERT, jobs_run, state_is, succeeds};
use comfygate_tests::client::files_of;
use comfygate_tests::gateway::{fast, said};
use comfygate_tests::{Client, Gateway, eventually, workflows};
use serde_json::{Value, json};

/// The `execution_error` in a history entry.
fn error_of(entry: &Value) -> Value {
    assert_eq!(entry["status"]["status_str"], "error", "{entry}");
    let messages = entry["status"]["messages"].as_array().unwrap();
    messages.iter().find(|message| message[0] == "execution_error").expect("an error")[1].clone()
}

fn total_run(gateway: &Gateway) -> usize {
    gateway.stand_ins().iter().map(jobs_run).sum()
}

/// What `comfygate dead-letters` lists.
fn letters(gateway: &Gateway) -> Vec<Value> {
    let listed = gateway.command(&["dead-letters", "--json"]);
    assert!(listed.status.success(), "{}", said(&listed));
    String::from_utf8(listed.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Submits a long job and kills whichever stand-in runs it, again and again, until it has ended.
async fn killed_wherever_it_runs(gateway: &Gateway, client: &Client, name: &str) -> Value {
    let mut seen: Vec<usize> = gateway.stand_ins().iter().map(jobs_run).collect();
    let prompt = client.submit(workflows::slow(name, 50, 100, false)).await;
    let killing = async {
        loop {
            for (stand_in, seen) in gateway.stand_ins().iter().zip(&mut seen) {
                let runs = jobs_run(stand_in);
                // It runs there before the submission is answered; killed in between, it would not count as a run.
                if runs > *seen && gateway.metric("comfygate_jobs{state=\"running\"}").await >= 1.0 {
                    *seen = runs;
                    stand_in.kill();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = killing => unreachable!(),
        entry = client.finished(&prompt) => entry,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_found_no_memory_is_tried_again_and_its_backend_unloads_its_models_and_stays_in_service() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let first = &gateway.stand_ins()[0];
    first.faults().oom_next();
    let prompt = acme.submit(workflows::quick("large")).await;
    let entry = succeeds(&acme, &prompt).await;
    assert_eq!(files_of(&entry).len(), 1);
    assert_eq!(total_run(&gateway), 2);
    assert_eq!(first.requests().iter().filter(|(_, path, _)| path == "/free").count(), 1);
    assert_eq!(gateway.metric("comfygate_attempts_total{backend=\"gpu0\",outcome=\"lost\"}").await, 1.0);
    assert!(gateway.audit().iter().all(|line| line["event"] != "backend" || line["up"] == true), "it was ejected");
    assert!(letters(&gateway).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_finds_no_memory_anywhere_is_told_comfyuis_own_error_after_its_last_attempt_and_put_aside() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let words = "CUDA out of memory. Tried to allocate 2.00 GiB";
    let prompt = acme.submit(workflows::failing(words)).await;
    let error = error_of(&acme.finished(&prompt).await);
    assert_eq!((&error["exception_type"], &error["node_type"]), (&json!("RuntimeError"), &json!("GateProbeFail")));
    assert!(error["exception_message"].as_str().unwrap().starts_with(words), "{error}");
    assert_eq!(error["traceback"], json!([]));
    assert_eq!(total_run(&gateway), 3);
    let letters = letters(&gateway);
    assert_eq!((letters.len(), letters[0]["attempts"].as_array().unwrap().len()), (1, 3));
    // The same words in an exception that is not PyTorch's are the job's own: one run, and nothing put aside.
    let prompt = acme.submit(workflows::failing("my node ran out of memory")).await;
    error_of(&acme.finished(&prompt).await);
    assert_eq!(total_run(&gateway), 4);
    assert_eq!(gateway.metric("comfygate_dead_letters_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_whose_cuda_context_is_broken_gets_no_job_until_it_is_started_anew() {
    let rare = ALERT.replace("canary_interval = \"1s\"", "canary_interval = \"1h\"");
    let gateway = Gateway::builder().gateway_toml(&rare).start().await;
    let acme = gateway.client("acme");
    let first = &gateway.stand_ins()[0];
    // A job is a proof too: no canary is due that would meet the fault before the next job does.
    let prompt = acme.submit(workflows::quick("sound")).await;
    succeeds(&acme, &prompt).await;
    gateway.settled().await;
    assert_eq!(jobs_run(first), 1);
    first.faults().cuda_error_next();
    let prompt = acme.submit(workflows::quick("broken")).await;
    succeeds(&acme, &prompt).await;
    assert_eq!((jobs_run(first), jobs_run(&gateway.stand_ins()[1])), (2, 1));
    state_is(&gateway, 0, "cuda_error").await;
    gateway
        .audited("why", |line| {
            line["event"] == "backend"
                && line["reason"].as_str().is_some_and(|why| why.starts_with("cuda_error: a job failed"))
        })
        .await;
    // It goes on answering, and what it is asked shows that its context is broken still.
    eventually("it is asked whether it is well", || async {
        let asked = first.requests().iter().filter(|(_, path, _)| path == "/system_stats").count();
        (asked >= 3).then_some(())
    })
    .await;
    let prompt = acme.submit(workflows::quick("meanwhile")).await;
    succeeds(&acme, &prompt).await;
    assert_eq!(jobs_run(first), 2);
    first.restart().await.unwrap();
    state_is(&gateway, 0, "half_open").await;
    let prompt = acme.submit(workflows::quick("again")).await;
    succeeds(&acme, &prompt).await;
    state_is(&gateway, 0, "up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_whose_disk_is_full_gets_no_job_until_it_can_write_again() {
    let gateway = Gateway::builder().gateway_toml(ALERT).start().await;
    let acme = gateway.client("acme");
    let first = &gateway.stand_ins()[0];
    first.faults().lose_disk(true);
    let prompt = acme.submit(workflows::quick("full")).await;
    succeeds(&acme, &prompt).await;
    state_is(&gateway, 0, "disk_full").await;
    let failed = "comfygate_canaries_total{backend=\"gpu0\",outcome=\"failed\"}";
    eventually("a canary that writes fails", || async { (gateway.metric(failed).await >= 1.0).then_some(()) }).await;
    state_is(&gateway, 0, "disk_full").await;
    assert_eq!(jobs_run(first), 1);
    first.faults().lose_disk(false);
    state_is(&gateway, 0, "half_open").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_every_backend_it_meets_is_stopped_and_put_aside_and_the_others_stay() {
    let gateway = Gateway::builder().stand_ins_with(vec![fast(); 4]).gateway_toml(ALERT).start().await;
    let acme = gateway.client("acme");
    let error = error_of(&killed_wherever_it_runs(&gateway, &acme, "deadly").await);
    assert_eq!(error["exception_type"], "TooManyAttempts");
    assert_eq!(total_run(&gateway), 3);
    let running = gateway.stand_ins().iter().filter(|stand_in| stand_in.is_running()).count();
    assert_eq!(running, 1, "the fourth backend never met it");
    let letters = letters(&gateway);
    let attempts = letters[0]["attempts"].as_array().unwrap();
    assert_eq!((letters.len(), attempts.len(), &letters[0]["owner"]["tenant"]), (1, 3, &json!("acme")));
    assert!(attempts.iter().all(|attempt| attempt["started_at"].is_u64() && attempt["reason"] != ""), "{attempts:?}");
    gateway.audited("it is put aside", |line| line["event"] == "dead_letter" && line["job"] == letters[0]["job"]).await;
    let prompt = acme.submit(workflows::quick("the rest goes on")).await;
    succeeds(&acme, &prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_put_aside_is_shown_accepted_anew_for_its_owner_once_and_forgotten() {
    let once = ALERT.replace("[dispatch]\n", "[dispatch]\nattempts_max = 1\n");
    let gateway = Gateway::builder().stand_ins_with(vec![fast(); 1]).gateway_toml(&once).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut put_aside = Vec::new();
    for name in ["first", "second", "third"] {
        error_of(&killed_wherever_it_runs(&gateway, &acme, name).await);
        gateway.stand_ins()[0].restart().await.unwrap();
        gateway.backend_is(0, true).await;
        put_aside.push(letters(&gateway)[0]["job"].as_str().unwrap().to_owned());
    }
    assert_eq!(letters(&gateway).len(), 3);
    let [first, second, third] = &put_aside[..] else { panic!("{put_aside:?}") };
    let shown = gateway.command(&["dead-letters", "show", first, "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["submission"].to_string().contains("GateProbeSleep"), "{shown}");

    let replayed = gateway.command(&["dead-letters", "replay", first, "--json"]);
    assert!(replayed.status.success(), "{}", said(&replayed));
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    let prompt = replayed["prompt_id"].as_str().unwrap().to_owned();
    let entry = succeeds(&acme, &prompt).await;
    assert_eq!(files_of(&entry).len(), 1);
    assert_eq!(bravo.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
    gateway
        .audited("it was replayed", |line| line["event"] == "dead_letter_replayed" && line["job"] == first.as_str())
        .await;
    let again = gateway.command(&["dead-letters", "replay", first]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));

    // By the policy of now: what is banned meanwhile is refused with the reason, and stays.
    assert!(gateway.command(&["policy", "ban", "GateProbeSleep"]).status.success());
    let refused = gateway.command(&["dead-letters", "replay", second]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("GateProbeSleep"), "{}", said(&refused));
    assert_eq!(letters(&gateway).len(), 2);

    assert!(gateway.command(&["dead-letters", "remove", second]).status.success());
    assert_eq!(gateway.command(&["dead-letters", "remove", second]).status.code(), Some(1));
    assert_eq!(letters(&gateway)[0]["job"], third.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_outlive_the_gateway_and_are_read_and_removed_while_none_runs() {
    let once = ALERT.replace("[dispatch]\n", "[dispatch]\nattempts_max = 1\n");
    let mut gateway = Gateway::builder().stand_ins_with(vec![fast(); 1]).gateway_toml(&once).start().await;
    let acme = gateway.client("acme");
    error_of(&killed_wherever_it_runs(&gateway, &acme, "deadly").await);
    gateway.kill9();
    let job = letters(&gateway)[0]["job"].as_str().unwrap().to_owned();
    let replayed = gateway.command(&["dead-letters", "replay", &job]);
    assert_eq!(replayed.status.code(), Some(2), "{}", said(&replayed));
    assert!(said(&replayed).contains("only a running one"), "{}", said(&replayed));
    assert!(gateway.command(&["dead-letters", "remove", &job]).status.success());
    assert!(letters(&gateway).is_empty());
    assert!(gateway.audit().iter().any(|line| line["event"] == "dead_letter_removed" && line["job"] == job.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_that_is_lost_is_said_and_the_letter_stays() {
    let once = ALERT.replace("[dispatch]\n", "[dispatch]\nattempts_max = 1\n");
    let gateway = Gateway::builder().stand_ins_with(vec![fast(); 1]).gateway_toml(&once).start().await;
    let acme = gateway.client("acme");
    error_of(&killed_wherever_it_runs(&gateway, &acme, "deadly").await);
    let letter = letters(&gateway).remove(0);
    let digest = letter["submission"].as_str().unwrap();
    std::fs::remove_file(gateway.state().join("graphs").join(&digest[..2]).join(digest)).unwrap();
    let refused = gateway.command(&["dead-letters", "replay", letter["job"].as_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("not there any more"), "{}", said(&refused));
    assert_eq!(letters(&gateway).len(), 1);
}
