//! A reader of `multipart/form-data` (RFC 7578) in its plainest form only. Pure: bytes go in, events come out.
//!
//! Own, since what is wanted of it is what it refuses: a preamble or epilogue, white space after a boundary, bare line feeds, repeated or unknown part headers, a
//! `Content-Transfer-Encoding`, `filename*`, escapes in names, charsets other than UTF-8. Browsers, curl, Python's requests, httpx and aiohttp and Node's fetch write none of these for an upload
//! with a name in ASCII or UTF-8.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

/// RFC 2046 §5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;
/// Headers of one part: a disposition with a long name, and a type.
const HEAD_BYTES_MAX: usize = 2048;
/// Parts of a form: ComfyUI's own has five.
const PARTS_MAX: usize = 16;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormEvent {
    /// A part begins.
    Part(PartHead),
    /// More of the part's content.
    Content(Bytes),
    /// The form is complete.
    End,
}

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// `name`.
    pub name: String,
    /// `filename`, of a file.
    pub filename: Option<String>,
}

/// Why a body is no form that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The media type or its boundary.
    #[error(
        "send `Content-Type: multipart/form-data` with a boundary of 1 to {BOUNDARY_BYTES_MAX} letters, digits and `'()+_,-./:=?`"
    )]
    ContentType,
    /// The body does not begin with the boundary, or something stands around it.
    #[error("the form does not keep to its boundary: begin each part with the one that `Content-Type` names")]
    Boundary,
    /// The body ended before the form did.
    #[error("the form ends before its last boundary: send it whole")]
    Cut,
    /// A part's headers are too long or no lines.
    #[error(
        "the headers of a part are malformed or longer than {HEAD_BYTES_MAX} bytes: send `Content-Disposition` and `Content-Type`"
    )]
    Head,
    /// A header that a part may not have, or has twice.
    #[error("a part may have one `Content-Disposition`, one `Content-Type` and one `Content-Length`, and nothing else")]
    HeaderRefused,
    /// Not `form-data` with a name and perhaps a file name, each once and quoted.
    #[error(
        "a part's `Content-Disposition` must be `form-data; name=\"…\"`, with `filename=\"…\"` for a file, in UTF-8 and without `filename*` or escapes"
    )]
    Disposition,
    /// A type that is read in more than one way.
    #[error("a part can't be multipart, nor of another charset than UTF-8: send it plain")]
    PartType,
    /// Another length than a part announced.
    #[error("a part has another length than its `Content-Length` says: leave that header out")]
    Length,
    /// Too many parts.
    #[error("the form has more than {PARTS_MAX} parts: send fewer fields")]
    TooManyParts,
}

/// The boundary of a `Content-Type` value.
///
/// # Errors
/// [`FormError::ContentType`].
pub fn boundary(content_type: &str) -> Result<&str, FormError> {
    let (kind, parameters) = content_type.split_once(';').ok_or(FormError::ContentType)?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err(FormError::ContentType);
    }
    // One parameter only: with two, readers choose differently.
    let (name, value) = parameters.split_once('=').ok_or(FormError::ContentType)?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let good = (1..=BOUNDARY_BYTES_MAX).contains(&value.len()) && value.bytes().all(fine);
    if name.trim().eq_ignore_ascii_case("boundary") && good { Ok(value) } else { Err(FormError::ContentType) }
}

/// Reads a form as it comes.
pub struct FormReader {
    buffer: BytesMut,
    /// `\r\n--boundary`.
    delimiter: Vec<u8>,
    finder: Finder<'static>,
    state: State,
    parts: usize,
    /// What is left of the part, if it said how long it is: OkHttp does.
    left: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Start,
    /// After a boundary: a line end, or `--`.
    AfterBoundary,
    /// In a part's headers.
    Head,
    /// In a part's content.
    Content,
    /// After the last boundary: perhaps a line end, and nothing else.
    Over,
}

impl std::fmt::Debug for FormReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FormReader").field("state", &self.state).finish_non_exhaustive()
    }
}

impl FormReader {
    /// A reader of a form with this boundary.
    pub fn new(boundary: &str) -> Self {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        let finder = Finder::new(&delimiter).into_owned();
        Self { buffer: BytesMut::new(), delimiter, finder, state: State::Start, parts: 0, left: None }
    }

