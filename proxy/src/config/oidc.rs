//! `[[oidc]]`: identity providers that browsers log in by, as written and as used.

use super::checked::Checker;
use super::faults::Place;
use super::issuers::{Creation, Issuers, without_user};
use super::raw::{DAY, HOUR, MINUTE, SECOND};
use super::reader::{Located, Reader};
use super::secrets::SecretReference;
use super::{BackendConfig, PublicUrl, UnknownTenant};
use crate::authenticate::jwks::fetch::Roots;
use crate::authenticate::jwks::url::JwksUrl;
use crate::authenticate::jwt_claims::ClaimPath;
use crate::authenticate::jwt_ring::Algorithm;
use crate::clock::SKEW_MAX;
use crate::ids::{ProviderId, TenantId};
use crate::tenants::TenantRegistry;
use comfygate_policy::Digest;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Most providers: each is a line of the login page.
const PROVIDERS_MAX: usize = 20;
/// Longest name on the login page, in characters.
const NAME_CHARS_MAX: usize = 60;
/// Hosts where anybody may have an account: there a fixed tenant lets in the whole world, unless `require` says whom.
const PUBLIC_HOSTS: [&str; 6] =
    ["accounts.google.com", "appleid.apple.com", "facebook.com", "gitlab.com", "linkedin.com", "login.live.com"];
/// Each directory there is an issuer of its own.
const MICROSOFT: &str = "login.microsoftonline.com";

/// Whether a path at [`MICROSOFT`] is no directory's own.
fn is_of_every_directory(path: &str) -> bool {
    matches!(path.split('/').nth(1), Some("common" | "organizations" | "consumers"))
}

/// The directory at [`MICROSOFT`] of all personal accounts (Microsoft identity platform, *ID token claims reference*).
const PERSONAL_ACCOUNTS: &str = "/9188040d-6c67-4c5b-b112-36a304b66dad/";

/// `[[oidc]]`: one provider, what it is asked and what its claims mean.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// Its place in our paths.
    pub id: ProviderId,
    /// What the login page calls it.
    pub name: String,
    /// `iss`, compared letter by letter.
    pub issuer: String,
    /// Where its metadata is: the issuer and `/.well-known/openid-configuration`.
    pub discovery: JwksUrl,
    /// Which certificates its `https` addresses may show.
    pub roots: Roots,
    /// What it knows us by.
    pub client_id: String,
    /// What we prove that with; `None`: a public client, which PKCE alone protects.
    pub client_secret: Option<ClientSecretText>,
    /// What is asked for; `openid` is among it.
    pub scopes: Vec<String>,
    /// What its ID tokens may be signed with; never HS256; at least one.
    pub algorithms: Vec<Algorithm>,
    /// Who pays.
    pub tenant: ProviderTenant,
    /// The claim that names the user.
    pub user_claim: ClaimPath,
    /// The claim that lists scopes; `None`: a client's.
    pub scope_claim: Option<ClaimPath>,
    /// Each of these claims is, or lists, one of its texts; else nobody is let in.
    pub require: Vec<(ClaimPath, Vec<String>)>,
    /// How far its clock may be off; at most [`SKEW_MAX`].
    pub leeway: Duration,
    /// How long a session lasts that can't be renewed, or whose renewals come without claims.
    pub session_max: Duration,
    /// How long a session goes on after its tokens ended while the provider can't be asked.
    pub refresh_stale_max: Duration,
    /// How old the login at the provider may be.
    pub max_age: Option<Duration>,
    /// What the provider is to ask the person.
    pub prompt: Option<&'static str>,
    /// Which of our addresses it sends people back to.
    pub callback: Callback,
    /// Whether the login page is left out.
    pub automatic: bool,
    /// Whether it may tell us of logouts (OpenID Connect Back-Channel Logout 1.0).
    pub backchannel_logout: bool,
}

impl OidcConfig {
    /// Default of `session_max`.
    pub const SESSION_MAX: Duration = Duration::from_secs(12 * 3600);
    /// Default of `refresh_stale_max`.
    pub const REFRESH_STALE_MAX: Duration = Duration::from_secs(3600);

    /// The path that the provider sends people back to, below the public URL.
    pub fn callback_path(&self) -> String {
        match self.callback {
            Callback::Shared => "/gate/oidc/callback".to_owned(),
            Callback::Own => format!("/gate/oidc/callback/{}", self.id),
        }
    }

