//! What a file is and how large it becomes when ComfyUI opens it: type by its first bytes, sizes from its own header. No pixel is decoded.
//!
//! A picture's width, height and frames must hold for the library that opens it at the backend (Pillow), whatever the bytes behind the header say. So
//! each reader takes a stricter form than Pillow does, and refuses the file where the two could differ (facts §11, 48, 61, 93): a size that is given twice, blocks that are
//! skipped, and bytes that another of Pillow's readers would take when the first one gives up (`lookalikes.rs`).
//!
//! Sound and video are told by their containers only. Their sizes count as unbounded, so a policy that caps sizes refuses them where sizes matter. How long the sound in a file is at most is
//! told for WAV and FLAC (`sound/`).

mod gif;
mod jpeg;
mod lookalikes;
mod png;
mod sound;
mod webp;

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Seek, SeekFrom};

/// What a content is. Whatever is not here is not taken as an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "formats by their usual names")]
pub enum ContentKind {
    Png,
    Jpeg,
    Webp,
    Gif,
    Wav,
    Mp3,
    Flac,
    Ogg,
    M4a,
    Mp4,
    Mov,
    Webm,
    Mkv,
}

/// What becomes of a picture, sound or film, for the list of files that a node offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "as their names say")]
pub enum ContentFamily {
    Picture,
    Sound,
    Film,
}

impl ContentKind {
    /// The extension under which a backend gets it; never the caller's own.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Wav => "wav",
            Self::Mp3 => "mp3",
            Self::Flac => "flac",
            Self::Ogg => "ogg",
            Self::M4a => "m4a",
            Self::Mp4 => "mp4",
            Self::Mov => "mov",
            Self::Webm => "webm",
            Self::Mkv => "mkv",
        }
    }

    /// MIME type.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
            Self::Wav => "audio/wav",
            Self::Mp3 => "audio/mpeg",
            Self::Flac => "audio/flac",
            Self::Ogg => "audio/ogg",
            Self::M4a => "audio/mp4",
            Self::Mp4 => "video/mp4",
            Self::Mov => "video/quicktime",
            Self::Webm => "video/webm",
            Self::Mkv => "video/x-matroska",
        }
    }

    /// Which sort it is of.
    pub fn family(self) -> ContentFamily {
        match self {
            Self::Png | Self::Jpeg | Self::Webp | Self::Gif => ContentFamily::Picture,
            Self::Wav | Self::Mp3 | Self::Flac | Self::Ogg | Self::M4a => ContentFamily::Sound,
            Self::Mp4 | Self::Mov | Self::Webm | Self::Mkv => ContentFamily::Film,
        }
    }
}

/// What is known of a content. Width and height are in pixels, at least 1, before any turning by EXIF; frames at least 1. [`UNBOUNDED`]: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentFacts {
    /// What it is.
    pub kind: ContentKind,
    /// Upper bound of the pixels across.
    pub width: u32,
    /// Upper bound of the pixels down.
    pub height: u32,
    /// Upper bound of the pictures in it.
    pub frames: u32,
    /// Upper bound of the seconds of sound in it, rounded up, of two channels; `None`: not known, as in rows from before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// A size that is not known: larger than any cap.
pub const UNBOUNDED: u32 = u32::MAX;

/// Pixels of one frame beyond which Pillow refuses a picture as a decompression bomb (`Image.py` `_decompression_bomb_check`: twice `MAX_IMAGE_PIXELS`): more could never be opened.
pub const PICTURE_PIXELS_MAX: u64 = 178_956_970;

/// Chunks, segments or blocks of one file: a hundred times what a long animation has.
const PARTS_MAX: u32 = 4_000_000;

/// Why a content is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// None of the types we take.
    #[error(
        "this is none of the files that are taken: PNG, JPEG, WebP or GIF; WAV, MP3, FLAC, Ogg or M4A; MP4, MOV, WebM or MKV"
    )]
    Unknown,
    /// Begins like a type we take, and is not well-formed or not unambiguous.
    #[error("this is no sound {what} file: {fault}; save it again, or send another")]
    Malformed {
        /// The type.
        what: &'static str,
        /// What is wrong.
        fault: &'static str,
    },
    /// More pixels than can be opened.
    #[error(
        "the picture claims {width} × {height} pixels; at most {PICTURE_PIXELS_MAX} can be opened: send a smaller one"
    )]
    TooManyPixels {
        /// As claimed.
        width: u32,
        /// As claimed.
        height: u32,
    },
    /// The disk.
    #[error("a content can't be read: {0}")]
    Io(#[from] io::Error),
}

