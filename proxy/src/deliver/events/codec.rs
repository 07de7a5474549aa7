//! Frames: a backend's into [`UpstreamEvent`]s, an owner's events into frames. Pure.
//!
//! Formats (ComfyUI 0.8.0 `server.py` `send_image`, `send_progress_text`, `protocol.py`; facts §6.2, §6.3): text frames are `{"type": T, "data": D}`; binary
//! frames begin with a big-endian u32: 1 preview (u32 format, image), 3 text (u32 length, node id, text), 4 preview with metadata (u32 length,
//! JSON, image). Every length is checked before anything is cut (facts §11, 115). Of a message only the fields that are known pass: a node pack may put
//! anything beside them.

use crate::ids::{PromptId, UpstreamPromptId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use comfygate_policy::ComfyOrgCredential;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Preview of 0.8.0 without metadata.
const PREVIEW_IMAGE: u32 = 1;
/// Progress text of a node.
const TEXT: u32 = 3;
/// Preview with the ids that it belongs to.
const PREVIEW_IMAGE_WITH_METADATA: u32 = 4;

/// What a backend's frame says.
#[derive(Debug, Clone, PartialEq)]
pub enum UpstreamEvent {
    /// `execution_start`.
    Started {
        /// Whose.
        prompt: UpstreamPromptId,
        /// `data`.
        data: Map<String, Value>,
    },
    /// `execution_cached`, `executing` a node, `progress`, `progress_state`: passed on as they come.
    Progress {
        /// Whose.
        prompt: UpstreamPromptId,
        /// `type`.
        kind: ProgressKind,
        /// `data`.
        data: Map<String, Value>,
    },
    /// A node's output is there, or the run is over: its owner hears of it when the attempt is committed.
    Ended {
        /// Whose.
        prompt: UpstreamPromptId,
    },
    /// `executed`: held back, since files may only be named once they are in the blobs.
    Output,
    /// A preview image.
    Preview(Preview),
    /// Progress text: node id and text, as they stand in the frame.
    Text(Bytes),
    /// `status`: something was queued, taken or done there.
    QueueChanged {
        /// Prompts running and waiting there, foreign ones too.
        remaining: u64,
    },
    /// A message or frame that is not ComfyUI's own: a node pack's. Reaches people only where the installation is their own (owner posture).
    Pack(PackEvent),
    /// A frame that is larger than the gateway takes: what it held is lost, and its connection with it.
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// Not for any owner, not understood, or cut short.
    Ignored,
}

/// What a node pack sends.
#[derive(Debug, Clone, PartialEq)]
pub enum PackEvent {
    /// A text frame: `{"type": kind, "data": data}`.
    Message {
        /// The pack's own `type`.
        kind: String,
        /// Anything.
        data: Value,
    },
    /// A binary frame of a type that ComfyUI does not have, whole.
    Frame(Bytes),
}

/// The messages that pass while a job runs: a closed list, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "ComfyUI's own names")]
pub enum ProgressKind {
    ExecutionCached,
    Executing,
    Progress,
    ProgressState,
}

impl ProgressKind {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "execution_cached" => Self::ExecutionCached,
            "executing" => Self::Executing,
            "progress" => Self::Progress,
            "progress_state" => Self::ProgressState,
            _ => return None,
        })
    }

    /// ComfyUI's `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExecutionCached => "execution_cached",
            Self::Executing => "executing",
            Self::Progress => "progress",
            Self::ProgressState => "progress_state",
        }
    }
}

/// A preview image, whichever of the two frames it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// Whose, if the frame says so.
    pub prompt: Option<UpstreamPromptId>,
    /// `node_id`, `display_node_id` … `image_type`; empty for a frame without.
    pub metadata: Map<String, Value>,
    /// JPEG or PNG.
    pub format: ImageFormat,
    /// The image's own bytes.
    pub image: Bytes,
}

/// The formats that ComfyUI sends previews in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "well-known names")]
pub enum ImageFormat {
    Jpeg,
    Png,
}

