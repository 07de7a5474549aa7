//! From `gateway.toml` as written to [`Config`] as used: paths made absolute, files opened, keys compared with each other.

use super::faults::{Place, Report, SourceFile};
use super::issuers::checked_issuers;
use super::oidc::checked_providers;
use super::raw::{RawAudit, RawConfig, RawLimits, RawListen, RawSessions, RawTls};
use super::reader::{Located, read_file};
use super::secrets::{SecretBytes, SecretError, SecretReference};
use super::tls_files::check_pair;
use super::{
    AuditConfig, BackendConfig, CertificateConfig, Config, DispatchConfig, LimitsConfig, PublicUrl, ROTATE_BYTES_MIN,
    Rotation, Surroundings,
};
use crate::admin::CONTROL_SOCKET;
use crate::app::HAND_OVER_SOCKET;
use crate::listen::{ListenAddress, own_ca};
use crate::record::ledger::sessions::SessionBounds;
use crate::tenants::{TenantRegistry, read_tenants};
use comfygate_policy::{ComfyOrgCredential, PaidNodes, Posture, RouteBundle};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Reads and checks `file` and everything it names. Faults are noted in `report`; what is given back then must not be used.
pub(super) fn read_config(file: PathBuf, surroundings: &Surroundings<'_>, report: &Report) -> Option<Config> {
    let source = SourceFile::read(file.clone(), &Place::file(&file), report)?;
    let whole = Place::file(&file);
    let raw = read_file(&source, report, RawConfig::read);
    Some(Checker { surroundings, report }.config(file, &whole, raw))
}

/// Reads `[state] dir` of `file` and nothing else. A file that is no TOML is refused whole: what is lost of it may be that key.
pub(super) fn read_state_dir(file: PathBuf, surroundings: &Surroundings<'_>, report: &Report) -> Option<PathBuf> {
    let source = SourceFile::read(file.clone(), &Place::file(&file), report)?;
    let named = read_file(&source, report, |mut reader| reader.table("state")?.text("dir"));
    Some(named.map_or_else(|| surroundings.state_dir(), |named| surroundings.current_dir.join(named.value)))
}

/// The sockets of a state directory are bound by their whole paths, which the system bounds.
pub(super) fn check_sockets_fit(state_dir: &Path, at: &Place, report: &Report) {
    /// `sun_path` of Linux has 108 bytes, the last of them zero (unix(7)).
    const SOCKET_PATH_BYTES_MAX: usize = 107;
    let longest = [CONTROL_SOCKET, HAND_OVER_SOCKET].into_iter().map(str::len).max().unwrap_or_default();
    let dir_bytes_max = SOCKET_PATH_BYTES_MAX - 1 - longest;
    let bytes = state_dir.as_os_str().len();
    if bytes > dir_bytes_max {
        report.error(
            at,
            format!(
                "the path `{}` has {bytes} bytes, and the sockets in it need one of at most {dir_bytes_max}",
                state_dir.display()
            ),
            "set `dir` of `[state]` to a shorter path",
        );
    }
}

/// What the checks need: where paths begin, and where faults go.
pub(super) struct Checker<'a> {
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) report: &'a Report,
}

