//! The certificates that the TLS listeners serve now, and how a reload replaces them: all of them or none.

use crate::clock::WallMillis;
use crate::config::{CertificateConfig, Config, ListenConfig, ListenKind};
use crate::listen::{self, CertificateResolver, ClientVerifier, ListenAddress, own_ca};
use anyhow::Context;
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// One TLS listener and what it shows to callers.
#[derive(Debug)]
pub struct ListenerCertificate {
    /// Which listener.
    pub address: ListenAddress,
    /// What its handshakes ask.
    pub resolver: Arc<CertificateResolver>,
    /// What checks the callers' certificates, where it asks for them.
    pub clients: Option<Arc<ClientVerifier>>,
}

/// Every TLS listener of this process, in the order of the configuration.
#[derive(Debug)]
pub struct Certificates(Vec<ListenerCertificate>);

/// Certificates that were read and checked, for listeners that are there. Nothing has changed until [`Replacement::apply`].
pub struct Replacement {
    pairs: Vec<(Arc<CertificateResolver>, CertifiedKey)>,
    cas: Vec<Box<dyn FnOnce() + Send + Sync>>,
}

impl Certificates {
    /// Reads or makes the certificate of each TLS listener.
    ///
    /// # Errors
    /// A certificate that can't be made or used; names its file and listener.
    pub fn load(config: &Config, now: WallMillis) -> anyhow::Result<Self> {
        let each = tls_listeners(config).map(|(listener, certificate)| {
            let pair = pair(config, listener, certificate, now)?;
            let clients =
                listener.client_ca.as_ref().map(|ca| ClientVerifier::load(&ca.file, ca.wanted)).transpose()?;
            Ok(ListenerCertificate {
                address: listener.address.clone(),
                resolver: CertificateResolver::new(pair),
                clients,
            })
        });
        Ok(Self(each.collect::<anyhow::Result<_>>()?))
    }

    /// The listeners with their resolvers.
    pub fn listeners(&self) -> &[ListenerCertificate] {
        &self.0
    }

    /// The resolver of one listener.
    pub fn of(&self, address: &ListenAddress) -> Option<&ListenerCertificate> {
        self.0.iter().find(|listener| listener.address == *address)
    }

    /// Reads and checks the certificates that `next` names for the listeners that are open. A listener that `next` lacks keeps what it has, and one that only `next`
    /// has is left out: listeners change with a restart. So does whether a listener asks for callers' certificates; which CA it asks, and of whom, is replaced too.
    ///
    /// # Errors
    /// As [`Certificates::load`]; then nothing may be replaced.
    pub fn replacement(&self, next: &Config, now: WallMillis) -> anyhow::Result<Replacement> {
        let mut replacement = Replacement { pairs: Vec::new(), cas: Vec::new() };
        for (listener, certificate) in tls_listeners(next) {
            let Some(open) = self.of(&listener.address) else { continue };
            replacement.pairs.push((Arc::clone(&open.resolver), pair(next, listener, certificate, now)?));
            if let (Some(clients), Some(ca)) = (&open.clients, &listener.client_ca) {
                replacement.cas.push(Box::new(clients.replacement(&ca.file, ca.wanted)?));
            }
        }
        Ok(replacement)
    }
}

impl Replacement {
    /// The next handshakes get the new certificates; open connections are left alone.
    pub fn apply(self) {
        for (resolver, pair) in self.pairs {
            resolver.replace(pair);
        }
        for replace in self.cas {
            replace();
        }
    }
}

fn tls_listeners(config: &Config) -> impl Iterator<Item = (&ListenConfig, &CertificateConfig)> {
    config.listen.iter().filter_map(|listener| match &listener.kind {
        ListenKind::Tls(certificate) => Some((listener, certificate)),
        ListenKind::Plain | ListenKind::Redirect => None,
    })
}

fn pair(
    config: &Config,
    listener: &ListenConfig,
    certificate: &CertificateConfig,
    now: WallMillis,
) -> anyhow::Result<CertifiedKey> {
    let (certificate, key) = match certificate {
        CertificateConfig::Files { certificate, key } => (certificate.clone(), key.clone()),
        CertificateConfig::Made => {
            let hosts = config.own_names();
            let names = own_ca::Names::new(
                hosts.iter().map(String::as_str),
                config.listen.iter().filter_map(|listener| listener.address.tcp()),
            );
            let made = own_ca::ensure(&config.state_dir, &names, now).context("the certificate can't be made")?;
            (made.certificate, made.key)
        }
    };
    listen::tls::load(&certificate, &key, now)
        .with_context(|| format!("the certificate of {} can't be used", listener.address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn config(dir: &std::path::Path, ports: &[u16]) -> Config {
        let listen = |port: &u16| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], *port));
            ListenConfig::new(address, ListenKind::Tls(CertificateConfig::Made))
        };
        Config { listen: ports.iter().map(listen).collect(), ..Config::built_in(dir.to_owned()) }
    }

    #[test]
    fn a_replacement_changes_nothing_until_it_is_applied_and_then_every_open_listener() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let now = Clock::system().wall();
        let certificates = Certificates::load(&config(dir.path(), &[1, 2]), now).unwrap();
        let served =
            || certificates.listeners().iter().map(|one| one.resolver.current().cert.clone()).collect::<Vec<_>>();
        let before = served();
        // Another state directory has another CA; port 3 is not open, port 2 is not named any more.
        let replacement = certificates.replacement(&config(other.path(), &[1, 3]), now).unwrap();
        assert_eq!(served(), before);
        replacement.apply();
        assert_ne!(served()[0], before[0]);
        assert_eq!(served()[1], before[1]);
    }

    #[test]
    fn one_bad_certificate_refuses_the_whole_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let now = Clock::system().wall();
        let certificates = Certificates::load(&config(dir.path(), &[1, 2]), now).unwrap();
        let mut next = config(dir.path(), &[1, 2]);
        next.listen[1].kind = ListenKind::Tls(CertificateConfig::Files {
            certificate: dir.path().join("absent.crt"),
            key: dir.path().join("absent.key"),
        });
        let error = format!("{:#}", certificates.replacement(&next, now).err().unwrap());
        assert!(error.contains("127.0.0.1:2") && error.contains("absent.crt"), "{error}");
    }
}
