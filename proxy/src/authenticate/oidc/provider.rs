//! One provider, asked: for its metadata, for tokens, and where it sends people.
//!
//! Every request goes to an address that the configuration or the provider's own metadata names, over [`HttpFetcher`]: bounded in time and bytes, no redirects. What it says of itself is
//! kept for an hour, asked for anew when it is needed, and used for a day while it can't be had; a failed try is not repeated at once.

use super::OidcError;
use super::backchannel::{self, Heard, LoggedOut, Taken};
use super::discovery::{METADATA_BYTES_MAX, Metadata};
use super::id_token::{self, Expected, Moment};
use super::pending::{Pending, Secret};
use super::redeeming::Redeeming;
use super::renewal::Terms;
use crate::authenticate::jwks::KeySets;
use crate::authenticate::jwks::fetch::{FETCH_TIMEOUT, FetchError, HttpFetcher, Roots, Statuses};
use crate::authenticate::jwks::url::JwksUrl;
use crate::authenticate::jwt::{self, JwtError, JwtIdentity, Keys, TenantRule, TokenTenant};
use crate::authenticate::jwt_ring::Algorithm;
use crate::clock::Clock;
use crate::config::oidc::{Callback, ProviderTenant};
use crate::config::{JwksConfig, OidcConfig, PublicUrl};
use crate::ids::ProviderId;
use crate::listen::AddrGroup;
use crate::record::ledger::sessions::{OidcGrant, SessionRow, WhoseSessions};
use crate::tenants::AllTenants;
use bytes::Bytes;
use comfygate_policy::Digest;
use http_body_util::Full;
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
    BasicTokenType,
};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, ExtraTokenFields, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RefreshToken, RequestTokenError, Scope, StandardRevocableToken, StandardTokenResponse, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// For everything of one token request together.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of a token endpoint, in bytes: three tokens of some KiB each.
const TOKENS_BYTES_MAX: usize = 64 << 10;
/// Metadata is asked for anew after this.
const METADATA_FRESH: Duration = Duration::from_secs(3600);
/// And used for so long while it can't be had.
const METADATA_STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Requests that wait for one provider's metadata at once.
const WAITING_MAX: usize = 256;
/// First pause after a failure; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest ID token that is sent along in an address, in bytes: beyond it servers refuse the address.
const HINT_BYTES_MAX: usize = 4 << 10;
/// Longest code that a provider gives, in bytes.
const CODE_BYTES_MAX: usize = 4 << 10;

/// The providers of a configuration.
#[derive(Debug, Default)]
pub struct Providers(Vec<Arc<Provider>>);

impl Providers {
    /// Those of the configuration; what is known of one that was there before stays known.
    pub fn new(configs: &[OidcConfig], former: Option<&Self>, key_sets: &Arc<KeySets>, clock: &Clock) -> Self {
        let several = configs.len() > 1;
        let provider = |config: &OidcConfig| {
            let which = Which {
                id: config.id.clone(),
                issuer: config.issuer.clone(),
                client_id: config.client_id.clone(),
                roots: config.roots.digest(),
                algorithms: config.algorithms.clone(),
            };
            let known = former.and_then(|former| former.0.iter().find(|provider| provider.at.which == which));
            let at = known.map_or_else(
                || Arc::new(Place::new(which, config, Arc::clone(key_sets), clock.clone())),
                |known| Arc::clone(&known.at),
            );
            Arc::new(Provider { config: config.clone(), terms: Terms::new(config, config.rules()), several, at })
        };
        Self(configs.iter().map(provider).collect())
    }

    /// In the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.0.iter()
    }

    /// The one of that id.
    pub fn find(&self, id: &ProviderId) -> Option<Arc<Provider>> {
        self.0.iter().find(|provider| provider.config.id == *id).cloned()
    }

    /// The one that a login leads to at once.
    pub fn automatic(&self) -> Option<&Arc<Provider>> {
        self.0.iter().find(|provider| provider.config.automatic)
    }
}

/// A provider.
#[derive(Debug)]
pub struct Provider {
    config: OidcConfig,
    terms: Terms,
    /// Whether it is one of several.
    several: bool,
    at: Arc<Place>,
}

