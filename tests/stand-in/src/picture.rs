//! Pictures as the nodes hand them on: 8 bits a channel, frames of one size, and their PNG and JPEG forms.

use std::io::Cursor;

/// Pixels beyond which a picture is refused, so that a test cannot eat the machine: 256 MiB in RGB.
const SAMPLES_MAX: usize = 256 * 1024 * 1024;

/// A batch of frames of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Samples a pixel: 1 mask, 3 RGB, 4 RGBA.
    pub channels: usize,
    /// Rows from the top, `width * height * channels` bytes each.
    pub frames: Vec<Vec<u8>>,
}

/// A picture that could not be made, read or written; the text is the exception's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureError(pub String);

impl Picture {
    /// Frames whose every sample comes from `sample(frame, x, y, channel)`.
    pub fn from_fn(
        size: (usize, usize, usize),
        frames: usize,
        sample: impl Fn(usize, usize, usize, usize) -> u8,
    ) -> Result<Picture, PictureError> {
        let (width, height, channels) = size;
        let samples =
            width.checked_mul(height).and_then(|n| n.checked_mul(channels)).and_then(|n| n.checked_mul(frames));
        if samples.is_none_or(|samples| samples > SAMPLES_MAX) {
            return Err(PictureError(format!(
                "the stand-in holds at most {SAMPLES_MAX} samples: {frames} x {width} x {height} x {channels}"
            )));
        }
        let frame = |index: usize| {
            let mut out = Vec::with_capacity(width * height * channels);
            for y in 0..height {
                for x in 0..width {
                    out.extend((0..channels).map(|channel| sample(index, x, y, channel)));
                }
            }
            out
        };
        Ok(Picture { width, height, channels, frames: (0..frames).map(frame).collect() })
    }

    /// One sample; 0 outside of the picture, 255 for a channel it lacks.
    pub fn sample(&self, frame: usize, x: usize, y: usize, channel: usize) -> u8 {
        if channel >= self.channels {
            return 255;
        }
        let index = (y * self.width + x) * self.channels + channel;
        self.frames.get(frame).and_then(|samples| samples.get(index)).copied().unwrap_or(0)
    }

    /// The picture at another size, by the nearest pixel.
    pub fn scaled(&self, width: usize, height: usize) -> Result<Picture, PictureError> {
        let (from_width, from_height) = (self.width, self.height);
        Picture::from_fn((width, height, self.channels), self.frames.len(), |frame, x, y, channel| {
            self.sample(frame, x * from_width / width.max(1), y * from_height / height.max(1), channel)
        })
    }

    /// One frame as PNG with text chunks (Latin-1 keys; text in ASCII).
    pub fn png(&self, frame: usize, texts: &[(String, String)]) -> Result<Vec<u8>, PictureError> {
        let bad = |error: png::EncodingError| PictureError(error.to_string());
        let (Ok(width), Ok(height)) = (u32::try_from(self.width), u32::try_from(self.height)) else {
            return Err(PictureError("the picture is too large for PNG".into()));
        };
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, height);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            4 => png::ColorType::Rgba,
            _ => png::ColorType::Rgb,
        });
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        for (key, text) in texts {
            encoder.add_text_chunk(key.clone(), text.clone()).map_err(bad)?;
        }
        let mut writer = encoder.write_header().map_err(bad)?;
        let samples = self.frames.get(frame).ok_or_else(|| PictureError("no such frame".into()))?;
        writer.write_image_data(samples).map_err(bad)?;
        writer.finish().map_err(bad)?;
        Ok(out)
    }

    /// The first frame as JPEG, at most `side` pixels on its longer side.
    pub fn jpeg(&self, side: usize) -> Result<Vec<u8>, PictureError> {
        let longest = self.width.max(self.height).max(1);
        let (width, height) = if longest > side {
            ((self.width * side / longest).max(1), (self.height * side / longest).max(1))
        } else {
            (self.width, self.height)
        };
        let small = self.scaled(width, height)?.with_channels(3)?;
        let (Ok(width), Ok(height)) = (u16::try_from(width), u16::try_from(height)) else {
            return Err(PictureError("the preview is too large for JPEG".into()));
        };
        let mut out = Vec::new();
        let samples = small.frames.first().ok_or_else(|| PictureError("no frame to show".into()))?;
        jpeg_encoder::Encoder::new(&mut out, 95)
            .encode(samples, width, height, jpeg_encoder::ColorType::Rgb)
            .map_err(|error| PictureError(error.to_string()))?;
        Ok(out)
    }

    /// The first frame as WebP, without loss and without compression: each sample stands in eight bits of its own (RFC 9649 §3).
    pub fn webp(&self) -> Result<Vec<u8>, PictureError> {
        let too_large = || PictureError("encoding error 5: the picture is too large for WebP".into());
        let side =
            |side: usize| u32::try_from(side).ok().filter(|side| (1..=16_383).contains(side)).map(|side| side - 1);
        let (Some(width), Some(height)) = (side(self.width), side(self.height)) else { return Err(too_large()) };
        let mut bits = Bits::default();
        bits.put(0x2f, 8);
        bits.put(width, 14);
        bits.put(height, 14);
        bits.put(u32::from(self.channels == 4), 1);
        // Version 0; no transform, no colour cache, one group of codes.
        bits.put(0, 3 + 3);
        for last in [true, false, false, false] {
            bits.codes_of_eight_bits(last);
        }
        // Distances: one symbol, which is never used.
        bits.put(1, 4);
        for y in 0..self.height {
            for x in 0..self.width {
                let alpha = if self.channels == 4 { 3 } else { usize::MAX };
                let of_grey = |channel| if self.channels == 1 { 0 } else { channel };
                for channel in [of_grey(1), of_grey(0), of_grey(2), alpha] {
                    bits.put(u32::from(self.sample(0, x, y, channel).reverse_bits()), 8);
                }
            }
        }
        let data = bits.finish();
        let padded = data.len() + data.len() % 2;
        let length = |length: usize| u32::try_from(length).map(u32::to_le_bytes).map_err(|_| too_large());
        let mut out = [b"RIFF".as_slice(), &length(padded + 12)?, b"WEBPVP8L", &length(data.len())?, &data].concat();
        out.resize(padded + 20, 0);
        Ok(out)
    }

    /// The same picture with another number of channels: grey spreads, missing alpha is opaque.
    pub fn with_channels(&self, channels: usize) -> Result<Picture, PictureError> {
        Picture::from_fn((self.width, self.height, channels), self.frames.len(), |frame, x, y, channel| {
            let source = if self.channels == 1 && channel < 3 { 0 } else { channel };
            self.sample(frame, x, y, source)
        })
    }

    /// Reads a PNG as RGB or RGBA. Other formats are refused: the stand-in knows only this one.
    pub fn from_png(bytes: &[u8]) -> Result<Picture, PictureError> {
        let bad = |error: png::DecodingError| PictureError(format!("cannot identify image file: {error}"));
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(bad)?;
        let size = reader.output_buffer_size().filter(|size| *size <= SAMPLES_MAX);
        let mut samples = vec![0; size.ok_or_else(|| PictureError("the image is too large".into()))?];
        let info = reader.next_frame(&mut samples).map_err(bad)?;
        samples.truncate(info.buffer_size());
        let (Ok(width), Ok(height)) = (usize::try_from(info.width), usize::try_from(info.height)) else {
            return Err(PictureError("the image is too large".into()));
        };
        let (from, to) = match info.color_type {
            png::ColorType::Grayscale => (1, 3),
            png::ColorType::GrayscaleAlpha => (2, 4),
            png::ColorType::Rgba => (4, 4),
            png::ColorType::Rgb | png::ColorType::Indexed => (3, 3),
        };
        let raw = Picture { width, height, channels: from, frames: vec![samples] };
        if from == 2 {
            return Picture::from_fn((width, height, 4), 1, |frame, x, y, channel| {
                raw.sample(frame, x, y, usize::from(channel == 3))
            });
        }
        raw.with_channels(to)
    }
}

