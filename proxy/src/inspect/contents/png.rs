//! PNG and APNG (W3C PNG, third edition): sizes of `IHDR`, frames of `acTL`.

use super::{Bytes, ContentError};
use std::io::{Read, Seek};

fn malformed(fault: &'static str) -> ContentError {
    ContentError::malformed("PNG", fault)
}

/// Width, height, frames.
pub(super) fn read<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32, u32), ContentError> {
    bytes.skip(8)?;
    let (width, height) = header(bytes)?;
    let mut frames = 1;
    // Pillow reads as far as the first picture data.
    while let Some(([length, kind], true)) = chunk(bytes)?.map(|chunk| (chunk, bytes.count_part())) {
        let length = u32::from_be_bytes(length);
        match &kind {
            b"IDAT" | b"fdAT" => return Ok((width, height, frames)),
            // A second one would replace the first.
            b"IHDR" => return Err(malformed("it has two headers")),
            b"IEND" => return Err(malformed("it ends before the picture")),
            b"acTL" => {
                let count = bytes.next::<4>()?.filter(|_| length >= 8).ok_or(malformed("`acTL` is cut"))?;
                // The default picture may come before the first frame.
                frames = frames.max(u32::from_be_bytes(count).saturating_add(1));
                past(bytes, u64::from(length) - 4 + 4)?;
            }
            _ => past(bytes, u64::from(length) + 4)?,
        }
    }
    Err(malformed("it has no picture data"))
}

fn header<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32), ContentError> {
    let [length, kind] = chunk(bytes)?.ok_or(malformed("its header is cut"))?;
    if &kind != b"IHDR" || u32::from_be_bytes(length) != 13 {
        return Err(malformed("it does not begin with its header"));
    }
    let cut = || malformed("its header is cut");
    let width = u32::from_be_bytes(bytes.next()?.ok_or_else(cut)?);
    let height = u32::from_be_bytes(bytes.next()?.ok_or_else(cut)?);
    let [depth, colour, compression, filter, interlace] = bytes.next()?.ok_or_else(cut)?;
    let known = match colour {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        _ => false,
    };
    let most = u32::try_from(i32::MAX).unwrap_or(u32::MAX);
    if !known || compression != 0 || filter != 0 || interlace > 1 {
        return Err(malformed("its header says what no PNG has"));
    }
    if width == 0 || height == 0 || width > most || height > most {
        return Err(malformed("it has no size"));
    }
    // The checksum.
    past(bytes, 4)?;
    Ok((width, height))
}

/// Length and name of the next chunk.
fn chunk<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<Option<[[u8; 4]; 2]>, ContentError> {
    match (bytes.next::<4>()?, bytes.next::<4>()?) {
        (Some(length), Some(kind)) => Ok(Some([length, kind])),
        _ => Ok(None),
    }
}

fn past<R: Read + Seek>(bytes: &mut Bytes<R>, count: u64) -> Result<(), ContentError> {
    if bytes.skip(count)? { Ok(()) } else { Err(malformed("a chunk is cut")) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::facts;

    pub(in super::super) fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [&u32::try_from(data.len()).unwrap().to_be_bytes(), kind.as_slice(), data, &[0; 4]].concat()
    }

    fn header(width: u32, height: u32) -> Vec<u8> {
        let data = [width.to_be_bytes().as_slice(), &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        [b"\x89PNG\r\n\x1a\n".as_slice(), &chunk(b"IHDR", &data)].concat()
    }

    /// A header that claims this size, with picture data that nobody reads.
    pub(in super::super) fn picture(width: u32, height: u32) -> Vec<u8> {
        [header(width, height), chunk(b"IDAT", b"x")].concat()
    }

    #[test]
    fn a_size_is_that_of_the_header() {
        assert_eq!(facts(&picture(640, 480)).unwrap(), (640, 480, 1));
        for (width, height) in [(0, 5), (5, 0), (1 << 31, 1)] {
            assert!(facts(&picture(width, height)).unwrap_err().contains("no size"));
        }
    }

    #[test]
    fn frames_are_those_that_are_announced_and_one_for_the_default_picture() {
        let animated = |count: u32| {
            let control = chunk(b"acTL", &[count.to_be_bytes(), [0; 4]].concat());
            [header(8, 8), chunk(b"tEXt", b"a\0b"), control, chunk(b"IDAT", b"x")].concat()
        };
        assert_eq!(facts(&animated(10_000)).unwrap(), (8, 8, 10_001));
        assert_eq!(facts(&animated(u32::MAX)).unwrap(), (8, 8, u32::MAX));
    }

    #[test]
    fn a_second_header_a_cut_and_a_picture_without_data_are_refused() {
        let two = [header(8, 8), header(9_000, 9_000)[8..].to_vec(), chunk(b"IDAT", b"x")].concat();
        assert!(facts(&two).unwrap_err().contains("two headers"));
        assert!(facts(&[header(8, 8), chunk(b"IEND", b"")].concat()).unwrap_err().contains("ends before"));
        let whole = picture(8, 8);
        for length in 8..whole.len() - 5 {
            assert!(facts(&whole[..length]).is_err(), "{length}");
        }
        let lying = [header(8, 8), [&[0x7f, 0xff, 0xff, 0xff], b"tEXt".as_slice()].concat()].concat();
        assert!(facts(&lying).unwrap_err().contains("cut"));
    }

    #[test]
    fn a_header_that_no_reader_knows_is_refused() {
        let mut odd = picture(8, 8);
        odd[24] = 3;
        assert!(facts(&odd).unwrap_err().contains("no PNG has"));
    }
}
