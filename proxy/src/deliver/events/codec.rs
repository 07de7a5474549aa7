//! One WebSocket frame of a backend into an [`UpstreamEvent`], and that into a [`ClientEvent`] in the owner's names.
//!
//! Both directions are rebuilt from typed parts: what is not understood is not passed on (facts §6.2, §6.3; recordings `ws-*.json`). The end of a job is
//! never told from here but from its committed result ([`super::ending`]).

use crate::ids::{PromptId, UpstreamPromptId};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Number, Value, json};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Node ids longer than this are not ComfyUI's: the policy admits 64, expanded ones add dotted parts.
const NODE_ID_BYTES_MAX: usize = 256;

/// What a backend said, as far as we understand it.
#[derive(Debug, Clone, PartialEq)]
pub enum UpstreamEvent {
    /// `execution_start`.
    Start {
        /// Which prompt.
        prompt: UpstreamPromptId,
        /// Milliseconds since 1970.
        timestamp: u64,
    },
    /// `execution_cached`.
    Cached {
        /// Which prompt.
        prompt: UpstreamPromptId,
        /// Nodes whose output is reused.
        nodes: Vec<String>,
        /// Milliseconds since 1970.
        timestamp: u64,
    },
    /// `executing` with a node.
    Executing {
        /// Absent in the message that a reconnecting client gets.
        prompt: Option<UpstreamPromptId>,
        /// The node that runs.
        node: String,
        /// The node that the page marks.
        display_node: String,
    },
    /// `progress`.
    Progress {
        /// Which prompt.
        prompt: Option<UpstreamPromptId>,
        /// Which node.
        node: Option<String>,
        /// Steps done.
        value: Number,
        /// Steps in all.
        max: Number,
    },
    /// `progress_state`: nodes of other prompts are left out when it is read.
    ProgressState {
        /// Which prompt.
        prompt: UpstreamPromptId,
        /// By node id.
        nodes: Vec<(String, NodeProgress)>,
    },
    /// A preview image: binary 1 or 4.
    Preview(Preview),
    /// Progress text of a node: binary 3. Names no prompt.
    Text {
        /// Which node.
        node: String,
        /// What it says.
        text: String,
    },
    /// `execution_success`, `execution_error`, `execution_interrupted`, or `executing` without a node.
    Ended {
        /// Which prompt, if it says so.
        prompt: Option<UpstreamPromptId>,
        /// By which message.
        kind: EndKind,
    },
    /// `status`: the length of the backend's queue, ours and foreign.
    QueueChanged {
        /// Waiting and running.
        remaining: u64,
    },
    /// Known and not for clients, or unknown: the word for the counter, from a closed list.
    Dropped(&'static str),
}

/// By which message a prompt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// `execution_success`.
    Success,
    /// `execution_error`.
    Error,
    /// `execution_interrupted`.
    Interrupted,
    /// `executing` with node null: after each of the others.
    Idle,
}

/// State of one node in `progress_state`.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeProgress {
    value: Number,
    max: Number,
    state: String,
    display_node: String,
    parent_node: Option<String>,
    real_node: String,
}

/// A preview image.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// Absent in type 1, which a backend sends to a client that it does not know to take type 4.
    pub metadata: Option<PreviewMetadata>,
    /// 1 JPEG, 2 PNG.
    format: ImageFormat,
    /// The encoded image.
    image: Bytes,
}

/// Which node of which prompt a preview shows.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewMetadata {
    /// Which prompt.
    pub prompt: UpstreamPromptId,
    node: String,
    display_node: String,
    parent_node: Option<String>,
    real_node: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImageFormat {
    Jpeg,
    Png,
}

impl ImageFormat {
    fn of_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Jpeg),
            2 => Some(Self::Png),
            _ => None,
        }
    }
    fn of_mime(mime: &str) -> Option<Self> {
        match mime {
            "image/jpeg" => Some(Self::Jpeg),
            "image/png" => Some(Self::Png),
            _ => None,
        }
    }
    fn number(self) -> u32 {
        match self {
            Self::Jpeg => 1,
            Self::Png => 2,
        }
    }
    fn mime(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
        }
    }
}

/// What dispatch makes of an event: a hint to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamSignal {
    /// A prompt began.
    Started(UpstreamPromptId),
    /// A prompt ended, or whatever ran did.
    Ended(Option<UpstreamPromptId>, EndKind),
    /// The backend's queue has this length now.
    QueueChanged(u64),
}

