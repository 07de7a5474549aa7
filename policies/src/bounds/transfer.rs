//! What each class does to sizes: the rules of its annotation, applied.
//!
//! A class without a rule that gives an IMAGE, LATENT, MASK or VIDEO has an unknown size. Under a policy that caps sizes that is refused *where it arises*
//! (`size_unbounded`), whether or not something consumes it: the node itself may make too much. Sources: ComfyUI 0.8.0, `nodes.py` and `comfy_extras/`.
//!
//! Latents are followed in pixels of the picture they were declared for, with the pixels per cell. Decoding assumes the largest factor of any VAE installed
//! (`caps.vae_scale`, 32 unless the policy says less), since ComfyUI gives an empty latent whatever channels the model wants, so that a latent of 8-pixel cells may end in a 32-pixel VAE. The same
//! goes for cells in time (`caps.vae_frames`, 8 unless the policy says less). Sound is followed in seconds; its latents are pictures to nobody, so that a rule for pictures that meets one gives no size.

mod fit;
mod sides;

use sides::{
    VaeFactors, cropped, decoded, encoded, kontext_scaled, largest_side, latent_cropped, latent_resized, multiplied,
    padded, repeated, resized, scaled, shortest_side, stitched, total_pixels, turned, upscaled,
};

use super::interval::{FloatInterval, Interval, ceil};
use super::{Facts, Shape, Sound, Value, number};
use crate::catalogue::{
    Amount, ByChoice, ClassSignature, Concat, CutToBatch, DeclaredType, First, Formula, InputKind, Made, Presence,
    Rebatch, Sampled, SizeRule, SoundRule, Switch,
};
use crate::files::annotated_name;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};

/// A mask of a file without alpha has this many pixels a side.
const NO_ALPHA_MASK_PIXELS: i128 = 64;
/// Frames that a cell of a film's latent becomes at most, but for the first (LTXV, Cosmos).
const FRAMES_OF_A_CELL_MAX: i128 = 8;
/// Channels of a latent at most (Flux 2 and LTXV).
const LATENT_CHANNELS_MAX: i128 = 128;
/// Frames that a cell of a film's latent stands for at least, but for the first (Hunyuan, Wan; Mochi has 6, LTXV and Cosmos 8).
const LEAST_TEMPO: i128 = 4;
/// Rules within rules; the shipped ones have three at most.
const RULE_DEPTH_MAX: usize = 16;

/// What is known of the size of one output: a picture's, a sound's, or of a film both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    /// Pictures.
    pub(super) shape: Option<Shape>,
    /// Sound.
    pub(super) sound: Option<Sound>,
    /// How many times its memory the node takes while it works.
    pub(super) work: i128,
}

/// Why there is no size.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Gap {
    /// Something before is not known, or a number is refused by another rule, where the fault is told.
    Inherited,
    /// Because of this class.
    Unknown,
    /// Because of this class, which says why.
    Unbounded(String),
}

/// The size of the output `slot` of `node`.
pub(super) fn extent(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Result<Extent, Gap> {
    let rule = class.size_rule(slot).ok_or(Gap::Unknown)?;
    Step { facts, node, class, slot, depth: 0 }.apply(rule)
}

/// A whole number that a rule computes for `node`.
pub(super) fn amount(facts: &Facts<'_>, node: &Node, class: &ClassSignature, amount: &Amount) -> Option<Interval> {
    Step { facts, node, class, slot: 0, depth: 0 }.amount(amount).ok()
}

#[derive(Clone, Copy)]
struct Step<'a, 'b> {
    facts: &'b Facts<'a>,
    node: &'b Node,
    class: &'b ClassSignature,
    slot: usize,
    depth: usize,
}

/// What a VAE makes of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Vae {
    /// Cells of several pixels.
    Cells,
    /// A latent with a cell for each pixel: the choice `pixel_space` of VAELoader, which every installation has.
    Pixels,
    Unknown,
}

/// ComfyUI 0.8.0, `nodes.py` `VAELoader`.
const PIXEL_SPACE: &str = "pixel_space";
/// The channels of a latent tie it to VAEs like the one that made it; cells of 8 pixels are the smallest of those in use but for [`PIXEL_SPACE`].
const VAE_CELL_MIN: i128 = 8;

fn is_vae_loader(class: &ClassSignature) -> bool {
    class.is_core() && class.name() == "VAELoader"
}

/// Whether a VAE of `node` may be the one without cells.
pub(super) fn may_be_pixel_space(node: &Node, class: &ClassSignature) -> bool {
    is_vae_loader(class) && node.text("vae_name").is_none_or(|name| name == PIXEL_SPACE)
}

/// Whether two latents are both of films or both of pictures. What an unknown VAE encoded may be either, and what one VAE encoded is alike.
fn same_dimensions(a: Shape, b: Shape) -> bool {
    (a.tempo > 1) == (b.tempo > 1) && a.encoder == b.encoder
}

/// How many cells a side of a latent has at most.
fn cells(side: Interval, cell: i128) -> Interval {
    let of = |pixels: i128| pixels.max(1).saturating_add(cell.max(1) - 1).div_euclid(cell.max(1));
    Interval::between(of(side.lo).min(of(side.hi)) - 1, of(side.hi)).max(Interval::exactly(1))
}

/// Frames that so many cells in time become at most.
fn frames_of(moments: i128) -> i128 {
    (moments - 1).max(0).saturating_mul(FRAMES_OF_A_CELL_MAX).saturating_add(1)
}

