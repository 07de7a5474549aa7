//! Backend URLs as they are written: `http://HOST[:PORT][/PREFIX]`, `https://…` alike, `unix:/PATH`. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// `sun_path` of a unix socket on Linux: 108 bytes with the zero at the end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A prefix is one or a few names.
const PREFIX_BYTES_MAX: usize = 256;

/// Why a text is no backend address, or an address no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// None of the three forms, or an impossible host or port. Of a text with an `@` nothing is repeated: a password may be in it.
    #[error(
        "`{0}` is no backend URL: write `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`, such as `http://127.0.0.1:8188`"
    )]
    Malformed(String),
    /// Something that has no meaning for a backend.
    #[error("a backend URL has no {0}")]
    Extra(&'static str),
    /// A path that could be read in two ways.
    #[error(
        "`{0}` can't be a path prefix: names of letters, digits and `-._~` between single slashes, no `.` or `..`, {PREFIX_BYTES_MAX} bytes at most"
    )]
    Prefix(String),
    /// Relative, or longer than the system takes.
    #[error(
        "`{0}` can't be a unix socket: an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes, as `unix:/run/comfyui.sock`"
    )]
    SocketPath(String),
    /// TLS without a trust, or a trust without TLS.
    #[error("`{0}`: `https`, and nothing else, needs a CA to trust")]
    TlsMismatch(String),
}

/// Where a backend listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or IP address (IPv6 without brackets) and a port.
    Tcp {
        /// Lower case.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A unix socket, absolute.
    Unix(PathBuf),
}

/// A backend's address as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendUrl {
    https: bool,
    address: Address,
    /// Empty, or `/a/b` without a slash at the end.
    prefix: String,
}

impl BackendUrl {
    /// Reads a URL: IPv6 in brackets; ports 80 and 443 when left out, as in any URL.
    ///
    /// # Errors
    /// [`EndpointError`] says which part is wrong.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(shown(url));
        if let Some(path) = url.strip_prefix("unix:") {
            return Self::unix(path);
        }
        let (https, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(malformed()),
        };
        for (mark, what) in [('@', "user name"), ('?', "query"), ('#', "fragment")] {
            if rest.contains(mark) {
                return Err(EndpointError::Extra(what));
            }
        }
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = split_authority(authority).ok_or_else(malformed)?;
        let port = port.unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, address: Address::Tcp { host, port }, prefix: checked_prefix(prefix)? })
    }

    fn unix(path: &str) -> Result<Self, EndpointError> {
        // `unix://host/…` would be a host that nobody means.
        let good = path.starts_with('/')
            && !path.starts_with("//")
            && !path.ends_with('/')
            && path.len() <= SOCKET_PATH_BYTES_MAX
            && !path.contains('\0');
        if !good {
            return Err(EndpointError::SocketPath(path.to_owned()));
        }
        Ok(Self { https: false, address: Address::Unix(PathBuf::from(path)), prefix: String::new() })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// What stands before every path: empty, or `/a/b`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Host and port as a `Host` header; `localhost` for a unix socket, which has none.
    pub fn authority(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The host by which a certificate is checked, unless another name is configured.
    pub fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// The socket's path.
    pub fn socket_path(&self) -> Option<&Path> {
        match &self.address {
            Address::Tcp { .. } => None,
            Address::Unix(path) => Some(path),
        }
    }

    /// Whether no byte leaves this machine: a unix socket, `localhost`, or a loopback address.
    pub fn is_local(&self) -> bool {
        self.host().is_none_or(|host| {
            host == "localhost"
                || host.ends_with(".localhost")
                || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        })
    }
}

/// A faulty URL as an error may repeat it.
fn shown(url: &str) -> String {
    if url.contains('@') { "that".to_owned() } else { url.chars().take(80).collect() }
}

/// Host in lower case without brackets, and the port if there is one.
fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return None,
            };
            (address, port)
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
        return None;
    }
    let port = port.map(|text| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port != 0)
    });
    match port {
        Some(None) => None,
        port => Some((host.to_ascii_lowercase(), port.flatten())),
    }
}