    /// Takes more of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// What can be read of what was fed; `None`: more is needed.
    ///
    /// # Errors
    /// [`FormError`]; the reader is of no use afterwards.
    pub fn next_event(&mut self) -> Result<Option<FormEvent>, FormError> {
        loop {
            match self.state {
                State::Start => {
                    let first = self.delimiter.get(2..).unwrap_or_default();
                    let (first, known) = (first.to_vec(), self.buffer.len().min(first.len()));
                    if self.buffer.get(..known) != first.get(..known) {
                        return Err(FormError::Boundary);
                    }
                    if known < first.len() {
                        return Ok(None);
                    }
                    self.buffer.advance(known);
                    self.state = State::AfterBoundary;
                }
                State::AfterBoundary => match self.buffer.get(..2) {
                    None => return Ok(None),
                    Some(b"\r\n") if self.parts == PARTS_MAX => return Err(FormError::TooManyParts),
                    Some(b"\r\n") => {
                        self.buffer.advance(2);
                        self.parts += 1;
                        self.state = State::Head;
                    }
                    Some(b"--") if self.parts > 0 => {
                        self.buffer.advance(2);
                        self.state = State::Over;
                        return Ok(Some(FormEvent::End));
                    }
                    Some(_) => return Err(FormError::Boundary),
                },
                State::Head => return self.head(),
                State::Content => return self.content(),
                State::Over => {
                    let end = b"\r\n";
                    let fine = self.buffer.len() <= end.len() && end.starts_with(&self.buffer);
                    return if fine { Ok(None) } else { Err(FormError::Boundary) };
                }
            }
        }
    }

    /// Says that the body is over.
    ///
    /// # Errors
    /// [`FormError::Cut`].
    pub fn finish(&self) -> Result<(), FormError> {
        let whole = self.state == State::Over && self.buffer.len() != 1;
        if whole { Ok(()) } else { Err(FormError::Cut) }
    }

    fn head(&mut self) -> Result<Option<FormEvent>, FormError> {
        let searched = self.buffer.get(..HEAD_BYTES_MAX).unwrap_or(&self.buffer);
        let Some(end) = memchr::memmem::find(searched, b"\r\n\r\n") else {
            return if self.buffer.len() >= HEAD_BYTES_MAX { Err(FormError::Head) } else { Ok(None) };
        };
        let head = self.buffer.split_to(end);
        // The empty line: an empty content's delimiter shares no line end with it (RFC 2046 §5.1.1).
        self.buffer.advance(4);
        self.state = State::Content;
        let (head, length) = part_head(&head)?;
        self.left = length;
        Ok(Some(FormEvent::Part(head)))
    }

    /// What surely is content; at the delimiter, moves on.
    fn content(&mut self) -> Result<Option<FormEvent>, FormError> {
        if let Some(at) = self.finder.find(&self.buffer) {
            let content = self.buffer.split_to(at).freeze();
            self.buffer.advance(self.delimiter.len());
            self.state = State::AfterBoundary;
            self.count(&content)?;
            let whole = self.left.is_none_or(|left| left == 0);
            return if whole { Ok(Some(FormEvent::Content(content))) } else { Err(FormError::Length) };
        }
        // The end of what is there may be the start of the delimiter.
        let Some(sure) = self.buffer.len().checked_sub(self.delimiter.len() - 1).filter(|sure| *sure > 0) else {
            return Ok(None);
        };
        let content = self.buffer.split_to(sure).freeze();
        self.count(&content)?;
        Ok(Some(FormEvent::Content(content)))
    }

    fn count(&mut self, content: &[u8]) -> Result<(), FormError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(content.len() as u64).ok_or(FormError::Length)?;
        }
        Ok(())
    }
}

