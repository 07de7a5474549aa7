use super::*;
use crate::authenticate::api_key::ApiKey;
use crate::ids::KeyId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::tenants::{Tenant, TenantRegistry};
use ring::rand::SystemRandom;

const BOUNDS: SessionBounds = SessionBounds {
    idle_timeout: Duration::from_secs(100),
    lifetime: Duration::from_secs(1000),
    per_owner_max: 5,
    total_max: 100,
};
const START: WallMillis = WallMillis(1_000_000);

fn after(seconds: u64) -> WallMillis {
    START.plus(Duration::from_secs(seconds))
}

struct House {
    _dir: tempfile::TempDir,
    ledger: RedbLedger,
    key: KeyId,
    token: SessionToken,
}

/// A session of `ann` of tenant `local`, whose key is good for 500 s.
async fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
    let key = ApiKey::mint(&SystemRandom::new()).unwrap();
    let owner =
        Owner { tenant: "local".parse().unwrap(), user: Some("ann".parse().unwrap()), key: None, shared: false };
    let row = key.row(owner, Scopes::of_a_client(), None, START, Some(after(500)));
    ledger.insert_key(row.clone()).await.unwrap();
    let token = SessionToken::draw(&SystemRandom::new()).unwrap();
    ledger.insert_session(token.row(row.owner, row.scopes, START), BOUNDS).await.unwrap();
    House { _dir: dir, ledger, key: key.id().clone(), token }
}

