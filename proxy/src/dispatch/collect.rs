//! From a backend's history entry to what its owner may see: outputs, messages and the files to fetch. Pure.
//!
//! *Shape in* (facts §8.2): `{"prompt":[5], "outputs":{node:{kind:[file object | text …]}}, "status":{"status_str","completed","messages":[[event,data]…]}, "meta":{…}}`.
//! A file object has `filename`, `subfolder`, `type`. Only files in the owner's own folder of `output/`, and temporary ones, are taken (all but other owners'
//! folders, where the installation is the owner's own): a cache hit replays the names of an earlier run, which the salt keeps within the owner (design §5 caches).

use super::comfyui::UpstreamFile;
use super::push::Pushed;
use crate::clock::WallMillis;
use crate::ids::{PromptId, UpstreamPromptId};
use crate::record::ledger::{Directory, JobResult, NewName};
use comfygate_policy::{ComfyOrgCredential, Digest};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How the backend says that a prompt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// Every wanted output was made.
    Succeeded,
    /// A node raised.
    Failed,
    /// The interrupt flag was set: by us, or behind our back.
    Interrupted,
}

/// A history entry, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// How it ended.
    pub end: UpstreamEnd,
    /// Outputs, meta and messages in the owner's words; the file objects still lack the owner's names, which `Ledger::commit` gives.
    pub result: JobResult,
    /// What has to be in the blobs before the end may be told.
    pub fetches: Vec<Fetch>,
    /// File objects that were left out because they are not the owner's: for the audit log.
    pub foreign: Vec<String>,
}

/// One file to fetch, and how the owner will see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetch {
    /// Where it is at the backend.
    pub from: UpstreamFile,
    /// The directory it shows in.
    pub directory: Directory,
    /// The folder it shows in.
    pub subfolder: String,
    /// How its name is made.
    pub name: NewName,
    /// JSON pointer of its file object in `result.outputs`.
    pub pointer: String,
}

/// Names that an attempt had upstream, to be turned into the owner's.
#[derive(Debug, Clone)]
pub struct Names<'a> {
    /// How the owner knows the job.
    pub prompt_id: &'a PromptId,
    /// How the backend knows the attempt.
    pub upstream: UpstreamPromptId,
    /// `t/<opaque owner>`: every folder of the owner's begins so.
    pub owner_folder: &'a str,
    /// The installation is the owner's own (owner posture): what its packs save elsewhere is taken too, and error reports stay whole.
    pub trusting: bool,
    /// The owner's files that the backend has under names of ours.
    pub files: &'a [Pushed],
    /// What may have been paid with: nobody reads it in an answer, whatever a node wrote there.
    pub secrets: &'a [ComfyOrgCredential],
}