/// What the headers say, and the length if they say it.
fn part_head(head: &[u8]) -> Result<(PartHead, Option<u64>), FormError> {
    let text = std::str::from_utf8(head).map_err(|_| FormError::Head)?;
    let (mut disposition, mut kind, mut length) = (None, None, None);
    for line in text.split("\r\n") {
        if line.chars().any(|c| c.is_control() && c != '\t') || line.starts_with([' ', '\t']) {
            return Err(FormError::Head);
        }
        let (name, value) = line.split_once(':').ok_or(FormError::Head)?;
        let known = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => &mut disposition,
            "content-type" => &mut kind,
            "content-length" => &mut length,
            _ => return Err(FormError::HeaderRefused),
        };
        if known.replace(value.trim()).is_some() {
            return Err(FormError::HeaderRefused);
        }
    }
    check_part_type(kind.unwrap_or_default())?;
    let length = length.map(|text| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().map_err(|_| FormError::Head),
        false => Err(FormError::Head),
    });
    Ok((part_disposition(disposition.ok_or(FormError::Disposition)?)?, length.transpose()?))
}

fn check_part_type(kind: &str) -> Result<(), FormError> {
    let kind = kind.to_ascii_lowercase();
    let charset = kind.split(';').skip(1).filter_map(|parameter| parameter.trim().strip_prefix("charset="));
    let utf8 = |charset: &str| matches!(charset.trim().trim_matches('"'), "utf-8" | "utf8" | "us-ascii");
    if kind.starts_with("multipart/") || kind.starts_with("message/") || !charset.clone().all(utf8) {
        return Err(FormError::PartType);
    }
    Ok(())
}

/// `form-data; name="…"; filename="…"`.
fn part_disposition(text: &str) -> Result<PartHead, FormError> {
    let mut rest = text.strip_prefix("form-data").ok_or(FormError::Disposition)?.trim_start();
    let (mut name, mut filename) = (None, None);
    while !rest.is_empty() {
        let parameter = rest.strip_prefix(';').ok_or(FormError::Disposition)?.trim_start();
        let (key, value) = parameter.split_once('=').ok_or(FormError::Disposition)?;
        let (value, after) = quoted(value)?;
        let known = match key {
            "name" => &mut name,
            "filename" => &mut filename,
            _ => return Err(FormError::Disposition),
        };
        if known.replace(value.to_owned()).is_some() {
            return Err(FormError::Disposition);
        }
        rest = after.trim_start();
    }
    Ok(PartHead { name: name.ok_or(FormError::Disposition)?, filename })
}

