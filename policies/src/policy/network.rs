//! Where nodes may fetch from: an address in the one form that rules compare, and the patterns of `[network]`.
//!
//! An address has parts, and a pattern has the same: `[scheme://]host[:port][/path]`. Each part is matched by itself, so that no `*` of a host reaches into a path, where a caller writes what he likes.

use std::net::{Ipv4Addr, Ipv6Addr};

use globset::GlobBuilder;

use crate::patterns::Patterns;

/// An address that a node fetches from, in the one form that rules compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// `http` or `https`.
    scheme: String,
    /// In lower case and without a dot at its end; of IPv6 the shortest form in brackets.
    host: String,
    /// Whether the host is an address of IPv6.
    is_ipv6: bool,
    port: u16,
    /// With its query, and with the slash that it begins with.
    path: String,
}

impl Address {
    /// Reads `http` and `https` addresses. `None`: credentials, spaces, control characters, backslashes, steps upwards, letters beyond ASCII in the host, numbers that some readers take for
    /// addresses of IPv4, or anything else by which two readers could end at different hosts.
    pub(crate) fn read(text: &str) -> Option<Address> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default = default_port(&scheme)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (name, port) = host_and_port(authority)?;
        let port = match port {
            None => default,
            Some(port) => port_number(port)?,
        };
        let (host, is_ipv6) = match name.strip_prefix('[') {
            Some(inner) => (ipv6(inner.strip_suffix(']')?)?, true),
            None => (host_name(name)?, false),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        is_plain_path(path).then(|| Address { scheme, host, is_ipv6, port, path: format!("{slash}{path}") })
    }