/// The entry is not one that ComfyUI writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("history entry without `{0}`")]
pub struct CollectError(&'static str);

/// Reads a history entry.
///
/// # Errors
/// [`CollectError`] names what is missing.
pub fn read(entry: &Value, names: &Names<'_>) -> Result<Ending, CollectError> {
    let status = entry.get("status").and_then(Value::as_object).ok_or(CollectError("status"))?;
    let messages = status.get("messages").and_then(Value::as_array).ok_or(CollectError("status.messages"))?;
    let messages: Vec<(String, Value)> = messages.iter().filter_map(|message| owners_message(message, names)).collect();
    let end = match status.get("status_str").and_then(Value::as_str) {
        Some("success") => UpstreamEnd::Succeeded,
        Some(_) if messages.iter().any(|(event, _)| event == "execution_interrupted") => UpstreamEnd::Interrupted,
        Some(_) => UpstreamEnd::Failed,
        None => return Err(CollectError("status.status_str")),
    };
    let mut outputs = entry.get("outputs").cloned().ok_or(CollectError("outputs"))?;
    let mut foreign = Vec::new();
    drop_foreign(&mut outputs, names, &mut foreign);
    scrub(&mut outputs, names, Scrub::FileObjects);
    let mut fetches = Vec::new();
    find_files(&outputs, names, &mut String::new(), &mut fetches);
    scrub(&mut outputs, names, Scrub::All);
    if !names.trusting {
        drop_paths(&mut outputs);
        rename_temporary(&mut fetches, names.owner_folder);
    }
    let timestamp = |wanted: &str| {
        let found = messages.iter().find(|(event, _)| event == wanted)?;
        found.1.get("timestamp").and_then(Value::as_u64).map(WallMillis)
    };
    let result = JobResult {
        outputs: object(outputs),
        meta: entry.get("meta").cloned().map(object).unwrap_or_default(),
        started_at: timestamp("execution_start"),
        ended_at: None,
        messages,
        files: Vec::new(),
        charged: None,
        sent: Vec::new(),
    };
    Ok(Ending { end, result, fetches, foreign })
}

/// The nodes that the backend did not run because it had their outputs, by its `execution_cached`.
pub fn cached_nodes(result: &JobResult) -> Vec<&str> {
    let told = result.messages.iter().filter(|(event, _)| event == "execution_cached");
    let nodes = told.filter_map(|(_, data)| data.get("nodes")?.as_array());
    nodes.flatten().filter_map(Value::as_str).collect()
}

/// What the gateway itself says of a job that no backend could finish, in the shape of ComfyUI's own events.
pub fn gateway_failure(
    prompt_id: &PromptId,
    node: Option<(&str, &str)>,
    kind: &str,
    message: &str,
    at: WallMillis,
) -> JobResult {
    let (node_id, node_type) = node.map_or((Value::Null, Value::Null), |(id, class)| (json!(id), json!(class)));
    let start = json!({"prompt_id": prompt_id, "timestamp": at});
    let error = json!({
        "prompt_id": prompt_id, "node_id": node_id, "node_type": node_type, "executed": [],
        "exception_message": message, "exception_type": kind, "traceback": [],
        "current_inputs": {}, "current_outputs": [], "timestamp": at,
    });
    JobResult {
        messages: vec![("execution_start".into(), start), ("execution_error".into(), error)],
        started_at: Some(at),
        ended_at: Some(at),
        ..JobResult::default()
    }
}

/// The end of a job that its owner interrupted and of which the backend keeps no history.
pub fn interruption(prompt_id: &PromptId, started_at: WallMillis, at: WallMillis) -> JobResult {
    let start = json!({"prompt_id": prompt_id, "timestamp": started_at});
    let stop = json!({"prompt_id": prompt_id, "node_id": null, "node_type": null, "executed": [], "timestamp": at});
    JobResult {
        messages: vec![("execution_start".into(), start), ("execution_interrupted".into(), stop)],
        started_at: Some(started_at),
        ended_at: Some(at),
        ..JobResult::default()
    }
}

/// The first node that a refused `/prompt` names, and what is wrong with it in the owner's words: `(node, class, text)`.
pub fn refusal(body: &Value, names: &Names<'_>) -> (Option<(String, String)>, String) {
    let own = |text: &str| owners_text(&without_paths(&without_secrets(text, names)), names);
    let top = body.pointer("/error/message").and_then(Value::as_str).unwrap_or("ComfyUI refused the workflow");
    let Some((id, node)) = body.get("node_errors").and_then(Value::as_object).and_then(|nodes| nodes.iter().next())
    else {
        return (None, own(top));
    };
    let class = node.get("class_type").and_then(Value::as_str).unwrap_or_default();
    let text = |error: &Value| {
        let part = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{}: {}", part("message"), part("details"))
    };
    let errors = node
        .get("errors")
        .and_then(Value::as_array)
        .map(|errors| errors.iter().map(text).collect::<Vec<_>>().join("; "));
    (Some((id.clone(), class.to_owned())), own(&format!("{top}: {}", errors.unwrap_or_default())))
}

/// Absolute paths in a text, cut to their last segment: a server's layout is no tenant's business.
pub fn without_paths(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "'\"`,;()[]<>".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let (before, from) = rest.split_at(at);
        let path = from.split(ends).next().unwrap_or(from);
        // `w/h` and `../x` are relative, `http://x` is no path; after anything else a slash begins one (`file:///x`, `{/x`).
        let is_url = before.ends_with("http:") || before.ends_with("https:");
        let begins_a_word =
            !is_url && before.chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || "._~".contains(c)));
        out.push_str(before);
        match path.rsplit_once('/') {
            Some((head, last)) if begins_a_word && !head.is_empty() => {
                out.push('…');
                out.push('/');
                out.push_str(last);
            }
            _ => out.push_str(path),
        }
        rest = from.get(path.len()..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// `[event, data]` in the owner's words; `None` for what is no such pair or no event we know.
fn owners_message(message: &Value, names: &Names<'_>) -> Option<(String, Value)> {
    let event = message.get(0)?.as_str()?;
    let mut data = message.get(1)?.clone();
    let known =
        ["execution_start", "execution_cached", "execution_success", "execution_error", "execution_interrupted"];
    if !known.contains(&event) {
        return None;
    }
    if event == "execution_error" && names.trusting {
        // Its inputs hold what the gateway itself wrote.
        data.as_object_mut()?.insert("current_inputs".into(), json!({}));
    } else if event == "execution_error" {
        let fields = data.as_object_mut()?;
        // Absolute paths, library versions, and the values of inputs that the gateway itself wrote.
        fields.insert("traceback".into(), json!([]));
        fields.insert("current_inputs".into(), json!({}));
        if let Some(text) = fields.get("exception_message").and_then(Value::as_str) {
            let text = without_paths(&without_secrets(text, names));
            fields.insert("exception_message".into(), text.into());
        }
    }
    scrub(&mut data, names, Scrub::All);
    data.as_object_mut()?.insert("prompt_id".into(), json!(names.prompt_id));
    Some((event.to_owned(), data))
}

#[derive(Clone, Copy, PartialEq)]
enum Scrub {
    /// Only what is needed before files are looked for: nothing inside file objects.
    FileObjects,
    All,
}

/// Replaces the attempt's names wherever they stand in a text: its upstream id and names of files by the owner's, its folder by nothing.
fn scrub(value: &mut Value, names: &Names<'_>, what: Scrub) {
    match value {
        Value::String(text) => {
            *text = owners_text(text, names);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| scrub(item, names, what)),
        Value::Object(_) if what == Scrub::FileObjects && file_object(value).is_some() => {}
        Value::Object(fields) => fields.values_mut().for_each(|field| scrub(field, names, what)),
        _ => {}
    }
}

/// A text without what was paid with. SECURITY: ComfyUI hands it to nodes, and the error of one may quote it.
fn without_secrets(text: &str, names: &Names<'_>) -> String {
    let secrets = names.secrets.iter().flat_map(ComfyOrgCredential::hidden);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
}

fn owners_text(text: &str, names: &Names<'_>) -> String {
    let mut text = without_secrets(text, names).replace(&names.upstream.to_string(), names.prompt_id.as_str());
    for file in names.files {
        // With its folder, and alone where a path was cut.
        text = text.replace(&file.canonical(), &file.shown).replace(&file.name, &file.shown);
    }
    if !names.owner_folder.is_empty() && text.contains(names.owner_folder) {
        without_folder(&text, names.owner_folder)
    } else {
        text
    }
}

/// Cuts `t/<opaque>/<job>-<n>/` out of a text, and `t/<opaque>/<job>-<n>` at its end.
fn without_folder(text: &str, owner_folder: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(owner_folder) {
        out.push_str(rest.get(..at).unwrap_or_default());
        let after = rest.get(at + owner_folder.len()..).unwrap_or_default().trim_start_matches('/');
        let attempt = after.find(|c: char| !(c.is_ascii_hexdigit() || c == '-')).unwrap_or(after.len());
        rest = after.get(attempt..).unwrap_or_default();
        rest = rest.strip_prefix('/').unwrap_or(rest);
    }
    out.push_str(rest);
    out
}

/// `filename`, `subfolder` and `type` of a file object.
fn file_object(value: &Value) -> Option<UpstreamFile> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    Some(UpstreamFile {
        directory: Directory::from_name(text("type")?)?,
        subfolder: text("subfolder").unwrap_or_default().to_owned(),
        filename: text("filename")?.to_owned(),
    })
}

