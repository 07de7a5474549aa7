//! Stage 1: connections, TLS, and the head of every request.
//!
//! **Comes in:** TCP connections of anybody. **Goes out:** requests whose head is written in the one way that every reader reads alike, handed
//! to Pingora's `HttpProxy`; the caller's [`ClientAddr`]; and for what is refused here an HTTP answer plus a call of [`HeadObserver`].
//!
//! **Refuses:** heads that take longer than 5 s or more than 32 KiB, two framings in one request (`content-length` beside
//! `transfer-encoding`, either of them twice), bare line ends, folded headers, missing or several `Host`, targets other than
//! `/path?query`, methods and upgrades that no route has ([`head::HeadError`]), and connections beyond the caps
//! ([`connections::FullError`]).
//!
//! **Answers** slow-loris heads and hellos, request smuggling, and floods of connections: what Pingora 0.9.1 lets pass and a gateway must not.
//! HTTP/1 heads are read from the raw stream before Pingora sees them ([`front`]), so [`check_request`] must be called for every request
//! of HTTP/2, and may be for HTTP/1, from the first filter of the gateway.
//!
//! **Behind something:** a listener may be told which proxies stand in front of it ([`listeners`]). Then the caller's address is that of the PROXY header
//! ([`proxy_header`]), or the rightmost entry of `X-Forwarded-For` that no trusted proxy wrote about another ([`forwarded`]). From everybody else such headers are noise. On a
//! TLS listener a client certificate of a configured CA is verified here ([`client_certificate`]); whom it stands for, authenticate says.
//!
//! **Leaves to others:** which paths exist (route), bodies (inspect), who calls (authenticate).

pub mod address;
pub mod client_certificate;
pub mod connections;
pub mod forwarded;
pub mod front;
pub mod head;
pub mod listeners;
pub mod own_ca;
pub mod proxy_header;
pub mod proxy_protocol;
pub mod reader;
pub mod redirect;
pub mod tls;
pub mod trace;
pub mod trusted;

pub use address::ListenAddress;
pub use client_certificate::{ClientCertificate, ClientTls, ClientVerifier};
pub use connections::{AddrGroup, ClientAddr, ConnectionCap, ConnectionLimits, Connections, HelloGuard};
pub use front::{Front, FrontLimits, HeadObserver, STRAGGLER};
pub use head::{HeadError, check_request};
pub use listeners::{ListenerFacts, Listeners, Peer};
pub use redirect::{Redirect, RedirectTarget};
pub use tls::{CertificateResolver, TlsError};
