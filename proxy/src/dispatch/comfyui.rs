//! ComfyUI's HTTP interface as a client sees it: one method a call that we make, each bounded in time and size.
//!
//! Every call has a connection of its own and our own headers: a fixed `Host`, no `Origin`, no cookie (facts §2.1). Sources: `server.py` of 0.8.0.

use crate::endpoint::BackendEndpoint;
use crate::ids::{UpstreamClientId, UpstreamPromptId};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::time::Duration;

/// `/object_info` of an installation with hundreds of packs is tens of megabytes.
const OBJECT_INFO_BYTES_MAX: usize = 64 << 20;
/// One history entry holds the whole graph (at most 10 MiB of ours) and its outputs.
const HISTORY_ENTRY_BYTES_MAX: usize = 64 << 20;
/// Bytes of a whole history, as an operator asks for it.
const HISTORY_BYTES_MAX: usize = 512 * 1024 * 1024;
/// `/queue` holds at most our one graph and whatever others submitted behind our back.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// The log's last 300 pieces, most of them a word long.
const LOG_BYTES_MAX: usize = 4 << 20;
/// Lists of models, translations and templates of packs, and a template's picture.
const PAGE_FILE_BYTES_MAX: usize = 16 << 20;
/// Answers that carry a few numbers.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// The event loop of a busy ComfyUI can stall for seconds (facts §2.6).
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// For the question whether it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// `validate_prompt` lists directories for every visited node, on the event loop.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of a file.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// One ComfyUI.
#[derive(Debug, Clone)]
pub struct ComfyUi {
    endpoint: BackendEndpoint,
}

/// Why a call gave no answer that we can use.
#[derive(Debug, thiserror::Error)]
pub enum ComfyUiError {
    /// No connection: nothing was sent, so nothing can have happened.
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    /// The connection ended, or the time ran out, after something was sent: it may or may not have happened.
    #[error("no answer: {0}")]
    Lost(String),
    /// ComfyUI said no.
    #[error("answered {status}")]
    Status {
        /// What it said.
        status: StatusCode,
        /// Its body, for a `/prompt` that it refuses.
        body: Bytes,
    },
    /// An answer that is not what ComfyUI answers.
    #[error("unexpected answer: {0}")]
    Malformed(String),
}

impl ComfyUiError {
    /// Whether nobody listens there: the process is gone or not yet up.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

impl ComfyUiError {
    /// Whether something between us and ComfyUI, or ComfyUI itself, answered 5xx.
    pub fn is_server_error(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.is_server_error())
    }
}

/// A prompt in a backend's queue or history, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id; `None` if it can't be one of ours.
    pub prompt: Option<UpstreamPromptId>,
    /// Whose: `extra_data.client_id`.
    pub client: Option<UpstreamClientId>,
}

/// A backend's queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// What is being executed: one prompt at most, or what was when the worker died.
    pub running: Vec<Listed>,
    /// What waits.
    pub pending: Vec<Listed>,
}

impl Listed {
    /// Reads `[number, id, graph, extra_data, outputs]`.
    fn read(item: &Value) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        Self {
            prompt: text(item.get(1)).and_then(|id| id.parse().ok()),
            client: text(item.pointer("/3/client_id")).and_then(|id| id.parse().ok()),
        }
    }
}

/// Where a backend's queue has a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuePlace {
    /// It is being executed.
    Running,
    /// It waits behind something.
    Pending,
    /// It waits, and nothing is being executed.
    Untaken,
    /// It is in neither list.
    Absent,
}

impl ComfyUi {
    /// A client of the ComfyUI at `endpoint`.
    pub fn new(endpoint: BackendEndpoint) -> Self {
        Self { endpoint }
    }

    /// `POST /prompt` with a body of ours. Gives ComfyUI's answer on 200.
    ///
    /// # Errors
    /// `Status` with its `{"error", "node_errors"}` when ComfyUI refuses; `Connect` if nothing was sent.
    pub async fn submit(&self, body: Bytes) -> Result<Value, ComfyUiError> {
        let bytes = self.call(Method::POST, "/prompt", Some(body), HISTORY_ENTRY_BYTES_MAX, SUBMIT_TIMEOUT).await?;
        parsed(&bytes)
    }

