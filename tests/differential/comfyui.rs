//! A plain HTTP/1.1 client of a ComfyUI: submits a graph, waits for its end, gives what the probes saw.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longer than any graph here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A ComfyUI by its address, `127.0.0.1:8188`.
pub struct ComfyUi(String);

/// How a submission ended.
pub enum End {
    /// 400, with ComfyUI's answer.
    Refused(Value),
    /// It ran, in whole or in part: its entry of the history, and the answer to the submission.
    Ran { entry: Value, answer: Value },
}

impl ComfyUi {
    /// The ComfyUI at `http://host:port`.
    pub fn at(url: &str) -> Self {
        Self(url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned())
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stream =
            TcpStream::connect(&self.0).unwrap_or_else(|error| panic!("no ComfyUI at {}: {error}", self.0));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.0,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = &answer[end + 4..];
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let whole = if chunked { unchunked(body) } else { body.to_vec() };
        (status, serde_json::from_slice(&whole).unwrap_or(Value::Null))
    }

    /// `GET` of a path.
    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, b"").1
    }

    /// Submits a graph and waits until it has run or failed.
    pub fn run(&self, prompt: &Value) -> End {
        let body = json!({ "prompt": prompt }).to_string();
        let (status, answer) = self.call("POST", "/prompt", body.as_bytes());
        if status != 200 {
            return End::Refused(answer);
        }
        let id = answer["prompt_id"].as_str().expect("an id").to_owned();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut history = self.get(&format!("/history/{id}"));
            if let Some(entry) = history.get_mut(&id) {
                return End::Ran { entry: entry.take(), answer };
            }
            std::thread::sleep(Duration::from_millis(8));
        }
        panic!("graph {id} has not ended after {PATIENCE:?}: {prompt}");
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.extend(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    out
}
