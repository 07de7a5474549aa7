//! WebP (RFC 9649): the canvas of the first chunk, frames by counting `ANMF`.

use super::{Bytes, ContentError};
use std::io::{Read, Seek};

fn malformed(fault: &'static str) -> ContentError {
    ContentError::malformed("WebP", fault)
}

/// Width, height, frames.
pub(super) fn read<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32, u32), ContentError> {
    bytes.skip(4)?;
    let riff = bytes.next::<4>()?.map(u32::from_le_bytes).ok_or(malformed("it is cut"))?;
    if u64::from(riff) > bytes.left() {
        return Err(malformed("it is cut"));
    }
    bytes.skip(4)?;
    let (kind, length) = chunk(bytes)?.ok_or(malformed("it has no picture"))?;
    match &kind {
        b"VP8 " => {
            let size = lossy(bytes)?;
            Ok((size.0, size.1, 1))
        }
        b"VP8L" => {
            let size = lossless(bytes)?;
            Ok((size.0, size.1, 1))
        }
        b"VP8X" if length == 10 => {
            let (width, height) = canvas(bytes)?;
            Ok((width, height, frames(bytes)?))
        }
        _ => Err(malformed("its first chunk is no picture")),
    }
}

/// `VP8X`: 24 bits each, less one.
fn canvas<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32), ContentError> {
    let [_flags, _, _, _, w0, w1, w2, h0, h1, h2] = bytes.next()?.ok_or(malformed("its header is cut"))?;
    Ok((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
}

/// RFC 6386 §9.1: a key frame's tag, start code, then 14 bits each.
fn lossy<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32), ContentError> {
    let [_, _, _, a, b, c, w0, w1, h0, h1] = bytes.next()?.ok_or(malformed("its picture is cut"))?;
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let (width, height) = (side(w0, w1), side(h0, h1));
    if [a, b, c] != [0x9d, 0x01, 0x2a] || width == 0 || height == 0 {
        return Err(malformed("its picture has no size"));
    }
    Ok((width, height))
}

/// RFC 9649 §3.4: a signature byte, then 14 bits each, less one.
fn lossless<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32), ContentError> {
    let [signature, a, b, c, d] = bytes.next()?.ok_or(malformed("its picture is cut"))?;
    if signature != 0x2f {
        return Err(malformed("its picture has no size"));
    }
    let bits = u32::from_le_bytes([a, b, c, d]);
    Ok(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
}

fn frames<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<u32, ContentError> {
    let mut count: u32 = 0;
    while let Some((kind, length)) = chunk(bytes)? {
        if !bytes.count_part() {
            return Err(malformed("it has too many chunks"));
        }
        if &kind == b"ANMF" {
            count = count.saturating_add(1);
        }
        // Chunks are padded to even lengths; the last one's padding may be missing.
        let padded = u64::from(length) + u64::from(length % 2);
        if !bytes.skip(padded.min(bytes.left().max(u64::from(length))))? {
            return Err(malformed("a chunk is cut"));
        }
    }
    Ok(count.max(1))
}

/// Name and length of the next chunk; `None` at the end.
fn chunk<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<Option<([u8; 4], u32)>, ContentError> {
    match (bytes.next::<4>()?, bytes.next::<4>()?) {
        (Some(kind), Some(length)) => Ok(Some((kind, u32::from_le_bytes(length)))),
        _ => Ok(None),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::facts;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let pad = vec![0; data.len() % 2];
        [kind.as_slice(), &u32::try_from(data.len()).unwrap().to_le_bytes(), data, &pad].concat()
    }

    fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
        let inside = [b"WEBP".to_vec(), chunks.concat()].concat();
        [b"RIFF".as_slice(), &u32::try_from(inside.len()).unwrap().to_le_bytes(), &inside].concat()
    }

    fn extended(width: u32, height: u32) -> Vec<u8> {
        let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
        chunk(b"VP8X", &[vec![2, 0, 0, 0], side(width), side(height)].concat())
    }

    /// A file with one of each part.
    pub(in super::super) fn sample() -> Vec<u8> {
        webp(&[extended(64, 64), chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &[0; 17]), chunk(b"ANMF", &[0; 17])])
    }

    #[test]
    fn the_three_forms_tell_their_sizes() {
        let lossy = chunk(b"VP8 ", &[0x30, 1, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01]);
        assert_eq!(facts(&webp(&[lossy])).unwrap(), (640, 480, 1));
        let bits: u32 = (640 - 1) | ((480 - 1) << 14);
        let lossless = chunk(b"VP8L", &[[0x2f].as_slice(), &bits.to_le_bytes()].concat());
        assert_eq!(facts(&webp(&[lossless])).unwrap(), (640, 480, 1));
        assert_eq!(facts(&webp(&[extended(13_000, 9_000), chunk(b"VP8 ", b"x")])).unwrap(), (13_000, 9_000, 1));
    }

    #[test]
    fn frames_of_an_animation_are_counted() {
        let mut chunks = vec![extended(64, 64), chunk(b"ANIM", &[0; 6])];
        chunks.extend((0..300).map(|_| chunk(b"ANMF", &[0; 17])));
        assert_eq!(facts(&webp(&chunks)).unwrap(), (64, 64, 300));
    }

    #[test]
    fn what_is_cut_or_begins_otherwise_is_refused() {
        let whole = webp(&[extended(64, 64), chunk(b"VP8 ", &[0; 30])]);
        for length in 12..whole.len() - 1 {
            assert!(facts(&whole[..length]).is_err(), "{length}");
        }
        assert!(facts(&webp(&[chunk(b"ALPH", &[0; 4]), extended(64, 64)])).is_err());
        assert!(facts(&webp(&[chunk(b"VP8 ", &[0; 10])])).unwrap_err().contains("no size"));
    }
}