/// The folder as the owner sees it, if the file is the owner's.
fn owned_subfolder(file: &UpstreamFile, names: &Names<'_>) -> Option<String> {
    let plain = |shown: &str| !shown.split('/').any(|segment| segment == "..") && !shown.starts_with('/');
    if names.trusting && matches!(file.directory, Directory::Output | Directory::Temp) && !is_own_area(&file.subfolder)
    {
        return plain(&file.subfolder).then(|| file.subfolder.clone());
    }
    match file.directory {
        // Random names in one flat directory, kept apart by the salt.
        Directory::Temp if file.subfolder.is_empty() => Some(String::new()),
        Directory::Output => {
            let inside = file.subfolder.strip_prefix(names.owner_folder)?.strip_prefix('/')?;
            let (_attempt, shown) = inside.split_once('/').unwrap_or((inside, ""));
            plain(shown).then(|| shown.to_owned())
        }
        // A pushed file is its owner's upload, which it has already.
        Directory::Input | Directory::Temp => None,
    }
}

/// Whether a folder is one of those that the gateway gives out, to whomever.
fn is_own_area(subfolder: &str) -> bool {
    subfolder.split('/').find(|segment| !segment.is_empty()) == Some("t")
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

fn is_foreign(value: &Value, names: &Names<'_>) -> bool {
    file_object(value).is_some_and(|file| owned_subfolder(&file, names).is_none() || !is_plain_name(&file.filename))
}

fn drop_foreign(value: &mut Value, names: &Names<'_>, dropped: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            items.retain(|item| {
                let foreign = is_foreign(item, names);
                if foreign {
                    dropped.push(item.to_string());
                }
                !foreign
            });
            items.iter_mut().for_each(|item| drop_foreign(item, names, dropped));
        }
        Value::Object(fields) => {
            fields.retain(|_, field| {
                let foreign = is_foreign(field, names);
                if foreign {
                    dropped.push(field.to_string());
                }
                !foreign
            });
            fields.values_mut().for_each(|field| drop_foreign(field, names, dropped));
        }
        _ => {}
    }
}

