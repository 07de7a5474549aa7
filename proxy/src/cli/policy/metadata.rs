//! The workflow that ComfyUI writes into its pictures and sounds.
//!
//! In come the bytes of a PNG (`tEXt`, `zTXt`, `iTXt` chunks), a WebP (EXIF) or a FLAC (Vorbis comments), out comes the text of `prompt`. Files are an operator's own here, and yet everything
//! is bounded: they may have come from anywhere. Formats: W3C PNG (third edition) §11.3; RIFF and WebP (RFC 9649); TIFF 6.0; FLAC (RFC 9639) §8.6.

use flate2::read::ZlibDecoder;
use std::io::Read;

/// Bytes of a text after it was inflated.
const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Entries of an EXIF directory, comments or chunks that are looked at.
const ENTRIES_MAX: usize = 10_000;

/// What a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// No picture or sound that is known; perhaps JSON.
    Other,
    /// A picture or sound with this `prompt`.
    Prompt(Vec<u8>),
    /// A picture or sound without one.
    Nothing(&'static str),
}

/// What the file holds.
pub(super) fn read(bytes: &[u8]) -> Content {
    let (name, found) = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        ("PNG", png(bytes))
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        ("WebP", webp(bytes))
    } else if bytes.starts_with(b"fLaC") {
        ("FLAC", flac(bytes))
    } else {
        return Content::Other;
    };
    found.map_or(Content::Nothing(name), Content::Prompt)
}

/// Reads on in bytes; every step says whether there were enough.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn big(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }

    fn little(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    /// Up to the next zero byte, which is taken as well.
    fn text(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let taken = self.take(end)?;
        self.take(1)?;
        Some(taken)
    }
}

fn png(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(bytes);
    rest.take(8)?;
    for _ in 0..ENTRIES_MAX {
        let length = rest.big()?;
        let kind = rest.take(4)?;
        let data = rest.take(length)?;
        rest.take(4)?;
        let found = match kind {
            b"tEXt" => png_text(data),
            b"zTXt" => png_compressed(data),
            b"iTXt" => png_international(data),
            b"IEND" => return None,
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn png_text(data: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(data);
    // Latin-1, in which ComfyUI writes ASCII only.
    (rest.text()? == b"prompt").then(|| rest.0.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes())
}

fn png_compressed(data: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(data);
    if rest.text()? != b"prompt" || rest.array()? != [0] {
        return None;
    }
    inflated(rest.0)
}

fn png_international(data: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(data);
    if rest.text()? != b"prompt" {
        return None;
    }
    let [compressed, _method] = rest.array()?;
    rest.text()?;
    rest.text()?;
    if compressed == 1 { inflated(rest.0) } else { Some(rest.0.to_vec()) }
}

fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    ZlibDecoder::new(data).take(TEXT_BYTES_MAX + 1).read_to_end(&mut out).ok()?;
    (u64::try_from(out.len()).ok()? <= TEXT_BYTES_MAX).then_some(out)
}

fn webp(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(bytes);
    rest.take(12)?;
    for _ in 0..ENTRIES_MAX {
        let kind = rest.take(4)?;
        let length = rest.little()?;
        let data = rest.take(length)?;
        if kind == b"EXIF" {
            return exif(data.strip_prefix(b"Exif\0\0").unwrap_or(data));
        }
        // Chunks begin at even places.
        rest.take(length % 2)?;
    }
    None
}

/// The first text of the first directory that begins with `prompt:`: ComfyUI puts it into `Model` and its other texts into the tags below.
fn exif(tiff: &[u8]) -> Option<Vec<u8>> {
    let big = match tiff.get(..4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let long =
        |bytes: [u8; 4]| usize::try_from(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }).ok();
    let short = |bytes: [u8; 2]| usize::from(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) });
    let directory = long(Cursor(tiff.get(4..)?).array()?)?;
    let mut rest = Cursor(tiff.get(directory..)?);
    let count = short(rest.array()?);
    for _ in 0..count.min(ENTRIES_MAX) {
        let _tag = rest.take(2)?;
        let kind = short(rest.array()?);
        let length = long(rest.array()?)?;
        let place = rest.array()?;
        // ASCII; up to four bytes would stand in the place itself, which is too short.
        if kind != 2 || length <= 4 {
            continue;
        }
        let start = long(place)?;
        let Some(text) = tiff.get(start..start.checked_add(length)?) else { continue };
        if let Some(prompt) = text.strip_prefix(b"prompt:") {
            return Some(prompt.strip_suffix(b"\0").unwrap_or(prompt).to_vec());
        }
    }
    None
}

fn flac(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(bytes);
    rest.take(4)?;
    for _ in 0..ENTRIES_MAX {
        let [head, a, b, c] = rest.array()?;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let data = rest.take(length)?;
        if head & 0x7f == 4 {
            return vorbis(data);
        }
        if head & 0x80 != 0 {
            return None;
        }
    }
    None
}

