//! `gateway.toml` as written: every key with its place, types and ranges checked one by one, nothing compared with anything else yet.

use super::oidc::RawOidc;
use super::reader::{Located, Reader};
use super::{GpuName, PublicUrl};
use crate::authenticate::jwks::schedule::{LIFETIME_MAX, LIFETIME_MIN};
use crate::authenticate::jwt_claims::ClaimPath;
use crate::clock::SKEW_MAX;
use crate::ids::{BackendId, PoolId, TenantId, UserId};
use crate::listen::ListenAddress;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The whole file.
#[derive(Debug)]
pub(super) struct RawConfig {
    pub(super) public_url: Option<Located<PublicUrl>>,
    pub(super) listen: Vec<RawListen>,
    pub(super) client_certificate: Vec<RawClientCertificate>,
    pub(super) metrics_address: Option<Located<SocketAddr>>,
    pub(super) state: RawState,
    pub(super) backends: Vec<RawBackend>,
    pub(super) vram: Vec<RawVram>,
    pub(super) tenants_file: Option<Located<String>>,
    pub(super) jwt: Vec<RawJwt>,
    pub(super) oidc: Vec<RawOidc>,
    pub(super) views_lifetime: Option<Duration>,
    pub(super) limits: RawLimits,
    pub(super) sessions: RawSessions,
    pub(super) dispatch: RawDispatch,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) object_info: Option<Located<String>>,
    pub(super) audit: RawAudit,
    pub(super) certificate_names: Vec<Located<String>>,
    /// A reference to a secret.
    pub(super) comfy_org_key: Option<Located<String>>,
}

#[derive(Debug, Default)]
pub(super) struct RawState {
    pub(super) dir: Option<Located<String>>,
    pub(super) free_space_min: Option<Located<u64>>,
}

#[derive(Debug, Default)]
pub(super) struct RawAudit {
    pub(super) file: Option<Located<String>>,
    pub(super) rotate_bytes: Option<Located<u64>>,
    pub(super) keep: Option<Located<u64>>,
}

#[derive(Debug)]
pub(super) struct RawListen {
    pub(super) address: Option<Located<ListenAddress>>,
    pub(super) redirect: Option<Located<bool>>,
    pub(super) tls: Option<RawTls>,
    pub(super) plain: Option<Located<bool>>,
    pub(super) behind_tls_terminator: Option<Located<bool>>,
    pub(super) mode: Option<Located<String>>,
    pub(super) trusted_proxies: Option<Vec<Located<String>>>,
    pub(super) proxy_protocol: Option<Located<bool>>,
    pub(super) prefix_stripped: Option<Located<bool>>,
    pub(super) client_ca: Option<Located<String>>,
    pub(super) client_certificates: Option<Located<&'static str>>,
}

#[derive(Debug)]
pub(super) struct RawClientCertificate {
    pub(super) at: super::Place,
    pub(super) fingerprint: Option<Located<String>>,
    pub(super) dns: Option<Located<String>>,
    pub(super) uri: Option<Located<String>>,
    pub(super) tenant: Option<Located<TenantId>>,
    pub(super) user: Option<Located<UserId>>,
    pub(super) scopes: Option<Vec<Located<String>>>,
}

#[derive(Debug)]
pub(super) struct RawTls {
    pub(super) certificate: Option<Located<String>>,
    pub(super) key: Option<Located<String>>,
}

#[derive(Debug)]
pub(super) struct RawBackend {
    pub(super) id: Option<Located<BackendId>>,
    pub(super) url: Option<Located<String>>,
    pub(super) pool: Option<Located<PoolId>>,
    pub(super) ca: Option<Located<String>>,
    pub(super) server_name: Option<Located<String>>,
    pub(super) client_certificate: Option<Located<String>>,
    pub(super) client_key: Option<Located<String>>,
    /// Names as written; values are references to secrets.
    pub(super) headers: Vec<(String, Located<String>)>,
    pub(super) gpu: Option<Located<GpuName>>,
    pub(super) input_dir: Option<Located<String>>,
    pub(super) output_dir: Option<Located<String>>,
    pub(super) temp_dir: Option<Located<String>>,
    pub(super) tags: Option<Vec<Located<String>>>,
    pub(super) share_percent: Option<u32>,
    pub(super) warm_up: Option<Located<String>>,
    pub(super) warm_up_model: Option<Located<String>>,
}

