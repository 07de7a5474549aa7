//! Pictures that a second reader of Pillow would take.
//!
//! Pillow tries its readers one after the other until one does not give up. Most look at the first 16 bytes, which belong to our four types; these do not (Pillow 13, `Image.OPEN`): IM, PCD
//! and SPIDER look at no fixed start, FLI at bytes 4 to 6. A file that begins like a JPEG, breaks later in the JPEG reader's eyes and is well-formed for one of them would be opened with a
//! size that we never saw. No sound file of ours looks like that, so it is refused.

use super::ContentError;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

/// Where a Photo CD says that it is one.
const PCD_AT: u64 = 2048;
/// The field of a SPIDER header that must be 1 (float): bytes 16 to 20.
const SPIDER_FORM: std::ops::Range<usize> = 16..20;
/// Lines of an IM header have at most this many bytes.
const IM_LINE_BYTES_MAX: u64 = 100;
/// Lines of an IM header that we look at; no sound picture has more than a few that could be one.
const IM_LINES_MAX: u32 = 1000;
/// Keys of an IM header of which one must be there (`ImImagePlugin.py` `TAGS`).
const IM_KEYS: [&[u8]; 9] = [
    b"Comment",
    b"Date",
    b"Digitalization equipment",
    b"File size (no of images)",
    b"Lut",
    b"Name",
    b"Scale (x,y)",
    b"Image size (x*y)",
    b"Image type",
];

/// Refuses a content that another reader would take.
pub(super) fn check(content: &mut (impl Read + Seek), length: u64) -> Result<(), ContentError> {
    let refused = |fault| Err(ContentError::malformed("picture", fault));
    let mut head = Vec::new();
    content.seek(SeekFrom::Start(0))?;
    content.by_ref().take(32).read_to_end(&mut head)?;
    if [[0x3f, 0x80, 0, 0], [0, 0, 0x80, 0x3f]].iter().any(|form| head.get(SPIDER_FORM) == Some(form.as_slice())) {
        return refused("it could be read as a SPIDER file");
    }
    if matches!(head.get(4..6), Some([0x11 | 0x12, 0xaf])) {
        return refused("it could be read as an FLI animation");
    }
    if length >= PCD_AT + 4 {
        let mut mark = [0; 4];
        content.seek(SeekFrom::Start(PCD_AT))?;
        content.read_exact(&mut mark)?;
        if &mark == b"PCD_" {
            return refused("it could be read as a Photo CD");
        }
    }
    content.seek(SeekFrom::Start(0))?;
    if is_im(&mut BufReader::new(content))? { refused("it could be read as an IM file") } else { Ok(()) }
}

/// Reads lines as the IM reader does: `Key: value`, until one is none, or begins with NUL or 0x1a.
fn is_im(content: &mut impl BufRead) -> Result<bool, ContentError> {
    for _ in 0..IM_LINES_MAX {
        let mut line = Vec::new();
        content.by_ref().take(IM_LINE_BYTES_MAX + 2).read_until(b'\n', &mut line)?;
        let line = without_leading_returns(&line);
        match line.first() {
            Some(first) if first.is_ascii_alphabetic() => {}
            _ => return Ok(false),
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(false) };
        if line.get(..colon).is_some_and(|key| IM_KEYS.contains(&key)) {
            return Ok(true);
        }
        if line.last() != Some(&b'\n') {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The IM reader passes over carriage returns before a line.
fn without_leading_returns(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| *byte != b'\r').unwrap_or(line.len());
    line.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn fault(bytes: &[u8]) -> Option<String> {
        check(&mut Cursor::new(bytes), bytes.len() as u64).err().map(|error| error.to_string())
    }

    #[test]
    fn a_photo_cd_at_its_place_is_refused_and_beside_it_is_not() {
        let file = |at: usize| [vec![0xff; at], b"PCD_".to_vec(), vec![0; 10]].concat();
        assert!(fault(&file(2048)).unwrap().contains("Photo CD"));
        assert_eq!(fault(&file(2047)), None);
        assert_eq!(fault(b"\xff\xd8"), None);
    }

    #[test]
    fn spider_and_fli_headers_are_refused() {
        let file = |at: usize, mark: &[u8]| [vec![0xff; at], mark.to_vec(), vec![0xff; 20]].concat();
        assert!(fault(&file(16, &[0x3f, 0x80, 0, 0])).unwrap().contains("SPIDER"));
        assert!(fault(&file(16, &[0, 0, 0x80, 0x3f])).unwrap().contains("SPIDER"));
        assert_eq!(fault(&file(17, &[0, 0, 0x80, 0x3f])), None);
        assert!(fault(&file(4, &[0x12, 0xaf])).unwrap().contains("FLI"));
        assert_eq!(fault(&file(4, &[0x13, 0xaf])), None);
    }

    #[test]
    fn a_text_header_of_an_im_file_is_refused_in_any_line() {
        assert!(fault(b"GIF89a: x\nImage size (x*y): 60000*60000\n\x1a").unwrap().contains("IM file"));
        assert!(fault(b"GIF89a: x\n\rName: y\r\n\0").unwrap().contains("IM file"));
        assert_eq!(fault(b"GIF89a: x\n\0Name: y\n"), None, "NUL ends the header");
        assert_eq!(fault(b"GIF89a x\nName: y\n"), None, "a line without a key ends it");
        let endless = "A: b\n".repeat(2000);
        assert!(fault(endless.as_bytes()).is_some());
    }
}
