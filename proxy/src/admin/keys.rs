//! Keys: created, rotated, listed, checked and revoked, through the control socket or on the ledger itself.

use crate::authenticate::api_key::{ApiKey, KeyRefused, KeyRow, MadeBy, RandomError};
use crate::clock::{Clock, WallMillis};
use crate::ids::{KeyId, TenantId, UserId};
use crate::owner::{Owner, Scope, Scopes};
use crate::record::ledger::keys::{KeyMade, Rotation};
use crate::record::ledger::{Ledger, LedgerError};
use comfygate_policy::Digest;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A label is a word to remember a key by.
const LABEL_CHARS_MAX: usize = 100;
/// An `Idempotency-Key` is drawn by a program.
const NAME_BYTES_MAX: usize = 200;
/// How long a rotated key is good, unless that is said: long enough for a deployment that runs every night.
pub const OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// The longest overlap: beyond it, a rotation is two keys.
pub const OVERLAP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// And a key with an end.
pub const EXPIRES_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A key that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Whose.
    pub tenant: TenantId,
    /// The person; absent: a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// What it may do; absent: what a client needs.
    #[serde(default, deserialize_with = "named_scopes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub scopes: Vec<Scope>,
    /// For people; up to 100 characters, none of them control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How long it is good, in seconds, up to 3650 days; absent: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = EXPIRES_MAX.as_secs()))]
    pub expires_in: Option<u64>,
    /// Whether it may stand in `?token=` of `/ws`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_query: bool,
}

/// A list of scopes that somebody wrote down. SECURITY: an empty one was meant to allow nothing, and must not stand for what a client needs.
pub(super) fn named_scopes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Scope>, D::Error> {
    let scopes = Vec::<Scope>::deserialize(deserializer)?;
    if scopes.is_empty() {
        return Err(serde::de::Error::custom(
            "an empty list of scopes allows nothing: leave `scopes` out for what a client needs",
        ));
    }
    Ok(scopes)
}

/// A rotation that is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// How long the former key stays good, in seconds; absent: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_seconds: Option<u64>,
}

/// What has become of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It is taken.
    Good,
    /// Its time is over.
    Expired,
    /// Somebody took it back.
    Revoked,
}

impl KeyState {
    /// The name in lists and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Which keys are listed: those that fit everything that is said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFilter {
    /// Of that tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Of that user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// In that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<KeyState>,
}

impl KeyFilter {
    /// In whatever case, as local users are known.
    pub(super) fn is_of_user(&self, key: &KeyView) -> bool {
        let is =
            |user: &UserId| key.user.as_ref().is_some_and(|name| name.as_str().eq_ignore_ascii_case(user.as_str()));
        self.user.as_ref().is_none_or(is)
    }

    fn fits(&self, key: &KeyView) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == key.tenant)
            && self.is_of_user(key)
            && self.state.is_none_or(|state| Some(state) == key.state)
    }
}

/// A key as it may be shown: everything but the secret and its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs, reason = "the fields of KeyRow, by the same names")]
pub struct KeyView {
    pub id: KeyId,
    pub tenant: TenantId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    pub scopes: Scopes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Now; absent from a gateway of an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<KeyState>,
    pub created_at: WallMillis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<WallMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<WallMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<WallMillis>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_query: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_to: Option<KeyId>,
}

/// A key that was made; `POST /v1/keys` and a rotation answer with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MadeKey {
    /// The text, shown this once; `None`: a repeated request, whose key was shown when it was made.
    pub key: Option<String>,
    /// All else.
    pub view: KeyView,
    /// For people who wonder at the `null`: what helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A key that somebody found, asked after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The whole key.
    pub key: String,
}

/// What a text that was found is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckedKey {
    /// The public part.
    pub id: KeyId,
    /// Whether it is the key of that id, and not only one with its id.
    pub proven: bool,
    /// The key of that id; `None`: this gateway has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<KeyView>,
}