    /// What somebody is called by, or let in for.
    fn deciding(&self) -> impl Iterator<Item = &ClaimPath> {
        let of_tenant = match &self.tenant {
            ProviderTenant::Fixed(_) => None,
            ProviderTenant::Claim { claim, .. } => Some(claim),
        };
        self.require.iter().map(|(path, _)| path).chain(of_tenant).chain([&self.user_claim])
    }

    /// Where that is an address of mail: the claims that have to say that the provider has verified it.
    pub fn verified_by(&self) -> impl Iterator<Item = String> {
        self.deciding().filter_map(ClaimPath::verified_by)
    }

    /// Digest of everything here that decides whom claims let in, and as whom: where it is another one, claims have to be looked at again. The same in each version of the program,
    /// since sessions keep it.
    pub fn rules(&self) -> Digest {
        let tenant = match &self.tenant {
            ProviderTenant::Fixed(id) => json!(["fixed", id.as_str()]),
            ProviderTenant::Claim { claim, unknown: UnknownTenant::Refuse } => json!(["claim", claim.as_str()]),
            ProviderTenant::Claim { claim, unknown: UnknownTenant::Create(made) } => {
                let plan_claim = made.plan_claim.as_ref().map(ClaimPath::as_str);
                json!(["made", claim.as_str(), made.plan, plan_claim, made.plans_from_claim])
            }
        };
        let require: Vec<_> = self.require.iter().map(|(path, values)| (path.as_str(), values)).collect();
        let verified: Vec<_> = self.verified_by().collect();
        let (user, scopes) = (self.user_claim.as_str(), self.scope_claim.as_ref().map(ClaimPath::as_str));
        let rules = json!([1, self.issuer, self.client_id, require, tenant, user, scopes, verified]);
        Digest::of(rules.to_string().as_bytes())
    }
}

/// A client secret; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecretText(String);

impl ClientSecretText {
    /// The secret itself, for the one request that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientSecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecretText(redacted)")
    }
}

/// Who pays for those whom a provider lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderTenant {
    /// One tenant for all; whether there is one is looked at with each login and request.
    Fixed(TenantId),
    /// Whom a claim names.
    Claim {
        /// Which.
        claim: ClaimPath,
        /// What happens where no tenant of the file has that claim.
        unknown: UnknownTenant,
    },
}

/// Where a provider sends people back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callback {
    /// `/gate/oidc/callback`, for all.
    Shared,
    /// `/gate/oidc/callback/ID`, for this provider alone.
    Own,
}

/// As written.
#[derive(Debug)]
pub(super) struct RawOidc {
    at: Place,
    id: Option<Located<ProviderId>>,
    name: Option<Located<String>>,
    issuer: Option<Located<String>>,
    client_id: Option<Located<String>>,
    client_secret: Option<Located<String>>,
    scopes: Option<Vec<Located<String>>>,
    ca: Option<Located<String>>,
    algorithms: Option<Vec<Located<String>>>,
    pub(super) tenant: Option<Located<TenantId>>,
    tenant_claim: Option<Located<ClaimPath>>,
    unknown_tenant: Option<Located<&'static str>>,
    create_plan: Option<Located<String>>,
    plan_claim: Option<Located<ClaimPath>>,
    plans_from_claim: Option<Vec<Located<String>>>,
    user_claim: Option<Located<ClaimPath>>,
    scope_claim: Option<Located<ClaimPath>>,
    require: Vec<(Located<String>, Vec<Located<String>>)>,
    leeway: Option<Located<Duration>>,
    session_max: Option<Located<Duration>>,
    refresh_stale_max: Option<Located<Duration>>,
    max_age: Option<Located<Duration>>,
    prompt: Option<Located<&'static str>>,
    callback: Option<Located<&'static str>>,
    automatic: Option<Located<bool>>,
    backchannel_logout: Option<Located<bool>>,
}

