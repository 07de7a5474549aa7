//! `cors_origins`: pages of other sites that work with a tenant's keys and tickets. Exact origins, as browsers write them, and nothing that stands for many.

use crate::config::faults::Report;
use crate::config::reader::Located;
use std::collections::BTreeSet;

/// Pages that belong together have a few.
pub const ORIGINS_MAX: usize = 32;
/// A host of 253 characters, its scheme and port.
const BYTES_MAX: usize = 267;

/// Why a text is no origin that may be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// A list of everybody.
    #[error("`*` would be every site")]
    Any,
    /// What pages without an origin send: files, sandboxed frames, some redirects.
    #[error("`null` is the origin of pages that anybody can make")]
    Null,
    /// Such a page is whoever sits on the line.
    #[error("plain `http://` is taken for `localhost` and `127.0.0.1` only")]
    Plain,
    /// Browsers write no path, no user and no default port, and hosts in lower case.
    #[error("an origin is a scheme, a host in lower case and perhaps a port, as browsers write it")]
    Form,
}

/// Whether a listed origin is one of development: a page on the very machine that the browser runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `https://`.
    Site,
    /// `http://localhost` or `http://127.0.0.1`.
    Development,
}

/// What kind of origin this is.
///
/// # Errors
/// [`OriginError`].
pub fn kind(text: &str) -> Result<Kind, OriginError> {
    match text {
        _ if text.contains('*') => return Err(OriginError::Any),
        "null" => return Err(OriginError::Null),
        _ => {}
    }
    let (kind, authority, default_port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(authority), _) => (Kind::Site, authority, "443"),
        (_, Some(authority)) => (Kind::Development, authority, "80"),
        (None, None) => return Err(OriginError::Form),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(OriginError::Form)?;
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| OriginError::Form)?;
            (
                format!("[{address}]"),
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(OriginError::Form)?) },
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        },
    };
    let plain_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let named = host.starts_with('[') || (!host.is_empty() && host.bytes().all(plain_name));
    let good_port = |port: &str| {
        port != default_port && !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    // As it is written: `[0::1]` is another text than a browser's `[::1]`.
    let same = !host.starts_with('[') || authority.starts_with(&host);
    if !named || !same || text.len() > BYTES_MAX || !port.is_none_or(good_port) {
        return Err(OriginError::Form);
    }
    if kind == Kind::Development && host != "localhost" && host != "127.0.0.1" {
        return Err(OriginError::Plain);
    }
    Ok(kind)
}

/// The list as used. What is no origin is reported as a fault, one of development as a warning.
pub fn checked(named: Vec<Located<String>>, report: &Report) -> BTreeSet<String> {
    if let Some(further) = named.get(ORIGINS_MAX) {
        report.error(&further.at, format!("more than {ORIGINS_MAX} origins"), "list the pages that need it");
    }
    let mut origins = BTreeSet::new();
    for origin in named.into_iter().take(ORIGINS_MAX) {
        match kind(&origin.value) {
            Ok(Kind::Site) => {}
            Ok(Kind::Development) => report.warning(
                &origin.at,
                format!("every program on a user's own machine can be `{}`", origin.value),
                "for development; take it out where the tenant is a customer's",
            ),
            Err(error) => {
                let what = format!("`{}` can't be listed: {error}", origin.value);
                report.error(&origin.at, what, "such as `https://app.example.com`");
                continue;
            }
        }
        origins.insert(origin.value);
    }
    origins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_origins_of_https_are_taken() {
        for good in [
            "https://app.example.com",
            "https://app.example.com:8443",
            "https://a",
            "https://xn--bcher-kva.example",
            "https://192.0.2.7:8443",
            "https://[2001:db8::1]",
            "https://[2001:db8::1]:8443",
        ] {
            assert_eq!(kind(good), Ok(Kind::Site), "{good}");
        }
        for good in ["http://localhost", "http://localhost:5173", "http://127.0.0.1:3000"] {
            assert_eq!(kind(good), Ok(Kind::Development), "{good}");
        }
    }

    #[test]
    fn what_stands_for_many_or_for_nobody_is_refused() {
        for (bad, error) in [
            ("*", OriginError::Any),
            ("https://*.example.com", OriginError::Any),
            ("null", OriginError::Null),
            ("http://app.example.com", OriginError::Plain),
            ("http://localhost.example.com", OriginError::Plain),
            ("http://127.0.0.2", OriginError::Plain),
            ("", OriginError::Form),
            ("app.example.com", OriginError::Form),
            ("https://", OriginError::Form),
            ("https://App.example.com", OriginError::Form),
            ("https://bücher.example", OriginError::Form),
            ("https://app.example.com/", OriginError::Form),
            ("https://app.example.com/page", OriginError::Form),
            ("https://ann@app.example.com", OriginError::Form),
            ("https://app.example.com:443", OriginError::Form),
            ("https://app.example.com:", OriginError::Form),
            ("https://app.example.com:0", OriginError::Form),
            ("https://app.example.com:08443", OriginError::Form),
            ("https://app.example.com:65536", OriginError::Form),
            ("https://a:1:2", OriginError::Form),
            ("https://[0::1]", OriginError::Form),
            ("https://[::1", OriginError::Form),
            ("https://[::1]8443", OriginError::Form),
            ("ws://app.example.com", OriginError::Form),
            ("HTTPS://app.example.com", OriginError::Form),
            ("https://app.example.com\n", OriginError::Form),
        ] {
            assert_eq!(kind(bad), Err(error), "{bad}");
        }
        let long = |count: usize| format!("https://{}", "a".repeat(count));
        assert!(kind(&long(BYTES_MAX - 8)).is_ok());
        assert_eq!(kind(&long(BYTES_MAX - 7)), Err(OriginError::Form));
    }
}
