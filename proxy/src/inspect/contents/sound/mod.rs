//! How long a sound is at most when ComfyUI loads it: PyAV, which is ffmpeg, opens the file by what its bytes look like and decodes all of the first sound in it (ComfyUI 0.8.0,
//! `comfy_extras/nodes_audio.py` `load`).
//!
//! A bound is given only where no version of ffmpeg could find more in the bytes, whatever their headers claim: for WAV of plain numbers and for FLAC. The other forms have none: what begins like
//! MP3, Ogg, MP4 or Matroska is told by ffmpeg from bytes that the sender chooses, or holds packets of a few bytes that are long, and nothing short of decoding tells. Nor has a file that ffmpeg could take
//! for another form (`disguise.rs`), or one whose rate makes resampling a matter of gigabytes.

mod disguise;
mod flac;
mod wav;

use super::ContentKind;
use comfygate_policy::SAMPLE_RATES;
use std::io::{self, Read, Seek};

/// Channels that a second of sound is counted with; what has more of them counts as longer.
const CHANNELS: u64 = 2;
/// Channels of one sound, as in FLAC (RFC 9639 §9.1.3).
const CHANNELS_MAX: u16 = 8;

/// What a loader may make of a sound at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Samples {
    /// Numbers of one channel.
    each: u64,
    /// Numbers of all channels.
    all: u64,
    /// Numbers of one channel a second, at least: one of [`SAMPLE_RATES`].
    rate: u32,
}

impl Samples {
    /// Seconds, rounded up: as long as it sounds, and as long as a sound of two channels that takes as much memory.
    fn seconds(self) -> Option<u32> {
        let numbers = self.each.max(self.all.div_ceil(CHANNELS));
        u32::try_from(numbers.div_ceil(u64::from(self.rate).max(1))).ok()
    }
}

/// Seconds of the sound in a content of `length` bytes at most, rounded up; `None` where that can't be told.
///
/// # Errors
/// The disk's.
pub(super) fn seconds(content: &mut (impl Read + Seek), kind: ContentKind, length: u64) -> io::Result<Option<u32>> {
    let samples = match kind {
        ContentKind::Wav => wav::read(content, length)?,
        ContentKind::Flac => flac::read(content, length)?,
        _ => None,
    };
    Ok(samples.and_then(Samples::seconds))
}

fn is_usual(rate: u32) -> bool {
    SAMPLE_RATES.contains(&rate)
}

/// Reads until `into` is full or the end comes; gives the number of bytes.
fn fill(content: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match content.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
