//! GIF (89a specification): the screen, enlarged by every frame that lies beyond it, and the number of frames.
//!
//! Pillow passes over bytes that begin no block, and reads on after an extension that is empty; both could hide frames from us, and are refused.

use super::{Bytes, ContentError};
use std::io::{Read, Seek};

fn malformed(fault: &'static str) -> ContentError {
    ContentError::malformed("GIF", fault)
}

/// Width, height, frames.
pub(super) fn read<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(u32, u32, u32), ContentError> {
    bytes.skip(6)?;
    let [w0, w1, h0, h1, flags, _, _] = bytes.next()?.ok_or(malformed("its screen is cut"))?;
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]));
    let (mut width, mut height) = (side(w0, w1), side(h0, h1));
    table(bytes, flags)?;
    let mut frames: u32 = 0;
    loop {
        if !bytes.count_part() {
            return Err(malformed("it has too many blocks"));
        }
        match bytes.next::<1>()? {
            // A missing trailer ends it too.
            None | Some([b';']) => break,
            Some([b'!']) => extension(bytes)?,
            Some([b',']) => {
                let [l0, l1, t0, t1, w0, w1, h0, h1, flags] = bytes.next()?.ok_or(malformed("a frame is cut"))?;
                width = width.max(side(l0, l1) + side(w0, w1));
                height = height.max(side(t0, t1) + side(h0, h1));
                frames = frames.saturating_add(1);
                table(bytes, flags)?;
                // The code size, then the data.
                bytes.skip(1)?;
                while sub_block(bytes)?.is_some() {}
            }
            Some(_) => return Err(malformed("there is something between its blocks")),
        }
    }
    if frames == 0 || width == 0 || height == 0 {
        return Err(malformed("it has no picture"));
    }
    Ok((width, height, frames))
}

/// Passes over a colour table, if the flags announce one.
fn table<R: Read + Seek>(bytes: &mut Bytes<R>, flags: u8) -> Result<(), ContentError> {
    let colours = if flags & 0x80 == 0 { 0 } else { 2_u64 << (flags & 7) };
    if bytes.skip(3 * colours)? { Ok(()) } else { Err(malformed("a colour table is cut")) }
}

fn extension<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(), ContentError> {
    let [label] = bytes.next()?.ok_or(malformed("an extension is cut"))?;
    let comment = label == 0xfe;
    let first = sub_block(bytes)?;
    let Some(first) = first else {
        return if comment { Ok(()) } else { Err(malformed("an extension is empty")) };
    };
    let second = sub_block(bytes)?;
    if second.is_none() && label == 0xff && first == *b"NETSCAPE2.0" {
        return Err(malformed("an extension is empty"));
    }
    if second.is_some() {
        while sub_block(bytes)?.is_some() {}
    }
    Ok(())
}

/// The first 11 bytes of the next sub-block, zeros where it is shorter; `None`: the terminator.
fn sub_block<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<Option<[u8; 11]>, ContentError> {
    let cut = || malformed("a block is cut");
    if !bytes.count_part() {
        return Err(malformed("it has too many blocks"));
    }
    let [length] = bytes.next()?.ok_or_else(cut)?;
    if length == 0 {
        return Ok(None);
    }
    if length < 11 {
        return if bytes.skip(length.into())? { Ok(Some([0; 11])) } else { Err(cut()) };
    }
    let start = bytes.next::<11>()?.ok_or_else(cut)?;
    if bytes.skip(u64::from(length) - 11)? { Ok(Some(start)) } else { Err(cut()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::facts;

    fn screen(width: u16, height: u16) -> Vec<u8> {
        let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
        [b"GIF89a".to_vec(), size, vec![0x80, 0, 0], vec![9; 6]].concat()
    }

    fn frame(left: u16, width: u16, height: u16) -> Vec<u8> {
        let place = [left, 0, width, height].map(u16::to_le_bytes).concat();
        [vec![b','], place, vec![0, 2], vec![3, 1, 2, 3, 0]].concat()
    }

    fn looping() -> Vec<u8> {
        [b"!\xff\x0bNETSCAPE2.0".as_slice(), &[3, 1, 0, 0, 0]].concat()
    }

    /// A file with one of each part.
    pub(in super::super) fn sample() -> Vec<u8> {
        [screen(64, 48), looping(), frame(0, 64, 48), frame(4, 64, 50), vec![b';']].concat()
    }

    #[test]
    fn frames_are_counted_and_may_be_larger_than_the_screen() {
        let still = [screen(64, 48), frame(0, 64, 48), vec![b';']].concat();
        assert_eq!(facts(&still).unwrap(), (64, 48, 1));
        let mut animated = [screen(64, 48), looping()].concat();
        for _ in 0..500 {
            animated.extend([b"!\xf9\x04\0\0\0\0\0".to_vec(), frame(4, 64, 50)].concat());
        }
        assert_eq!(facts(&animated).unwrap(), (68, 50, 500), "without its trailer, too");
        let tail = [still, frame(0, 9000, 9000)].concat();
        assert_eq!(facts(&tail).unwrap(), (64, 48, 1), "nothing is read after the trailer");
    }

    #[test]
    fn a_file_without_a_frame_is_refused() {
        assert!(facts(&[screen(64, 48), vec![b';']].concat()).unwrap_err().contains("no picture"));
        assert!(facts(&screen(64, 48)).is_err());
    }

    #[test]
    fn what_pillow_would_skip_differently_is_refused() {
        let hidden = frame(0, 9000, 9000);
        for odd in [b"!\xf9\0".to_vec(), b"!\x01\0".to_vec(), b"!\xff\x0bNETSCAPE2.0\0".to_vec(), vec![0x07]] {
            let file = [screen(8, 8), odd, frame(0, 8, 8), hidden.clone(), vec![b';']].concat();
            assert!(facts(&file).is_err());
        }
        let comments = [screen(8, 8), b"!\xfe\0".to_vec(), b"!\xfe\x02hi\0".to_vec(), frame(0, 8, 8)].concat();
        assert_eq!(facts(&comments).unwrap(), (8, 8, 1));
    }

    #[test]
    fn a_cut_file_is_refused() {
        let whole = [screen(64, 48), looping(), frame(0, 64, 48)].concat();
        for length in 6..whole.len() - 1 {
            assert!(facts(&whole[..length]).is_err(), "{length}");
        }
    }
}