    /// `GET /prompt`: is HTTP up, and how many prompts are there. Given up sooner than other calls: it costs ComfyUI nothing.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn queue_remaining(&self) -> Result<u64, ComfyUiError> {
        let answer = self.call(Method::GET, "/prompt", None, SMALL_BYTES_MAX, PROBE_TIMEOUT).await?;
        let answer = parsed(&answer)?;
        let remaining = answer.pointer("/exec_info/queue_remaining").and_then(Value::as_u64);
        remaining.ok_or_else(|| ComfyUiError::Malformed("`/prompt` without `exec_info.queue_remaining`".into()))
    }

    /// `GET /object_info`, whole.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn object_info(&self) -> Result<Bytes, ComfyUiError> {
        self.catalogue("/object_info").await
    }

    /// `GET /object_info` or `GET /object_info/{class}`, by path.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn catalogue(&self, path: &str) -> Result<Bytes, ComfyUiError> {
        self.call(Method::GET, path, None, OBJECT_INFO_BYTES_MAX, SUBMIT_TIMEOUT).await
    }

    /// `GET` of a list or a small file that the page reads, by path.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn page_file(&self, path: &str) -> Result<Bytes, ComfyUiError> {
        self.get(path, PAGE_FILE_BYTES_MAX).await
    }

    /// `GET /system_stats`.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn system_stats(&self) -> Result<Value, ComfyUiError> {
        parsed(&self.get("/system_stats", SMALL_BYTES_MAX).await?)
    }

    /// The status that a path answers with, whatever it is.
    ///
    /// # Errors
    /// `Connect`, `Lost`.
    pub async fn answers(&self, path: &str) -> Result<StatusCode, ComfyUiError> {
        match self.send(Method::GET, path, None, CALL_TIMEOUT).await {
            Ok(response) => Ok(response.status()),
            Err(ComfyUiError::Status { status, .. }) => Ok(status),
            Err(error) => Err(error),
        }
    }

    /// `GET /queue`: where that prompt stands.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn queue_place(&self, prompt: UpstreamPromptId) -> Result<QueuePlace, ComfyUiError> {
        let bytes = self.get("/queue", QUEUE_BYTES_MAX).await?;
        let id = prompt.to_string();
        let Ok(queue) = parsed(&bytes) else {
            // A foreign prompt with `NaN` in it makes the whole answer invalid JSON (facts §2.2); ours is then found by its text.
            let known = bytes.windows(id.len()).any(|window| window == id.as_bytes());
            return Ok(if known { QueuePlace::Pending } else { QueuePlace::Absent });
        };
        let has = |list: &str| {
            let items = queue.get(list).and_then(Value::as_array);
            items.is_some_and(|items| items.iter().any(|item| item.get(1).and_then(Value::as_str) == Some(id.as_str())))
        };
        let nothing_runs = queue.get("queue_running").and_then(Value::as_array).is_some_and(Vec::is_empty);
        Ok(match (has("queue_running"), has("queue_pending")) {
            (true, _) => QueuePlace::Running,
            (false, true) if nothing_runs => QueuePlace::Untaken,
            (false, true) => QueuePlace::Pending,
            (false, false) => QueuePlace::Absent,
        })
    }

    /// `GET /internal/logs/raw`: whether the worker thread's end is in the newest lines, as Python writes it when an exception ends a thread. A node can
    /// print the same: a hint, not a proof.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`]; `Status` where the log is not served.
    pub async fn worker_ended_in_log(&self) -> Result<bool, ComfyUiError> {
        let log = off_the_loop(self.get("/internal/logs/raw", LOG_BYTES_MAX).await?).await?;
        Ok(worker_ended(&log))
    }

    /// `GET /queue`: everything in it.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn listing(&self) -> Result<Listing, ComfyUiError> {
        let bytes = self.get("/queue", QUEUE_BYTES_MAX).await?;
        let queue = off_the_loop(bytes).await?;
        let list = |name: &str| {
            let items = queue.get(name).and_then(Value::as_array);
            items.map(|items| items.iter().map(Listed::read).collect()).unwrap_or_default()
        };
        Ok(Listing { running: list("queue_running"), pending: list("queue_pending") })
    }

    /// `GET /history`: its newest entries, so many at most.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn newest_history(&self, entries_max: u32) -> Result<Vec<Listed>, ComfyUiError> {
        let bytes = self.get(&format!("/history?max_items={entries_max}"), HISTORY_ENTRY_BYTES_MAX).await?;
        let entries = off_the_loop(bytes).await?;
        let entries = entries.as_object().map(|entries| entries.values().filter_map(|entry| entry.get("prompt")));
        Ok(entries.into_iter().flatten().map(Listed::read).collect())
    }

    /// `GET /history`: the graphs of its newest entries by their ids, so many at most.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn history_graphs(&self, entries_max: u32) -> Result<Vec<(String, Value)>, ComfyUiError> {
        let bytes = self.get(&format!("/history?max_items={entries_max}"), HISTORY_BYTES_MAX).await?;
        let mut entries = off_the_loop(bytes).await?;
        let entries = entries.as_object_mut().map(std::mem::take).unwrap_or_default();
        let graph = |(id, mut entry): (String, Value)| Some((id, entry.pointer_mut("/prompt/2")?.take()));
        Ok(entries.into_iter().filter_map(graph).collect())
    }

    /// `GET /history/{id}`: the entry, once the prompt has ended.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn history_entry(&self, prompt: UpstreamPromptId) -> Result<Option<Value>, ComfyUiError> {
        let bytes = self.get(&format!("/history/{prompt}"), HISTORY_ENTRY_BYTES_MAX).await?;
        let mut whole = off_the_loop(bytes).await?;
        Ok(whole.get_mut(prompt.to_string()).map(Value::take))
    }

    /// `POST /history {"delete":[id]}`: what we keep ourselves need not stay there, for anyone who reaches the backend to read.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn forget(&self, prompt: UpstreamPromptId) -> Result<(), ComfyUiError> {
        self.post("/history", &json!({"delete": [prompt.to_string()]})).await
    }

    /// `POST /interrupt {"prompt_id"}`: never without an id, which would stop whoever runs.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn interrupt(&self, prompt: UpstreamPromptId) -> Result<(), ComfyUiError> {
        self.post("/interrupt", &json!({"prompt_id": prompt.to_string()})).await
    }

    /// `POST /free`.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn free(&self, unload_models: bool, free_memory: bool) -> Result<(), ComfyUiError> {
        self.post("/free", &json!({"unload_models": unload_models, "free_memory": free_memory})).await
    }

    /// `PATCH /internal/logs/subscribe` for our own socket.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn subscribe_logs(&self, client: UpstreamClientId, enabled: bool) -> Result<(), ComfyUiError> {
        let body = Bytes::from(json!({"clientId": client.to_string(), "enabled": enabled}).to_string());
        self.call(Method::PATCH, "/internal/logs/subscribe", Some(body), SMALL_BYTES_MAX, CALL_TIMEOUT).await.map(drop)
    }

    /// `POST /queue {"delete":[id]}`: takes a waiting prompt out.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn withdraw(&self, prompt: UpstreamPromptId) -> Result<(), ComfyUiError> {
        self.post("/queue", &json!({"delete": [prompt.to_string()]})).await
    }

    /// `GET /view` of one output: its pieces, as they come.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn view(&self, file: &UpstreamFile) -> Result<Pieces, ComfyUiError> {
        Ok(Pieces(self.send(Method::GET, &view_path(file, ""), None, CALL_TIMEOUT).await?.into_body()))
    }

    /// `GET /view` of another form of a picture, as `form` asks for it (`preview=webp;90`): in our own words. Given more time: it is made before the first byte comes.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub async fn view_as(&self, file: &UpstreamFile, form: &str) -> Result<Pieces, ComfyUiError> {
        Ok(Pieces(self.send(Method::GET, &view_path(file, form), None, SUBMIT_TIMEOUT).await?.into_body()))
    }

    /// `GET /view_metadata/{folder}`: what the header of a model's file says of it. `folder` is a plain word.
    ///
    /// # Errors
    /// `Status` 404 where there is no such file, or no word in it.
    pub async fn model_metadata(&self, folder: &str, filename: &str) -> Result<Bytes, ComfyUiError> {
        self.get(&format!("/view_metadata/{folder}?filename={}", query_encoded(filename)), PAGE_FILE_BYTES_MAX).await
    }

    /// `POST` of a body of ours that is made while it is sent, `length` bytes. Gives the JSON of a 200.
    ///
    /// # Errors
    /// Any of [`ComfyUiError`].
    pub(super) async fn post_form<B>(
        &self,
        path: &str,
        content_type: &str,
        length: u64,
        body: B,
        within: Duration,
    ) -> Result<Value, ComfyUiError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request =
            self.request(Method::POST, path).header(CONTENT_TYPE, content_type).header(CONTENT_LENGTH, length);
        let request = request.body(body).map_err(|error| ComfyUiError::Malformed(error.to_string()))?;
        let whole = async { bounded(self.exchange(request, within).await?.into_body(), SMALL_BYTES_MAX).await };
        let bytes = tokio::time::timeout(within, whole).await;
        parsed(&bytes.map_err(|_| ComfyUiError::Lost(format!("nothing within {within:?}")))??)
    }

    async fn get(&self, path: &str, bytes_max: usize) -> Result<Bytes, ComfyUiError> {
        self.call(Method::GET, path, None, bytes_max, CALL_TIMEOUT).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<(), ComfyUiError> {
        let body = Bytes::from(body.to_string());
        self.call(Method::POST, path, Some(body), SMALL_BYTES_MAX, CALL_TIMEOUT).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        bytes_max: usize,
        within: Duration,
    ) -> Result<Bytes, ComfyUiError> {
        let whole = async {
            let response = self.send(method, path, body, within).await?;
            bounded(response.into_body(), bytes_max).await
        };
        tokio::time::timeout(within, whole)
            .await
            .unwrap_or_else(|_| Err(ComfyUiError::Lost(format!("nothing within {within:?}"))))
    }

    /// Sends one request on a connection of its own; gives the response if it is a 200.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        within: Duration,
    ) -> Result<http::Response<Incoming>, ComfyUiError> {
        let mut request = self.request(method, path);
        if let Some(body) = &body {
            request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| ComfyUiError::Malformed(error.to_string()))?;
        self.exchange(request, within).await
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(self.endpoint.path(path))
            .header(HOST, self.endpoint.authority())
            .header(ACCEPT_ENCODING, "identity")
    }

    async fn exchange<B>(
        &self,
        mut request: Request<B>,
        within: Duration,
    ) -> Result<http::Response<Incoming>, ComfyUiError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.endpoint.connect().await.map_err(ComfyUiError::Connect)?;
        let lost = |error: hyper::Error| ComfyUiError::Lost(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Ends by itself when the response was read or dropped.
        tokio::spawn(connection);
        request.headers_mut().extend(self.endpoint.headers().clone());
        let response = tokio::time::timeout(within, sender.send_request(request)).await;
        let response = response.map_err(|_| ComfyUiError::Lost(format!("nothing within {within:?}")))?.map_err(lost)?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(ComfyUiError::Status {
                status,
                body: bounded(response.into_body(), SMALL_BYTES_MAX).await.unwrap_or_default(),
            }),
        }
    }
}

