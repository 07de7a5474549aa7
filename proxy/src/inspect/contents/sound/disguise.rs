//! WAV that ffmpeg would take for something else.
//!
//! ffmpeg asks each of its some 350 forms how sure it is of the first bytes, and takes the surest. WAV says 99 of 100, and so is outdone by the few forms that say 99 or 100 for a mark further behind
//! (`libavformat/format.c`; found by reading the `read_probe` of every form, ffmpeg 7.1). 2 KiB are looked at first, and more only if nothing is sure, so the marks matter in these alone. Then, of WAV with
//! whole numbers, the data are searched for compressed sound (`wavdec.c` `set_spdif` and `handle_stream_probing`), as a CD of DTS has it: a few bytes of that may be seconds.
//!
//! What is searched for here is simpler than what ffmpeg wants to see, and is there whenever that is.

use super::fill;
use std::io::{self, Read};

/// Bytes that ffmpeg looks at first (`PROBE_BUF_MIN`).
pub(super) const FIRST_PROBE_BYTES: usize = 2048;

/// Marks of other forms that may stand anywhere: MXF, NUT, Bonk, Interplay MVE, HCOM (at byte 65), Sega's (at byte 213).
const MARKS: [&[u8]; 6] = [b"\x06\x0e\x2b\x34", b"NM\x7aV", b"\0BONK", b"Interplay MVE", b"FSSD", b"Sega Stream"];
/// Where ACT has a byte 0x84 amid zeros.
const ACT_AT: usize = 256;
/// A claimed length from here on may spell the name of a MOV or R3D atom, which stands there; larger than what may be uploaded.
const SPELLED: u32 = u32::from_le_bytes(*b"    ");

/// Whether another form may be as sure of a file that begins so.
pub(super) fn of_head(head: &[u8]) -> bool {
    let claimed = head.get(4..8).and_then(|length| length.first_chunk::<4>()).map(|length| u32::from_le_bytes(*length));
    let spelled = claimed.is_none_or(|length| length >= SPELLED && length != u32::MAX);
    let act = head.get(44..ACT_AT).is_some_and(|start| start.iter().all(|byte| *byte == 0))
        && head.get(ACT_AT) == Some(&0x84);
    spelled || act || MARKS.iter().any(|mark| memchr::memmem::find(head, mark).is_some())
}

/// Bytes of the data that are searched. ffmpeg stops at 32 packets, or where they have 5 000 000 bytes (`probesize`).
const SEARCHED_BYTES: usize = 8 << 20;
const PIECE_BYTES: usize = 64 << 10;
/// Bytes that a header is known by.
const HEADER_BYTES: usize = 6;
/// Frames in a row by which ffmpeg knows a form: 3 at the start, and more than 100 anywhere; with fewer it asks for other signs as well.
const ROW: u16 = 64;
const ROW_AT_START: u16 = 3;
/// A power of two, above the longest frame (LOAS, 8194 bytes).
const PLACES: usize = 1 << 14;
/// Bytes from one frame of AC-3 or E-AC-3 to the next at most, with what may stand between.
const AC3_GAP: usize = 4096 + 16;
/// Words of DTS by which ffmpeg knows it are four; as often as this is chance.
const DTS_MAX: u32 = 2;

/// Whether the data, from where `content` stands, could hold compressed sound.
pub(super) fn of_data(content: &mut impl Read) -> io::Result<bool> {
    let mut search = Search::new();
    let mut piece = vec![0; PIECE_BYTES];
    let (mut kept, mut searched) = (0, 0);
    while searched < SEARCHED_BYTES {
        let filled = kept + fill(content, piece.get_mut(kept..).unwrap_or_default())?;
        let ended = filled < PIECE_BYTES;
        if ended {
            // The last ones stand before zeros, as ffmpeg's do.
            piece.resize(filled, 0);
            piece.resize(filled + HEADER_BYTES - 1, 0);
        }
        for header in piece.windows(HEADER_BYTES).filter_map(|window| window.first_chunk()) {
            if search.found(header) {
                return Ok(true);
            }
            searched += 1;
        }
        if ended {
            break;
        }
        piece.copy_within(PIECE_BYTES - (HEADER_BYTES - 1).., 0);
        kept = HEADER_BYTES - 1;
    }
    Ok(false)
}

/// What has been seen so far.
struct Search {
    at: usize,
    /// Nothing but zeros, which ffmpeg passes over.
    zeros: bool,
    adts: Rows,
    loas: Rows,
    mpeg: Rows,
    ac3: u16,
    ac3_at: usize,
    dts: u32,
}

impl Search {
    fn new() -> Self {
        Self { at: 0, zeros: true, adts: Rows::new(), loas: Rows::new(), mpeg: Rows::new(), ac3: 0, ac3_at: 0, dts: 0 }
    }

