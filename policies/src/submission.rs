//! The envelope of `POST /prompt`: everything around the graph.
//!
//! In come untrusted bytes, out comes [`Parsed`], the only form in which the rest of the engine sees a submission. Kept are the graph, `partial_execution_targets`,
//! `extra_pnginfo.workflow`, `preview_method`, the caller's own two ids, which are labels and never go upstream, and its credential of comfy.org, which goes there only beside a
//! paid node that the policy lets callers pay for ([`ComfyOrgCredential`]). Where it wants to stand among its own jobs ([`QueueOrder`]) is for the gateway's queue. Everything else (unknown keys) is read strictly and dropped, so it reaches neither ComfyUI nor an extension that looks at the whole body. Shapes:
//! ComfyUI 0.8.0, `server.py` `post_prompt`.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::credential::{API_KEY_KEY, AUTH_TOKEN_KEY, CREDENTIAL_BYTES_MAX, ComfyOrgCredential, is_credential};
use crate::digest::Digest;
use crate::files::{FileReference, file_references};
use crate::instead::{instead, with_advice};
use crate::policy::Policy;
use crate::workflow::graph::{GraphFault, NodeIndex, RawPrompt, Workflow};
use crate::workflow::json::{Fault, Json, Limits, Reader, pointer, position};
use crate::workflow::node::{NodeClass, NodeId};
use crate::workflow::text::Text;
use crate::workflow::write;

/// Bytes of `prompt`: the largest of 588 published workflows has 0.2 MB.
pub const PROMPT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of `extra_data`, nearly all of it `extra_pnginfo.workflow`: the page's own form of the graph, with notes and positions.
pub const EXTRA_PNGINFO_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of everything else in the envelope.
const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a whole body.
pub const BODY_BYTES_MAX: usize = PROMPT_BYTES_MAX + EXTRA_PNGINFO_BYTES_MAX + ENVELOPE_BYTES_MAX;
/// Nested levels in `prompt`. A plain graph has 4; from about 480 ComfyUI's worker is in danger.
pub const PROMPT_DEPTH_MAX: usize = 32;
/// Nested levels in `extra_pnginfo`; subgraphs within subgraphs need about 20.
pub const EXTRA_PNGINFO_DEPTH_MAX: usize = 64;
/// Bytes of one string in `prompt`: prompt texts, and nothing that a file should hold.
pub const PROMPT_STRING_BYTES_MAX: usize = 128 * 1024;
/// Bytes of one string in `extra_pnginfo`.
pub const EXTRA_PNGINFO_STRING_BYTES_MAX: usize = 1024 * 1024;
/// JSON values in `prompt`; bounds the memory that a body of tiny values takes.
pub const PROMPT_VALUES_MAX: usize = 100_000;
/// JSON values in `extra_pnginfo`.
pub const EXTRA_PNGINFO_VALUES_MAX: usize = 500_000;
/// Characters of the caller's own `prompt_id`.
pub const PROMPT_ID_CHARS_MAX: usize = 64;
/// Characters of the caller's own `client_id`.
pub const CLIENT_ID_CHARS_MAX: usize = 128;

const PROMPT_LIMITS: Limits = Limits {
    depth_max: PROMPT_DEPTH_MAX,
    string_bytes_max: PROMPT_STRING_BYTES_MAX,
    values_max: PROMPT_VALUES_MAX,
    bytes_max: PROMPT_BYTES_MAX,
};
const EXTRA_LIMITS: Limits = Limits {
    // `extra_data` and `extra_pnginfo` themselves are two levels more.
    depth_max: EXTRA_PNGINFO_DEPTH_MAX + 2,
    string_bytes_max: EXTRA_PNGINFO_STRING_BYTES_MAX,
    values_max: EXTRA_PNGINFO_VALUES_MAX,
    bytes_max: EXTRA_PNGINFO_BYTES_MAX,
};
const ENVELOPE_LIMITS: Limits =
    Limits { depth_max: 8, string_bytes_max: ENVELOPE_BYTES_MAX, values_max: 4096, bytes_max: ENVELOPE_BYTES_MAX };

/// What is told to whoever sends the web page's own file of a workflow.
const PAGE_FORMAT: &str = "this is a workflow in the web page's own format, which ComfyUI can't run";

/// What `preview_method` may be (ComfyUI 0.8.0, `latent_preview.py`).
const PREVIEW_METHODS: [&str; 5] = ["none", "auto", "latent2rgb", "taesd", "default"];

