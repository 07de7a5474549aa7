//! What clients do meanwhile, and what they find at the end.

use super::dice::Dice;
use comfygate_tests::client::files_of;
use comfygate_tests::{Client, Event, Gateway, Response, pictures};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(150);
/// How long a client goes on trying to submit one job.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(120);
/// The ends that ComfyUI knows.
const ENDS: [&str; 3] = ["execution_success", "execution_error", "execution_interrupted"];
/// Errors that a job may end in here: it was lost as often as it may be, or its last attempt met a broken backend.
const STATED: [&str; 5] =
    ["TooManyAttempts", "torch.OutOfMemoryError", "torch.AcceleratorError", "OSError", "FileNotGiven"];

/// A job that the gateway has said 200 to.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Which of all jobs.
    pub number: usize,
    /// Its prompt id.
    pub prompt: String,
}

/// A tenant's client.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub name: String,
    client: Client,
}

/// No two jobs make pictures of one size, so that a result shows whose it is.
fn size(number: usize) -> (u64, u64) {
    let number = u64::try_from(number).unwrap();
    (16 + number % 64, 16 + number / 64)
}

fn workflow(number: usize, dice: &mut Dice) -> Value {
    let (width, height) = size(number);
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": width, "height": height, "batch_size": 1, "color": number}},
        "2": {"class_type": "GateProbeSleep", "inputs": {"image": ["1", 0], "steps": 1 + dice.below(12), "tick_ms": 80, "preview": false}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix(number)}},
    })
}

fn prefix(number: usize) -> String {
    format!("job{number}")
}

impl Tenant {
    pub fn new(gateway: &Gateway, number: usize) -> Tenant {
        let name = format!("t{number:02}");
        Tenant { client: gateway.client(&name), name }
    }

    /// Submits these, one after the other with a pause, each until it is accepted; and now and then once more, which must change nothing.
    pub async fn submit_all(&self, numbers: &[usize], pause: Duration, dice: &mut Dice) -> Vec<Accepted> {
        let mut accepted = Vec::new();
        for &number in numbers {
            let body = json!({"prompt": workflow(number, dice), "client_id": self.name});
            let prompt = self.submit(number, &body).await;
            if dice.below(4) == 0 {
                assert_eq!(self.submit(number, &body).await, prompt, "asked again with the same key");
            }
            accepted.push(Accepted { number, prompt });
            tokio::time::sleep(pause.mul_f64(0.5 + dice.below(50) as f64 / 100.0)).await;
        }
        accepted
    }

