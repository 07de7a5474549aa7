//! What each class does to sizes: a table, and one small function for each kind of line in it.
//!
//! A class that is not in the table and gives an IMAGE, LATENT, MASK or VIDEO has an unknown size. Under a policy that caps sizes that is refused *where it arises*
//! (`size_unbounded`), whether or not something consumes it: the node itself may make too much. Sources: ComfyUI 0.8.0, `nodes.py` and `comfy_extras/`.
//!
//! Latents are followed in pixels of the picture they were declared for, with the pixels per cell. Decoding assumes the largest factor of any VAE installed
//! (`caps.vae_scale`, 32 unless the policy says less), since ComfyUI gives an empty latent whatever channels the model wants, so that a latent of 8-pixel cells may end in a 32-pixel VAE. The
//! temporal factor is taken as declared.

use super::interval::{FloatInterval, Interval, ceil};
use super::{Facts, Shape, Value, number};
use crate::catalogue::{ClassSignature, DeclaredType, InputKind};
use crate::files::annotated_name;
use crate::workflow::node::{Input, Node};

/// What becomes of sizes in a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// Made from its own numbers (by kind), as a latent with so many pixels a cell, or an image (1).
    Numbers(i128),
    /// Like this input.
    Same(&'static str),
    /// Like this input or turned by 90 degrees.
    Turned(&'static str),
    /// The first that is linked gives the size, both the count.
    LargerBatch(&'static str, &'static str),
    /// A latent to an image.
    Decode(&'static str),
    /// An image to a latent.
    Encode(&'static str),
    /// To `width` and `height`, of which 0 means "keep the aspect ratio".
    Resize(&'static str),
    /// To `target_width` and `target_height`.
    Target(&'static str),
    /// Times the input `scale_by`.
    ScaleBy(&'static str),
    /// Times the factor of an upscale model.
    UpscaleModel(&'static str),
    /// To so many `megapixels`.
    TotalPixels(&'static str),
    /// The larger side to `largest_size`.
    LargestSide(&'static str),
    /// By `resize_type`.
    ResizeAny(&'static str),
    /// At most `width` and `height`, at most what there is.
    Crop(&'static str),
    /// Plus `left`, `right`, `top`, `bottom`.
    Pad(&'static str),
    /// Two images side by side.
    Stitch,
    /// One batch after the other, at the size of one of them.
    Join(&'static str, &'static str),
    /// All of an autogrow row in one batch.
    JoinRow(&'static str),
    /// So many times.
    Repeat(&'static str, &'static str),
    /// To one of FLUX Kontext's own sizes.
    KontextScale(&'static str),
    /// From a file of the caller's.
    File(&'static str),
}

use Rule::{
    Crop, Decode, Encode, File, Join, JoinRow, KontextScale, LargerBatch, LargestSide, Numbers, Pad, Repeat, Resize,
    ResizeAny, Same, ScaleBy, Stitch, Target, TotalPixels, Turned, UpscaleModel,
};

/// Every class whose effect on sizes is known, grouped by what it does.
#[rustfmt::skip]
pub(super) const TABLE: &[(&str, Rule)] = &[
    // Made from numbers.
    ("EmptyImage", Numbers(1)), ("SolidMask", Numbers(1)),
    ("EmptyLatentImage", Numbers(8)), ("EmptySD3LatentImage", Numbers(8)), ("EmptyFlux2LatentImage", Numbers(16)),
    ("EmptyHunyuanImageLatent", Numbers(32)), ("EmptyQwenImageLayeredLatentImage", Numbers(8)),
    ("EmptyChromaRadianceLatentImage", Numbers(1)),
    // Stage B has cells of 4 pixels, stage C of `compression` (4 and more).
    ("StableCascade_EmptyLatentImage", Numbers(4)),
    ("EmptyHunyuanLatentVideo", Numbers(8)), ("EmptyHunyuanVideo15Latent", Numbers(16)), ("EmptyMochiLatentVideo", Numbers(8)),
    ("EmptyCosmosLatentVideo", Numbers(8)), ("EmptyLTXVLatentVideo", Numbers(32)),
    ("CosmosImageToVideoLatent", Numbers(8)), ("CosmosPredict2ImageToVideoLatent", Numbers(8)),
    ("HunyuanImageToVideo", Numbers(8)), ("HunyuanVideo15ImageToVideo", Numbers(16)), ("Kandinsky5ImageToVideo", Numbers(8)),
    ("LTXVImgToVideo", Numbers(32)), ("SVD_img2vid_Conditioning", Numbers(8)), ("SV3D_Conditioning", Numbers(8)),
    ("StableZero123_Conditioning", Numbers(8)), ("Wan22ImageToVideoLatent", Numbers(16)), ("WanImageToVideo", Numbers(8)),
    ("WanFunControlToVideo", Numbers(8)), ("Wan22FunControlToVideo", Numbers(8)), ("WanFunInpaintToVideo", Numbers(8)),
    ("WanFirstLastFrameToVideo", Numbers(8)), ("WanCameraImageToVideo", Numbers(8)),
    // Sampling keeps the latent's size.
    ("KSampler", Same("latent_image")), ("KSamplerAdvanced", Same("latent_image")), ("SamplerCustom", Same("latent_image")),
    ("SamplerCustomAdvanced", Same("latent_image")), ("AddNoise", Same("latent_image")),
    // Latents.
    ("VAEDecode", Decode("samples")), ("VAEDecodeTiled", Decode("samples")),
    ("VAEEncode", Encode("pixels")), ("VAEEncodeTiled", Encode("pixels")), ("VAEEncodeForInpaint", Encode("pixels")),
    ("InpaintModelConditioning", Encode("pixels")), ("InstructPixToPixConditioning", Encode("pixels")),
    ("LatentUpscale", Resize("samples")), ("LatentUpscaleBy", ScaleBy("samples")), ("LatentCrop", Crop("samples")),
    ("LatentFlip", Same("samples")), ("LatentRotate", Turned("samples")), ("LatentFromBatch", Same("samples")),
    ("LatentComposite", Same("samples_to")), ("LatentCompositeMasked", Same("destination")), ("LatentBlend", Same("samples1")),
    ("LatentAdd", Same("samples1")), ("LatentSubtract", Same("samples1")), ("LatentInterpolate", Same("samples1")),
    ("LatentMultiply", Same("samples")), ("LatentBatchSeedBehavior", Same("samples")), ("LatentApplyOperation", Same("samples")),
    ("SetLatentNoiseMask", Same("samples")), ("LatentCut", Same("samples")), ("TrimVideoLatent", Same("samples")),
    ("LatentBatch", Join("samples1", "samples2")), ("BatchLatentsNode", JoinRow("latents")),
    ("RepeatLatentBatch", Repeat("samples", "amount")),
    // Images.
    ("ImageScale", Resize("image")), ("ImageScaleBy", ScaleBy("image")), ("ImageScaleToTotalPixels", TotalPixels("image")),
    ("ImageScaleToMaxDimension", LargestSide("image")), ("ImageUpscaleWithModel", UpscaleModel("image")),
    ("ResizeAndPadImage", Target("image")), ("ResizeImageMaskNode", ResizeAny("input")), ("FluxKontextImageScale", KontextScale("image")),
    ("ImageCrop", Crop("image")), ("ImagePadForOutpaint", Pad("image")), ("ImageStitch", Stitch),
    ("ImageBatch", Join("image1", "image2")), ("BatchImagesNode", JoinRow("images")), ("RepeatImageBatch", Repeat("image", "amount")),
    ("ImageFromBatch", Same("image")), ("ImageInvert", Same("image")), ("ImageBlur", Same("image")), ("ImageSharpen", Same("image")),
    ("ImageQuantize", Same("image")), ("ImageFlip", Same("image")), ("ImageRotate", Turned("image")), ("ImageAddNoise", Same("image")),
    ("ImageBlend", Same("image1")), ("ImageCompositeMasked", Same("destination")), ("ImageRGBToYUV", Same("image")),
    ("Canny", Same("image")), ("Morphology", Same("image")), ("LTXVPreprocess", Same("image")),
    ("SplitImageWithAlpha", Same("image")), ("JoinImageWithAlpha", LargerBatch("image", "alpha")),
    // Masks.
    ("ImageToMask", Same("image")), ("ImageColorToMask", Same("image")), ("MaskToImage", Same("mask")), ("InvertMask", Same("mask")),
    ("GrowMask", Same("mask")), ("FeatherMask", Same("mask")), ("ThresholdMask", Same("mask")), ("CropMask", Crop("mask")),
    ("MaskComposite", Same("destination")), ("BatchMasksNode", JoinRow("masks")),
    // Files and video.
    ("LoadImage", File("image")), ("LoadImageMask", File("image")), ("LoadImageOutput", File("image")), ("LoadVideo", File("file")),
    ("CreateVideo", Same("images")), ("GetVideoComponents", Same("video")),
    // Model-free test nodes.
    ("GateProbeSleep", Same("image")), ("GateProbeFail", Same("image")),
];

/// A mask of a file without alpha has this many pixels a side.
const NO_ALPHA_MASK_PIXELS: i128 = 64;
/// FLUX Kontext's sizes have sides of 672 to 1568 pixels, and fewer pixels than this.
const KONTEXT_SIDES: (i128, i128) = (672, 1568);
const KONTEXT_AREA: i128 = 1_064_960;
/// Rounding to whole cells or pixels moves a side by less than this; the largest cell is one of 32 pixels.
const CELL_PIXELS_MAX: i128 = 32;

/// What is known of the size of one output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    /// So large at most.
    Known(Shape),
    /// Not known because something before is not known, where the fault is told.
    Inherited,
    /// Not known because of this class.
    Unknown,
}

/// The size of the output `slot` of `node`.
pub(super) fn shape(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Outcome {
    if class.name() == "ComfySwitchNode" && class.is_core() {
        return switched(facts, node);
    }
    // Only annotated classes: another pack's class of the same name is another class.
    let rule = TABLE.iter().find(|(name, _)| *name == class.name()).filter(|_| class.is_annotated());
    match rule {
        None => Outcome::Unknown,
        Some((_, rule)) => {
            let step = Step { facts, node, class, slot };
            step.apply(*rule).map_or(Outcome::Inherited, Outcome::Known)
        }
    }
}

/// Either branch; both must be known, since both may run.
fn switched(facts: &Facts<'_>, node: &Node) -> Outcome {
    match (facts.shape(node, "on_true"), facts.shape(node, "on_false")) {
        (Some(a), Some(b)) => Outcome::Known(a.hull(b)),
        _ => Outcome::Inherited,
    }
}

struct Step<'a, 'b> {
    facts: &'b Facts<'a>,
    node: &'b Node,
    class: &'b ClassSignature,
    slot: usize,
}

impl Step<'_, '_> {
    fn apply(&self, rule: Rule) -> Option<Shape> {
        match rule {
            Numbers(cell) => self.own_numbers(cell),
            Same(input) => self.shape(input),
            Turned(input) => self.shape(input).map(turned),
            LargerBatch(a, b) => {
                let (a, b) = (self.shape(a)?, self.shape(b)?);
                Some(Shape { batch: a.batch.max(b.batch), frames: a.frames.max(b.frames), ..a })
            }
            Decode(input) => self.shape(input).map(|latent| decoded(latent, self.facts.caps.vae_scale)),
            Encode(input) => self.shape(input).map(encoded),
            Resize(input) => Some(resized(self.shape(input)?, self.int("width")?, self.int("height")?)),
            Target(input) => Some(self.shape(input)?.resized(self.int("target_width")?, self.int("target_height")?)),
            ScaleBy(input) => Some(scaled(self.shape(input)?, self.float("scale_by")?)),
            UpscaleModel(input) => Some(upscaled(self.shape(input)?, self.facts.caps.upscale_model_factor)),
            TotalPixels(input) => Some(total_pixels(self.shape(input)?, self.float("megapixels")?, self.rounding()?)),
            LargestSide(input) => Some(largest_side(self.shape(input)?, self.int("largest_size")?)),
            ResizeAny(input) => self.resize_any(self.shape(input)?),
            Crop(input) => Some(cropped(self.shape(input)?, self.int("width")?, self.int("height")?)),
            Pad(input) => Some(padded(self.shape(input)?, self.sum("left", "right")?, self.sum("top", "bottom")?)),
            Stitch => self.stitched(),
            Join(a, b) => Some(self.shape(a)?.joined(self.shape(b)?)),
            JoinRow(prefix) => self.joined_row(prefix),
            Repeat(input, amount) => {
                let shape = self.shape(input)?;
                Some(repeated(shape, self.int(amount)?))
            }
            KontextScale(input) => self.shape(input).map(kontext_scaled),
            File(input) => self.file(input),
        }
    }

    fn shape(&self, input: &str) -> Option<Shape> {
        self.facts.shape(self.node, input)
    }

    /// The value of a number input. A link that says nothing gives none where the caps rule refuses it, so that the fault is told once; elsewhere, and for an absent optional input, what
    /// the declaration allows.
    fn int(&self, name: &str) -> Option<Interval> {
        let input = self.class.input(self.node, name)?;
        let DeclaredType::Int { min, max, .. } = input.declared() else {
            return None;
        };
        let declared = Interval::between(min.unwrap_or(0).max(0), max.unwrap_or(i128::MAX));
        let value = match number(self.facts, self.node, name, input.declared()) {
            // Below the declared minimum is possible by a link: ComfyUI checks literals only.
            Value::Int(value) => value.clamped(0, declared.hi),
            _ if self.is_refused(name, input.kind()) => return None,
            _ => declared,
        };
        let cap = input.kind().and_then(|kind| super::limit(kind, self.facts.caps)).map(ceil);
        Some(cap.map_or(value, |cap| value.clamped(0, cap)))
    }

    fn float(&self, name: &str) -> Option<FloatInterval> {
        let input = self.class.input(self.node, name)?;
        let DeclaredType::Float { min, max, .. } = input.declared() else {
            return None;
        };
        let (min, max) = (min.unwrap_or(0.0).max(0.0), max.unwrap_or(f64::MAX));
        Some(match number(self.facts, self.node, name, input.declared()) {
            Value::Float(value) => value.clamped(0.0, max),
            _ if self.is_refused(name, input.kind()) => return None,
            _ => FloatInterval { lo: min, hi: max },
        })
    }

    /// Whether the caps rule refuses an unknown value of this input.
    fn is_refused(&self, name: &str, kind: Option<InputKind>) -> bool {
        let needed = kind.is_some_and(|kind| super::need(kind, self.facts.caps) != super::Need::None);
        needed && matches!(self.node.input(name), Some(Input::Link(_)))
    }

    fn sum(&self, a: &str, b: &str) -> Option<Interval> {
        Some(self.int(a)?.plus(self.int(b)?))
    }

    /// `resolution_steps` of ImageScaleToTotalPixels: sides are rounded to its multiples.
    fn rounding(&self) -> Option<i128> {
        match self.class.input(self.node, "resolution_steps") {
            Some(_) => self.int("resolution_steps").map(|steps| steps.hi.max(1)),
            None => Some(1),
        }
    }

    fn of_kind(&self, kind: InputKind) -> Option<Interval> {
        let inputs = self.class.inputs_of(self.node);
        let (name, _) = inputs.iter().find(|(_, input)| input.kind() == Some(kind))?;
        self.int(name)
    }

    fn own_numbers(&self, cell: i128) -> Option<Shape> {
        let side = self.of_kind(InputKind::Side);
        let width = self.of_kind(InputKind::Width).or(side)?;
        let height = self.of_kind(InputKind::Height).or(side)?;
        let one = Interval::exactly(1);
        let batch = self.of_kind(InputKind::Batch).unwrap_or(one);
        let frames = self.of_kind(InputKind::Frames).unwrap_or(one).max(one);
        Some(Shape { batch, frames, cell, ..Shape::image(width, height) })
    }

    fn resize_any(&self, from: Shape) -> Option<Shape> {
        let dotted = |name: &str| format!("resize_type.{name}");
        Some(match self.node.text("resize_type")? {
            "scale by multiplier" => scaled(from, self.float(&dotted("multiplier"))?),
            "scale dimensions" => resized(from, self.int(&dotted("width"))?, self.int(&dotted("height"))?),
            "scale longer dimension" => largest_side(from, self.int(&dotted("longer_size"))?),
            "scale shorter dimension" => shortest_side(from, self.int(&dotted("shorter_size"))?),
            "scale width" => resized(from, self.int(&dotted("width"))?, Interval::exactly(0)),
            "scale height" => resized(from, Interval::exactly(0), self.int(&dotted("height"))?),
            "scale total pixels" => total_pixels(from, self.float(&dotted("megapixels"))?, 1),
            "match size" => {
                let like = self.shape(&dotted("match"))?;
                Shape { area: like.area, ratio: like.ratio, ..from.resized(like.width, like.height) }
            }
            _ => return None,
        })
    }

    fn stitched(&self) -> Option<Shape> {
        let first = self.shape("image1")?;
        if self.node.input("image2").is_none() {
            return Some(first);
        }
        let spacing = self.int("spacing_width")?;
        Some(stitched(first, self.shape("image2")?, spacing, self.node.text("direction")))
    }

    fn joined_row(&self, prefix: &str) -> Option<Shape> {
        let start = format!("{prefix}.");
        let mut row = self.node.inputs.iter().filter(|(name, _)| name.starts_with(&start));
        let first = self.shape(&row.next()?.0)?;
        row.try_fold(first, |sum, (name, _)| Some(sum.joined(self.shape(name)?)))
    }

    fn file(&self, input: &str) -> Option<Shape> {
        let (name, directory) = annotated_name(self.node.text(input)?).ok()?;
        let fact = self.facts.files.get(name, directory)?;
        let (width, height) = (i128::from(fact.width.max(1)), i128::from(fact.height.max(1)));
        let sides = Interval::between(width, height);
        let frames = Interval::between(1, i128::from(fact.frames.max(1)));
        let picture = Shape { area: width * height, frames, ..Shape::image(sides, sides) };
        let is_mask = self.class.outputs().get(self.slot).is_some_and(|output| output.type_name() == "MASK");
        let blank = Interval::exactly(NO_ALPHA_MASK_PIXELS);
        Some(if is_mask { picture.hull(Shape { frames, ..Shape::image(blank, blank) }) } else { picture })
    }
}

fn turned(from: Shape) -> Shape {
    let sides = from.width.hull(from.height);
    Shape { area: from.area, ..from.resized(sides, sides) }
}

/// At most the declared picture, or as many times larger as the largest VAE's cells are; at least one pixel a cell.
fn decoded(latent: Shape, vae_scale: i128) -> Shape {
    let cell = latent.cell.max(1);
    // Rounded up: 32 / 12 pixels a cell is less than 3.
    let factor = (vae_scale + cell - 1).div_euclid(cell).max(1);
    let side = |side: Interval| Interval::between((side.lo / cell).max(1), side.hi.saturating_mul(factor));
    let (width, height) = (side(latent.width), side(latent.height));
    let area = Interval::exactly(latent.area).times(Interval::exactly(factor * factor)).hi;
    Shape { width, height, area, ratio: cell_ratio(latent, cell), cell: 1, ..latent }
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

/// Cut to whole cells, never larger.
fn encoded(image: Shape) -> Shape {
    let side = |side: Interval| Interval::between((side.lo - CELL_PIXELS_MAX).max(1), side.hi);
    let ratio = cell_ratio(image, CELL_PIXELS_MAX);
    // The latent's channels tie it to VAEs like the one that made it; cells of 8 pixels are the smallest of those in use.
    Shape { width: side(image.width), height: side(image.height), ratio, cell: 8, ..image }
}

/// `width` × `height`; where one is 0 that side follows from the other, where both are the size stays.
fn resized(from: Shape, width: Interval, height: Interval) -> Shape {
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
        let follows = Interval::between(
            (crate::bounds::interval::floor(by_height.lo)).max(1),
            ceil(by_height.hi).max(CELL_PIXELS_MAX * 2),
        );
        return from.resized(follows, height);
    }
    if height.hi <= 0 && width.lo > 0 {
        let follows = Interval::between(
            (crate::bounds::interval::floor(by_width.lo)).max(1),
            ceil(by_width.hi).max(CELL_PIXELS_MAX * 2),
        );
        return from.resized(width, follows);
    }
    out
}

fn scaled(from: Shape, factor: FloatInterval) -> Shape {
    let (width, height) = (from.width.scaled(factor), from.height.scaled(factor));
    let out = from.resized(width, height);
    // Each side is rounded up by less than one pixel: (f·w + 1)(f·h + 1).
    let square = factor.times(factor);
    let grown = FloatInterval::from(Interval::exactly(from.area)).times(square).hi;
    let area = ceil(grown).saturating_add(width.hi).saturating_add(height.hi).saturating_add(1);
    Shape { area: area.min(out.area), ..out }
}

fn upscaled(from: Shape, factor: i128) -> Shape {
    let times = |side: Interval| Interval::between(side.lo, side.hi.saturating_mul(factor));
    let area = Interval::exactly(from.area).times(Interval::exactly(factor.saturating_mul(factor))).hi;
    // Every model multiplies both sides alike.
    Shape { area, ratio: from.ratio, ..from.resized(times(from.width), times(from.height)) }
}

/// `sqrt(total × ratio)` by `sqrt(total / ratio)`, each rounded to multiples of `rounding`.
fn total_pixels(from: Shape, megapixels: FloatInterval, rounding: i128) -> Shape {
    let total = megapixels.times(FloatInterval::exactly(1_048_576.0));
    let side = |square: FloatInterval| {
        let side = square.sqrt();
        let lo = crate::bounds::interval::floor(side.lo).saturating_sub(rounding).max(1);
        Interval::between(lo, ceil(side.hi).saturating_add(rounding))
    };
    let width = side(total.times(from.ratio));
    let height = side(total.over(from.ratio));
    let out = from.resized(width, height);
    let slack = Interval::exactly(rounding).times(width.plus(height).plus(Interval::exactly(rounding))).hi;
    let area = ceil(total.hi).saturating_add(slack);
    Shape { area: area.min(out.area), ..out }
}

/// The larger side becomes `largest`, the other follows.
fn largest_side(from: Shape, largest: Interval) -> Shape {
    let side = Interval::between(1, largest.hi.max(1));
    let out = from.resized(side, side);
    // 0 leaves the image as it is.
    if largest.lo <= 0 { out.hull(from) } else { out }
}

/// The shorter side becomes `shortest`, the other follows from the ratio.
fn shortest_side(from: Shape, shortest: Interval) -> Shape {
    let of = |stretch: f64| {
        let stretch = FloatInterval { lo: 1.0, hi: stretch.max(1.0) };
        Interval::between(1, shortest.scaled(stretch).hi)
    };
    let out = from.resized(of(from.ratio.hi), of(1.0 / from.ratio.lo.max(f64::MIN_POSITIVE)));
    if shortest.lo <= 0 { out.hull(from) } else { out }
}

fn cropped(from: Shape, width: Interval, height: Interval) -> Shape {
    let side = |side: Interval, crop: Interval| Interval::between(1, side.hi.min(crop.hi));
    let out = from.resized(side(from.width, width), side(from.height, height));
    Shape { area: out.area.min(from.area), ..out }
}

fn padded(from: Shape, horizontal: Interval, vertical: Interval) -> Shape {
    // After a decode the lower bounds may be far off; only the ratio uses them, and it is made anew here.
    from.resized(from.width.plus(horizontal), from.height.plus(vertical))
}

/// Beside or above one another. With `match_image_size` the second takes the first one's height (or width), so both forms are allowed for.
fn stitched(first: Shape, second: Shape, spacing: Interval, direction: Option<&str>) -> Shape {
    let fitted_width = ceil(FloatInterval::from(first.height).times(second.ratio).hi).saturating_add(1);
    let fitted_height = ceil(FloatInterval::from(first.width).over(second.ratio).hi).saturating_add(1);
    let largest = |a: Interval, b: Interval| a.hi.max(b.hi);
    // The spacing is made even.
    let gap = spacing.hi.saturating_add(1);
    let beside = (
        first.width.hi.saturating_add(second.width.hi.max(fitted_width)).saturating_add(gap),
        largest(first.height, second.height),
    );
    let above = (
        largest(first.width, second.width),
        first.height.hi.saturating_add(second.height.hi.max(fitted_height)).saturating_add(gap),
    );
    let (width, height) = match direction {
        Some("right" | "left") => beside,
        Some("down" | "up") => above,
        _ => (beside.0.max(above.0), beside.1.max(above.1)),
    };
    // The first image is never made smaller.
    let out = first.resized(Interval::between(first.width.lo, width), Interval::between(first.height.lo, height));
    Shape { batch: first.batch.max(second.batch), frames: first.frames.max(second.frames), ..out }
}

fn repeated(from: Shape, amount: Interval) -> Shape {
    let amount = amount.max(Interval::exactly(1));
    Shape { batch: from.batch.times(amount), ..from }
}

fn kontext_scaled(from: Shape) -> Shape {
    let side = Interval::between(KONTEXT_SIDES.0, KONTEXT_SIDES.1);
    Shape { area: KONTEXT_AREA, ..from.resized(side, side) }
}

#[cfg(test)]
mod tests;
