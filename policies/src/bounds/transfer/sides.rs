//! The arithmetic of sizes: one function for each way in which ComfyUI changes a picture.

use super::LEAST_TEMPO;
use crate::bounds::Shape;
use crate::bounds::interval::{FloatInterval, Interval, ceil, floor};

/// FLUX Kontext's sizes have sides of 672 to 1568 pixels, and fewer pixels than this.
const KONTEXT_SIDES: (i128, i128) = (672, 1568);
const KONTEXT_AREA: i128 = 1_064_960;
/// Rounding to whole cells or pixels moves a side by less than this; the largest cell is one of 32 pixels.
const CELL_PIXELS_MAX: i128 = 32;
/// What LatentUpscale takes a cell for, and the least that it makes of a side.
const LATENT_CELL: i128 = 8;
const LATENT_SIDE_MIN: i128 = 64;

/// No cell of any latent stands for more pixels (Stable Cascade's `compression`): what has as many pixels has a cell.
const CELL_PIXELS_EVER: i128 = 128;

pub(super) fn turned(from: Shape) -> Shape {
    let sides = from.width.hull(from.height);
    Shape { area: from.area, ..from.resized(sides, sides) }
}

/// What the VAEs installed make of a latent's cells at most.
#[derive(Clone, Copy)]
pub(super) struct VaeFactors {
    /// Pixels a cell, along each side.
    pub(super) scale: i128,
    /// Frames a cell in time, after the first, which is one frame.
    pub(super) frames: i128,
}

/// At most the declared picture and film, or as many times larger as the largest VAE's cells are; at least one pixel a cell.
pub(super) fn decoded(latent: Shape, vae: VaeFactors) -> Shape {
    let vae_scale = vae.scale;
    let cell = latent.cell.max(1);
    // Rounded up: 32 / 12 pixels a cell is less than 3.
    let factor = (vae_scale + cell - 1).div_euclid(cell).max(1);
    let side = |side: Interval| Interval::between(side.lo / CELL_PIXELS_EVER, side.hi.saturating_mul(factor));
    let (width, height) = (side(latent.width), side(latent.height));
    let area = Interval::exactly(latent.area).times(Interval::exactly(factor * factor)).hi;
    // What counts as a batch may be the frames of one film, of as many cells in time as the least of the VAEs for films makes.
    let batch = if latent.row { film(latent.batch, LEAST_TEMPO, vae.frames) } else { latent.batch };
    let frames = film(latent.frames, latent.tempo, vae.frames);
    Shape {
        width,
        height,
        area,
        ratio: cell_ratio(latent, cell),
        batch,
        frames,
        cell: 1,
        tempo: 1,
        row: false,
        encoder: None,
    }
}

/// A film of `length` frames is a whole number of cells in time, of `tempo` frames each but the first: `(length - 1) // n * n + 1` frames, of which one is sure. Another VAE may make more of each.
fn film(length: Interval, tempo: i128, vae_frames: i128) -> Interval {
    if length.hi <= 1 {
        return length;
    }
    // Latents that are frames one by one have no time, and no VAE gives it to them.
    let tempo = tempo.max(LEAST_TEMPO);
    let cells = length.hi.saturating_add(tempo - 2).div_euclid(tempo);
    Interval::between(1, cells.saturating_mul(vae_frames).saturating_add(1).max(length.hi))
}

/// The latent in cells, as if it were a picture of so many pixels.
fn in_cells(latent: Shape) -> Shape {
    let side = |side: Interval| Interval::between(side.lo.div_euclid(latent.cell), side.hi.div_euclid(latent.cell));
    Shape { cell: 1, ..latent.resized(side(latent.width), side(latent.height)) }
}

/// What `in_cells` gave, in pixels again.
fn in_pixels(cells: Shape, cell: i128) -> Shape {
    let side = |side: Interval| Interval::between(side.lo.saturating_mul(cell), side.hi.saturating_mul(cell));
    let area = cells.area.saturating_mul(cell.saturating_mul(cell));
    let out = cells.resized(side(cells.width), side(cells.height));
    Shape { cell, area: area.min(out.area), ratio: cells.ratio, ..out }
}

/// LatentCrop: 8 pixels a cell, whatever the latent's model has.
pub(super) fn latent_cropped(from: Shape, width: Interval, height: Interval) -> Shape {
    let side = |side: Interval| Interval::between(side.lo.div_euclid(8), side.hi.div_euclid(8));
    let part = in_pixels(cropped(in_cells(from), side(width), side(height), true), from.cell);
    // Its cells may be larger than is known, so that the VAE that made them may make more pixels of them.
    Shape { encoder: None, ..part }
}