/// Why a key was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Too long, or with control characters.
    #[error("a label has at most 100 characters, none of them control characters")]
    Label,
    /// Empty, too long, or with other characters than visible ASCII.
    #[error("`Idempotency-Key` has 1 to 200 visible ASCII characters")]
    Name,
    /// Over at once, or after everybody who could know it.
    #[error("a key is good for 1 second to 3650 days: leave it out for one that ends when it is revoked")]
    Expires,
    /// Longer than it may be.
    #[error("the former key may stay good for at most 90 days")]
    Overlap,
    /// The same `Idempotency-Key` came with another request.
    #[error("this `Idempotency-Key` came with another request before: draw a new one")]
    OtherRequest,
    /// It was rotated before.
    #[error(
        "the key `{0}` was rotated to `{1}` already: rotate that one (with an overlap of 0 if its text is lost), or revoke it"
    )]
    Rotated(KeyId, KeyId),
    /// As many as the tenant may have.
    #[error(
        "the tenant `{tenant}` has {limit} keys, which is all that it may have, ended ones among them: raise `[limits] keys_max`, or lower `ended_keys_kept` there"
    )]
    Full {
        /// Whose.
        tenant: TenantId,
        /// How many it may have.
        limit: u64,
    },
    /// Nothing takes the place of what is over.
    #[error("the key `{0}` can't be rotated: {1}; create another")]
    Over(KeyId, KeyRefused),
    /// Not of the form, or its checksum is wrong.
    #[error("no key of Comfygate: {0}")]
    Format(#[from] crate::authenticate::api_key::KeyFormatError),
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

    /// Makes a key, if its tenant has fewer than `keys_max`; the text is given once and stored nowhere. With a `name`, the client's `Idempotency-Key`, a repeat makes nothing new and gives no text.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn create(&self, request: &KeyRequest, name: Option<&str>, keys_max: u32) -> Result<MadeKey, KeyError> {
        if request
            .label
            .as_ref()
            .is_some_and(|label| label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control))
        {
            return Err(KeyError::Label);
        }
        if request.expires_in.is_some_and(|seconds| !(1..=EXPIRES_MAX.as_secs()).contains(&seconds)) {
            return Err(KeyError::Expires);
        }
        let made_by = name.map(|name| made_by(name, request)).transpose()?;
        let now = self.clock.wall();
        let key = ApiKey::mint(&SystemRandom::new())?;
        let owner = Owner { tenant: request.tenant.clone(), user: request.user.clone(), key: None, shared: false };
        let scopes =
            if request.scopes.is_empty() { Scopes::of_a_client() } else { request.scopes.iter().copied().collect() };
        let expires_at = request.expires_in.map(|seconds| now.plus(Duration::from_secs(seconds)));
        let row = key.row(owner, scopes, request.label.clone(), now, expires_at);
        let row = KeyRow { allow_query: request.allow_query, made_by: made_by.clone(), ..row };
        match self.ledger.make_key(row.clone(), keys_max).await.map_err(KeyError::of_store(&request.tenant))? {
            KeyMade::New => Ok(MadeKey { key: Some(key.reveal()), view: KeyView::of(row, now), note: None }),
            KeyMade::Before(known) => repeated(*known, made_by.as_ref(), now),
        }
    }

    /// Makes a key that takes the place of `id`: of the same owner, scopes, label and lifetime. `id` ends after `overlap`, or when it would have ended. Gives the new key and the former
    /// one; `None`: there is no such key. With a `name`, a repeat changes nothing and gives no text.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn rotate(
        &self,
        id: &KeyId,
        overlap: Duration,
        name: Option<&str>,
        keys_max: u32,
    ) -> Result<Option<(MadeKey, KeyView)>, KeyError> {
        if overlap > OVERLAP_MAX {
            return Err(KeyError::Overlap);
        }
        let made_by = name.map(|name| made_by(name, &("rotate", id, overlap))).transpose()?;
        let Some(former) = self.row(id).await? else { return Ok(None) };
        let now = self.clock.wall();
        let key = ApiKey::mint(&SystemRandom::new())?;
        let lifetime = former.expires_at.map(|end| end.since(former.created_at));
        let owner = Owner { key: None, ..former.owner };
        let row = key.row(owner, former.scopes, former.label, now, lifetime.map(|lifetime| now.plus(lifetime)));
        let row =
            KeyRow { allow_query: former.allow_query, rotated_from: Some(former.id), made_by: made_by.clone(), ..row };
        match self.ledger.rotate_key(id, row.clone(), now.plus(overlap), now, keys_max).await {
            Ok(Rotation::Done(former)) => {
                let made = MadeKey { key: Some(key.reveal()), view: KeyView::of(row, now), note: None };
                Ok(Some((made, KeyView::of(*former, now))))
            }
            Ok(Rotation::Before(known)) => {
                let made = repeated(*known, made_by.as_ref(), now)?;
                Ok(self.show(id).await?.map(|former| (made, former)))
            }
            Ok(Rotation::Already(to)) => Err(KeyError::Rotated(id.clone(), to)),
            Ok(Rotation::Over(refused)) => Err(KeyError::Over(id.clone(), refused)),
            Err(LedgerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(KeyError::of_store(&row.owner.tenant)(error)),
        }
    }

    /// The keys that fit, by id.
    ///
    /// # Errors
    /// [`KeyError::Ledger`].
    pub async fn list(&self, filter: &KeyFilter) -> Result<Vec<KeyView>, KeyError> {
        let now = self.clock.wall();
        let all = self.ledger.keys().await?.into_iter().map(|row| KeyView::of(row, now));
        Ok(all.filter(|key| filter.fits(key)).collect())
    }

    /// One key; `None`: there is no such key.
    ///
    /// # Errors
    /// [`KeyError::Ledger`].
    pub async fn show(&self, id: &KeyId) -> Result<Option<KeyView>, KeyError> {
        Ok(self.row(id).await?.map(|row| KeyView::of(row, self.clock.wall())))
    }

    /// Whose key a text is that somebody found.
    ///
    /// # Errors
    /// [`KeyError::Format`] for what is no key of any Comfygate, [`KeyError::Ledger`].
    pub async fn check(&self, text: &str) -> Result<CheckedKey, KeyError> {
        let key = ApiKey::parse(text)?;
        let row = self.row(key.id()).await?;
        let proven = row.as_ref().is_some_and(|row| key.proves(row));
        let view = row.map(|row| KeyView::of(row, self.clock.wall()));
        Ok(CheckedKey { id: key.id().clone(), proven, view })
    }

    /// Refuses a key from now on; `None`: there is no such key.
    ///
    /// # Errors
    /// [`KeyError::Ledger`].
    pub async fn revoke(&self, id: &KeyId) -> Result<Option<KeyView>, KeyError> {
        let now = self.clock.wall();
        match self.ledger.revoke_key(id, now).await {
            Ok(row) => Ok(Some(KeyView::of(row, now))),
            Err(LedgerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn row(&self, id: &KeyId) -> Result<Option<KeyRow>, KeyError> {
        match self.ledger.key(id).await {
            Ok(row) => Ok(Some(row)),
            Err(LedgerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a request gets whose `Idempotency-Key` another had before, which made this key.
fn repeated(known: KeyRow, made_by: Option<&MadeBy>, now: WallMillis) -> Result<MadeKey, KeyError> {
    if known.made_by.as_ref() != made_by {
        return Err(KeyError::OtherRequest);
    }
    let note = "made by an earlier request with this `Idempotency-Key`: its text was told then, once. If that is lost, revoke this key and create another, or rotate it with an overlap of 0";
    Ok(MadeKey { key: None, view: KeyView::of(known, now), note: Some(note.into()) })
}

fn made_by(name: &str, request: &impl Serialize) -> Result<MadeBy, KeyError> {
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeyError::Name);
    }
    // As it was understood, not as it was written: another order of the fields is the same request.
    let request = serde_json::to_vec(request).map_err(|_| KeyError::Name)?;
    Ok(MadeBy { name: Digest::of(name.as_bytes()), request: Digest::of(&request) })
}

impl KeyError {
    /// What the ledger says of a key of that tenant that is to be stored.
    fn of_store(tenant: &TenantId) -> impl FnOnce(LedgerError) -> Self {
        move |error| match error {
            LedgerError::Full { limit, .. } => Self::Full { tenant: tenant.clone(), limit },
            other => Self::Ledger(other),
        }
    }
}

impl KeyView {
    /// The view of a row, now.
    pub fn of(row: KeyRow, now: WallMillis) -> Self {
        let state = match row.stands(now) {
            Err(KeyRefused::Revoked) => KeyState::Revoked,
            Err(_) => KeyState::Expired,
            Ok(()) => KeyState::Good,
        };
        Self {
            id: row.id,
            tenant: row.owner.tenant,
            user: row.owner.user,
            scopes: row.scopes,
            label: row.label,
            state: Some(state),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            used_at: row.used_at,
            allow_query: row.allow_query,
            rotated_from: row.rotated_from,
            rotated_to: row.rotated_to,
        }
    }

    /// Whose name its bearer acts in.
    pub fn owner(&self) -> Owner {
        Owner { tenant: self.tenant.clone(), user: self.user.clone(), key: Some(self.id.clone()), shared: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};

    const MANY: u32 = 100;

    fn service(dir: &tempfile::TempDir) -> KeyService {
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        KeyService::new(Arc::new(ledger), Clock::turned_by_hand(WallMillis(1000)))
    }

    fn request(label: Option<String>) -> KeyRequest {
        let tenant = "a".parse().unwrap();
        KeyRequest { tenant, user: None, scopes: vec![], label, expires_in: Some(60), allow_query: false }
    }

    async fn all(service: &KeyService) -> Vec<KeyView> {
        service.list(&KeyFilter::default()).await.unwrap()
    }

    #[tokio::test]
    async fn a_key_is_shown_once_and_can_be_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let made = service.create(&request(None), None, MANY).await.unwrap();
        let (key, view) = (made.key.unwrap(), made.view);
        assert!(key.starts_with(&format!("cg_{}_", view.id)), "{key}");
        assert_eq!(view.expires_at, Some(WallMillis(61_000)));
        let listed = all(&service).await;
        assert_eq!(listed, std::slice::from_ref(&view));
        assert!(!serde_json::to_string(&listed).unwrap().contains(&key[20..]));
        assert_eq!(service.show(&view.id).await.unwrap(), Some(view.clone()));
        for _ in 0..2 {
            let revoked = service.revoke(&view.id).await.unwrap().unwrap();
            assert_eq!((revoked.revoked_at, revoked.state), (Some(WallMillis(1000)), Some(KeyState::Revoked)));
        }
        let nobody = "000000000000".parse().unwrap();
        assert!(service.revoke(&nobody).await.unwrap().is_none());
        assert!(service.show(&nobody).await.unwrap().is_none());
        assert!(service.rotate(&nobody, OVERLAP, None, MANY).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_label_of_100_characters_is_taken_and_101_or_control_characters_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        assert!(service.create(&request(Some("é".repeat(100))), None, MANY).await.is_ok());
        assert!(matches!(service.create(&request(Some("é".repeat(101))), None, MANY).await, Err(KeyError::Label)));
        assert!(matches!(service.create(&request(Some("a\nb".into())), None, MANY).await, Err(KeyError::Label)));
    }

    #[tokio::test]
    async fn a_repeated_request_gives_the_same_key_without_its_text_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let first = service.create(&request(None), Some("order-1"), MANY).await.unwrap();
        let again = service.create(&request(None), Some("order-1"), MANY).await.unwrap();
        assert!(first.key.is_some() && again.key.is_none() && again.note.is_some());
        assert_eq!(again.view, first.view);
        let other = service.create(&request(Some("x".into())), Some("order-1"), MANY).await;
        assert!(matches!(other, Err(KeyError::OtherRequest)));
        assert!(service.create(&request(None), Some("order-2"), MANY).await.unwrap().key.is_some());
        assert_eq!(all(&service).await.len(), 2);
    }

    #[tokio::test]
    async fn an_idempotency_key_of_200_visible_characters_is_taken_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        assert!(service.create(&request(None), Some(&"x".repeat(200)), MANY).await.is_ok());
        for wrong in ["", "a b", "é", &"x".repeat(201)] {
            assert!(matches!(service.create(&request(None), Some(wrong), MANY).await, Err(KeyError::Name)), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_successor_is_its_formers_equal_and_the_former_ends_after_the_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let wanted = KeyRequest {
            user: Some("ada".parse().unwrap()),
            scopes: vec![Scope::Read],
            expires_in: Some(3600),
            allow_query: true,
            ..request(Some("ci".into()))
        };
        let first = service.create(&wanted, Some("name"), MANY).await.unwrap().view;
        service.clock.turn(Duration::from_secs(600));
        let now = service.clock.wall();
        let (made, former) = service.rotate(&first.id, Duration::from_secs(300), None, MANY).await.unwrap().unwrap();
        let successor = made.view;
        assert_eq!(successor.rotated_from.as_ref(), Some(&first.id));
        assert_eq!(former.rotated_to.as_ref(), Some(&successor.id));
        assert_eq!(former.expires_at, Some(now.plus(Duration::from_secs(300))));
        assert_eq!(successor.expires_at, Some(now.plus(Duration::from_secs(3600))), "as long as the former was to be");
        let same = |key: &KeyView| (key.owner().scope(), key.scopes, key.label.clone(), key.allow_query);
        assert_eq!(same(&successor), same(&first));
        let twice = service.rotate(&first.id, OVERLAP, None, MANY).await;
        assert!(matches!(twice, Err(KeyError::Rotated(_, to)) if to == successor.id));
        service.clock.turn(Duration::from_secs(300));
        assert_eq!(service.show(&first.id).await.unwrap().unwrap().state, Some(KeyState::Expired));
        assert_eq!(service.show(&successor.id).await.unwrap().unwrap().state, Some(KeyState::Good));
    }

    #[tokio::test]
    async fn a_repeated_rotation_gives_the_same_successor_without_its_text_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let first = service.create(&request(None), Some("one"), MANY).await.unwrap().view.id;
        let rotate = async |overlap, name| service.rotate(&first, overlap, name, MANY).await;
        let short = Duration::from_secs(30);
        let (made, former) = rotate(short, Some("two")).await.unwrap().unwrap();
        assert!(made.key.is_some());
        // After the former one is over, too: whoever lost the answer may ask late.
        service.clock.turn(Duration::from_secs(30));
        let (again, same_former) = rotate(short, Some("two")).await.unwrap().unwrap();
        assert!(again.key.is_none() && again.note.is_some());
        assert_eq!(again.view, made.view);
        assert_eq!((same_former.id, same_former.expires_at), (former.id, former.expires_at));
        for (overlap, name) in [(OVERLAP, "two"), (short, "one")] {
            assert!(matches!(rotate(overlap, Some(name)).await, Err(KeyError::OtherRequest)), "{name}");
        }
        assert!(matches!(rotate(short, Some("")).await, Err(KeyError::Name)));
        let as_a_new_one = service.create(&request(None), Some("two"), MANY).await;
        assert!(matches!(as_a_new_one, Err(KeyError::OtherRequest)));
        assert_eq!(all(&service).await.len(), 2);
        // What the note says.
        let next = service.rotate(&made.view.id, Duration::ZERO, Some("three"), MANY).await.unwrap().unwrap();
        assert!(next.0.key.is_some());
    }

    #[tokio::test]
    async fn a_tenant_has_as_many_keys_as_it_may_and_is_told_what_helps() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let only = service.create(&request(None), None, 1).await.unwrap().view;
        let full = service.create(&request(None), None, 1).await.unwrap_err();
        assert!(full.to_string().starts_with("the tenant `a` has 1 keys"), "{full}");
        let full = service.rotate(&only.id, OVERLAP, None, 1).await.unwrap_err();
        assert!(matches!(full, KeyError::Full { limit: 1, .. }));
        assert_eq!(service.show(&only.id).await.unwrap(), Some(only));
    }

    #[tokio::test]
    async fn an_overlap_of_90_days_is_the_longest_and_what_is_over_has_no_successor() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let key = service.create(&KeyRequest { expires_in: None, ..request(None) }, None, MANY).await.unwrap().view;
        for (seconds, taken) in [
            (0, false),
            (1, true),
            (EXPIRES_MAX.as_secs(), true),
            (EXPIRES_MAX.as_secs() + 1, false),
            (u64::MAX, false),
        ] {
            let request = KeyRequest { expires_in: Some(seconds), ..request(None) };
            let made = service.create(&request, None, MANY).await;
            assert_eq!(made.is_ok(), taken, "{seconds}");
            assert!(taken || matches!(made, Err(KeyError::Expires)));
        }
        let longer = OVERLAP_MAX + Duration::from_secs(1);
        assert!(matches!(service.rotate(&key.id, longer, None, MANY).await, Err(KeyError::Overlap)));
        let (made, former) = service.rotate(&key.id, OVERLAP_MAX, None, MANY).await.unwrap().unwrap();
        assert_eq!((made.view.expires_at, former.expires_at), (None, Some(WallMillis(1000).plus(OVERLAP_MAX))));
        service.revoke(&made.view.id).await.unwrap();
        assert!(matches!(service.rotate(&made.view.id, OVERLAP, None, MANY).await, Err(KeyError::Over(..))));
    }

    #[tokio::test]
    async fn a_found_key_is_ours_by_its_secret_and_not_by_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let made = service.create(&request(None), None, MANY).await.unwrap();
        let found = service.check(&made.key.unwrap()).await.unwrap();
        assert_eq!((found.proven, found.view), (true, Some(made.view.clone())));
        let foreign = ApiKey::mint(&SystemRandom::new()).unwrap();
        let found = service.check(&foreign.reveal()).await.unwrap();
        assert_eq!((found.id, found.proven, found.view), (foreign.id().clone(), false, None));
        assert!(matches!(service.check("cg_nothing").await, Err(KeyError::Format(_))));
    }

    #[tokio::test]
    async fn a_list_has_what_fits_everything_that_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(&dir);
        let other = KeyRequest {
            tenant: "b".parse().unwrap(),
            user: Some("ada".parse().unwrap()),
            expires_in: None,
            ..request(None)
        };
        let (first, second) = (request(None), other);
        let first = service.create(&first, None, MANY).await.unwrap().view.id;
        let second = service.create(&second, None, MANY).await.unwrap().view.id;
        service.clock.turn(Duration::from_secs(60));
        let listed = async |filter: KeyFilter| {
            service.list(&filter).await.unwrap().into_iter().map(|key| key.id).collect::<Vec<_>>()
        };
        let (tenant, user) = (Some("b".parse().unwrap()), Some("ada".parse().unwrap()));
        assert_eq!(listed(KeyFilter { tenant, ..KeyFilter::default() }).await, std::slice::from_ref(&second));
        assert_eq!(listed(KeyFilter { user, ..KeyFilter::default() }).await, std::slice::from_ref(&second));
        let state = |state| KeyFilter { state: Some(state), ..KeyFilter::default() };
        assert_eq!(listed(state(KeyState::Expired)).await, [first]);
        assert_eq!(listed(state(KeyState::Good)).await, [second]);
        assert!(listed(state(KeyState::Revoked)).await.is_empty());
    }

    #[test]
    fn a_list_of_scopes_that_is_written_down_is_not_empty() {
        let read = |scopes: &str| serde_json::from_str::<KeyRequest>(&format!(r#"{{"tenant": "acme"{scopes}}}"#));
        assert_eq!(read("").unwrap().scopes, [], "what a client needs");
        assert_eq!(read(r#", "scopes": ["read"]"#).unwrap().scopes, [Scope::Read]);
        assert!(read(r#", "scopes": []"#).unwrap_err().to_string().contains("leave `scopes` out"));
    }
}
