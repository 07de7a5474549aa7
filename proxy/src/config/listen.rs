//! The checks of `[[listen]]` and `[[client_certificate]]`: what a listener may be told together, and what would let callers choose who or where they are.

use super::checked::Checker;
use super::raw::{RawClientCertificate, RawListen};
use super::reader::Located;
use super::{CertificateConfig, ClientCaConfig, ListenConfig, ListenKind, UNIX_MODE};
use crate::authenticate::certificate::{CertificateMatch, CertificateRule};
use crate::listen::address::UNIX_PATH_BYTES_MAX;
use crate::listen::client_certificate::{ClientCertificates, ClientVerifier};
use crate::listen::trusted::{TrustedProxies, TrustedProxy};
use crate::listen::{ListenAddress, ListenerFacts};
use crate::owner::{Scope, Scopes};
use std::collections::HashSet;
use std::sync::Arc;

/// A switch that is on.
fn on(switch: Option<&Located<bool>>) -> Option<&Located<bool>> {
    switch.filter(|found| found.value)
}

impl Checker<'_> {
    /// One listener; `path` is that of `public_url`.
    pub(super) fn listener(&self, raw: RawListen, path: &str) -> Option<ListenConfig> {
        self.check_plain(&raw);
        self.check_prefix_stripped(&raw, path);
        let trusted = self.trusted_proxies(&raw);
        let mode = self.mode(&raw);
        let client_ca = self.client_ca(&raw);
        let facts = ListenerFacts {
            trusted,
            proxy_protocol: on(raw.proxy_protocol.as_ref()).is_some(),
            prefix_stripped: on(raw.prefix_stripped.as_ref()).is_some(),
            plain: on(raw.plain.as_ref()).is_some(),
        };
        self.check_proxy_protocol(&raw, &facts);
        self.check_port_of_its_own(&raw, &facts);
        let address = raw.address.clone().and_then(|address| self.socket_file(address));
        let kind = self.kind(raw);
        Some(ListenConfig { address: address?, kind: kind?, mode: mode?, facts: Arc::new(facts), client_ca })
    }

    fn kind(&self, raw: RawListen) -> Option<ListenKind> {
        let (redirect, plain) = (on(raw.redirect.as_ref()), on(raw.plain.as_ref()));
        match (redirect, plain, raw.tls) {
            (Some(redirect), _, Some(_)) => self.refuse(
                &redirect.at,
                "a redirect speaks plain HTTP, so it has no `tls`",
                "leave one of the two out",
            ),
            (_, Some(plain), Some(_)) => {
                self.refuse(&plain.at, "a plain listener has no `tls`", "leave one of the two out")
            }
            (Some(redirect), Some(_), None) => {
                self.refuse(&redirect.at, "a redirect is plain already", "leave `plain` out")
            }
            (Some(_), None, None) => Some(ListenKind::Redirect),
            (None, Some(_), None) => Some(ListenKind::Plain),
            (None, None, Some(tls)) => self.certificate(tls).map(ListenKind::Tls),
            (None, None, None) => Some(ListenKind::Tls(CertificateConfig::Made)),
        }
    }

    /// Whoever reads a plain connection reads credentials.
    fn check_plain(&self, raw: &RawListen) {
        let terminator = on(raw.behind_tls_terminator.as_ref());
        let (Some(plain), Some(address)) = (on(raw.plain.as_ref()), &raw.address) else {
            if let Some(terminator) = terminator {
                self.refuse::<()>(
                    &terminator.at,
                    "this listener ends TLS itself",
                    "add `plain = true`, or leave `behind_tls_terminator` out",
                );
            }
            return;
        };
        if !address.value.is_local() && terminator.is_none() {
            self.refuse::<()>(
                &plain.at,
                format!("`{}` can be reached from other machines, and plain HTTP carries credentials that anybody on the way can read", address.value),
                "leave `plain` out, listen on loopback or a unix socket, or say `behind_tls_terminator = true` if only a proxy that ends TLS can reach it",
            );
        }
        if terminator.is_some() && raw.trusted_proxies.is_none() {
            self.warn(
                &plain.at,
                "every caller will seem to be the terminator: failed logins of one lock all out",
                "name the terminator in `trusted_proxies`",
            );
        }
    }

    fn check_prefix_stripped(&self, raw: &RawListen, path: &str) {
        if let Some(stripped) = on(raw.prefix_stripped.as_ref())
            && path.is_empty()
        {
            self.refuse::<()>(&stripped.at, "`public_url` has no path that could be stripped", "leave it out");
        }
    }

    fn trusted_proxies(&self, raw: &RawListen) -> TrustedProxies {
        let is_unix = raw.address.as_ref().is_some_and(|address| address.value.unix().is_some());
        let mut entries = Vec::new();
        for entry in raw.trusted_proxies.iter().flatten() {
            match entry.value.parse::<TrustedProxy>() {
                Ok(TrustedProxy::Unix) if !is_unix => {
                    let hint = "name the proxies' addresses, or listen on `unix:/path.sock`";
                    self.refuse::<()>(&entry.at, "`unix` is for listeners on a unix socket", hint);
                }
                Ok(found) => entries.push(found),
                Err(error) => drop(self.refuse::<()>(&entry.at, error.to_string(), "")),
            }
        }
        TrustedProxies::of(&entries)
    }

    fn check_proxy_protocol(&self, raw: &RawListen, facts: &ListenerFacts) {
        if let Some(wanted) = on(raw.proxy_protocol.as_ref())
            && facts.trusted.is_empty()
            && raw.trusted_proxies.as_ref().is_none_or(Vec::is_empty)
        {
            self.refuse::<()>(
                &wanted.at,
                "whoever may send a PROXY header chooses the caller's address, and nobody is trusted with that",
                "name the proxies in `trusted_proxies`",
            );
        }
    }

    /// A connection knows its listener by its port.
    fn check_port_of_its_own(&self, raw: &RawListen, facts: &ListenerFacts) {
        let chosen = |address: &ListenAddress| address.tcp().is_some_and(|address| address.port() == 0);
        if let Some(address) = raw.address.as_ref().filter(|address| chosen(&address.value))
            && (!facts.trusted.is_empty() || facts.proxy_protocol || facts.prefix_stripped || facts.plain)
        {
            let what = "port 0 lets the system choose, and this listener must be known by its port";
            self.refuse::<()>(&address.at, what, "name a port");
        }
    }

    fn socket_file(&self, address: Located<ListenAddress>) -> Option<ListenAddress> {
        let Some(path) = address.value.unix() else { return Some(address.value) };
        let path = self.absolute(&path.display().to_string());
        if path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
            let what = format!("`{}` is longer than {UNIX_PATH_BYTES_MAX} bytes", path.display());
            return self.refuse(&address.at, what, "the system takes no longer path of a socket");
        }
        if !path.parent().is_some_and(std::path::Path::is_dir) {
            return self.refuse(
                &address.at,
                format!("the directory of `{}` is not there", path.display()),
                "make it, and let only those enter who may connect",
            );
        }
        Some(ListenAddress::Unix(path))
    }

    fn mode(&self, raw: &RawListen) -> Option<u32> {
        let Some(mode) = &raw.mode else { return Some(UNIX_MODE) };
        if raw.address.as_ref().is_some_and(|address| address.value.unix().is_none()) {
            return self.refuse(&mode.at, "only a socket file has a mode", "leave it out");
        }
        let digits = mode.value.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(&mode.value);
        let octal = digits.len() == 3 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let bits = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
        bits.or_else(|| {
            self.refuse(&mode.at, format!("`{}` is no mode", mode.value), "three octal digits, such as 0660")
        })
    }

    fn client_ca(&self, raw: &RawListen) -> Option<ClientCaConfig> {
        let Some(named) = &raw.client_ca else {
            if let Some(wanted) = &raw.client_certificates {
                self.refuse::<()>(
                    &wanted.at,
                    "no CA is named that callers' certificates could be checked by",
                    "add `client_ca`",
                );
            }
            return None;
        };
        if on(raw.plain.as_ref()).is_some() || on(raw.redirect.as_ref()).is_some() {
            return self.refuse(&named.at, "certificates of callers need TLS", "leave it out");
        }
        let wanted = match &raw.client_certificates {
            Some(found) if found.value == "optional" => ClientCertificates::Optional,
            _ => ClientCertificates::Required,
        };
        let file = self.absolute(&named.value);
        self.consists_of(&file);
        match ClientVerifier::load(&file, wanted) {
            Ok(_) => Some(ClientCaConfig { file, wanted }),
            Err(error) => self.refuse(&named.at, error.to_string(), "-----BEGIN CERTIFICATE-----"),
        }
    }

    /// Whom certificates stand for.
    pub(super) fn client_certificates(
        &self,
        raw: Vec<RawClientCertificate>,
        listen: &[ListenConfig],
    ) -> Arc<[CertificateRule]> {
        if let Some(first) = raw.first()
            && listen.iter().all(|listener| listener.client_ca.is_none())
        {
            self.warn(&first.at, "no listener asks for certificates", "add `client_ca` to one");
        }
        let mut seen = HashSet::new();
        let mut rules = Vec::new();
        for entry in raw {
            let at = entry.at.clone();
            if let Some(rule) = self.client_certificate(entry) {
                if seen.insert(rule.matches.clone()) {
                    rules.push(rule);
                } else {
                    self.refuse::<()>(&at, "another entry is for the same certificates", "each is named once");
                }
            }
        }
        rules.into()
    }

    fn client_certificate(&self, raw: RawClientCertificate) -> Option<CertificateRule> {
        let matches = self.certificate_match(&raw);
        let scopes = self.scopes(raw.scopes);
        Some(CertificateRule {
            matches: matches?,
            tenant: raw.tenant?.value,
            user: raw.user.map(|found| found.value),
            scopes: scopes?,
        })
    }

    fn certificate_match(&self, raw: &RawClientCertificate) -> Option<CertificateMatch> {
        let (found, at) = match (&raw.fingerprint, &raw.dns, &raw.uri) {
            (Some(text), None, None) => (CertificateMatch::fingerprint(&text.value), &text.at),
            (None, Some(text), None) => (CertificateMatch::dns(&text.value), &text.at),
            (None, None, Some(text)) => (CertificateMatch::uri(&text.value), &text.at),
            _ => {
                let what = "an entry names its certificates in exactly one way";
                return self.refuse(&raw.at, what, "write one of `dns`, `uri` and `fingerprint`");
            }
        };
        found.map_err(|error| self.refuse::<()>(at, error.to_string(), "")).ok()
    }

    fn scopes(&self, named: Option<Vec<Located<String>>>) -> Option<Scopes> {
        let Some(named) = named else { return Some(Scopes::of_a_client()) };
        let known = |entry: &Located<String>| {
            Scope::from_name(&entry.value).or_else(|| {
                let names = Scope::ALL.map(Scope::name).join(", ");
                self.refuse(&entry.at, format!("`{}` is no scope", entry.value), &format!("one of {names}"))
            })
        };
        let found = named.iter().map(known).collect::<Vec<_>>();
        found.into_iter().collect()
    }
}
