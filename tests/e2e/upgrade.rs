//! Hot upgrade: another process takes over listeners and jobs; stops that are asked for once and twice.

use comfygate_tests::{Client, DEADLINE, Event, Gateway, eventually, gateway, workflows};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What one submitter saw.
#[derive(Debug, Default)]
struct Seen {
    accepted: Vec<String>,
    /// When each submission that was not accepted was made, from the start, and why.
    refused: Vec<(Duration, String)>,
    /// The longest wait for an answer.
    slowest: Duration,
}

/// Submits small jobs, one after the other, until it is told to stop.
async fn submitting(client: Client, name: usize, began: Instant, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let prompt = format!("s{name}-{number}");
        let envelope = json!({"prompt": workflows::slow(&prompt, 2, 20, false), "prompt_id": prompt});
        let at = began.elapsed();
        let answer = client.try_post("/prompt", &envelope).await;
        seen.slowest = seen.slowest.max(began.elapsed() - at);
        match answer {
            Ok(answer) if answer.status == 200 => seen.accepted.push(prompt),
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.text());
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                seen.refused.push((at, answer.code()));
            }
            Err(error) => seen.refused.push((at, error)),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    seen
}

/// How often the backends ran each job of the submitters: by its prefix, which is its name.
fn runs(gateway: &Gateway) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for submission in gateway.stand_ins().iter().flat_map(|stand_in| stand_in.submissions()) {
        let graph = submission["prompt"].as_object().unwrap().values();
        let prefix = graph.filter_map(|node| node["inputs"]["filename_prefix"].as_str()).next().unwrap_or_default();
        *runs.entry(prefix.rsplit('/').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    runs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_accepted_job_ends_once_and_both_processes_end_well() {
    let mut gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let running = acme.submit(workflows::slow("across", 40, 100, false)).await;
    acme.running(&running).await;
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let submitters: Vec<_> =
        (0..3).map(|name| tokio::spawn(submitting(acme.clone(), name, began, Arc::clone(&stop)))).collect();
    eventually("jobs flow", || async { (runs(&gateway).len() > 4).then_some(()) }).await;
    let former = gateway.process_id();
    let status = gateway.upgrade().await;
    assert!(status.success(), "the former process: {status}");
    assert_ne!(gateway.process_id(), former);
    let before = runs(&gateway).len();
    eventually("jobs flow again", || async { (runs(&gateway).len() > before + 4).then_some(()) }).await;
    stop.store(true, Ordering::Relaxed);
    let mut seen = Vec::new();
    for submitter in submitters {
        seen.push(submitter.await.unwrap());
    }
    let mut ended = Vec::new();
    for prompt in seen.iter().flat_map(|seen| &seen.accepted).chain([&running]) {
        let entry = acme.finished(prompt).await;
        assert_eq!(entry["status"]["status_str"], "success", "{prompt}: {entry}");
        ended.push(prompt.clone());
    }
    let history = acme.get("/history").await.expect(200).json();
    assert_eq!(history.as_object().unwrap().len(), ended.len(), "each once, and nothing that was refused");
    let runs = runs(&gateway);
    let twice: Vec<_> = runs.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(runs.get("across"), Some(&1), "what ran was followed up and not run again: {twice:?}");
    report(&seen, &twice);
    assert!(gateway.terminate().await.success(), "the successor");
    let handed_over: Vec<Value> = gateway.audit().into_iter().filter(|line| line["event"] == "handed_over").collect();
    assert_eq!(handed_over.len(), 1);
}

/// Prints the figures of the upgrade.
fn report(seen: &[Seen], twice: &[(&String, &usize)]) {
    let accepted: usize = seen.iter().map(|seen| seen.accepted.len()).sum();
    let mut refused: Vec<_> = seen.iter().flat_map(|seen| &seen.refused).collect();
    refused.sort();
    let window = match (refused.first(), refused.last()) {
        (Some(first), Some(last)) => last.0 - first.0,
        _ => Duration::ZERO,
    };
    let slowest = seen.iter().map(|seen| seen.slowest).max().unwrap_or_default();
    eprintln!(
        "upgrade under load: {accepted} accepted, {} refused over {window:?}, slowest answer {slowest:?}, submitted twice to backends: {twice:?}; refusals: {refused:?}",
        refused.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_upgrade_sockets_are_told_to_come_again_and_credentials_results_and_urls_stay_good() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("before")).await;
    let entry = acme.finished(&prompt).await;
    let url = acme.path_of(comfygate_tests::client::files_of(&entry)[0]["url"].as_str().unwrap());
    let mut socket = acme.socket(None).await;
    socket.sid().await;
    assert!(gateway.upgrade().await.success());
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert_eq!(heard.last(), Some(&Event::Closed(Some(1012))), "{heard:?}");
    acme.stranger().get(&url).await.expect(200);
    let after = acme.finished(&prompt).await;
    assert_eq!(entry["meta"], after["meta"]);
    let mut socket = acme.socket(None).await;
    socket.sid().await;
    let next = acme.submit(workflows::quick("after")).await;
    socket.until_end_of(&next).await;
    assert!(gateway.upgrade().await.success(), "a successor has a successor");
    acme.get("/queue").await.expect(200);
    assert!(gateway.command(&["key", "list"]).status.success(), "its control socket answers");
    let redirected = gateway.plain_get(gateway.addresses().redirect, "/x").await;
    assert_eq!(redirected.0, 308);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_cannot_serve_changes_nothing() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(None).await;
    socket.sid().await;
    let good = fs::read_to_string(gateway.config()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let broken = [
        (format!("{good}\n[views]\nlifetme = \"1h\"\n"), "lifetme"),
        (format!("{good}\n[[listen]]\naddress = \"{}\"\n", taken.local_addr().unwrap()), "can't listen on"),
    ];
    let (here, path) = (gateway.directory().to_owned(), gateway.directory().join("broken.toml"));
    for (text, reason) in broken {
        fs::write(&path, text).unwrap();
        let ended = gateway::run_in(&here, &["serve", "--upgrade", "--config", &path.display().to_string()]);
        assert_eq!(ended.status.code(), Some(2), "{}", gateway::said(&ended));
        assert!(gateway::said(&ended).contains(reason), "{}", gateway::said(&ended));
    }
    assert!(gateway.is_running());
    let prompt = acme.submit(workflows::quick("goes-on")).await;
    acme.finished(&prompt).await;
    socket.until_end_of(&prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_starts_the_successor_and_says_who_serves() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let refused = gateway.command(&["upgrade", "--binary", "/bin/false"]);
    assert_eq!(refused.status.code(), Some(1), "{}", gateway::said(&refused));
    assert!(gateway::said(&refused).contains("goes on"), "{}", gateway::said(&refused));
    acme.get("/queue").await.expect(200);
    let told = gateway.command(&["upgrade"]);
    assert!(told.status.success(), "{}", gateway::said(&told));
    let text = gateway::said(&told);
    let process: u32 = text.trim().strip_prefix("process ").unwrap().split(' ').next().unwrap().parse().unwrap();
    let successor = Killed(process);
    assert!(gateway.ended().await.success());
    let prompt = acme.submit(workflows::quick("served")).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    drop(successor);
}

/// A process that is no child of the test's: ended with it.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").arg("-KILL").arg(self.0.to_string()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_an_answer_that_is_being_sent_and_a_second_one_does_not() {
    let mut gateway = Gateway::builder().stand_ins(1).gateway_toml("[shutdown]\ndrain_timeout = \"1h\"").start().await;
    let acme = gateway.client("acme");
    let mut half = acme.raw_connection().await;
    let head = format!(
        "POST /prompt HTTP/1.1\r\nhost: {}\r\n{}content-type: application/json\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n",
        acme.authority(),
        acme.credential_lines()
    );
    half.write(head.as_bytes()).await;
    let asked_for = half.response().await.expect("an interim answer");
    assert_eq!(asked_for.status, 100, "the body is waited for: the request is in flight");
    gateway.send_signal("TERM");
    eventually("it stops", || async {
        (gateway.plain_get(gateway.addresses().metrics, "/readyz").await.0 == 503).then_some(())
    })
    .await;
    assert!(gateway.is_running(), "a request is in flight");
    eventually("nobody is let in any more", || async {
        tokio::net::TcpStream::connect(gateway.addresses().https).await.err()
    })
    .await;
    assert!(gateway.is_running(), "a request is in flight still");
    gateway.send_signal("TERM");
    assert!(gateway.ended().await.success());
}

/// Says words on the hand-over socket as a successor would, and gives the answers.
fn as_a_successor(gateway: &Gateway, words: &[&str]) -> (UnixStream, Vec<Value>) {
    let mut stream = UnixStream::connect(gateway.state().join("hand-over.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answers = Vec::new();
    for word in words {
        stream.write_all(format!("{word}\n").as_bytes()).unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        answers.push(serde_json::from_slice(&line).unwrap_or(Value::Null));
    }
    (stream, answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_successor_gets_nothing_and_the_gateway_goes_on() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let mode = fs::metadata(gateway.state().join("hand-over.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let hello = r#"{"hello":{"protocol":1,"version":"x"}}"#;
    let (_, answers) = as_a_successor(&gateway, &[r#"{"hello":{"protocol":99,"version":"x"}}"#]);
    assert!(answers[0]["refused"].is_string(), "{answers:?}");
    for words in [&["nonsense"][..], &[r#""take""#], &[hello, r#""serving""#], &[hello]] {
        let (stream, answers) = as_a_successor(&gateway, words);
        assert!(answers.iter().all(|answer| answer.get("given").is_none()), "{answers:?}");
        drop(stream);
    }
    assert!(gateway.is_running());
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("goes-on")).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    assert!(gateway.upgrade().await.success(), "a true successor comes through after them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_after_the_hand_over_is_reported_and_a_fresh_start_has_every_job() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let running = acme.submit(workflows::slow("across", 20, 100, false)).await;
    let waiting = acme.submit(workflows::quick("waits")).await;
    acme.running(&running).await;
    let (stream, answers) = as_a_successor(&gateway, &[r#"{"hello":{"protocol":1,"version":"x"}}"#, r#""take""#]);
    assert!(answers[0]["offer"]["schema"].is_u64() && answers[1]["given"].is_array(), "{answers:?}");
    drop(stream);
    assert_eq!(gateway.ended().await.code(), Some(2));
    assert!(gateway.log_text().contains("took over and does not serve"), "{}", gateway.log_text());
    gateway.start().await;
    for prompt in [&running, &waiting] {
        assert_eq!(acme.finished(prompt).await["status"]["status_str"], "success");
    }
    assert_eq!(runs(&gateway).get("across"), Some(&1), "it was followed up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_hears_of_start_reload_successor_and_stop() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = |wanted: &str| loop {
        let mut heard = [0; 256];
        let bytes = manager.recv(&mut heard).unwrap();
        let text = String::from_utf8_lossy(&heard[..bytes]).into_owned();
        if text.contains(wanted) {
            return text;
        }
    };
    let mut gateway =
        Gateway::builder().stand_ins(1).environment("NOTIFY_SOCKET", path.to_str().unwrap()).start().await;
    hear("READY=1");
    gateway.send_signal("HUP");
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    assert!(gateway.upgrade().await.success());
    assert_eq!(hear("MAINPID="), format!("MAINPID={}\nREADY=1", gateway.process_id().unwrap()));
    assert!(gateway.terminate().await.success());
    hear("STOPPING=1");
}