/// A side of a latent is a whole number of cells, so its ratio differs a little from the picture's.
fn cell_ratio(shape: Shape, cell: i128) -> FloatInterval {
    let slack = |side: Interval| {
        let side: FloatInterval = Interval::between((side.lo - cell).max(1), side.hi.saturating_add(cell)).into();
        FloatInterval { lo: side.lo.max(1.0), hi: side.hi }
    };
    // Tighter of two sound bounds would do; the wider one is enough when sides are exact.
    let of_sides = slack(shape.width).over(slack(shape.height));
    let drift = drift(shape, cell);
    let of_ratio = FloatInterval { lo: shape.ratio.lo / drift, hi: shape.ratio.hi * drift };
    FloatInterval { lo: of_sides.lo.max(of_ratio.lo), hi: of_sides.hi.min(of_ratio.hi) }
}

/// How much rounding both sides to cells can change their ratio, as a factor.
#[expect(clippy::cast_precision_loss, reason = "sides are far below 2^53, and the factor is widened")]
fn drift(shape: Shape, cell: i128) -> f64 {
    let of = |side: Interval| 1.0 + cell as f64 / (side.lo - cell).max(1) as f64;
    (of(shape.width) * of(shape.height)).next_up()
}

/// Cut to whole cells of at least `cell` pixels, never larger.
pub(super) fn encoded(image: Shape, cell: i128) -> Shape {
    let side = |side: Interval| Interval::between((side.lo - CELL_PIXELS_MAX).max(0), side.hi);
    let ratio = cell_ratio(image, CELL_PIXELS_MAX);
    let row = image.count().hi > 1;
    Shape { width: side(image.width), height: side(image.height), ratio, cell, tempo: 1, row, ..image }
}

/// A latent of `width // 8` × `height // 8` cells, whatever its cells stand for, and of at least eight; where one is 0 that side follows from the other, where both are it stays as it is (ComfyUI 0.8.0, `nodes.py`
/// `LatentUpscale`).
pub(super) fn latent_resized(from: Shape, width: Interval, height: Interval) -> Shape {
    let least = |side: Interval| match (side.lo > 0, side.hi > 0) {
        (true, _) => side.max(Interval::exactly(LATENT_SIDE_MIN)),
        (false, true) => Interval::between(side.lo, side.hi.max(LATENT_SIDE_MIN)),
        (false, false) => side,
    };
    let loose = Shape { ratio: cell_ratio(from, CELL_PIXELS_MAX), ..from };
    let out = resized(loose, least(width), least(height));
    let may_stay = width.lo <= 0 && height.lo <= 0;
    Shape { cell: if may_stay { from.cell.min(LATENT_CELL) } else { LATENT_CELL }, encoder: None, ..out }
}

/// `width` × `height`; where one is 0 that side follows from the other, where both are the size stays.
pub(super) fn resized(from: Shape, width: Interval, height: Interval) -> Shape {
    let by_height = FloatInterval::from(height).times(from.ratio);
    let by_width = FloatInterval::from(width).over(from.ratio);
    let exact = from.resized(width, height);
    let mut out = exact;
    if width.lo <= 0 {
        let follows = Interval::between(1, ceil(by_height.hi).max(CELL_PIXELS_MAX * 2));
        out = out.hull(from.resized(follows, height));
    }
    if height.lo <= 0 {
        let follows = Interval::between(1, ceil(by_width.hi).max(CELL_PIXELS_MAX * 2));
        out = out.hull(from.resized(width, follows));
    }
    if width.lo <= 0 && height.lo <= 0 {
        out = out.hull(from);
    }
    // Only with numbers that are certainly 0 do the other forms drop out.
    if width.hi <= 0 && height.lo > 0 {
        let follows = Interval::between((floor(by_height.lo)).max(1), ceil(by_height.hi).max(CELL_PIXELS_MAX * 2));
        return from.resized(follows, height);
    }
    if height.hi <= 0 && width.lo > 0 {
        let follows = Interval::between((floor(by_width.lo)).max(1), ceil(by_width.hi).max(CELL_PIXELS_MAX * 2));
        return from.resized(width, follows);
    }
    out
}