impl Checker<'_> {
    pub(super) fn refuse<T>(&self, at: &Place, what: impl Into<String>, hint: &str) -> Option<T> {
        self.report.error(at, what, hint);
        None
    }

    pub(super) fn warn(&self, at: &Place, what: impl Into<String>, hint: &str) {
        self.report.warning(at, what, hint);
    }

    pub(super) fn consists_of(&self, file: &Path) {
        self.report.consists_of(file);
    }

    /// What a reference to a secret leads to.
    pub(super) fn secret(
        &self,
        at: &Place,
        reference: Result<SecretReference, SecretError>,
    ) -> Result<SecretBytes, SecretError> {
        let reference = reference?;
        if let SecretReference::File(path) = &reference {
            self.consists_of(path);
            self.warn_of_open_file(path, at);
        }
        reference.read(self.surroundings.environment)
    }

    /// A secret that other accounts of the machine can read is none, and what they can write is not ours.
    pub(super) fn warn_of_open_file(&self, path: &Path, named_at: &Place) {
        let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o007 != 0 {
            let can = if mode & 0o002 != 0 { "written" } else { "read" };
            let what = format!("`{}` can be {can} by every account (mode {:o})", path.display(), mode & 0o777);
            self.warn(named_at, what, "chmod 600");
        }
    }

    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        self.surroundings.current_dir.join(path)
    }

    fn config(&self, file: PathBuf, whole: &Place, raw: RawConfig) -> Config {
        let defaults = Config::built_in(self.surroundings.state_dir());
        let metrics_at = raw.metrics_address.as_ref().map_or_else(|| whole.clone(), |found| found.at.clone());
        let metrics_address = raw.metrics_address.map_or(defaults.metrics_address, |found| found.value);
        let listeners: Vec<Located<ListenAddress>> =
            raw.listen.iter().filter_map(|listen| listen.address.clone()).collect();
        self.check_ports(&listeners, Located { value: metrics_address.into(), at: metrics_at });
        self.check_has_tls(&raw.listen, whole);
        if raw.public_url.is_none() {
            self.warn_of_missing_public_url(&listeners);
        }
        let public_url = raw.public_url.map(|found| found.value);
        let path = public_url.as_ref().map_or("", PublicUrl::path);
        let given_listen: Vec<_> = raw.listen.into_iter().filter_map(|listen| self.listener(listen, path)).collect();
        let tenants = raw.tenants_file.as_ref().map_or_else(TenantRegistry::built_in, |named| self.tenants(named));
        let by_certificate = raw.client_certificate.iter().filter_map(|entry| entry.tenant.as_ref());
        let by_provider = raw.oidc.iter().filter_map(|provider| provider.tenant.as_ref());
        let named = by_certificate.chain(by_provider).map(|named| (named.value.clone(), named.at.clone()));
        let tenants = tenants.naming(named);
        let client_certificates = self.client_certificates(raw.client_certificate, &given_listen);
        let given_backends = self.backends(raw.backends);
        let backends = if given_backends.is_empty() { defaults.backends } else { given_backends };
        let tenants = Arc::new(tenants.with_backends(&backends));
        let tenants_at = raw.tenants_file.as_ref().map_or(whole, |named| &named.at);
        self.check_pools(&tenants, tenants_at);
        self.warn_of_files_that_stay(&backends, &tenants, tenants_at);
        let jwt = checked_issuers(self, raw.jwt, &tenants, &backends);
        let oidc = checked_providers(self, raw.oidc, &tenants, &backends, public_url.as_ref());
        self.check_paid(&tenants, raw.comfy_org_key.is_some(), tenants_at);
        Config {
            public_url,
            client_certificates,
            listen: if given_listen.is_empty() { defaults.listen } else { given_listen },
            metrics_address,
            state_dir: match raw.state.dir {
                Some(named) => self.state_dir(&named),
                None => {
                    check_sockets_fit(&defaults.state_dir, whole, self.report);
                    defaults.state_dir
                }
            },
            free_space_min: raw.state.free_space_min.map_or(defaults.free_space_min, |found| found.value),
            backends,
            vram: self.vram(raw.vram),
            jwt,
            oidc,
            tenants,
            tenants_file: raw.tenants_file.map(|found| self.absolute(&found.value)),
            views_lifetime: raw.views_lifetime.unwrap_or(defaults.views_lifetime),
            limits: self.limits(&raw.limits),
            sessions: self.sessions(&raw.sessions),
            dispatch: DispatchConfig {
                attempts_max: raw.dispatch.attempts_max.unwrap_or(defaults.dispatch.attempts_max),
                poll_interval: raw.dispatch.poll_interval.unwrap_or(defaults.dispatch.poll_interval),
                canary_interval: raw.dispatch.canary_interval.unwrap_or(defaults.dispatch.canary_interval),
                canary_deadline: raw.dispatch.canary_deadline.unwrap_or(defaults.dispatch.canary_deadline),
                stall_timeout: raw.dispatch.stall_timeout.unwrap_or(defaults.dispatch.stall_timeout),
                no_backend_timeout: raw.dispatch.no_backend_timeout.unwrap_or(defaults.dispatch.no_backend_timeout),
                ahead: raw.dispatch.ahead.unwrap_or(defaults.dispatch.ahead),
                warm_up: raw.dispatch.warm_up.unwrap_or(defaults.dispatch.warm_up),
                warm_up_deadline: raw.dispatch.warm_up_deadline.unwrap_or(defaults.dispatch.warm_up_deadline),
            },
            drain_timeout: raw.drain_timeout.unwrap_or(defaults.drain_timeout),
            object_info_file: raw.object_info.and_then(|named| self.object_info(&named)),
            audit: self.audit(raw.audit),
            certificate_names: raw
                .certificate_names
                .into_iter()
                .filter_map(|name| self.certificate_name(name))
                .collect(),
            comfy_org: raw.comfy_org_key.and_then(|named| self.comfy_org_key(&named)),
            file: Some(file),
        }
    }

    /// Two sockets on one port: the second would fail only when the gateway starts. Port 0 is the system's choice and never collides.
    fn check_ports(&self, listeners: &[Located<ListenAddress>], metrics: Located<ListenAddress>) {
        let mut seen: Vec<&Located<ListenAddress>> = Vec::new();
        for next in listeners.iter().chain([&metrics]) {
            let same = |other: &&&Located<ListenAddress>| other.value.overlaps(&next.value);
            if let Some(other) = seen.iter().find(same) {
                let at = if next.at.line == 0 { &other.at } else { &next.at };
                self.report.error(
                    at,
                    format!("`{}` is taken by `{}` (`{}`)", next.value, other.value, other.at.key),
                    "each listener needs a port of its own",
                );
            }
            seen.push(next);
        }
    }

    fn check_has_tls(&self, listeners: &[RawListen], whole: &Place) {
        let redirects = |listen: &RawListen| listen.redirect.as_ref().is_some_and(|found| found.value);
        if !listeners.is_empty() && listeners.iter().all(redirects) {
            self.report.error(
                whole,
                "every [[listen]] only redirects",
                "add one without `redirect`, such as 0.0.0.0:8443",
            );
        }
    }

    fn warn_of_missing_public_url(&self, listeners: &[Located<ListenAddress>]) {
        if let Some(open) = listeners.iter().find(|listen| !listen.value.is_local()) {
            self.warn(
                &open.at,
                "callers of other machines connect here, and `public_url` is not set",
                "file URLs stay relative, and the made certificate may lack the host's name",
            );
        }
    }

    pub(super) fn certificate(&self, tls: RawTls) -> Option<CertificateConfig> {
        let (certificate, key) = (tls.certificate?, tls.key?);
        let (certificate_path, key_path) = (self.absolute(&certificate.value), self.absolute(&key.value));
        check_pair(self, (&certificate_path, &certificate.at), (&key_path, &key.at));
        Some(CertificateConfig::Files { certificate: certificate_path, key: key_path })
    }

    fn certificate_name(&self, named: Located<String>) -> Option<String> {
        if own_ca::is_name(&named.value) {
            return Some(named.value);
        }
        self.refuse(
            &named.at,
            format!("`{}` is no host name and no address", named.value),
            "such as box.local or 192.168.1.20",
        )
    }

    /// A directory, or a path that can become one.
    fn state_dir(&self, named: &Located<String>) -> PathBuf {
        let path = self.absolute(&named.value);
        let nearest_there = path.ancestors().find(|ancestor| ancestor.exists());
        if let Some(there) = nearest_there.filter(|there| !there.is_dir()) {
            self.report.error(&named.at, format!("`{}` is no directory", there.display()), "");
        }
        check_sockets_fit(&path, &named.at, self.report);
        path
    }

    pub(super) fn unique(&self, seen: &mut BTreeMap<String, Place>, name: String, at: &Place, what: &str) {
        if let Some(first) = seen.get(&name) {
            self.report.error(at, format!("`{name}` is {what} already (line {})", first.line), "each is named once");
        } else {
            seen.insert(name, at.clone());
        }
    }

    fn tenants(&self, named: &Located<String>) -> TenantRegistry {
        let source = SourceFile::read(self.absolute(&named.value), &named.at, self.report);
        source.map_or_else(TenantRegistry::default, |source| {
            read_tenants(&source, &self.surroundings.current_dir, self.report)
        })
    }

    /// Whoever trusts its packs shares no backend with anybody: their code, routes and events would be everybody's.
    /// ComfyUI can't be asked to delete a file.
    fn warn_of_files_that_stay(&self, backends: &[BackendConfig], tenants: &TenantRegistry, at: &Place) {
        let pools: BTreeSet<_> =
            tenants.tenants().filter(|tenant| !tenant.limits.retention.is_off()).map(|tenant| &tenant.pool).collect();
        for pool in pools {
            let stays = |backend: &&BackendConfig| backend.pool == *pool && !backend.directories.are_known();
            let names: Vec<&str> = backends.iter().filter(stays).map(|backend| backend.id.as_str()).collect();
            if !names.is_empty() {
                self.warn(
                    at,
                    format!(
                        "`retention` of tenants in the pool `{pool}` deletes nothing on the disks of the backends {}",
                        names.join(", ")
                    ),
                    "set `input_dir`, `output_dir` and `temp_dir` of each, where this machine sees them",
                );
            }
        }
    }

    fn check_pools(&self, tenants: &TenantRegistry, at: &Place) {
        for tenant in tenants.tenants() {
            if let Some(unserved) = tenants.unserved(&tenant.pool, &tenant.backend_tags) {
                self.report.error(at, format!("tenant `{}` {}", tenant.id, unserved.what), unserved.hint);
            }
        }
        for owner in tenants.tenants().filter(|tenant| tenant.policy.posture() == Posture::Owner) {
            if let Some(other) = tenants.tenants().find(|other| other.pool == owner.pool && other.id != owner.id) {
                self.report.error(
                    at,
                    format!("tenants `{}` and `{}` share the pool `{}`", owner.id, other.id, owner.pool),
                    format!("the policy of `{}` has the owner posture: give it a pool of its own", owner.id),
                );
            }
            if owner.policy.opens(RouteBundle::Manager) {
                self.warn(
                    at,
                    format!("the policy of `{}` opens ComfyUI-Manager: keys with the scope `admin` can run any code on its backends", owner.id),
                    "leave `routes` out once everything is installed",
                );
            }
        }
    }

    /// What the gateway pays for paid nodes with.
    fn comfy_org_key(&self, named: &Located<String>) -> Option<ComfyOrgCredential> {
        let reference = SecretReference::parse(&named.value, &self.surroundings.current_dir);
        let secret = match self.secret(&named.at, reference) {
            Ok(secret) => secret,
            Err(error) => return self.refuse(&named.at, error.to_string(), ""),
        };
        let text = std::str::from_utf8(secret.expose()).unwrap_or_default();
        match ComfyOrgCredential::of_api_key(text) {
            Ok(credential) => Some(credential),
            Err(error) => self.refuse(&named.at, error.to_string(), "the key as comfy.org shows it, and nothing else"),
        }
    }

    /// A policy that lets the gateway pay, where there is nothing to pay with, would refuse every paid node.
    fn check_paid(&self, tenants: &TenantRegistry, has_key: bool, at: &Place) {
        let of_tenants = tenants.tenants().map(|tenant| &tenant.policy);
        let policies = of_tenants.chain(tenants.plans().map(|(_, plan)| &plan.policy));
        let paying = policies.filter(|policy| policy.paid_nodes() == PaidNodes::Gateway && !has_key);
        for name in paying.map(|policy| policy.name()).collect::<BTreeSet<_>>() {
            self.report.error(
                at,
                format!("the policy `{name}` says `paid_nodes = \"gateway\"`, and the gateway has no key of comfy.org"),
                "set `[comfy_org] api_key = \"file:PATH\"` or \"env:NAME\", or say \"caller\" or \"deny\"",
            );
        }
    }

    fn limits(&self, raw: &RawLimits) -> LimitsConfig {
        let base = LimitsConfig::default();
        let or = |given: &Option<Located<u64>>, default| given.as_ref().map_or(default, |found| found.value);
        let limits = LimitsConfig {
            prompt_bytes_max: or(&raw.prompt_bytes_max, base.prompt_bytes_max),
            upload_bytes_max: or(&raw.upload_bytes_max, base.upload_bytes_max),
            // A smaller budget of bodies lowers what nobody asked for, instead of refusing the whole.
            userdata_bytes_max: or(
                &raw.userdata_bytes_max,
                base.userdata_bytes_max.min(or(&raw.bodies_bytes_max, base.bodies_bytes_max)),
            ),
            userdata_total_bytes_max: or(&raw.userdata_total_bytes_max, base.userdata_total_bytes_max),
            bodies_bytes_max: or(&raw.bodies_bytes_max, base.bodies_bytes_max),
            head_deadline: raw.head_deadline.unwrap_or(base.head_deadline),
            body_deadline: raw.body_deadline.unwrap_or(base.body_deadline),
            upload_deadline: raw.upload_deadline.unwrap_or(base.upload_deadline),
            connections_max: raw.connections_max.unwrap_or(base.connections_max),
            websockets_max: raw.websockets_max.unwrap_or(base.websockets_max),
            failed_logins_free: raw.failed_logins_free.unwrap_or(base.failed_logins_free),
            created_tenants_max: raw.created_tenants_max.unwrap_or(base.created_tenants_max),
            users_max: raw.users_max.unwrap_or(base.users_max),
            keys_max: raw.keys_max.unwrap_or(base.keys_max),
            ended_keys_kept: raw.ended_keys_kept.unwrap_or(base.ended_keys_kept),
        };
        self.check_bodies_fit(raw, &limits);
        limits
    }

    fn sessions(&self, raw: &RawSessions) -> SessionBounds {
        let base = super::default_sessions();
        let or = |given: &Option<Located<Duration>>, default| given.as_ref().map_or(default, |found| found.value);
        let bounds = SessionBounds {
            idle_timeout: or(&raw.idle_timeout, base.idle_timeout),
            lifetime: or(&raw.lifetime, base.lifetime),
            per_owner_max: raw.per_owner_max.unwrap_or(base.per_owner_max),
            total_max: raw.total_max.map_or(base.total_max, u64::from),
        };
        if bounds.idle_timeout > bounds.lifetime
            && let Some(found) = raw.idle_timeout.as_ref().or(raw.lifetime.as_ref())
        {
            let what = format!("a session would idle for {:?} and live for {:?}", bounds.idle_timeout, bounds.lifetime);
            self.report.error(&found.at, what, "`idle_timeout` is at most `lifetime`");
        }
        bounds
    }

    /// A body that is allowed alone but larger than the budget of all would wait for ever. Uploads stream to disk and are outside.
    fn check_bodies_fit(&self, raw: &RawLimits, limits: &LimitsConfig) {
        let largest = limits.prompt_bytes_max.max(limits.userdata_bytes_max);
        let places = [&raw.bodies_bytes_max, &raw.prompt_bytes_max, &raw.userdata_bytes_max];
        if largest > limits.bodies_bytes_max
            && let Some(at) = places.into_iter().flatten().map(|found| &found.at).next()
        {
            let what = format!("one body may have {largest} bytes, all together {}", limits.bodies_bytes_max);
            self.report.error(at, what, "raise `bodies_bytes_max`");
        }
    }

    fn object_info(&self, named: &Located<String>) -> Option<PathBuf> {
        let path = self.absolute(&named.value);
        self.consists_of(&path);
        match std::fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => Some(path),
            Ok(_) => self.refuse(&named.at, format!("`{}` is no file", path.display()), ""),
            Err(error) => self.refuse(
                &named.at,
                format!("can't read `{}`: {error}", path.display()),
                "curl http://BACKEND/object_info > FILE makes one",
            ),
        }
    }

    fn audit(&self, raw: RawAudit) -> AuditConfig {
        let rotation = self.rotation(&raw);
        let Some(named) = raw.file.filter(|named| named.value != "-") else {
            for set in [&raw.rotate_bytes, &raw.keep].into_iter().flatten() {
                self.warn(&set.at, "standard output is not rotated", "name a `file`, or leave this key out");
            }
            return AuditConfig::StandardOutput;
        };
        let path = self.absolute(&named.value);
        if !path.parent().is_some_and(Path::is_dir) {
            self.report.error(
                &named.at,
                format!("the directory of `{}` is not there", path.display()),
                "make it, or write `-` for standard output",
            );
        }
        AuditConfig::File { path, rotation }
    }

    fn rotation(&self, raw: &RawAudit) -> Option<Rotation> {
        let usual = Rotation::default();
        let keep = raw.keep.as_ref().and_then(|found| u32::try_from(found.value).ok()).unwrap_or(usual.keep);
        let Some(asked) = &raw.rotate_bytes else { return Some(Rotation { keep, ..usual }) };
        match asked.value {
            // Off: another program rotates.
            0 => None,
            bytes if bytes < ROTATE_BYTES_MIN => self.refuse(
                &asked.at,
                "a file of fewer than 64KiB would be rotated all the time",
                "0KiB for never, or 64KiB and more",
            ),
            bytes => Some(Rotation { bytes, keep }),
        }
    }
}
