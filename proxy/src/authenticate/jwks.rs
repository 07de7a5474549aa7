//! Key sets of issuers (JWKS, RFC 7517): fetched from the one configured address, kept, and asked for the key of a token.
//!
//! [`document`] reads a set, [`schedule`] says when to fetch and how long a set counts, [`fetch`] is the only part that touches the network, [`cache`] joins the three. The
//! rule of the whole: a token that can't be checked is refused, with 503 where trying again may help; it is never let through.

pub mod cache;
pub mod document;
pub mod fetch;
pub mod schedule;
pub mod url;

pub use cache::{KeySet, KeySetError, KeySets};