/// A submission whose form is sound. What its nodes mean is decided by [`decide`](crate::decide). It holds one copy of the body, which its strings are pieces of.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub(crate) workflow: Workflow,
    /// Own node ids, distinct, in the caller's order.
    pub(crate) targets: Option<Vec<NodeId>>,
    /// `extra_pnginfo.workflow`, always an object: the caller's own text of it, which is strict JSON without white space between values.
    page_workflow: Option<Text>,
    preview_method: Option<&'static str>,
    prompt_id: Option<Text>,
    client_id: Option<Text>,
    /// A secret; no part of the submission's digest.
    comfy_org: Option<ComfyOrgCredential>,
    order: Option<QueueOrder>,
}

/// Where a submission wants to stand in the queue (`number` and `front`; ComfyUI 0.8.0, `server.py` `post_prompt`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QueueOrder {
    /// Under this number, a finite one: the smallest goes first.
    Number(f64),
    /// Before everything that came without a number.
    Front,
}

/// Reads the body of a `POST /prompt`.
///
/// ```
/// let body = br#"{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}, "prompt_id": "mine"}"#;
/// assert_eq!(comfygate_policy::parse(body).unwrap().prompt_id(), Some("mine"));
/// ```
///
/// # Errors
/// The first fault of form: not strict JSON, over a bound, an envelope field of another shape, or a graph that would kill or freeze a ComfyUI.
pub fn parse(body: &[u8]) -> Result<Parsed, ParseError> {
    if body.len() > BODY_BYTES_MAX {
        let message = format!("the body has {} bytes, more than {BODY_BYTES_MAX}", body.len());
        return Err(ParseError { kind: ParseErrorKind::TooLarge, ..ParseError::of("body_too_large", None, message) });
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        ParseError::of("invalid_utf8", None, format!("not UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    if text.starts_with('\u{feff}') {
        return Err(ParseError::of("byte_order_mark", None, "the body begins with a byte order mark".to_owned()));
    }
    let text: Arc<str> = Arc::from(text);
    read_envelope(&text).map_err(|fault| ParseError::of_json(&text, &fault))?.check()
}

/// The envelope as written; only the fields that we look at.
#[derive(Default)]
struct RawSubmission {
    prompt: Option<RawPrompt>,
    prompt_id: Option<Json>,
    client_id: Option<Json>,
    number: Option<Json>,
    front: Option<Json>,
    extra_data: RawExtraData,
    targets: Option<Json>,
}

/// `extra_data` as written; only the fields that we look at.
#[derive(Default)]
struct RawExtraData {
    /// All of it, if it is no object.
    other: Option<Json>,
    client_id: Option<Json>,
    preview_method: Option<Json>,
    /// `extra_pnginfo`, if it is no object.
    other_info: Option<Json>,
    /// `extra_pnginfo.workflow`, if it is no object.
    other_workflow: Option<Json>,
    workflow: Option<Text>,
    auth_token: Option<Json>,
    api_key: Option<Json>,
}

fn read_envelope(text: &Arc<str>) -> Result<RawSubmission, Box<Fault>> {
    let mut raw = RawSubmission::default();
    let mut reader = Reader::new(text, ENVELOPE_LIMITS);
    reader.skip_space();
    if !reader.at_object() {
        // Read it all the same: a broken text should be told where it breaks.
        reader.skip(ENVELOPE_LIMITS)?;
        return Err(reader.fault("invalid_body", "the body must be an object"));
    }
    reader.members(&mut |reader, key| {
        match key.as_str() {
            "prompt" => raw.prompt = Some(reader.bounded(PROMPT_LIMITS, RawPrompt::read)?),
            "extra_data" => raw.extra_data = reader.bounded(EXTRA_LIMITS, read_extra_data)?,
            "prompt_id" => raw.prompt_id = Some(reader.part(ENVELOPE_LIMITS)?),
            "client_id" => raw.client_id = Some(reader.part(ENVELOPE_LIMITS)?),
            "number" => raw.number = Some(reader.part(ENVELOPE_LIMITS)?),
            "front" => raw.front = Some(reader.part(ENVELOPE_LIMITS)?),
            "partial_execution_targets" => raw.targets = Some(reader.part(ENVELOPE_LIMITS)?),
            // The page's own form, sent as it is: its list of nodes may be long.
            "nodes" if raw.prompt.is_none() && reader.at_list() => {
                reader.skip(EXTRA_LIMITS)?;
                return Err(reader.fault("page_format", PAGE_FORMAT));
            }
            _ => reader.skip(ENVELOPE_LIMITS)?,
        }
        Ok(())
    })?;
    reader.end()?;
    Ok(raw)
}

/// Reads `extra_data`. The page's own form of the graph may be four times the graph, and goes into saved pictures as it is: it is checked, and kept as text.
fn read_extra_data(reader: &mut Reader<'_>) -> Result<RawExtraData, Box<Fault>> {
    let mut raw = RawExtraData::default();
    if !reader.at_object() {
        raw.other = Some(reader.inner(0)?);
        return Ok(raw);
    }
    reader.count_value()?;
    reader.members(&mut |reader, key| {
        match key.as_str() {
            "client_id" => raw.client_id = Some(reader.inner(1)?),
            "preview_method" => raw.preview_method = Some(reader.inner(1)?),
            AUTH_TOKEN_KEY => raw.auth_token = Some(reader.inner(1)?),
            API_KEY_KEY => raw.api_key = Some(reader.inner(1)?),
            "extra_pnginfo" if reader.at_object() => {
                reader.count_value()?;
                reader.members(&mut |reader, key| read_info_member(reader, key, &mut raw))?;
            }
            "extra_pnginfo" => raw.other_info = Some(reader.inner(1)?),
            _ => reader.skip_inner(1)?,
        }
        Ok(())
    })?;
    Ok(raw)
}

fn read_info_member(reader: &mut Reader<'_>, key: &str, raw: &mut RawExtraData) -> Result<(), Box<Fault>> {
    match key {
        "workflow" if reader.at_object() => raw.workflow = Some(reader.checked(2)?),
        "workflow" => raw.other_workflow = Some(reader.inner(2)?),
        _ => reader.skip_inner(2)?,
    }
    Ok(())
}

impl RawSubmission {
    fn check(self) -> Result<Parsed, ParseError> {
        let Some(prompt) = self.prompt else {
            return Err(ParseError::of("no_prompt", None, "no prompt provided".to_owned()));
        };
        // No node is a list, so this is no graph that anybody could run.
        if prompt.is_page_format() {
            return Err(ParseError::of("page_format", Some(pointer(&["prompt"])), PAGE_FORMAT.to_owned()));
        }
        let extra = self.extra_data;
        object_or_nothing(&["extra_data"], extra.other.as_ref())?;
        let nested = own_id(&["extra_data", "client_id"], extra.client_id, CLIENT_ID_CHARS_MAX, client_id_char);
        let client_id = match own_id(&["client_id"], self.client_id, CLIENT_ID_CHARS_MAX, client_id_char)? {
            // The nested one is overruled, but a malformed one is still refused: it kills a ComfyUI (facts K1).
            Some(id) => nested.map(|_| Some(id))?,
            None => nested?,
        };
        let prompt_id = own_id(&["prompt_id"], self.prompt_id, PROMPT_ID_CHARS_MAX, prompt_id_char)?;
        let workflow = Workflow::read(prompt).map_err(ParseError::of_graph)?;
        let targets = read_targets(self.targets.as_ref(), &workflow)?;
        object_or_nothing(&["extra_data", "extra_pnginfo"], extra.other_info.as_ref())?;
        // `null` is dropped rather than passed on: ComfyUI's `/api/jobs` fails for everybody on it (facts K11).
        object_or_nothing(&["extra_data", "extra_pnginfo", "workflow"], extra.other_workflow.as_ref())?;
        let preview_method = read_preview_method(extra.preview_method.as_ref())?;
        let comfy_org = read_credential(extra.auth_token.as_ref(), extra.api_key.as_ref())?;
        let order = queue_order(self.number.as_ref(), self.front.as_ref());
        let page_workflow = extra.workflow;
        Ok(Parsed { workflow, targets, page_workflow, preview_method, prompt_id, client_id, comfy_org, order })
    }
}

/// A number beats `front`, as in ComfyUI. What is no number, or not `true`, says nothing: ComfyUI reads `"-inf"` and `true` as numbers too, and fails on the rest.
fn queue_order(number: Option<&Json>, front: Option<&Json>) -> Option<QueueOrder> {
    match number {
        Some(Json::Int(number)) => Some(QueueOrder::Number(*number as f64)),
        Some(Json::Float(number)) => Some(QueueOrder::Number(*number)),
        _ => matches!(front, Some(Json::Bool(true))).then_some(QueueOrder::Front),
    }
}

/// Refuses what stands in an object's place, apart from `null`.
fn object_or_nothing(path: &[&str], other: Option<&Json>) -> Result<(), ParseError> {
    match other {
        None | Some(Json::Null) => Ok(()),
        Some(other) => Err(wrong_type(path, "an object", other)),
    }
}

fn wrong_type(path: &[&str], wanted: &str, found: &Json) -> ParseError {
    let name = path.last().copied().unwrap_or_default();
    ParseError::of("invalid_type", Some(pointer(path)), format!("`{name}` must be {wanted}, not {}", found.type_name()))
}

fn prompt_id_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn client_id_char(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// An id of the caller's own; `null` is as good as absent.
fn own_id(path: &[&str], value: Option<Json>, max: usize, good: fn(u8) -> bool) -> Result<Option<Text>, ParseError> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) if (1..=max).contains(&text.len()) && text.bytes().all(good) => Ok(Some(text)),
        Some(Json::Text(_)) => {
            let alphabet = if good(b'!') { "printable ASCII without spaces" } else { "`0-9A-Za-z_-`" };
            let name = path.last().copied().unwrap_or_default();
            let message = format!("`{name}` must be 1 to {max} of {alphabet}");
            Err(ParseError::of("invalid_id", Some(pointer(path)), message))
        }
        Some(other) => Err(wrong_type(path, "a string", &other)),
    }
}