/// No larger, and perhaps much smaller.
fn narrowed(from: Shape) -> Shape {
    let side = |side: Interval| Interval::between(0, side.hi);
    Shape { area: from.area, ..from.resized(side(from.width), side(from.height)) }
}

const NOTHING: Extent = Extent { shape: None, sound: None, work: 1 };

fn picture(shape: Shape) -> Extent {
    Extent { shape: Some(shape), ..NOTHING }
}

fn sounding(sound: Sound) -> Extent {
    Extent { sound: Some(sound), ..NOTHING }
}

impl Extent {
    /// Either. What is a picture in one and none in the other has no size.
    fn hull(self, other: Self) -> Result<Self, Gap> {
        let shape = match (self.shape, other.shape) {
            (Some(a), Some(b)) => Some(a.hull(b)),
            (None, None) => None,
            _ => return Err(Gap::Unknown),
        };
        let sound = match (self.sound, other.sound) {
            (Some(a), Some(b)) => Some(a.beside(b)),
            (a, b) => a.or(b),
        };
        Ok(Self { shape, sound, work: self.work.max(other.work) })
    }
}

impl Step<'_, '_> {
    /// A rule within the rule.
    fn inner(&self, rule: &SizeRule) -> Result<Extent, Gap> {
        if self.depth >= RULE_DEPTH_MAX {
            return Err(Gap::Unknown);
        }
        Step { depth: self.depth + 1, ..*self }.apply(rule)
    }

    fn apply(&self, rule: &SizeRule) -> Result<Extent, Gap> {
        match rule {
            SizeRule::None => Ok(NOTHING),
            SizeRule::BySlot(_) => Err(Gap::Unknown),
            SizeRule::Unbounded(because) => Err(Gap::Unbounded(because.clone())),
            SizeRule::Same(input) => self.extent(input),
            SizeRule::Sampled(rule) => self.sampled(rule),
            SizeRule::Working(rule) => {
                let times = self.amount(&rule.times)?.hi.max(1);
                Ok(Extent { work: times, ..self.inner(&rule.of)? })
            }
            SizeRule::FilmFile(input) => Ok(Extent { shape: Some(self.file(input)?), ..self.sound_file(input)? }),
            SizeRule::AnyOf(rules) => self.any_of(rules),
            SizeRule::Fit(rule) => self.fit(rule),
            SizeRule::JoinCounted(rule) => self.join_counted(rule),
            SizeRule::ByChoice(rule) => self.by_choice(rule),
            SizeRule::IfGiven(rule) => match self.node.input(&rule.input) {
                Some(_) => self.inner(&rule.then),
                None => self.inner(&rule.otherwise),
            },
            SizeRule::Switch(switch) => self.switched(switch),
            SizeRule::PictureOf(input) => Ok(Extent { sound: None, ..self.extent(input)? }),
            SizeRule::SoundOf(input) => Ok(Extent { shape: None, ..self.extent(input)? }),
            SizeRule::Film(of) => self.film(of),
            SizeRule::Sound(rule) => self.sound_made(rule).map(sounding),
            SizeRule::SoundJoin(inputs) => self.sounds(inputs, Sound::then).map(sounding),
            SizeRule::SoundLongest(inputs) => self.sounds(inputs, Sound::beside).map(sounding),
            SizeRule::SoundFile(input) => self.sound_file(input),
            SizeRule::SoundAtMost(rule) => {
                let sound = self.sound(&rule.of)?;
                // A number that nobody knows makes it no longer than it is.
                let cut = self.seconds(&rule.seconds).unwrap_or(f64::INFINITY).max(0.0);
                Ok(sounding(Sound { seconds: sound.seconds.min(cut), ..sound }))
            }
            _ => self.shape_by(rule).map(picture),
        }
    }