/// Both sides times a factor, rounded to the nearest pixel, or of a latent to the nearest cell.
pub(super) fn scaled(from: Shape, factor: FloatInterval) -> Shape {
    let (width, height) = (nearest(from.width, factor, from.cell), nearest(from.height, factor, from.cell));
    let out = from.resized(width, height);
    if from.cell > 1 {
        return out;
    }
    // Each side is rounded up by less than one pixel: (f·w + 1)(f·h + 1).
    let square = factor.times(factor);
    let grown = FloatInterval::from(Interval::exactly(from.area)).times(square).hi;
    let area = ceil(grown).saturating_add(width.hi).saturating_add(height.hi).saturating_add(1);
    Shape { area: area.min(out.area), ..out }
}

/// The nearest whole number of pixels, at least 1. A latent's cells may be larger than `cell`: the latent of a class that asks its VAE, or one that is decoded by another.
fn nearest(side: Interval, factor: FloatInterval, cell: i128) -> Interval {
    let of = FloatInterval::from(side).times(factor);
    let cells = [cell, 8, 16, CELL_PIXELS_MAX].into_iter().filter(|size| cell > 1 && *size >= cell);
    let rounded = |size: i128| {
        let size = Interval::exactly(size);
        let up = of.over(size.into());
        Interval::between(ceil(up.lo - 0.5), floor(up.hi + 0.5)).times(size)
    };
    let all = cells.map(rounded).fold(rounded(1), Interval::hull);
    Interval::between(all.lo.max(1), all.hi.max(1))
}

pub(super) fn upscaled(from: Shape, factor: i128) -> Shape {
    let times = |side: Interval| Interval::between(side.lo, side.hi.saturating_mul(factor));
    let area = Interval::exactly(from.area).times(Interval::exactly(factor.saturating_mul(factor))).hi;
    // Every model multiplies both sides alike.
    Shape { area, ratio: from.ratio, ..from.resized(times(from.width), times(from.height)) }
}

/// `sqrt(total × ratio)` by `sqrt(total / ratio)`, each rounded to multiples of `rounding`.
pub(super) fn total_pixels(from: Shape, megapixels: FloatInterval, rounding: Interval) -> Shape {
    let total = megapixels.times(FloatInterval::exactly(1_048_576.0));
    // Some cut it to a whole number first.
    let total = FloatInterval { lo: total.lo.floor(), ..total };
    let rounding = rounding.max(Interval::exactly(1));
    let side = |square: FloatInterval| {
        let side = square.sqrt();
        let whole = if rounding.lo == rounding.hi {
            let steps = side.over(rounding.into());
            Interval::between(ceil(steps.lo - 0.5), floor(steps.hi + 0.5)).times(rounding)
        } else {
            Interval::between(floor(side.lo).saturating_sub(rounding.hi), ceil(side.hi).saturating_add(rounding.hi))
        };
        // Where that would be nothing at all it is one pixel.
        Interval::between(whole.lo.max(1), whole.hi.max(1))
    };
    let width = side(total.times(from.ratio));
    let height = side(total.over(from.ratio));
    let out = from.resized(width, height);
    let slack = rounding.times(width.plus(height).plus(rounding)).hi;
    let area = ceil(total.hi).saturating_add(slack);
    Shape { area: area.min(out.area), ..out }
}

/// The larger side becomes `largest`, the other follows.
pub(super) fn largest_side(from: Shape, largest: Interval) -> Shape {
    let side = Interval::between(1, largest.hi.max(1));
    let out = from.resized(side, side);
    // 0 leaves the image as it is.
    if largest.lo <= 0 { out.hull(from) } else { out }
}

/// The shorter side becomes `shortest`, the other follows from the ratio.
pub(super) fn shortest_side(from: Shape, shortest: Interval) -> Shape {
    let of = |stretch: f64| {
        let stretch = FloatInterval { lo: 1.0, hi: stretch.max(1.0) };
        Interval::between(1, shortest.scaled(stretch).hi)
    };
    let out = from.resized(of(from.ratio.hi), of(1.0 / from.ratio.lo.max(f64::MIN_POSITIVE)));
    if shortest.lo <= 0 { out.hull(from) } else { out }
}

/// At most `width` by `height`. Nothing at all may be left of what is cropped beyond its edge, or to a size of 0.
pub(super) fn cropped(from: Shape, width: Interval, height: Interval, beyond: bool) -> Shape {
    let least = |crop: Interval| if beyond { 0 } else { crop.lo.clamp(0, 1) };
    let side = |side: Interval, crop: Interval| Interval::between(side.lo.min(least(crop)), side.hi.min(crop.hi));
    let out = from.resized(side(from.width, width), side(from.height, height));
    Shape { area: out.area.min(from.area), ..out }
}

