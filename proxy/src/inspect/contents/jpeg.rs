//! JPEG (ITU-T T.81): the size of the one frame header before the first scan.
//!
//! Pillow skips bytes that are no marker, and knows markers whose length it does not read; a file that uses either could show it another frame header than us, and is refused. A
//! multi-picture file (MPO) counts as one frame: `LoadImage` takes the first.

use super::{Bytes, ContentError};
use std::io::{Read, Seek};

fn malformed(fault: &'static str) -> ContentError {
    ContentError::malformed("JPEG", fault)
}

/// Width, height, frames.
pub(super) fn read<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32, u32), ContentError> {
    bytes.skip(2)?;
    let mut size = None;
    loop {
        if !bytes.count_part() {
            return Err(malformed("it has too many segments"));
        }
        let marker = marker(bytes)?;
        if marker == 0xda {
            let (width, height) = size.ok_or(malformed("it has no frame before the first scan"))?;
            return Ok((width, height, 1));
        }
        let length = bytes.next::<2>()?.map(u16::from_be_bytes).filter(|length| *length >= 2);
        let length = u64::from(length.ok_or(malformed("a segment is cut"))?) - 2;
        match marker {
            // Start of frame, but for 0xc4, 0xc8 and 0xcc, which are none.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf if size.is_some() => {
                return Err(malformed("it has two frames"));
            }
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => size = Some(frame(bytes, length)?),
            // Tables, restart interval, application data, comment: those that Pillow reads by their length.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => past(bytes, length)?,
            _ => return Err(malformed("it has a segment that readers take differently")),
        }
    }
}

/// `ff`, perhaps repeated, and the marker.
fn marker<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<u8, ContentError> {
    let cut = || malformed("it is cut");
    let [mut byte] = bytes.next()?.ok_or_else(cut)?;
    if byte != 0xff {
        return Err(malformed("there is something between its segments"));
    }
    while byte == 0xff {
        if !bytes.count_part() {
            return Err(malformed("it has too many segments"));
        }
        [byte] = bytes.next()?.ok_or_else(cut)?;
    }
    Ok(byte)
}

fn frame<R: Read + Seek>(bytes: &mut Bytes<R>, length: u64) -> Result<(u32, u32), ContentError> {
    let fields = bytes.next::<6>()?.filter(|_| length >= 6).ok_or(malformed("its frame is cut"))?;
    let [precision, height_high, height_low, width_high, width_low, components] = fields;
    let (width, height) = (u16::from_be_bytes([width_high, width_low]), u16::from_be_bytes([height_high, height_low]));
    if precision != 8 || !matches!(components, 1 | 3 | 4) || length != 6 + 3 * u64::from(components) {
        return Err(malformed("its frame says what no picture of 8 bits has"));
    }
    // A height of 0 would come later, with a marker of its own.
    if width == 0 || height == 0 {
        return Err(malformed("it has no size"));
    }
    past(bytes, length - 6)?;
    Ok((width.into(), height.into()))
}

fn past<R: Read + Seek>(bytes: &mut Bytes<R>, count: u64) -> Result<(), ContentError> {
    if bytes.skip(count)? { Ok(()) } else { Err(malformed("a segment is cut")) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::facts;

    fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
        [[0xff, marker].as_slice(), &length, data].concat()
    }

    fn frame(width: u16, height: u16) -> Vec<u8> {
        let size = [height.to_be_bytes(), width.to_be_bytes()].concat();
        segment(0xc0, &[[8].as_slice(), &size, &[3], &[1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]].concat())
    }

    fn jpeg(segments: &[Vec<u8>]) -> Vec<u8> {
        let jfif = segment(0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
        [[0xff, 0xd8].to_vec(), jfif, segments.concat()].concat()
    }

    fn scan() -> Vec<u8> {
        segment(0xda, &[0; 10])
    }

    /// A file with one of each part.
    pub(in super::super) fn sample() -> Vec<u8> {
        jpeg(&[segment(0xdb, &[0; 65]), segment(0xfe, b"a comment"), frame(8, 8), scan()])
    }

    #[test]
    fn a_size_is_that_of_the_frame() {
        assert_eq!(facts(&jpeg(&[segment(0xdb, &[0; 65]), frame(4000, 3000), scan()])).unwrap(), (4000, 3000, 1));
        assert_eq!(facts(&jpeg(&[vec![0xff, 0xff], frame(65_535, 1), scan()])).unwrap(), (65_535, 1, 1));
    }

    #[test]
    fn two_frames_no_frame_and_no_size_are_refused() {
        assert!(facts(&jpeg(&[frame(8, 8), frame(9000, 9000), scan()])).unwrap_err().contains("two frames"));
        assert!(facts(&jpeg(&[scan()])).unwrap_err().contains("no frame"));
        assert!(facts(&jpeg(&[frame(8, 0), scan()])).unwrap_err().contains("no size"));
        assert!(facts(&jpeg(&[frame(8, 8)])).is_err());
    }

    #[test]
    fn what_readers_skip_differently_is_refused() {
        let hidden = frame(9000, 9000);
        for odd in [0xc8, 0xcc, 0xd0, 0xd8, 0xdc, 0x01, 0xf0] {
            assert!(facts(&jpeg(&[segment(odd, &hidden), frame(8, 8), scan()])).is_err(), "{odd:x}");
        }
        assert!(facts(&jpeg(&[vec![0], frame(8, 8), scan()])).unwrap_err().contains("between"));
        assert!(facts(&jpeg(&[segment(0xfe, &hidden), frame(8, 8), scan()])).is_ok(), "a comment is a comment");
    }

    #[test]
    fn a_cut_file_is_refused_wherever_it_is_cut() {
        let whole = jpeg(&[segment(0xdb, &[0; 65]), frame(8, 8), scan()]);
        for length in 3..whole.len() - 12 {
            assert!(facts(&whole[..length]).is_err(), "{length}");
        }
    }
}
