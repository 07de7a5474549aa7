//! Resizing as node packs do it: with a multiple that sides are cut to, and several ways of keeping the aspect ratio.

use super::super::interval::{FloatInterval, Interval, ceil};
use super::{Extent, Gap, Shape, Step, picture, resized};
use crate::catalogue::{Fit, How, JoinCounted};

/// What essentials' pad takes for a side of 0: ComfyUI's `MAX_RESOLUTION`.
const LARGEST_SIDE: i128 = 16_384;

impl Step<'_, '_> {
    /// See [`SizeRule::Fit`](crate::catalogue::SizeRule).
    pub(super) fn fit(&self, rule: &Fit) -> Result<Extent, Gap> {
        let from = self.shape(&rule.of)?;
        let multiple = match &rule.multiple {
            Some(name) => self.int(name)?,
            None => Interval::exactly(1),
        };
        let side = |name: &str| {
            let side = self.int(name)?;
            // Padded up to the multiple is more than was asked for; on the way there it may be less.
            let cut = cut_to_multiple(side, multiple.hi);
            let up = if rule.how == How::PadUp { up_to_multiple(side.hi, multiple) } else { cut.hi };
            Ok::<_, Gap>(Interval::between(cut.lo, up))
        };
        Ok(picture(fitted(from, side(&rule.width)?, side(&rule.height)?, rule.how)))
    }

    /// See [`SizeRule::JoinCounted`](crate::catalogue::SizeRule).
    pub(super) fn join_counted(&self, rule: &JoinCounted) -> Result<Extent, Gap> {
        let first = self.shape(&rule.first)?;
        let count = self.int(&rule.count)?.hi;
        let mut given = 0;
        let mut images = Interval::exactly(0);
        for (name, _) in self.node.inputs.iter().filter(|(name, _)| name.starts_with(rule.row.as_str())) {
            images = images.plus(self.shape(name)?.count());
            given += 1;
        }
        // One that is missing is as many blank pictures as the first has.
        let blank = Interval::exactly(count.saturating_sub(given).max(0)).times(first.count());
        let images = images.plus(blank);
        let one = Interval::exactly(1);
        let (batch, frames) = if first.frames.hi <= 1 { (images, one) } else { (one, images) };
        Ok(picture(Shape { batch, frames, ..first }))
    }
}

/// A side after what is left over a multiple is taken off; it may become 0.
fn cut_to_multiple(side: Interval, multiple: i128) -> Interval {
    match multiple {
        ..=1 => side,
        _ => Interval::between(side.lo.saturating_sub(multiple - 1).max(0), side.hi.max(0)),
    }
}

/// The next multiple of a side, whichever of these it is a multiple of. A side of 0 is none.
fn up_to_multiple(side: i128, multiple: Interval) -> i128 {
    match multiple.hi {
        ..=1 => side,
        _ if side <= 0 => side,
        exact if multiple.lo == exact => side.saturating_add(exact - 1).div_euclid(exact).saturating_mul(exact),
        largest => side.saturating_add(largest - 1),
    }
}

/// A side where 0 stands for that of the picture.
fn or_own(asked: Interval, own: Interval) -> Interval {
    if asked.lo <= 0 { asked.hull(own) } else { asked }
}

pub(super) fn fitted(from: Shape, width: Interval, height: Interval, how: How) -> Shape {
    match how {
        How::Stretch => from.resized(or_own(width, from.width), or_own(height, from.height)),
        How::Within => within(from, width, height),
        How::Pad | How::PadUp => {
            let side = |asked: Interval| if asked.lo <= 0 { Interval::between(1, LARGEST_SIDE) } else { asked };
            within(from, width, height).hull(from.resized(side(width), side(height)))
        }
        How::Cover => cover(from, or_own(width, from.width), or_own(height, from.height)),
        How::Pixels => pixels(from, width.times(height)),
    }
}

/// Both sides as long as asked for at most; where one is 0 it follows from the other.
fn within(from: Shape, width: Interval, height: Interval) -> Shape {
    let out = resized(from, width, height);
    let shorter = |side: Interval| Interval::between(1, side.hi);
    // The picture's ratio is kept, but for rounding, which matters where a side is a pixel or two.
    let ratio = from.ratio.hull(out.ratio);
    let (width, height) = (shorter(out.width), shorter(out.height));
    Shape { ratio: FloatInterval { lo: ratio.lo / 2.0, hi: ratio.hi * 2.0 }, ..from.resized(width, height) }
}