/// Something that an owner's sockets are told; how it looks on the wire depends on what the client announced.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// A JSON message of the gateway that the next of its kind replaces.
    Hint(Utf8Bytes),
    /// A text frame.
    Json(Utf8Bytes),
    /// A preview.
    Preview {
        /// Metadata with the owner's ids; empty if the backend sent none.
        metadata: Map<String, Value>,
        /// JPEG or PNG.
        format: ImageFormat,
        /// The image's own bytes.
        image: Bytes,
    },
    /// Progress text, as it stood in the backend's frame.
    Text(Bytes),
    /// A binary frame of a node pack, whole.
    Frame(Bytes),
}

impl UpstreamEvent {
    /// Reads a frame.
    pub fn read(message: &Message) -> Self {
        match message {
            Message::Text(text) => read_text(text).unwrap_or(Self::Ignored),
            Message::Binary(bytes) => read_binary(bytes.clone()).unwrap_or(Self::Ignored),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Self::Ignored,
        }
    }

    /// Its name in metrics: ComfyUI's own where there is one.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "execution_start",
            Self::Progress { kind, .. } => kind.name(),
            Self::Ended { .. } => "end",
            Self::Output => "executed",
            Self::Preview(_) => "preview",
            Self::Text(_) => "text",
            Self::QueueChanged { .. } => "status",
            Self::Pack(_) => "pack",
            Self::TooLong { .. } => "too_long",
            Self::Ignored => "ignored",
        }
    }

    /// The prompt that the frame names.
    pub fn prompt(&self) -> Option<UpstreamPromptId> {
        match self {
            Self::Started { prompt, .. } | Self::Progress { prompt, .. } | Self::Ended { prompt } => Some(*prompt),
            Self::Preview(preview) => preview.prompt,
            Self::Pack(event) => event.prompt(),
            Self::Output | Self::Text(_) | Self::QueueChanged { .. } | Self::TooLong { .. } | Self::Ignored => None,
        }
    }

    /// What the owner hears of it, under its own name of the prompt; `None` for what it hears later or never.
    pub fn for_owner(self, label: &PromptId) -> Option<ClientEvent> {
        match self {
            Self::Started { prompt, data } => {
                Some(ClientEvent::message("execution_start", relabelled(data, prompt, label)))
            }
            Self::Progress { prompt, kind, data } => {
                Some(ClientEvent::message(kind.name(), relabelled(data, prompt, label)))
            }
            Self::Preview(preview) => Some(ClientEvent::Preview {
                metadata: match preview.prompt {
                    Some(prompt) => relabelled(preview.metadata, prompt, label),
                    None => Map::new(),
                },
                format: preview.format,
                image: preview.image,
            }),
            Self::Text(text) => Some(ClientEvent::Text(text)),
            Self::Pack(_)
            | Self::Ended { .. }
            | Self::Output
            | Self::QueueChanged { .. }
            | Self::TooLong { .. }
            | Self::Ignored => None,
        }
    }
}

impl PackEvent {
    /// The prompt that it names where ComfyUI's own messages do.
    pub fn prompt(&self) -> Option<UpstreamPromptId> {
        match self {
            Self::Message { data, .. } => data.get("prompt_id")?.as_str()?.parse().ok(),
            Self::Frame(_) => None,
        }
    }

    /// What people hear of it: as it came, with the owner's label wherever the upstream id of `running` stood.
    pub fn for_people(self, running: Option<(UpstreamPromptId, &PromptId)>) -> ClientEvent {
        match self {
            Self::Message { kind, mut data } => {
                if let Some((prompt, label)) = running {
                    relabel(&mut data, &prompt.to_string(), label);
                }
                ClientEvent::Json(json!({"type": kind, "data": data}).to_string().into())
            }
            Self::Frame(bytes) => ClientEvent::Frame(bytes),
        }
    }
}

impl ClientEvent {
    /// `{"type": kind, "data": data}`.
    pub fn message(kind: &str, data: Map<String, Value>) -> Self {
        Self::Json(json!({"type": kind, "data": data}).to_string().into())
    }