impl RawOidc {
    pub(super) fn read(mut reader: Reader<'_>) -> Self {
        reader.renamed("url", "write `issuer`");
        reader.renamed("redirect_uri", "it is {public_url}/gate/oidc/callback");
        let raw = Self {
            at: reader.at().clone(),
            id: reader.required_parsed("id"),
            name: reader.text("name"),
            issuer: reader.required_text("issuer"),
            client_id: reader.required_text("client_id"),
            client_secret: reader.text("client_secret"),
            scopes: reader.texts("scopes"),
            ca: reader.text("ca"),
            algorithms: reader.texts("algorithms"),
            tenant: reader.parsed("tenant"),
            tenant_claim: reader.parsed("tenant_claim"),
            unknown_tenant: reader.one_of("unknown_tenant", &["refuse", "create"]),
            create_plan: reader.text("create_plan"),
            plan_claim: reader.parsed("plan_claim"),
            plans_from_claim: reader.texts("plans_from_claim"),
            user_claim: reader.parsed("user_claim"),
            scope_claim: reader.parsed("scope_claim"),
            require: reader.named_lists("require"),
            leeway: reader.duration("leeway", Duration::ZERO..=SKEW_MAX),
            session_max: reader.duration("session_max", MINUTE..=30 * DAY),
            refresh_stale_max: reader.duration("refresh_stale_max", Duration::ZERO..=7 * DAY),
            max_age: reader.duration("max_age", SECOND..=24 * 365 * HOUR),
            prompt: reader.one_of("prompt", &["login", "consent", "select_account"]),
            callback: reader.one_of("callback", &["shared", "own"]),
            automatic: reader.boolean("automatic"),
            backchannel_logout: reader.boolean("backchannel_logout"),
        };
        reader.finish();
        raw
    }
}

/// Checks every provider. Faulty ones are left out, and noted.
pub(super) fn checked_providers(
    checker: &Checker<'_>,
    raw: Vec<RawOidc>,
    registry: &TenantRegistry,
    backends: &[BackendConfig],
    public: Option<&PublicUrl>,
) -> Vec<OidcConfig> {
    let Some(first) = raw.first().map(|oidc| oidc.at.clone()) else { return Vec::new() };
    if public.is_none() {
        let hint = "public_url = \"https://HOST\", as browsers reach this gateway: a provider sends them back there";
        checker.refuse::<()>(&first, "[[oidc]] needs `public_url`, which is not set", hint);
    }
    if raw.len() > PROVIDERS_MAX {
        checker.refuse::<()>(&first, format!("{} providers", raw.len()), "at most 20");
        return Vec::new();
    }
    check_unique(checker, &raw);
    let several = raw.len() > 1;
    let providers = Providers { checker, issuers: Issuers { checker, registry, backends } };
    let mut checked = Vec::new();
    for oidc in raw {
        let at = oidc.at.clone();
        let Some(config) = providers.provider(oidc) else { continue };
        if several && config.callback == Callback::Shared {
            let hint = "fine where it names itself in its answers (RFC 9207); else its logins are refused: write `callback = \"own\"`, and register /gate/oidc/callback/ID there";
            checker.warn(&at, format!("`{}` shares the address that it sends people back to", config.id), hint);
        }
        checked.push(config);
    }
    checked
}

fn check_unique(checker: &Checker<'_>, raw: &[RawOidc]) {
    let mut seen = BTreeMap::new();
    for id in raw.iter().filter_map(|oidc| oidc.id.as_ref()) {
        checker.unique(&mut seen, id.value.to_string(), &id.at, "a provider");
    }
    let mut automatic = raw.iter().filter_map(|oidc| oidc.automatic.as_ref()).filter(|found| found.value);
    if let (Some(_), Some(second)) = (automatic.next(), automatic.next()) {
        checker.refuse::<()>(&second.at, "another provider is `automatic`", "a login leads to one of them at once");
    }
}

struct Providers<'a> {
    checker: &'a Checker<'a>,
    issuers: Issuers<'a>,
}

