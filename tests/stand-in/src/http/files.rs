//! Files over HTTP: `/view`, uploads and the front page.

use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, SERVER, VARY,
};
use hyper::{Response, StatusCode};

use super::Call;
use super::answer::{Answer, Reply, set};
use crate::files::{absolute, contained, normalised, split_annotation};
use crate::json::{Dict, Json};
use crate::multipart::{self, Part};
use crate::picture::Picture;

/// The page of its own: enough to see that it runs.
pub(super) fn front_page() -> Reply {
    let page = include_str!("../../data/index.html");
    let mut answer = built(StatusCode::OK, "text/html", Bytes::from_static(page.as_bytes()));
    set(&mut answer, hyper::header::CACHE_CONTROL, "no-cache");
    set(&mut answer, hyper::header::PRAGMA, "no-cache");
    set(&mut answer, hyper::header::EXPIRES, "0");
    Reply::Built(Box::new(answer))
}

fn built(status: StatusCode, kind: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    set(&mut answer, SERVER, "Python/3.11 aiohttp/3.14.5");
    set(&mut answer, CONTENT_TYPE, kind);
    answer
}

/// `GET /view`: the suffix beats `type`, containment is by text, and only the last segment of the name counts.
pub(super) fn view(call: &Call) -> Result<Reply, Reply> {
    let status = |status: StatusCode| Reply::Empty(status);
    if call.process.options().newer
        && let Some(file) = super::newer::by_hash(call)
    {
        return Ok(Reply::Built(Box::new(file_answer(&file, "image/png", call.request.headers())?)));
    }
    let written = call.query("filename").ok_or(status(StatusCode::NOT_FOUND))?;
    let (name, annotated) = split_annotation(written);
    if name.is_empty() || name.starts_with('/') || name.contains("..") {
        return Err(status(StatusCode::BAD_REQUEST));
    }
    let folders = call.process.folders();
    let kind = annotated.unwrap_or_else(|| call.query("type").unwrap_or("output"));
    let base = folders.by_type(kind).ok_or(status(StatusCode::BAD_REQUEST))?;
    let folder = match call.query("subfolder") {
        Some(subfolder) if !contained(&base, &base.join(subfolder)) => return Err(status(StatusCode::FORBIDDEN)),
        Some(subfolder) => base.join(subfolder),
        None => base,
    };
    let name = name.rsplit('/').next().unwrap_or(name);
    let file = folder.join(name);
    if !file.is_file() {
        return Err(status(StatusCode::NOT_FOUND));
    }
    let disposition = format!("filename=\"{name}\"");
    if let Some(preview) = call.query("preview") {
        return preview_of(&file, preview, call.query("channel").unwrap_or_default(), &disposition);
    }
    match call.query("channel") {
        Some(channel @ ("rgb" | "a")) => {
            let png = channel_of(&file, channel)?;
            let mut answer = built(StatusCode::OK, "image/png", png.into());
            set(&mut answer, CONTENT_DISPOSITION, &disposition);
            Ok(Reply::Built(Box::new(answer)))
        }
        _ => {
            let mut answer = file_answer(&file, content_type(name, true), call.request.headers())?;
            set(&mut answer, CONTENT_DISPOSITION, &disposition);
            Ok(Reply::Built(Box::new(answer)))
        }
    }
}

/// A file that is no image raises, which is 500.
fn opened(file: &Path) -> Result<Picture, Reply> {
    let bytes = std::fs::read(file).map_err(|_| Reply::Crash)?;
    Picture::from_png(&bytes).map_err(|_| Reply::Crash)
}

fn preview_of(file: &Path, preview: &str, channel: &str, disposition: &str) -> Result<Reply, Reply> {
    let picture = opened(file)?;
    let (kind, made) = if preview.split(';').next() == Some("jpeg") && !channel.contains('a') {
        ("image/jpeg", picture.jpeg(usize::from(u16::MAX)))
    } else if channel == "rgb" {
        ("image/webp", picture.with_channels(3).and_then(|picture| picture.webp()))
    } else {
        ("image/webp", picture.webp())
    };
    let mut answer = built(StatusCode::OK, kind, made.map_err(|_| Reply::Crash)?.into());
    set(&mut answer, CONTENT_DISPOSITION, disposition);
    Ok(Reply::Built(Box::new(answer)))
}

fn channel_of(file: &Path, channel: &str) -> Result<Vec<u8>, Reply> {
    let picture = opened(file)?;
    let shown = if channel == "rgb" {
        picture.with_channels(3)
    } else {
        let size = (picture.width, picture.height, 4);
        Picture::from_fn(size, 1, |frame, x, y, channel| if channel == 3 { picture.sample(frame, x, y, 3) } else { 0 })
    };
    shown.and_then(|picture| picture.png(0, &[])).map_err(|_| Reply::Crash)
}