impl UpstreamEvent {
    /// Reads a message of a backend's WebSocket. Never fails: what is not understood is [`UpstreamEvent::Dropped`].
    pub fn parse(message: &Message) -> Self {
        match message {
            Message::Text(text) => parse_text(text).unwrap_or(Self::Dropped("malformed")),
            Message::Binary(bytes) => parse_binary(bytes).unwrap_or(Self::Dropped("malformed_binary")),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Self::Dropped("control"),
        }
    }

    /// The prompt that it names. `None`: it names none and belongs to what runs at that backend, or to nobody.
    pub fn prompt(&self) -> Option<UpstreamPromptId> {
        match self {
            Self::Start { prompt, .. } | Self::Cached { prompt, .. } | Self::ProgressState { prompt, .. } => Some(*prompt),
            Self::Executing { prompt, .. } | Self::Progress { prompt, .. } | Self::Ended { prompt, .. } => *prompt,
            Self::Preview(preview) => preview.metadata.as_ref().map(|metadata| metadata.prompt),
            Self::Text { .. } | Self::QueueChanged { .. } | Self::Dropped(_) => None,
        }
    }

    /// The hint in it.
    pub fn signal(&self) -> Option<UpstreamSignal> {
        match self {
            Self::Start { prompt, .. } => Some(UpstreamSignal::Started(*prompt)),
            Self::Ended { prompt, kind } => Some(UpstreamSignal::Ended(*prompt, *kind)),
            Self::QueueChanged { remaining } => Some(UpstreamSignal::QueueChanged(*remaining)),
            _ => None,
        }
    }

    /// Its name in counters: a closed list.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "execution_start",
            Self::Cached { .. } => "execution_cached",
            Self::Executing { .. } => "executing",
            Self::Progress { .. } => "progress",
            Self::ProgressState { .. } => "progress_state",
            Self::Preview(_) => "preview",
            Self::Text { .. } => "text",
            Self::Ended { .. } => "end",
            Self::QueueChanged { .. } => "status",
            Self::Dropped(kind) => kind,
        }
    }

    /// What the owner of `label` is told; `None` for what is never passed on.
    pub fn for_owner(&self, label: &PromptId) -> Option<ClientEvent> {
        let body = match self {
            Self::Start { timestamp, .. } => {
                json!({"type": "execution_start", "data": {"prompt_id": label, "timestamp": timestamp}})
            }
            Self::Cached { nodes, timestamp, .. } => {
                json!({"type": "execution_cached", "data": {"nodes": nodes, "prompt_id": label, "timestamp": timestamp}})
            }
            Self::Executing { node, display_node, .. } => {
                let data = json!({"node": node, "display_node": display_node, "prompt_id": label});
                let mark = Mark::Runs(label.clone(), display_node.clone());
                return Some(ClientEvent::message(&json!({"type": "executing", "data": data}), mark));
            }
            Self::Progress { node, value, max, .. } => {
                json!({"type": "progress", "data": {"value": value, "max": max, "prompt_id": label, "node": node}})
            }
            Self::ProgressState { nodes, .. } => {
                let nodes: Map<String, Value> =
                    nodes.iter().map(|(id, progress)| (id.clone(), progress.shown(id, label))).collect();
                json!({"type": "progress_state", "data": {"prompt_id": label, "nodes": nodes}})
            }
            Self::Preview(preview) => return preview.for_owner(label),
            Self::Text { node, text } => return text_frame(node, text).map(ClientEvent::binary),
            Self::Ended { .. } | Self::QueueChanged { .. } | Self::Dropped(_) => return None,
        };
        Some(ClientEvent::message(&body, Mark::None))
    }
}

impl NodeProgress {
    fn read(id: &str, value: &Value) -> Option<Self> {
        Some(Self {
            value: value.get("value")?.as_number()?.clone(),
            max: value.get("max")?.as_number()?.clone(),
            state: known_state(value.get("state")?.as_str()?)?.to_owned(),
            display_node: node_or(value, "display_node_id", id),
            parent_node: node(value, "parent_node_id"),
            real_node: node_or(value, "real_node_id", id),
        })
    }

    fn shown(&self, id: &str, label: &PromptId) -> Value {
        json!({
            "value": self.value, "max": self.max, "state": self.state, "node_id": id, "prompt_id": label,
            "display_node_id": self.display_node, "parent_node_id": self.parent_node, "real_node_id": self.real_node,
        })
    }
}