    /// Such as `example.org` or `example.org:8080`: as a pattern would say it.
    pub(crate) fn authority(&self) -> String {
        if default_port(&self.scheme) == Some(self.port) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Such as `https://example.org/a/b`.
    pub(crate) fn whole(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The host, with its brackets, and what follows a colon after it.
fn host_and_port(authority: &str) -> Option<(&str, Option<&str>)> {
    // The colons within brackets are those of IPv6.
    let end = match authority.starts_with('[') {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (name, rest) = authority.split_at(end);
    match rest {
        "" => Some((name, None)),
        _ => Some((name, Some(rest.strip_prefix(':')?))),
    }
}

/// Digits only: `parse` would take a plus before them.
fn port_number(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// A host by name or by IPv4, in lower case.
fn host_name(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    // A dot at the end only says that the name is whole.
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let good = name.bytes().all(plain) && name.split('.').all(|label| !label.is_empty());
    let last = name.rsplit('.').next().unwrap_or_default();
    // Readers take a name that ends in a number for IPv4, in many spellings: `2852039166`, `0xa9fea9fe`, `0251.0376.43518`. One is known to all.
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let numeric = hex || last.bytes().all(|byte| byte.is_ascii_digit());
    let known = !numeric || name.parse::<Ipv4Addr>().is_ok();
    (good && known).then(|| name.to_owned())
}

/// The shortest form of an address of IPv6, in brackets. None of one that stands for an address of IPv4, which has a spelling of its own.
fn ipv6(text: &str) -> Option<String> {
    let address: Ipv6Addr = text.parse().ok()?;
    let segments = address.segments();
    let [a, b, c, d, e, f, g, _] = segments;
    let zeros = [a, b, c, d, e].iter().all(|part| *part == 0);
    let compatible = zeros && f == 0 && g != 0;
    let mapped = zeros && f == 0xffff || [a, b, c, d] == [0; 4] && e == 0xffff;
    let translated = a == 0x64 && b == 0xff9b || a == 0x2002;
    (!compatible && !mapped && !translated).then(|| format!("[{address}]"))
}

/// Whether every reader takes the path, with its query, for the same one.
fn is_plain_path(path: &str) -> bool {
    let graphic = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#');
    let segments = path.split('?').next().unwrap_or_default();
    let steps = path.contains("..") || segments.split('/').any(|segment| segment == ".");
    graphic && !steps && !has_needless_escape(path)
}

/// Whether a letter, a digit or `-._~` is written as `%XX`: readers take the escape for the character, and patterns do not.
fn has_needless_escape(path: &str) -> bool {
    path.split('%').skip(1).any(|after| {
        let code = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        code.is_some_and(|code| code.is_ascii_alphanumeric() || b"-._~".contains(&code))
    })
}

/// Which ports a pattern is about.
#[derive(Debug, Clone)]
enum Ports {
    /// It names none: the scheme's own where it allows, each where it denies.
    Unsaid,
    Matching(Patterns),
}

/// One pattern of `[network]`.
#[derive(Debug, Clone)]
pub(crate) struct AddressPattern {
    /// `None`: either.
    scheme: Option<Patterns>,
    host: Patterns,
    /// Whether it names one address of IPv6: no other pattern allows one.
    is_ipv6: bool,
    ports: Ports,
    /// With the slash that it begins with. `None`: every path.
    path: Option<Patterns>,
    /// All of it: what denies is looked for in the whole address too.
    whole: Patterns,
}

impl AddressPattern {
    /// Reads `[scheme://]host[:port][/path]`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://").filter(|(scheme, _)| !scheme.contains('/')) {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        // Brackets that stand for themselves, as suggestions write them.
        let plain = authority.replace("[[]", "[").replace("[]]", "]");
        let literal = host_and_port(&plain).and_then(|(name, port)| {
            Some((ipv6(name.strip_prefix('[')?.strip_suffix(']')?)?, port.map(str::to_owned)))
        });
        let is_ipv6 = literal.is_some();
        let (host, port) = match literal {
            Some((address, port)) => (globset::escape(&address), port),
            None => {
                let (name, port) = match authority.split_once(':') {
                    Some((name, port)) => (name, Some(port.to_owned())),
                    None => (authority, None),
                };
                (name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(), port)
            }
        };
        if host.is_empty() {
            return Err("it names no host: write one, or `*` for every host".to_owned());
        }
        if !host.is_ascii() {
            return Err("hosts are written in ASCII, such as `xn--bcher-kva.example`".to_owned());
        }
        if let Some(port) = port.as_deref().filter(|port| !is_port_pattern(port)) {
            return Err(format!("`{port}` is no port (an address of IPv6 stands in brackets)"));
        }
        let is_range = path.strip_prefix('/').is_some_and(|bits| bits.parse::<u8>().is_ok());
        if scheme.is_none() && is_range && (is_ipv6 || host.parse::<Ipv4Addr>().is_ok()) {
            return Err(
                "ranges of addresses are not understood: name each address, or let `*` stand for a part".to_owned()
            );
        }
        Ok(Self {
            scheme: scheme.as_deref().map(compiled).transpose()?,
            host: compiled(&host)?,
            is_ipv6,
            ports: port.as_deref().map(compiled).transpose()?.map_or(Ports::Unsaid, Ports::Matching),
            path: Some(path).filter(|path| !path.is_empty()).map(compiled).transpose()?,
            whole: compiled(text)?,
        })
    }

    fn is_about(&self, address: &Address, any_port: bool) -> bool {
        let port = match &self.ports {
            Ports::Unsaid => any_port || default_port(&address.scheme) == Some(address.port),
            Ports::Matching(ports) => ports.matches(&address.port.to_string()),
        };
        port && self.scheme.as_ref().is_none_or(|scheme| scheme.matches(&address.scheme))
            && self.host.matches(&address.host)
            && self.path.as_ref().is_none_or(|path| path.matches(&address.path))
    }

    fn allows(&self, address: &Address) -> bool {
        self.is_ipv6 == address.is_ipv6 && self.is_about(address, false)
    }

    fn denies(&self, address: &Address, whole: &str) -> bool {
        self.is_about(address, true) || self.whole.matches(whole)
    }
}

/// A number or a pattern of one.
fn is_port_pattern(text: &str) -> bool {
    let wild = text.contains(['*', '?', '[', '{']);
    let known = |c: char| c.is_ascii_digit() || matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '-' | '!');
    if wild { text.chars().all(known) } else { port_number(text).is_some_and(|port| port > 0) }
}

fn compiled(pattern: &str) -> Result<Patterns, String> {
    let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(false).build();
    let glob =
        glob.map_err(|error| format!("not a pattern: {} in `{pattern}`; write `[[]` for a plain `[`", error.kind()))?;
    Patterns::of([glob]).map_err(|error| format!("not a pattern: {error}"))
}

/// The rules of `[network]`; a denial wins.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkRules {
    pub(super) allow: Vec<AddressPattern>,
    pub(super) deny: Vec<AddressPattern>,
}

impl NetworkRules {
    /// The list that stands against the address, if one does.
    pub(super) fn against(&self, address: &Address) -> Option<&'static str> {
        let whole = address.whole();
        if self.deny.iter().any(|pattern| pattern.denies(address, &whole)) {
            return Some("network.deny");
        }
        (!self.allow.iter().any(|pattern| pattern.allows(address))).then_some("network.allow")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form_and_tricks_have_none() {
        let read = |text: &str| Address::read(text).map(|address| address.whole());
        for (text, one) in [
            ("HTTPS://Example.org:8080/A?b=1", "https://example.org:8080/A?b=1"),
            ("http://example.org", "http://example.org/"),
            ("https://example.org./", "https://example.org/"),
            ("https://example.org:443/", "https://example.org/"),
            ("http://example.org:443/", "http://example.org:443/"),
            ("https://example.org?a", "https://example.org/?a"),
            ("http://169.254.169.254/x", "http://169.254.169.254/x"),
            ("http://169.254.169.254./x", "http://169.254.169.254/x"),
            ("https://[0:0::1]/", "https://[::1]/"),
            ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"),
            ("https://0x7f.example.org/", "https://0x7f.example.org/"),
            ("https://example.org/a%20b", "https://example.org/a%20b"),
        ] {
            assert_eq!(read(text).as_deref(), Some(one), "{text}");
        }
        for text in [
            "ftp://example.org",
            "file:///etc/passwd",
            "https://user@example.org",
            "https://example.org\\@evil.org",
            "https://example.org\\.evil.org/",
            "https://example.org#@evil.org/",
            "https://example.org/#a",
            "https://example.org/a/../b",
            "https://example.org/./b",
            "https://example.org/%2E%2e/b",
            "https://example.org/%70rivate/b",
            "https:// example.org",
            " https://example.org",
            "https://example.org\t/",
            "https://exam\nple.org/",
            "https://",
            "https://./",
            "https://example.org../",
            "https://example.org:0/",
            "https://example.org:/",
            "https://example.org:+443/",
            "https://example.org:0443/",
            "https://example.org:65536/",
            "https://ex\u{e4}mple.org",
            "https://example\u{3002}org/",
            "https://a..b/",
            "example.org",
            // IPv4 as only some read it.
            "http://2852039166/x",
            "http://0xa9fea9fe/",
            "http://0XA9FEA9FE/",
            "http://0xa9.0xfe.0xa9.0xfe/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://127.1/",
            "http://1.2.3.4.5/",
            "http://0x/",
            // IPv6 that is none, or that stands for IPv4.
            "https://[::1/",
            "https://[::1]x/",
            "https://[fe80::1%25eth0]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[::a9fe:a9fe]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:a9fe:a9fe::]/",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_pattern_that_can_not_mean_an_address_is_a_fault() {
        for text in [
            "example.org",
            "*",
            "*:*",
            "https://*",
            "h:80*",
            "[::1]",
            "https://[::1]:80/*",
            "[[]::1[]]",
            "[ab].org",
            "a/b",
        ] {
            assert!(AddressPattern::of(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "https://",
            "/a",
            ":80",
            "h:x",
            "h:0",
            "h:",
            "::1",
            "b\u{fc}cher.example",
            "10.0.0.0/8",
            "[fe80::]/10",
            "{a/b,c}",
        ] {
            assert!(AddressPattern::of(text).is_err(), "{text}");
        }
    }
}