/// What makes two providers one, as far as asking it goes: two tables of one issuer are two.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Which {
    id: ProviderId,
    issuer: String,
    client_id: String,
    roots: Option<Digest>,
    algorithms: Vec<Algorithm>,
}

/// What is known of a provider: kept over a reload.
struct Place {
    which: Which,
    metadata: HttpFetcher,
    key_sets: Arc<KeySets>,
    clock: Clock,
    waiting: Semaphore,
    redeeming: Arc<Redeeming>,
    /// Logout tokens.
    taken: Taken,
    /// Locked while somebody asks: whoever waits finds the answer. Held over an `await`, on purpose and for [`FETCH_TIMEOUT`] at most.
    known: tokio::sync::Mutex<Look>,
    /// Of the token endpoint.
    outage: Mutex<Outage>,
}

#[derive(Default)]
struct Look {
    known: Option<(Arc<Known>, Instant)>,
    outage: Outage,
}

/// Metadata, and the keys that it names.
#[derive(Debug)]
struct Known {
    metadata: Metadata,
    keys: Keys,
}

/// Tries that failed one after the other.
#[derive(Debug, Default, Clone, Copy)]
struct Outage {
    pause: Option<Duration>,
    until: Option<Instant>,
}

impl Outage {
    fn left(self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn again(self, now: Instant) -> Self {
        let pause = self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
        Self { pause: Some(pause), until: Some(now + pause) }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.which.issuer)
    }
}

impl Place {
    fn new(which: Which, config: &OidcConfig, key_sets: Arc<KeySets>, clock: Clock) -> Self {
        Self {
            which,
            metadata: HttpFetcher::new(config.discovery.clone(), &config.roots),
            key_sets,
            clock,
            waiting: Semaphore::new(WAITING_MAX),
            redeeming: Arc::default(),
            taken: Taken::default(),
            known: tokio::sync::Mutex::default(),
            outage: Mutex::default(),
        }
    }

    async fn known(&self, config: &OidcConfig) -> Result<Arc<Known>, OidcError> {
        let _place = self.waiting.try_acquire().map_err(|_| busy())?;
        let mut look = self.known.lock().await;
        let now = self.clock.monotonic();
        if let Some((known, at)) = &look.known
            && now.saturating_duration_since(*at) < METADATA_FRESH
        {
            return Ok(Arc::clone(known));
        }
        let stale = look.known.as_ref().filter(|(_, at)| now.saturating_duration_since(*at) < METADATA_STALE_MAX);
        let stale = stale.map(|(known, _)| Arc::clone(known));
        if let Some(left) = look.outage.left(now) {
            let reason = "its metadata could not be had a moment ago";
            return stale.ok_or(OidcError::NotAsked { reason, retry_after: left });
        }
        match self.asked(config).await {
            Ok(known) => {
                let known = Arc::new(known);
                *look = Look { known: Some((Arc::clone(&known), self.clock.monotonic())), outage: Outage::default() };
                Ok(known)
            }
            Err(error) => {
                look.outage = look.outage.again(self.clock.monotonic());
                tracing::warn!(issuer = %self.which.issuer, %error, "the provider's metadata can't be had");
                stale.ok_or(error)
            }
        }
    }

    async fn asked(&self, config: &OidcConfig) -> Result<Known, OidcError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.metadata.document(METADATA_BYTES_MAX)).await;
        let unreachable =
            |error: FetchError| OidcError::Unreachable { reason: error.to_string(), retry_after: PAUSE_MIN };
        let document = fetched.unwrap_or(Err(FetchError::Timeout)).map_err(unreachable)?;
        let metadata = Metadata::parse(&document.body, &self.which.issuer).map_err(OidcError::Metadata)?;
        let keys = JwksConfig {
            url: metadata.jwks_uri.clone(),
            roots: config.roots.clone(),
            algorithms: config.algorithms.clone(),
            refresh: JwksConfig::REFRESH,
            stale_max: JwksConfig::STALE_MAX,
        };
        // A set of its own: a [[jwt]] issuer of the same address has times of its own.
        let set = self.key_sets.set(&format!("oidc {}", self.which.issuer), &keys);
        Ok(Known { metadata, keys: Keys::Published { set, algorithms: config.algorithms.clone() } })
    }

    fn outage(&self) -> std::sync::MutexGuard<'_, Outage> {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn busy() -> OidcError {
    OidcError::NotAsked { reason: "too many wait for it", retry_after: PAUSE_MIN }
}

