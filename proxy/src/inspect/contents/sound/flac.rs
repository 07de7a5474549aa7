//! FLAC (RFC 9639) whose frames stand one behind the other, from the end of the blocks in front to the end of the file.
//!
//! ffmpeg looks for frames by their first bytes and the checksum of their header, wherever they stand, and the total in front of the file means nothing to it. Whatever fits is counted here, also what only looks
//! like a frame. And where headers contradict each other it gives out the same bytes again and again (`libavcodec/flac_parser.c`: a header without a successor that it likes is read to the end of all that is
//! buffered, and so is the next one). So each frame has to end where the next one begins, by its own checksum, with the next number and the same form; headers that are none, as chance makes one in
//! 60 MB, may stand in frames far from each other if their numbers could not be meant as neighbours. A file with STREAMINFO in front is FLAC in every reader's eyes: no form of ffmpeg's is surer of its own.

use super::{CHANNELS_MAX, Samples, fill, is_usual};
use std::io::{self, Read, Seek, SeekFrom};

/// The mark, the head of the first block and STREAMINFO.
const HEAD_BYTES: usize = 4 + 4 + 34;
/// Larger files are not measured: an hour in two channels of 16 bits has some 350 MB.
const BYTES_MAX: u64 = 512 << 20;
/// Blocks in front of the frames; there are seven kinds.
const BLOCKS_MAX: u32 = 1000;
/// Numbers of one channel in a frame: less is none (RFC 9639 §8.2).
const BLOCK_MIN: u16 = 16;
/// A frame's header: four bytes, seven of its number, two of the block's size, two of the rate, and the checksum.
const HEADER_BYTES_MAX: usize = 16;
const PIECE_BYTES: usize = 64 << 10;
/// Headers that ffmpeg compares with each other.
const NEIGHBOURS: u64 = 4;

/// What STREAMINFO says of all frames.
struct Stream {
    rate: u32,
    channels: u16,
    /// Bits of a number.
    bits: u8,
}

/// One header that is well-formed.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// Numbers of one channel.
    block: u32,
    channels: u16,
    /// `None`: as STREAMINFO says.
    rate: Option<u32>,
    /// Bits of a number; `None`: as STREAMINFO says.
    bits: Option<u8>,
    /// Blocks have any size, and the number is that of a sample.
    variable: bool,
    number: u64,
}

/// What a loader makes of it at most.
pub(super) fn read(content: &mut (impl Read + Seek), length: u64) -> io::Result<Option<Samples>> {
    content.seek(SeekFrom::Start(0))?;
    let mut head = [0; HEAD_BYTES];
    if fill(content, &mut head)? < HEAD_BYTES || length > BYTES_MAX {
        return Ok(None);
    }
    let Some(stream) = stream(&head) else { return Ok(None) };
    if !to_frames(content, head[4] & 0x80 != 0, length)? {
        return Ok(None);
    }
    let mut frames = Frames::of(stream);
    let mut piece = vec![0; PIECE_BYTES + HEADER_BYTES_MAX];
    let mut kept = 0;
    loop {
        let filled = kept + fill(content, piece.get_mut(kept..PIECE_BYTES).unwrap_or_default())?;
        let ended = filled < PIECE_BYTES;
        // What begins in the last bytes is looked at again with what follows, or stands before zeros, as it does in ffmpeg.
        piece.get_mut(filled..filled + HEADER_BYTES_MAX).unwrap_or_default().fill(0);
        let looked = if ended { filled } else { filled - HEADER_BYTES_MAX };
        if frames.add(piece.get(..looked + HEADER_BYTES_MAX).unwrap_or_default(), looked).is_none() {
            return Ok(None);
        }
        if ended {
            return Ok(frames.samples());
        }
        piece.copy_within(looked.., 0);
        kept = HEADER_BYTES_MAX;
    }
}

/// Passes over the blocks that follow STREAMINFO; `false` if they go on beyond the end.
fn to_frames(content: &mut (impl Read + Seek), mut last: bool, length: u64) -> io::Result<bool> {
    let mut at = HEAD_BYTES as u64;
    for _ in 0..BLOCKS_MAX {
        if at > length {
            return Ok(false);
        }
        content.seek(SeekFrom::Start(at))?;
        if last {
            return Ok(true);
        }
        let mut block = [0; 4];
        if fill(content, &mut block)? < block.len() {
            return Ok(false);
        }
        let [kind, size @ ..] = block;
        let [a, b, c] = size;
        last = kind & 0x80 != 0;
        at += 4 + u64::from(u32::from_be_bytes([0, a, b, c]));
    }
    Ok(false)
}

