//! The PROXY protocol's header, versions 1 and 2 (haproxy's `proxy-protocol.txt`). Pure: bytes in, the caller out.
//!
//! Strict: what the document leaves to the receiver is refused here. TLVs are skipped: nothing of ours reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header: version 1 has at most 107 bytes, version 2 has TLVs after 232 at most; the usual ones (unique id, VPC endpoint, TLS facts) fit many times.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Longest line of version 1, with CR LF (document §2.1).
const LINE_BYTES_MAX: usize = 107;
/// How version 2 begins (document §2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";

/// What the bytes so far come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The beginning of a header.
    More,
    /// A whole one.
    Done {
        /// Its bytes; what follows is the caller's.
        length: usize,
        /// The caller; `None` where the proxy speaks for itself (`LOCAL`, health checks) or for no IP address (`UNKNOWN`, unix sockets).
        source: Option<SocketAddr>,
    },
}

/// Why the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// Neither version begins so.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Version 1: not `PROXY TCP4|TCP6 source destination port port` or `PROXY UNKNOWN …`.
    #[error("the PROXY line is malformed")]
    Line,
    /// Version 2: another version or command.
    #[error("the PROXY header has another version or command")]
    Command,
    /// Version 2: datagrams, or a family that the document does not name.
    #[error("the PROXY header names no TCP or unix connection")]
    Family,
    /// Version 2: shorter than its addresses.
    #[error("the PROXY header is shorter than its addresses")]
    Short,
    /// More than [`HEADER_BYTES_MAX`], or a line of more than 107 bytes.
    #[error("the PROXY header is too long")]
    TooLong,
}

/// Reads the header at the beginning of `bytes`.
///
/// # Errors
/// [`ProxyHeaderError`], as soon as the bytes so far can't begin a header.
pub fn parse(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if begins(WORD) {
        line(bytes)
    } else if begins(&SIGNATURE) {
        binary(bytes)
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

fn line(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let seen = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LINE_BYTES_MAX { Err(ProxyHeaderError::TooLong) } else { Ok(Progress::More) };
    };
    let text = seen.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(ProxyHeaderError::Line)?;
    let text = std::str::from_utf8(text).map_err(|_| ProxyHeaderError::Line)?;
    Ok(Progress::Done { length: end + 1, source: source_of_line(text)? })
}

fn source_of_line(text: &str) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let parts = text.split(' ').collect::<Vec<_>>();
    let (family, rest) = match parts.as_slice() {
        // Whatever follows is to be ignored (document §2.1).
        ["PROXY", "UNKNOWN", ..] => return Ok(None),
        ["PROXY", family, rest @ ..] => (*family, rest),
        _ => return Err(ProxyHeaderError::Line),
    };
    let [source, destination, source_port, destination_port] = rest else {
        return Err(ProxyHeaderError::Line);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let good = (address(source), address(destination), port(source_port), port(destination_port));
    match good {
        (Some(source), Some(_), Some(port), Some(_)) => Ok(Some(SocketAddr::new(source, port))),
        _ => Err(ProxyHeaderError::Line),
    }
}

/// Decimal without sign and leading zero.
fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

fn binary(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let Some(&[command, family, high, low]) = bytes.get(12..16) else { return Ok(Progress::More) };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, 0x20 | 0x21) {
        return Err(ProxyHeaderError::Command);
    }
    if length > HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(addresses) = bytes.get(16..length) else { return Ok(Progress::More) };
    // LOCAL: the proxy's own connection; family and addresses are to be ignored (document §2.2).
    let source = if command == 0x20 { None } else { source_of_addresses(family, addresses)? };
    Ok(Progress::Done { length, source })
}

/// Source address first, destination after it, then both ports.
fn source_of_addresses(family: u8, addresses: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let need = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(ProxyHeaderError::Family),
    };
    let addresses = addresses.get(..need).ok_or(ProxyHeaderError::Short)?;
    let source: Option<(IpAddr, u16)> = match family {
        0x11 => array::<4>(addresses, 0)
            .zip(array::<2>(addresses, 8))
            .map(|(ip, port)| (ip.into(), u16::from_be_bytes(port))),
        0x21 => array::<16>(addresses, 0)
            .zip(array::<2>(addresses, 32))
            .map(|(ip, port)| (ip.into(), u16::from_be_bytes(port))),
        _ => None,
    };
    Ok(source.map(SocketAddr::from))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The body of the fuzz target `proxy_header`, in this file so that the target needs nothing else of this crate. What must hold for any bytes: no panic; every beginning of a whole header wants more and never says something else; what is done lies within the bytes and the bound.
