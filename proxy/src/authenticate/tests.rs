use super::*;
use crate::clock::WallMillis;
use crate::owner::Scopes;
use crate::reject::Rejection;
use crate::tenants::{Tenant, TenantRegistry};
use http::StatusCode;
use ring::rand::SystemRandom;
use std::collections::HashMap;

/// Key rows in memory; `None`: the store is down.
struct Rows(Option<HashMap<KeyId, KeyRow>>);

#[async_trait::async_trait]
impl KeyRows for Rows {
    async fn key_row(&self, id: &KeyId) -> Result<KeyRow, LedgerError> {
        let rows = self.0.as_ref().ok_or(LedgerError::Unavailable { action: "read", reason: "disk is gone".into() })?;
        rows.get(id).cloned().ok_or(LedgerError::NotFound { what: "key" })
    }

    async fn user_row(&self, _: &UserId) -> Result<UserRow, LedgerError> {
        Err(LedgerError::NotFound { what: "user" })
    }
}

fn made(tenant: &str) -> (ApiKey, Rows) {
    let key = ApiKey::mint(&SystemRandom::new()).unwrap();
    let owner = Owner { tenant: tenant.parse().unwrap(), user: Some("ann".parse().unwrap()), key: None, shared: false };
    let row = key.row(owner, Scopes::of_a_client(), None, WallMillis(0), None);
    let rows = Rows(Some(HashMap::from([(key.id().clone(), row)])));
    (key, rows)
}