    /// Looks at the next byte and what follows it; `true` once it is known that this may be no plain sound.
    fn found(&mut self, header: &[u8; HEADER_BYTES]) -> bool {
        let at = self.at;
        let start = self.zeros;
        self.at += 1;
        self.zeros &= header.first() == Some(&0);
        let adts = self.adts.step(at, start, adts(header));
        let loas = self.loas.step(at, start, loas(header));
        let mpeg = self.mpeg.step(at, start, mpeg(header));
        adts || loas || mpeg || self.word(at, header)
    }

    /// The forms that have a word of their own.
    fn word(&mut self, at: usize, header: &[u8; HEADER_BYTES]) -> bool {
        match header {
            // AC-3 may stand behind 16 bytes that begin so.
            [0x01, 0x10, ..] => return at == 0,
            [0x0b, 0x77, ..] | [0x77, 0x0b, ..] => {
                self.ac3 = if at - self.ac3_at <= AC3_GAP { self.ac3 + 1 } else { 1 };
                self.ac3_at = at;
                return at == 0 || self.ac3 >= ROW;
            }
            // S/PDIF bursts; TrueHD and MLP.
            [0x72, 0xf8, 0x1f, 0x4e, ..] | [0xf8, 0x72, 0x4e, 0x1f, ..] | [0xf8, 0x72, 0x6f, 0xba | 0xbb, ..] => {
                return true;
            }
            [0x7f, 0xfe, 0x80, 0x01, ..]
            | [0xfe, 0x7f, 0x01, 0x80, ..]
            | [0x1f, 0xff, 0xe8, 0x00, ..]
            | [0xff, 0x1f, 0x00, 0xe8, ..]
            | [0x64, 0x58, 0x20, 0x25, ..]
                // Quiet sound has these bytes over the end of a number, where ffmpeg does not look for them.
                if at.is_multiple_of(2) =>
            {
                self.dts += 1;
            }
            _ => {}
        }
        self.dts > DTS_MAX
    }
}

/// Frames in a row: how many end at each place ahead.
struct Rows {
    ends: Vec<u16>,
}

impl Rows {
    fn new() -> Self {
        Self { ends: vec![0; PLACES] }
    }

    /// A frame of `length` bytes, if one begins here; `true` if it is one of a long row.
    fn step(&mut self, at: usize, start: bool, length: Option<usize>) -> bool {
        let before = self.ends.get_mut(at % PLACES).map(std::mem::take).unwrap_or_default();
        let Some(length) = length else { return false };
        let before = if start { before.max(ROW - ROW_AT_START) } else { before };
        let row = before + 1;
        if let Some(end) = self.ends.get_mut((at + length) % PLACES) {
            *end = row.max(*end);
        }
        row >= ROW
    }
}

/// AAC in ADTS: the length of the frame.
fn adts(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let [0xff, second, _, length @ ..] = header else { return None };
    let [high, middle, low] = length;
    let length = usize::from(high & 3) << 11 | usize::from(*middle) << 3 | usize::from(low >> 5);
    (second & 0xf6 == 0xf0 && length >= 7).then_some(length)
}

/// AAC in LOAS.
fn loas(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let [0x56, second, third, ..] = header else { return None };
    let length = (usize::from(second & 0x1f) << 8 | usize::from(*third)) + 3;
    (second & 0xe0 == 0xe0 && length >= 7).then_some(length)
}

/// Bits a second of MPEG audio in units of 1000, by code: layers I, II and III of MPEG-1, layer I and the others of MPEG-2 and 2.5 (ISO 11172-3, 13818-3).
const BITRATES: [[usize; 15]; 5] = [
    [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];
const MPEG_RATES: [usize; 3] = [44_100, 48_000, 32_000];

/// MPEG audio of any layer.
fn mpeg(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let [0xff, second, third, ..] = header else { return None };
    // 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5.
    let (version, layer) = ((second >> 3) & 3, 4 - ((second >> 1) & 3));
    if second & 0xe0 != 0xe0 || version == 1 || layer == 4 {
        return None;
    }
    let table = match (version, layer) {
        (3, layer) => usize::from(layer) - 1,
        (_, 1) => 3,
        _ => 4,
    };
    let bitrate = BITRATES.get(table)?.get(usize::from(third >> 4)).filter(|bitrate| **bitrate > 0)?;
    let halved = match version {
        3 => 0,
        2 => 1,
        _ => 2,
    };
    let rate = MPEG_RATES.get(usize::from((third >> 2) & 3))? >> halved;
    let padding = usize::from((third >> 1) & 1);
    Some(match layer {
        1 => (bitrate * 12_000 / rate + padding) * 4,
        2 => bitrate * 144_000 / rate + padding,
        _ => bitrate * 144_000 / (rate << usize::from(version != 3)) + padding,
    })
}