/// STREAMINFO (§8.2), in the form in which ffmpeg is sure of it.
fn stream(head: &[u8; HEAD_BYTES]) -> Option<Stream> {
    let [b'f', b'L', b'a', b'C', kind, 0, 0, 34, least0, least1, most0, most1, rest @ ..] = head else { return None };
    let [_, _, _, _, _, _, rate0, rate1, mixed, bits, ..] = rest;
    let (least, most) = (u16::from_be_bytes([*least0, *least1]), u16::from_be_bytes([*most0, *most1]));
    let rate = u32::from_be_bytes([0, *rate0, *rate1, *mixed]) >> 4;
    let channels = u16::from((mixed >> 1) & 7) + 1;
    let bits = ((mixed & 1) << 4 | bits >> 4) + 1;
    let fits = kind & 0x7f == 0 && least >= BLOCK_MIN && most >= least && is_usual(rate);
    fits.then_some(Stream { rate, channels, bits })
}

/// All frames so far.
struct Frames {
    stream: Stream,
    /// Numbers of all channels, of all that looks like a frame.
    all: u64,
    /// The lowest rate.
    rate: u32,
    /// The fewest channels: ComfyUI spreads what has more of them over as many.
    channels: u16,
    /// The last frame that is one.
    last: Option<Frame>,
    /// The checksum of its bytes so far.
    crc: u16,
    /// Frames since the last header that is none.
    calm: u64,
}

impl Frames {
    fn of(stream: Stream) -> Self {
        let Stream { rate, channels, .. } = stream;
        Self { stream, all: 0, rate, channels, last: None, crc: 0, calm: NEIGHBOURS }
    }

    /// Takes the next `looked` bytes, with what begins in them; `None` once the file is no such row of frames.
    fn add(&mut self, bytes: &[u8], looked: usize) -> Option<()> {
        let looked_at = bytes.get(..looked)?;
        let mut summed = 0;
        for at in memchr::memchr_iter(0xff, looked_at) {
            let Some(frame) = bytes.get(at..).and_then(frame) else { continue };
            self.crc = crc_16(self.crc, looked_at.get(summed..at)?);
            // Nothing stands in front of the first one.
            if self.last.is_none() && at != 0 {
                return None;
            }
            summed = at;
            self.count(&frame)?;
            self.place(frame)?;
        }
        self.crc = crc_16(self.crc, looked_at.get(summed..)?);
        self.last.is_some().then_some(())
    }

    /// Counts what it would be if it were decoded.
    fn count(&mut self, frame: &Frame) -> Option<()> {
        self.all = self.all.saturating_add(u64::from(frame.block) * u64::from(frame.channels));
        self.channels = self.channels.min(frame.channels);
        if let Some(rate) = frame.rate.filter(|_| self.has_bits(frame)) {
            is_usual(rate).then_some(())?;
            self.rate = self.rate.min(rate);
        }
        Some(())
    }

    /// Finds whether it is the next frame or none.
    fn place(&mut self, frame: Frame) -> Option<()> {
        let Some(last) = self.last.as_ref().filter(|_| self.crc != 0) else {
            // The one before has ended here.
            self.follows(&frame).then_some(())?;
            (self.last, self.calm) = (Some(frame), self.calm.saturating_add(1));
            return Some(());
        };
        let alone = self.calm >= NEIGHBOURS && !last.variable && !could_be_neighbours(last, &frame);
        self.calm = 0;
        alone.then_some(())
    }

    fn follows(&self, frame: &Frame) -> bool {
        let Stream { rate, channels, .. } = self.stream;
        let alike = self.has_bits(frame) && frame.channels == channels && frame.rate.is_none_or(|own| own == rate);
        let in_turn = match &self.last {
            None => frame.number == 0,
            Some(last) => {
                let step = if last.variable { last.block.into() } else { 1 };
                last.variable == frame.variable && frame.number == last.number.saturating_add(step)
            }
        };
        alike && in_turn
    }

    /// ffmpeg does not change over to numbers of other bits.
    fn has_bits(&self, frame: &Frame) -> bool {
        frame.bits.is_none_or(|bits| bits == self.stream.bits)
    }