/// Takes absolute paths out of file objects: packs add them (`fullpath`) for a page that runs on the same machine.
fn drop_paths(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_paths),
        Value::Object(fields) => {
            if fields.contains_key("filename") {
                let is_path = |text: &str| text.starts_with('/') || text.get(1..3).is_some_and(|drive| drive == ":\\");
                fields.retain(|_, field| !field.as_str().is_some_and(is_path));
            }
            fields.values_mut().for_each(drop_paths);
        }
        _ => {}
    }
}

fn find_files(value: &Value, names: &Names<'_>, pointer: &mut String, found: &mut Vec<Fetch>) {
    if let Some((file, subfolder)) =
        file_object(value).and_then(|file| owned_subfolder(&file, names).map(|shown| (file, shown)))
    {
        let name = match file.directory {
            // Elsewhere ComfyUI's own number stays: its owner may look at the disk.
            Directory::Output if is_own_area(&file.subfolder) => numbered(&file.filename),
            Directory::Output => NewName::AsIs(file.filename.clone()),
            Directory::Input | Directory::Temp => NewName::AsIs(file.filename.clone()),
        };
        found.push(Fetch { directory: file.directory, from: file, subfolder, name, pointer: pointer.clone() });
        return;
    }
    let mut step = |token: &str, inner: &Value| {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
        find_files(inner, names, pointer, found);
        pointer.truncate(length);
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| step(&index.to_string(), item)),
        Value::Object(fields) => fields.iter().for_each(|(key, field)| step(key, field)),
        _ => {}
    }
}

/// Gives numbered temporary files names of the owner's own. A node at ComfyUI outlives the job, and with it the random letters and the count of its previews (nodes.py `PreviewImage`,
/// execution.py `caches.objects`, 0.8.0): whoever uses the node next could read off them that others had previews there, and how many. Equal names come out of
/// equal ones, so what is found in ComfyUI's cache has the names of its first time.
fn rename_temporary(fetches: &mut [Fetch], owner_folder: &str) {
    let mut firsts: BTreeMap<String, u64> = BTreeMap::new();
    for fetch in fetches.iter().filter(|fetch| fetch.directory == Directory::Temp) {
        if let Some((prefix, count, _)) = counted(&fetch.from.filename, &['_', '.']) {
            let first = firsts.entry(prefix.to_owned()).or_insert(count);
            *first = (*first).min(count);
        }
    }
    for fetch in fetches.iter_mut().filter(|fetch| fetch.directory == Directory::Temp) {
        let Some((prefix, count, suffix)) = counted(&fetch.from.filename, &['_', '.']) else { continue };
        let first = firsts.get(prefix).copied().unwrap_or(count);
        let is_random = |letters: &str| letters.len() == 5 && letters.bytes().all(|byte| byte.is_ascii_lowercase());
        let stem = prefix.rsplit_once('_').filter(|(_, letters)| is_random(letters)).map_or(prefix, |(stem, _)| stem);
        let letters = letters_of(&format!("{owner_folder}/{prefix}/{first}"));
        let count = count.saturating_sub(first).saturating_add(1);
        fetch.name = NewName::AsIs(format!("{stem}_{letters}_{count:05}{suffix}"));
    }
}