impl Providers<'_> {
    fn refuse<T>(&self, at: &Place, what: impl Into<String>, hint: &str) -> Option<T> {
        self.checker.refuse(at, what, hint)
    }

    fn provider(&self, raw: RawOidc) -> Option<OidcConfig> {
        let discovery = self.discovery(raw.issuer.as_ref());
        let roots = self.roots(raw.ca.as_ref(), discovery.as_ref());
        let algorithms = match &raw.algorithms {
            None => Some(vec![Algorithm::Rs256, Algorithm::Es256]),
            Some(named) => self.issuers.published_algorithms(named, &raw.at),
        };
        let tenant = self.tenant(&raw);
        self.warn_of_everybody(&raw, discovery.as_ref());
        let client_secret = match &raw.client_secret {
            None => Some(None),
            Some(named) => self.client_secret(named).map(Some),
        };
        let client_id = raw.client_id.as_ref().and_then(|named| self.plain_text(named));
        let scopes = self.scopes(raw.scopes.as_deref());
        let name = self.name(&raw);
        let require = self.require(&raw.require);
        if let Some(named) = raw.user_claim.as_ref().filter(|named| named.value.verified_by().is_some()) {
            let hint = "an address passes from one person to the next, with all that is theirs here; `sub` never does";
            self.checker.warn(&named.at, "users are called by their address of mail", hint);
        }
        Some(OidcConfig {
            id: raw.id?.value,
            name: name?,
            issuer: raw.issuer?.value,
            discovery: discovery?,
            roots: roots?,
            client_id: client_id?,
            client_secret: client_secret?,
            scopes: scopes?,
            algorithms: algorithms?,
            tenant: tenant?,
            user_claim: raw.user_claim.map_or_else(|| "sub".parse::<ClaimPath>().ok(), |found| Some(found.value))?,
            scope_claim: raw.scope_claim.map(|found| found.value),
            require: require?,
            leeway: raw.leeway.map_or(SKEW_MAX, |found| found.value),
            session_max: raw.session_max.map_or(OidcConfig::SESSION_MAX, |found| found.value),
            refresh_stale_max: raw.refresh_stale_max.map_or(OidcConfig::REFRESH_STALE_MAX, |found| found.value),
            max_age: raw.max_age.map(|found| found.value),
            prompt: raw.prompt.map(|found| found.value),
            callback: match raw.callback.map(|found| found.value) {
                Some("own") => Callback::Own,
                _ => Callback::Shared,
            },
            automatic: raw.automatic.is_some_and(|found| found.value),
            backchannel_logout: raw.backchannel_logout.is_some_and(|found| found.value),
        })
    }

    /// OpenID Connect Discovery 1.0 §4: the issuer without a slash at its end, then the well-known path.
    fn discovery(&self, issuer: Option<&Located<String>>) -> Option<JwksUrl> {
        let named = issuer?;
        let shown = without_user(&named.value);
        if named.value.contains('?') {
            return self.refuse(&named.at, format!("`{shown}` has a query"), "an issuer has none");
        }
        let text = format!("{}/.well-known/openid-configuration", named.value.trim_end_matches('/'));
        match (named.value.parse::<JwksUrl>(), text.parse::<JwksUrl>()) {
            (Ok(_), Ok(url)) if url.host() == MICROSOFT && is_of_every_directory(url.target()) => {
                let hint = "name your own directory: https://login.microsoftonline.com/DIRECTORY_ID/v2.0";
                self.refuse(&named.at, format!("`{shown}` stands for many directories, and no token names it"), hint)
            }
            (Ok(_), Ok(url)) => Some(url),
            (Err(error), _) | (_, Err(error)) => {
                let hint = "the issuer as the provider writes it, letter by letter, such as https://id.example.com/realms/studio";
                self.refuse(&named.at, format!("`{shown}` {error}"), hint)
            }
        }
    }

    fn roots(&self, ca: Option<&Located<String>>, discovery: Option<&JwksUrl>) -> Option<Roots> {
        match ca {
            None => Some(Roots::shipped()),
            Some(named) if discovery.is_some_and(|url| !url.is_https()) => {
                self.refuse(&named.at, "plain http shows no certificate", "leave it out")
            }
            Some(named) => {
                self.checker.consists_of(&self.checker.absolute(&named.value));
                self.issuers.roots(named)
            }
        }
    }

    fn tenant(&self, raw: &RawOidc) -> Option<ProviderTenant> {
        match (&raw.tenant, &raw.tenant_claim) {
            (Some(fixed), None) => {
                let of_a_claim = [
                    raw.unknown_tenant.as_ref().map(|found| &found.at),
                    raw.create_plan.as_ref().map(|found| &found.at),
                    raw.plan_claim.as_ref().map(|found| &found.at),
                    raw.plans_from_claim.as_ref().and_then(|list| list.first()).map(|found| &found.at),
                ];
                if let Some(at) = of_a_claim.into_iter().flatten().next() {
                    return self.refuse(at, "this key belongs to `tenant_claim`, which is not set", "leave it out");
                }
                Some(ProviderTenant::Fixed(fixed.value.clone()))
            }
            (None, Some(claim)) => {
                let creation = Creation {
                    at: &raw.at,
                    unknown_tenant: raw.unknown_tenant.as_ref(),
                    create_plan: raw.create_plan.as_ref(),
                    plan_claim: raw.plan_claim.as_ref(),
                    plans_from_claim: raw.plans_from_claim.as_deref(),
                };
                let unknown = self.issuers.unknown_tenant(&creation)?;
                Some(ProviderTenant::Claim { claim: claim.value.clone(), unknown })
            }
            (Some(_), Some(claim)) => {
                self.refuse(&claim.at, "`tenant` and `tenant_claim` are both set", "write one of them")
            }
            (None, None) => {
                let hint = "tenant = \"ID\" for all who log in there, or tenant_claim = \"CLAIM\"";
                self.refuse(&raw.at, "nothing says whose tenant its people are", hint)
            }
        }
    }

    fn warn_of_everybody(&self, raw: &RawOidc, discovery: Option<&JwksUrl>) {
        let (Some(fixed), Some(url), true) = (&raw.tenant, discovery, raw.require.is_empty()) else { return };
        let host = url.host().strip_prefix("www.").unwrap_or(url.host());
        let personal = host == MICROSOFT && url.target().starts_with(PERSONAL_ACCOUNTS);
        if PUBLIC_HOSTS.contains(&host) || personal {
            let hint = match host {
                "accounts.google.com" => "say whom you mean, such as require = { hd = [\"example.com\"] }",
                _ => "say whom you mean with `require`: a claim, and the values of it that are let in",
            };
            let what = format!("everybody with an account at {host} is let in as the tenant `{}`", fixed.value);
            self.checker.warn(&fixed.at, what, hint);
        }
    }

    fn client_secret(&self, named: &Located<String>) -> Option<ClientSecretText> {
        let reference = SecretReference::parse(&named.value, &self.checker.surroundings.current_dir);
        let secret = match self.checker.secret(&named.at, reference) {
            Ok(secret) => secret,
            Err(error) => return self.refuse(&named.at, error.to_string(), ""),
        };
        match std::str::from_utf8(secret.expose()) {
            Ok(text) if is_visible(text) => Some(ClientSecretText(text.to_owned())),
            _ => self.refuse(&named.at, "this is no client secret", "printable ASCII as the provider shows it"),
        }
    }

    fn plain_text(&self, named: &Located<String>) -> Option<String> {
        if is_visible(&named.value) {
            Some(named.value.clone())
        } else {
            self.refuse(&named.at, "has characters that no provider gives", "printable ASCII")
        }
    }

    /// RFC 6749 §3.3: no quotes, no backslash; a list, so no space.
    fn scopes(&self, named: Option<&[Located<String>]>) -> Option<Vec<String>> {
        let Some(named) = named else {
            return Some(["openid", "profile", "email"].map(str::to_owned).to_vec());
        };
        let is_scope = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if let Some(odd) = named.iter().find(|scope| !is_scope(&scope.value)) {
            return self.refuse(&odd.at, format!("`{}` is no scope", odd.value), "one scope an entry");
        }
        let mut scopes: Vec<String> = named.iter().map(|scope| scope.value.clone()).collect();
        if !scopes.iter().any(|scope| scope == "openid") {
            scopes.insert(0, "openid".to_owned());
        }
        Some(scopes)
    }

    fn name(&self, raw: &RawOidc) -> Option<String> {
        match &raw.name {
            None => raw.id.as_ref().map(|id| id.value.to_string()),
            Some(named)
                if named.value.chars().any(char::is_control) || named.value.chars().count() > NAME_CHARS_MAX =>
            {
                self.refuse(&named.at, "is no name for a page", "at most 60 characters, on one line")
            }
            Some(named) => Some(named.value.clone()),
        }
    }

    fn require(&self, raw: &[(Located<String>, Vec<Located<String>>)]) -> Option<Vec<(ClaimPath, Vec<String>)>> {
        let mut required = Vec::new();
        let mut good = true;
        for (claim, values) in raw {
            let path = claim.value.parse::<ClaimPath>();
            match path {
                Err(error) => good = self.refuse::<()>(&claim.at, error.to_string(), "").is_some(),
                Ok(_) if values.is_empty() => {
                    let what = format!("`{}` may have no value", claim.value);
                    good = self.refuse::<()>(&claim.at, what, "list those that let somebody in").is_some();
                }
                Ok(path) => required.push((path, values.iter().map(|value| value.value.clone()).collect())),
            }
        }
        good.then_some(required)
    }
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