    /// The same without what a job was paid with, should a node have told it. SECURITY: nodes are handed it, and whatever they tell is passed on. Its place is filled, so that lengths within
    /// a frame still hold; pictures are not looked through.
    pub fn without(self, secrets: &[ComfyOrgCredential]) -> Self {
        let secrets = secrets.iter().flat_map(ComfyOrgCredential::hidden);
        secrets.fold(self, |event, secret| match event {
            Self::Json(text) => Self::Json(without(text, secret)),
            Self::Hint(text) => Self::Hint(without(text, secret)),
            Self::Text(bytes) => Self::Text(masked(bytes, secret.as_bytes())),
            Self::Frame(bytes) => Self::Frame(masked(bytes, secret.as_bytes())),
            event @ Self::Preview { .. } => event,
        })
    }

    /// The frame for a client that did, or did not, announce `supports_preview_metadata`.
    pub fn frame(&self, with_metadata: bool) -> Message {
        match self {
            Self::Json(text) | Self::Hint(text) => Message::Text(text.clone()),
            Self::Text(text) => Message::Binary(framed(TEXT, &[text])),
            Self::Frame(bytes) => Message::Binary(bytes.clone()),
            Self::Preview { metadata, format, image } => {
                Message::Binary(picture_frame(with_metadata, metadata, *format, image))
            }
        }
    }

    /// About how many bytes it takes while it waits.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Json(text) | Self::Hint(text) => text.len(),
            Self::Preview { image, .. } => image.len(),
            Self::Text(bytes) | Self::Frame(bytes) => bytes.len(),
        }
    }

    /// Whether a slow client may miss it.
    pub fn is_preview(&self) -> bool {
        matches!(self, Self::Preview { .. } | Self::Hint(_))
    }
}

/// The frame of a picture, up to the picture's own bytes, for a client that did, or did not, announce `supports_preview_metadata`.
pub fn picture_head(with_metadata: bool, metadata: &Map<String, Value>, format: ImageFormat) -> Bytes {
    picture_frame(with_metadata, metadata, format, &[])
}

fn picture_frame(with_metadata: bool, metadata: &Map<String, Value>, format: ImageFormat, image: &[u8]) -> Bytes {
    if with_metadata && !metadata.is_empty() {
        let metadata = Value::Object(metadata.clone()).to_string();
        let length = u32::try_from(metadata.len()).unwrap_or(u32::MAX).to_be_bytes();
        return framed(PREVIEW_IMAGE_WITH_METADATA, &[&length, metadata.as_bytes(), image]);
    }
    let format: u32 = match format {
        ImageFormat::Jpeg => 1,
        ImageFormat::Png => 2,
    };
    framed(PREVIEW_IMAGE, &[&format.to_be_bytes(), image])
}

/// JSON without a text, as it is written in JSON.
fn without(text: Utf8Bytes, secret: &str) -> Utf8Bytes {
    let quoted = Value::from(secret).to_string();
    let written = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or(secret);
    if text.contains(written) { text.replace(written, &"*".repeat(secret.len())).into() } else { text }
}

fn masked(bytes: Bytes, secret: &[u8]) -> Bytes {
    let next = |bytes: &[u8], from: usize| {
        let rest = bytes.get(from..)?;
        Some(from + rest.windows(secret.len().max(1)).position(|part| part == secret)?)
    };
    let Some(first) = next(&bytes, 0) else { return bytes };
    let (mut masked, mut found) = (bytes.to_vec(), Some(first));
    while let Some(at) = found {
        if let Some(part) = masked.get_mut(at..at + secret.len()) {
            part.fill(b'*');
        }
        found = next(&masked, at + secret.len());
    }
    masked.into()
}

fn framed(kind: u32, parts: &[&[u8]]) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + parts.iter().map(|part| part.len()).sum::<usize>());
    frame.put_u32(kind);
    parts.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

