//! `[[backends]]`: how each ComfyUI is reached, and what is doubtful about it.

use super::checked::Checker;
use super::faults::{Place, Report};
use super::raw::{RawBackend, RawVram};
use super::reader::Located;
use super::secrets::SecretReference;
use super::tls_files;
use super::{BackendConfig, GpuName, WarmUpConfig};
use crate::dispatch::disk::{self, Directories};
use crate::dispatch::vram::VramTable;
use crate::endpoint::headers::FixedHeaders;
use crate::endpoint::tls::ClientTls;
use crate::endpoint::{Address, BackendEndpoint, BackendUrl};
use crate::ids::{BackendTag, PoolId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long `check` and a start wait for the addresses of all names together; what is not known by then is not compared.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// What to write instead of another path.
const ABSOLUTE: &str = "the directory of this ComfyUI as this machine sees it, such as /srv/comfyui/output";
/// What a directory must be like.
const WRITABLE: &str = "it must be there, and this user must be able to list it and to delete in it; leave the key out, and its files stay";
/// Names that are looked up for that.
const LOOKUPS_MAX: usize = 64;

impl Checker<'_> {
    pub(super) fn backends(&self, raw: Vec<RawBackend>) -> Vec<BackendConfig> {
        let (mut ids, mut endpoints, mut gpus) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut backends = Vec::new();
        let mut places = Vec::new();
        for mut backend in raw {
            let endpoint = self.endpoint(&mut backend);
            let directories = self.directories(&backend);
            if let (Some(endpoint), Some(url)) = (&endpoint, &backend.url) {
                // Two backends that are one process would each be given a job at once, and each would take the other's for foreign.
                self.unique(&mut endpoints, endpoint.to_string(), &url.at, "a backend");
                self.warn_of_open_backend(endpoint, &url.at);
                places.push((endpoint.url().clone(), url.at.clone()));
            }
            if let Some(id) = &backend.id {
                self.unique(&mut ids, id.value.to_string(), &id.at, "a backend");
            }
            if let Some(gpu) = &backend.gpu {
                self.warn_of_shared_gpu(&mut gpus, gpu, endpoint.as_ref());
            }
            if let (Some(id), Some(endpoint)) = (backend.id, endpoint) {
                let pool = backend.pool.map_or_else(PoolId::default_pool, |found| found.value);
                backends.push(BackendConfig {
                    id: id.value,
                    endpoint,
                    pool,
                    gpu: backend.gpu.map(|found| found.value),
                    directories,
                    tags: self.tags(backend.tags.unwrap_or_default()),
                    share_percent: backend.share_percent.unwrap_or(100),
                    warm_up: self.warm_up(backend.warm_up, backend.warm_up_model),
                });
            }
        }
        self.warn_of_one_process(&places);
        backends
    }

    fn tags(&self, named: Vec<Located<String>>) -> BTreeSet<BackendTag> {
        tags(named, self.report)
    }

    fn warm_up(&self, file: Option<Located<String>>, model: Option<Located<String>>) -> WarmUpConfig {
        let (file, model) = match (file, model) {
            (Some(file), Some(model)) => {
                self.report.error(&model.at, "a `warm_up` file names its models itself", "one of the two");
                (Some(file), None)
            }
            other => other,
        };
        let Some(named) = file else { return WarmUpConfig::Sampling { model: model.map(|found| found.value) } };
        let path = self.absolute(&named.value);
        self.consists_of(&path);
        let body = warm_up_body(&path).map_err(|what| self.report.error(&named.at, what, WARM_UP_HINT));
        WarmUpConfig::File { path, body: body.unwrap_or_default().into() }
    }

    pub(super) fn vram(&self, raw: Vec<RawVram>) -> Arc<VramTable> {
        let mut table = VramTable::default();
        for entry in raw {
            let (Some(model), Some(need)) = (entry.model, entry.need) else { continue };
            if let Err(error) = table.add(&model.value, need.value) {
                self.report.error(&model.at, error.to_string(), "such as `flux1-dev*`");
            }
        }
        Arc::new(table)
    }

    /// The endpoint, if nothing about it is wrong.
    fn endpoint(&self, raw: &mut RawBackend) -> Option<BackendEndpoint> {
        let headers = self.fixed_headers(&raw.headers);
        let named = raw.url.as_ref()?;
        let url = match BackendUrl::parse(&named.value) {
            Ok(url) => url,
            Err(error) => return self.refuse(&named.at, error.to_string(), ""),
        };
        let tls = if url.is_https() {
            Some(self.client_tls(raw, &url, &named.at)?)
        } else {
            self.refuse_tls_keys(raw)?;
            None
        };
        match BackendEndpoint::new(url, tls, headers?) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => self.refuse(&named.at, error.to_string(), ""),
        }
    }

    /// Where a backend's files are. What can't be cleaned is refused at once: it would be found when the disk is full.
    fn directories(&self, raw: &RawBackend) -> Directories {
        Directories {
            input: self.directory(raw.input_dir.as_ref()),
            output: self.directory(raw.output_dir.as_ref()),
            temp: self.directory(raw.temp_dir.as_ref()),
        }
    }

    fn directory(&self, named: Option<&Located<String>>) -> Option<PathBuf> {
        let named = named?;
        let path = PathBuf::from(&named.value);
        if !path.is_absolute() || path.parent().is_none() {
            return self.refuse(&named.at, format!("`{}` is no absolute path of a directory", named.value), ABSOLUTE);
        }
        match disk::check(&path) {
            Ok(()) => Some(path),
            Err(error) => self.refuse(&named.at, format!("`{}` can't be cleaned: {error}", named.value), WRITABLE),
        }
    }

    /// A key that looks as if it protected something and does not is worse than none.
    fn refuse_tls_keys(&self, raw: &RawBackend) -> Option<()> {
        let keys = [&raw.ca, &raw.server_name, &raw.client_certificate, &raw.client_key];
        match keys.into_iter().flatten().next() {
            None => Some(()),
            Some(key) => {
                self.refuse(&key.at, "means something for `https://` backends only", "write the url with https")
            }
        }
    }

    fn client_tls(&self, raw: &RawBackend, url: &BackendUrl, url_at: &Place) -> Option<ClientTls> {
        let Some(ca) = &raw.ca else {
            return self.refuse(
                url_at,
                "an https backend needs `ca`: the public web's authorities are not trusted for it",
                "ca = \"PATH of the CA certificate in PEM that signed the backend's certificate\"",
            );
        };
        let identity = match (&raw.client_certificate, &raw.client_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let (certificate_path, key_path) = (self.absolute(&certificate.value), self.absolute(&key.value));
                Some(tls_files::pair(self, (&certificate_path, &certificate.at), (&key_path, &key.at))?)
            }
            (Some(alone), None) | (None, Some(alone)) => {
                return self.refuse(&alone.at, "`client_certificate` and `client_key` need each other", "");
            }
        };
        let roots = tls_files::certificates(self, (&self.absolute(&ca.value), &ca.at))?;
        let server_name = raw.server_name.as_ref();
        let name = server_name.map(|found| found.value.as_str()).or_else(|| url.host()).unwrap_or_default();
        match ClientTls::new(&roots, name, identity) {
            Ok(tls) => Some(tls),
            Err(error) => self.refuse(server_name.map_or(&ca.at, |found| &found.at), error.to_string(), ""),
        }
    }

    fn fixed_headers(&self, raw: &[(String, Located<String>)]) -> Option<FixedHeaders> {
        let mut headers = FixedHeaders::default();
        let mut good = true;
        for (name, reference) in raw {
            let found = SecretReference::parse(&reference.value, &self.surroundings.current_dir);
            let secret = self.secret(&reference.at, found);
            let fault = match secret {
                Ok(secret) => headers.insert(name, secret.expose()).err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(what) = fault {
                self.report.error(&reference.at, what, "");
                good = false;
            }
        }
        good.then_some(headers)
    }

    /// ComfyUI has no authentication: whoever reaches it goes round the gateway.
    fn warn_of_open_backend(&self, endpoint: &BackendEndpoint, at: &Place) {
        if endpoint.url().is_local() {
            return;
        }
        if endpoint.url().is_https() {
            self.warn(
                at,
                "this backend is not on loopback: whoever reaches it goes round the gateway",
                "let a firewall admit the gateway only, or let the backend ask for `client_certificate`",
            );
        } else {
            self.warn(
                at,
                "this backend is not on loopback, and plain http: whoever is in between reads prompts, results and fixed headers, and whoever reaches it goes round the gateway",
                "let a firewall admit the gateway only, and use https where others are in between",
            );
        }
    }

    /// Two processes on one GPU get in each other's way: each counts on memory that the other takes.
    fn warn_of_shared_gpu(
        &self,
        seen: &mut BTreeMap<String, Place>,
        gpu: &Located<GpuName>,
        endpoint: Option<&BackendEndpoint>,
    ) {
        let host = endpoint.filter(|endpoint| !endpoint.url().is_local()).and_then(|endpoint| endpoint.url().host());
        // An index means a GPU of one machine; a UUID is the same everywhere.
        let name = match &gpu.value {
            GpuName::Uuid(uuid) => uuid.clone(),
            GpuName::Index(index) => format!("{} {index}", host.unwrap_or("here")),
        };
        if let Some(first) = seen.get(&name) {
            self.warn(
                &gpu.at,
                format!("another backend has this GPU already (line {})", first.line),
                "one ComfyUI a GPU: two take each other's memory",
            );
        } else {
            seen.insert(name, gpu.at.clone());
        }
    }

    /// Names are compared by what they mean: `localhost` and `127.0.0.1` are one place.
    fn warn_of_one_process(&self, places: &[(BackendUrl, Place)]) {
        let meant = meanings(places.iter().map(|(url, _)| url));
        for (n, (_, at)) in places.iter().enumerate() {
            let same = |other: &usize| meant.get(n).zip(meant.get(*other)).is_some_and(|(a, b)| !a.is_disjoint(b));
            if let Some((url, first)) = (0..n).find(same).and_then(|other| places.get(other)) {
                self.warn(
                    at,
                    format!("this seems to be the same process as `{url}` (line {})", first.line),
                    "each backend once: two entries for one process give it two jobs at a time",
                );
            }
        }
    }
}