    fn shape_by(&self, rule: &SizeRule) -> Result<Shape, Gap> {
        match rule {
            SizeRule::Numbers(cell) => self.own_numbers(*cell),
            SizeRule::Made(made) => self.made(made),
            SizeRule::Turned(input) => self.shape(input).map(turned),
            SizeRule::Fewer(rule) => {
                let of = self.inner(rule)?.shape.ok_or(Gap::Unknown)?;
                let some = |count: Interval| Interval::between(count.lo.min(1), count.hi);
                Ok(Shape { batch: some(of.batch), frames: some(of.frames), ..of })
            }
            SizeRule::Part(input) => {
                let from = self.shape(input)?;
                let some = |count: Interval| Interval::between(0, count.hi);
                let part = narrowed(from);
                Ok(Shape { batch: some(from.batch), frames: some(from.frames), ..part })
            }
            SizeRule::TurnedLatent(input) => {
                let from = self.shape(input)?;
                if from.frames.hi > 1 || from.tempo > 1 || from.row {
                    let why = "turning a film's latent changes time and height";
                    return Err(Gap::Unbounded(why.to_owned()));
                }
                // A picture's latent may be a film's of one moment: its height is then time afterwards.
                let moments = cells(from.height, from.cell).hi;
                Ok(Shape { frames: Interval::between(1, frames_of(moments)), ..turned(from) }.hull(from))
            }
            SizeRule::CropLatent(input) => {
                let from = self.shape(input)?;
                // Of a film's latent, which what an unknown VAE encoded may be, it cuts time and height.
                if from.tempo > 1 || from.frames.hi > 1 || from.encoder.is_some() {
                    return Ok(Shape { frames: Interval::between(0, from.frames.hi), ..narrowed(from) });
                }
                Ok(latent_cropped(from, self.hint("width")?, self.hint("height")?))
            }
            SizeRule::LargerBatch(inputs) => self.larger_batch(inputs),
            SizeRule::Decode(input) => {
                let latent = self.shape(input)?;
                let own = latent.encoder.is_some() && latent.encoder == self.vae_link();
                let caps = self.facts.caps;
                let of = |largest: i128| if own || self.vae() == Vae::Pixels { 1 } else { largest };
                Ok(decoded(latent, VaeFactors { scale: of(caps.vae_scale), frames: of(caps.vae_frames) }))
            }
            SizeRule::Encode(input) => {
                let pixels = match self.vae() {
                    Vae::Pixels => true,
                    Vae::Cells => false,
                    Vae::Unknown => self.facts.has_pixel_space,
                };
                let latent = encoded(self.shape(input)?, if pixels { 1 } else { VAE_CELL_MIN });
                Ok(Shape { encoder: self.vae_link(), ..latent })
            }
            SizeRule::Resize(input) => {
                let (from, width, height) = (self.shape(input)?, self.int("width")?, self.int("height")?);
                let is_latent = self.class.outputs().get(self.slot).is_some_and(|out| out.type_name() == "LATENT");
                Ok(if is_latent { latent_resized(from, width, height) } else { resized(from, width, height) })
            }
            SizeRule::Target(input) => {
                Ok(self.shape(input)?.resized(self.int("target_width")?, self.int("target_height")?))
            }
            SizeRule::ScaleBy(rule) => Ok(self.pooled(scaled(self.shape(&rule.of)?, self.float(&rule.by)?))),
            SizeRule::UpscaleModel(input) => Ok(upscaled(self.shape(input)?, self.facts.caps.upscale_model_factor)),
            SizeRule::TotalPixels(input) => {
                let out = total_pixels(self.shape(input)?, self.float("megapixels")?, self.rounding()?);
                Ok(self.pooled(out))
            }
            SizeRule::LargestSide(rule) => Ok(self.pooled(largest_side(self.shape(&rule.of)?, self.int(&rule.to)?))),
            SizeRule::ShortestSide(rule) => Ok(self.pooled(shortest_side(self.shape(&rule.of)?, self.int(&rule.to)?))),
            SizeRule::ResizeAny(input) => Ok(self.pooled(self.resize_any(self.shape(input)?)?)),
            SizeRule::Crop(input) => {
                // Masks are cut where the numbers say, pictures from within: but a negative place, which only a link gives, counts from the other end.
                let beyond = self.gives_mask() || ["x", "y"].iter().any(|place| self.may_be_negative(place));
                Ok(cropped(self.shape(input)?, self.hint("width")?, self.hint("height")?, beyond))
            }
            SizeRule::Pad(input) => {
                Ok(padded(self.shape(input)?, self.sum("left", "right")?, self.sum("top", "bottom")?))
            }
            SizeRule::Stitch => self.stitched(),
            SizeRule::Join(inputs) => self.joined(inputs.iter().map(String::as_str)),
            SizeRule::JoinRow(prefix) => self.joined_row(prefix),
            SizeRule::Repeat(rule) => Ok(repeated(self.shape(&rule.of)?, self.amount(&rule.times)?)),
            SizeRule::KontextScale(input) => self.shape(input).map(kontext_scaled),
            SizeRule::File(input) => self.file(input),
            SizeRule::First(rule) => self.first(rule),
            SizeRule::PartOf(input) => {
                let shape = self.shape(input)?;
                Ok(Shape { batch: Interval::between(0, shape.batch.hi), ..shape })
            }
            SizeRule::Concat(rule) => self.concatenated(rule),
            SizeRule::CutToBatch(rule) => self.cut_to_batch(rule),
            SizeRule::Rebatch(rule) => self.rebatched(rule),
            SizeRule::AsLatent(rule) => {
                let of = self.inner(&rule.of)?.shape.ok_or(Gap::Unknown)?;
                Ok(Shape { cell: rule.cell, tempo: 1, encoder: None, ..of })
            }
            SizeRule::Times(rule) => {
                let of = self.inner(&rule.of)?.shape.ok_or(Gap::Unknown)?;
                let factor = |amount: &Option<Amount>| match amount {
                    Some(amount) => self.amount(amount),
                    None => Ok(Interval::exactly(1)),
                };
                let sides = multiplied(of, factor(&rule.width)?, factor(&rule.height)?);
                let frames = sides.frames.times(factor(&rule.frames)?);
                Ok(Shape { batch: sides.batch.times(factor(&rule.batch)?), frames, ..sides })
            }
            _ => Err(Gap::Unknown),
        }
    }

    /// Where the node's VAE comes from.
    fn vae_link(&self) -> Option<Link> {
        let takes_vae = |name: &str| match self.class.input(self.node, name).map(|input| input.declared()) {
            Some(DeclaredType::Socket(types)) => types.iter().any(|name| name == "VAE"),
            _ => false,
        };
        self.node.inputs.iter().find_map(|(name, input)| match input {
            Input::Link(link) if takes_vae(name) => Some(*link),
            _ => None,
        })
    }

    /// What kind of VAE the node is given.
    fn vae(&self) -> Vae {
        let link = self.vae_link();
        let source =
            link.and_then(|link| Some((self.facts.workflow.node(link.target)?, self.facts.class_at(link.target)?)));
        match source {
            Some((node, class)) if is_vae_loader(class) => match node.text("vae_name") {
                Some(PIXEL_SPACE) => Vae::Pixels,
                Some(_) => Vae::Cells,
                None => Vae::Unknown,
            },
            // A checkpoint holds the VAE of its model.
            Some((_, class)) if class.is_core() && class.is_model_loader() => Vae::Cells,
            _ => Vae::Unknown,
        }
    }

