//! The recordings again, as one tenant through the gateway: TLS, a key, two backends, and another tenant who works beside it. What a ComfyUI of its
//! own would have answered is what it is answered, but for what the gateway promises to do otherwise: [`PROMISES`] names each such difference with
//! its reason, and one that does not come about is a fault as well.
//!
//! With `COMFYUI_URLS` the backends are real ones.

use crate::client::{DEADLINE, Server, began};
use crate::promises::PROMISES;
use crate::replay::{Fault, replay_beside};
use comfygate_stand_in::{Models, Options};
use comfygate_tests::{Client, Event, Gateway, gateway, pictures, workflows};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Makes alike what differs everywhere; says what was found, once for each answer.
pub fn levelled(wanted: &mut Value, told: &mut Value) -> Vec<Fault> {
    let mut found = Vec::new();
    if without_urls(told) {
        found.push(everywhere("url"));
    }
    if without_places(told) {
        found.push(everywhere("queue"));
    }
    if without_numbers(wanted) | without_numbers(told) {
        found.push(everywhere("number"));
    }
    let (recorded, now) = (wanted.clone(), told.clone());
    blot_cached(wanted);
    blot_cached(told);
    if *wanted == *told && recorded != now {
        found.push(everywhere("cached"));
    }
    if let (Some(old), Some(new)) = (essence(wanted), essence(told)) {
        found.push(everywhere("wording"));
        (*wanted, *told) = (old, new);
    }
    found
}

fn everywhere(part: &'static str) -> Fault {
    Fault { exchange: String::new(), part, recorded: String::new(), now: String::new() }
}

/// Takes the signed URL from each file; whether there was one.
fn without_urls(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let is_file = members.contains_key("filename") && members.contains_key("subfolder");
            let signed = |url: &Value| url.as_str().is_some_and(|url| url.contains("/gate/files/"));
            let had = is_file && members.get("url").is_some_and(signed) && members.shift_remove("url").is_some();
            members.values_mut().fold(had, |had, member| without_urls(member) | had)
        }
        Value::Array(items) => items.iter_mut().fold(false, |had, item| without_urls(item) | had),
        _ => false,
    }
}

/// Takes from each submission that waits how it stands; whether there was one.
fn without_places(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let stands = |queue: &Value| queue.get("position").is_some_and(Value::is_u64);
            let had = members.get("queue").is_some_and(stands) && members.shift_remove("queue").is_some();
            members.values_mut().fold(had, |had, member| without_places(member) | had)
        }
        Value::Array(items) => items.iter_mut().fold(false, |had, item| without_places(item) | had),
        _ => false,
    }
}

/// Blots out the numbers of submissions, in answers and lists; whether there was one.
fn without_numbers(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let mut had = false;
            for name in ["number", "priority"] {
                had |= members.get_mut(name).is_some_and(blotted);
            }
            members.values_mut().fold(had, |had, member| without_numbers(member) | had)
        }
        Value::Array(items) => {
            let queued =
                matches!(items.as_slice(), [_, Value::String(_), Value::Object(_), Value::Object(_), Value::Array(_)]);
            let had = queued && items.first_mut().is_some_and(blotted);
            items.iter_mut().fold(had, |had, item| without_numbers(item) | had)
        }
        _ => false,
    }
}

/// Only whole numbers are the server's counters, negative ones of who asked for the front; others are what a caller asked for.
fn blotted(number: &mut Value) -> bool {
    let Some(counter) = number.as_i64() else { return false };
    *number = json!(if counter < 0 { "<front>" } else { "<number>" });
    true
}

/// Blots out which nodes had run before and which ran now.
fn blot_cached(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(blot_cached),
        Value::Array(items) => {
            if let [Value::String(kind), Value::Object(data)] = items.as_mut_slice()
                && kind.starts_with("execution_")
            {
                for name in ["nodes", "executed"] {
                    if let Some(nodes) = data.get_mut(name) {
                        *nodes = json!("<nodes>");
                    }
                }
            }
            items.iter_mut().for_each(blot_cached);
        }
        _ => {}
    }
}

/// Of a refused workflow: the types of what is wrong and where, without the words.
fn essence(answer: &Value) -> Option<Value> {
    let nodes = answer.get("node_errors")?.as_object()?;
    let of_node = |node: &Value| {
        let types: Vec<&Value> = node["errors"].as_array().into_iter().flatten().map(|error| &error["type"]).collect();
        json!({"class_type": node["class_type"], "dependent_outputs": node["dependent_outputs"], "errors": types})
    };
    let nodes: Map<String, Value> = nodes.iter().map(|(id, node)| (id.clone(), of_node(node))).collect();
    Some(json!({"error": answer.get("error")?.get("type")?, "node_errors": nodes}))
}

