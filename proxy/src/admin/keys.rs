//! Keys: created, listed and revoked, through the control socket or on the ledger itself.

use crate::authenticate::api_key::{ApiKey, KeyRow, RandomError};
use crate::clock::{Clock, WallMillis};
use crate::ids::{KeyId, TenantId, UserId};
use crate::owner::{Owner, Scope, Scopes};
use crate::record::ledger::{Ledger, LedgerError};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A label is a word to remember a key by.
const LABEL_CHARS_MAX: usize = 100;

/// A key that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Whose.
    pub tenant: TenantId,
    /// The person; absent: a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// What it may do; empty: what a client needs.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// For people; up to 100 characters, none of them control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How long it is good, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// A key as it may be shown: everything but the secret and its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of KeyRow, by the same names")]
pub struct KeyView {
    pub id: KeyId,
    pub tenant: TenantId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    pub scopes: Scopes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub created_at: WallMillis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<WallMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<WallMillis>,
}

/// Why a key was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Too long, or with control characters.
    #[error("a label has at most 100 characters, none of them control characters")]
    Label,
    /// The system has no random numbers.
    #[error("no random numbers for a key")]
    Random(#[from] RandomError),
    /// The ledger's own reason.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Makes and changes keys.
#[derive(Clone)]
pub struct KeyService {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
}

impl KeyService {
    /// On that ledger.
    pub fn new(ledger: Arc<dyn Ledger>, clock: Clock) -> Self {
        Self { ledger, clock }
    }

    /// Makes a key; the text is given once and stored nowhere.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn create(&self, request: &KeyRequest) -> Result<(String, KeyView), KeyError> {
        if request
            .label
            .as_ref()
            .is_some_and(|label| label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control))
        {
            return Err(KeyError::Label);
        }
        let now = self.clock.wall();
        let key = ApiKey::mint(&SystemRandom::new())?;
        let owner = Owner { tenant: request.tenant.clone(), user: request.user.clone(), key: None };
        let scopes =
            if request.scopes.is_empty() { Scopes::of_a_client() } else { request.scopes.iter().copied().collect() };
        let expires_at = request.expires_in.map(|seconds| now.plus(Duration::from_secs(seconds)));
        let row = key.row(owner, scopes, request.label.clone(), now, expires_at);
        self.ledger.insert_key(row.clone()).await?;
        Ok((key.reveal(), row.into()))
    }

    /// Whether a token made that tenant.
    ///
    /// # Errors
    /// [`KeyError::Ledger`].
    pub async fn has_made(&self, tenant: &TenantId) -> Result<bool, KeyError> {
        Ok(self.ledger.created_tenants().await?.iter().any(|row| row.id == *tenant))
    }

    /// Every key, by id.
    ///
    /// # Errors
    /// [`KeyError::Ledger`].
    pub async fn list(&self) -> Result<Vec<KeyView>, KeyError> {
        Ok(self.ledger.keys().await?.into_iter().map(KeyView::from).collect())
    }

    /// Refuses a key from now on; `None`: there is no such key.
    ///
    /// # Errors
    /// [`KeyError::Ledger`].
    pub async fn revoke(&self, id: &KeyId) -> Result<Option<KeyView>, KeyError> {
        match self.ledger.revoke_key(id, self.clock.wall()).await {
            Ok(row) => Ok(Some(row.into())),
            Err(LedgerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl KeyView {
    /// Whose name its bearer acts in.
    pub fn owner(&self) -> Owner {
        Owner { tenant: self.tenant.clone(), user: self.user.clone(), key: Some(self.id.clone()) }
    }
}

impl From<KeyRow> for KeyView {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.id,
            tenant: row.owner.tenant,
            user: row.owner.user,
            scopes: row.scopes,
            label: row.label,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};

    fn service(dir: &tempfile::TempDir) -> KeyService {
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        KeyService::new(Arc::new(ledger), Clock::turned_by_hand(WallMillis(1000)))
    }

    fn request(label: Option<String>) -> KeyRequest {
        KeyRequest { tenant: "a".parse().unwrap(), user: None, scopes: vec![], label, expires_in: Some(60) }
    }

    #[tokio::test]
    async fn a_key_is_shown_once_and_can_be_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let (key, view) = service.create(&request(None)).await.unwrap();
        assert!(key.starts_with(&format!("cg_{}_", view.id)), "{key}");
        assert_eq!(view.expires_at, Some(WallMillis(61_000)));
        let listed = service.list().await.unwrap();
        assert_eq!(listed, std::slice::from_ref(&view));
        assert!(!serde_json::to_string(&listed).unwrap().contains(&key[20..]));
        assert_eq!(service.revoke(&view.id).await.unwrap().unwrap().revoked_at, Some(WallMillis(1000)));
        assert!(service.revoke(&"000000000000".parse().unwrap()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_label_of_100_characters_is_taken_and_101_or_control_characters_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        assert!(service.create(&request(Some("é".repeat(100)))).await.is_ok());
        assert!(matches!(service.create(&request(Some("é".repeat(101)))).await, Err(KeyError::Label)));
        assert!(matches!(service.create(&request(Some("a\nb".into()))).await, Err(KeyError::Label)));
    }
}