fn read_targets(value: Option<&Json>, workflow: &Workflow) -> Result<Option<Vec<NodeId>>, ParseError> {
    let items = match value {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::List(items)) => items,
        Some(other) => return Err(wrong_type(&["partial_execution_targets"], "a list of node ids", other)),
    };
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let own = match item {
            Json::Text(text) => text.parse::<NodeId>().ok().filter(|id| workflow.find(id).is_some()),
            _ => None,
        };
        let Some(id) = own else {
            let path = ["partial_execution_targets".to_owned(), place.to_string()];
            let message = "an execution target must be the id of a node of this prompt".to_owned();
            return Err(ParseError::of("invalid_target", Some(pointer(&path)), message));
        };
        if seen.insert(id.clone()) {
            targets.push(id);
        }
    }
    Ok(Some(targets))
}

fn read_preview_method(value: Option<&Json>) -> Result<Option<&'static str>, ParseError> {
    let value = match value {
        None | Some(Json::Null) => return Ok(None),
        Some(value) => value,
    };
    let known = PREVIEW_METHODS.into_iter().find(|method| matches!(value, Json::Text(text) if text == method));
    known.map(Some).ok_or_else(|| {
        let message = format!("`preview_method` must be one of {}", PREVIEW_METHODS.join(", "));
        ParseError::of("invalid_preview_method", Some(pointer(&["extra_data", "preview_method"])), message)
    })
}