/// The field that OpenID Connect adds to OAuth's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WithIdToken {
    id_token: Option<String>,
}
impl ExtraTokenFields for WithIdToken {}

type Answer = StandardTokenResponse<WithIdToken, BasicTokenType>;
type Client = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// What a provider vouches for: its claims were checked.
#[derive(Debug)]
pub struct Vouched {
    /// Of the ID token; `None` at a renewal without one: nothing has changed.
    pub claims: Option<Value>,
    /// `sub`.
    pub subject: String,
    /// As received, for the logout.
    pub id_token: Option<String>,
    /// Renews it.
    pub refresh_token: Option<String>,
    /// How long it is good, by the access token, else by the ID token.
    pub good_for: Option<Duration>,
}

impl Provider {
    /// As configured.
    pub fn config(&self) -> &OidcConfig {
        &self.config
    }

    /// What its sessions are judged by.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Where a browser goes to log in.
    ///
    /// # Errors
    /// [`OidcError`]: the metadata can't be had, or can't be used.
    pub async fn login_url(&self, public: &PublicUrl, state: &Secret, pending: &Pending) -> Result<String, OidcError> {
        let known = self.at.known(&self.config).await?;
        // SECURITY: one address for the answers of several, and an answer that does not say whose it is: a bad one among them could have a good one's codes (RFC 9700 §4.4).
        if self.several && self.config.callback == Callback::Shared && !known.metadata.names_itself {
            return Err(OidcError::NeedsOwnCallback);
        }
        let client = self.client(&known, public)?;
        let verifier = PkceCodeVerifier::new(pending.verifier.reveal().to_owned());
        let mut request = client
            .authorize_url(|| CsrfToken::new(state.reveal().to_owned()))
            .add_scopes(self.config.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", pending.nonce.reveal())
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        if let Some(max_age) = self.config.max_age {
            request = request.add_extra_param("max_age", max_age.as_secs().to_string());
        }
        if let Some(prompt) = self.config.prompt {
            request = request.add_extra_param("prompt", prompt);
        }
        Ok(request.url().0.to_string())
    }

    /// Checks who answered (RFC 9207): `iss` of the answer, where there is one.
    ///
    /// # Errors
    /// `MixUp`.
    pub async fn check_answerer(&self, iss: Option<&str>) -> Result<(), OidcError> {
        match iss {
            Some(iss) if iss == self.config.issuer => Ok(()),
            Some(_) => Err(OidcError::MixUp("another issuer")),
            None if self.at.known(&self.config).await?.metadata.names_itself => {
                Err(OidcError::MixUp("it names itself in its answers, and this one has no name"))
            }
            None => Ok(()),
        }
    }

    /// Redeems a code for the claims of whoever logged in.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn redeem(
        &self,
        public: &PublicUrl,
        code: &str,
        pending: &Pending,
        from: AddrGroup,
    ) -> Result<Vouched, OidcError> {
        if !(1..=CODE_BYTES_MAX).contains(&code.len()) {
            return Err(OidcError::Answer("its code is no code".to_owned()));
        }
        let _place = self.at.redeeming.enter(from).ok_or_else(busy)?;
        let known = self.at.known(&self.config).await?;
        let client = self.client(&known, public)?;
        let endpoint = self.token_endpoint(&known);
        let asked = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(pending.verifier.reveal().to_owned()))
            .request_async(&endpoint)
            .await;
        let answer = asked.map_err(failed)?;
        if answer.extra_fields().id_token.is_none() {
            return Err(OidcError::Answer("it has no `id_token`".to_owned()));
        }
        let moment = Moment::Login { nonce: pending.nonce.reveal(), began_at: pending.began_at };
        self.vouched(&known, answer, moment).await
    }

    /// Has a session renewed.
    ///
    /// # Errors
    /// [`OidcError`]: `Refused` for a grant that is no more.
    pub async fn renew(&self, public: &PublicUrl, token: &str, grant: &OidcGrant) -> Result<Vouched, OidcError> {
        let now = self.at.clock.monotonic();
        let paused = self.at.outage().left(now);
        if let Some(retry_after) = paused {
            return Err(OidcError::NotAsked { reason: "it could not be asked a moment ago", retry_after });
        }
        let renewed = self.asked_to_renew(public, token, grant).await;
        let now = self.at.clock.monotonic();
        let mut outage = self.at.outage();
        *outage = match &renewed {
            Err(OidcError::NotAsked { .. }) => *outage,
            Err(error) if error.retry_after().is_some() => outage.again(now),
            _ => Outage::default(),
        };
        drop(outage);
        renewed
    }

    async fn asked_to_renew(&self, public: &PublicUrl, token: &str, grant: &OidcGrant) -> Result<Vouched, OidcError> {
        let known = self.at.known(&self.config).await?;
        let client = self.client(&known, public)?;
        let endpoint = self.token_endpoint(&known);
        let token = RefreshToken::new(token.to_owned());
        let asked = client.exchange_refresh_token(&token).request_async(&endpoint).await;
        self.vouched(&known, asked.map_err(failed)?, Moment::Renewal { subject: &grant.subject, nonce: grant.nonce })
            .await
    }

    /// Who has logged out there, by a logout token, which is used up.
    ///
    /// # Errors
    /// [`OidcError`]: it is no such token, or can't be checked now.
    pub async fn logged_out(&self, token: &str) -> Result<LoggedOut, OidcError> {
        let known = self.at.known(&self.config).await?;
        let (claims, _) = jwt::signed_claims(token, &known.keys, &backchannel::TYPES).await?;
        let (clock, leeway) = (&self.at.clock, self.config.leeway);
        let us = (&self.config.id, self.config.issuer.as_str(), self.config.client_id.as_str());
        let logged_out = backchannel::logged_out(&claims, us, leeway, clock)?;
        if !self.at.taken.take(&self.config.issuer, &logged_out, leeway, clock.monotonic()) {
            return Err(OidcError::Answer("logout token: it was used before".to_owned()));
        }
        Ok(logged_out)
    }

    /// After a logout could not be followed: its token may come again.
    pub fn not_logged_out(&self, token: &LoggedOut) {
        self.at.taken.give_back(&self.config.issuer, token);
    }

    /// The logouts that it has told of until now: to be asked before [`Provider::redeem`] and [`Provider::renew`].
    pub fn logouts(&self) -> Heard {
        self.at.taken.heard()
    }

    /// A logout since then that means this session, which is stored: nobody has ended it.
    pub fn logout_since(&self, heard: Heard, row: &SessionRow) -> Option<WhoseSessions> {
        self.at.taken.since(heard, row)
    }

    /// Where a browser goes to log out at the provider too; `None` where it has no such place, or can't be asked.
    pub async fn logout_url(&self, public: &PublicUrl, id_token: Option<&str>) -> Option<String> {
        let known = self.at.known(&self.config).await.ok()?;
        let mut url = oauth2::url::Url::parse(known.metadata.end_session_endpoint.as_deref()?).ok()?;
        let back = format!("{}/gate/logout", public.as_str());
        let mut query = url.query_pairs_mut();
        query.append_pair("client_id", &self.config.client_id).append_pair("post_logout_redirect_uri", &back);
        if let Some(hint) = id_token.filter(|token| token.len() <= HINT_BYTES_MAX) {
            query.append_pair("id_token_hint", hint);
        }
        drop(query);
        Some(url.into())
    }

    /// What claims mean here: tenant, user and scopes.
    ///
    /// # Errors
    /// [`OidcError`]: `NotAllowed`, or a claim that is missing.
    pub fn identity(&self, claims: &Value, tenants: &AllTenants) -> Result<JwtIdentity, OidcError> {
        let config = &self.config;
        if let Some(unproved) = config.verified_by().find(|by| claims.pointer(by) != Some(&Value::Bool(true))) {
            return Err(OidcError::NotAllowed(unproved));
        }
        for (path, values) in &config.require {
            let allowed = |value: &Value| value.as_str().is_some_and(|text| values.iter().any(|one| one == text));
            let found = match path.find(claims) {
                Some(Value::Array(list)) => list.iter().any(allowed),
                Some(one) => allowed(one),
                None => false,
            };
            if !found {
                return Err(OidcError::NotAllowed(path.to_string()));
            }
        }
        let tenant = match &config.tenant {
            ProviderTenant::Fixed(id) => TokenTenant::Configured(id.clone()),
            ProviderTenant::Claim { claim, unknown } => {
                jwt::tenant(claims, TenantRule { issuer: &config.issuer, claim, unknown }, tenants)?
            }
        };
        let user = jwt::user(claims, &config.user_claim)?;
        Ok(JwtIdentity { tenant, user, scopes: jwt::scopes(claims, config.scope_claim.as_ref())? })
    }

    fn client(&self, known: &Known, public: &PublicUrl) -> Result<Client, OidcError> {
        let odd = |error: oauth2::url::ParseError| OidcError::Answer(error.to_string());
        let metadata = &known.metadata;
        let back = format!("{}{}", public.as_str(), self.config.callback_path());
        let client = oauth2::Client::new(ClientId::new(self.config.client_id.clone()))
            .set_auth_uri(AuthUrl::new(metadata.authorization_endpoint.clone()).map_err(odd)?)
            .set_token_uri(TokenUrl::new(metadata.token_endpoint.to_string()).map_err(odd)?)
            .set_redirect_uri(RedirectUrl::new(back).map_err(odd)?)
            .set_auth_type(if metadata.secret_in_body { AuthType::RequestBody } else { AuthType::BasicAuth });
        Ok(match &self.config.client_secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose().to_owned())),
            None => client,
        })
    }

    fn token_endpoint(&self, known: &Known) -> TokenEndpoint {
        TokenEndpoint { url: known.metadata.token_endpoint.clone(), roots: self.config.roots.clone() }
    }

    async fn vouched(&self, known: &Known, answer: Answer, moment: Moment<'_>) -> Result<Vouched, OidcError> {
        if !matches!(answer.token_type(), BasicTokenType::Bearer) {
            return Err(OidcError::Answer("its `token_type` is not Bearer".to_owned()));
        }
        let id_token = answer.extra_fields().id_token.clone();
        let (claims, subject) = match (&id_token, moment) {
            (None, Moment::Renewal { subject, .. }) => (None, subject.to_owned()),
            (None, Moment::Login { .. }) => return Err(OidcError::Answer("it has no `id_token`".to_owned())),
            (Some(token), _) => {
                let (claims, algorithm) = jwt::signed_claims(token, &known.keys, &jwt::TYPES).await?;
                let expected = Expected {
                    issuer: &self.config.issuer,
                    client_id: &self.config.client_id,
                    leeway: self.config.leeway,
                    max_age: self.config.max_age,
                    access_token: answer.access_token().secret(),
                    moment,
                };
                let subject = id_token::subject(&claims, algorithm, &expected, &self.at.clock)?.to_owned();
                (Some(claims), subject)
            }
        };
        let until = claims.as_ref().and_then(|claims| claims.get("exp")?.as_u64());
        let by_id_token = until.map(|until| Duration::from_secs(until.saturating_sub(self.at.clock.wall().seconds())));
        Ok(Vouched {
            claims,
            subject,
            id_token,
            refresh_token: answer.refresh_token().map(|token| token.secret().clone()),
            good_for: answer.expires_in().or(by_id_token),
        })
    }
}