fn headers(list: &[(&'static str, String)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

async fn authenticate(list: &[(&'static str, String)], rows: &Rows) -> Result<Principal, AuthError> {
    let tenants = AllTenants::of_the_file(TenantRegistry::built_in());
    without_issuers().authenticate(&headers(list), rows, &tenants).await
}

fn without_issuers() -> Authenticator {
    let clock = Clock::turned_by_hand(WallMillis(1_000));
    Authenticator::new(Vec::new(), &KeySets::new(tokio::runtime::Handle::current(), clock.clone()), clock)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn a_key_is_taken_as_bearer_as_header_and_as_password() {
    let (key, rows) = made("local");
    let text = key.reveal();
    for header in [
        ("authorization", format!("Bearer {text}")),
        ("authorization", format!("bearer  {text}")),
        ("x-api-key", text.clone()),
        ("authorization", basic("anybody", &text)),
        ("authorization", basic("", &text)),
    ] {
        let principal = authenticate(std::slice::from_ref(&header), &rows).await.unwrap();
        assert_eq!(principal.owner.key.as_ref(), Some(key.id()), "{header:?}");
        assert_eq!(principal.owner.user.as_ref().unwrap().as_str(), "ann");
    }
}

#[tokio::test]
async fn no_credential_is_no_failed_login_and_a_wrong_one_is() {
    let (key, rows) = made("local");
    let missing = authenticate(&[], &rows).await.unwrap_err();
    assert!(matches!(missing, AuthError::Missing) && missing.guess().is_none());
    let (stranger, _) = made("local");
    let unknown = authenticate(&[("x-api-key", stranger.reveal())], &rows).await.unwrap_err();
    assert!(matches!(unknown, AuthError::UnknownKey(_)) && unknown.guess().is_some());
    let cut = authenticate(&[("x-api-key", key.reveal()[1..].to_owned())], &rows).await.unwrap_err();
    assert!(matches!(cut, AuthError::KeyFormat(_)) && cut.guess().is_some());
}

#[tokio::test]
async fn two_credentials_are_taken_if_they_are_one_and_refused_if_they_differ() {
    let (key, rows) = made("local");
    let (other, _) = made("local");
    let bearer = ("authorization", format!("Bearer {}", key.reveal()));
    assert!(authenticate(&[bearer.clone(), ("x-api-key", key.reveal())], &rows).await.is_ok());
    for second in [
        ("x-api-key", other.reveal()),
        ("authorization", format!("Bearer {}", other.reveal())),
        ("authorization", "Bearer a.b.c".into()),
    ] {
        let error = authenticate(&[bearer.clone(), second], &rows).await.unwrap_err();
        assert!(matches!(error, AuthError::Ambiguous), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_credential_is_malformed() {
    let (_, rows) = made("local");
    for value in ["Bearer", "Digest x", "Basic !!!", "Basic eA==", ""] {
        let error = authenticate(&[("authorization", value.to_owned())], &rows).await.unwrap_err();
        assert!(matches!(error, AuthError::Malformed(_)), "{value}: {error}");
    }
    let long = authenticate(&[("authorization", format!("Bearer {}", "x".repeat(HEADER_BYTES_MAX)))], &rows)
        .await
        .unwrap_err();
    assert!(matches!(long, AuthError::Malformed("length")));
    // The longest token passes this stage's bound, and is then no token.
    let token = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX));
    let just_inside = authenticate(&[("authorization", token)], &rows).await.unwrap_err();
    assert!(matches!(just_inside, AuthError::Jwt(JwtError::Parts(_))));
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_the_next_request_on() {
    let (key, mut rows) = made("local");
    let shown = [("x-api-key", key.reveal())];
    assert!(authenticate(&shown, &rows).await.is_ok());
    rows.0.as_mut().unwrap().get_mut(key.id()).unwrap().revoked_at = Some(WallMillis(1_000));
    let error = authenticate(&shown, &rows).await.unwrap_err();
    assert!(matches!(error, AuthError::KeyRefused { reason: KeyRefused::Revoked, .. }) && error.guess().is_none());
}

#[tokio::test]
async fn a_tenant_that_is_gone_or_disabled_is_refused() {
    let (key, rows) = made("gone");
    let error = authenticate(&[("x-api-key", key.reveal())], &rows).await.unwrap_err();
    assert!(matches!(error, AuthError::TenantClosed(_)));
    let (key, rows) = made("local");
    let local = TenantRegistry::built_in().tenants().next().unwrap().as_ref().clone();
    let registry = |disabled| AllTenants::of_the_file(TenantRegistry::new([Tenant { disabled, ..local.clone() }], []));
    let stage = without_issuers();
    let shown = headers(&[("x-api-key", key.reveal())]);
    assert!(stage.authenticate(&shown, &rows, &registry(false)).await.is_ok());
    assert!(matches!(stage.authenticate(&shown, &rows, &registry(true)).await, Err(AuthError::TenantClosed(_))));
}

#[tokio::test]
async fn a_store_that_is_down_is_503_and_never_a_skipped_check() {
    let (key, _) = made("local");
    let error = authenticate(&[("x-api-key", key.reveal())], &Rows(None)).await.unwrap_err();
    assert!(error.guess().is_none());
    let rejection = Rejection::from(error);
    assert_eq!(rejection.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(rejection.log_text().contains("disk is gone"));
}

#[test]
fn every_failed_login_reads_the_same_to_the_caller() {
    let request = crate::ids::RequestId::new();
    let texts: std::collections::HashSet<String> = [
        AuthError::Missing,
        AuthError::Ambiguous,
        AuthError::UnknownKey("abcdefghijkl".parse().unwrap()),
        AuthError::KeyRefused { id: "abcdefghijkl".parse().unwrap(), reason: KeyRefused::Revoked },
        AuthError::Jwt(JwtError::Expired),
        AuthError::TenantClosed("acme".parse().unwrap()),
    ]
    .into_iter()
    .map(|error| {
        let answer = Rejection::from(error).problem(request);
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers.get_all(http::header::WWW_AUTHENTICATE).iter().count(), 2);
        answer.text()
    })
    .collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn a_scope_that_is_there_opens_and_one_that_is_not_is_403() {
    let (key, rows) = made("local");
    let principal = authenticate(&[("x-api-key", key.reveal())], &rows).await.unwrap();
    assert!(require(&principal, Scope::Submit).is_ok());
    let error = require(&principal, Scope::Admin).unwrap_err();
    assert_eq!(Rejection::from(error).status(), StatusCode::FORBIDDEN);
}

#[test]
fn what_can_not_be_checked_now_is_503_with_retry_after_and_no_failed_login() {
    let retry_after = Duration::from_secs(7);
    for error in [
        AuthError::Jwt(JwtError::Keys(jwks::KeySetError::Unavailable { retry_after })),
        AuthError::NoTenant(CreateError::Full { limit: 3 }),
    ] {
        assert!(error.guess().is_none());
        let rejection = Rejection::from(error);
        assert_eq!(rejection.status(), StatusCode::SERVICE_UNAVAILABLE);
        let answer = rejection.problem(crate::ids::RequestId::new());
        assert!(answer.headers.contains_key(http::header::RETRY_AFTER));
    }
    for error in [jwks::KeySetError::UnknownKid, jwks::KeySetError::Ambiguous, jwks::KeySetError::WrongAlgorithm] {
        let error = AuthError::Jwt(JwtError::Keys(error));
        assert!(error.guess().is_none());
        assert_eq!(Rejection::from(error).status(), StatusCode::UNAUTHORIZED);
    }
}