impl House {
    async fn ask(&self, token: &SessionToken, now: WallMillis) -> Result<Principal, AuthError> {
        let row = shown_row(token, &self.ledger, BOUNDS, now).await?;
        principal(row, &self.ledger, &AllTenants::of_the_file(TenantRegistry::built_in()), BOUNDS, now).await
    }
    async fn refused(&self, now: WallMillis) -> SessionRefused {
        match self.ask(&self.token, now).await {
            Err(AuthError::Session(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_acts_as_its_key_and_tells_when_it_ends() {
    let house = house().await;
    let principal = house.ask(&house.token, START).await.unwrap();
    assert_eq!(principal.owner.key, Some(house.key.clone()));
    assert_eq!(principal.owner.user.as_ref().unwrap().as_str(), "ann");
    assert_eq!(principal.scopes, Scopes::of_a_client());
    let session = principal.credential.session().unwrap();
    assert_eq!((session.idle_until, session.ends_at), (after(100), after(1000)));
}

#[tokio::test]
async fn an_idle_session_ends_and_a_used_one_lasts_for_its_lifetime() {
    let house = house().await;
    assert!(house.ask(&house.token, WallMillis(after(100).0 - 1)).await.is_ok());
    assert_eq!(house.refused(after(100)).await, SessionRefused::Over);
    for used in (90..500).step_by(90) {
        let session = house.ask(&house.token, after(used)).await.unwrap().credential.session().unwrap();
        touch(session, &house.ledger, after(used)).await;
    }
    // The key that it was got for lasts 500 s.
    assert!(house.ask(&house.token, WallMillis(after(500).0 - 1)).await.is_ok());
    assert_eq!(house.refused(after(500)).await, SessionRefused::KeyEnded);
}

#[tokio::test]
async fn use_is_noted_once_a_minute() {
    let house = house().await;
    let session = house.ask(&house.token, START).await.unwrap().credential.session().unwrap();
    touch(session, &house.ledger, after(59)).await;
    assert_eq!(house.ledger.session(house.token.id()).await.unwrap().seen_at, START);
    touch(session, &house.ledger, after(60)).await;
    assert_eq!(house.ledger.session(house.token.id()).await.unwrap().seen_at, after(60));
}

#[tokio::test]
async fn a_session_ends_with_its_key_its_tenant_and_its_logout() {
    let house = house().await;
    let local = TenantRegistry::built_in().tenants().next().unwrap().as_ref().clone();
    let closed = AllTenants::of_the_file(TenantRegistry::new([Tenant { disabled: true, ..local }], []));
    let row = shown_row(&house.token, &house.ledger, BOUNDS, START).await.unwrap();
    let refused = super::principal(row, &house.ledger, &closed, BOUNDS, START).await.unwrap_err();
    assert!(matches!(refused, AuthError::Session(SessionRefused::TenantClosed)), "{refused}");
    house.ledger.revoke_key(&house.key, START).await.unwrap();
    assert_eq!(house.refused(START).await, SessionRefused::KeyEnded);
    house.ledger.end_session(house.token.id()).await.unwrap();
    assert_eq!(house.refused(START).await, SessionRefused::Unknown);
}

#[tokio::test]
async fn a_session_by_password_acts_as_its_user_of_now_and_ends_with_the_user_or_the_password() {
    use crate::authenticate::passwords::StoredPassword;
    use crate::record::ledger::sessions::UserLogin;
    use crate::record::ledger::users::{self, PasswordChange, UserChange, Users};
    let house = house().await;
    let bob: crate::ids::UserId = "bob".parse().unwrap();
    house.ledger.insert_user(users::suite::row("bob", "local", 7), 9).await.unwrap();
    let token = SessionToken::draw(&SystemRandom::new()).unwrap();
    let login = |password_version| Some(UserLogin { name: "bob".parse().unwrap(), password_version });
    let user = house.ledger.user(&bob).await.unwrap();
    let row = SessionRow { user_login: login(7), ..token.row(user.owner(), user.scopes, START) };
    house.ledger.insert_session(row, BOUNDS).await.unwrap();
    let reading: Scopes = [crate::owner::Scope::Read].into_iter().collect();
    let change = UserChange { scopes: Some(reading), ..UserChange::default() };
    house.ledger.change_user(&bob, change, START).await.unwrap();
    let principal = house.ask(&token, START).await.unwrap();
    assert_eq!((principal.owner, principal.scopes), (user.owner(), reading));
    // One by a former password: the store takes none, and who brings a row all the same is not let in.
    let late = SessionToken::draw(&SystemRandom::new()).unwrap();
    let by_former = || SessionRow { user_login: login(6), ..late.row(user.owner(), user.scopes, START) };
    let stored = house.ledger.insert_session(by_former(), BOUNDS).await;
    assert!(matches!(stored, Err(LedgerError::Conflict { .. })), "{stored:?}");
    let built_in = AllTenants::of_the_file(TenantRegistry::built_in());
    let refused = super::principal(by_former(), &house.ledger, &built_in, BOUNDS, START).await.unwrap_err();
    assert!(matches!(refused, AuthError::Session(SessionRefused::UserEnded)), "{refused}");
    let local = TenantRegistry::built_in().tenants().next().unwrap().as_ref().clone();
    let closed = AllTenants::of_the_file(TenantRegistry::new([Tenant { disabled: true, ..local }], []));
    let row = shown_row(&token, &house.ledger, BOUNDS, START).await.unwrap();
    let refused = super::principal(row, &house.ledger, &closed, BOUNDS, START).await.unwrap_err();
    assert!(matches!(refused, AuthError::Session(SessionRefused::TenantClosed)), "{refused}");
    let reset = PasswordChange::Reset(StoredPassword::of("x"));
    let reset = UserChange { password: Some(reset), ..UserChange::default() };
    assert_eq!(house.ledger.change_user(&bob, reset, START).await.unwrap().ended, [token.id()]);
    let refused = house.ask(&token, START).await.unwrap_err();
    assert!(matches!(refused, AuthError::Session(SessionRefused::Unknown)), "{refused}");
    house.ledger.remove_user(&bob, WallMillis(9)).await.unwrap();
    let row = SessionRow { user_login: login(7), ..token.row(user.owner(), user.scopes, START) };
    let refused = super::principal(row, &house.ledger, &built_in, BOUNDS, START).await.unwrap_err();
    assert!(matches!(refused, AuthError::Session(SessionRefused::UserEnded)), "{refused}");
}

#[tokio::test]
async fn another_secret_under_a_known_id_is_refused_and_no_failed_login() {
    let house = house().await;
    let other = SessionToken { secret: "0".repeat(SECRET_CHARS), ..house.token.clone() };
    let error = house.ask(&other, START).await.unwrap_err();
    assert!(matches!(error, AuthError::Session(SessionRefused::WrongSecret)), "{error}");
    // 256 bits are not guessed, and an old tab must not lock its office out.
    assert!(error.guess().is_none());
}

fn cookie(public: Option<&str>) -> SessionCookie {
    let instance = InstanceId::from_bytes(0xabcd_ef01_0000_0000_0000_0000_0000_0000_u128.to_be_bytes());
    SessionCookie::new(instance, public.map(|url| url.parse().unwrap()).as_ref())
}

fn with(lines: &[&str]) -> HeaderMap {
    lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect()
}

#[test]
fn the_cookie_is_bound_to_host_and_https_and_hidden_from_scripts() {
    let token = SessionToken::draw(&SystemRandom::new()).unwrap();
    let set = cookie(None).set(&token, Duration::from_secs(60)).unwrap();
    let wanted =
        format!("__Host-comfygate-abcdef01={}; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax", token.reveal());
    assert_eq!(set.to_str().unwrap(), wanted);
    assert!(set.is_sensitive());
    let clear = cookie(Some("https://images.example")).clear().unwrap();
    assert_eq!(
        clear.to_str().unwrap(),
        "__Host-comfygate-abcdef01=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
    );
}

#[test]
fn below_a_path_prefix_the_cookie_is_bound_to_that_path() {
    let clear = cookie(Some("https://images.example/comfy")).clear().unwrap();
    assert!(clear.to_str().unwrap().starts_with("__Secure-comfygate-abcdef01=; Path=/comfy; "), "{clear:?}");
    assert_eq!(prefix(Some(&"https://images.example/comfy".parse().unwrap())), "/comfy");
    assert_eq!(prefix(Some(&"https://images.example:444/".parse().unwrap())), "");
    assert_eq!(prefix(None), "");
}

#[test]
fn a_cookie_is_read_back_among_others_and_on_several_lines() {
    let token = SessionToken::draw(&SystemRandom::new()).unwrap();
    let own = format!("__Host-comfygate-abcdef01={}", token.reveal());
    let cookie = cookie(None);
    assert_eq!(cookie.shown(&with(&[&format!("a=b; {own}; c=d")])), Ok(Some(token.clone())));
    assert_eq!(cookie.shown(&with(&["a=b", &own, &own])), Ok(Some(token.clone())));
    assert_eq!(cookie.shown(&with(&["a=b; nothing"])), Ok(None));
    let of_another_gateway = format!("__Host-comfygate-abcdef02={}", token.reveal());
    assert_eq!(cookie.shown(&with(&[&of_another_gateway])), Ok(None));
}

#[test]
fn two_different_cookies_and_odd_ones_are_refused() {
    let cookie = cookie(None);
    let own = |value: &str| format!("__Host-comfygate-abcdef01={value}");
    let [a, b] = [(); 2].map(|()| SessionToken::draw(&SystemRandom::new()).unwrap().reveal());
    assert_eq!(cookie.shown(&with(&[&own(&a), &own(&b)])), Err(SessionRefused::Ambiguous));
    for odd in
        ["", "x", &a[1..], &format!("{a}0"), &a.to_uppercase().replace(char::is_numeric, "A"), &format!("+{}", &a[1..])]
    {
        assert_eq!(cookie.shown(&with(&[&own(odd)])), Err(SessionRefused::Malformed), "{odd}");
    }
    assert_eq!(cookie.shown(&with(&[&own(&a)])).unwrap().unwrap().reveal(), a);
}

#[test]
fn the_secret_is_in_no_debug_text() {
    let token = SessionToken::draw(&SystemRandom::new()).unwrap();
    assert!(!format!("{token:?}").contains(&token.secret));
    assert_eq!(token.secret.len(), SECRET_CHARS);
}