    /// What the link of an input brings. Whose absence ComfyUI refuses, and what has no size already, has its fault elsewhere.
    fn extent(&self, input: &str) -> Result<Extent, Gap> {
        match self.node.input(input) {
            Some(Input::Link(link)) => {
                let slot = self.facts.slot(*link).ok_or(Gap::Inherited)?;
                if slot.shape.is_none() && slot.sound.is_none() {
                    return Err(if slot.sizeless { Gap::Unknown } else { Gap::Inherited });
                }
                Ok(Extent { shape: slot.shape, sound: slot.sound, ..NOTHING })
            }
            // A literal where only a link fits is the inputs rule's.
            Some(Input::Literal(_)) => Err(Gap::Inherited),
            None => Err(self.absent(input)),
        }
    }

    /// A required input that is missing is the inputs rule's; without an optional one the size is another, which the rule should have told.
    fn absent(&self, input: &str) -> Gap {
        match self.class.input(self.node, input) {
            Some(signature) if signature.presence() == Presence::Required => Gap::Inherited,
            _ => Gap::Unknown,
        }
    }

    /// The pictures of an input. Sound where pictures belong gives no size.
    fn shape(&self, input: &str) -> Result<Shape, Gap> {
        self.extent(input)?.shape.ok_or(Gap::Unknown)
    }

    fn sound(&self, input: &str) -> Result<Sound, Gap> {
        self.extent(input)?.sound.ok_or(Gap::Unknown)
    }

    /// The value of a number input. One that another rule refuses gives no size, so that the fault is told once; of an absent optional one the declaration's range counts.
    fn int(&self, name: &str) -> Result<Interval, Gap> {
        let input = self.class.input(self.node, name).ok_or(Gap::Unknown)?;
        let DeclaredType::Int { min, max, .. } = input.declared() else {
            return Err(Gap::Unknown);
        };
        let declared = Interval::between(min.unwrap_or(0).max(0), max.unwrap_or(i128::MAX));
        let value = match number(self.facts, self.node, name, input.declared()) {
            // ComfyUI checks literals only: below the declared minimum is possible by a link, and above the maximum where no cap asks.
            Value::Int(value) if self.is_judged(input.kind()) => value.clamped(0, declared.hi),
            Value::Int(value) => value.clamped(0, i128::MAX),
            _ => self.untold(name, input.kind()).map(|()| declared)?,
        };
        let cap = input.kind().and_then(|kind| super::limit(kind, self.facts.caps)).map(ceil);
        Ok(cap.map_or(value, |cap| value.clamped(0, cap)))
    }

    /// A number that can only make things smaller: what is not known of it does not matter. Beyond the declared range is possible by a link.
    fn hint(&self, name: &str) -> Result<Interval, Gap> {
        let input = self.class.input(self.node, name).ok_or(Gap::Unknown)?;
        // By a link it may lie beyond its declared range, which ComfyUI checks in literals only; and a negative one counts from the end.
        Ok(match number(self.facts, self.node, name, input.declared()) {
            Value::Int(value) if value.lo >= 0 => value,
            _ => Interval::between(0, i128::MAX),
        })
    }

    /// Where a side rounds to nothing, `area` gives a picture without pixels; every other method raises.
    fn pooled(&self, shape: Shape) -> Shape {
        let methods = ["upscale_method", "scale_method"];
        let given = methods.into_iter().find(|name| self.node.input(name).is_some());
        if given.and_then(|name| self.node.text(name)).is_some_and(|method| method != "area") || given.is_none() {
            return shape;
        }
        let least = |side: Interval| if side.lo <= 1 { Interval::between(0, side.hi) } else { side };
        Shape { width: least(shape.width), height: least(shape.height), ..shape }
    }

    /// Whether the class has this number and it is not known to be zero or more.
    fn may_be_negative(&self, name: &str) -> bool {
        let Some(input) = self.class.input(self.node, name) else { return false };
        !matches!(number(self.facts, self.node, name, input.declared()), Value::Int(value) if value.lo >= 0)
    }

    fn float(&self, name: &str) -> Result<FloatInterval, Gap> {
        let input = self.class.input(self.node, name).ok_or(Gap::Unknown)?;
        let DeclaredType::Float { min, max, .. } = input.declared() else {
            return Err(Gap::Unknown);
        };
        let (min, max) = (min.unwrap_or(0.0).max(0.0), max.unwrap_or(f64::MAX));
        let value = match number(self.facts, self.node, name, input.declared()) {
            Value::Float(value) if self.is_judged(input.kind()) => value.clamped(0.0, max),
            Value::Float(value) => value.clamped(0.0, f64::MAX),
            _ => self.untold(name, input.kind()).map(|()| FloatInterval { lo: min, hi: max })?,
        };
        let cap = input.kind().and_then(|kind| super::limit(kind, self.facts.caps));
        Ok(cap.map_or(value, |cap| value.clamped(0.0, cap)))
    }

    /// Whether a number of which nothing is known is within its declared range, or why not: ComfyUI checks the range of literals only.
    fn untold(&self, name: &str, kind: Option<InputKind>) -> Result<(), Gap> {
        let needed = self.is_judged(kind);
        match self.node.input(name) {
            Some(Input::Link(_)) if needed => Err(Gap::Inherited),
            Some(Input::Link(_)) => Err(Gap::Unknown),
            Some(Input::Literal(_)) => Err(Gap::Inherited),
            None => Ok(()),
        }
    }