/// Our own client, as `oauth2` asks for one.
struct TokenEndpoint {
    url: JwksUrl,
    roots: Roots,
}

impl<'c> AsyncHttpClient<'c> for TokenEndpoint {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(asked(HttpFetcher::new(self.url.clone(), &self.roots), self.url.target().to_owned(), request))
    }
}

/// One token request.
async fn asked(fetcher: HttpFetcher, target: String, request: HttpRequest) -> Result<HttpResponse, FetchError> {
    let (mut head, body) = request.into_parts();
    head.uri = target.parse().map_err(|_| FetchError::Http("no address".to_owned()))?;
    let request = http::Request::from_parts(head, Full::new(Bytes::from(body)));
    let asked = fetcher.exchange(request, Statuses::Any, TOKENS_BYTES_MAX);
    let answer = tokio::time::timeout(TOKEN_TIMEOUT, asked).await.unwrap_or(Err(FetchError::Timeout))?;
    // The server's own trouble says nothing of the code or token.
    if answer.status().is_server_error() || answer.status() == http::StatusCode::TOO_MANY_REQUESTS {
        return Err(FetchError::Status(answer.status().as_u16()));
    }
    Ok(answer.map(|body| body.to_vec()))
}

/// What became of a token request.
fn failed(error: RequestTokenError<FetchError, BasicErrorResponse>) -> OidcError {
    use BasicErrorResponseType as Word;
    let unreachable = |reason: String| OidcError::Unreachable { reason, retry_after: PAUSE_MIN };
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            Word::InvalidGrant => OidcError::Refused(INVALID_GRANT),
            Word::InvalidRequest => OidcError::Refused("invalid_request"),
            Word::InvalidScope => OidcError::Refused("invalid_scope"),
            Word::UnsupportedGrantType => OidcError::Refused("unsupported_grant_type"),
            // It is not this grant that is refused but all of ours, until somebody mends it.
            Word::InvalidClient => unreachable("it refuses our client id or secret (`invalid_client`)".to_owned()),
            Word::UnauthorizedClient => unreachable("our client may not do this (`unauthorized_client`)".to_owned()),
            // SECURITY: words of its own are not repeated, in no log either.
            Word::Extension(word) if ["temporarily_unavailable", "server_error"].contains(&word.as_str()) => {
                unreachable("it says that it can't now".to_owned())
            }
            Word::Extension(_) => OidcError::Refused(OTHER),
        },
        RequestTokenError::Request(error) => unreachable(error.to_string()),
        // A page in place of an answer is mostly a proxy's: it says nothing of the grant.
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            unreachable("its answer is no token answer".to_owned())
        }
    }
}