/// `comfy_execution/progress.py` `NodeState`.
fn known_state(state: &str) -> Option<&str> {
    ["pending", "running", "finished", "error"].into_iter().find(|known| *known == state)
}

impl Preview {
    fn for_owner(&self, label: &PromptId) -> Option<ClientEvent> {
        let mut plain = BytesMut::with_capacity(self.image.len() + 8);
        plain.put_u32(1);
        plain.put_u32(self.format.number());
        plain.extend_from_slice(&self.image);
        let plain = plain.freeze();
        let Some(metadata) = &self.metadata else {
            return Some(ClientEvent { payload: Payload::Preview { with_metadata: plain.clone(), plain }, mark: Mark::None });
        };
        let head = json!({
            "node_id": metadata.node, "prompt_id": label, "display_node_id": metadata.display_node,
            "parent_node_id": metadata.parent_node, "real_node_id": metadata.real_node, "image_type": self.format.mime(),
        })
        .to_string();
        let mut rich = BytesMut::with_capacity(self.image.len() + head.len() + 8);
        rich.put_u32(4);
        rich.put_u32(u32::try_from(head.len()).ok()?);
        rich.extend_from_slice(head.as_bytes());
        rich.extend_from_slice(&self.image);
        Some(ClientEvent { payload: Payload::Preview { with_metadata: rich.freeze(), plain }, mark: Mark::None })
    }
}

fn text_frame(node: &str, text: &str) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(node.len() + text.len() + 8);
    frame.put_u32(3);
    frame.put_u32(u32::try_from(node.len()).ok()?);
    frame.extend_from_slice(node.as_bytes());
    frame.extend_from_slice(text.as_bytes());
    Some(frame.freeze())
}

fn parse_text(text: &str) -> Option<UpstreamEvent> {
    let message: Value = serde_json::from_str(text).ok()?;
    let (kind, data) = (message.get("type")?.as_str()?, message.get("data")?);
    let end = |kind| Some(UpstreamEvent::Ended { prompt: prompt(data), kind });
    match kind {
        "execution_start" => Some(UpstreamEvent::Start { prompt: prompt(data)?, timestamp: timestamp(data) }),
        "execution_cached" => Some(UpstreamEvent::Cached {
            prompt: prompt(data)?,
            nodes: data.get("nodes")?.as_array()?.iter().filter_map(node_id).collect(),
            timestamp: timestamp(data),
        }),
        "executing" => match data.get("node")? {
            Value::Null => end(EndKind::Idle),
            value => {
                let node = node_id(value)?;
                Some(UpstreamEvent::Executing { prompt: prompt(data), display_node: node_or(data, "display_node", &node), node })
            }
        },
        "progress" => Some(UpstreamEvent::Progress {
            prompt: prompt(data),
            node: node(data, "node"),
            value: data.get("value")?.as_number()?.clone(),
            max: data.get("max")?.as_number()?.clone(),
        }),
        "progress_state" => progress_state(data),
        "execution_success" => end(EndKind::Success),
        "execution_error" => end(EndKind::Error),
        "execution_interrupted" => end(EndKind::Interrupted),
        "status" => Some(UpstreamEvent::QueueChanged {
            remaining: data.pointer("/status/exec_info/queue_remaining")?.as_u64()?,
        }),
        // Told from the committed result.
        "executed" => Some(UpstreamEvent::Dropped("executed")),
        "feature_flags" => Some(UpstreamEvent::Dropped("feature_flags")),
        "logs" => Some(UpstreamEvent::Dropped("logs")),
        _ => Some(UpstreamEvent::Dropped("unknown")),
    }
}

fn progress_state(data: &Value) -> Option<UpstreamEvent> {
    let nodes = data.get("nodes")?.as_object()?;
    // Without an outer id the nodes' own must agree: whoever's they are, they are one prompt's.
    let named = prompt(data).or_else(|| nodes.values().find_map(prompt))?;
    let own = nodes.iter().filter(|(_, value)| prompt(value) == Some(named));
    let nodes = own.filter_map(|(id, value)| Some((checked_node(id)?, NodeProgress::read(id, value)?))).collect();
    Some(UpstreamEvent::ProgressState { prompt: named, nodes })
}