/// The messages of ComfyUI itself (facts §6.2); every other is a pack's.
const OWN_MESSAGES: [&str; 11] = [
    "status",
    "execution_start",
    "execution_cached",
    "executing",
    "progress",
    "progress_state",
    "executed",
    "execution_success",
    "execution_error",
    "execution_interrupted",
    "feature_flags",
];

fn read_text(text: &str) -> Option<UpstreamEvent> {
    let Value::Object(mut message) = serde_json::from_str(text).ok()? else { return None };
    let kind = message.get("type")?.as_str()?.to_owned();
    if !OWN_MESSAGES.contains(&kind.as_str()) {
        let data = message.remove("data").unwrap_or(Value::Null);
        return Some(UpstreamEvent::Pack(PackEvent::Message { kind, data }));
    }
    let Some(Value::Object(data)) = message.remove("data") else { return None };
    if kind == "status" {
        let remaining = data.get("status")?.pointer("/exec_info/queue_remaining")?.as_u64()?;
        return Some(UpstreamEvent::QueueChanged { remaining });
    }
    if kind == "executed" {
        return Some(UpstreamEvent::Output);
    }
    // `executing` of a reconnect has no prompt id (facts §6.1): it repeats what was told.
    let prompt: UpstreamPromptId = data.get("prompt_id")?.as_str()?.parse().ok()?;
    Some(match kind.as_str() {
        "execution_start" => UpstreamEvent::Started { prompt, data: only(data, &["prompt_id", "timestamp"]) },
        "execution_success" | "execution_error" | "execution_interrupted" => UpstreamEvent::Ended { prompt },
        "executing" if data.get("node").is_none_or(Value::is_null) => UpstreamEvent::Ended { prompt },
        other => {
            let kind = ProgressKind::from_name(other)?;
            UpstreamEvent::Progress { prompt, kind, data: understood(kind, data) }
        }
    })
}

/// The fields of a message that ComfyUI itself writes (facts §6.2).
fn understood(kind: ProgressKind, data: Map<String, Value>) -> Map<String, Value> {
    match kind {
        ProgressKind::ExecutionCached => only(data, &["nodes", "prompt_id", "timestamp"]),
        ProgressKind::Executing => only(data, &["node", "display_node", "prompt_id"]),
        ProgressKind::Progress => only(data, &["value", "max", "prompt_id", "node"]),
        ProgressKind::ProgressState => {
            let mut data = only(data, &["prompt_id", "nodes"]);
            let prompt = data.get("prompt_id").cloned();
            if let Some(Value::Object(nodes)) = data.get_mut("nodes") {
                // SECURITY: each node names its prompt. What is another's is left out, not told under this owner's label.
                nodes.retain(|_, node| node.get("prompt_id") == prompt.as_ref());
                for node in nodes.values_mut().filter_map(Value::as_object_mut) {
                    *node = only(std::mem::take(node), &NODE_STATE_FIELDS);
                }
            }
            data
        }
    }
}

/// `comfy_execution/progress.py` `WebUIProgressHandler._send_progress_state`.
const NODE_STATE_FIELDS: [&str; 8] =
    ["value", "max", "state", "node_id", "prompt_id", "display_node_id", "parent_node_id", "real_node_id"];
/// `comfy_execution/progress.py` `WebUIProgressHandler.update_handler`.
const PREVIEW_FIELDS: [&str; 6] =
    ["node_id", "prompt_id", "display_node_id", "parent_node_id", "real_node_id", "image_type"];

fn only(mut fields: Map<String, Value>, known: &[&str]) -> Map<String, Value> {
    fields.retain(|name, _| known.contains(&name.as_str()));
    fields
}

/// Not a type of ComfyUI's (`protocol.py` `BinaryEventTypes`); 2 is UNENCODED_PREVIEW_IMAGE, which never leaves the server.
fn is_pack_frame(frame: &Bytes) -> bool {
    frame.clone().try_get_u32().is_ok_and(|kind| !(PREVIEW_IMAGE..=PREVIEW_IMAGE_WITH_METADATA).contains(&kind))
}

