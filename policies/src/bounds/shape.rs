//! The size of a picture, latent, mask or video.

use super::interval::{FloatInterval, Interval};
use crate::policy::Caps;
use crate::workflow::link::Link;

/// Bounds of a size. For a latent, in pixels of the picture that it was declared for: a latent of 128 × 128 cells of 8 pixels is 1024 × 1024.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// Pixels.
    pub(crate) width: Interval,
    /// Pixels.
    pub(crate) height: Interval,
    /// At most so many pixels in one image: less than width × height where a file may be turned.
    pub(crate) area: i128,
    /// Width divided by height. Kept beside them because decoding keeps it whatever the VAE's factor is.
    pub(crate) ratio: FloatInterval,
    /// Images, or latents.
    pub(crate) batch: Interval,
    /// Frames of each.
    pub(crate) frames: Interval,
    /// Pixels that one cell of a latent stands for, at least; 1 for what is no latent.
    pub(crate) cell: i128,
    /// Frames that one cell of a film's latent stands for, at least; 1 for what is no such latent.
    pub(crate) tempo: i128,
    /// Whether this latent's batch may be the frames of one film instead: a VAE for films makes one latent of all pictures.
    pub(super) row: bool,
    /// The VAE that made this latent, if it is known: the same one makes no more pixels of it than there were.
    pub(super) encoder: Option<Link>,
}

impl Shape {
    /// One image of this size.
    pub(crate) fn image(width: Interval, height: Interval) -> Self {
        // A link may bring a 0 where ComfyUI declares at least 1; what has no pixels can't be scaled, so that its ratio does not matter.
        let (width, height) = (counted(width), counted(height));
        let one = Interval::exactly(1);
        let ratio = FloatInterval::from(width.max(one)).over(height.max(one).into());
        Self {
            width,
            height,
            area: width.times(height).hi,
            ratio,
            batch: one,
            frames: one,
            cell: 1,
            tempo: 1,
            row: false,
            encoder: None,
        }
    }

    /// The same images with another size.
    pub(crate) fn resized(self, width: Interval, height: Interval) -> Self {
        Self {
            batch: self.batch,
            frames: self.frames,
            cell: self.cell,
            tempo: self.tempo,
            row: self.row,
            encoder: self.encoder,
            ..Self::image(width, height)
        }
    }

    /// Frames a cell in time that both have at least. What has one frame has one cell, of whatever tempo.
    pub(super) fn least_tempo(self, other: Self) -> i128 {
        match (self.frames.hi > 1, other.frames.hi > 1) {
            (true, false) => self.tempo,
            (false, true) => other.tempo,
            _ => self.tempo.min(other.tempo),
        }
    }

    /// Images of either size, batch and frames as given here.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self {
            width: self.width.hull(other.width),
            height: self.height.hull(other.height),
            area: self.area.max(other.area),
            ratio: self.ratio.hull(other.ratio),
            batch: self.batch.hull(other.batch),
            frames: self.frames.hull(other.frames),
            cell: self.cell.min(other.cell),
            tempo: self.least_tempo(other),
            row: self.row || other.row,
            encoder: self.encoder.filter(|_| self.encoder == other.encoder),
        }
    }

    /// Both in one batch, one after the other. An IMAGE has one dimension for batch and frames, so a batch of videos counts as one long video.
    pub(crate) fn joined(self, other: Self) -> Self {
        let single = self.frames.hi <= 1 && other.frames.hi <= 1;
        let count = self.count().plus(other.count());
        let one = Interval::exactly(1);
        let (batch, frames) = if single { (count, one) } else { (one, count) };
        Self { batch, frames, ..self.hull(other) }
    }

    /// Images in all.
    pub(crate) fn count(self) -> Interval {
        self.batch.times(self.frames)
    }

    /// Pixels in all.
    pub(crate) fn pixels_total(self) -> i128 {
        Interval::exactly(self.area).times(self.count()).hi
    }

    /// The shape with nothing beyond the caps.
    pub(super) fn cut_to(self, caps: &Caps) -> Self {
        let cut = |interval: Interval, cap: Option<i128>| cap.map_or(interval, |cap| interval.clamped(0, cap));
        Self {
            width: cut(self.width, caps.width),
            height: cut(self.height, caps.height),
            area: caps.pixels.map_or(self.area, |cap| self.area.min(cap)),
            batch: cut(self.batch, caps.batch),
            frames: cut(self.frames, caps.frames),
            ..self
        }
    }
}

/// At least none, and room for one.
fn counted(interval: Interval) -> Interval {
    Interval { lo: interval.lo.max(0), hi: interval.hi.max(1) }
}

/// Bounds of a sound, or of its latent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sound {
    /// How long at most; infinite where nobody knows.
    pub(crate) seconds: f64,
    /// How many at once.
    pub(crate) batch: i128,
}

impl Sound {
    /// One after the other.
    pub(super) fn then(self, other: Self) -> Self {
        Self { seconds: (self.seconds + other.seconds).next_up(), batch: self.batch.max(other.batch) }
    }

    /// As long as the longer one.
    pub(super) fn beside(self, other: Self) -> Self {
        Self { seconds: self.seconds.max(other.seconds), batch: self.batch.max(other.batch) }
    }
}