pub(super) fn padded(from: Shape, horizontal: Interval, vertical: Interval) -> Shape {
    // After a decode the lower bounds may be far off; only the ratio uses them, and it is made anew here.
    from.resized(from.width.plus(horizontal), from.height.plus(vertical))
}

/// Beside or above one another, as `direction` says. With `match_image_size` the second takes the first one's height (or width) and keeps its own ratio; without, the smaller one is padded. What is not known is
/// taken for either. The spacing is made even.
pub(super) fn stitched(
    first: Shape,
    second: Shape,
    spacing: Interval,
    direction: Option<&str>,
    matched: Option<bool>,
) -> Shape {
    let gap = Interval::between(spacing.lo, spacing.hi.saturating_add(1));
    let beside = || {
        // `int(h1 * aspect_ratio)`
        let follows = FloatInterval::from(first.height).times(second.ratio);
        let fitted = first.resized(first.width.plus(cut(follows)).plus(gap), first.height);
        let fitted = Shape { ratio: row_ratio(first.ratio, second.ratio, first.height, gap, fitted.ratio), ..fitted };
        let padded = first.resized(first.width.plus(second.width).plus(gap), first.height.max(second.height));
        either(matched, fitted, padded)
    };
    let above = || {
        let follows = FloatInterval::from(first.width).over(second.ratio);
        let fitted = first.resized(first.width, first.height.plus(cut(follows)).plus(gap));
        let upended = row_ratio(inverse(first.ratio), inverse(second.ratio), first.width, gap, inverse(fitted.ratio));
        let fitted = Shape { ratio: inverse(upended), ..fitted };
        let padded = first.resized(first.width.max(second.width), first.height.plus(second.height).plus(gap));
        either(matched, fitted, padded)
    };
    let out = match direction {
        Some("right" | "left") => beside(),
        Some("down" | "up") => above(),
        _ => beside().hull(above()),
    };
    Shape { batch: first.batch.max(second.batch), frames: first.frames.max(second.frames), ..out }
}

/// The ratio of two pictures in a row that are equally high: `(w1 + int(h1 * ratio2) + gap) / h1` is the sum of both ratios, but for the rounding and the gap. That holds whatever `h1` is, so that it is
/// narrower than what the sides alone say where a VAE's factor is not known.
fn row_ratio(
    first: FloatInterval,
    second: FloatInterval,
    height: Interval,
    gap: Interval,
    sides: FloatInterval,
) -> FloatInterval {
    let one = FloatInterval::exactly(1.0);
    let height = FloatInterval::from(height.max(Interval::exactly(1)));
    let (rounding, gap) = (one.over(height).hi, FloatInterval::from(gap).over(height).hi);
    // A few units in the last place are lost in the sums.
    let (lo, hi) = ((first.lo + second.lo - rounding) * (1.0 - SLACK), (first.hi + second.hi + gap) * (1.0 + SLACK));
    let narrowed = FloatInterval { lo: lo.max(sides.lo), hi: hi.min(sides.hi) };
    // What is no number narrows nothing.
    if narrowed.lo > 0.0 && narrowed.lo <= narrowed.hi { narrowed } else { sides }
}

/// Far more than rounding costs.
const SLACK: f64 = 1e-9;

/// Height divided by width of what has this ratio.
fn inverse(ratio: FloatInterval) -> FloatInterval {
    FloatInterval::exactly(1.0).over(ratio)
}

/// Python's `int` of a number that is not negative.
fn cut(value: FloatInterval) -> Interval {
    Interval::between(floor(value.lo).saturating_sub(1).max(0), floor(value.hi))
}

fn either(choice: Option<bool>, on_true: Shape, on_false: Shape) -> Shape {
    match choice {
        Some(true) => on_true,
        Some(false) => on_false,
        None => on_true.hull(on_false),
    }
}

pub(super) fn repeated(from: Shape, amount: Interval) -> Shape {
    Shape { batch: from.batch.times(amount), ..from }
}

pub(super) fn kontext_scaled(from: Shape) -> Shape {
    let side = Interval::between(KONTEXT_SIDES.0, KONTEXT_SIDES.1);
    Shape { area: KONTEXT_AREA, ..from.resized(side, side) }
}

/// Both sides times their factor.
pub(super) fn multiplied(from: Shape, width: Interval, height: Interval) -> Shape {
    let (width, height) = (width.max(Interval::exactly(1)), height.max(Interval::exactly(1)));
    from.resized(from.width.times(width), from.height.times(height))
}
