//! The web page's files, from a folder that somebody named, and the scripts of made-up packs.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, SERVER};
use hyper::{Response, StatusCode};

use super::Call;
use super::answer::{Reply, set};
use crate::events::Audience;
use crate::json::{Json, dict};
use crate::packs;

/// A file below the web root, `index.html` for the root itself; `None` without a web root.
pub(super) fn page_file(call: &Call, names: &[&str]) -> Option<Reply> {
    let root = call.process.options().web_root.as_deref()?;
    let names = if names == [""] { &["index.html"][..] } else { names };
    let Some(path) = contained(root, names) else { return Some(Reply::NoStaticFile) };
    match std::fs::read(&path) {
        Ok(bytes) => Some(file(&path, bytes)),
        // The package of templates is another one than the page's: no templates are installed.
        Err(_) if names == ["templates", "index.json"] => Some(Reply::json(Json::List(Vec::new()))),
        Err(_) if names == ["templates", "index_logo.json"] => Some(Reply::json(dict([]))),
        Err(_) => Some(Reply::NoStaticFile),
    }
}

/// `GET /extensions`: the scripts that the page loads.
pub(super) fn scripts(call: &Call) -> Reply {
    let packs = call.process.options().packs;
    Reply::json(Json::List((1..=packs).map(|number| packs::script_path(number).into()).collect()))
}

/// `GET /extensions/pack_<n>/pack.js`.
pub(super) fn script(call: &Call, pack: &str) -> Option<Reply> {
    let number = packs::number_of_name(pack, call.process.options().packs)?;
    Some(file(Path::new("pack.js"), packs::script(number).into_bytes()))
}

/// `GET` and `POST /pack_<n>/hello`; the `POST` tells every socket.
pub(super) async fn hello(call: &mut Call, pack: &str, tells: bool) -> Option<Reply> {
    let number = packs::number_of_name(pack, call.process.options().packs)?;
    if tells {
        let said = match call.json().await {
            Ok(said) => said,
            Err(refused) => return Some(refused),
        };
        call.process.hub.send(&packs::event(number), said, Audience::All);
    }
    Some(Reply::json(packs::hello(number)))
}

/// The path below `root`, if every part of it is a plain name.
fn contained(root: &Path, names: &[&str]) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for name in names {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(part)), None) => path.push(part),
            _ => return None,
        }
    }
    Some(path)
}

fn file(path: &Path, bytes: Vec<u8>) -> Reply {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let kind = match extension {
        "html" => "text/html",
        "js" | "mjs" => "text/javascript",
        "css" => "text/css",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "ttf" => "font/ttf",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    };
    let mut answer = Response::new(Full::new(Bytes::from(bytes)));
    *answer.status_mut() = StatusCode::OK;
    set(&mut answer, SERVER, "Python/3.11 aiohttp/3.14.5");
    set(&mut answer, CONTENT_TYPE, kind);
    Reply::Built(Box::new(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_lead_below_the_root() {
        let root = Path::new("/web");
        assert_eq!(contained(root, &["assets", "a.js"]), Some(PathBuf::from("/web/assets/a.js")));
        for odd in [&[".."][..], &["a", ".."], &["a/b"], &["/etc"], &["."], &[""], &["a", ""]] {
            assert_eq!(contained(root, odd), None, "{odd:?}");
        }
    }
}
