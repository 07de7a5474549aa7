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
//! **Leaves to others:** which paths exist (route), bodies (inspect), who calls (authenticate). `X-Forwarded-For` and the PROXY protocol come with
//! a later release: until then a caller's address is its socket's.

pub mod connections;
pub mod front;
pub mod head;
pub mod own_ca;
pub mod reader;
pub mod redirect;
pub mod tls;

pub use connections::{ClientAddr, ConnectionCap, ConnectionLimits, Connections, HelloGuard};
pub use front::{Front, FrontLimits, HeadObserver, STRAGGLER};
pub use head::{HeadError, check_request};
pub use redirect::{Redirect, RedirectTarget};
pub use tls::{CertificateResolver, TlsError};