impl ContentError {
    fn malformed(what: &'static str, fault: &'static str) -> Self {
        Self::Malformed { what, fault }
    }

    /// The same, for another who asks.
    pub fn again(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Malformed { what, fault } => Self::Malformed { what, fault },
            Self::TooManyPixels { width, height } => Self::TooManyPixels { width: *width, height: *height },
            Self::Io(error) => Self::Io(error.kind().into()),
        }
    }
}

/// Reads the facts of a content of `length` bytes. Reads headers only, but for GIF and WebP, whose frames are counted block by block, and FLAC, which is read whole.
///
/// # Errors
/// [`ContentError`] says what the content is not.
pub fn read(content: &mut (impl Read + Seek), length: u64) -> Result<ContentFacts, ContentError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    content.seek(SeekFrom::Start(0))?;
    content.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let kind = kind_of(&head).ok_or(ContentError::Unknown)?;
    if kind.family() != ContentFamily::Picture {
        let seconds = sound::seconds(content, kind, length)?;
        return Ok(ContentFacts { kind, width: UNBOUNDED, height: UNBOUNDED, frames: UNBOUNDED, seconds });
    }
    lookalikes::check(content, length)?;
    content.seek(SeekFrom::Start(0))?;
    let mut bytes = Bytes { content: io::BufReader::with_capacity(16 << 10, content), at: 0, length, parts: 0 };
    let (width, height, frames) = match kind {
        ContentKind::Png => png::read(&mut bytes)?,
        ContentKind::Jpeg => jpeg::read(&mut bytes)?,
        ContentKind::Webp => webp::read(&mut bytes)?,
        _ => gif::read(&mut bytes)?,
    };
    if u64::from(width) * u64::from(height) > PICTURE_PIXELS_MAX {
        return Err(ContentError::TooManyPixels { width, height });
    }
    Ok(ContentFacts { kind, width, height, frames, seconds: None })
}

/// Major brands of pictures in an ISO base media file.
const PICTURE_BRANDS: [&[u8; 4]; 8] = [b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"miaf"];

/// Enough to tell every type by.
const HEAD_BYTES: usize = 64;

fn kind_of(head: &[u8]) -> Option<ContentKind> {
    let at = |start: usize, wanted: &[u8]| head.get(start..start + wanted.len()) == Some(wanted);
    let has = |wanted: &[u8]| head.windows(wanted.len()).any(|window| window == wanted);
    Some(match head {
        _ if at(0, b"\x89PNG\r\n\x1a\n") => ContentKind::Png,
        _ if at(0, b"\xff\xd8\xff") => ContentKind::Jpeg,
        _ if at(0, b"GIF87a") || at(0, b"GIF89a") => ContentKind::Gif,
        _ if at(0, b"RIFF") && at(8, b"WEBP") => ContentKind::Webp,
        _ if at(0, b"RIFF") && at(8, b"WAVE") => ContentKind::Wav,
        _ if at(0, b"ID3") => ContentKind::Mp3,
        // MPEG-1 and 2, layer III, with or without a checksum.
        [0xff, 0xfb | 0xfa | 0xf3 | 0xf2, ..] => ContentKind::Mp3,
        _ if at(0, b"fLaC") => ContentKind::Flac,
        _ if at(0, b"OggS") => ContentKind::Ogg,
        _ if at(4, b"ftypqt  ") => ContentKind::Mov,
        _ if at(4, b"ftypM4A ") => ContentKind::M4a,
        // AVIF and HEIF are pictures in the same box; their sizes are not read here.
        _ if PICTURE_BRANDS.iter().any(|brand| at(8, brand.as_slice()) && at(4, b"ftyp")) => return None,
        _ if at(4, b"ftyp") => ContentKind::Mp4,
        _ if at(0, b"\x1a\x45\xdf\xa3") && has(b"webm") => ContentKind::Webm,
        _ if at(0, b"\x1a\x45\xdf\xa3") && has(b"matroska") => ContentKind::Mkv,
        _ => return None,
    })
}

/// A content, read from front to back; knows where it stands and where the end is.
struct Bytes<R> {
    content: io::BufReader<R>,
    at: u64,
    length: u64,
    parts: u32,
}

