//! HTTP as aiohttp and ComfyUI's server.py speak it: sockets that can be killed, routes matched on decoded segments.

mod answer;
mod body;
mod files;
mod models;
mod newer;
mod prompts;
mod users;
mod web;
mod ws;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::SeenRequest;
use crate::events;
use crate::json::{Json, dict};
use crate::packs;
use crate::process::{Connected, Process};
use answer::{Answer, Reply};

/// Waiting connections.
const BACKLOG: u32 = 128;

/// Binds, and listens once the start-up delay is over. Returns the bound address.
pub(crate) fn listen(process: &Arc<Process>, address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let bound = socket.local_addr()?;
    process.listens(socket2::SockRef::from(&socket).try_clone()?);
    let delay = process.options().start_delay;
    if delay.is_zero() {
        let listener = socket.listen(BACKLOG)?;
        process.spawn(accept(Arc::clone(process), listener));
        return Ok(bound);
    }
    let owner = Arc::clone(process);
    process.spawn(async move {
        // Bound but not listening: connections are refused, as while ComfyUI imports its nodes.
        tokio::time::sleep(delay).await;
        if let Ok(listener) = socket.listen(BACKLOG) {
            accept(owner, listener).await;
        }
    });
    Ok(bound)
}

async fn accept(process: Arc<Process>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        // Small answers must not wait for an acknowledgement; a failure costs only speed.
        let _ = stream.set_nodelay(true);
        if let Ok((stream, connected)) = tracked(&process, stream) {
            process.spawn(serve(Arc::clone(&process), stream, Arc::new(connected)));
        }
    }
}

/// Keeps a second handle of the socket, by which the end of the process resets it.
fn tracked(process: &Arc<Process>, stream: TcpStream) -> io::Result<(TcpStream, Connected)> {
    let stream = stream.into_std()?;
    let second = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, process.connected(second)))
}

async fn serve(process: Arc<Process>, stream: TcpStream, connected: Arc<Connected>) {
    let service = service_fn(move |request| {
        let (process, connected) = (Arc::clone(&process), Arc::clone(&connected));
        async move { Ok::<_, Infallible>(respond(process, connected, request).await) }
    });
    // A client that breaks the protocol or leaves is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// One request with what every handler needs.
pub(crate) struct Call {
    pub(crate) process: Arc<Process>,
    pub(crate) request: Request<Incoming>,
    /// Query parameters, decoded, in order.
    pub(crate) query: Vec<(String, String)>,
}

impl Call {
    /// The first parameter of that name.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON, decoded with the charset that Content-Type names.
    pub(crate) async fn json(&mut self) -> Result<Json, Reply> {
        body::json(&mut self.request).await
    }
}

async fn respond(process: Arc<Process>, connected: Arc<Connected>, request: Request<Incoming>) -> Answer {
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let seen: SeenRequest = (request.method().clone(), target, request.headers().clone());
    process.shared().requests.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    process.shared().faults.http_flows().await;
    let newer = process.options().newer;
    let cross_site = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if foreign_origin(&request) || (newer && cross_site) {
        return Reply::Empty(StatusCode::FORBIDDEN).answer();
    }
    if request.method() == Method::OPTIONS {
        return Reply::Empty(StatusCode::OK).answer();
    }
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default();
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    });
    let query = query.collect();
    let mut answer = route(Call { process, request, query }, connected, &path).await.answer();
    answer::cache_headers(&path, &mut answer);
    answer
}

/// Percent-decoding as yarl does it: what is no escape stays.
pub(crate) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let escape = if *byte == b'%' { after.split_at_checked(2) } else { None };
        match escape.and_then(|(digits, after)| Some((hex(digits)?, after))) {
            Some((value, after)) => {
                out.push(value);
                rest = after;
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digits: &[u8]) -> Option<u8> {
    // `from_str_radix` alone would take a sign.
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

/// server.py's origin check: only a loopback Host is tested, and an Origin that is no URL passes.
fn foreign_origin(request: &Request<Incoming>) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_lowercase);
    let (Some(host), Some(origin)) = (header("host"), header("origin")) else {
        return false;
    };
    let origin = origin.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
    let (host_name, host_port) = split_port(&host);
    let (origin_name, origin_port) = split_port(origin);
    let loopback = host_name == "localhost"
        || host_name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !loopback || origin_name.is_empty() {
        return false;
    }
    let host = if origin_port.is_none() { host_name } else { &host };
    let origin = if host_port.is_none() { origin_name } else { origin };
    host != origin
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => (name, Some(port)),
        _ => (authority, None),
    }
}

/// Finds the handler: as written, then without one leading `/api`.
async fn route(call: Call, connected: Arc<Connected>, path: &str) -> Reply {
    let segments: Vec<String> = path.strip_prefix('/').unwrap_or(path).split('/').map(decode).collect();
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let names = match names.as_slice() {
        ["api", "jobs", ..] => names.as_slice(),
        ["api", rest @ ..] if !rest.is_empty() && rest.first() != Some(&"internal") => rest,
        all => all,
    };
    dispatch(call, connected, names, path).await
}

/// What the server announces, of either version.
fn server_features(process: &Process) -> Json {
    let features = events::server_features();
    if process.options().newer { newer::features(features) } else { features }
}

