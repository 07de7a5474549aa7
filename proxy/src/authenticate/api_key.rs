//! API keys: `cg_<id>_<secret><crc>`.

use crate::clock::WallMillis;
use crate::ids::KeyId;
use crate::owner::{Owner, Scopes};
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};

/// What the ledger keeps of a key: everything but the secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The public part.
    pub id: KeyId,
    /// Whose name its bearer acts in; `owner.key` is this key.
    pub owner: Owner,
    /// What its bearer may do.
    pub scopes: Scopes,
    /// SHA-256 of the secret: 160 random bits need no slow hash.
    pub secret_hash: Digest,
    /// A word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was made.
    pub created_at: WallMillis,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<WallMillis>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<WallMillis>,
}
