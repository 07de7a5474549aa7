//! An answer by gzip (RFC 1952) whose pieces were compressed before, each by itself: only what is new needs any work. Pure.

use bytes::Bytes;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use std::io::Write;

/// No name, no time, an unknown system (RFC 1952 §2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block without content (RFC 1951 §3.2.3).
const END: [u8; 2] = [3, 0];

/// A piece: blocks of RFC 1951 none of which is the last, up to a whole byte, and what they say of the text.
#[derive(Debug)]
pub struct Deflated {
    blocks: Bytes,
    crc: Crc,
}

impl Deflated {
    /// Compresses a text.
    pub fn of(text: &[u8]) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        // A vector takes everything. The flush ends the blocks at a whole byte.
        let written = encoder.write_all(text).and_then(|()| encoder.flush());
        debug_assert!(written.is_ok());
        let mut crc = Crc::new();
        crc.update(text);
        Self { blocks: Bytes::copy_from_slice(encoder.get_ref()), crc }
    }
}

/// The pieces, one after the other, as one answer.
pub fn joined<'a>(pieces: impl Iterator<Item = &'a Deflated>) -> Bytes {
    let mut out = HEADER.to_vec();
    let mut crc = Crc::new();
    for piece in pieces {
        out.extend_from_slice(&piece.blocks);
        crc.combine(&piece.crc);
    }
    out.extend_from_slice(&END);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn pieces_that_were_compressed_by_themselves_are_one_text_for_every_reader() {
        let long = "lighthouse ".repeat(20_000);
        for texts in [vec![], vec![""], vec!["a"], vec!["", &long, "", "b"], vec![&long, &long]] {
            let pieces: Vec<Deflated> = texts.iter().map(|text| Deflated::of(text.as_bytes())).collect();
            let packed = joined(pieces.iter());
            let mut text = String::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
            assert_eq!(text, texts.concat());
        }
    }
}