/// The caller's credential of comfy.org; `null` and the empty text are as good as absent.
fn read_credential(token: Option<&Json>, key: Option<&Json>) -> Result<Option<ComfyOrgCredential>, ParseError> {
    let (token, key) = (secret(AUTH_TOKEN_KEY, token)?, secret(API_KEY_KEY, key)?);
    ComfyOrgCredential::new(token, key).map_err(|_| bad_secret(API_KEY_KEY))
}

/// SECURITY: what stands there is never repeated, whatever it is.
fn secret<'a>(key: &str, value: Option<&'a Json>) -> Result<Option<&'a str>, ParseError> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) if text.is_empty() => Ok(None),
        Some(Json::Text(text)) if is_credential(text) => Ok(Some(text)),
        Some(Json::Text(_)) => Err(bad_secret(key)),
        Some(other) => Err(wrong_type(&["extra_data", key], "a string", other)),
    }
}

fn bad_secret(key: &str) -> ParseError {
    let message = format!("`{key}` must be 1 to {CREDENTIAL_BYTES_MAX} of printable ASCII without spaces");
    ParseError::of("invalid_credential", Some(pointer(&["extra_data", key])), message)
}

impl Parsed {
    /// The same without these nodes and without targets among them. None if another node links to one of them.
    pub(crate) fn without(&self, gone: &HashSet<NodeIndex>) -> Option<Self> {
        let workflow = self.workflow.without(gone)?;
        let left = |targets: &Vec<NodeId>| targets.iter().filter(|id| workflow.find(id).is_some()).cloned().collect();
        let targets = self.targets.as_ref().map(left);
        Some(Self { workflow, targets, ..self.clone() })
    }

    /// The classes of its nodes, in the caller's order, repeats included.
    pub fn classes(&self) -> impl Iterator<Item = &NodeClass> {
        self.workflow.nodes().iter().map(|node| &node.class)
    }

    /// The nodes of a class, in the caller's order.
    pub fn nodes_of(&self, class: &str) -> impl Iterator<Item = &NodeId> {
        self.workflow.nodes().iter().filter(move |node| node.class.as_str() == class).map(|node| &node.id)
    }

    /// The caller's own label of this job: 1 to 64 of `[0-9A-Za-z_-]`.
    pub fn prompt_id(&self) -> Option<&str> {
        self.prompt_id.as_deref()
    }

    /// The caller's own label of its socket: top level, else from `extra_data`; 1 to 128 of printable ASCII without spaces.
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// The caller's own credential of comfy.org, if it sent one. It is no part of [`canonical`](Self::canonical).
    pub fn comfy_org(&self) -> Option<&ComfyOrgCredential> {
        self.comfy_org.as_ref()
    }