/// Leaves out the ends of jobs that ended before while nobody listened.
pub fn of_this_run(heard: &[Value]) -> (Vec<Value>, Option<Fault>) {
    let began = began(heard);
    let is_earlier = |event: &Value| {
        let prompt = &event["data"]["prompt_id"];
        !began.is_empty() && !prompt.is_null() && !began.contains(&prompt)
    };
    let kept: Vec<Value> = heard.iter().filter(|event| !is_earlier(event)).cloned().collect();
    let missed = (kept.len() < heard.len()).then(|| everywhere("missed"));
    (kept, missed)
}

/// Makes alike what differs in every run's events; says what was found.
pub fn levelled_events(wanted: &mut Vec<String>, told: &mut Vec<String>) -> Vec<Fault> {
    let mut found = Vec::new();
    let (recorded, now) = (without_sources(wanted), without_sources(told));
    if wanted.iter().zip(&*told).any(|(old, new)| old != new && old.starts_with("execution_cached")) {
        found.push(everywhere("cached"));
    }
    (*wanted, *told) = (recorded, now);
    // Previews wait in a queue of their own, from which they may be dropped: within a step they have no place.
    (*wanted, *told) = (steps_sorted(wanted), steps_sorted(told));
    let (recorded, now) = (executed_last(wanted), executed_last(told));
    if !told.starts_with(wanted) && now.starts_with(&recorded) {
        found.push(everywhere("executed"));
    }
    (*wanted, *told) = (recorded, now);
    found
}

/// Leaves out the node that a single ComfyUI would have had in its cache, and the count of those that ran.
fn without_sources(lines: &[String]) -> Vec<String> {
    let of_source = |line: &str| line.starts_with("progress_state 1 of") || line.starts_with("executing Some(\"1\")");
    let kept = lines.iter().filter(|line| !of_source(line));
    let blotted = |line: &String| {
        if line.starts_with("execution_cached") {
            return "execution_cached".to_owned();
        }
        if let Some((head, tail)) = line.split_once(" of ").filter(|_| line.starts_with("progress_state"))
            && let Some((_, state)) = tail.split_once(':')
        {
            return format!("{head}:{state}");
        }
        line.replace("\"executed\":[\"1\"]", "\"executed\":[]")
    };
    kept.map(blotted).collect()
}

/// All `executed` right before the end.
fn executed_last(lines: &[String]) -> Vec<String> {
    let (executed, mut rest): (Vec<String>, Vec<String>) =
        lines.iter().cloned().partition(|line| line.starts_with("executed "));
    let end = rest.iter().position(|line| line.starts_with("execution_success")).unwrap_or(rest.len());
    rest.splice(end..end, executed);
    rest
}

/// The lines of one step in an order of their own.
fn steps_sorted(lines: &[String]) -> Vec<String> {
    let is_step = |line: &String| line == "step" || line.starts_with("progress of") || line.starts_with("preview");
    let mut sorted = lines.to_vec();
    for run in sorted.chunk_by_mut(|one, next| is_step(one) && is_step(next)) {
        run.sort();
    }
    sorted
}

/// Another tenant: one long job that keeps one of two backends, so that the first tenant's jobs run one after the other on the other one, as on a
/// ComfyUI of its own; beside it short ones in between, uploads, and an open socket.
struct Neighbour {
    client: Client,
    long: String,
    over: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<()>,
}

impl Neighbour {
    async fn of(gateway: &Gateway) -> (Neighbour, watch::Receiver<usize>) {
        let client = gateway.client("bravo");
        let long = client.submit(workflows::slow("long", 150, 2000, false)).await;
        client.running(&long).await;
        let over = Arc::new(AtomicBool::new(false));
        let (counter, done) = watch::channel(0);
        let work = tokio::spawn(rounds(client.clone(), long.clone(), Arc::clone(&over), counter));
        (Neighbour { client, long, over, work }, done)
    }

    /// Ends its work, which has to have gone well.
    async fn ends(self) {
        self.over.store(true, Ordering::Relaxed);
        self.work.await.expect("all of its work goes well");
        self.client.running(&self.long).await;
        self.client.post("/interrupt", &json!({"prompt_id": self.long})).await.expect(200);
        self.client.finished(&self.long).await;
    }
}

/// Works until it is over, and counts the rounds.
async fn rounds(client: Client, long: String, over: Arc<AtomicBool>, counter: watch::Sender<usize>) {
    let mut socket = client.socket(Some("neighbour")).await;
    socket.sid().await;
    let mut done: usize = 0;
    while !over.load(Ordering::Relaxed) {
        let picture = pictures::png(8, 8, [u8::try_from(done % 256).expect("a byte"), 2, 3]);
        client.upload("/upload/image", &[("overwrite", "true")], "a.png", &picture).await.expect(200);
        let envelope = json!({"prompt": workflows::inverted("a.png", "t/acme/probe"), "client_id": "neighbour"});
        let prompt = client.submit_with(envelope).await;
        let heard = socket.until_end_of(&prompt).await;
        let foreign = |event: &Event| event.prompt_id().is_some_and(|id| id != prompt && id != long);
        assert!(!heard.iter().any(foreign), "only what is its own: {heard:?}");
        assert_eq!(client.finished(&prompt).await["status"]["status_str"], "success");
        done += 1;
        // That nobody waits for it any more is no fault.
        let _ = counter.send(done);
    }
}