    /// At the end of the file.
    fn samples(&self) -> Option<Samples> {
        let whole = self.last.is_some() && self.crc == 0 && self.calm >= NEIGHBOURS;
        let each = self.all.div_ceil(u64::from(self.channels).max(1));
        whole.then_some(Samples { each, all: self.all, rate: self.rate })
    }
}

/// Whether ffmpeg could take the number of what is no frame for that of a neighbour of a frame around it: as one more, or as one block more.
fn could_be_neighbours(frame: &Frame, other: &Frame) -> bool {
    let steps = |block: u32| (0..=NEIGHBOURS).map(move |blocks| blocks * u64::from(block));
    let near = |a: u64, b: u64| a.abs_diff(b) <= 2 * NEIGHBOURS;
    steps(frame.block).any(|step| near(frame.number + step, other.number))
        || steps(other.block).any(|step| near(other.number + step, frame.number))
}

/// The header that these bytes begin with (§9.1).
fn frame(bytes: &[u8]) -> Option<Frame> {
    let [0xff, mark @ (0xf8 | 0xf9), sizes, form, rest @ ..] = bytes else { return None };
    let channels = match form >> 4 {
        independent if u16::from(independent) < CHANNELS_MAX => u16::from(independent) + 1,
        // Side or mid with side.
        8..=10 => 2,
        _ => return None,
    };
    let bits = match (form >> 1) & 7 {
        0 => None,
        1 => Some(8),
        2 => Some(12),
        4 => Some(16),
        5 => Some(20),
        6 => Some(24),
        7 => Some(32),
        _ => return None,
    };
    if form & 1 == 1 {
        return None;
    }
    let (number, mut rest) = number(rest)?;
    let mut next = |bytes: usize| {
        let (head, tail) = rest.split_at_checked(bytes)?;
        rest = tail;
        Some(head.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte)))
    };
    let block = match sizes >> 4 {
        0 => return None,
        1 => 192,
        small @ 2..=5 => 144 << small,
        6 => next(1)? + 1,
        7 => next(2)? + 1,
        large => 1 << large,
    };
    let rate = match sizes & 15 {
        0 => None,
        12 => Some(next(1)? * 1000),
        13 => Some(next(2)?),
        14 => Some(next(2)? * 10),
        code => Some(*RATES.get(usize::from(code))?),
    };
    let length = bytes.len() - rest.len();
    let (header, checksum) = (bytes.get(..length)?, rest.first()?);
    let variable = mark & 1 == 1;
    (crc(header) == *checksum).then_some(Frame { block, channels, rate, bits, variable, number })
}

/// The rates by their code (§9.1.2).
const RATES: [u32; 12] = [0, 88_200, 176_400, 192_000, 8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000];

/// The coded number of a frame or a first sample, and what follows it: UTF-8's form, of up to seven bytes, whether or not it is the shortest.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let more = match first.leading_ones() {
        0 => 0,
        ones @ 2..=7 => usize::try_from(ones).ok()? - 1,
        _ => return None,
    };
    let (tail, rest) = rest.split_at_checked(more)?;
    let head = if more == 0 { *first } else { first & (0x3f >> more) };
    let number = tail.iter().fold(u64::from(head), |number, byte| number << 6 | u64::from(byte & 0x3f));
    tail.iter().all(|byte| byte & 0xc0 == 0x80).then_some((number, rest))
}

/// CRC-8 with the polynomial 0x07 (§9.1.8).
fn crc(bytes: &[u8]) -> u8 {
    const TABLE: [u16; 256] = table(0x0700);
    let step = |crc: u8, byte: &u8| TABLE.get(usize::from(crc ^ byte)).map_or(0, |crc| crc.to_be_bytes()[0]);
    bytes.iter().fold(0, step)
}

/// CRC-16 with the polynomial 0x8005 (§9.3), which is 0 over a whole frame.
fn crc_16(crc: u16, bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table(0x8005);
    let step = |crc: u16, byte: &u8| {
        let [high, low] = crc.to_be_bytes();
        TABLE.get(usize::from(high ^ byte)).map_or(0, |crc| crc ^ u16::from_be_bytes([low, 0]))
    };
    bytes.iter().fold(crc, step)
}

/// The checksums of single bytes, in the upper bits.
#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "computed by the compiler, of bytes")]
const fn table(polynomial: u16) -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ polynomial };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}
