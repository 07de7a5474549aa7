//! WAV (RIFF) of plain numbers: whole ones of 8 to 32 bits, or floats of 32.
//!
//! The length is that of the file, whatever the header claims: ffmpeg reads the data forward once, to the end where the claimed length is nothing or the largest (`libavformat/wavdec.c`).

use super::{CHANNELS_MAX, Samples, disguise, fill, is_usual};
use std::io::{self, Read, Seek, SeekFrom};

/// Before the first chunk: `RIFF`, a length, `WAVE`.
const FIRST_CHUNK: u64 = 12;
/// Chunks of one file; a long recording with many marks has some tens.
const CHUNKS_MAX: u32 = 1000;
/// The bytes of a format that says more, with its own length (`WAVEFORMATEXTENSIBLE`).
const EXTENDED_BYTES: u32 = 40;
/// What follows the format's code in the extended form.
const EXTENDED_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
const CODE_WHOLE: u16 = 1;
const CODE_FLOAT: u16 = 3;
const CODE_EXTENDED: u16 = 0xfffe;

/// How the numbers stand in the data.
struct Format {
    channels: u16,
    rate: u32,
    /// Bytes of one number.
    bytes: u16,
}

/// What a loader makes of it at most.
pub(super) fn read(content: &mut (impl Read + Seek), length: u64) -> io::Result<Option<Samples>> {
    let mut head = [0; disguise::FIRST_PROBE_BYTES];
    content.seek(SeekFrom::Start(0))?;
    let filled = fill(content, &mut head)?;
    let head = head.get(..filled).unwrap_or_default();
    if disguise::of_head(head) {
        return Ok(None);
    }
    let Some(format) = format(head) else { return Ok(None) };
    let Some(data_at) = data(content, length)? else { return Ok(None) };
    content.seek(SeekFrom::Start(data_at))?;
    if disguise::of_data(content)? {
        return Ok(None);
    }
    let numbers = length.saturating_sub(data_at).div_ceil(u64::from(format.bytes));
    let each = numbers.div_ceil(u64::from(format.channels));
    Ok(Some(Samples { each, all: each.saturating_mul(format.channels.into()), rate: format.rate }))
}

/// The format in the first chunk. ffmpeg believes the first `fmt ` that it finds, so it has to be in front of everything that could stand for it.
fn format(head: &[u8]) -> Option<Format> {
    let chunk = head.get(12..)?;
    let (b"fmt ", rest) = chunk.split_first_chunk::<4>()? else { return None };
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let two = |at: usize| rest.get(at..at + 2)?.first_chunk::<2>().map(|two| u16::from_le_bytes(*two));
    let four = |at: usize| rest.get(at..at + 4)?.first_chunk::<4>().map(|four| u32::from_le_bytes(*four));
    let (code, channels, rate, bits) = (two(0)?, two(2)?, four(4)?, two(14)?);
    let code = match (code, length) {
        (CODE_EXTENDED, EXTENDED_BYTES) => {
            let (more, valid, places) = (two(16)?, two(18)?, four(20)?);
            // ffmpeg takes the valid bits for the width of a number, and could take the places of speakers for their number.
            let plain = more == 22 && (valid == bits || valid == 0);
            let placed = places == 0 || places.count_ones() == u32::from(channels);
            (plain && placed && rest.get(26..40)? == EXTENDED_TAIL).then_some(two(24)?)?
        }
        (CODE_WHOLE | CODE_FLOAT, 16) => code,
        (CODE_WHOLE | CODE_FLOAT, 18) if two(16)? == 0 => code,
        _ => return None,
    };
    let width_fits = matches!((code, bits), (CODE_WHOLE, 8 | 16 | 24 | 32) | (CODE_FLOAT, 32));
    let fits = width_fits && (1..=CHANNELS_MAX).contains(&channels) && is_usual(rate);
    fits.then_some(Format { channels, rate, bytes: bits / 8 })
}

/// Where the data begin, if there is one chunk of them only: ffmpeg looks at the last one first, and passes from one to the next.
fn data(content: &mut (impl Read + Seek), length: u64) -> io::Result<Option<u64>> {
    let (mut at, mut data_at) = (FIRST_CHUNK, None);
    for number in 0..CHUNKS_MAX {
        if at.saturating_add(8) > length {
            return Ok(data_at);
        }
        content.seek(SeekFrom::Start(at))?;
        let mut chunk = [0; 8];
        content.read_exact(&mut chunk)?;
        let [a, b, c, d, size @ ..] = chunk;
        let (id, size) = ([a, b, c, d], u32::from_le_bytes(size));
        let begin = at + 8;
        at = begin + u64::from(size) + u64::from(size % 2);
        match &id {
            // The first one has been read.
            b"fmt " if number > 0 => return Ok(None),
            b"data" if data_at.is_some() => return Ok(None),
            b"data" if matches!(size, 0 | u32::MAX) => return Ok(Some(begin)),
            // After an odd number of bytes it looks for the next chunk one byte too early.
            b"data" if size % 2 == 1 && at.saturating_add(8) <= length => return Ok(None),
            b"data" => data_at = Some(begin),
            _ => {}
        }
    }
    Ok(None)
}