fn vorbis(data: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(data);
    let vendor = rest.little()?;
    rest.take(vendor)?;
    let count = rest.little()?;
    for _ in 0..count.min(ENTRIES_MAX) {
        let length = rest.little()?;
        let comment = rest.take(length)?;
        let (name, value) = comment.split_at_checked(7)?;
        if name.eq_ignore_ascii_case(b"prompt=") {
            return Some(value.to_vec());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    const PROMPT: &str = r#"{"1": {"class_type": "A", "inputs": {"text": "é"}}}"#;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [&u32::try_from(data.len()).unwrap().to_be_bytes(), kind.as_slice(), data, &[0; 4]].concat()
    }

    fn png_with(chunks: &[Vec<u8>]) -> Vec<u8> {
        let parts = [chunk(b"IHDR", &[0; 13])].into_iter().chain(chunks.iter().cloned()).chain([chunk(b"IEND", b"")]);
        [b"\x89PNG\r\n\x1a\n".to_vec(), parts.collect::<Vec<_>>().concat()].concat()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn prompt(text: &str) -> Content {
        Content::Prompt(text.as_bytes().to_vec())
    }

    #[test]
    fn a_png_tells_its_prompt_in_each_form_of_text() {
        let ascii = r#"{"1": {"class_type": "A", "inputs": {}}}"#;
        let other = chunk(b"tEXt", b"workflow\0{}");
        let plain = chunk(b"tEXt", &[b"prompt\0", ascii.as_bytes()].concat());
        assert_eq!(read(&png_with(&[other.clone(), plain])), prompt(ascii));
        let latin = chunk(b"tEXt", b"prompt\0\xe9");
        assert_eq!(read(&png_with(&[latin])), prompt("é"));
        let packed = chunk(b"zTXt", &[b"prompt\0\0".to_vec(), zlib(ascii.as_bytes())].concat());
        assert_eq!(read(&png_with(&[other.clone(), packed])), prompt(ascii));
        let international = chunk(b"iTXt", &[b"prompt\0\0\0\0\0", PROMPT.as_bytes()].concat());
        assert_eq!(read(&png_with(&[international])), prompt(PROMPT));
        let both = chunk(b"iTXt", &[b"prompt\0\x01\0en\0\0".to_vec(), zlib(PROMPT.as_bytes())].concat());
        assert_eq!(read(&png_with(&[both])), prompt(PROMPT));
        assert_eq!(read(&png_with(&[other])), Content::Nothing("PNG"));
    }

    #[test]
    fn a_text_that_unfolds_beyond_its_bound_is_none() {
        let bomb = |bytes: u64| {
            let text = vec![b' '; usize::try_from(bytes).unwrap()];
            read(&png_with(&[chunk(b"zTXt", &[b"prompt\0\0".to_vec(), zlib(&text)].concat())]))
        };
        assert!(matches!(bomb(TEXT_BYTES_MAX), Content::Prompt(_)));
        assert_eq!(bomb(TEXT_BYTES_MAX + 1), Content::Nothing("PNG"));
    }

    fn tiff(big: bool, text: &[u8]) -> Vec<u8> {
        let short = |number: u16| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let long = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut out = if big { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        out.extend(long(8));
        out.extend(short(1));
        out.extend(short(0x0110));
        out.extend(short(2));
        out.extend(long(u32::try_from(text.len()).unwrap()));
        out.extend(long(26));
        out.extend(long(0));
        out.extend(text);
        out
    }

    fn webp_with(exif: &[u8]) -> Vec<u8> {
        let length = |data: &[u8]| u32::try_from(data.len()).unwrap().to_le_bytes();
        let mut out = b"RIFF\0\0\0\0WEBPVP8 \x03\0\0\0abc\0".to_vec();
        out.extend(b"EXIF");
        out.extend(length(exif));
        out.extend(exif);
        out
    }

    #[test]
    fn a_webp_tells_its_prompt_in_either_order_of_bytes() {
        let text = [b"prompt:", PROMPT.as_bytes(), b"\0"].concat();
        for big in [true, false] {
            assert_eq!(read(&webp_with(&tiff(big, &text))), prompt(PROMPT));
            assert_eq!(read(&webp_with(&[b"Exif\0\0".to_vec(), tiff(big, &text)].concat())), prompt(PROMPT));
            assert_eq!(read(&webp_with(&tiff(big, b"workflow:{}\0"))), Content::Nothing("WebP"));
        }
    }

    fn flac_with(comments: &[&str]) -> Vec<u8> {
        let counted = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text].concat();
        let mut block = counted(b"vendor");
        block.extend(u32::try_from(comments.len()).unwrap().to_le_bytes());
        block.extend(comments.iter().flat_map(|comment| counted(comment.as_bytes())));
        let mut out = b"fLaC\0\0\0\x02ab".to_vec();
        out.extend([&[0x84][..], &u32::try_from(block.len()).unwrap().to_be_bytes()[1..], &block].concat());
        out
    }

    #[test]
    fn a_flac_tells_its_prompt_among_other_comments() {
        let comment = format!("PROMPT={PROMPT}");
        assert_eq!(read(&flac_with(&["workflow={}", &comment])), prompt(PROMPT));
        assert_eq!(read(&flac_with(&["workflow={}"])), Content::Nothing("FLAC"));
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_read_without_a_panic() {
        let text = [b"prompt:", PROMPT.as_bytes(), b"\0"].concat();
        let packed = chunk(b"zTXt", &[b"prompt\0\0".to_vec(), zlib(PROMPT.as_bytes())].concat());
        for whole in [png_with(&[packed]), webp_with(&tiff(true, &text)), flac_with(&[&format!("prompt={PROMPT}")])] {
            assert!(matches!(read(&whole), Content::Prompt(_)));
            for end in 0..whole.len() {
                let cut = read(whole.get(..end).unwrap());
                assert!(!matches!(&cut, Content::Prompt(found) if found.len() > PROMPT.len()), "{end}");
            }
        }
        assert_eq!(read(b"{}"), Content::Other);
    }
}