/// Scaled until both sides are as long as asked for, and then cut: the scaled picture is what takes the memory. Rounding to the nearest never goes beyond rounding up.
fn cover(from: Shape, width: Interval, height: Interval) -> Shape {
    let by_height = FloatInterval::from(height).times(from.ratio);
    let by_width = FloatInterval::from(width).over(from.ratio);
    let wide = width.hi.max(ceil(by_height.hi));
    let high = height.hi.max(ceil(by_width.hi));
    let out = from.resized(Interval::between(width.lo, wide), Interval::between(height.lo, high));
    // Only one of the two sides is longer than asked for.
    let area = Interval::exactly(wide).times(height).hi.max(Interval::exactly(high).times(width).hi);
    Shape { area: area.min(out.area), ..out }
}

/// As many pixels as `total` at most, in the picture's ratio.
fn pixels(from: Shape, total: Interval) -> Shape {
    let total: FloatInterval = total.into();
    let side = |square: FloatInterval| Interval::between(1, ceil(square.sqrt().hi).max(1));
    let (width, height) = (side(total.times(from.ratio)), side(total.over(from.ratio)));
    Shape { ratio: FloatInterval { lo: from.ratio.lo / 2.0, hi: from.ratio.hi * 2.0 }, ..from.resized(width, height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(width: i128, height: i128) -> Shape {
        Shape::image(Interval::exactly(width), Interval::exactly(height))
    }

    /// What ComfyUI_essentials' `ImageResize+` makes of a picture (`image.py`), before a multiple is taken off.
    fn essentials(picture: (i128, i128), asked: (i128, i128), how: How) -> (i128, i128) {
        let (own_width, own_height) = picture;
        let (mut width, mut height) = asked;
        if how == How::Stretch {
            return (if width > 0 { width } else { own_width }, if height > 0 { height } else { own_height });
        }
        if how == How::Cover {
            width = if width > 0 { width } else { own_width };
            height = if height > 0 { height } else { own_height };
            let ratio = (width as f64 / own_width as f64).max(height as f64 / own_height as f64);
            return (
                (own_width as f64 * ratio).round_ties_even() as i128,
                (own_height as f64 * ratio).round_ties_even() as i128,
            );
        }
        if width == 0 {
            width = if own_height < height { LARGEST_SIDE } else { own_width };
        }
        if height == 0 {
            height = if own_width < width { LARGEST_SIDE } else { own_height };
        }
        let ratio = (width as f64 / own_width as f64).min(height as f64 / own_height as f64);
        let fitted = |own: i128| (own as f64 * ratio).round_ties_even() as i128;
        if how == How::Pad { (width, height) } else { (fitted(own_width), fitted(own_height)) }
    }

    #[test]
    fn every_way_of_resizing_stays_within_its_bounds() {
        let sides = [1, 3, 64, 500, 512, 1000, 4096];
        for how in [How::Stretch, How::Within, How::Pad, How::Cover] {
            for own in sides.iter().flat_map(|width| sides.iter().map(move |height| (*width, *height))) {
                for asked in [(0, 0), (0, 512), (512, 0), (512, 512), (100, 2000), (2048, 64), (1, 1)] {
                    let bounds =
                        fitted(sized(own.0, own.1), Interval::exactly(asked.0), Interval::exactly(asked.1), how);
                    let real = essentials(own, asked, how);
                    let case = format!("{own:?} to {asked:?} {how:?}: {real:?} in {bounds:?}");
                    assert!(real.0 <= bounds.width.hi && real.1 <= bounds.height.hi, "{case}");
                    assert!(real.0 * real.1 <= bounds.area.max(bounds.width.hi.max(bounds.height.hi)), "{case}");
                }
            }
        }
    }

    #[test]
    fn a_side_below_its_multiple_becomes_nothing_and_one_above_does_not() {
        assert_eq!(cut_to_multiple(Interval::exactly(127), 128), Interval::between(0, 127));
        assert_eq!(cut_to_multiple(Interval::exactly(128), 128).lo, 1);
        assert_eq!(cut_to_multiple(Interval::exactly(100), 0), Interval::exactly(100));
    }

    #[test]
    fn a_side_is_padded_up_to_its_multiple() {
        for (side, multiple, up) in
            [(4096, 500, 4500), (4096, 512, 4096), (1000, 16, 1008), (1000, 1, 1000), (0, 16, 0)]
        {
            assert_eq!(up_to_multiple(side, Interval::exactly(multiple)), up, "{side} {multiple}");
        }
        assert_eq!(up_to_multiple(4096, Interval::between(0, 512)), 4607);
    }

    #[test]
    fn as_many_pixels_as_asked_for_keep_the_ratio() {
        let out = fitted(sized(2000, 500), Interval::exactly(1000), Interval::exactly(1000), How::Pixels);
        assert_eq!((out.width.hi, out.height.hi), (2000, 500));
    }
}
