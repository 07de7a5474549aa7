//! A small CA and a leaf of our own, for a gateway that has no certificate configured.
//!
//! `<state>/tls/{ca.crt,ca.key,gateway.crt,gateway.key}`, keys 0600 in a 0700 directory. Users trust `ca.crt` once; leaves come and go. The CA is
//! constrained to the names it was made for and to private addresses, so that a stolen `ca.key` can't speak for other sites. When a name comes that
//! it does not cover, a new CA is made, and has to be trusted anew.

use super::tls::{TlsError, chain, read};
use crate::clock::WallMillis;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType, date_time_ymd,
};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(86_400);
/// Clients refuse leaves of more than 398 days.
const LEAF_DAYS: u32 = 397;
/// A leaf with less than this is replaced.
const RENEW_DAYS: u32 = 30;
/// Ten years.
const CA_DAYS: u32 = 3650;
/// Addresses that no public site has: loopback, RFC 1918, RFC 4193, link-local.
const PRIVATE_NETS: [(IpAddr, u8); 8] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// The names a leaf is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// `localhost`, 127.0.0.1, ::1, the given host names, and those listener addresses that are specific. Host names that are no DNS names are left out.
    pub fn new<'a>(hosts: impl IntoIterator<Item = &'a str>, listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut names = Self {
            dns: BTreeSet::from(["localhost".to_owned()]),
            addresses: BTreeSet::from([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]),
        };
        for host in hosts {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            match bare.parse::<IpAddr>() {
                Ok(address) => names.add_address(address),
                Err(_) => names.add_dns(host),
            }
        }
        for listener in listeners {
            names.add_address(listener.ip());
        }
        names
    }

    fn add_dns(&mut self, host: &str) {
        // `_` passes in a Host header, but no client takes it in a certificate.
        let known = super::head::authority(host).is_some_and(|(_, port)| port.is_none());
        if known && !host.contains('_') {
            self.dns.insert(host.to_ascii_lowercase());
        }
    }

    fn add_address(&mut self, address: IpAddr) {
        if !address.is_unspecified() {
            self.addresses.insert(address.to_canonical());
        }
    }
}

/// The name of this machine, where the system tells it.
pub fn hostname() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether a certificate can be made for it: a DNS name, or an address.
pub fn is_name(text: &str) -> bool {
    let names = Names::new([text], []);
    names.dns.len() + names.addresses.len() > 3 || matches!(text, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

/// SHA-256 of a certificate, as browsers show it: to be compared by eye before it is trusted.
///
/// # Errors
/// The file can't be read, or holds no certificate.
pub fn fingerprint(certificate: &Path) -> Result<String, TlsError> {
    let der = chain(certificate)?;
    let der = der.first().ok_or_else(|| TlsError::NoCertificate(certificate.to_owned()))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(pairs.join(":"))
}

/// The made CA's certificate as PEM, if there is one.
pub fn made_ca(state_dir: &Path) -> Option<Vec<u8>> {
    fs::read(state_dir.join("tls/ca.crt")).ok()
}

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What users trust.
    pub ca_certificate: PathBuf,
    /// The CA's secret.
    pub ca_key: PathBuf,
    /// The leaf, followed by the CA's certificate.
    pub certificate: PathBuf,
    /// The leaf's secret.
    pub key: PathBuf,
}

/// Makes what is missing, ends within 30 days, or is for other names; leaves the rest as it is. Cheap when nothing is to be done.
///
/// # Errors
/// [`TlsError::Io`] for files that can't be read or written; [`TlsError::NoCertificate`], [`TlsError::NoKey`] and [`TlsError::Malformed`]
/// for a CA that is there and not what it should be: it is never overwritten, a person should look.
pub fn ensure(state_dir: &Path, names: &Names, now: WallMillis) -> Result<Paths, TlsError> {
    let dir = state_dir.join("tls");
    make_dir(&dir)?;
    let paths = Paths {
        ca_certificate: dir.join("ca.crt"),
        ca_key: dir.join("ca.key"),
        certificate: dir.join("gateway.crt"),
        key: dir.join("gateway.key"),
    };
    let (ca, fresh) = match kept_ca(&paths, names, now)? {
        Some(ca) => (ca, false),
        None => (make_ca(&paths, names, now)?, true),
    };
    if fresh || !leaf_is_good(&paths, names, now)? {
        make_leaf(&paths, &ca, names, now)?;
    }
    Ok(paths)
}

/// The key of the CA and its certificate as PEM, for the leaf's chain.
struct Ca {
    key: KeyPair,
    pem: String,
}

/// The CA on disk, if it is whole, lives long enough for a leaf, and covers the names.
fn kept_ca(paths: &Paths, names: &Names, now: WallMillis) -> Result<Option<Ca>, TlsError> {
    if !paths.ca_key.exists() || !paths.ca_certificate.exists() {
        return Ok(None);
    }
    let pem = String::from_utf8(read(&paths.ca_key)?).map_err(|_| TlsError::NoKey(paths.ca_key.clone()))?;
    let key = KeyPair::from_pem(&pem).map_err(|_| TlsError::NoKey(paths.ca_key.clone()))?;
    let der = chain(&paths.ca_certificate)?;
    let der = der.first().ok_or_else(|| TlsError::NoCertificate(paths.ca_certificate.clone()))?;
    let certificate = parsed(der, &paths.ca_certificate)?;
    // Written one after the other: a stop between the two leaves a new key beside an old certificate.
    let whole = certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes();
    let long = lives(&certificate, now, LEAF_DAYS);
    if !(whole && long && covers(&certificate, names)) {
        return Ok(None);
    }
    let pem = String::from_utf8(read(&paths.ca_certificate)?)
        .map_err(|_| TlsError::Malformed(paths.ca_certificate.clone()))?;
    Ok(Some(Ca { key, pem }))
}

/// Whether the CA's name constraints let a leaf of these names pass.
fn covers(ca: &X509Certificate<'_>, names: &Names) -> bool {
    let Ok(Some(constraints)) = ca.name_constraints() else {
        return false;
    };
    let permitted = constraints.value.permitted_subtrees.as_deref().unwrap_or_default();
    let dns = names.dns.iter().all(|name| {
        permitted.iter().any(|subtree| matches!(subtree.base, GeneralName::DNSName(base) if base == name.as_str()))
    });
    let addresses = names.addresses.iter().all(|address| {
        permitted.iter().any(|subtree| matches!(subtree.base, GeneralName::IPAddress(net) if net_has(net, *address)))
    });
    dns && addresses
}

/// Address and mask, one after the other, as a certificate writes a network (RFC 5280 §4.2.1.10).
fn net_has(net: &[u8], address: IpAddr) -> bool {
    let bytes = octets(address);
    let Some((base, mask)) = net.split_at_checked(bytes.len()) else {
        return false;
    };
    mask.len() == bytes.len() && bytes.iter().zip(mask).zip(base).all(|((byte, mask), base)| byte & mask == base & mask)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn make_ca(paths: &Paths, names: &Names, now: WallMillis) -> Result<Ca, TlsError> {
    let key = KeyPair::generate().map_err(made)?;
    let mut params = ca_params(&key);
    set_validity(&mut params, now, CA_DAYS);
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: permitted(names), excluded_subtrees: Vec::new() });
    let pem = params.self_signed(&key).map_err(made)?.pem();
    write(&paths.ca_key, key.serialize_pem().as_bytes(), 0o600)?;
    write(&paths.ca_certificate, pem.as_bytes(), 0o644)?;
    Ok(Ca { key, pem })
}