/// Bits as WebP packs them: the least one first.
#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    /// The `count` lowest bits of a value, 32 at most.
    fn put(&mut self, value: u32, count: u32) {
        self.held |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            let [low, ..] = self.held.to_le_bytes();
            self.out.push(low);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// A prefix code in which each of 256 symbols has eight bits; `more`: further symbols follow, which have none.
    fn codes_of_eight_bits(&mut self, more: bool) {
        // A code in full, whose lengths are written in a code of 12 lengths; of these only the twelfth, that of "eight", is used, so each costs no bit.
        self.put(0, 1);
        self.put(12 - 4, 4);
        for place in 0..12 {
            self.put(u32::from(place == 11), 3);
        }
        if more {
            // Only 256 lengths follow: 2 and the 254 of eight bits.
            self.put(1, 1);
            self.put(3, 3);
            self.put(254, 8);
        } else {
            self.put(0, 1);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.put(0, (8 - self.count % 8) % 8);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webp_has_its_size_in_its_header_and_ends_where_that_says() {
        let picture = Picture::from_fn((5, 3, 3), 1, |_, x, y, c| u8::try_from(x * 40 + y * 10 + c).unwrap()).unwrap();
        let webp = picture.webp().unwrap();
        assert_eq!((&webp[..4], &webp[8..16], webp[20]), (b"RIFF".as_slice(), b"WEBPVP8L".as_slice(), 0x2f));
        assert_eq!(u32::from_le_bytes(webp[4..8].try_into().unwrap()) as usize + 8, webp.len());
        assert_eq!(u32::from_le_bytes(webp[21..25].try_into().unwrap()), 4 | 2 << 14);
        assert!(Picture::from_fn((16_384, 1, 3), 1, |_, _, _, _| 0).unwrap().webp().is_err());
        assert!(Picture::from_fn((16_383, 1, 3), 1, |_, _, _, _| 0).unwrap().webp().is_ok());
    }

    #[test]
    fn a_png_written_is_the_picture_read() {
        for channels in [3, 4] {
            let picture =
                Picture::from_fn((5, 3, channels), 1, |_, x, y, c| u8::try_from(x * 40 + y * 10 + c).unwrap()).unwrap();
            let bytes = picture.png(0, &[("prompt".into(), "{}".into())]).unwrap();
            assert!(bytes.windows(11).any(|window| window == b"tEXtprompt\0"));
            assert_eq!(Picture::from_png(&bytes).unwrap(), picture);
        }
    }

    #[test]
    fn a_picture_at_the_limit_is_made_and_one_beyond_is_refused() {
        assert!(Picture::from_fn((0, 1, 3), 1, |_, _, _, _| 0).is_ok());
        assert!(Picture::from_fn((SAMPLES_MAX, 2, 1), 1, |_, _, _, _| 0).is_err());
        assert!(Picture::from_fn((usize::MAX, 2, 1), 1, |_, _, _, _| 0).is_err());
    }

    #[test]
    fn what_is_no_png_is_refused() {
        assert!(Picture::from_png(b"GIF89a").is_err());
    }
}