    async fn submit(&self, number: usize, body: &Value) -> String {
        let key = format!("chaos-{number}");
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let end = Instant::now() + SUBMIT_DEADLINE;
        loop {
            let why = match self.client.try_call(Method::POST, "/prompt", &headers, body.to_string().into()).await {
                Ok(answer) if answer.status == 200 => return answer.json()["prompt_id"].as_str().unwrap().to_owned(),
                Ok(answer) if [429, 503].contains(&answer.status.as_u16()) => answer.text(),
                Ok(answer) => panic!("{}: job {number}: {} {}", self.name, answer.status, answer.text()),
                Err(error) => error,
            };
            assert!(Instant::now() < end, "{}: job {number} was not accepted: {why}", self.name);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks until there is an answer of 200.
    async fn get(&self, path: &str, end: Instant) -> Response {
        loop {
            let why = match self.client.try_call(Method::GET, path, &[], Vec::new().into()).await {
                Ok(answer) if answer.status == 200 => return answer,
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => error,
            };
            assert!(Instant::now() < end, "{}: {path}: {why}", self.name);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits for the end of a job and looks at what there is of it. Gives `success`, or the stated error.
    pub async fn check_end(&self, job: &Accepted, end: Instant) -> String {
        let path = format!("/history/{}", job.prompt);
        let entry = loop {
            let mut history = self.get(&path, end).await.json();
            if let Some(entry) = history.get_mut(&job.prompt) {
                break entry.take();
            }
            assert!(Instant::now() < end, "{}: job {} ({}) has not ended", self.name, job.number, job.prompt);
            tokio::time::sleep(AGAIN).await;
        };
        let messages = entry["status"]["messages"].as_array().unwrap();
        let ends: Vec<&Value> =
            messages.iter().filter(|message| ENDS.contains(&message[0].as_str().unwrap())).collect();
        assert_eq!(ends.len(), 1, "one end: {entry}");
        if entry["status"]["status_str"] != "success" {
            let kind = ends[0][1]["exception_type"].as_str().unwrap_or_default().to_owned();
            assert!(STATED.contains(&kind.as_str()), "job {}: {entry}", job.number);
            return kind;
        }
        self.check_result(job, &entry, end).await;
        "success".to_owned()
    }

    /// One picture of the job's own size, under the first number of its own name: a second commit would have taken that.
    async fn check_result(&self, job: &Accepted, entry: &Value, end: Instant) {
        let files = files_of(entry);
        assert_eq!(files.len(), 1, "{entry}");
        assert_eq!(files[0]["filename"], format!("{}_00001_.png", prefix(job.number)));
        let path = self.client.path_of(files[0]["url"].as_str().unwrap());
        let signed = Tenant { client: self.client.stranger(), name: self.name.clone() };
        let picture = signed.get(&path, end).await.body;
        let (width, height) = size(job.number);
        assert_eq!(pictures::size(&picture), (u32::try_from(width).unwrap(), u32::try_from(height).unwrap()));
        let graph = pictures::texts(&picture).remove("prompt").unwrap_or_default();
        assert!(graph.contains(&format!("\"color\": {}", job.number)), "job {}: {graph}", job.number);
        let (name, kind) = (files[0]["filename"].as_str().unwrap(), files[0]["type"].as_str().unwrap());
        let by_name = self.get(&format!("/view?filename={name}&type={kind}&subfolder="), end).await.body;
        assert_eq!(by_name, picture);
    }

    /// The ids of its whole history, in order.
    pub async fn history(&self) -> Vec<String> {
        let end = Instant::now() + SUBMIT_DEADLINE;
        let history = self.get("/history", end).await.json();
        let mut ids: Vec<String> = history.as_object().unwrap().keys().cloned().collect();
        ids.sort_unstable();
        ids
    }

    /// What another's job looks like to it: like none.
    pub async fn knows_nothing_of(&self, job: &Accepted) {
        let end = Instant::now() + SUBMIT_DEADLINE;
        assert_eq!(self.get(&format!("/history/{}", job.prompt), end).await.json(), json!({}));
        let name = format!("{}_00001_.png", prefix(job.number));
        let path = format!("/view?filename={name}&type=output&subfolder=");
        let answer = self.client.try_call(Method::GET, &path, &[], Vec::new().into()).await.unwrap();
        assert_eq!(answer.status, 404);
    }

    /// Listens as a page does, connecting anew whenever the socket ends. Gives how often each end of each prompt was heard.
    pub async fn watch(&self, calm: &AtomicBool) -> BTreeMap<(String, String), usize> {
        let mut heard = BTreeMap::new();
        while !calm.load(Ordering::Relaxed) {
            let Some(mut socket) = self.client.socket_if_there(&self.name).await else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            while !calm.load(Ordering::Relaxed) {
                match socket.event_within(Duration::from_secs(1)).await {
                    Some(Event::Closed(_)) => break,
                    Some(event) if ENDS.contains(&event.kind()) => {
                        let prompt = event.prompt_id().expect("an end of a prompt");
                        *heard.entry((prompt, event.kind().to_owned())).or_default() += 1;
                    }
                    _ => {}
                }
            }
        }
        heard
    }

    /// No end was told twice, and no prompt had two.
    pub fn check_heard(&self, heard: &BTreeMap<(String, String), usize>) {
        let mut prompts: Vec<&String> = heard.keys().map(|(prompt, _)| prompt).collect();
        let ends = prompts.len();
        prompts.dedup();
        assert_eq!(prompts.len(), ends, "{}: two ends of one prompt: {heard:?}", self.name);
        assert!(heard.values().all(|times| *times == 1), "{}: an end was told twice: {heard:?}", self.name);
    }
}