/// Five lower-case letters, as ComfyUI has them; the same for the same text.
fn letters_of(text: &str) -> String {
    let digest = Digest::of(text.as_bytes());
    digest.as_bytes().iter().take(5).map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// `ComfyUI_00001_.png` → prefix `ComfyUI`, count 1, rest `_.png` (nodes.py `SaveImage.save_images`). One of `after` follows the count.
fn counted<'a>(filename: &'a str, after: &[char]) -> Option<(&'a str, u64, &'a str)> {
    filename.rmatch_indices('_').find_map(|(at, _)| {
        let (prefix, rest) = (filename.get(..at)?, filename.get(at + 1..)?);
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (count, rest) = (rest.get(..digits)?.parse().ok()?, rest.get(digits..)?);
        (digits >= 5 && rest.starts_with(after)).then_some((prefix, count, rest))
    })
}

/// The name in a series of the owner's, if ComfyUI numbered it as `SaveImage` does.
fn numbered(filename: &str) -> NewName {
    match counted(filename, &['_']) {
        Some((prefix, group, suffix)) => {
            NewName::Numbered { prefix: prefix.to_owned(), group, suffix: suffix.to_owned() }
        }
        None => NewName::AsIs(filename.to_owned()),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::FileId;
    use crate::inspect::contents::{ContentFacts, ContentKind};

    const FOLDER: &str = "t/abc234";

    fn entry(outputs: Value, status: &str, messages: Value) -> Value {
        json!({"prompt": [], "outputs": outputs, "status": {"status_str": status, "completed": status == "success", "messages": messages}, "meta": {}})
    }

    fn reading(entry: &Value) -> Ending {
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        read(
            entry,
            &Names { prompt_id: &prompt_id, upstream, owner_folder: FOLDER, trusting: false, files: &[], secrets: &[] },
        )
        .unwrap()
    }

    fn trusting_reading(entry: &Value) -> Ending {
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        read(
            entry,
            &Names { prompt_id: &prompt_id, upstream, owner_folder: FOLDER, trusting: true, files: &[], secrets: &[] },
        )
        .unwrap()
    }

    #[test]
    fn on_an_installation_of_the_owners_own_all_files_are_taken_but_those_in_folders_of_others() {
        let outputs = json!({"9": {"images": [
            image("", "b_00001_.png", "output"),
            image("sub", "d.png", "temp"),
            image("t/abc234/0af-1/pets", "a_00001_.png", "output"),
            image("t/zzz/0af-1", "e_00001_.png", "output"),
            image("/t/zzz/0af-1", "e_00001_.png", "output"),
            image("x/../t/zzz", "e_00001_.png", "output"),
            image("", "c.png", "input"),
        ]}});
        let ending = trusting_reading(&entry(outputs, "success", json!([])));
        assert_eq!(ending.foreign.len(), 4, "{:?}", ending.foreign);
        let names: Vec<_> = ending.fetches.iter().map(|fetch| (fetch.subfolder.as_str(), fetch.name.clone())).collect();
        let expected = [
            ("", NewName::AsIs("b_00001_.png".into())),
            ("sub", NewName::AsIs("d.png".into())),
            ("pets", NewName::Numbered { prefix: "a".into(), group: 1, suffix: "_.png".into() }),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn on_an_installation_of_the_owners_own_error_reports_are_whole() {
        let data = json!({"prompt_id": "x", "exception_message": "no /opt/x", "traceback": ["File /opt/ComfyUI/nodes.py"], "current_inputs": {"comfygate_salt": ["s"]}});
        let ending = trusting_reading(&entry(json!({}), "error", json!([["execution_error", data]])));
        let text = serde_json::to_string(&ending.result.messages).unwrap();
        assert!(
            text.contains("/opt/ComfyUI/nodes.py") && text.contains("no /opt/x") && !text.contains("comfygate_salt"),
            "{text}"
        );
    }

    fn image(subfolder: &str, filename: &str, kind: &str) -> Value {
        json!({"filename": filename, "subfolder": subfolder, "type": kind})
    }

    #[test]
    fn an_output_in_the_owners_folder_is_fetched_under_its_shown_folder_and_numbered() {
        let ending = reading(&entry(
            json!({"9": {"images": [image("t/abc234/0af-1/pets", "cat_00003_.png", "output")]}}),
            "success",
            json!([]),
        ));
        assert_eq!(ending.end, UpstreamEnd::Succeeded);
        let [fetch] = ending.fetches.as_slice() else { panic!("{:?}", ending.fetches) };
        assert_eq!(fetch.pointer, "/9/images/0");
        assert_eq!(fetch.subfolder, "pets");
        assert_eq!(fetch.name, NewName::Numbered { prefix: "cat".into(), group: 3, suffix: "_.png".into() });
        assert_eq!(fetch.from.subfolder, "t/abc234/0af-1/pets");
    }

    #[test]
    fn files_outside_the_owners_folder_are_left_out_and_reported() {
        let outputs = json!({"9": {"images": [
            image("t/abc2345/0af-1", "a_00001_.png", "output"),
            image("", "b_00001_.png", "output"),
            image("", "c.png", "input"),
            image("sub", "d.png", "temp"),
            image("t/abc234/0af-1/../../zzz/1-1", "e_00001_.png", "output"),
            image("t/abc234/0af-1", "../f.png", "output"),
            image("t/abc234/0af-1", "g_00001_.png", "output"),
        ]}});
        let ending = reading(&entry(outputs, "success", json!([])));
        assert_eq!(ending.foreign.len(), 6);
        assert_eq!(ending.fetches.len(), 1);
        assert_eq!(ending.fetches[0].pointer, "/9/images/0");
        assert_eq!(ending.result.outputs["9"]["images"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn absolute_paths_in_file_objects_are_left_out() {
        let video = json!({"filename": "a_00001.mp4", "subfolder": "t/abc234/0af-1", "type": "output", "format": "video/mp4",
            "fullpath": "/opt/ComfyUI/output/t/abc234/0af-1/a_00001.mp4"});
        let ending = reading(&entry(json!({"9": {"gifs": [video]}}), "success", json!([])));
        assert_eq!(ending.fetches.len(), 1);
        let shown = &ending.result.outputs["9"]["gifs"][0];
        assert_eq!((shown.get("fullpath"), &shown["format"]), (None, &json!("video/mp4")));
    }

    /// Shown names of these temporary files, to the owner of a folder.
    fn temporary(files: &[&str], owner_folder: &str) -> Vec<String> {
        let images: Vec<Value> = files.iter().map(|name| image("", name, "temp")).collect();
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        let names = Names { prompt_id: &prompt_id, upstream, owner_folder, trusting: false, files: &[], secrets: &[] };
        let ending = read(&entry(json!({"2": {"images": images}}), "success", json!([])), &names).unwrap();
        assert_eq!(ending.fetches[0].from.filename, files[0], "what is fetched is the backend's");
        let shown = |fetch: &Fetch| match &fetch.name {
            NewName::AsIs(name) => name.clone(),
            NewName::Numbered { .. } => panic!("{fetch:?}"),
        };
        ending.fetches.iter().map(shown).collect()
    }

    #[test]
    fn temporary_files_have_letters_and_counts_of_the_owners_own() {
        let mine = temporary(&["ComfyUI_temp_abcde_00007_.png", "ComfyUI_temp_abcde_00008_.png"], "t/mine");
        let letters = mine[0].strip_prefix("ComfyUI_temp_").and_then(|rest| rest.strip_suffix("_00001_.png")).unwrap();
        assert!(letters.len() == 5 && letters != "abcde" && letters.bytes().all(|byte| byte.is_ascii_lowercase()));
        assert_eq!(mine[1], format!("ComfyUI_temp_{letters}_00002_.png"), "a batch keeps its order");
        assert_eq!(temporary(&["ComfyUI_temp_abcde_00007_.png", "ComfyUI_temp_abcde_00008_.png"], "t/mine"), mine);
        let later = temporary(&["ComfyUI_temp_abcde_00009_.png"], "t/mine");
        assert!(later[0].ends_with("_00001_.png") && later[0] != mine[0], "{later:?}");
        let theirs = temporary(&["ComfyUI_temp_abcde_00007_.png"], "t/theirs");
        assert!(theirs[0].ends_with("_00001_.png") && theirs[0] != mine[0], "{theirs:?}");
    }

    #[test]
    fn temporary_names_of_packs_lose_their_count_and_those_without_one_stay() {
        let video = temporary(&["preview_00004.mp4"], "t/mine");
        assert!(video[0].starts_with("preview_") && video[0].ends_with("_00001.mp4"), "{video:?}");
        assert_eq!(temporary(&["3f9a.png"], "t/mine"), ["3f9a.png"]);
        assert_eq!(temporary(&["a_0001_.png"], "t/mine"), ["a_0001_.png"]);
        let most = format!("a_{}_.png", u64::MAX);
        assert!(temporary(&["a_00000_.png", &most], "t/mine")[1].ends_with(&format!("_{}_.png", u64::MAX)));
    }

    #[test]
    fn on_an_installation_of_the_owners_own_temporary_files_keep_their_names() {
        let outputs = json!({"2": {"images": [image("", "ComfyUI_temp_abcde_00007_.png", "temp")]}});
        let ending = trusting_reading(&entry(outputs, "success", json!([])));
        assert_eq!(ending.fetches[0].name, NewName::AsIs("ComfyUI_temp_abcde_00007_.png".into()));
    }

    #[test]
    fn a_name_without_five_digits_is_not_numbered() {
        assert_eq!(numbered("a_0001_.png"), NewName::AsIs("a_0001_.png".into()));
        assert_eq!(numbered("a_00001.png"), NewName::AsIs("a_00001.png".into()));
        let expected = NewName::Numbered { prefix: "a".into(), group: 7, suffix: "_b_12345.png".into() };
        assert_eq!(numbered("a_00007_b_12345.png"), expected);
        let expected = NewName::Numbered { prefix: "a_00007_b".into(), group: 123_456, suffix: "_.webp".into() };
        assert_eq!(numbered("a_00007_b_123456_.webp"), expected);
    }

    #[test]
    fn error_data_loses_traceback_inputs_paths_and_upstream_ids() {
        let upstream = UpstreamPromptId::from_bytes([7; 16]).to_string();
        let data = json!({
            "prompt_id": upstream, "node_id": "2", "node_type": "X", "executed": ["1"],
            "exception_message": "can't open '/opt/ComfyUI/output/t/abc234/0af-1/x.png' (a/b)", "exception_type": "OSError",
            "traceback": ["File /opt/ComfyUI/nodes.py"], "current_inputs": {"salt": ["secret"]}, "current_outputs": ["1"], "timestamp": 5
        });
        let ending = reading(&entry(
            json!({}),
            "error",
            json!([["execution_start", {"prompt_id": upstream, "timestamp": 3}], ["execution_error", data]]),
        ));
        assert_eq!(ending.end, UpstreamEnd::Failed);
        assert_eq!(ending.result.started_at, Some(WallMillis(3)));
        let text = serde_json::to_string(&ending.result.messages).unwrap();
        for secret in ["/opt", "nodes.py", "secret", "abc234", &upstream] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("can't open '…/x.png' (a/b)"), "{text}");
        assert!(text.contains("\"mine\""));
    }

    #[test]
    fn cached_nodes_are_those_that_the_backend_names() {
        let messages = json!([["execution_start", {}], ["execution_cached", {"nodes": ["1", "9"], "prompt_id": "x"}]]);
        assert_eq!(cached_nodes(&reading(&entry(json!({}), "success", messages)).result), ["1", "9"]);
        assert!(cached_nodes(&reading(&entry(json!({}), "success", json!([]))).result).is_empty());
    }

    #[test]
    fn an_interruption_is_told_from_an_error() {
        let interrupted = json!([["execution_interrupted", {"prompt_id": "x", "timestamp": 1}]]);
        assert_eq!(reading(&entry(json!({}), "error", interrupted)).end, UpstreamEnd::Interrupted);
        assert_eq!(reading(&entry(json!({}), "error", json!([]))).end, UpstreamEnd::Failed);
    }

    #[test]
    fn texts_that_name_a_pushed_file_name_it_as_its_owner_does() {
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        let facts = ContentFacts { kind: ContentKind::Png, width: 1, height: 1, frames: 1, seconds: None };
        let file = Pushed::new(FileId::from_bytes([9; 16]), Digest::of(b"x"), 1, &facts, FOLDER, "holiday/cat.png");
        let names = Names {
            prompt_id: &prompt_id,
            upstream,
            owner_folder: FOLDER,
            files: std::slice::from_ref(&file),
            trusting: false,
            secrets: &[],
        };
        let named = file.canonical();
        let body = json!({"error": {"message": "Prompt outputs failed validation"}, "node_errors": {"3": {"class_type": "LoadImage",
            "errors": [{"message": "Custom validation failed for node", "details": format!("image - Invalid image file: {named}")}]}}});
        let (node, text) = refusal(&body, &names);
        assert_eq!(node.unwrap().1, "LoadImage");
        assert!(text.ends_with("Invalid image file: holiday/cat.png"), "{text}");
        let message = format!("[Errno 2] No such file or directory: '/srv/comfy/input/{named}'");
        let data = json!({"prompt_id": upstream.to_string(), "exception_message": message, "exception_type": "FileNotFoundError"});
        let ending = read(&entry(json!({}), "error", json!([["execution_error", data]])), &names).unwrap();
        let told = ending.result.messages[0].1["exception_message"].as_str().unwrap();
        assert!(told.contains("holiday/cat.png") && !told.contains("abc234") && !told.contains("0909"), "{told}");
    }

    #[test]
    fn what_was_paid_with_is_in_no_text_that_a_node_wrote() {
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        let (token, key) = ("eyJ0/oken.0123456789", "comfyui-0123456789abcdef");
        let secrets = [ComfyOrgCredential::new(Some(token), Some(key)).unwrap().unwrap()];
        let owners = |trusting| Names {
            prompt_id: &prompt_id,
            upstream,
            owner_folder: FOLDER,
            trusting,
            files: &[],
            secrets: &secrets,
        };
        for trusting in [false, true] {
            let text = format!("401 for '{key}' and (Bearer {token})");
            let data = json!({"exception_message": text, "traceback": [text], "current_inputs": {"auth": [token]}});
            let outputs = json!({"4": {"text": [text], "deep": {"er": [[key]]}}});
            let entry = entry(outputs, "error", json!([["execution_error", data]]));
            let ending = read(&entry, &owners(trusting)).unwrap();
            let told = format!("{:?}{:?}", ending.result.messages, ending.result.outputs);
            assert!(!told.contains("0123456789") && told.contains("401 for '…'"), "{told}");
            let (_, refused) = refusal(&json!({"error": {"message": text}}), &owners(trusting));
            assert!(!refused.contains("0123456789"), "{refused}");
        }
    }

    #[test]
    fn a_word_that_is_too_short_for_a_credential_cuts_no_text_apart() {
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        let secrets = [ComfyOrgCredential::of_api_key("a").unwrap()];
        let names = Names {
            prompt_id: &prompt_id,
            upstream,
            owner_folder: FOLDER,
            trusting: false,
            files: &[],
            secrets: &secrets,
        };
        assert_eq!(without_secrets("a banana", &names), "a banana");
    }

    #[test]
    fn an_entry_without_status_is_no_entry() {
        let (prompt_id, upstream) = ("mine".parse().unwrap(), UpstreamPromptId::from_bytes([7; 16]));
        let names =
            Names { prompt_id: &prompt_id, upstream, owner_folder: FOLDER, trusting: false, files: &[], secrets: &[] };
        assert_eq!(read(&json!({"outputs": {}}), &names), Err(CollectError("status")));
    }

    #[test]
    fn relative_words_with_a_slash_are_no_paths() {
        assert_eq!(without_paths("w/h = 3/4, see http://x"), "w/h = 3/4, see http://x");
        assert_eq!(without_paths("/a/b/c.py"), "…/c.py");
        assert_eq!(without_paths("/c.py"), "/c.py");
        assert_eq!(without_paths("../x/y"), "../x/y");
        for path in ["file:///opt/x/y.png", "//opt/x/y.png", "{/opt/x/y.png"] {
            assert!(!without_paths(path).contains("opt"), "{path}");
        }
    }
}