/// A quoted text without escapes, and what follows; Python's http.client writes short names without quotes.
fn quoted(text: &str) -> Result<(&str, &str), FormError> {
    match text.strip_prefix('"') {
        Some(inside) => {
            let (value, after) = inside.split_once('"').ok_or(FormError::Disposition)?;
            if value.contains('\\') { Err(FormError::Disposition) } else { Ok((value, after)) }
        }
        None => {
            let end = text.find(';').unwrap_or(text.len());
            let (value, after) = text.split_at(end);
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let value = value.trim_end();
            if !value.is_empty() && value.bytes().all(token) { Ok((value, after)) } else { Err(FormError::Disposition) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts as head and content, read in pieces of `step` bytes.
    fn read(body: &[u8], step: usize) -> Result<Vec<(PartHead, Vec<u8>)>, FormError> {
        let mut reader = FormReader::new("b0");
        let (mut parts, mut over) = (Vec::new(), false);
        for piece in body.chunks(step) {
            reader.feed(piece);
            while let Some(event) = reader.next_event()? {
                match event {
                    FormEvent::Part(head) => parts.push((head, Vec::new())),
                    FormEvent::Content(bytes) => parts.last_mut().unwrap().1.extend(bytes),
                    FormEvent::End => over = true,
                }
            }
        }
        reader.finish()?;
        assert!(over);
        Ok(parts)
    }

    fn form(head: &str, content: &str) -> Vec<u8> {
        format!("--b0\r\n{head}\r\n\r\n{content}\r\n--b0--\r\n").into_bytes()
    }

    fn fault(head: &str) -> FormError {
        read(&form(head, "x"), 7).unwrap_err()
    }

    const IMAGE: &str = "Content-Disposition: form-data; name=\"image\"; filename=\"a;b é.png\"";

    #[test]
    fn a_form_is_the_same_in_pieces_of_any_size() {
        let content = "x\r\n--b\r\n\r\n--b1\r--b0\n".repeat(9);
        let body = format!(
            "--b0\r\n{IMAGE}\r\nContent-Type: image/png\r\n\r\n{content}\r\n--b0\r\nContent-Disposition: form-data; name=type\r\n\r\ninput\r\n--b0\r\n\
             content-disposition: form-data; name=\"empty\"\r\n\r\n\r\n--b0--"
        );
        for end in ["", "\r\n"] {
            let whole = [body.as_bytes(), end.as_bytes()].concat();
            let expected = read(&whole, whole.len()).unwrap();
            assert_eq!(expected[0].0, PartHead { name: "image".into(), filename: Some("a;b é.png".into()) });
            assert_eq!(expected[0].1, content.as_bytes());
            assert_eq!((expected[1].0.name.as_str(), expected[1].1.as_slice()), ("type", b"input".as_slice()));
            assert_eq!((expected[2].0.name.as_str(), expected[2].1.len()), ("empty", 0));
            for step in 1..20 {
                assert_eq!(read(&whole, step).unwrap(), expected, "{step}");
            }
        }
    }

    #[test]
    fn boundaries_of_the_standard_are_taken_and_others_are_not() {
        assert_eq!(boundary("multipart/form-data; boundary=----WebKitFormBoundaryA1"), Ok("----WebKitFormBoundaryA1"));
        assert_eq!(boundary("Multipart/Form-Data;boundary=\"x=y\""), Ok("x=y"));
        let long = |count: usize| format!("multipart/form-data; boundary={}", "a".repeat(count));
        assert!(boundary(&long(70)).is_ok());
        for odd in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/mixed; boundary=x",
            "multipart/form-data; boundary=x; boundary=y",
            "multipart/form-data; charset=utf-16; boundary=x",
            "multipart/form-data; boundary=x y",
            "multipart/form-data; boundary=\"x\r\"",
            &long(71),
        ] {
            assert_eq!(boundary(odd), Err(FormError::ContentType), "{odd}");
        }
    }

    #[test]
    fn what_stands_around_a_boundary_is_refused() {
        let part = format!("{IMAGE}\r\n\r\nx");
        for body in [
            format!("preamble\r\n--b0\r\n{part}\r\n--b0--\r\n"),
            format!("\r\n--b0\r\n{part}\r\n--b0--\r\n"),
            format!("--b0 \r\n{part}\r\n--b0--\r\n"),
            format!("--b0\n{part}\r\n--b0--\r\n"),
            format!("--b0\r\n{part}\r\n--b0x--\r\n"),
            format!("--b0\r\n{part}\r\n--b0--\r\nepilogue"),
            format!("--b0\r\n{part}\r\n--b0--\r\n\r\n"),
            format!("--b0\r\n{part}\r\n--b0-- "),
            "--b0--\r\n".to_owned(),
        ] {
            for step in [1, 5, 1000] {
                assert_eq!(read(body.as_bytes(), step), Err(FormError::Boundary), "{body}");
            }
        }
    }

    #[test]
    fn a_cut_form_is_refused_wherever_it_is_cut() {
        let whole = form(IMAGE, "content");
        for length in 0..whole.len() - 2 {
            assert_eq!(read(&whole[..length], 1000), Err(FormError::Cut), "{length}");
        }
        assert_eq!(read(&whole[..whole.len() - 1], 1000), Err(FormError::Cut));
    }

    #[test]
    fn headers_that_change_what_a_part_means_are_refused() {
        assert_eq!(fault(&format!("{IMAGE}\r\nContent-Transfer-Encoding: base64")), FormError::HeaderRefused);
        assert_eq!(fault(&format!("{IMAGE}\r\n{IMAGE}")), FormError::HeaderRefused);
        assert_eq!(fault(&format!("{IMAGE}\r\nContent-Type: a/b\r\nContent-Type: a/b")), FormError::HeaderRefused);
        assert_eq!(fault(&format!("{IMAGE}\r\nContent-Type: text/plain; charset=utf-16")), FormError::PartType);
        assert_eq!(fault(&format!("{IMAGE}\r\nContent-Type: multipart/mixed; boundary=b1")), FormError::PartType);
        assert!(read(&form(&format!("{IMAGE}\r\nContent-Type: text/plain;charset=UTF-8"), "x"), 9).is_ok());
        for odd in ["\r\n folded", "\r\nno colon", "\r\nx\ny: z"] {
            assert_eq!(fault(&format!("{IMAGE}{odd}")), FormError::Head);
        }
    }

    #[test]
    fn a_name_is_told_once_and_in_one_way() {
        for odd in [
            "form-data",
            "attachment; name=\"image\"",
            "form-data; filename=\"a.png\"",
            "form-data; name=\"image\"; name=\"type\"",
            "form-data; name=\"image\"; filename=\"a.png\"; filename=\"b.png\"",
            "form-data; name=\"image\"; filename=\"a.png\"; filename*=utf-8''..%2Fb.png",
            "form-data; name=\"image\"; filename*=utf-8''b.png",
            "form-data; name=\"image\"; filename=\"a\\\"b.png\"",
            "form-data; name=\"image\"; filename=\"a.png",
            "form-data; name=image x",
            "form-data; name=\"image\" filename=\"a.png\"",
            "form-data; name=\"image\"; size=5",
        ] {
            assert_eq!(fault(&format!("Content-Disposition: {odd}")), FormError::Disposition, "{odd}");
        }
    }

    #[test]
    fn an_announced_length_is_that_of_the_part() {
        for step in [1, 3, 1000] {
            let read = |length: &str| read(&form(&format!("{IMAGE}\r\nContent-Length: {length}"), "content"), step);
            assert_eq!(read("7").unwrap()[0].1, b"content");
            for other in ["6", "8", "0"] {
                assert_eq!(read(other), Err(FormError::Length), "{other}");
            }
            for odd in ["", "+7", "7 7", "99999999999999999999"] {
                assert_eq!(read(odd), Err(FormError::Head), "{odd}");
            }
        }
        assert_eq!(fault(&format!("{IMAGE}\r\nContent-Length: 1\r\nContent-Length: 1")), FormError::HeaderRefused);
    }

    #[test]
    fn heads_and_parts_are_bounded() {
        let head = |bytes: usize| {
            let head = "Content-Disposition: form-data; name=\"\"";
            format!("Content-Disposition: form-data; name=\"{}\"", "n".repeat(bytes - head.len()))
        };
        assert!(read(&form(&head(HEAD_BYTES_MAX - 4), "x"), 100).is_ok());
        assert_eq!(fault(&head(HEAD_BYTES_MAX - 3)), FormError::Head);
        let many = |count: usize| {
            let parts: String = (0..count).map(|_| format!("--b0\r\n{IMAGE}\r\n\r\nx\r\n")).collect();
            read(format!("{parts}--b0--").as_bytes(), 1000).map(|parts| parts.len())
        };
        assert_eq!(many(PARTS_MAX), Ok(PARTS_MAX));
        assert_eq!(many(PARTS_MAX + 1), Err(FormError::TooManyParts));
    }

    #[test]
    fn no_more_than_a_delimiter_stays_unread_in_a_content() {
        let mut reader = FormReader::new("b0");
        reader.feed(format!("--b0\r\n{IMAGE}\r\n\r\n").as_bytes());
        for _ in 0..100 {
            reader.feed(&[b'\r'; 4096]);
            while reader.next_event().unwrap().is_some() {}
            assert!(reader.buffer.len() < 8);
        }
    }

    #[test]
    fn a_changed_form_is_read_alike_in_pieces_and_as_a_whole() {
        let seed = form(&format!("{IMAGE}\r\nContent-Type: image/png"), "con--b0tent\r\n--b0\r\n\r\n");
        let mut state: u64 = 0x2545_f491_4f6c_dd1d;
        let mut number = |most: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % most as u64).unwrap()
        };
        for _ in 0..5_000 {
            let mut body = seed.clone();
            for _ in 0..=number(3) {
                let (at, byte) = (number(body.len()), b"-b0\r\n:;=\"\0x"[number(11)]);
                match number(3) {
                    0 => drop(body.remove(at)),
                    1 => body.insert(at, byte),
                    _ => body[at] = byte,
                }
            }
            assert_eq!(read(&body, 1), read(&body, body.len()), "{:?}", String::from_utf8_lossy(&body));
        }
    }
}