    /// Where it wants to stand in the queue of its owner, if it says so. It is no part of [`canonical`](Self::canonical).
    pub fn queue_order(&self) -> Option<QueueOrder> {
        self.order
    }

    /// SHA-256 of [`canonical`](Self::canonical).
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical())
    }

    /// The kept part as JSON: `{"prompt": …, "extra_data": {…}, "partial_execution_targets": […]?}`, without the caller's ids. Parsing it again gives the same graph and digest.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text_bytes());
        out.extend_from_slice(b"{\"prompt\":");
        self.workflow.write(&mut out, |out, _, node| {
            for (place, (name, input)) in node.inputs.iter().enumerate() {
                write::separate(out, place);
                write::text(out, name);
                out.push(b':');
                self.workflow.write_input(out, input);
            }
        });
        out.extend_from_slice(b",\"extra_data\":{");
        self.write_extra_data(&mut out);
        out.push(b'}');
        self.write_targets(&mut out);
        out.push(b'}');
        out
    }

    /// About how many bytes its text has: never much less, so that memory is taken once.
    pub(crate) fn text_bytes(&self) -> usize {
        self.page_workflow.as_ref().map_or(0, |text| text.len()) + 256 * self.workflow.nodes().len()
    }

    /// The members of the kept part of `extra_data`, without braces.
    pub(crate) fn write_extra_data(&self, out: &mut Vec<u8>) {
        if let Some(workflow) = &self.page_workflow {
            out.extend_from_slice(b"\"extra_pnginfo\":{\"workflow\":");
            out.extend_from_slice(workflow.as_bytes());
            out.push(b'}');
        }
        if let Some(method) = self.preview_method {
            write::separate(out, usize::from(self.page_workflow.is_some()));
            out.extend_from_slice(b"\"preview_method\":");
            write::string(out, method);
        }
    }

    /// The member `partial_execution_targets` with a comma before it, if there is one.
    pub(crate) fn write_targets(&self, out: &mut Vec<u8>) {
        if let Some(targets) = &self.targets {
            out.extend_from_slice(b",\"partial_execution_targets\":");
            write::list(out, targets, |out, id| write::string(out, id.as_str()));
        }
    }

    /// The caller's own graph as kept, in the caller's node order.
    pub fn prompt(&self) -> Value {
        self.workflow.to_value()
    }

    /// The kept part of `extra_data`: `{"extra_pnginfo": {"workflow": …}?, "preview_method": …?}`.
    pub fn extra_data(&self) -> Value {
        let mut out = Map::new();
        if let Some(workflow) = &self.page_workflow {
            let workflow: Value = serde_json::from_str(workflow).unwrap_or_default();
            out.insert("extra_pnginfo".to_owned(), json!({ "workflow": workflow }));
        }
        if let Some(method) = self.preview_method {
            out.insert("preview_method".to_owned(), json!(method));
        }
        Value::Object(out)
    }

    /// The files which the workflow's literals name, of all nodes, reachable or not: ComfyUI fingerprints them all. Malformed names are left out; `decide` refuses them.
    pub fn file_references(&self, catalogue: &Catalogue) -> Vec<FileReference> {
        file_references(&self.workflow, catalogue)
    }

    /// The same under a policy that may say of the classes of packs which of their inputs name files.
    pub fn file_references_under(&self, policy: &Policy, catalogue: &Catalogue) -> Vec<FileReference> {
        let own = policy.annotated(catalogue, self.classes().map(NodeClass::as_str));
        file_references(&self.workflow, own.as_ref().unwrap_or(catalogue))
    }
}

/// Whether the caller sent something broken or something too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseErrorKind {
    /// Not a submission that we take.
    Malformed,
    /// Over a bound of size, depth or count.
    TooLarge,
}

/// What makes a body of a graph by itself, with a `}` after it.
pub const BARE_BEFORE: &str = "{\"prompt\":";

/// A pointer into a body as one into the graph that is its `prompt`; the empty one is the graph itself.
pub fn bare_pointer(pointer: &str) -> &str {
    pointer.strip_prefix("/prompt").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(pointer)
}

/// Why a body is not a submission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", self.place(), with_advice(message.clone(), self.code))]
pub struct ParseError {
    code: &'static str,
    message: String,
    pointer: Option<String>,
    position: Option<(usize, usize)>,
    kind: ParseErrorKind,
}

impl ParseError {
    fn of(code: &'static str, pointer: Option<String>, message: String) -> Self {
        Self { code, message, pointer, position: None, kind: ParseErrorKind::Malformed }
    }

