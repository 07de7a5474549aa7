//! A caller: one credential, one source address, a fresh TLS connection for each request, and a close look at each answer.

use crate::deadline::{done, eventually, within};
use crate::headers;
use crate::raw::{RawConnection, RawResponse};
use crate::tls::{self, Trust};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {:?}", self.status, self.text()))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The stable code of a refusal: of a problem, or of an error in ComfyUI's form.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let code = body.get("code").or_else(|| body.pointer("/error/extra_info/code"));
        code.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// This answer, which has to have a status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// What a caller can tell two answers apart by: everything but the request's own id and the time of day.
    pub fn without_request_id(&self) -> (u16, Vec<(String, String)>, String) {
        let mut body = self.text();
        let id = self.header("x-request-id").map(str::to_owned);
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            body = body.replace(&id, "REQUEST-ID");
        }
        let kept = self.headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
        let mut kept: Vec<(String, String)> = kept
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        kept.sort();
        (self.status.as_u16(), kept, body)
    }
}

/// A caller of the gateway.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    trust: Trust,
    source: Ipv4Addr,
    credential: Vec<(String, String)>,
    /// Texts that no answer may hold: addresses of backends, paths of directories.
    secrets: Arc<Vec<String>>,
}

impl Client {
    /// A caller without a credential, from 127.0.0.1.
    pub fn new(address: SocketAddr, trust: Trust, secrets: Arc<Vec<String>>) -> Client {
        Client { address, trust, source: Ipv4Addr::LOCALHOST, credential: Vec::new(), secrets }
    }

    /// The same caller with a bearer token: an API key or a JWT.
    #[must_use]
    pub fn bearer(&self, token: &str) -> Client {
        self.with_headers(&[("authorization", &format!("Bearer {token}"))])
    }