fn parse_binary(frame: &Bytes) -> Option<UpstreamEvent> {
    let (kind, rest) = u32_then_rest(frame)?;
    match kind {
        1 => {
            let (format, image) = u32_then_rest(&rest)?;
            Some(UpstreamEvent::Preview(Preview { metadata: None, format: ImageFormat::of_number(format)?, image }))
        }
        3 => {
            let (node, text) = counted_then_rest(&rest)?;
            let node = checked_node(std::str::from_utf8(&node).ok()?)?;
            Some(UpstreamEvent::Text { node, text: String::from_utf8(text.to_vec()).ok()? })
        }
        4 => {
            let (head, image) = counted_then_rest(&rest)?;
            let head: Value = serde_json::from_slice(&head).ok()?;
            let node_id = node(&head, "node_id")?;
            let metadata = PreviewMetadata {
                prompt: prompt(&head)?,
                display_node: node_or(&head, "display_node_id", &node_id),
                parent_node: node(&head, "parent_node_id"),
                real_node: node_or(&head, "real_node_id", &node_id),
                node: node_id,
            };
            let format = ImageFormat::of_mime(head.get("image_type")?.as_str()?)?;
            Some(UpstreamEvent::Preview(Preview { metadata: Some(metadata), format, image }))
        }
        _ => Some(UpstreamEvent::Dropped("unknown_binary")),
    }
}

/// A big-endian u32 and what follows; `None` if there are not four bytes.
fn u32_then_rest(bytes: &Bytes) -> Option<(u32, Bytes)> {
    let number = u32::from_be_bytes(*bytes.first_chunk::<4>()?);
    Some((number, bytes.slice(4..)))
}

/// As many bytes as a leading u32 says, and what follows. SECURITY: the length is the backend's word, checked before it is used (facts §11, 115).
fn counted_then_rest(bytes: &Bytes) -> Option<(Bytes, Bytes)> {
    let (length, rest) = u32_then_rest(bytes)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len())?;
    Some((rest.slice(..length), rest.slice(length..)))
}

fn prompt(data: &Value) -> Option<UpstreamPromptId> {
    data.get("prompt_id")?.as_str()?.parse().ok()
}

fn timestamp(data: &Value) -> u64 {
    data.get("timestamp").and_then(Value::as_u64).unwrap_or_default()
}

fn checked_node(id: &str) -> Option<String> {
    (!id.is_empty() && id.len() <= NODE_ID_BYTES_MAX).then(|| id.to_owned())
}

fn node_id(value: &Value) -> Option<String> {
    checked_node(value.as_str()?)
}

fn node(data: &Value, key: &str) -> Option<String> {
    data.get(key).and_then(node_id)
}

fn node_or(data: &Value, key: &str, default: &str) -> String {
    node(data, key).unwrap_or_else(|| default.to_owned())
}

/// One event as a client gets it. Cheap to clone: its bytes are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientEvent {
    payload: Payload,
    mark: Mark,
}

#[derive(Debug, Clone, PartialEq)]
enum Payload {
    Text(Utf8Bytes),
    Binary(Bytes),
    Preview { with_metadata: Bytes, plain: Bytes },
}

/// What an event says about what runs, for clients that come back.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mark {
    None,
    Runs(PromptId, String),
    Over(PromptId),
}

/// What a client announced by its `feature_flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// It takes previews of type 4.
    pub preview_metadata: bool,
}

impl ClientEvent {
    pub(super) fn message(body: &Value, mark: Mark) -> Self {
        Self { payload: Payload::Text(body.to_string().into()), mark }
    }

    fn binary(frame: Bytes) -> Self {
        Self { payload: Payload::Binary(frame), mark: Mark::None }
    }

    /// `status` with the owner's own count; with `sid` when it is the first of a socket.
    pub fn status(remaining: u64, sid: Option<&crate::ids::ClientId>) -> Self {
        let mut data = json!({"status": {"exec_info": {"queue_remaining": remaining}}});
        if let (Some(sid), Some(fields)) = (sid, data.as_object_mut()) {
            fields.insert("sid".into(), json!(sid));
        }
        Self::message(&json!({"type": "status", "data": data}), Mark::None)
    }

    /// What a client hears first that comes back while its job runs: no prompt id, as in server.py `websocket_handler`.
    pub fn running(node: &str) -> Self {
        Self::message(&json!({"type": "executing", "data": {"node": node}}), Mark::None)
    }