    fn of_json(text: &str, fault: &Fault) -> Self {
        let kind = if fault.too_large { ParseErrorKind::TooLarge } else { ParseErrorKind::Malformed };
        let pointer = Some(fault.pointer.clone()).filter(|pointer| !pointer.is_empty());
        Self {
            code: fault.code,
            message: fault.message.clone(),
            pointer,
            position: Some(position(text, fault.offset)),
            kind,
        }
    }

    fn of_graph(fault: GraphFault) -> Self {
        let kind = if fault.too_large { ParseErrorKind::TooLarge } else { ParseErrorKind::Malformed };
        Self { kind, ..Self::of(fault.code, Some(fault.pointer), fault.message) }
    }

    fn place(&self) -> String {
        match (self.position, &self.pointer) {
            (Some((line, column)), _) => format!("line {line}, column {column}: "),
            (None, Some(pointer)) => format!("{pointer}: "),
            (None, None) => String::new(),
        }
    }

    /// The same fault of a graph that was put between [`BARE_BEFORE`] and `}` to be read as a body: its places are those in the graph by itself.
    #[must_use]
    pub fn of_bare_graph(mut self) -> Self {
        self.pointer = self.pointer.map(|pointer| bare_pointer(&pointer).to_owned());
        let before = BARE_BEFORE.len();
        // What the closing brace is missing is missing at the graph's end.
        self.position = self.position.map(|(line, column)| match line {
            1 => (1, column.saturating_sub(before).max(1)),
            _ => (line, column),
        });
        self
    }