    /// The same caller with HTTP Basic.
    #[must_use]
    pub fn basic(&self, user: &str, password: &str) -> Client {
        self.with_headers(&[("authorization", &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))])
    }

    /// The same caller with these headers and no other credential.
    #[must_use]
    pub fn with_headers(&self, headers: &[(&str, &str)]) -> Client {
        let credential = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Client { credential, ..self.clone() }
    }

    /// The same caller with its credential, and with these headers too.
    #[must_use]
    pub fn and(&self, headers: &[(&str, &str)]) -> Client {
        let further = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Client { credential: self.credential.iter().cloned().chain(further).collect(), ..self.clone() }
    }

    /// The same caller from another address of the loopback network: limits by address count it apart.
    #[must_use]
    pub fn from_address(&self, source: [u8; 4]) -> Client {
        Client { source: Ipv4Addr::from(source), ..self.clone() }
    }

    /// `localhost:PORT`.
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// The headers that say who this is.
    pub fn credential(&self) -> &[(String, String)] {
        &self.credential
    }

    /// The credential as lines of a raw request.
    pub fn credential_lines(&self) -> String {
        self.credential.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Response {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.call(Method::POST, path, &[("content-type", "application/json")], body.to_string().into()).await
    }

    /// `POST` of bytes with a content type.
    pub async fn post_bytes(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Response {
        self.call(Method::POST, path, &[("content-type", content_type)], body.into()).await
    }

    /// Uploads a file by a form of ours: to `/upload/image` or `/upload/mask`.
    pub async fn upload(&self, path: &str, fields: &[(&str, &str)], filename: &str, content: &[u8]) -> Response {
        self.post_form(path, crate::pictures::form(fields, filename, content)).await
    }

    /// Posts a whole form with the harness's boundary.
    pub async fn post_form(&self, path: &str, form: Vec<u8>) -> Response {
        let kind = format!("multipart/form-data; boundary={}", crate::pictures::BOUNDARY);
        self.post_bytes(path, &kind, form).await
    }

    /// Any request over HTTP/1.1.
    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Response {
        let what = format!("{method} {path}");
        let request = self.request(method, path, headers, body);
        let answer = done(&what, async {
            let stream = tls::connect(self.address, self.source, &self.trust, &["http/1.1"]).await;
            self.sent(stream, request).await
        });
        self.checked(&what, answer.await)
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Full<Bytes>> {
        let bodied = !body.is_empty() || headers.iter().any(|(name, _)| CONTENT_TYPE == *name);
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.authority());
        for (name, value) in
            self.credential.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(headers.iter().copied())
        {
            request = request.header(name, value);
        }
        if bodied {
            request = request.header("content-length", body.len());
        }
        request.body(Full::new(body)).unwrap()
    }

    /// The same caller on one connection, which is opened anew when the gateway has closed it: for tests of thousands of requests.
    pub fn kept(&self) -> Kept {
        Kept { client: self.clone(), sender: None }
    }

    /// `POST` of JSON whose connection may fail: then what the system said.
    ///
    /// # Errors
    /// No connection, or one that ended before the answer.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Response, String> {
        self.try_call(Method::POST, path, &[(CONTENT_TYPE.as_str(), "application/json")], body.to_string().into()).await
    }

    /// Any request whose connection may fail: then what the system said.
    ///
    /// # Errors
    /// No connection, or one that ended before the whole answer.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response, String> {
        let stream = tls::try_connect(self.address, self.source, &self.trust, &["http/1.1"]).await;
        let stream = stream.map_err(|error| format!("connecting: {error}"))?;
        let request = self.request(method, path, headers, body);
        let answer = within(path, self.sent(stream, request)).await.map_err(|error| format!("asking: {error}"))?;
        Ok(self.checked(path, answer))
    }

    /// A WebSocket of this caller, unless the gateway is not there, goes away meanwhile, or refuses it.
    pub async fn socket_if_there(&self, client_id: &str) -> Option<crate::ws::Socket> {
        let stream = tls::try_connect(self.address, self.source, &self.trust, &["http/1.1"]).await.ok()?;
        let headers: Vec<_> = self.credential.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let path = format!("/ws?clientId={client_id}");
        within("WebSocket upgrade", crate::ws::Socket::try_open(stream, &self.authority(), &path, &headers)).await.ok()
    }

    async fn sent(
        &self,
        stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response, hyper::Error> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driven = tokio::spawn(connection);
        let response = collected(sender.send_request(request).await?).await;
        driven.abort();
        response
    }

    /// Any request over HTTP/2.
    pub async fn call_h2(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Response {
        let what = format!("{method} {path} over HTTP/2");
        let response = self.call_h2_unchecked(method, path, headers, body).await;
        self.checked(&what, response)
    }

    /// Any request over HTTP/2, where not the gateway but its HTTP/2 layer is expected to answer.
    pub async fn call_h2_unchecked(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Response {
        let what = format!("{method} {path} over HTTP/2");
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.authority()));
        for (name, value) in
            self.credential.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(headers.iter().copied())
        {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let answer = done(&what, async {
            let stream = tls::connect(self.address, self.source, &self.trust, &["h2"]).await;
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            let driven = tokio::spawn(connection);
            let response = collected(sender.send_request(request).await?).await;
            driven.abort();
            response
        });
        answer.await
    }

    fn checked(&self, what: &str, response: Response) -> Response {
        headers::check(&response.headers, what);
        let text = response.text();
        for secret in self.secrets.iter() {
            assert!(!text.contains(secret.as_str()), "{what}: the answer tells `{secret}`: {text}");
        }
        response
    }

    /// A TLS connection, HTTP/1.1 by ALPN, on which nothing was said.
    pub async fn stream(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        tls::connect(self.address, self.source, &self.trust, &["http/1.1"]).await
    }

    /// A connection for raw bytes.
    pub async fn raw_connection(&self) -> RawConnection {
        RawConnection::tls(self.address, self.source, &self.trust).await
    }

    /// Sends bytes on a connection of their own and reads one response; `None` if the gateway only closed.
    pub async fn raw(&self, bytes: &[u8]) -> Option<RawResponse> {
        let mut connection = self.raw_connection().await;
        connection.write(bytes).await;
        connection.response().await
    }

    /// Opens a WebSocket.
    ///
    /// # Panics
    /// When the upgrade is refused.
    pub async fn socket(&self, client_id: Option<&str>) -> crate::ws::Socket {
        match self.try_socket("/ws", client_id, &[]).await {
            Ok(socket) => socket,
            Err(response) => panic!("the upgrade was refused: {response:?}"),
        }
    }

    /// Tries to open a WebSocket at a path.
    ///
    /// # Errors
    /// The status of the refusal.
    pub async fn try_socket(
        &self,
        path: &str,
        client_id: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<crate::ws::Socket, u16> {
        let stream = tls::connect(self.address, self.source, &self.trust, &["http/1.1"]).await;
        let query = client_id.map(|id| format!("?clientId={id}")).unwrap_or_default();
        let own = self.credential.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let headers: Vec<(&str, &str)> = own.chain(headers.iter().copied()).collect();
        within(
            "WebSocket upgrade",
            crate::ws::Socket::open(stream, &self.authority(), &format!("{path}{query}"), &headers),
        )
        .await
    }

    /// Submits a workflow that has to be accepted, and gives its prompt id.
    pub async fn submit(&self, workflow: Value) -> String {
        self.submit_with(json!({ "prompt": workflow })).await
    }

    /// Submits a whole envelope that has to be accepted, and gives its prompt id.
    pub async fn submit_with(&self, envelope: Value) -> String {
        let answer = self.post("/prompt", &envelope).await.expect(200).json();
        assert_eq!(answer["node_errors"], json!({}), "{answer}");
        answer["prompt_id"].as_str().unwrap().to_owned()
    }

    /// Waits until a prompt has its history entry, and gives that.
    pub async fn finished(&self, prompt: &str) -> Value {
        eventually(&format!("history of {prompt}"), || async {
            let mut history = self.get(&format!("/history/{prompt}")).await.expect(200).json();
            history.get_mut(prompt).map(Value::take)
        })
        .await
    }

    /// Waits until a prompt runs.
    pub async fn running(&self, prompt: &str) {
        eventually(&format!("{prompt} runs"), || async {
            let queue = self.get("/queue").await.expect(200).json();
            let running = queue["queue_running"].as_array().unwrap();
            running.iter().any(|item| item[1] == prompt).then_some(())
        })
        .await;
    }

    /// The path and query of a signed URL.
    pub fn path_of(&self, url: &str) -> String {
        let rest = url.strip_prefix("https://").map_or(url, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
        rest.to_owned()
    }

    /// The same caller with no credential at all.
    #[must_use]
    pub fn stranger(&self) -> Client {
        self.with_headers(&[])
    }

    /// Whether `authorization` is among the headers.
    pub fn has_credential(&self) -> bool {
        self.credential.iter().any(|(name, _)| AUTHORIZATION == name.as_str())
    }
}

/// A caller that keeps its connection.
#[derive(Debug)]
pub struct Kept {
    client: Client,
    sender: Option<hyper::client::conn::http1::SendRequest<Full<Bytes>>>,
}

impl Kept {
    /// Any request over HTTP/1.1.
    ///
    /// # Panics
    /// When the gateway closes in the middle of an answer.
    pub async fn call(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Response {
        let what = format!("{method} {path}");
        let ready = match &mut self.sender {
            Some(sender) => within(&what, sender.ready()).await.is_ok(),
            None => false,
        };
        if !ready {
            let client = &self.client;
            let stream = tls::connect(client.address, client.source, &client.trust, &["http/1.1"]).await;
            let (sender, connection) = done(&what, hyper::client::conn::http1::handshake(TokioIo::new(stream))).await;
            // Ends with the connection, which ends with the sender.
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().expect("it was just made");
        let request = self.client.request(method, path, headers, body);
        let answer = done(&what, async { collected(sender.send_request(request).await?).await }).await;
        self.client.checked(&what, answer)
    }
}

async fn collected(response: http::Response<hyper::body::Incoming>) -> Result<Response, hyper::Error> {
    let (head, body) = response.into_parts();
    Ok(Response { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
}

/// The file objects of a history entry, of all its nodes, in the order of the answer.
pub fn files_of(entry: &Value) -> Vec<Value> {
    let nodes = entry["outputs"].as_object().unwrap();
    let lists = nodes.values().flat_map(|node| node.as_object().unwrap().values());
    lists.filter_map(Value::as_array).flatten().filter(|item| item.get("filename").is_some()).cloned().collect()
}
