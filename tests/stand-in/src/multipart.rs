//! `multipart/form-data` as aiohttp reads it, quirks included: the first of two equal fields wins, `filename*` beats
//! `filename`, and parts may be in base64 or quoted-printable.

use base64::Engine as _;

/// One part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Field name.
    pub name: String,
    /// File name, when the part is a file.
    pub filename: Option<String>,
    /// Content, transfer encoding undone.
    pub content: Vec<u8>,
}

/// The body is no form, or one that aiohttp refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAForm;

/// The boundary in a content type.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// All parts of a form, in order.
pub fn parts(body: &[u8], boundary: &str) -> Result<Vec<Part>, NotAForm> {
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    // The first delimiter has no line before it.
    let body = [b"\r\n", body].concat();
    let mut rest = find(&body, &delimiter).and_then(|at| body.get(at + delimiter.len()..)).ok_or(NotAForm)?;
    let mut out = Vec::new();
    while !rest.starts_with(b"--") {
        let start = find(rest, b"\r\n").ok_or(NotAForm)?;
        let section = rest.get(start..).ok_or(NotAForm)?;
        let end = find(section, &delimiter).ok_or(NotAForm)?;
        let part = section.get(..end).ok_or(NotAForm)?;
        // The blank line may follow the delimiter at once.
        let head = find(part, b"\r\n\r\n").ok_or(NotAForm)?;
        let content = part.get(head + 4..).ok_or(NotAForm)?;
        if let Some(part) = part_of(part.get(..head).ok_or(NotAForm)?, content)? {
            out.push(part);
        }
        rest = section.get(end + delimiter.len()..).ok_or(NotAForm)?;
    }
    Ok(out)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn part_of(head: &[u8], content: &[u8]) -> Result<Option<Part>, NotAForm> {
    let head = String::from_utf8_lossy(head);
    let header = |name: &str| {
        head.split("\r\n").find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let Some(disposition) = header("content-disposition") else {
        return Ok(None);
    };
    let parameters = parameters(&disposition);
    let of = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let Some(name) = of("name") else { return Ok(None) };
    let extended = of("filename*").map(|value| {
        let encoded = value.splitn(3, '\'').nth(2).unwrap_or_default().to_owned();
        crate::http::decode(&encoded)
    });
    let content = match header("content-transfer-encoding").map(|word| word.to_lowercase()).as_deref() {
        None | Some("binary" | "8bit" | "7bit") => content.to_vec(),
        Some("base64") => {
            let compact: Vec<u8> = content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            base64::engine::general_purpose::STANDARD.decode(compact).map_err(|_| NotAForm)?
        }
        Some("quoted-printable") => unquoted(content),
        Some(_) => return Err(NotAForm),
    };
    Ok(Some(Part { name, filename: extended.or_else(|| of("filename")), content }))
}

/// `; key=value` pairs; quoted values may hold semicolons and escaped quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ';', '\t']).to_lowercase();
        let after = after.trim_start();
        let mut value = String::new();
        match after.strip_prefix('"') {
            Some(quoted) => {
                let mut characters = quoted.char_indices();
                rest = "";
                while let Some((index, character)) = characters.next() {
                    match character {
                        '"' => {
                            rest = quoted.get(index + 1..).unwrap_or_default();
                            break;
                        }
                        '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                        _ => value.push(character),
                    }
                }
            }
            None => {
                let (plain, after) = after.split_once(';').unwrap_or((after, ""));
                value.push_str(plain.trim());
                rest = after;
            }
        }
        out.push((key, value));
    }
    out
}

fn unquoted(content: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(content).replace("=\r\n", "").replace("=\n", "");
    crate::http::decode(&text.replace('%', "%25").replace('=', "%")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(head: &str, content: &str) -> Result<Vec<Part>, NotAForm> {
        parts(format!("--b\r\n{head}\r\n\r\n{content}\r\n--b--\r\n").as_bytes(), "b")
    }

    #[test]
    fn a_file_and_a_field_are_told_apart() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a;b.png\"\r\n\r\nx\r\ny\r\n--b\r\n\
                    Content-Disposition: form-data; name=type\r\n\r\ninput\r\n--b--\r\n";
        let read = parts(body.as_bytes(), "b").unwrap();
        assert_eq!(read[0].filename.as_deref(), Some("a;b.png"));
        assert_eq!(read[0].content, b"x\r\ny");
        assert_eq!((read[1].name.as_str(), read[1].filename.as_deref()), ("type", None));
    }

    #[test]
    fn the_extended_file_name_beats_the_plain_one() {
        let head = "Content-Disposition: form-data; name=\"image\"; filename=\"a.png\"; filename*=utf-8''..%2Fb.png";
        assert_eq!(form(head, "").unwrap()[0].filename.as_deref(), Some("../b.png"));
    }

    #[test]
    fn transfer_encodings_are_undone() {
        let head = |encoding: &str| {
            format!("Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: {encoding}")
        };
        assert_eq!(form(&head("base64"), "aGk=").unwrap()[0].content, b"hi");
        assert_eq!(form(&head("quoted-printable"), "a=3Db%").unwrap()[0].content, b"a=b%");
        assert_eq!(form(&head("rot13"), "x"), Err(NotAForm));
    }

    #[test]
    fn a_body_without_its_boundary_is_refused() {
        assert_eq!(parts(b"nothing", "b"), Err(NotAForm));
        assert_eq!(parts(b"--b\r\nX: y\r\n\r\nnever ends", "b"), Err(NotAForm));
    }
}