/// Waits for a whole round of the neighbour's, begun after now.
pub async fn a_round(done: &watch::Receiver<usize>) {
    let mut done = done.clone();
    let wanted = *done.borrow() + 2;
    let waited = tokio::time::timeout(DEADLINE, done.wait_for(|done| *done >= wanted)).await;
    waited.expect("the neighbour's next round in time").expect("the neighbour still works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_answered_through_the_gateway_as_by_a_comfyui_of_its_own() {
    let (builder, imitation) = match std::env::var("COMFYUI_URLS") {
        Ok(urls) => {
            let urls: Vec<String> = urls.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
            (Gateway::builder().backends(&urls), false)
        }
        Err(_) => {
            let without_models = Options { models: Models::new(), ..gateway::fast() };
            (Gateway::builder().stand_ins_with(vec![without_models; 2]), true)
        }
    };
    let gateway = builder.start().await;
    let (neighbour, rounds) = Neighbour::of(&gateway).await;
    // Lives as long as the test's process.
    let client: &'static Client = Box::leak(Box::new(gateway.client("acme")));
    let faults = replay_beside(Server::Through(client), rounds, imitation).await;
    neighbour.ends().await;
    let strange = faults.iter().filter(|fault| !PROMISES.iter().any(|promise| promise.covers(fault)));
    let mut told: Vec<String> = strange.map(ToString::to_string).collect();
    for promise in PROMISES {
        for name in promise.missed(&faults) {
            told.push(format!("{name}: {} {:?} did not come about: {}", promise.part, promise.now, promise.why));
        }
    }
    assert!(told.is_empty(), "{} differences:\n{}", told.len(), told.join("\n"));
}

fn told_of(recorded: Value, now: Value) -> (Vec<&'static str>, bool) {
    let (mut recorded, mut now) = (recorded, now);
    let found = levelled(&mut recorded, &mut now);
    (found.iter().map(|fault| fault.part).collect(), recorded == now)
}

#[test]
fn answers_are_made_alike_in_what_is_promised_and_in_nothing_else() {
    let file = |name: &str, url: &str| json!({"filename": name, "subfolder": "", "type": "output", "url": url});
    let bare = json!({"filename": "a.png", "subfolder": "", "type": "output"});
    let signed = "https://localhost/gate/files/x?signature=y";
    assert_eq!(told_of(bare.clone(), file("a.png", signed)), (vec!["url"], true));
    assert_eq!(told_of(bare.clone(), file("b.png", signed)), (vec!["url"], false));
    assert_eq!(told_of(bare, file("a.png", "http://backend/view")), (vec![], false));
    assert_eq!(told_of(json!({"number": 7}), json!({"number": 0})), (vec!["number"], true));
    assert_eq!(told_of(json!({"number": -5.5}), json!({"number": 0})), (vec!["number"], false));
    let ran = |kind: &str, nodes: Value| json!({"messages": [[kind, {"nodes": nodes}]]});
    let (hit, none) = (ran("execution_cached", json!(["1"])), ran("execution_cached", json!([])));
    assert_eq!(told_of(hit.clone(), none), (vec!["cached"], true));
    assert_eq!(told_of(hit, ran("execution_start", json!([]))), (vec![], false));
    let refused = |kind: &str, words: &str| {
        let node = json!({"class_type": "A", "dependent_outputs": [], "errors": [{"type": kind, "message": words}]});
        json!({"error": {"type": "x", "message": words}, "node_errors": {"1": node}})
    };
    assert_eq!(told_of(refused("y", "one"), refused("y", "two")), (vec!["wording"], true));
    assert_eq!(told_of(refused("y", "one"), refused("z", "one")), (vec!["wording"], false));
}

#[test]
fn events_are_made_alike_in_what_is_promised_and_in_nothing_else() {
    let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    let early = lines(&["execution_start", "executed 9", "progress_state 9 of 1: \"finished\"", "execution_success"]);
    let late = lines(&["execution_start", "progress_state 9 of 2: \"finished\"", "executed 9", "execution_success"]);
    let alike = |recorded: &[String], now: &[String]| {
        let (mut recorded, mut now) = (recorded.to_vec(), now.to_vec());
        let found = levelled_events(&mut recorded, &mut now);
        (found.iter().map(|fault| fault.part).collect::<Vec<_>>(), recorded == now)
    };
    assert_eq!(alike(&early, &late), (vec!["executed"], true));
    assert_eq!(alike(&early, &early), (vec![], true));
    assert!(!alike(&early, &late[..3]).1, "an end that does not come");
    let other = lines(&["execution_start", "progress_state 8 of 2: \"finished\"", "executed 9", "execution_success"]);
    assert!(!alike(&early, &other).1, "another node");
    assert!(!alike(&early, &[&late[..3], &lines(&["execution_error"])[..]].concat()).1, "another end");
}
