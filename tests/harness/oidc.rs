//! An identity provider on loopback that does as it is told, well or badly, and the browser that goes between it and the gateway.

use crate::client::{Client, Response};
use crate::jwks::{Answer, published, token_of};
use crate::tokens::{Signer, altered, now};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Our client at the provider.
pub const CLIENT_ID: &str = "gate";
/// Its secret: with letters that Basic has to encode.
pub const CLIENT_SECRET: &str = "s3cret/+%:&";

/// Makes the ID token out of the key and the claims that are right; `None`: no ID token.
pub type Forge = Arc<dyn Fn(&Signer, &Value) -> Option<String> + Send + Sync>;

/// An identity provider. It ends with the test's runtime.
#[derive(Clone)]
pub struct Provider {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// Token answers are held back as long as this is there.
#[derive(Debug)]
pub struct TokensHeld(#[expect(dead_code, reason = "dropped, it lets them go")] watch::Sender<()>);

/// What it does.
pub struct State {
    /// Signs.
    pub signer: Arc<Signer>,
    /// The name of its key.
    pub kid: String,
    /// Changes to the claims; null takes one away.
    pub claims: Value,
    /// Changes to its metadata.
    pub metadata: Value,
    /// In place of the metadata.
    pub metadata_answer: Option<Answer>,
    /// In place of tokens.
    pub token_answer: Option<Answer>,
    /// In place of the ID token.
    pub forge: Option<Forge>,
    /// Whether it gives refresh tokens.
    pub renews: bool,
    /// What it says of the access token.
    pub expires_in: Option<u64>,
    /// Forms that came to its token endpoint, oldest first.
    pub asked: Vec<HashMap<String, String>>,
    /// Fetches of its metadata.
    pub looks: usize,
    held: Option<watch::Receiver<()>>,
    codes: HashMap<String, HashMap<String, String>>,
    refresh_token: Option<String>,
    drawn: u64,
}

impl State {
    fn drawn(&mut self, what: &str) -> String {
        self.drawn += 1;
        format!("{what}-{}", self.drawn)
    }

    /// Forgets every grant: who comes with one is told `invalid_grant`.
    pub fn revoke(&mut self) {
        self.refresh_token = None;
    }
}

impl Provider {
    /// Starts a good one with a key for ES256.
    pub async fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            signer: Arc::new(Signer::es256()),
            kid: "k1".to_owned(),
            claims: json!({}),
            metadata: json!({}),
            metadata_answer: None,
            token_answer: None,
            forge: None,
            renews: false,
            expires_in: Some(300),
            asked: Vec::new(),
            looks: 0,
            held: None,
            codes: HashMap::new(),
            refresh_token: None,
            drawn: 0,
        };
        let provider = Provider { address, state: Arc::new(Mutex::new(state)) };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = serving.clone();
                tokio::spawn(async move { provider.serve(stream).await });
            }
        });
        provider
    }

    /// What it does from now on.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its issuer.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its `[[oidc]]` table, with these further lines. The secret is in the file `oidc.secret`.
    pub fn configuration(&self, id: &str, lines: &str) -> String {
        format!(
            "[[oidc]]\nid = \"{id}\"\nissuer = \"{}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \"file:oidc.secret\"\n{lines}\n",
            self.issuer()
        )
    }

    /// Lets the person in whom the gateway sent with this address, and gives the code.
    pub fn code(&self, sent: &Sent) -> String {
        let mut state = self.state();
        let code = state.drawn("code");
        state.codes.insert(code.clone(), sent.asked.clone());
        code
    }

    /// Holds back what its token endpoint answers from now on, until the value is dropped. It is made at once: `asked` tells that it is.
    pub fn hold_tokens(&self) -> TokensHeld {
        let (held, watched) = watch::channel(());
        self.state().held = Some(watched);
        TokensHeld(held)
    }

    async fn serve(&self, mut stream: TcpStream) {
        let Some((head, body)) = request(&mut stream).await else { return };
        let answer = self.answer(&head, &body);
        let held = self.state().held.clone().filter(|_| head.contains(" /token "));
        if let Some(mut held) = held {
            // An error tells that nobody holds it any more.
            let _ = held.changed().await;
        }
        let bytes = match answer {
            Answer::Document(body, headers) => {
                let status = if headers.contains("x-error") { "400 Bad Request" } else { "200 OK" };
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
                );
                [head.into_bytes(), body].concat()
            }
            Answer::Raw(bytes) => bytes,
            Answer::Close => return,
            Answer::Silence => std::future::pending().await,
        };
        // The gateway may have had enough before the end.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }

    fn answer(&self, head: &str, body: &str) -> Answer {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let issuer = self.issuer();
        let mut state = self.state();
        match path.as_str() {
            "/.well-known/openid-configuration" => {
                state.looks += 1;
                let metadata = json!({
                    "issuer": issuer,
                    "authorization_endpoint": format!("{issuer}/authorize"),
                    "token_endpoint": format!("{issuer}/token"),
                    "jwks_uri": format!("{issuer}/keys"),
                    "end_session_endpoint": format!("{issuer}/logout"),
                });
                let metadata = altered(&metadata, &state.metadata);
                state.metadata_answer.clone().unwrap_or_else(|| document(&metadata))
            }
            "/keys" => document(&json!({"keys": [published(&state.signer, &state.kid)]})),
            "/token" => {
                let form = pairs(body);
                state.asked.push(form.clone());
                if let Some(answer) = state.token_answer.clone() {
                    return answer;
                }
                if !is_our_client(head) {
                    return refusal("invalid_client");
                }
                tokens(&mut state, &issuer, &form).unwrap_or_else(|| refusal("invalid_grant"))
            }
            _ => Answer::Raw(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()),
        }
    }
}