/// Python's `mimetypes.guess_type`, as far as ComfyUI meets it; `guarded` turns what a browser runs into a download.
pub(super) fn content_type(name: &str, guarded: bool) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let kind = match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "svg" => "image/svg+xml",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "wav" => "audio/x-wav",
        "flac" => "audio/flac",
        "json" => "application/json",
        "txt" => "text/plain",
        "xml" => "text/xml",
        "pdf" => "application/pdf",
        "js" => "application/javascript; charset=utf-8",
        "html" | "htm" => "text/html",
        "css" => "text/css",
        _ => "application/octet-stream",
    };
    if guarded && matches!(kind, "text/html" | "text/css") { "application/octet-stream" } else { kind }
}

/// aiohttp's FileResponse: ETag, Last-Modified, conditions and one range.
pub(super) fn file_answer(file: &Path, kind: &str, headers: &HeaderMap) -> Result<Answer, Reply> {
    let accepted =
        headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default().to_lowercase();
    // A file beside it that looks like its compressed form is served in its place, whoever put it there.
    let beside = [("br", "br"), ("gzip", "gz")].into_iter().find_map(|(coding, ending)| {
        let mut name = file.as_os_str().to_owned();
        name.push(".");
        name.push(ending);
        let beside = std::path::PathBuf::from(name);
        (accepted.contains(coding) && beside.is_file()).then_some((coding, beside))
    });
    let file = beside.as_ref().map_or(file, |(_, beside)| beside.as_path());
    let content = std::fs::read(file).map_err(|_| Reply::Empty(StatusCode::NOT_FOUND))?;
    let modified = std::fs::metadata(file).and_then(|meta| meta.modified()).map_err(|_| Reply::Crash)?;
    let nanos = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let etag = format!("\"{nanos:x}-{:x}\"", content.len());
    let last_modified = httpdate::fmt_http_date(modified);
    let header = |name: hyper::header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let unchanged = match header(IF_NONE_MATCH) {
        Some(tags) => tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*"),
        None => header(IF_MODIFIED_SINCE).is_some_and(|since| not_after(&last_modified, since)),
    };
    let length = content.len();
    let wanted = header(RANGE).filter(|_| header(IF_RANGE).is_none_or(|since| not_after(&last_modified, since)));
    let (status, body, range) = match (unchanged, wanted.map(|range| byte_range(range, length))) {
        (true, _) => (StatusCode::NOT_MODIFIED, Bytes::new(), None),
        (false, None) => (StatusCode::OK, Bytes::from(content), None),
        (false, Some(Some((first, last)))) => {
            let part = content.get(first..=last).unwrap_or_default().to_vec();
            (StatusCode::PARTIAL_CONTENT, Bytes::from(part), Some(format!("bytes {first}-{last}/{length}")))
        }
        (false, Some(None)) => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(format!("bytes */{length}"))),
    };
    let mut answer = built(status, kind, body);
    if let Some((coding, _)) = &beside {
        set(&mut answer, CONTENT_ENCODING, coding);
        set(&mut answer, VARY, "Accept-Encoding");
    }
    set(&mut answer, ETAG, &etag);
    set(&mut answer, LAST_MODIFIED, &last_modified);
    if status != StatusCode::RANGE_NOT_SATISFIABLE {
        set(&mut answer, ACCEPT_RANGES, "bytes");
    }
    if let Some(range) = range {
        set(&mut answer, CONTENT_RANGE, &range);
    }
    Ok(answer)
}

fn not_after(modified: &str, since: &str) -> bool {
    match (httpdate::parse_http_date(modified), httpdate::parse_http_date(since)) {
        (Ok(modified), Ok(since)) => modified <= since,
        _ => false,
    }
}

/// First and last byte of a single `bytes=` range; `None` when it cannot be satisfied.
fn byte_range(text: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = length.checked_sub(1)?;
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last && first <= end => Some((first, last.min(end))),
        (Ok(first), Err(_)) if last.is_empty() && first <= end => Some((first, end)),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => Some((length.saturating_sub(count), end)),
        _ => None,
    }
}

/// The parts of a form: the first of each name.
async fn form(call: &mut Call) -> Result<Vec<Part>, Reply> {
    let boundary = call.header("content-type").and_then(multipart::boundary);
    let body = super::body::bytes(&mut call.request).await?;
    match boundary {
        Some(boundary) => multipart::parts(&body, &boundary).map_err(|_| Reply::Crash),
        None => Ok(Vec::new()),
    }
}

fn field(parts: &[Part], name: &str) -> Option<String> {
    let part = parts.iter().find(|part| part.name == name)?;
    Some(String::from_utf8_lossy(&part.content).into_owned())
}

/// `POST /upload/image`.
pub(super) async fn upload(call: &mut Call) -> Result<Reply, Reply> {
    let parts = form(call).await?;
    store(call, &parts, |_, content| Ok(Some(content.to_vec())))
}