    /// Whether the caps rule speaks of a linked number of this kind that is out of its range.
    fn is_judged(&self, kind: Option<InputKind>) -> bool {
        kind.is_some_and(|kind| super::need(kind, self.facts.caps) != super::Need::None)
    }

    fn sum(&self, a: &str, b: &str) -> Result<Interval, Gap> {
        Ok(self.int(a)?.plus(self.int(b)?))
    }

    /// `resolution_steps` of ImageScaleToTotalPixels: sides are rounded to its multiples.
    fn rounding(&self) -> Result<Interval, Gap> {
        match self.class.input(self.node, "resolution_steps") {
            Some(_) => self.int("resolution_steps"),
            None => Ok(Interval::exactly(1)),
        }
    }

    /// The value of the input of a kind, if the class has one.
    fn of_kind(&self, kind: InputKind) -> Result<Option<Interval>, Gap> {
        match self.class.input_of_kind(self.node, kind) {
            Some((name, _)) => self.int(name).map(Some),
            None => Ok(None),
        }
    }

    fn own_numbers(&self, cell: i128) -> Result<Shape, Gap> {
        let side = self.of_kind(InputKind::Side)?;
        let width = self.of_kind(InputKind::Width)?.or(side).ok_or(Gap::Unknown)?;
        let height = self.of_kind(InputKind::Height)?.or(side).ok_or(Gap::Unknown)?;
        let one = Interval::exactly(1);
        let batch = self.of_kind(InputKind::Batch)?.unwrap_or(one);
        let frames = self.of_kind(InputKind::Frames)?.unwrap_or(one);
        // A latent has whole cells.
        let whole = |side: Interval| {
            let of = |pixels: i128| pixels.div_euclid(cell.max(1)).saturating_mul(cell.max(1));
            Interval::between(of(side.lo), of(side.hi))
        };
        // A film's latent has its frames in a dimension of their own, four a cell at least in every model that is made so.
        let film = cell > 1 && self.class.input_of_kind(self.node, InputKind::Frames).is_some();
        let tempo = if film { LEAST_TEMPO } else { 1 };
        Ok(Shape { batch, frames, cell, tempo, ..Shape::image(whole(width), whole(height)) })
    }

    fn made(&self, made: &Made) -> Result<Shape, Gap> {
        let one = Interval::exactly(1);
        let count = |amount: &Option<Amount>| match amount {
            Some(amount) => self.amount(amount),
            None => Ok(one),
        };
        let sides = Shape::image(self.amount(&made.width)?, self.amount(&made.height)?);
        let (cell, tempo) = (made.cell, made.tempo);
        // Where it has the batch of a latent that it is made from, it has that one's doubts.
        let row = self.node.inputs.iter().any(|(name, _)| self.facts.shape(self.node, name).is_some_and(|of| of.row));
        Ok(Shape { batch: count(&made.batch)?, frames: count(&made.frames)?, cell, tempo, row, ..sides })
    }

    fn amount(&self, amount: &Amount) -> Result<Interval, Gap> {
        match amount {
            Amount::Exactly(value) => Ok(Interval::exactly(i128::from(*value))),
            Amount::Input(name) => self.int(name),
            Amount::Of(_) if self.depth >= RULE_DEPTH_MAX => Err(Gap::Unknown),
            Amount::Of(formula) => Step { depth: self.depth + 1, ..*self }.formula(formula),
        }
    }

    fn formula(&self, formula: &Formula) -> Result<Interval, Gap> {
        let fold = |amounts: &[Amount], join: fn(Interval, Interval) -> Interval| {
            let values = amounts.iter().map(|amount| self.amount(amount)).collect::<Result<Vec<_>, _>>()?;
            values.into_iter().reduce(join).ok_or(Gap::Unknown)
        };
        match formula {
            Formula::WidthOf(input) => Ok(self.shape(input)?.width),
            Formula::HeightOf(input) => Ok(self.shape(input)?.height),
            Formula::BatchOf(input) => Ok(self.shape(input)?.batch),
            Formula::FramesOf(input) => Ok(self.shape(input)?.frames),
            Formula::CountOf(input) => Ok(self.shape(input)?.count()),
            Formula::Plus(amounts) => fold(amounts, Interval::plus),
            Formula::Times(amounts) => fold(amounts, Interval::times),
            Formula::Least(amounts) => fold(amounts, |a, b| Interval::between(a.lo.min(b.lo), a.hi.min(b.hi))),
            Formula::Greatest(amounts) => fold(amounts, Interval::max),
            Formula::Minus(pair) => {
                let (a, b) = (self.amount(&pair.0)?, self.amount(&pair.1)?);
                Ok(Interval::between(a.lo.saturating_sub(b.hi).max(0), a.hi.saturating_sub(b.lo).max(0)))
            }
            Formula::Over(pair) => {
                let (a, b) = (self.amount(&pair.0)?, self.amount(&pair.1)?);
                let over = |a: i128, b: i128| a.max(0).saturating_add(b.max(1) - 1).div_euclid(b.max(1));
                Ok(Interval::between(over(a.lo, b.hi), over(a.hi, b.lo)))
            }
            Formula::Ceil(input) => {
                let value = self.float(input)?;
                Ok(Interval::between(ceil(value.lo), ceil(value.hi)))
            }
            Formula::IfGiven(choice) => match self.node.input(&choice.0) {
                Some(_) => self.amount(&choice.1),
                None => self.amount(&choice.2),
            },
            Formula::Between(amounts) => fold(amounts, Interval::hull),
            Formula::CellsAcross(input) => self.shape(input).map(|shape| cells(shape.width, shape.cell)),
            Formula::CellsDown(input) => self.shape(input).map(|shape| cells(shape.height, shape.cell)),
            Formula::ItemsOf(input) => match self.node.input(input) {
                Some(Input::Link(link)) => {
                    let items = self.facts.slot(*link).map_or(1, |slot| slot.items);
                    Ok(Interval::between(1, items))
                }
                _ => Ok(Interval::exactly(1)),
            },
            Formula::ObjectsIn(input) => self.opened_in(input, b'{'),
            Formula::ArraysIn(input) => self.opened_in(input, b'['),
            Formula::Given(prefix) => {
                let given = self.node.inputs.iter().filter(|(name, _)| name.starts_with(prefix.as_str())).count();
                Ok(Interval::exactly(i128::try_from(given).unwrap_or(i128::MAX)))
            }
        }
    }