impl<R: Read + Seek> Bytes<R> {
    /// The next bytes; `None` past the end.
    fn next<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.left() < N as u64 {
            return Ok(None);
        }
        let mut out = [0; N];
        self.content.read_exact(&mut out)?;
        self.at += N as u64;
        Ok(Some(out))
    }

    /// Passes over bytes; `false` if there are not that many.
    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        if self.left() < bytes {
            return Ok(false);
        }
        let Ok(offset) = i64::try_from(bytes) else { return Ok(false) };
        self.content.seek_relative(offset)?;
        self.at += bytes;
        Ok(true)
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    /// Counts one part; `false` beyond the bound.
    fn count_part(&mut self) -> bool {
        self.parts = self.parts.saturating_add(1);
        self.parts <= PARTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Facts of bytes.
    pub(super) fn facts(bytes: &[u8]) -> Result<(u32, u32, u32), String> {
        let read = read(&mut Cursor::new(bytes), bytes.len() as u64);
        read.map(|facts| (facts.width, facts.height, facts.frames)).map_err(|error| error.to_string())
    }

    fn kind(bytes: &[u8]) -> Option<ContentKind> {
        kind_of(bytes)
    }

    #[test]
    fn types_are_told_by_their_first_bytes() {
        for (head, expected) in [
            (b"ID3\x04".as_slice(), ContentKind::Mp3),
            (b"\xff\xfb\x90", ContentKind::Mp3),
            (b"fLaC", ContentKind::Flac),
            (b"OggS", ContentKind::Ogg),
            (b"RIFF\0\0\0\0WAVE", ContentKind::Wav),
            (b"\0\0\0\x20ftypisom", ContentKind::Mp4),
            (b"\0\0\0\x20ftypqt  ", ContentKind::Mov),
            (b"\0\0\0\x20ftypM4A ", ContentKind::M4a),
            (b"\x1a\x45\xdf\xa3\x42\x82\x84webm", ContentKind::Webm),
            (b"\x1a\x45\xdf\xa3\x42\x82\x88matroska", ContentKind::Mkv),
        ] {
            assert_eq!(kind(head), Some(expected), "{head:?}");
            assert_eq!(facts(head).unwrap(), (UNBOUNDED, UNBOUNDED, UNBOUNDED), "sizes are not known");
        }
    }

    #[test]
    fn a_row_from_before_sound_was_measured_has_no_length() {
        let facts = |seconds: &str| {
            let row = format!(r#"{{"kind":"flac","width":1,"height":1,"frames":1{seconds}}}"#);
            serde_json::from_str::<ContentFacts>(&row).unwrap().seconds
        };
        assert_eq!((facts(""), facts(r#","seconds":7"#)), (None, Some(7)));
    }

    #[test]
    fn what_a_browser_or_python_would_run_is_no_upload() {
        for text in [
            "<svg xmlns='http://www.w3.org/2000/svg'/>",
            "<html>",
            "%PDF-1.7",
            "#!/bin/sh",
            "\u{80}\u{4}pickle",
            "",
            "PK\u{3}\u{4}",
            "BM",
            "II*\0",
            "\0\0\0\u{1c}ftypavif",
            "\0\0\0\u{1c}ftypheic",
        ] {
            assert!(matches!(read(&mut Cursor::new(text), text.len() as u64), Err(ContentError::Unknown)), "{text}");
        }
    }

    #[test]
    fn a_picture_of_as_many_pixels_as_can_be_opened_is_read_and_one_more_row_is_not() {
        let side = 13_377; // 13 377² = 178 944 129
        assert_eq!(facts(&png::tests::picture(side, side)).unwrap(), (side, side, 1));
        assert!(facts(&png::tests::picture(side, side + 1)).unwrap_err().contains("13377 × 13378"));
        assert!(facts(&png::tests::picture(60_000, 60_000)).unwrap_err().contains("60000 × 60000"));
    }

    /// A generator of numbers below `most`, the same ones in every run.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        move |most| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % most.max(1) as u64).unwrap()
        }
    }

    #[test]
    fn no_content_makes_a_reader_panic_or_tell_a_size_of_nothing() {
        let seeds = [png::tests::picture(8, 8), jpeg::tests::sample(), webp::tests::sample(), gif::tests::sample()];
        let mut number = numbers();
        let mut read = 0;
        for round in 0..20_000 {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..=number(3) {
                let at = number(bytes.len());
                match number(4) {
                    0 => bytes.truncate(at + 1),
                    1 => bytes.insert(at, u8::try_from(number(256)).unwrap()),
                    _ => bytes[at] = u8::try_from(number(256)).unwrap(),
                }
            }
            if let Ok((width, height, frames)) = facts(&bytes) {
                assert!(width > 0 && height > 0 && frames > 0, "{bytes:?}");
                read += 1;
            }
        }
        assert!(read > 1000, "the changes are small enough to be read: {read}");
    }
}
