//! Request bodies as aiohttp reads them: inflated without being asked, decoded with whatever charset the client names.

use std::io::Read as _;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::{Request, StatusCode};

use super::answer::Reply;
use crate::json::Json;

/// `--max-upload-size`: bytes of a body after inflating.
const BODY_BYTES_MAX: usize = 100 * 1024 * 1024;

/// The whole body, inflated.
pub(crate) async fn bytes(request: &mut Request<Incoming>) -> Result<Vec<u8>, Reply> {
    let too_large = || {
        let text = format!("Maximum request body size {BODY_BYTES_MAX} exceeded");
        Reply::text(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let raw = match Limited::new(request.body_mut(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Err(_) => return Err(Reply::Crash),
    };
    let mut out = Vec::new();
    let limit = u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    // Only lower case is matched; unknown codings are passed through (aiohttp 3.13).
    let read = match request.headers().get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        Some(b"gzip") => flate2::read::GzDecoder::new(raw.as_ref()).take(limit).read_to_end(&mut out),
        Some(b"deflate") => flate2::read::ZlibDecoder::new(raw.as_ref()).take(limit).read_to_end(&mut out),
        _ => return Ok(raw.to_vec()),
    };
    match read {
        Ok(_) if out.len() <= BODY_BYTES_MAX => Ok(out),
        Ok(_) => Err(too_large()),
        Err(_) => Err(Reply::text(StatusCode::BAD_REQUEST, "400: Can not decode content-encoding")),
    }
}

/// The body as JSON. Everything on which `request.json()` raises is a crash.
pub(crate) async fn json(request: &mut Request<Incoming>) -> Result<Json, Reply> {
    let charset = charset(request).unwrap_or_else(|| "utf-8".to_owned());
    let bytes = bytes(request).await?;
    let text = decode(&bytes, &charset)?;
    Json::parse(&text).map_err(|_| Reply::Crash)
}

fn charset(request: &Request<Incoming>) -> Option<String> {
    let kind = request.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    kind.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"').to_lowercase();
        (name.trim().eq_ignore_ascii_case("charset")).then_some(value)
    })
}

/// `bytes.decode(charset)`. Python knows some hundred more; those are refused with a reason.
pub(crate) fn decode(bytes: &[u8], charset: &str) -> Result<String, Reply> {
    let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let pairs = bytes.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(Reply::Crash);
        }
        let units: Vec<u16> = pairs.filter_map(|pair| Some(unit(pair.try_into().ok()?))).collect();
        String::from_utf16(&units).map_err(|_| Reply::Crash)
    };
    match charset.replace('_', "-").as_str() {
        "utf-8" | "utf8" => String::from_utf8(bytes.to_vec()).map_err(|_| Reply::Crash),
        "utf-8-sig" => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            String::from_utf8(bytes.to_vec()).map_err(|_| Reply::Crash)
        }
        "ascii" | "us-ascii" if bytes.is_ascii() => Ok(bytes.iter().copied().map(char::from).collect()),
        "ascii" | "us-ascii" => Err(Reply::Crash),
        "latin-1" | "latin1" | "iso-8859-1" => Ok(bytes.iter().copied().map(char::from).collect()),
        "utf-16" | "utf16" => match bytes {
            [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
            [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
            rest => units(rest, u16::from_le_bytes),
        },
        "utf-16-le" | "utf-16le" => units(bytes, u16::from_le_bytes),
        "utf-16-be" | "utf-16be" => units(bytes, u16::from_be_bytes),
        other => Err(Reply::not_built(&format!("Python's charset `{other}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charsets_are_decoded_and_broken_text_is_a_crash() {
        assert_eq!(decode(b"\xff\xfea\0", "utf-16").unwrap(), "a");
        assert_eq!(decode(b"\0a", "utf-16-be").unwrap(), "a");
        assert_eq!(decode(b"\xe9", "latin-1").unwrap(), "é");
        assert_eq!(decode(b"\xef\xbb\xbfa", "utf-8-sig").unwrap(), "a");
        assert!(matches!(decode(b"\xe9", "utf-8"), Err(Reply::Crash)));
        assert!(matches!(decode(b"\xff\xfea", "utf-16"), Err(Reply::Crash)));
        assert!(matches!(decode(b"a", "utf-7"), Err(Reply::Text(..))));
    }
}