#[cfg(any(test, fuzzing))]
pub fn check_any_bytes(bytes: &[u8]) {
    let Ok(Progress::Done { length, .. }) = parse(bytes) else { return };
    let header = bytes.get(..length);
    assert!(length <= HEADER_BYTES_MAX && header.is_some(), "a header of {length} bytes in {}", bytes.len());
    let header = header.unwrap_or_default();
    assert_eq!(parse(header), parse(bytes), "what follows a header changes it");
    for end in 0..length {
        let part = header.get(..end).unwrap_or_default();
        assert_eq!(parse(part), Ok(Progress::More), "the first {end} of {length} bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(bytes: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
        check_any_bytes(bytes);
        match parse(bytes)? {
            Progress::Done { length, source } => {
                assert_eq!(length, bytes.len());
                Ok(source.map(|source| source.to_string()))
            }
            Progress::More => panic!("wants more than {bytes:?}"),
        }
    }

    fn v1(line: &str) -> Result<Option<String>, ProxyHeaderError> {
        source(format!("{line}\r\n").as_bytes())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    #[test]
    fn a_line_names_the_caller() {
        assert_eq!(v1("PROXY TCP4 192.0.2.1 10.0.0.1 4711 443"), Ok(Some("192.0.2.1:4711".into())));
        assert_eq!(v1("PROXY TCP6 2001:db8::1 ::1 4711 443"), Ok(Some("[2001:db8::1]:4711".into())));
        assert_eq!(v1("PROXY UNKNOWN"), Ok(None));
        assert_eq!(v1("PROXY UNKNOWN ffff::1 ffff::2 1 2"), Ok(None));
    }

    #[test]
    fn a_line_that_is_not_exact_is_refused() {
        for bad in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 4711",
            "PROXY TCP4 192.0.2.1 10.0.0.1 4711 443 1",
            "PROXY TCP4  192.0.2.1 10.0.0.1 4711 443",
            "PROXY TCP4 2001:db8::1 ::1 1 2",
            "PROXY TCP6 192.0.2.1 10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.01 10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 01 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 2",
            "PROXY tcp4 192.0.2.1 10.0.0.1 1 2",
            "PROXY UDP4 192.0.2.1 10.0.0.1 1 2",
            "PROXY ",
        ] {
            assert_eq!(v1(bad), Err(ProxyHeaderError::Line), "{bad}");
        }
        assert_eq!(parse(b"PROXY UNKNOWN\n"), Err(ProxyHeaderError::Line));
    }

    #[test]
    fn a_line_of_107_bytes_is_read_and_one_of_108_is_refused() {
        let padded = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "a".repeat(bytes - 16));
        assert_eq!(padded(107).len(), 107);
        assert_eq!(source(padded(107).as_bytes()), Ok(None));
        assert_eq!(parse(padded(108).as_bytes()), Err(ProxyHeaderError::TooLong));
    }

    #[test]
    fn a_binary_header_names_the_caller_and_its_tlvs_are_skipped() {
        assert_eq!(source(&v2(0x21, 0x11, &TCP4)), Ok(Some("192.0.2.1:4660".into())));
        let tlv = [&TCP4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(source(&v2(0x21, 0x11, &tlv)), Ok(Some("192.0.2.1:4660".into())));
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[15] = 1;
        v6[32..34].copy_from_slice(&[0, 9]);
        assert_eq!(source(&v2(0x21, 0x21, &v6)), Ok(Some("[2001::1]:9".into())));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_no_caller() {
        assert_eq!(source(&v2(0x20, 0x00, &[])), Ok(None));
        assert_eq!(source(&v2(0x20, 0x11, &TCP4)), Ok(None));
        assert_eq!(source(&v2(0x21, 0x00, b"tlv")), Ok(None));
        assert_eq!(source(&v2(0x21, 0x31, &[b'a'; 216])), Ok(None));
    }

    #[test]
    fn other_versions_commands_and_families_are_refused() {
        for command in [0x00, 0x11, 0x22, 0x31, 0xff] {
            assert_eq!(parse(&v2(command, 0x11, &TCP4)), Err(ProxyHeaderError::Command), "{command:x}");
        }
        for family in [0x12, 0x22, 0x32, 0x10, 0x41, 0xff] {
            assert_eq!(parse(&v2(0x21, family, &[0; 216])), Err(ProxyHeaderError::Family), "{family:x}");
        }
        for (family, length) in [(0x11, 11), (0x21, 35), (0x31, 215)] {
            assert_eq!(parse(&v2(0x21, family, &vec![0; length])), Err(ProxyHeaderError::Short), "{family:x}");
        }
    }

    #[test]
    fn a_binary_header_of_4096_bytes_is_read_and_one_of_4097_is_refused() {
        let header = |bytes: usize| v2(0x20, 0, &vec![0; bytes - 16]);
        assert_eq!(source(&header(HEADER_BYTES_MAX)), Ok(None));
        assert_eq!(parse(&header(HEADER_BYTES_MAX + 1)), Err(ProxyHeaderError::TooLong));
    }

    #[test]
    fn what_begins_otherwise_is_refused_at_its_first_odd_byte() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"\x16\x03\x01", b"\r\n\r\nX", b"P\0"] {
            assert_eq!(parse(bytes), Err(ProxyHeaderError::Missing), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(Progress::More));
        assert_eq!(parse(b"\r\n\r\n"), Ok(Progress::More));
    }

    #[test]
    fn the_fuzzers_corpus_replays() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/proxy_header");
        let inputs = std::fs::read_dir(corpus).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let inputs = inputs.collect::<Vec<_>>();
        assert!(inputs.len() >= 4);
        inputs.iter().for_each(|input| check_any_bytes(input));
    }

    #[test]
    fn no_bytes_break_the_parser() {
        // A small generator (xorshift) that flips bytes of good headers.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let seeds = [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\nrest".to_vec(),
            v2(0x21, 0x11, &TCP4),
            v2(0x21, 0x21, &[7; 40]),
        ];
        for round in 0..20_000 {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..next() % 4 {
                let at = usize::try_from(next() % bytes.len() as u64).unwrap();
                bytes[at] = next().to_le_bytes()[0];
            }
            bytes.truncate(usize::try_from(next() % (bytes.len() as u64 + 1)).unwrap());
            check_any_bytes(&bytes);
        }
    }
}
