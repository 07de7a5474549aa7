//! An identity provider's key endpoint on loopback, with faults on demand.

use crate::tokens::{Signer, unsigned};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the endpoint answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This document, with these further header lines (each ended by CR LF).
    Document(Vec<u8>, String),
    /// Any bytes in place of a response.
    Raw(Vec<u8>),
    /// Nothing at all: the connection stays open.
    Silence,
    /// The connection is closed at once.
    Close,
}

/// A key endpoint. It ends with the test's runtime.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    fetches: Arc<AtomicUsize>,
}

impl KeyServer {
    /// Starts one that publishes these keys.
    pub async fn start(keys: &[Value]) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = KeyServer { address, answer: Arc::new(Mutex::new(document(keys))), fetches: Arc::default() };
        let (answer, fetches) = (Arc::clone(&server.answer), Arc::clone(&server.fetches));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&fetches)));
            }
        });
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// Publishes these keys from now on.
    pub fn publish(&self, keys: &[Value]) {
        self.answer(document(keys));
    }

    /// Answers like that from now on.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// How many requests have come.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// The `[[jwt]]` entry of an issuer with these keys and algorithms.
    pub fn configuration(&self, issuer: &str, algorithms: &[&str]) -> String {
        format!(
            "[[jwt]]\nissuer = \"{issuer}\"\naudience = \"comfygate\"\nalgorithms = {algorithms:?}\njwks_url = \"{}\"\ntenant_claim = \"org_id\"\n",
            self.url()
        )
    }
}

fn document(keys: &[Value]) -> Answer {
    Answer::Document(json!({"keys": keys}).to_string().into_bytes(), String::new())
}

async fn serve(mut stream: TcpStream, answer: Arc<Mutex<Answer>>, fetches: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    fetches.fetch_add(1, Ordering::SeqCst);
    let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let bytes = match answer {
        Answer::Document(body, headers) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
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

/// The key of a signer as a set publishes it.
pub fn published(signer: &Signer, kid: &str) -> Value {
    let mut key = signer.public_jwk();
    key["kid"] = json!(kid);
    key["alg"] = json!(signer.algorithm());
    key["use"] = json!("sig");
    key
}

/// A token signed by an RSA key with another of RSA's algorithms.
///
/// # Panics
/// For other keys, and for algorithms that are not RSA's.
pub fn rsa_token_of(signer: &Signer, algorithm: &str, kid: &str, claims: &Value) -> String {
    let Signer::Rs256(pair, _) = signer else { panic!("no RSA key") };
    let way: &'static dyn RsaEncoding = match algorithm {
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        other => panic!("{other}"),
    };
    let message = unsigned(&json!({"alg": algorithm, "kid": kid}), claims);
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(way, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token that names the key it is signed with.
pub fn token_of(signer: &Signer, kid: &str, claims: &Value) -> String {
    signer.token_with(&json!({"alg": signer.algorithm(), "typ": "JWT", "kid": kid}), claims)
}