fn checked_prefix(text: &str) -> Result<String, EndpointError> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    let Some(names) = prefix.strip_prefix('/') else { return Ok(String::new()) };
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let good = |name: &str| !name.is_empty() && name != "." && name != ".." && name.bytes().all(unreserved);
    if prefix.len() <= PREFIX_BYTES_MAX && names.split('/').all(good) {
        Ok(prefix.to_owned())
    } else {
        Err(EndpointError::Prefix(text.chars().take(80).collect()))
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp { .. } => {
                write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.prefix)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_shown_again() {
        for (url, shown) in [
            ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
            ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
            ("http://GPU-3.rack", "http://gpu-3.rack:80"),
            ("https://gpu-3.rack", "https://gpu-3.rack:443"),
            ("http://[::1]:8188", "http://[::1]:8188"),
            ("https://[::1]/a/b-c/", "https://[::1]:443/a/b-c"),
            ("http://x:1/comfy", "http://x:1/comfy"),
            ("unix:/run/comfyui.sock", "unix:/run/comfyui.sock"),
        ] {
            assert_eq!(BackendUrl::parse(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_backend_url_is_refused_with_the_reason() {
        for url in ["", "127.0.0.1:8188", "ftp://x:1", "http://", "http://x:0", "http://x:99999", "http://x:"] {
            assert_eq!(BackendUrl::parse(url), Err(EndpointError::Malformed(url.to_owned())), "{url}");
        }
        for url in ["http://x:+1", "http://a b", "http://[::1", "http://[x]", "http://[::1]8", "http://x:1:2"] {
            assert_eq!(BackendUrl::parse(url), Err(EndpointError::Malformed(url.to_owned())), "{url}");
        }
        for (url, what) in [("http://u:p@x", "user name"), ("http://x?y", "query"), ("http://x/y#z", "fragment")] {
            assert_eq!(BackendUrl::parse(url), Err(EndpointError::Extra(what)));
        }
    }

    #[test]
    fn a_prefix_that_could_be_read_in_two_ways_is_refused() {
        for prefix in ["/a/../b", "/./a", "//a", "/a//b", "/a%2fb", "/a b", "/a;b"] {
            assert!(
                matches!(BackendUrl::parse(&format!("http://x{prefix}")), Err(EndpointError::Prefix(_))),
                "{prefix}"
            );
        }
        let long = |bytes: usize| BackendUrl::parse(&format!("http://x/{}", "a".repeat(bytes - 1)));
        assert!(long(PREFIX_BYTES_MAX).is_ok() && long(PREFIX_BYTES_MAX + 1).is_err());
    }

    #[test]
    fn a_unix_socket_is_an_absolute_path_that_the_system_takes() {
        for path in ["run/x", "//host/x", "", "/run/"] {
            assert!(matches!(BackendUrl::parse(&format!("unix:{path}")), Err(EndpointError::SocketPath(_))), "{path}");
        }
        let long = |bytes: usize| BackendUrl::parse(&format!("unix:/{}", "a".repeat(bytes - 1)));
        assert!(long(SOCKET_PATH_BYTES_MAX).is_ok() && long(SOCKET_PATH_BYTES_MAX + 1).is_err());
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        for url in ["http://u:hunter2@x", "u:hunter2@x"] {
            let error = BackendUrl::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn loopback_and_sockets_are_local_and_nothing_else_is() {
        for url in ["http://127.0.0.1:1", "http://127.9.9.9:1", "http://localhost", "http://[::1]:1", "unix:/x"] {
            assert!(BackendUrl::parse(url).unwrap().is_local(), "{url}");
        }
        for url in ["http://10.0.0.1", "http://localhost.example.com", "https://x"] {
            assert!(!BackendUrl::parse(url).unwrap().is_local(), "{url}");
        }
    }
}