fn read_binary(mut frame: Bytes) -> Option<UpstreamEvent> {
    if is_pack_frame(&frame) {
        return Some(UpstreamEvent::Pack(PackEvent::Frame(frame)));
    }
    match frame.try_get_u32().ok()? {
        PREVIEW_IMAGE => {
            let format = match frame.try_get_u32().ok()? {
                1 => ImageFormat::Jpeg,
                2 => ImageFormat::Png,
                _ => return None,
            };
            Some(UpstreamEvent::Preview(Preview { prompt: None, metadata: Map::new(), format, image: frame }))
        }
        TEXT => {
            // Told on as it is, once its inner length is known to fit.
            let length = usize::try_from(frame.clone().try_get_u32().ok()?).ok()?;
            (length <= frame.len().checked_sub(4)?).then_some(UpstreamEvent::Text(frame))
        }
        PREVIEW_IMAGE_WITH_METADATA => {
            let length = usize::try_from(frame.try_get_u32().ok()?).ok()?;
            if length > frame.len() {
                return None;
            }
            let Value::Object(metadata) = serde_json::from_slice(&frame.split_to(length)).ok()? else { return None };
            let format = match metadata.get("image_type")?.as_str()? {
                "image/jpeg" => ImageFormat::Jpeg,
                "image/png" => ImageFormat::Png,
                _ => return None,
            };
            let prompt = metadata.get("prompt_id")?.as_str()?.parse().ok()?;
            let metadata = only(metadata, &PREVIEW_FIELDS);
            Some(UpstreamEvent::Preview(Preview { prompt: Some(prompt), metadata, format, image: frame }))
        }
        _ => None,
    }
}

/// `data` with the owner's label wherever the upstream id stood: at the top, and in each node of a `progress_state`.
fn relabelled(mut data: Map<String, Value>, prompt: UpstreamPromptId, label: &PromptId) -> Map<String, Value> {
    let id = prompt.to_string();
    data.values_mut().for_each(|value| relabel(value, &id, label));
    data
}