    fn any_of(&self, rules: &[SizeRule]) -> Result<Extent, Gap> {
        let mut all = rules.iter().map(|rule| self.inner(rule));
        let first = all.next().ok_or(Gap::Unknown)??;
        all.try_fold(first, |sum, extent| sum.hull(extent?))
    }

    /// What the choice says, or all that it could say.
    fn by_choice(&self, rule: &ByChoice) -> Result<Extent, Gap> {
        match self.node.text(&rule.by) {
            Some(chosen) => self.inner(rule.of.get(chosen).unwrap_or(&rule.otherwise)),
            None => {
                let otherwise = self.inner(&rule.otherwise)?;
                rule.of.values().try_fold(otherwise, |sum, rule| sum.hull(self.inner(rule)?))
            }
        }
    }

    /// The branch that runs, or either where that is not known.
    fn switched(&self, switch: &Switch) -> Result<Extent, Gap> {
        let known = self.class.input(self.node, &switch.by);
        let by = known.map_or(Value::Unknown, |by| number(self.facts, self.node, &switch.by, by.declared()));
        match by {
            Value::Bool(Some(true)) => self.extent(&switch.on_true),
            Value::Bool(Some(false)) => self.extent(&switch.on_false),
            _ => self.extent(&switch.on_true)?.hull(self.extent(&switch.on_false)?),
        }
    }

    /// JSON values in a text, each of which begins with this byte.
    fn opened_in(&self, input: &str, opening: u8) -> Result<Interval, Gap> {
        let most = match self.facts.written_text(self.node, input) {
            Some(text) => i128::try_from(text.bytes().filter(|byte| *byte == opening).count()).unwrap_or(i128::MAX),
            None => super::text::input_bytes(self.facts, self.node, input).ok_or(Gap::Unknown)?,
        };
        Ok(Interval::between(0, most))
    }

    fn sampled(&self, rule: &Sampled) -> Result<Extent, Gap> {
        let extent = self.extent(&rule.of)?;
        // A sampler that nobody knows is refused by the caps on steps, but may enlarge as well.
        let sampler = super::samplers::linked(self.facts, self.node, &rule.sampler);
        let scale = match sampler {
            Some(sampler) => sampler.scale,
            None => return Err(self.unknown_sampler(&rule.sampler)),
        };
        let grown = |shape: Shape| match scale > 1.0 {
            true => scaled(shape, FloatInterval { lo: 1.0, hi: scale }),
            false => shape,
        };
        Ok(Extent { shape: extent.shape.map(grown), ..extent })
    }

    /// `dpm_adaptive` is refused for its steps, and changes no size.
    fn unknown_sampler(&self, input: &str) -> Gap {
        let source = match self.node.input(input) {
            Some(Input::Link(link)) => self.facts.class_at(link.target),
            _ => return Gap::Inherited,
        };
        if source.is_none() { Gap::Inherited } else { Gap::Unknown }
    }

    fn concatenated(&self, rule: &Concat) -> Result<Shape, Gap> {
        let (a, b) = (self.shape(&rule.first)?, self.shape(&rule.second)?);
        let both = Shape { batch: a.batch, ..a.hull(b) };
        let along = self.node.text(&rule.along).ok_or(Gap::Inherited)?;
        Ok(match along.trim_start_matches('-') {
            "x" => Shape { batch: a.batch, ..both.resized(a.width.plus(b.width), both.height) },
            "y" => Shape { batch: a.batch, ..both.resized(both.width, a.height.plus(b.height)) },
            // Of a latent without frames it is the channels that add up: more bytes all the same. The first cell of a film is one frame, but not when it comes second. What counts as the second
            // one's batch may be its frames.
            _ => {
                let more = Interval::exactly(FRAMES_OF_A_CELL_MAX - 1);
                Shape { frames: a.frames.plus(if b.row { b.count() } else { b.frames }).plus(more), ..both }
            }
        })
    }

    fn cut_to_batch(&self, rule: &CutToBatch) -> Result<Shape, Gap> {
        let from = self.shape(&rule.of)?;
        let size = self.amount(&rule.size)?.max(Interval::exactly(1));
        let slices = |cells: Interval| Interval::between(0, cells.hi.div_euclid(size.lo).max(1));
        Ok(match self.node.text(&rule.along).ok_or(Gap::Inherited)? {
            "x" => Shape { batch: from.batch.times(slices(cells(from.width, from.cell))), ..narrowed(from) },
            "y" => Shape { batch: from.batch.times(slices(cells(from.height, from.cell))), ..narrowed(from) },
            _ => {
                // The first cell of a film is one frame, each other one at most eight.
                let frames = frames_of(size.hi).min(from.frames.hi);
                let moments = from.frames.hi.saturating_add(from.tempo - 1).div_euclid(from.tempo.max(1));
                let batch = from.batch.times(slices(Interval::between(1, moments)));
                Shape { batch, frames: Interval::between(1, frames), ..from }
            }
        })
    }