    /// A stable code, such as `duplicate_key`, `too_deep`, `dependency_cycle`.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The JSON pointer (RFC 6901) of the value at fault.
    pub fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }

    /// Line and column, both from 1, when the text itself is at fault.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.position
    }

    /// Broken or too big.
    pub fn kind(&self) -> ParseErrorKind {
        self.kind
    }

    /// The fault in the form of a violation, for a program: `{code, node, class, input, pointer, bound, limit, because}`.
    pub fn to_json(&self) -> Value {
        let none = Value::Null;
        json!({
            "code": self.code, "node": none, "class": none, "input": none,
            "pointer": self.pointer.as_deref().unwrap_or_default(), "bound": none, "limit": none, "because": self.to_string(),
        })
    }

    /// The fault in the shape of ComfyUI's own answers, with an empty `node_errors`. Codes that ComfyUI knows as error types keep their name.
    pub fn to_comfyui(&self) -> Value {
        let known =
            ["no_prompt", "prompt_no_outputs", "dependency_cycle"].into_iter().find(|known| *known == self.code);
        json!({
            "error": {
                "type": known.unwrap_or("invalid_prompt"),
                "message": self.message,
                "details": format!("{}{}", self.place(), instead(self.code).unwrap_or_default()),
                "extra_info": { "code": self.code, "pointer": self.pointer },
            },
            "node_errors": {},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> &'static str {
        parse(body.as_bytes()).unwrap_err().code()
    }

    fn with(field: &str) -> String {
        format!(r#"{{"prompt":{{"1":{{"class_type":"A","inputs":{{}}}}}},{field}}}"#)
    }

    fn node(inputs: &str) -> String {
        format!(r#"{{"prompt":{{"1":{{"class_type":"A","inputs":{{}}}},"2":{{"class_type":"B","inputs":{inputs}}}}}}}"#)
    }

    #[test]
    fn the_caller_s_ids_are_labels_of_one_alphabet() {
        let parsed = parse(with(r#""prompt_id":"a_-9","client_id":"x!~""#).as_bytes()).unwrap();
        assert_eq!((parsed.prompt_id(), parsed.client_id()), (Some("a_-9"), Some("x!~")));
        assert!(parse(with(&format!(r#""prompt_id":"{}""#, "a".repeat(64))).as_bytes()).is_ok());
        assert_eq!(code(&with(&format!(r#""prompt_id":"{}""#, "a".repeat(65)))), "invalid_id");
        assert_eq!(code(&with(r#""prompt_id":"""#)), "invalid_id");
        assert_eq!(code(&with(r#""prompt_id":"a b""#)), "invalid_id");
        assert!(parse(with(&format!(r#""client_id":"{}""#, "a".repeat(128))).as_bytes()).is_ok());
        assert_eq!(code(&with(&format!(r#""client_id":"{}""#, "a".repeat(129)))), "invalid_id");
        assert_eq!(code(&with(r#""client_id":"a b""#)), "invalid_id");
    }

    #[test]
    fn the_page_s_own_format_is_recognised_wherever_it_stands() {
        let page = r#"{"last_node_id":2,"nodes":[{"id":1,"type":"KSampler"}],"links":[],"version":0.4}"#;
        assert_eq!(code(page), "page_format");
        assert_eq!(code(&format!(r#"{{"prompt":{page}}}"#)), "page_format");
        let error = parse(page.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("Export (API)"), "{error}");
        // A node may be named so.
        assert!(parse(br#"{"prompt":{"nodes":{"class_type":"A","inputs":{}}},"links":[]}"#).is_ok());
        assert_eq!(code(r#"{"nodes":{}}"#), "no_prompt");
    }

    #[test]
    fn client_id_comes_from_the_top_level_first() {
        let nested = with(r#""extra_data":{"client_id":"nested"}"#);
        assert_eq!(parse(nested.as_bytes()).unwrap().client_id(), Some("nested"));
        let both = with(r#""client_id":"top","extra_data":{"client_id":"nested"}"#);
        assert_eq!(parse(both.as_bytes()).unwrap().client_id(), Some("top"));
        assert_eq!(parse(with(r#""client_id":null"#).as_bytes()).unwrap().client_id(), None);
    }

    #[test]
    fn a_number_says_where_a_job_stands_and_beats_front() {
        let order = |members: &str| parse(with(members).as_bytes()).unwrap().queue_order();
        assert_eq!(order(r#""number":-1.5"#), Some(QueueOrder::Number(-1.5)));
        assert_eq!(order(r#""number":3,"front":true"#), Some(QueueOrder::Number(3.0)));
        assert_eq!(order(r#""front":true"#), Some(QueueOrder::Front));
        for nothing in [r#""front":false"#, r#""front":1"#, r#""number":null"#, r#""number":"-inf""#, r#""number":[1]"#]
        {
            assert_eq!(order(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_canonical_form_parses_to_itself() {
        let body = with(
            r#""client_id":"c","prompt_id":"p","number":-1,"front":true,"zzz":[1],"extra_data":{"preview_method":"auto","secret":"s","extra_pnginfo":{"workflow":{"b":1.50,"a":18446744073709551615},"other":1}},"partial_execution_targets":["1","1"]"#,
        );
        let parsed = parse(body.as_bytes()).unwrap();
        let canonical = parsed.canonical();
        let again = parse(&canonical).unwrap();
        assert_eq!(again.canonical(), canonical);
        assert_eq!(again.digest(), parsed.digest());
        let text = String::from_utf8(canonical).unwrap();
        assert_eq!(
            text,
            r#"{"prompt":{"1":{"class_type":"A","inputs":{}}},"extra_data":{"extra_pnginfo":{"workflow":{"b":1.50,"a":18446744073709551615}},"preview_method":"auto"},"partial_execution_targets":["1"]}"#
        );
    }

    #[test]
    fn the_node_order_of_the_caller_is_kept() {
        let body = br#"{"prompt":{"9":{"class_type":"A","inputs":{}},"1":{"class_type":"A","inputs":{}}}}"#;
        let ids: Vec<String> = parse(body).unwrap().prompt().as_object().unwrap().keys().cloned().collect();
        assert_eq!(ids, ["9", "1"]);
    }

    #[test]
    fn inputs_must_be_an_object() {
        for inputs in ["null", "[]", "1", "\"x\""] {
            assert_eq!(code(&node(inputs)), "invalid_inputs");
        }
        assert_eq!(code(r#"{"prompt":{"1":{"class_type":"A"}}}"#), "invalid_inputs");
        assert!(parse(node("{}").as_bytes()).is_ok());
    }

    #[test]
    fn a_list_is_a_good_link_or_refused() {
        assert!(parse(node(r#"{"x":["1",0]}"#).as_bytes()).is_ok());
        for list in [
            r#"["nope",0]"#,
            r#"["1",-1]"#,
            r#"["1",true]"#,
            r#"["1",0.0]"#,
            r#"[1,0]"#,
            r#"["1",0,0]"#,
            "[]",
            r#"["1"]"#,
        ] {
            assert_eq!(code(&node(&format!(r#"{{"x":{list}}}"#))), "bad_linked_input", "{list}");
        }
    }

    #[test]
    fn wrapped_values_are_refused_at_any_depth() {
        assert!(parse(node(r#"{"x":{"value":5}}"#).as_bytes()).is_ok());
        for value in [r#"{"__value__":5}"#, r#"{"a":{"__type__":"x"}}"#, r#"{"a":[{"__value__":["1",0]}]}"#] {
            assert_eq!(code(&node(&format!(r#"{{"x":{value}}}"#))), "wrapped_value");
        }
    }

    #[test]
    fn cycles_are_refused_and_the_longest_path_is_bounded() {
        assert_eq!(code(&node(r#"{"x":["2",0]}"#)), "dependency_cycle");
        let chain = |length: usize| {
            let nodes: Vec<String> = (0..length)
                .map(|n| match n {
                    0 => r#""0":{"class_type":"A","inputs":{}}"#.to_owned(),
                    n => format!(r#""{n}":{{"class_type":"A","inputs":{{"x":["{}",0]}}}}"#, n - 1),
                })
                .collect();
            format!(r#"{{"prompt":{{{}}}}}"#, nodes.join(","))
        };
        assert!(parse(chain(200).as_bytes()).is_ok());
        assert_eq!(code(&chain(201)), "path_too_long");
    }

    #[test]
    fn the_count_of_nodes_is_bounded() {
        let many = |count: usize| {
            let nodes: Vec<String> =
                (0..count).map(|n| format!(r#""{n}":{{"class_type":"A","inputs":{{}}}}"#)).collect();
            format!(r#"{{"prompt":{{{}}}}}"#, nodes.join(","))
        };
        assert!(parse(many(500).as_bytes()).is_ok());
        assert_eq!(code(&many(501)), "too_many_nodes");
        assert_eq!(parse(many(501).as_bytes()).unwrap_err().kind(), ParseErrorKind::TooLarge);
    }

    #[test]
    fn depth_differs_between_prompt_and_page_workflow() {
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        // `prompt`, the node and `inputs` are three levels.
        assert!(parse(node(&format!(r#"{{"x":{}}}"#, nested(29))).as_bytes()).is_ok());
        assert_eq!(code(&node(&format!(r#"{{"x":{}}}"#, nested(30)))), "too_deep");
        let page = |levels: usize| with(&format!(r#""extra_data":{{"extra_pnginfo":{}}}"#, nested(levels)));
        assert!(parse(page(65).as_bytes()).is_ok());
        assert_eq!(code(&page(66)), "too_deep");
    }

    #[test]
    fn targets_are_a_list_of_own_ids() {
        assert!(parse(with(r#""partial_execution_targets":["1"]"#).as_bytes()).is_ok());
        assert_eq!(code(&with(r#""partial_execution_targets":["2"]"#)), "invalid_target");
        assert_eq!(code(&with(r#""partial_execution_targets":[1]"#)), "invalid_target");
        for value in ["\"1\"", "{\"1\":0}", "5"] {
            assert_eq!(code(&with(&format!(r#""partial_execution_targets":{value}"#))), "invalid_type");
        }
    }

    #[test]
    fn a_fault_says_where_it_is() {
        let error = parse(b"{\"prompt\": {\n  \"1\": {\"a\":1,\"a\":2}}}").unwrap_err();
        assert_eq!(
            (error.code(), error.position(), error.pointer()),
            ("duplicate_key", Some((2, 15)), Some("/prompt/1/a"))
        );
        assert!(error.to_string().starts_with("line 2, column 15: "));
        let graph = "{\"1\": {\"class_type\":\"A\",\"inputs\":{\"x\":[\"nope\",0]}}}";
        let bare = |graph: &str| parse(format!("{BARE_BEFORE}{graph}}}").as_bytes()).unwrap_err().of_bare_graph();
        assert_eq!(bare(graph).pointer(), Some("/1/inputs/x"));
        assert_eq!(
            (bare("{\"a\":1,\"a\":2}").position(), bare("{\n\"a\":1,\"a\":2}").position()),
            (Some((1, 8)), Some((2, 7)))
        );
        assert_eq!(
            (bare_pointer("/prompt"), bare_pointer("/prompt_id"), bare_pointer("/prompt/a~1b")),
            ("", "/prompt_id", "/a~1b")
        );
        let error = parse(node(r#"{"x":["nope",0]}"#).as_bytes()).unwrap_err();
        assert_eq!(error.pointer(), Some("/prompt/2/inputs/x"));
        assert_eq!(error.to_comfyui()["error"]["type"], "invalid_prompt");
    }

    #[test]
    fn bodies_that_are_no_submission_are_refused() {
        assert_eq!(code("{}"), "no_prompt");
        assert_eq!(code("[]"), "invalid_body");
        assert_eq!(code(r#"{"prompt":[]}"#), "invalid_prompt");
        assert_eq!(code(r#"{"prompt":{}}"#), "prompt_no_outputs");
        assert_eq!(code("\u{feff}{}"), "byte_order_mark");
        assert_eq!(parse(b"\xff\xfe{\0}\0").unwrap_err().code(), "invalid_utf8");
        assert_eq!(parse(&vec![b' '; BODY_BYTES_MAX + 1]).unwrap_err().code(), "body_too_large");
        assert_eq!(parse(&vec![b' '; BODY_BYTES_MAX]).unwrap_err().code(), "invalid_json");
    }
}