/// `[[vram]]`.
#[derive(Debug)]
pub(super) struct RawVram {
    pub(super) model: Option<Located<String>>,
    pub(super) need: Option<Located<u64>>,
}

#[derive(Debug)]
pub(super) struct RawJwt {
    pub(super) at: super::Place,
    pub(super) issuer: Option<Located<String>>,
    pub(super) audience: Option<Located<String>>,
    pub(super) algorithms: Option<Vec<Located<String>>>,
    pub(super) key_file: Option<Located<String>>,
    pub(super) secret: Option<Located<String>>,
    pub(super) jwks_url: Option<Located<String>>,
    pub(super) jwks_ca: Option<Located<String>>,
    pub(super) jwks_refresh: Option<Located<Duration>>,
    pub(super) jwks_stale_max: Option<Located<Duration>>,
    pub(super) tenant_claim: Option<Located<ClaimPath>>,
    pub(super) unknown_tenant: Option<Located<&'static str>>,
    pub(super) create_plan: Option<Located<String>>,
    pub(super) plan_claim: Option<Located<ClaimPath>>,
    pub(super) plans_from_claim: Option<Vec<Located<String>>>,
    pub(super) user_claim: Option<Located<ClaimPath>>,
    pub(super) scope_claim: Option<Located<ClaimPath>>,
    pub(super) leeway: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct RawLimits {
    pub(super) prompt_bytes_max: Option<Located<u64>>,
    pub(super) upload_bytes_max: Option<Located<u64>>,
    pub(super) userdata_bytes_max: Option<Located<u64>>,
    pub(super) userdata_total_bytes_max: Option<Located<u64>>,
    pub(super) bodies_bytes_max: Option<Located<u64>>,
    pub(super) head_deadline: Option<Duration>,
    pub(super) body_deadline: Option<Duration>,
    pub(super) upload_deadline: Option<Duration>,
    pub(super) connections_max: Option<u32>,
    pub(super) websockets_max: Option<u32>,
    pub(super) failed_logins_free: Option<u32>,
    pub(super) created_tenants_max: Option<u32>,
    pub(super) users_max: Option<u32>,
    pub(super) keys_max: Option<u32>,
    pub(super) ended_keys_kept: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct RawSessions {
    pub(super) idle_timeout: Option<Located<Duration>>,
    pub(super) lifetime: Option<Located<Duration>>,
    pub(super) per_owner_max: Option<u32>,
    pub(super) total_max: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct RawDispatch {
    pub(super) attempts_max: Option<u32>,
    pub(super) poll_interval: Option<Duration>,
    pub(super) canary_interval: Option<Duration>,
    pub(super) canary_deadline: Option<Duration>,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) no_backend_timeout: Option<Duration>,
    pub(super) ahead: Option<Duration>,
    pub(super) warm_up: Option<bool>,
    pub(super) warm_up_deadline: Option<Duration>,
}

impl RawConfig {
    /// Reads every key of the file; faults go to the reader's report.
    pub(super) fn read(mut reader: Reader<'_>) -> Self {
        for (section, instead) in NOT_BUILT_YET {
            reader.not_built_yet(section, instead);
        }
        let raw = Self {
            public_url: reader.parsed("public_url"),
            listen: reader.tables("listen").into_iter().map(RawListen::read).collect(),
            client_certificate: reader
                .tables("client_certificate")
                .into_iter()
                .map(RawClientCertificate::read)
                .collect(),
            metrics_address: in_table(&mut reader, "metrics", |table| table.required_parsed("address")),
            state: in_table(&mut reader, "state", |table| Some(RawState::read(table))).unwrap_or_default(),
            backends: reader.tables("backends").into_iter().map(RawBackend::read).collect(),
            vram: reader.tables("vram").into_iter().map(RawVram::read).collect(),
            tenants_file: in_table(&mut reader, "tenants", |table| table.required_text("file")),
            jwt: reader.tables("jwt").into_iter().map(RawJwt::read).collect(),
            oidc: reader.tables("oidc").into_iter().map(RawOidc::read).collect(),
            views_lifetime: in_table(&mut reader, "views", |table| duration(table, "lifetime", MINUTE..=7 * DAY)),
            limits: in_table(&mut reader, "limits", |table| Some(RawLimits::read(table))).unwrap_or_default(),
            sessions: in_table(&mut reader, "sessions", |table| Some(RawSessions::read(table))).unwrap_or_default(),
            dispatch: in_table(&mut reader, "dispatch", |table| Some(RawDispatch::read(table))).unwrap_or_default(),
            drain_timeout: in_table(&mut reader, "shutdown", |table| duration(table, "drain_timeout", SECOND..=HOUR)),
            object_info: in_table(&mut reader, "catalogue", |table| table.text("object_info")),
            audit: in_table(&mut reader, "audit", |table| Some(RawAudit::read(table))).unwrap_or_default(),
            certificate_names: in_table(&mut reader, "certificate", |table| table.texts("names")).unwrap_or_default(),
            comfy_org_key: in_table(&mut reader, "comfy_org", |table| table.required_text("api_key")),
        };
        reader.finish();
        raw
    }
}

/// Sections that the design names and this release lacks.
const NOT_BUILT_YET: [(&str, &str); 4] = [
    ("redis", "one gateway keeps its state in [state] `dir`"),
    ("retention", "set `retention` and `retention_bytes` in a [[plan]] or [[tenant]] of the tenants file"),
    ("telemetry", "use [metrics]"),
    ("admin", "the control socket is in the state directory"),
];

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Reads one optional table and finishes it.
fn in_table<'a, T>(
    reader: &mut Reader<'a>,
    key: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Option<T>,
) -> Option<T> {
    let mut table = reader.table(key)?;
    let value = read(&mut table);
    table.finish();
    value
}

fn duration(reader: &mut Reader<'_>, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
    reader.duration(key, range).map(|found| found.value)
}

fn count(reader: &mut Reader<'_>, key: &'static str, max: u32) -> Option<u32> {
    reader.integer(key, 1..=u64::from(max)).and_then(|found| u32::try_from(found.value).ok())
}

impl RawState {
    fn read(reader: &mut Reader<'_>) -> Self {
        const PIB: u64 = 1 << 50;
        reader.not_built_yet("redis", "one gateway keeps its state in `dir`");
        Self { dir: reader.text("dir"), free_space_min: reader.size("free_space_min", 0..=PIB) }
    }
}

impl RawAudit {
    fn read(reader: &mut Reader<'_>) -> Self {
        const TIB: u64 = 1 << 40;
        Self {
            file: reader.text("file"),
            rotate_bytes: reader.size("rotate_bytes", 0..=TIB),
            keep: reader.integer("keep", 1..=1000),
        }
    }
}

impl RawListen {
    fn read(mut reader: Reader<'_>) -> Self {
        let raw = Self {
            address: reader.required_parsed("address"),
            redirect: reader.boolean("redirect"),
            tls: in_table(&mut reader, "tls", |table| {
                Some(RawTls { certificate: table.required_text("certificate"), key: table.required_text("key") })
            }),
            plain: reader.boolean("plain"),
            behind_tls_terminator: reader.boolean("behind_tls_terminator"),
            mode: reader.text("mode"),
            trusted_proxies: reader.texts("trusted_proxies"),
            proxy_protocol: reader.boolean("proxy_protocol"),
            prefix_stripped: reader.boolean("prefix_stripped"),
            client_ca: reader.text("client_ca"),
            client_certificates: reader.one_of("client_certificates", &["required", "optional"]),
        };
        reader.finish();
        raw
    }
}

impl RawClientCertificate {
    fn read(mut reader: Reader<'_>) -> Self {
        reader.renamed("subject", "write `dns`, `uri` or `fingerprint`: the subject's own name is not looked at");
        let raw = Self {
            at: reader.at().clone(),
            fingerprint: reader.text("fingerprint"),
            dns: reader.text("dns"),
            uri: reader.text("uri"),
            tenant: reader.required_parsed("tenant"),
            user: reader.parsed("user"),
            scopes: reader.texts("scopes"),
        };
        reader.finish();
        raw
    }
}

impl RawBackend {
    fn read(mut reader: Reader<'_>) -> Self {
        reader.renamed("address", "write `url`");
        reader.renamed("sni", "write `server_name`");
        let raw = Self {
            id: reader.required_parsed("id"),
            url: reader.required_text("url"),
            pool: reader.parsed("pool"),
            ca: reader.text("ca"),
            server_name: reader.text("server_name"),
            client_certificate: reader.text("client_certificate"),
            client_key: reader.text("client_key"),
            headers: reader.named_texts("headers"),
            gpu: gpu(&mut reader),
            input_dir: reader.text("input_dir"),
            output_dir: reader.text("output_dir"),
            temp_dir: reader.text("temp_dir"),
            tags: reader.texts("tags"),
            share_percent: count(&mut reader, "share_percent", 100),
            warm_up: reader.text("warm_up"),
            warm_up_model: reader.text("warm_up_model"),
        };
        reader.finish();
        raw
    }
}

impl RawVram {
    fn read(mut reader: Reader<'_>) -> Self {
        const TIB: u64 = 1 << 40;
        reader.require("need");
        let raw = Self { model: reader.required_text("model"), need: reader.size("need", 1..=TIB) };
        reader.finish();
        raw
    }
}

fn gpu(reader: &mut Reader<'_>) -> Option<Located<GpuName>> {
    let found = reader.integer_or_text("gpu")?;
    match found.value.parse() {
        Ok(value) => Some(Located { value, at: found.at }),
        Err(error) => {
            let error: super::GpuNameError = error;
            reader.report().error(&found.at, error.to_string(), "");
            None
        }
    }
}

impl RawJwt {
    fn read(mut reader: Reader<'_>) -> Self {
        reader.renamed("secret_file", "write `secret = \"file:PATH\"`");
        reader.renamed("jwks_uri", "write `jwks_url`");
        let raw = Self {
            at: reader.at().clone(),
            issuer: reader.required_text("issuer"),
            audience: reader.required_text("audience"),
            algorithms: reader.texts("algorithms"),
            key_file: reader.text("key_file"),
            secret: reader.text("secret"),
            jwks_url: reader.text("jwks_url"),
            jwks_ca: reader.text("jwks_ca"),
            jwks_refresh: reader.duration("jwks_refresh", LIFETIME_MIN..=LIFETIME_MAX),
            jwks_stale_max: reader.duration("jwks_stale_max", LIFETIME_MIN..=7 * DAY),
            tenant_claim: reader.required_parsed("tenant_claim"),
            unknown_tenant: reader.one_of("unknown_tenant", &["refuse", "create"]),
            create_plan: reader.text("create_plan"),
            plan_claim: reader.parsed("plan_claim"),
            plans_from_claim: reader.texts("plans_from_claim"),
            user_claim: reader.parsed("user_claim"),
            scope_claim: reader.parsed("scope_claim"),
            leeway: duration(&mut reader, "leeway", Duration::ZERO..=SKEW_MAX),
        };
        reader.require("algorithms");
        reader.finish();
        raw
    }
}

/// Off, or at least a second: more often would be work instead of a proof of it.
fn canary_interval(reader: &mut Reader<'_>) -> Option<Duration> {
    let found = reader.duration("canary_interval", Duration::ZERO..=DAY)?;
    if !found.value.is_zero() && found.value < SECOND {
        reader.report().error(&found.at, "is out of range", "1s to 1d, or 0s for none");
    }
    Some(found.value)
}

impl RawLimits {
    fn read(reader: &mut Reader<'_>) -> Self {
        const KIB: u64 = 1 << 10;
        const GIB: u64 = 1 << 30;
        reader.not_built_yet("connections_per_address_max", "use the firewall");
        reader.not_built_yet("other_bytes_max", "each route has its own bound");
        reader.renamed(
            "failed_logins_per_minute",
            "write `failed_logins_free`, how many failures of one account from one address cost nothing; each further one waits twice as long",
        );
        Self {
            prompt_bytes_max: reader.size("prompt_bytes_max", 64 * KIB..=GIB),
            upload_bytes_max: reader.size("upload_bytes_max", 64 * KIB..=64 * GIB),
            userdata_bytes_max: reader.size("userdata_bytes_max", 64 * KIB..=256 * 1024 * KIB),
            userdata_total_bytes_max: reader.size("userdata_total_bytes_max", 64 * KIB..=64 * GIB),
            bodies_bytes_max: reader.size("bodies_bytes_max", 1024 * KIB..=1024 * GIB),
            head_deadline: duration(reader, "head_deadline", SECOND..=5 * MINUTE),
            body_deadline: duration(reader, "body_deadline", SECOND..=DAY),
            upload_deadline: duration(reader, "upload_deadline", SECOND..=DAY),
            connections_max: count(reader, "connections_max", 1_000_000),
            websockets_max: count(reader, "websockets_max", 1_000_000),
            failed_logins_free: count(reader, "failed_logins_free", 1_000_000),
            created_tenants_max: count(reader, "created_tenants_max", 1_000_000),
            users_max: count(reader, "users_max", 1_000_000),
            keys_max: count(reader, "keys_max", 1_000_000),
            ended_keys_kept: duration(reader, "ended_keys_kept", DAY..=3650 * DAY),
        }
    }
}

impl RawSessions {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            // Use is noted once a minute: a shorter idle time would end what is in use.
            idle_timeout: reader.duration("idle_timeout", 5 * MINUTE..=30 * DAY),
            lifetime: reader.duration("lifetime", 5 * MINUTE..=90 * DAY),
            per_owner_max: count(reader, "per_owner_max", 10_000),
            total_max: count(reader, "total_max", 1_000_000),
        }
    }
}

impl RawDispatch {
    fn read(reader: &mut Reader<'_>) -> Self {
        reader.renamed("max_attempts", "write `attempts_max`");
        if let Some(results) = reader.one_of("results", &["copy", "leave"])
            && results.value == "leave"
        {
            reader.report().error(&results.at, "`leave` is not built yet in this release", "`copy`");
        }
        Self {
            attempts_max: count(reader, "attempts_max", 10),
            poll_interval: duration(reader, "poll_interval", SECOND / 5..=MINUTE),
            canary_interval: canary_interval(reader),
            canary_deadline: duration(reader, "canary_deadline", SECOND..=10 * MINUTE),
            stall_timeout: duration(reader, "stall_timeout", SECOND..=DAY),
            no_backend_timeout: duration(reader, "no_backend_timeout", SECOND..=30 * DAY),
            ahead: duration(reader, "ahead", Duration::ZERO..=MINUTE),
            warm_up: reader.boolean("warm_up").map(|found| found.value),
            warm_up_deadline: duration(reader, "warm_up_deadline", SECOND..=HOUR),
        }
    }
}