/// The word of RFC 6749 §5.2 that ends a grant.
pub const INVALID_GRANT: &str = "invalid_grant";
/// A word of the provider's own, which may end one too: `interaction_required` and its like ask for the person.
const OTHER: &str = "other";

impl OidcError {
    /// Whether a renewal that failed so ends the session: the provider, or what it says, does not let this person in any more.
    pub fn ends_session(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NotAsked { .. } => false,
            Self::Metadata(_) | Self::Random | Self::NeedsOwnCallback => false,
            // Keys that are rotated at this moment are there at the next.
            Self::Token(JwtError::Keys(_)) => false,
            // The other words of the RFC are about how we asked: they would end everybody's sessions, until somebody mends it.
            Self::Refused(word) => [INVALID_GRANT, OTHER].contains(word),
            Self::Lost
            | Self::Gone
            | Self::MixUp(_)
            | Self::Denied(_)
            | Self::LoggedOut
            | Self::Answer(_)
            | Self::Token(_)
            | Self::Claims(_)
            | Self::NotAllowed(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::oidc_config;
    use serde_json::json;
    use tokio::runtime::Handle;

    #[tokio::test]
    async fn a_reload_keeps_what_is_known_of_a_provider_and_mixes_no_two_of_one_issuer() {
        let clock = Clock::system();
        let key_sets = Arc::new(KeySets::new(Handle::current(), clock.clone()));
        let first = oidc_config("tenant = \"local\"");
        let by_id = OidcConfig { id: "guests".parse().unwrap(), ..first.clone() };
        let by_client = OidcConfig { client_id: "other".to_owned(), ..first.clone() };
        let configs = [first, by_id, by_client];
        let before = Providers::new(&configs, None, &key_sets, &clock);
        let after = Providers::new(&configs, Some(&before), &key_sets, &clock);
        for (n, provider) in after.iter().enumerate() {
            for (m, former) in before.iter().enumerate() {
                assert_eq!(Arc::ptr_eq(&provider.at, &former.at), n == m, "{n} {m}");
            }
        }
    }

    #[test]
    fn a_renewal_that_is_refused_ends_the_session_where_the_word_is_about_its_grant() {
        let refused = |word: &str| {
            let response: BasicErrorResponse = serde_json::from_value(json!({"error": word})).unwrap();
            failed(RequestTokenError::ServerResponse(response))
        };
        for word in ["invalid_grant", "interaction_required", "consent_required"] {
            assert!(refused(word).ends_session(), "{word}");
        }
        for word in [
            "invalid_request",
            "invalid_scope",
            "unsupported_grant_type",
            "invalid_client",
            "unauthorized_client",
            "server_error",
        ] {
            assert!(!refused(word).ends_session(), "{word}");
        }
    }
}