/// What a `warm_up` file has to be.
const WARM_UP_HINT: &str = "a workflow in API format, as the page's `Export (API)` saves it";
/// Bytes of such a file.
const WARM_UP_BYTES_MAX: u64 = 2 << 20;

/// The file as the body of a submission, if the strict parser takes it.
fn warm_up_body(path: &Path) -> Result<Vec<u8>, String> {
    let unread = |error: std::io::Error| format!("can't read `{}`: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unread)?;
    file.take(WARM_UP_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > WARM_UP_BYTES_MAX {
        return Err(format!("`{}` has more than {WARM_UP_BYTES_MAX} bytes", path.display()));
    }
    let body = [b"{\"prompt\":".as_slice(), &bytes, b"}"].concat();
    comfygate_policy::parse(&body).map_err(|error| format!("`{}`: {error}", path.display()))?;
    Ok(body)
}

/// Tags as used; those that are none are told.
pub(crate) fn tags(named: Vec<Located<String>>, report: &Report) -> BTreeSet<BackendTag> {
    let read = |tag: Located<String>| match tag.value.parse::<BackendTag>() {
        Ok(value) => Some(value),
        Err(error) => {
            report.error(&tag.at, error.to_string(), "");
            None
        }
    };
    named.into_iter().filter_map(read).collect()
}

/// A place where a process can listen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Socket {
    Tcp(IpAddr, u16, String),
    Unix(PathBuf),
}

/// Where each URL leads. Names other than `localhost` are looked up, in [`LOOKUP_TIMEOUT`] altogether, and only where two share a port.
fn meanings<'u>(urls: impl Iterator<Item = &'u BackendUrl>) -> Vec<BTreeSet<Socket>> {
    let urls: Vec<&BackendUrl> = urls.collect();
    let port_of = |url: &BackendUrl| match url.address() {
        Address::Tcp { port, .. } => Some(*port),
        Address::Unix(_) => None,
    };
    let shares = |url: &&BackendUrl| urls.iter().filter(|other| port_of(other) == port_of(url)).count() > 1;
    let (found, answers) = mpsc::channel();
    let mut meant: Vec<BTreeSet<Socket>> = Vec::with_capacity(urls.len());
    let mut asked = 0;
    for (n, url) in urls.iter().enumerate() {
        let mut places = BTreeSet::new();
        match url.address() {
            Address::Unix(path) => {
                places.insert(Socket::Unix(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
            }
            Address::Tcp { host, port } => {
                if let Ok(address) = host.parse::<IpAddr>() {
                    places.insert(Socket::Tcp(address, *port, url.prefix().to_owned()));
                } else if host == "localhost" {
                    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
                        places.insert(Socket::Tcp(address, *port, url.prefix().to_owned()));
                    }
                } else if shares(url) && asked < LOOKUPS_MAX {
                    asked += 1;
                    let (found, name, port) = (found.clone(), host.clone(), *port);
                    // Left behind when the resolver is slow: it ends by itself.
                    std::thread::spawn(move || {
                        let addresses = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                        let _ = found.send((n, addresses.unwrap_or_default()));
                    });
                }
            }
        }
        meant.push(places);
    }
    let end = std::time::Instant::now() + LOOKUP_TIMEOUT;
    for _ in 0..asked {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let Ok((n, addresses)) = answers.recv_timeout(left) else { break };
        if let (Some(places), Some(url)) = (meant.get_mut(n), urls.get(n)) {
            let socket =
                |address: std::net::SocketAddr| Socket::Tcp(address.ip(), address.port(), url.prefix().to_owned());
            places.extend(addresses.into_iter().map(socket));
        }
    }
    meant
}