/// What a leaf's issuer needs of the CA: name and key. The name tells one CA from another by its key.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let digest = ring::digest::digest(&ring::digest::SHA256, key.der_bytes());
    let mark: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Comfygate own CA {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn permitted(names: &Names) -> Vec<GeneralSubtree> {
    let dns = names.dns.iter().cloned().map(GeneralSubtree::DnsName);
    let private = PRIVATE_NETS.iter().copied();
    let own = names.addresses.iter().map(|address| (*address, if address.is_ipv4() { 32 } else { 128 }));
    let nets = private.chain(own).map(|(net, bits)| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(net, bits)));
    dns.chain(nets).collect()
}

fn make_leaf(paths: &Paths, ca: &Ca, names: &Names, now: WallMillis) -> Result<(), TlsError> {
    let key = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Comfygate");
    for name in &names.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(made)?));
    }
    params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
    set_validity(&mut params, now, LEAF_DAYS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, &Issuer::new(ca_params(&ca.key), &ca.key)).map_err(made)?;
    write(&paths.key, key.serialize_pem().as_bytes(), 0o600)?;
    write(&paths.certificate, format!("{}{}", leaf.pem(), ca.pem).as_bytes(), 0o644)
}

/// Whether the leaf on disk is whole, from this CA, lives another month, and is for exactly these names.
fn leaf_is_good(paths: &Paths, names: &Names, now: WallMillis) -> Result<bool, TlsError> {
    if !paths.key.exists()
        || !paths.certificate.exists()
        || super::tls::load(&paths.certificate, &paths.key, now).is_err()
    {
        // Nobody else's work is lost: a leaf can be made again at any time, and nobody trusts it by itself.
        return Ok(false);
    }
    let chain = chain(&paths.certificate)?;
    let ca = self::chain(&paths.ca_certificate)?;
    let Some(leaf) = chain.first() else { return Ok(false) };
    let leaf = parsed(leaf, &paths.certificate)?;
    let from_this_ca = chain.get(1) == ca.first();
    Ok(from_this_ca && lives(&leaf, now, RENEW_DAYS) && names_of(&leaf).as_ref() == Some(names))
}

fn names_of(leaf: &X509Certificate<'_>) -> Option<Names> {
    let mut names = Names { dns: BTreeSet::new(), addresses: BTreeSet::new() };
    for name in &leaf.subject_alternative_name().ok()??.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                names.dns.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                names.addresses.insert(v4.or(v6).ok()?);
            }
            _ => return None,
        }
    }
    Some(names)
}

fn parsed<'a>(der: &'a [u8], path: &Path) -> Result<X509Certificate<'a>, TlsError> {
    X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| TlsError::Malformed(path.to_owned()))
}

/// Whether a certificate lives at least so many days from now.
fn lives(certificate: &X509Certificate<'_>, now: WallMillis, days: u32) -> bool {
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    end >= now.plus(DAY * days).seconds()
}

/// So many days in all; valid from an hour ago, for clients whose clock is behind.
fn set_validity(params: &mut CertificateParams, now: WallMillis, days: u32) {
    let begin = Duration::from_secs(now.seconds()).saturating_sub(Duration::from_secs(3600));
    params.not_before = date_time_ymd(1970, 1, 1) + begin;
    params.not_after = params.not_before + DAY * days;
}

fn make_dir(dir: &Path) -> Result<(), TlsError> {
    let io = |source| TlsError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io)
}

/// Written beside and renamed, so that no reader and no stop ever sees half a file; the mode is there before the content.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let io = |source| TlsError::Io { path: path.to_owned(), source };
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&beside, path).map_err(io)
}

fn made(error: rcgen::Error) -> TlsError {
    TlsError::Made(error.to_string())
}

#[cfg(test)]
mod tests;
