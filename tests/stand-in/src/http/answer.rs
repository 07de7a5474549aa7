//! Answers with aiohttp's headers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::{Response, StatusCode};

use crate::json::Json;

/// A whole HTTP answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What a handler answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Python's JSON.
    Json(StatusCode, Box<Json>),
    /// Plain text.
    Text(StatusCode, String),
    /// No body and no content type.
    Empty(StatusCode),
    /// An exception that nothing caught.
    Crash,
    /// The static handler found no file.
    NoStaticFile,
    /// A built answer.
    Built(Box<Answer>),
}

impl Reply {
    /// 200 with JSON.
    pub(crate) fn json(value: Json) -> Reply {
        Reply::Json(StatusCode::OK, Box::new(value))
    }

    /// JSON with another status.
    pub(crate) fn json_with(status: StatusCode, value: Json) -> Reply {
        Reply::Json(status, Box::new(value))
    }

    /// Plain text.
    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Reply {
        Reply::Text(status, text.into())
    }

    /// 200 without a body.
    pub(crate) fn ok() -> Reply {
        Reply::Empty(StatusCode::OK)
    }

    /// What ComfyUI has and the stand-in has not.
    pub(crate) fn not_built(what: &str) -> Reply {
        Reply::text(StatusCode::NOT_IMPLEMENTED, format!("the stand-in does not imitate {what}"))
    }

    /// The answer with its headers.
    pub(crate) fn answer(self) -> Answer {
        let (status, kind, body) = match self {
            Reply::Json(status, value) => (status, Some("application/json; charset=utf-8"), Bytes::from(value.dumps())),
            Reply::Text(status, text) => (status, Some("text/plain; charset=utf-8"), Bytes::from(text)),
            Reply::Empty(status) => (status, None, Bytes::new()),
            Reply::Crash => {
                let text = "500 Internal Server Error\n\nServer got itself in trouble";
                (StatusCode::INTERNAL_SERVER_ERROR, Some("text/plain; charset=utf-8"), Bytes::from(text))
            }
            Reply::NoStaticFile => (StatusCode::NOT_FOUND, Some("application/octet-stream"), Bytes::new()),
            Reply::Built(answer) => return *answer,
        };
        let mut answer = Response::new(Full::new(body));
        *answer.status_mut() = status;
        answer.headers_mut().insert(SERVER, HeaderValue::from_static("Python/3.11 aiohttp/3.14.5"));
        if let Some(kind) = kind {
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        answer
    }
}

impl From<Result<Reply, Reply>> for Reply {
    fn from(result: Result<Reply, Reply>) -> Reply {
        result.unwrap_or_else(|reply| reply)
    }
}

/// Sets a header whose value may hold anything a client wrote; one that HTTP cannot carry is left out.
pub(crate) fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        answer.headers_mut().insert(name, value);
    }
}

/// The cache middleware: by the ending of the path, whatever is behind it.
pub(crate) fn cache_headers(path: &str, answer: &mut Answer) {
    const IMAGES: [&str; 9] = [".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"];
    let name = path.rsplit('/').next().unwrap_or_default();
    let entry_point = name.starts_with("index") && name.ends_with(".json");
    let value = if path.ends_with(".js") || path.ends_with(".css") || entry_point {
        "no-cache"
    } else if !IMAGES.iter().any(|ending| path.to_lowercase().ends_with(ending)) {
        return;
    } else {
        match answer.status().as_u16() {
            404 => "public, max-age=3600",
            200..=206 | 301 | 308 => "public, max-age=86400",
            302 | 303 | 307 => "no-cache",
            _ => return,
        }
    };
    if !answer.headers().contains_key(CACHE_CONTROL) {
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(value));
    }
}