fn relabel(value: &mut Value, id: &str, label: &PromptId) {
    match value {
        Value::String(text) if text == id => label.as_str().clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(|item| relabel(item, id, label)),
        Value::Object(fields) => fields.values_mut().for_each(|field| relabel(field, id, label)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> UpstreamPromptId {
        UpstreamPromptId::from_bytes([7; 16])
    }

    fn text(value: &Value) -> UpstreamEvent {
        UpstreamEvent::read(&Message::text(value.to_string()))
    }

    fn told(event: UpstreamEvent) -> Option<String> {
        match event.for_owner(&"mine".parse().unwrap())?.frame(true) {
            Message::Text(text) => Some(text.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ids_are_rewritten_wherever_they_occur() {
        let id = prompt().to_string();
        let state = json!({"type": "progress_state", "data": {"prompt_id": id, "nodes": {"3": {"prompt_id": id, "value": 1.0}}}});
        let told = told(text(&state)).unwrap();
        assert!(!told.contains(&id));
        assert_eq!(told.matches("mine").count(), 2);
        assert!(told.contains("1.0"));
    }

    #[test]
    fn what_was_paid_with_is_in_no_event_and_lengths_within_a_frame_hold() {
        let (token, key) = (r#"eyJ"0\oken.0123456789"#, "comfyui-0123456789abcdef");
        let secrets = [ComfyOrgCredential::new(Some(token), Some(key)).unwrap().unwrap()];
        let data = Map::from_iter([("said".to_owned(), json!([token, key, "kept"]))]);
        let Message::Text(told) = ClientEvent::message("progress", data).without(&secrets).frame(true) else {
            panic!("no text")
        };
        assert!(told.contains("kept") && !told.contains("0123456789"), "{told}");
        let said = Bytes::from(format!("4:{key}{key} and {token}."));
        for event in [ClientEvent::Text(said.clone()), ClientEvent::Frame(said.clone())] {
            let (ClientEvent::Text(left) | ClientEvent::Frame(left)) = event.without(&secrets) else {
                panic!("another event")
            };
            let wanted = format!("4:{} and {}.", "*".repeat(2 * key.len()), "*".repeat(token.len()));
            assert_eq!(std::str::from_utf8(&left).unwrap(), wanted);
        }
        assert_eq!(ClientEvent::Text(said.clone()).without(&[]), ClientEvent::Text(said));
    }

    #[test]
    fn nodes_of_another_prompt_and_unknown_fields_are_left_out() {
        let (id, other) = (prompt().to_string(), UpstreamPromptId::from_bytes([8; 16]).to_string());
        let node = |id: &str| json!({"prompt_id": id, "value": 1, "secret": "x"});
        let nodes = json!({"3": node(&id), "4": node(&other), "5": {"value": 2}, "6": other});
        let state = json!({"type": "progress_state", "data": {"prompt_id": id, "nodes": nodes, "secret": "x"}});
        let expected = json!({"type": "progress_state", "data": {"prompt_id": "mine", "nodes": {"3": {"prompt_id": "mine", "value": 1}}}});
        assert_eq!(told(text(&state)).unwrap(), expected.to_string());
        for kind in ["execution_start", "execution_cached", "executing", "progress"] {
            let message = json!({"type": kind, "data": {"prompt_id": id, "node": "3", "secret": "x", "other": other}});
            let told = told(text(&message)).unwrap();
            assert!(!told.contains("secret") && !told.contains(&other) && told.contains("mine"), "{told}");
        }
    }

    #[test]
    fn recorded_messages_pass_with_nothing_but_the_id_changed() {
        let id = prompt().to_string();
        for message in [
            json!({"type": "execution_start", "data": {"prompt_id": id, "timestamp": 1_795_231_291_814_u64}}),
            json!({"type": "execution_cached", "data": {"nodes": ["1"], "prompt_id": id, "timestamp": 5}}),
            json!({"type": "executing", "data": {"node": "3", "display_node": "3", "prompt_id": id}}),
            json!({"type": "progress", "data": {"value": 1, "max": 6, "prompt_id": id, "node": "3"}}),
            json!({"type": "progress_state", "data": {"prompt_id": id, "nodes": {"3": {"value": 0.0, "max": 1.0, "state": "running",
                "node_id": "3", "prompt_id": id, "display_node_id": "3", "parent_node_id": null, "real_node_id": "3"}}}}),
        ] {
            assert_eq!(told(text(&message)).unwrap(), message.to_string().replace(&id, "mine"));
        }
    }

    #[test]
    fn what_tells_of_results_is_held_back() {
        let id = prompt().to_string();
        for kind in ["executed", "execution_success", "execution_error", "execution_interrupted"] {
            assert_eq!(told(text(&json!({"type": kind, "data": {"prompt_id": id}}))), None, "{kind}");
        }
        assert_eq!(
            text(&json!({"type": "executing", "data": {"node": null, "prompt_id": id}})),
            UpstreamEvent::Ended { prompt: prompt() }
        );
        assert!(told(text(&json!({"type": "executing", "data": {"node": "3", "prompt_id": id}}))).is_some());
    }

    #[test]
    fn messages_that_are_not_understood_reach_nobody() {
        for odd in [
            json!({"type": "progress", "data": {"value": 1}}),
            json!({"type": "executing", "data": {"node": "3"}}),
            json!([1]),
            json!({"type": "progress", "data": {"prompt_id": "NOT-AN-ID"}}),
        ] {
            assert_eq!(text(&odd), UpstreamEvent::Ignored, "{odd}");
        }
        assert_eq!(UpstreamEvent::read(&Message::text("{")), UpstreamEvent::Ignored);
    }

    #[test]
    fn what_is_not_comfyuis_own_is_a_packs_and_no_owner_hears_of_it_by_itself() {
        let id = prompt().to_string();
        let logs = json!({"type": "logs", "data": {"entries": [], "of": {"prompt": id}, "prompt_id": id}});
        let event = text(&logs);
        assert_eq!((event.kind(), event.prompt()), ("pack", Some(prompt())));
        assert_eq!(event.clone().for_owner(&"mine".parse().unwrap()), None);
        let UpstreamEvent::Pack(event) = event else { panic!("{event:?}") };
        let label = "mine".parse().unwrap();
        let Message::Text(told) = event.clone().for_people(Some((prompt(), &label))).frame(true) else { panic!() };
        assert_eq!(told.as_str(), logs.to_string().replace(&id, "mine"));
        let Message::Text(told) = event.for_people(None).frame(true) else { panic!() };
        assert_eq!(told.as_str(), logs.to_string());
        assert_eq!(text(&json!({"type": "pack.list", "data": [1]})).kind(), "pack");
        let frame = Bytes::from_static(b"\0\0\0\x63anything");
        let event = UpstreamEvent::read(&Message::Binary(frame.clone()));
        assert_eq!(event, UpstreamEvent::Pack(PackEvent::Frame(frame.clone())));
        let UpstreamEvent::Pack(event) = event else { panic!() };
        assert_eq!(event.for_people(None).frame(false), Message::Binary(frame));
        assert_eq!(UpstreamEvent::read(&Message::Binary(Bytes::from_static(b"\0\0\0\x02x"))), UpstreamEvent::Ignored);
    }

    #[test]
    fn status_tells_the_length_of_the_queue() {
        let status = json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}}});
        assert_eq!(text(&status), UpstreamEvent::QueueChanged { remaining: 3 });
    }

    fn with_metadata(length: u32, metadata: &Value, image: &[u8]) -> Message {
        Message::Binary(framed(4, &[&length.to_be_bytes(), metadata.to_string().as_bytes(), image]))
    }

    #[test]
    fn a_preview_with_metadata_is_rewritten_and_becomes_a_plain_one_for_clients_without() {
        let metadata = json!({"node_id": "3", "prompt_id": prompt().to_string(), "image_type": "image/png"});
        let length = u32::try_from(metadata.to_string().len()).unwrap();
        let event = UpstreamEvent::read(&with_metadata(length, &metadata, b"PNG"));
        assert_eq!(event.prompt(), Some(prompt()));
        let event = event.for_owner(&"mine".parse().unwrap()).unwrap();
        assert_eq!(event.frame(false), Message::Binary(Bytes::from_static(b"\0\0\0\x01\0\0\0\x02PNG")));
        let Message::Binary(frame) = event.frame(true) else { panic!() };
        let text = String::from_utf8_lossy(&frame);
        assert!(text.contains("mine") && !text.contains(&prompt().to_string()) && text.ends_with("PNG"), "{text}");
    }

    #[test]
    fn an_inner_length_at_the_frames_end_is_read_and_one_beyond_is_not() {
        let metadata = json!({"prompt_id": prompt().to_string(), "image_type": "image/jpeg"});
        let length = u32::try_from(metadata.to_string().len()).unwrap();
        assert_ne!(UpstreamEvent::read(&with_metadata(length, &metadata, b"")), UpstreamEvent::Ignored);
        assert_eq!(UpstreamEvent::read(&with_metadata(length + 1, &metadata, b"")), UpstreamEvent::Ignored);
        assert_eq!(UpstreamEvent::read(&with_metadata(u32::MAX, &metadata, b"")), UpstreamEvent::Ignored);
        let text = |bytes: &'static [u8]| UpstreamEvent::read(&Message::Binary(Bytes::from_static(bytes)));
        assert_eq!(text(b"\0\0\0\x03\0\0\0\x01ab"), UpstreamEvent::Text(Bytes::from_static(b"\0\0\0\x01ab")));
        assert_eq!(text(b"\0\0\0\x03\0\0\0\x03ab"), UpstreamEvent::Ignored);
        for short in [b"".as_slice(), b"\0\0\0", b"\0\0\0\x01", b"\0\0\0\x01\0\0\0", b"\0\0\0\x01\0\0\0\x09x"] {
            assert_eq!(text(short), UpstreamEvent::Ignored, "{short:?}");
        }
    }
}