/// A file on its way from a backend.
#[derive(Debug)]
pub struct Pieces(Incoming);

impl Pieces {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`ComfyUiError::Lost`] when the connection ends early or no piece comes for 30 s.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ComfyUiError> {
        loop {
            let frame = match tokio::time::timeout(PIECE_TIMEOUT, self.0.frame()).await {
                Err(_) => return Err(ComfyUiError::Lost(format!("no piece of a file for {PIECE_TIMEOUT:?}"))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(ComfyUiError::Lost(error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// A file as ComfyUI names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFile {
    /// Which of the three directories.
    pub directory: crate::record::ledger::Directory,
    /// Folder inside it.
    pub subfolder: String,
    /// Base name.
    pub filename: String,
}

async fn bounded(body: Incoming, bytes_max: usize) -> Result<Bytes, ComfyUiError> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ComfyUiError::Malformed(format!("more than {bytes_max} bytes")))
        }
        Err(error) => Err(ComfyUiError::Lost(error.to_string())),
    }
}

/// Python's words at the end of a thread, of ComfyUI's worker (`main.py` of 0.8.0 names its function).
fn worker_ended(log: &Value) -> bool {
    let entries = log.get("entries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // A line comes in pieces.
    let text: String = entries.iter().filter_map(|entry| entry.get("m").and_then(Value::as_str)).collect();
    text.lines().any(|line| line.starts_with("Exception in thread ") && line.ends_with("(prompt_worker):"))
}

/// Megabytes of graphs and outputs: not parsed on a thread that carries everybody's events.
async fn off_the_loop(bytes: Bytes) -> Result<Value, ComfyUiError> {
    let whole = tokio::task::spawn_blocking(move || parsed(&bytes)).await;
    whole.map_err(|error| ComfyUiError::Malformed(error.to_string()))?
}

/// Python writes `NaN` and `Infinity`, which are not JSON (facts §2.2): a float of that sort in one output must not make the whole answer unreadable.
fn parsed(bytes: &[u8]) -> Result<Value, ComfyUiError> {
    serde_json::from_slice(bytes)
        .or_else(|_| serde_json::from_slice(&without_odd_numbers(bytes)))
        .map_err(|error| ComfyUiError::Malformed(error.to_string()))
}

/// `NaN`, `Infinity` and `-Infinity` outside strings, as `null`.
fn without_odd_numbers(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut rest, mut in_string) = (bytes, false);
    while let Some((&byte, after)) = rest.split_first() {
        let odd =
            [b"NaN".as_slice(), b"-Infinity", b"Infinity"].into_iter().find(|odd| !in_string && rest.starts_with(odd));
        if let Some(odd) = odd {
            out.extend_from_slice(b"null");
            rest = rest.get(odd.len()..).unwrap_or_default();
            continue;
        }
        out.push(byte);
        rest = after;
        match byte {
            b'"' => in_string = !in_string,
            // Whatever is escaped ends no string.
            b'\\' if in_string => {
                if let Some((&escaped, after)) = rest.split_first() {
                    out.push(escaped);
                    rest = after;
                }
            }
            _ => {}
        }
    }
    out
}

fn view_path(file: &UpstreamFile, form: &str) -> String {
    let (filename, subfolder) = (query_encoded(&file.filename), query_encoded(&file.subfolder));
    let path = format!("/view?filename={filename}&subfolder={subfolder}&type={}", file.directory.name());
    if form.is_empty() { path } else { format!("{path}&{form}") }
}

/// Percent-encodes for a query value: everything but RFC 3986's unreserved characters.
pub(crate) fn query_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_odd_numbers_are_null_and_texts_stay() {
        let read = parsed(br#"{"a": NaN, "b": [-Infinity, Infinity, 1], "c": "NaN \" Infinity", "d\\": NaN}"#).unwrap();
        assert_eq!(read, json!({"a": null, "b": [null, null, 1], "c": "NaN \" Infinity", "d\\": null}));
        assert!(parsed(b"{\"a\": nan}").is_err());
    }

    #[test]
    fn the_end_of_the_worker_is_found_in_the_log_however_it_is_cut() {
        let log = |pieces: &[&str]| {
            let entries: Vec<_> = pieces.iter().map(|piece| json!({"t": "2026-01-01T00:00:00", "m": piece})).collect();
            json!({"entries": entries, "size": {"cols": 80, "rows": 24}})
        };
        assert!(worker_ended(&log(&[
            "got prompt\n",
            "Exception in thread ",
            "Thread-1 (prompt_worker)",
            ":\nTraceback"
        ])));
        for other in [
            log(&["Exception in thread Thread-2 (watcher):\n"]),
            log(&["a node says: Exception in thread Thread-1 (prompt_worker):\n"]),
            log(&[]),
            json!([]),
        ] {
            assert!(!worker_ended(&other), "{other}");
        }
    }

    #[test]
    fn query_values_can_not_add_parameters() {
        assert_eq!(query_encoded("a b&type=input#/é"), "a%20b%26type%3Dinput%23%2F%C3%A9");
        assert_eq!(query_encoded("t-1_a.b~"), "t-1_a.b~");
    }
}