    /// An IMAGE has its frames in one row with the batch.
    fn first(&self, rule: &First) -> Result<Shape, Gap> {
        let shape = self.shape(&rule.of)?;
        let length = self.hint(&rule.length)?.hi;
        let cut = |count: Interval| Interval::between(0, count.hi.min(length));
        Ok(match (shape.frames.hi > 1, shape.cell > 1) {
            (true, false) => Shape { batch: Interval::exactly(1), frames: cut(shape.count()), ..shape },
            // One latent of it may be all.
            _ if shape.row => Shape { batch: Interval::between(0, shape.batch.hi), ..shape },
            _ => Shape { batch: cut(shape.batch), ..shape },
        })
    }

    /// A list item holds no more than the whole of what came in.
    fn rebatched(&self, rule: &Rebatch) -> Result<Shape, Gap> {
        let shape = self.shape(&rule.of)?;
        let items = self.formula(&Formula::ItemsOf(rule.of.clone()))?;
        let size = self.amount(&rule.size)?.max(Interval::exactly(1));
        let at_most = |count: Interval| Interval::between(1, count.times(items).hi.min(size.hi));
        // What has frames has them in one row with the batch, or in each latent.
        Ok(match (shape.frames.hi > 1, shape.cell > 1) {
            (true, false) => Shape { batch: Interval::exactly(1), frames: at_most(shape.count()), ..shape },
            // Each of them may be one latent of many frames.
            _ if shape.row => {
                let films = Interval::between(1, items.hi.min(size.hi));
                Shape { batch: Interval::between(1, shape.batch.times(films).hi), ..shape }
            }
            _ => Shape { batch: at_most(shape.batch), ..shape },
        })
    }

    fn film(&self, of: &crate::catalogue::Film) -> Result<Extent, Gap> {
        let sound = match (&of.sound, of.sound.as_deref().and_then(|input| self.node.input(input))) {
            // Where no cap asks for the length of sound, what is not known of it takes nothing from the pictures.
            (Some(input), Some(_)) if self.facts.caps.seconds.is_none() => self.sound(input).ok(),
            (Some(input), Some(_)) => Some(self.sound(input)?),
            _ => None,
        };
        Ok(Extent { shape: Some(self.shape(&of.pictures)?), sound, ..NOTHING })
    }

    /// torch spreads the smaller one over the larger, or the second is repeated to be as many as the first. A film's latent has one dimension more: beside a picture's, the channels of that
    /// one become frames.
    fn larger_batch(&self, inputs: &[String]) -> Result<Shape, Gap> {
        let is_latent = self.class.outputs().get(self.slot).is_some_and(|out| out.type_name() == "LATENT");
        let mut shapes = inputs.iter().map(|input| self.shape(input));
        let first = shapes.next().ok_or(Gap::Unknown)??;
        shapes.try_fold(first, |sum, shape| {
            let shape = shape?;
            let alike = (sum.cell, sum.width, sum.height) == (shape.cell, shape.width, shape.height);
            if is_latent && sum.cell.min(shape.cell) <= 1 && !alike {
                // The latents of sounds and of 3D have fewer dimensions, and are counted otherwise.
                return Err(Gap::Unbounded("latents of different kinds are added".to_owned()));
            }
            let frames = sum.frames.hull(shape.frames);
            let mixed = is_latent && !same_dimensions(sum, shape);
            let most = if mixed { frames.hi.max(LATENT_CHANNELS_MAX * FRAMES_OF_A_CELL_MAX) } else { frames.hi };
            let tempo = sum.least_tempo(shape);
            let (batch, row) = (sum.batch.hull(shape.batch), sum.row || shape.row);
            Ok(Shape { batch, frames: Interval::between(frames.lo, most), tempo, row, ..sum })
        })
    }

    fn resize_any(&self, from: Shape) -> Result<Shape, Gap> {
        let dotted = |name: &str| format!("resize_type.{name}");
        // A choice that is missing, linked or not in the list is refused elsewhere.
        Ok(match self.node.text("resize_type").ok_or(Gap::Inherited)? {
            "scale by multiplier" => scaled(from, self.float(&dotted("multiplier"))?),
            "scale dimensions" => resized(from, self.int(&dotted("width"))?, self.int(&dotted("height"))?),
            "scale longer dimension" => largest_side(from, self.int(&dotted("longer_size"))?),
            "scale shorter dimension" => shortest_side(from, self.int(&dotted("shorter_size"))?),
            "scale width" => resized(from, self.int(&dotted("width"))?, Interval::exactly(0)),
            "scale height" => resized(from, Interval::exactly(0), self.int(&dotted("height"))?),
            "scale total pixels" => total_pixels(from, self.float(&dotted("megapixels"))?, Interval::exactly(1)),
            "match size" => {
                let like = self.shape(&dotted("match"))?;
                Shape { area: like.area, ratio: like.ratio, ..from.resized(like.width, like.height) }
            }
            _ => return Err(Gap::Unknown),
        })
    }

