//! Stage 2: which route is this, and what may be done with it.
//!
//! **Comes in:** method and raw target of a request whose head the listen stage has let pass. **Goes out:** a [`RouteMatch`]: the one entry
//! of the table that applies, the decoded path parameters, and the query with the keys that the route knows.
//!
//! **Refuses:** whatever the table does not name ([`RouteError::NotFound`]), a method that the entry does not name
//! ([`RouteError::MethodNotAllowed`]), and a target that is written oddly ([`RouteError::Odd`]): `//`, dot segments, encoded characters that
//! need no encoding, `%2F` where no route expects it, backslash, NUL, `;`. Odd targets are refused and never repaired, because a
//! repaired path is one that ComfyUI and the gateway may read differently (bypass catalogue 14 to 22).
//!
//! **Leaves to others:** who the caller is and which scope it has (authenticate), the body (inspect), and the answer (deliver, or
//! Pingora where the handling is [`Handling::Forward`]). This stage does no I/O: a target gives the same match for everybody, at any time.

pub mod owner;
pub mod path;
pub mod query;
pub mod table;

pub use owner::{InOwner, OwnerRoute, is_own_disk, owner_route};
pub use path::{Below, Odd, RoutePath, below, normalise};
pub use query::Query;
pub use table::{
    Access, Action, Allow, BodyRule, Entry, Handling, Params, Prefix, QueryKeys, RouteMatch, TABLE, Verb, matched_route,
};

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Nothing in the table, or an entry that says so with its reason. The caller learns no difference; the log does.
    #[error("no route{}", .reason.map(|reason| format!(": {reason}")).unwrap_or_default())]
    NotFound {
        /// Why the table refuses the path by name; absent where it does not know it.
        reason: Option<&'static str>,
    },
    /// The path is known, the method is not.
    #[error("method not allowed; allowed: {allow}")]
    MethodNotAllowed {
        /// For the `Allow` header (RFC 9110 §10.2.1).
        allow: Allow,
    },
    /// The target is written in a way that two readers may read differently.
    #[error(transparent)]
    Odd(#[from] Odd),
    /// A key that the route reads stands twice in the query: ComfyUI takes the first, others the last (bypass 20).
    #[error("`{key}` stands more than once in the query")]
    QueryKeyRepeated {
        /// The key, decoded.
        key: String,
    },
}