/// The answer of a token endpoint that refuses.
pub fn refusal(word: &str) -> Answer {
    Answer::Document(json!({"error": word}).to_string().into_bytes(), "x-error: 1\r\n".to_owned())
}

fn document(value: &Value) -> Answer {
    Answer::Document(value.to_string().into_bytes(), String::new())
}

fn tokens(state: &mut State, issuer: &str, form: &HashMap<String, String>) -> Option<Answer> {
    let asked = match form.get("grant_type")?.as_str() {
        "authorization_code" => {
            let asked = state.codes.remove(form.get("code")?)?;
            let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, form.get("code_verifier")?.as_bytes()));
            if *asked.get("code_challenge")? != challenge || asked.get("redirect_uri") != form.get("redirect_uri") {
                return None;
            }
            asked
        }
        "refresh_token" if form.get("refresh_token") == state.refresh_token.as_ref() => HashMap::new(),
        _ => return None,
    };
    let access = state.drawn("access");
    let hash = digest(&SHA256, access.as_bytes());
    let now = now();
    let claims = json!({
        "iss": issuer, "aud": CLIENT_ID, "sub": "ada", "org_id": "acme", "iat": now, "exp": now + 300, "sid": "s-1",
        "at_hash": URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]),
    });
    let nonce = asked.get("nonce").map_or(Value::Null, |nonce| json!(nonce));
    let claims = altered(&altered(&claims, &json!({"nonce": nonce})), &state.claims);
    let id_token = match &state.forge {
        Some(forge) => forge(&state.signer, &claims),
        None => Some(token_of(&state.signer, &state.kid, &claims)),
    };
    let mut answer = json!({"access_token": access, "token_type": "Bearer"});
    if let Some(id_token) = id_token {
        answer["id_token"] = json!(id_token);
    }
    if let Some(expires_in) = state.expires_in {
        answer["expires_in"] = json!(expires_in);
    }
    if state.renews {
        let token = state.drawn("refresh");
        answer["refresh_token"] = json!(token);
        state.refresh_token = Some(token);
    }
    Some(document(&answer))
}

/// RFC 6749 §2.3.1: both halves are encoded as in a form before Basic joins them.
fn is_our_client(head: &str) -> bool {
    let basic = head.lines().find_map(|line| line.strip_prefix("authorization: Basic "));
    let Some(text) = basic.and_then(|text| String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()) else {
        return false;
    };
    let (id, secret) = text.split_once(':').unwrap_or_default();
    (decoded(id).as_str(), decoded(secret).as_str()) == (CLIENT_ID, CLIENT_SECRET)
}

async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

/// The pairs of a query or form.
pub fn pairs(text: &str) -> HashMap<String, String> {
    let pair = |piece: &str| piece.split_once('=').map(|(key, value)| (decoded(key), decoded(value)));
    text.split('&').filter_map(pair).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// A browser that the gateway has sent to a provider.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Where to, without the query.
    pub to: String,
    /// What the address asks for.
    pub asked: HashMap<String, String>,
    /// `NAME=VALUE` of the cookie that binds the login to it.
    pub cookie: String,
    stranger: Client,
}

impl Sent {
    /// Begins a login at that path of the gateway.
    ///
    /// # Panics
    /// When the gateway sends nobody anywhere.
    pub async fn from(stranger: &Client, path: &str) -> Sent {
        let answer = stranger.get(path).await.expect(303);
        let location = answer.header("location").unwrap().to_owned();
        let (to, query) = location.split_once('?').unwrap_or((&location, ""));
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Sent { to: to.to_owned(), asked: pairs(query), cookie, stranger: stranger.stranger() }
    }

    /// The path that leads back, with this code.
    pub fn back(&self, code: &str) -> String {
        let redirect = &self.asked["redirect_uri"];
        let path = redirect.splitn(4, '/').nth(3).unwrap();
        format!("/{path}?code={code}&state={}", self.asked["state"])
    }

    /// This browser at a path of the gateway, led there by the provider's page.
    pub async fn get(&self, path: &str) -> Response {
        let led = [("cookie", self.cookie.as_str()), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        self.stranger.with_headers(&led).get(path).await
    }
}

/// A whole login: the cookie of its session, `NAME=VALUE`, and where it led.
///
/// # Panics
/// When the gateway does not let the browser in.
pub async fn log_in(stranger: &Client, provider: &Provider, path: &str) -> (String, String) {
    let sent = Sent::from(stranger, path).await;
    let answer = sent.get(&sent.back(&provider.code(&sent))).await.expect(303);
    let cookie = answer.header("set-cookie").expect("a session").split(';').next().unwrap().to_owned();
    (cookie, answer.header("location").unwrap().to_owned())
}