/// The table of routes.
async fn dispatch(mut call: Call, connected: Arc<Connected>, names: &[&str], path: &str) -> Reply {
    let method = call.request.method().clone();
    // HEAD runs GET; hyper leaves the body out.
    let verb = if method == Method::HEAD { "GET" } else { method.as_str() };
    if call.process.options().newer
        && let Some(reply) = newer::route(&mut call, verb, names).await
    {
        return reply;
    }
    match (verb, names) {
        ("GET", ["ws"]) => ws::upgrade(call, connected),
        ("GET", [""]) => web::page_file(&call, names).unwrap_or_else(files::front_page),
        ("GET", ["prompt"]) => Reply::json(call.process.queue_info()),
        ("POST", ["prompt"]) => prompts::submit(&mut call).await.into(),
        ("GET", ["queue"]) => prompts::queue(&call),
        ("POST", ["queue"]) => prompts::change_queue(&mut call).await.into(),
        ("POST", ["interrupt"]) => prompts::interrupt(&mut call).await.into(),
        ("POST", ["free"]) => prompts::free(&mut call).await.into(),
        ("GET", ["history"]) => prompts::history(&call).into(),
        ("POST", ["history"]) => prompts::change_history(&mut call).await.into(),
        ("GET", ["history", id]) => prompts::history_of(&call, id),
        ("GET", ["api", "jobs"]) => prompts::jobs(&call).into(),
        ("GET", ["api", "jobs", id]) => prompts::job(&call, id).into(),
        ("GET", ["view"]) => files::view(&call).into(),
        ("POST", ["upload", "image"]) => files::upload(&mut call).await.into(),
        ("POST", ["upload", "mask"]) => files::upload_mask(&mut call).await.into(),
        ("GET", ["view_metadata", folder]) => models::metadata(&call, folder),
        ("GET", ["userdata"]) => users::list(&call).into(),
        ("GET", ["v2", "userdata"]) => users::list_v2(&call).into(),
        ("GET", ["userdata", file]) => users::read(&call, file).into(),
        ("POST", ["userdata", file]) => users::write(&mut call, file).await.into(),
        ("DELETE", ["userdata", file]) => users::delete(&call, file).into(),
        ("POST", ["userdata", file, "move", to]) => users::rename(&call, file, to).into(),
        ("GET", ["settings"]) => users::settings(&call).into(),
        ("POST", ["settings"]) => users::change_settings(&mut call).await.into(),
        ("GET", ["settings", id]) => users::setting(&call, id).into(),
        ("POST", ["settings", id]) => users::change_setting(&mut call, id).await.into(),
        ("GET", ["users"]) => users::users(&call),
        ("POST", ["users"]) => users::add_user(&mut call).await.into(),
        ("GET", ["features"]) => Reply::json(server_features(&call.process)),
        ("GET", ["system_stats"]) => models::system_stats(&call),
        ("GET", ["object_info"]) => models::object_info(&call),
        ("GET", ["object_info", class]) => models::object_info_of(&call, class),
        ("GET", ["models"]) => models::folders(),
        ("GET", ["models", folder]) => models::names(&call, folder),
        ("GET", ["embeddings"]) => models::embeddings(&call),
        ("GET", ["experiment", "models"]) => models::experiment_folders(&call),
        ("GET", ["experiment", "models", "preview", ..]) => Reply::not_built("model previews"),
        ("GET", ["experiment", "models", folder]) => models::experiment_names(&call, folder),
        ("GET", ["extensions"]) => web::scripts(&call),
        ("GET", ["extensions", pack, "pack.js"]) => web::script(&call, pack).unwrap_or(Reply::NoStaticFile),
        ("GET" | "POST", [pack, "hello"]) if packs::number_of_name(pack, call.process.options().packs).is_some() => {
            web::hello(&mut call, pack, verb == "POST").await.unwrap_or(Reply::NoStaticFile)
        }
        ("GET", ["i18n" | "workflow_templates" | "global_subgraphs"]) => Reply::json(dict([])),
        ("GET", ["global_subgraphs", _]) => Reply::json(Json::Null),
        ("GET", ["internal", "logs"]) => models::logs(&call),
        ("GET", ["internal", "logs", "raw"]) => models::logs_raw(&call),
        ("PATCH", ["internal", "logs", "subscribe"]) => models::subscribe_logs(&mut call).await.into(),
        ("GET", ["internal", "folder_paths"]) => models::folder_paths(&call),
        ("GET", ["internal", "files", kind]) => models::folder_files(&call, kind),
        ("POST", ["stand-in", "faults"]) if call.process.options().faults_by_http => {
            models::set_faults(&mut call).await.into()
        }
        ("GET", ["internal", ..]) => Reply::text(StatusCode::NOT_FOUND, "404: Not Found"),
        ("GET", _) if path.starts_with("//") || path.contains("%00") => {
            Reply::text(StatusCode::NOT_FOUND, "404: Not Found")
        }
        ("GET", _) => web::page_file(&call, names).unwrap_or(Reply::NoStaticFile),
        _ => Reply::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_what_is_none_stays() {
        for (text, decoded) in
            [("%73ystem", "system"), ("a%2Fb", "a/b"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("%+1", "%+1"), ("é", "é")]
        {
            assert_eq!(decode(text), decoded);
        }
    }
}
