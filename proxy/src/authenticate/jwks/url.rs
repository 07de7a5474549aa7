//! The address of a key set: `https://…`, or `http://…` on this machine.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Where an issuer publishes its keys. The path may hold a query; a fragment, a user name and anything else are refused.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JwksUrl {
    https: bool,
    host: String,
    port: u16,
    target: String,
}

/// The text is no address of a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksUrlError {
    /// Another scheme, a user name, a fragment, or no URL at all.
    #[error("is no URL such as `https://id.example.com/.well-known/jwks.json` (no user name, no fragment)")]
    Malformed,
    /// Plain HTTP to another machine: whoever is on the way could put keys of their own into the set.
    #[error("is plain http, which is for this machine only (127.0.0.0/8, [::1], localhost): write `https://`")]
    PlainHttp,
}

impl JwksUrl {
    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.https
    }
    /// Name or address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// The port, the scheme's own where none is written.
    pub fn port(&self) -> u16 {
        self.port
    }
    /// Path and query, as sent.
    pub fn target(&self) -> &str {
        &self.target
    }
    /// What is sent as `Host`: without the scheme's own port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.own_port() { host } else { format!("{host}:{}", self.port) }
    }
    /// Whether an address that the name leads to may be asked: a plain one only on this machine, whatever the resolver says.
    pub fn may_ask(&self, address: IpAddr) -> bool {
        self.https || address.is_loopback()
    }
    fn own_port(&self) -> u16 {
        if self.https { 443 } else { 80 }
    }
}

impl FromStr for JwksUrl {
    type Err = JwksUrlError;
    fn from_str(text: &str) -> Result<Self, JwksUrlError> {
        let malformed = JwksUrlError::Malformed;
        // `http::Uri` drops fragments silently.
        if text.contains(['#', '\\']) || !text.is_ascii() {
            return Err(malformed);
        }
        let uri: http::Uri = text.parse().map_err(|_| malformed)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(malformed),
        };
        let authority = uri.authority().ok_or(malformed)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port out of range, or none behind its colon, reads as no port: so the text is compared.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => {
                if https {
                    443
                } else {
                    80
                }
            }
            _ => authority.port_u16().filter(|port| *port != 0).ok_or(malformed)?,
        };
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(malformed);
        }
        if !https && !is_this_machine(&host) {
            return Err(JwksUrlError::PlainHttp);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { https, host, port, target })
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.target)
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwksUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_again() {
        for (text, shown) in [
            ("https://id.example.com/keys", "https://id.example.com/keys"),
            ("https://id.example.com:443/keys?p=x", "https://id.example.com/keys?p=x"),
            ("https://id.example.com", "https://id.example.com/"),
            ("https://[2001:db8::1]:8443/k", "https://[2001:db8::1]:8443/k"),
            ("http://127.0.0.1:9/k", "http://127.0.0.1:9/k"),
            ("http://[::1]/k", "http://[::1]/k"),
            ("http://localhost:81/k", "http://localhost:81/k"),
        ] {
            assert_eq!(text.parse::<JwksUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for text in ["http://id.example.com/k", "http://10.0.0.1/k", "http://localhost.evil.example/k"] {
            assert_eq!(text.parse::<JwksUrl>().unwrap_err(), JwksUrlError::PlainHttp, "{text}");
        }
        let local: JwksUrl = "http://localhost/k".parse().unwrap();
        assert!(local.may_ask("127.0.0.1".parse().unwrap()) && !local.may_ask("10.0.0.1".parse().unwrap()));
        let far: JwksUrl = "https://id.example.com/k".parse().unwrap();
        assert!(far.may_ask("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        for text in [
            "",
            "id.example.com/k",
            "ftp://x/k",
            "https://",
            "https:///k",
            "https://u@x/k",
            "https://u:p@x/k",
            "https://x/k#f",
            "https://x:0/k",
            "https://x:99999/k",
            "https://x:/k",
            "https://x\\@y/k",
            "https://é.example/k",
            "file:///etc/passwd",
        ] {
            assert!(text.parse::<JwksUrl>().is_err(), "{text}");
        }
    }
}