/// `POST /upload/mask`: the original's colours with the upload's alpha. A failed check still answers 200.
pub(super) async fn upload_mask(call: &mut Call) -> Result<Reply, Reply> {
    let parts = form(call).await?;
    let original = field(&parts, "original_ref");
    store(call, &parts, |call, content| {
        let reference = Json::parse(&original.ok_or(Reply::Crash)?).map_err(|_| Reply::Crash)?;
        masked(call, &reference, content)
    })
}

fn masked(call: &Call, reference: &Json, content: &[u8]) -> Result<Option<Vec<u8>>, Reply> {
    let text = |key: &str| reference.get(key).and_then(Json::as_str);
    let (name, annotated) = split_annotation(text("filename").ok_or(Reply::Crash)?);
    if name.is_empty() || name.starts_with('/') || name.contains("..") {
        return Ok(None);
    }
    let kind = annotated.unwrap_or_else(|| text("type").unwrap_or("output"));
    let Some(base) = call.process.folders().by_type(kind) else {
        return Ok(None);
    };
    let folder = base.join(text("subfolder").unwrap_or_default());
    let file = folder.join(name);
    if !contained(&base, &folder) || !file.is_file() {
        return Ok(None);
    }
    let (picture, alpha) = (opened(&file)?, Picture::from_png(content).map_err(|_| Reply::Crash)?);
    let size = (picture.width, picture.height, 4);
    let merged = Picture::from_fn(size, 1, |frame, x, y, channel| {
        let source = if channel == 3 { &alpha } else { &picture };
        source.sample(frame, x, y, channel)
    });
    merged.and_then(|picture| picture.png(0, &[])).map(Some).map_err(|_| Reply::Crash)
}

/// `image_upload`: where the file goes, under which name, and what is told.
fn store(
    call: &Call,
    parts: &[Part],
    content: impl FnOnce(&Call, &[u8]) -> Result<Option<Vec<u8>>, Reply>,
) -> Result<Reply, Reply> {
    let kind = field(parts, "type").unwrap_or_else(|| "input".to_owned());
    let base = call.process.folders().by_type(&kind).ok_or(Reply::Crash)?;
    let image = parts.iter().find(|part| part.name == "image");
    let Some(image) = image.filter(|part| part.filename.is_some() || !part.content.is_empty()) else {
        return Err(Reply::Empty(StatusCode::BAD_REQUEST));
    };
    // A field without a file name is text, which has no `.file`.
    let name = image.filename.clone().filter(|name| !name.is_empty()).ok_or(Reply::Crash)?;
    let subfolder = field(parts, "subfolder").unwrap_or_default();
    let folder = base.join(normalised(&subfolder));
    let mut file = absolute(&folder.join(&name));
    if !file.starts_with(&base) {
        return Err(Reply::Empty(StatusCode::BAD_REQUEST));
    }
    call.process.disk().map_err(|_| Reply::Crash)?;
    std::fs::create_dir_all(&folder).map_err(|_| Reply::Crash)?;
    let mut told = name.clone();
    let mut duplicate = false;
    if !matches!(field(parts, "overwrite").as_deref(), Some("true" | "1")) {
        let (stem, ending) = name.rfind('.').filter(|at| *at > 0).map_or((name.as_str(), ""), |at| name.split_at(at));
        let mut number = 1_u64;
        while file.exists() {
            if std::fs::read(&file).is_ok_and(|present| present == image.content) {
                duplicate = true;
                break;
            }
            told = format!("{stem} ({number}){ending}");
            file = folder.join(&told);
            number += 1;
        }
    }
    if !duplicate && let Some(bytes) = content(call, &image.content)? {
        std::fs::write(&file, bytes).map_err(|_| Reply::Crash)?;
    }
    let mut answer = Dict::from_iter([("subfolder".to_owned(), subfolder.into()), ("type".to_owned(), kind.into())]);
    if call.process.options().newer {
        answer.insert("asset".into(), super::newer::uploaded(call, &told));
    }
    answer.shift_insert(0, "name".into(), told.into());
    Ok(Reply::json(Json::Dict(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_inside_are_served_and_outside_are_not() {
        assert_eq!(byte_range("bytes=0-9", 686), Some((0, 9)));
        assert_eq!(byte_range("bytes=0-999", 10), Some((0, 9)));
        assert_eq!(byte_range("bytes=9-", 10), Some((9, 9)));
        assert_eq!(byte_range("bytes=-3", 10), Some((7, 9)));
        for text in ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=a-b", "lines=0-1", "bytes=-"] {
            assert_eq!(byte_range(text, 10), None, "{text}");
        }
    }

    #[test]
    fn what_a_browser_would_run_as_a_page_is_a_download() {
        assert_eq!(content_type("x.html", true), "application/octet-stream");
        assert_eq!(content_type("x.html", false), "text/html");
        assert_eq!(content_type("x.svg", true), "image/svg+xml");
    }
}