    fn stitched(&self) -> Result<Shape, Gap> {
        let first = self.shape("image1")?;
        if self.node.input("image2").is_none() {
            return Ok(first);
        }
        let spacing = self.int("spacing_width")?;
        let matched = match self.class.input(self.node, "match_image_size") {
            Some(input) => number(self.facts, self.node, "match_image_size", input.declared()),
            None => Value::Unknown,
        };
        let matched = if let Value::Bool(matched) = matched { matched } else { None };
        Ok(stitched(first, self.shape("image2")?, spacing, self.node.text("direction"), matched))
    }

    fn joined_row(&self, prefix: &str) -> Result<Shape, Gap> {
        let start = format!("{prefix}.");
        let names = self.node.inputs.iter().map(|(name, _)| name.as_str());
        self.joined(names.filter(|name| name.starts_with(&start)))
    }

    /// Those that are given, one after the other.
    fn joined<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Shape, Gap> {
        let mut sum: Option<Shape> = None;
        let mut missing = Gap::Inherited;
        for name in names {
            if self.node.input(name).is_none() {
                missing = self.absent(name);
                continue;
            }
            let shape = self.shape(name)?;
            sum = Some(sum.map_or(shape, |sum| sum.joined(shape)));
        }
        sum.ok_or(missing)
    }

    fn file(&self, input: &str) -> Result<Shape, Gap> {
        // A name that is no literal, and a file that is not there, are refused by the files rule.
        let text = self.node.text(input).ok_or(Gap::Inherited)?;
        let (name, directory) = annotated_name(text).map_err(|_| Gap::Inherited)?;
        let fact = self.facts.files.get(name, directory).ok_or(Gap::Inherited)?;
        let (width, height) = (i128::from(fact.width.max(1)), i128::from(fact.height.max(1)));
        let sides = Interval::between(width, height);
        let frames = Interval::between(1, i128::from(fact.frames.max(1)));
        let picture = Shape { area: width * height, frames, ..Shape::image(sides, sides) };
        let is_mask = self.gives_mask();
        let blank = Interval::exactly(NO_ALPHA_MASK_PIXELS);
        Ok(if is_mask { picture.hull(Shape { frames, ..Shape::image(blank, blank) }) } else { picture })
    }

    fn gives_mask(&self) -> bool {
        self.class.outputs().get(self.slot).is_some_and(|output| output.type_name() == "MASK")
    }

    fn sound_made(&self, rule: &SoundRule) -> Result<Sound, Gap> {
        let seconds = match (&rule.seconds, &rule.frames) {
            (Some(input), _) => self.seconds(input)?,
            (None, Some(frames)) => {
                let rate = self.rate(rule.rate.as_deref().ok_or(Gap::Unknown)?)?;
                FloatInterval::from(self.int(frames)?).over(rate).hi
            }
            (None, None) => return Err(Gap::Unknown),
        };
        let batch = match &rule.batch {
            Some(amount) => self.amount(amount)?.hi.max(1),
            None => 1,
        };
        Ok(Sound { seconds, batch })
    }

    /// Frames a second, above 0.
    fn rate(&self, input: &str) -> Result<FloatInterval, Gap> {
        let declared = self.class.input(self.node, input).ok_or(Gap::Unknown)?.declared();
        if matches!(declared, DeclaredType::Int { .. } | DeclaredType::Float { .. }) {
            // Fewer than one frame a second is none of ComfyUI's rates.
            return Ok(self.number_of(input)?.clamped(1.0, f64::MAX));
        }
        // A socket that takes numbers of both kinds has no range that anybody checks.
        let rate = match number(self.facts, self.node, input, declared) {
            Value::Int(value) => FloatInterval::from(value),
            Value::Float(value) => value,
            Value::Bool(_) | Value::Unknown => return Err(Gap::Unknown),
        };
        if rate.lo > 0.0 { Ok(rate) } else { Err(Gap::Unbounded(format!("{input} may be 0"))) }
    }

    /// A number of seconds, which may be infinite where the policy does not cap them.
    fn seconds(&self, input: &str) -> Result<f64, Gap> {
        Ok(self.number_of(input)?.hi)
    }

    fn number_of(&self, input: &str) -> Result<FloatInterval, Gap> {
        match self.class.input(self.node, input).map(|input| input.declared()) {
            Some(DeclaredType::Int { .. }) => self.int(input).map(FloatInterval::from),
            _ => self.float(input),
        }
    }

    fn sounds(&self, inputs: &[String], join: fn(Sound, Sound) -> Sound) -> Result<Sound, Gap> {
        let all = inputs.iter().map(|input| self.sound(input)).collect::<Result<Vec<_>, _>>()?;
        all.into_iter().reduce(join).ok_or(Gap::Unknown)
    }

    fn sound_file(&self, input: &str) -> Result<Extent, Gap> {
        let text = self.node.text(input).ok_or(Gap::Inherited)?;
        let (name, directory) = annotated_name(text).map_err(|_| Gap::Inherited)?;
        let fact = self.facts.files.get(name, directory).ok_or(Gap::Inherited)?;
        // A few bytes of a compressed sound are hours of it.
        let seconds = match (fact.seconds, self.facts.caps.seconds) {
            (Some(seconds), _) => f64::from(seconds),
            (None, None) => f64::INFINITY,
            (None, Some(_)) => {
                return Err(Gap::Unbounded("nobody knows how long the sound in this file is; plain WAV and FLAC are measured when they are uploaded".to_owned()));
            }
        };
        Ok(sounding(Sound { seconds, batch: 1 }))
    }
}

#[cfg(test)]
mod tests;