    /// The gateway's answer to `feature_flags`.
    pub fn feature_flags(upload_bytes_max: u64) -> Self {
        let data = crate::deliver::state::system::features(upload_bytes_max);
        Self::message(&json!({"type": "feature_flags", "data": data}), Mark::None)
    }

    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Whether it may be left out for a slow client.
    pub fn is_preview(&self) -> bool {
        matches!(self.payload, Payload::Preview { .. })
    }

    /// Bytes that it takes in a queue.
    pub fn bytes(&self) -> usize {
        match &self.payload {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
            // Two frames share no bytes.
            Payload::Preview { with_metadata, plain } => with_metadata.len() + plain.len(),
        }
    }

    /// The frame for a client of these capabilities.
    pub fn frame(&self, capabilities: Capabilities) -> Message {
        match &self.payload {
            Payload::Text(text) => Message::Text(text.clone()),
            Payload::Binary(bytes) => Message::Binary(bytes.clone()),
            Payload::Preview { with_metadata, .. } if capabilities.preview_metadata => Message::Binary(with_metadata.clone()),
            Payload::Preview { plain, .. } => Message::Binary(plain.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = "735e7c8d-0c6e-45d3-91cb-6c915f479079";
    const OTHER: &str = "2f76568f-8e73-4753-90a9-f3355ac72a0b";

    fn label() -> PromptId {
        "mine".parse().unwrap()
    }

    fn parsed(body: &Value) -> UpstreamEvent {
        UpstreamEvent::parse(&Message::Text(body.to_string().into()))
    }

    fn shown(body: &Value) -> Option<Value> {
        let event = parsed(body).for_owner(&label())?;
        let Message::Text(text) = event.frame(Capabilities::default()) else { panic!("no text") };
        Some(serde_json::from_str(&text).unwrap())
    }

    fn type_4(head: &str, image: &[u8]) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_u32(4);
        frame.put_u32(u32::try_from(head.len()).unwrap());
        frame.extend_from_slice(head.as_bytes());
        frame.extend_from_slice(image);
        frame.freeze()
    }

    #[test]
    fn recorded_messages_reach_the_owner_with_its_label_and_nothing_else_changed() {
        for body in [
            json!({"type": "execution_start", "data": {"prompt_id": UPSTREAM, "timestamp": 1_795_231_291_814_u64}}),
            json!({"type": "execution_cached", "data": {"nodes": ["1"], "prompt_id": UPSTREAM, "timestamp": 5}}),
            json!({"type": "executing", "data": {"node": "3", "display_node": "3", "prompt_id": UPSTREAM}}),
            json!({"type": "progress", "data": {"value": 1, "max": 6, "prompt_id": UPSTREAM, "node": "3"}}),
            json!({"type": "progress_state", "data": {"prompt_id": UPSTREAM, "nodes": {"3": {"value": 0.0, "max": 1.0, "state": "running",
                "node_id": "3", "prompt_id": UPSTREAM, "display_node_id": "3", "parent_node_id": null, "real_node_id": "3"}}}}),
        ] {
            let expected = body.to_string().replace(UPSTREAM, "mine");
            assert_eq!(parsed(&body).prompt(), Some(UPSTREAM.parse().unwrap()), "{body}");
            assert_eq!(shown(&body).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn ends_results_status_and_unknown_messages_are_not_passed_on() {
        for (kind, data) in [
            ("executed", json!({"node": "2", "output": {}, "prompt_id": UPSTREAM})),
            ("execution_success", json!({"prompt_id": UPSTREAM})),
            ("execution_error", json!({"prompt_id": UPSTREAM, "traceback": ["/opt"]})),
            ("execution_interrupted", json!({"prompt_id": UPSTREAM})),
            ("executing", json!({"node": null, "prompt_id": UPSTREAM})),
            ("status", json!({"status": {"exec_info": {"queue_remaining": 7}}})),
            ("logs", json!({"entries": []})),
            ("feature_flags", json!({})),
            ("impact-node-feedback", json!({"prompt_id": UPSTREAM})),
        ] {
            assert_eq!(shown(&json!({"type": kind, "data": data})), None, "{kind}");
        }
    }

    #[test]
    fn signals_tell_start_end_and_queue() {
        let id = UPSTREAM.parse().unwrap();
        let signal = |kind: &str, data: Value| parsed(&json!({"type": kind, "data": data})).signal();
        assert_eq!(signal("execution_start", json!({"prompt_id": UPSTREAM})), Some(UpstreamSignal::Started(id)));
        let idle = signal("executing", json!({"node": null, "prompt_id": UPSTREAM}));
        assert_eq!(idle, Some(UpstreamSignal::Ended(Some(id), EndKind::Idle)));
        let error = signal("execution_error", json!({"prompt_id": UPSTREAM}));
        assert_eq!(error, Some(UpstreamSignal::Ended(Some(id), EndKind::Error)));
        let status = signal("status", json!({"status": {"exec_info": {"queue_remaining": 2}}}));
        assert_eq!(status, Some(UpstreamSignal::QueueChanged(2)));
        assert_eq!(signal("progress", json!({"value": 1, "max": 2})), None);
    }

    #[test]
    fn progress_state_leaves_out_nodes_of_other_prompts() {
        let node = |prompt: &str| json!({"value": 1, "max": 1, "state": "running", "prompt_id": prompt});
        let body = json!({"type": "progress_state", "data": {"prompt_id": UPSTREAM, "nodes": {"1": node(UPSTREAM), "2": node(OTHER)}}});
        let shown = shown(&body).unwrap();
        assert!(shown["data"]["nodes"].get("1").is_some());
        assert!(shown["data"]["nodes"].get("2").is_none());
        assert!(!shown.to_string().contains(OTHER));
    }

    #[test]
    fn a_preview_is_type_4_for_those_who_announced_it_and_type_1_for_others() {
        let head = format!(r#"{{"node_id": "3", "prompt_id": "{UPSTREAM}", "display_node_id": "3", "parent_node_id": null, "real_node_id": "3", "image_type": "image/png"}}"#);
        let event = UpstreamEvent::parse(&Message::Binary(type_4(&head, b"PNG!")));
        assert_eq!(event.prompt(), Some(UPSTREAM.parse().unwrap()));
        let event = event.for_owner(&label()).unwrap();
        assert_eq!(event.frame(Capabilities::default()).into_data().as_ref(), b"\0\0\0\x01\0\0\0\x02PNG!");
        let rich = event.frame(Capabilities { preview_metadata: true }).into_data();
        let UpstreamEvent::Dropped("malformed_binary") = UpstreamEvent::parse(&Message::Binary(rich.clone())) else {
            panic!("the owner's label is no upstream id, so it must not read back")
        };
        let text = String::from_utf8_lossy(&rich).into_owned();
        assert!(text.contains(r#""prompt_id":"mine""#) && text.ends_with("PNG!") && !text.contains(UPSTREAM), "{text}");
    }

    #[test]
    fn lengths_beyond_the_frame_are_refused_and_lengths_up_to_it_are_not() {
        let text = |length: u32| {
            let mut frame = BytesMut::new();
            frame.put_u32(3);
            frame.put_u32(length);
            frame.extend_from_slice(b"12");
            UpstreamEvent::parse(&Message::Binary(frame.freeze()))
        };
        assert_eq!(text(2), UpstreamEvent::Text { node: "12".into(), text: String::new() });
        assert_eq!(text(1), UpstreamEvent::Text { node: "1".into(), text: "2".into() });
        for length in [3, u32::MAX] {
            assert_eq!(text(length), UpstreamEvent::Dropped("malformed_binary"));
        }
    }

    #[test]
    fn every_cut_of_a_binary_frame_is_read_without_panic() {
        let head = format!(r#"{{"node_id":"3","prompt_id":"{UPSTREAM}","image_type":"image/jpeg"}}"#);
        let whole = type_4(&head, b"x");
        for length in 0..whole.len() - 1 {
            let event = UpstreamEvent::parse(&Message::Binary(whole.slice(..length)));
            assert_eq!(event, UpstreamEvent::Dropped("malformed_binary"), "{length}");
        }
        assert!(matches!(UpstreamEvent::parse(&Message::Binary(whole)), UpstreamEvent::Preview(_)));
        assert_eq!(UpstreamEvent::parse(&Message::Binary(Bytes::from_static(b"\0\0\0\x02x"))), UpstreamEvent::Dropped("unknown_binary"));
    }

    #[test]
    fn text_of_the_wrong_shape_is_malformed() {
        for text in ["", "[]", "null", r#"{"type":1,"data":{}}"#, r#"{"type":"progress","data":{}}"#, r#"{"type":"execution_start","data":{"prompt_id":"x"}}"#] {
            assert_eq!(UpstreamEvent::parse(&Message::Text(text.into())), UpstreamEvent::Dropped("malformed"), "{text}");
        }
    }
}
