//! What a class does to sizes and numbers, as annotation files say it: `sizes` and `values` of a class.
//!
//! A rule is data; `bounds/transfer.rs` and `bounds/numbers.rs` apply it. It is one JSON value with the rule's name outside, such as `{"same": "image"}`, `{"numbers": 8}` or `"none"`.
//! Inputs are named in full, dotted for dynamic ones.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::bounds::Dialect;

/// What becomes of the size of pictures, latents, masks, films and sounds. Sizes are pixels; a latent's are pixels of the picture that it was declared for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum SizeRule {
    /// `{"by_slot": {"0": RULE, "2": RULE}}`: one for each output by its slot. At the top only.
    BySlot(BTreeMap<usize, SizeRule>),
    /// `"none"`: what comes out has no size of its own that matters, or is too small to count.
    None,
    /// `{"unbounded": "the number of frames comes from a file"}`: the size can't be told, and why. Refused under caps.
    Unbounded(String),
    /// `{"numbers": 8}`: made from its own inputs by their kind (width, height or side; batch; frames), as a latent with so many pixels a cell, or a picture (1).
    Numbers(i128),
    /// `{"made": {…}}`: computed.
    Made(Made),
    /// `{"same": "image"}`: like this input.
    Same(String),
    /// Like this input or turned by 90 degrees.
    Turned(String),
    /// `{"fewer": RULE}`: like the rule says, but perhaps fewer of them.
    Fewer(Box<SizeRule>),
    /// Any part of this input.
    Part(String),
    /// A latent like this input or turned by 90 degrees; a film's latent would change time and height, which is refused.
    TurnedLatent(String),
    /// As LatentCrop does it: at most `width` and `height`, with 8 pixels a cell.
    CropLatent(String),
    /// `{"larger_batch": ["image", "alpha"]}`: the first gives the size, both the count.
    LargerBatch(Vec<String>),
    /// A latent to an image.
    Decode(String),
    /// An image to a latent.
    Encode(String),
    /// To `width` and `height`, of which 0 means "keep the aspect ratio".
    Resize(String),
    /// To `target_width` and `target_height`.
    Target(String),
    /// `{"scale_by": {"of": "image", "by": "scale_by"}}`
    ScaleBy(ScaleBy),
    /// Times the factor of an upscale model.
    UpscaleModel(String),
    /// To so many `megapixels`, sides rounded to multiples of `resolution_steps` where that is an input.
    TotalPixels(String),
    /// `{"largest_side": {"of": "image", "to": "largest_size"}}`: the larger side to this many pixels, 0 keeps it.
    LargestSide(ToSide),
    /// `{"shortest_side": {"of": "image", "to": "shorter_edge"}}`: the shorter side to this many pixels.
    ShortestSide(ToSide),
    /// By `resize_type`, as ResizeImageMaskNode does it.
    ResizeAny(String),
    /// At most `width` and `height`, at most what there is.
    Crop(String),
    /// Plus `left`, `right`, `top`, `bottom`.
    Pad(String),
    /// `"stitch"`: `image1` and `image2` side by side, as ImageStitch does it.
    Stitch,
    /// `{"join": ["image1", "image2"]}`: one batch after the other, at the size of one of them. Absent ones don't count.
    Join(Vec<String>),
    /// `{"join_row": "images"}`: all of an autogrow row in one batch, or all inputs whose names begin so.
    JoinRow(String),
    /// `{"repeat": {"of": "samples", "times": "amount"}}`
    Repeat(Repeat),
    /// To one of FLUX Kontext's own sizes.
    KontextScale(String),
    /// From a file of the caller's.
    File(String),
    /// `{"sampled": {"of": "latent_image", "sampler": "sampler"}}`: like this input, unless the sampler enlarges it.
    Sampled(Sampled),
    /// `{"concat": {"first": "samples1", "second": "samples2", "along": "dim"}}`: two latents beside, above or after one another, as LatentConcat does it.
    Concat(Concat),
    /// `{"cut_to_batch": {"of": "samples", "along": "dim", "size": "slice_size"}}`: slices of a latent as a batch, as LatentCutToBatch does it.
    CutToBatch(CutToBatch),
    /// `{"rebatch": {"of": "images", "size": "batch_size"}}`: all that comes in, in batches of this size.
    Rebatch(Rebatch),
    /// `{"part_of": "image"}`: like this input, and perhaps fewer.
    PartOf(String),
    /// `{"first": {"of": "image", "length": "length"}}`: a part of a batch, of so many at most.
    First(First),
    /// `{"working": {"of": RULE, "times": AMOUNT}}`: like the rule says; but while the node works it takes as many times the memory.
    Working(Box<Working>),
    /// `{"film_file": "file"}`: from a film of the caller's, with its sound.
    FilmFile(String),
    /// `{"as_latent": {"of": RULE, "cell": 4}}`: a latent of cells of so many pixels, of the size that the rule says.
    AsLatent(Box<AsLatent>),
    /// `{"any_of": [RULE, RULE]}`: whichever; all must be bounded.
    AnyOf(Vec<SizeRule>),
    /// `{"fit": {"of": "image", "width": "width", "height": "height", "multiple": "multiple_of", "how": "within"}}`: to a width and height, as packs do it.
    Fit(Fit),
    /// `{"join_counted": {"row": "image_", "count": "inputcount", "first": "image_1"}}`: all inputs whose names begin so in one batch, and so many blank ones that there are as many as the number says.
    JoinCounted(JoinCounted),
    /// `{"by_choice": {"by": "method", "of": {"stretch": RULE}, "otherwise": RULE}}`: as a literal choice says; all of them where it is none.
    ByChoice(Box<ByChoice>),
    /// `{"if_given": {"input": "start_image", "then": RULE, "else": RULE}}`
    IfGiven(Box<IfGiven>),
    /// `{"switch": {"by": "switch", "on_true": "on_true", "on_false": "on_false"}}`: one of two inputs, or both where the switch is not known.
    Switch(Switch),
    /// `{"times": {"of": RULE, "width": 2, "height": 2}}`: a multiple of what the rule says.
    Times(Box<Times>),
    /// `{"sound": {"seconds": "duration"}}`: sound, or its latent.
    Sound(SoundRule),
    /// `{"picture_of": "video"}`: the pictures of an input that may have sound too.
    PictureOf(String),
    /// `{"sound_of": "video"}`: the sound of an input that may have pictures too.
    SoundOf(String),
    /// `{"film": {"pictures": "images", "sound": "audio"}}`: both in one.
    Film(Film),
    /// `{"sound_join": ["audio1", "audio2"]}`: one after the other.
    SoundJoin(Vec<String>),
    /// `{"sound_longest": ["audio1", "audio2"]}`: as long as the longer one.
    SoundLongest(Vec<String>),
    /// `{"sound_at_most": {"of": "audio", "seconds": "duration"}}`: as long as this input, and no longer than the number.
    SoundAtMost(SoundAtMost),
    /// `{"sound_file": "audio"}`: from a file of the caller's.
    SoundFile(String),
}

impl SizeRule {
    /// The rule of the output `slot`.
    pub(crate) fn of_slot(&self, slot: usize) -> Option<&SizeRule> {
        match self {
            Self::BySlot(rules) => rules.get(&slot),
            rule => Some(rule),
        }
    }
}

/// A size that is computed from inputs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Made {
    /// Pixels.
    pub(crate) width: Amount,
    /// Pixels.
    pub(crate) height: Amount,
    /// Pictures or latents; 1 unless said.
    pub(crate) batch: Option<Amount>,
    /// Frames of each; 1 unless said.
    pub(crate) frames: Option<Amount>,
    /// Pixels a cell of a latent; 1 (a picture) unless said.
    #[serde(default = "one")]
    pub(crate) cell: i128,
    /// Frames that one cell of a film's latent stands for, at least; 1 unless said.
    #[serde(default = "one")]
    pub(crate) tempo: i128,
}

fn one() -> i128 {
    1
}

/// A whole number that a rule computes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    /// `64`
    Exactly(i64),
    /// `"length"`: the value of this INT input.
    Input(String),
    /// `{"plus": ["length", 4]}` and the like.
    Of(Box<Formula>),
}

/// How a number is computed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Formula {
    /// Pixels.
    WidthOf(String),
    /// Pixels.
    HeightOf(String),
    /// Pictures in the batch.
    BatchOf(String),
    /// Frames of each.
    FramesOf(String),
    /// Pictures in all: batch × frames.
    CountOf(String),
    /// The sum.
    Plus(Vec<Amount>),
    /// The first less the second, at least 0.
    Minus(Box<(Amount, Amount)>),
    /// The product.
    Times(Vec<Amount>),
    /// The first divided by the second, rounded up.
    Over(Box<(Amount, Amount)>),
    /// The smallest.
    Least(Vec<Amount>),
    /// The largest.
    Greatest(Vec<Amount>),
    /// A FLOAT input, rounded up.
    Ceil(String),
    /// `{"if_given": ["reference_image", 1, 0]}`: the second where the input is there, the third where it is not.
    IfGiven(Box<(String, Amount, Amount)>),
    /// How many inputs have names that begin so.
    Given(String),
    /// Anything between the smallest and the largest.
    Between(Vec<Amount>),
    /// Cells of a latent across.
    CellsAcross(String),
    /// Cells of a latent from top to bottom.
    CellsDown(String),
    /// Items of the list that this input brings.
    ItemsOf(String),
    /// How many JSON objects this text can hold.
    ObjectsIn(String),
    /// How many JSON arrays this text can hold.
    ArraysIn(String),
}

/// See [`SizeRule::ScaleBy`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleBy {
    pub(crate) of: String,
    /// A FLOAT input.
    pub(crate) by: String,
}

/// See [`SizeRule::LargestSide`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToSide {
    pub(crate) of: String,
    /// An INT input.
    pub(crate) to: String,
}

/// See [`SizeRule::Repeat`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repeat {
    pub(crate) of: String,
    /// An INT input or a number.
    pub(crate) times: Amount,
}

/// See [`SizeRule::Sampled`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sampled {
    pub(crate) of: String,
    /// A SAMPLER input.
    pub(crate) sampler: String,
}

/// See [`SizeRule::Concat`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Concat {
    pub(crate) first: String,
    pub(crate) second: String,
    /// A choice: `x`, `y` or `t`, with or without a minus.
    pub(crate) along: String,
}

/// See [`SizeRule::CutToBatch`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CutToBatch {
    pub(crate) of: String,
    /// A choice: `x`, `y` or `t`.
    pub(crate) along: String,
    /// Cells of one slice.
    pub(crate) size: Amount,
}

/// See [`SizeRule::Rebatch`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rebatch {
    pub(crate) of: String,
    pub(crate) size: Amount,
}

/// See [`SizeRule::First`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct First {
    pub(crate) of: String,
    /// An INT input.
    pub(crate) length: String,
}

/// See [`SizeRule::Working`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Working {
    pub(crate) of: SizeRule,
    pub(crate) times: Amount,
}

/// See [`SizeRule::AsLatent`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AsLatent {
    pub(crate) of: SizeRule,
    pub(crate) cell: i128,
}

/// See [`SizeRule::SoundAtMost`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SoundAtMost {
    pub(crate) of: String,
    pub(crate) seconds: String,
}

/// See [`SizeRule::Fit`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fit {
    pub(crate) of: String,
    /// INT inputs; 0 is none.
    pub(crate) width: String,
    pub(crate) height: String,
    /// An INT input: sides are cut to its multiples.
    pub(crate) multiple: Option<String>,
    pub(crate) how: How,
}

/// What is done where the ratio is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// The picture is stretched; a side of 0 is the picture's own.
    Stretch,
    /// The picture fits into it; a side of 0 follows from the other.
    Within,
    /// And is padded.
    Pad,
    /// The same, and then padded on to the next multiple.
    PadUp,
    /// It is scaled until it covers all, and cut.
    Cover,
    /// It gets as many pixels as width times height.
    Pixels,
}

/// See [`SizeRule::JoinCounted`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinCounted {
    pub(crate) row: String,
    /// An INT input.
    pub(crate) count: String,
    pub(crate) first: String,
}

/// See [`SizeRule::ByChoice`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByChoice {
    /// The input that chooses.
    pub(crate) by: String,
    pub(crate) of: BTreeMap<String, SizeRule>,
    /// For a choice that is none of these.
    pub(crate) otherwise: SizeRule,
}

/// See [`SizeRule::IfGiven`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IfGiven {
    pub(crate) input: String,
    pub(crate) then: SizeRule,
    #[serde(rename = "else")]
    pub(crate) otherwise: SizeRule,
}

/// One of two inputs, as a BOOLEAN says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    pub(crate) by: String,
    pub(crate) on_true: String,
    pub(crate) on_false: String,
}

/// See [`SizeRule::Times`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Times {
    pub(crate) of: SizeRule,
    pub(crate) width: Option<Amount>,
    pub(crate) height: Option<Amount>,
    pub(crate) batch: Option<Amount>,
    pub(crate) frames: Option<Amount>,
}

/// See [`SizeRule::Sound`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SoundRule {
    /// A FLOAT or INT input, in seconds.
    pub(crate) seconds: Option<String>,
    /// Frames divided by the input `rate`, in frames a second.
    pub(crate) frames: Option<String>,
    pub(crate) rate: Option<String>,
    /// How many; 1 unless said.
    pub(crate) batch: Option<Amount>,
}

/// What is known of an INT, FLOAT, BOOLEAN or STRING output.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ValueRule {
    /// `{"input": "value"}`: the value of this input, literal or linked.
    Input(String),
    /// Pixels.
    WidthOf(String),
    /// Pixels.
    HeightOf(String),
    /// Pictures in all: batch × frames.
    CountOf(String),
    /// Characters of this text.
    LengthOf(String),
    /// Pixels across what the output of this slot is.
    OwnWidth(usize),
    /// Pixels from top to bottom.
    OwnHeight(usize),
    /// `{"range": [0, 100]}`
    Range(f64, f64),
    /// One of two inputs.
    Switch(Switch),
    /// A computed whole number.
    Amount(Amount),
    /// `{"expression": {"text": "expression", "row": "values", "gives": "int"}}`: arithmetic in a text.
    Expression(Expression),
    /// `{"convert": {"of": "value", "gives": "int"}}`: a number, truth value or text of digits as a number of another kind.
    Convert(Convert),
    /// `{"resolution": "width"}`: as `ResolutionSelector` computes it from `aspect_ratio`, `megapixels` and `multiple`.
    Resolution(Side),
    /// `{"choice": {"by": "aspect_ratio", "of": {"portrait 512x768": [512, 768]}, "otherwise": ["width", "height"], "times": "prescale_factor"}}`: what a choice stands for, one of these numbers.
    Choice(Choice),
}

/// See [`ValueRule::Expression`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expression {
    /// The input that holds the text.
    pub(crate) text: String,
    /// An autogrow row: the names after the dot are the variables.
    pub(crate) row: Option<String>,
    /// Inputs whose names are the variables.
    #[serde(default)]
    pub(crate) inputs: Vec<String>,
    /// What a variable is that is not given; without it, a fault.
    pub(crate) absent: Option<f64>,
    /// Whose expressions they are.
    #[serde(default)]
    pub(crate) dialect: Dialect,
    /// What is done with the result.
    pub(crate) gives: Gives,
}

/// What an output makes of a Python number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Gives {
    /// `float(x)`
    Float,
    /// `int(x)`
    Int,
    /// `round(x)`
    Rounded,
    /// `bool(x)`
    Boolean,
}

/// See [`ValueRule::Convert`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Convert {
    pub(crate) of: String,
    pub(crate) gives: Gives,
}

/// See [`ValueRule::Resolution`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    Width,
    Height,
}

/// See [`ValueRule::Choice`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// The input that chooses.
    pub(crate) by: String,
    /// Whole numbers by choice.
    pub(crate) of: BTreeMap<String, Vec<i64>>,
    /// INT inputs, one of which counts where the choice is none of these.
    #[serde(default)]
    pub(crate) otherwise: Vec<String>,
    /// A FLOAT input that it is multiplied by, and rounded down.
    pub(crate) times: Option<String>,
}

/// See [`SizeRule::Film`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Film {
    pub(crate) pictures: String,
    /// An optional input.
    pub(crate) sound: Option<String>,
}

/// How many items a list output has in one run of the node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ListRule {
    /// `{"at_most": AMOUNT}`
    AtMost(Amount),
    /// `{"items_of": ["images"]}`: as many as all of these inputs bring together. For a class that takes whole lists.
    ItemsOf(Vec<String>),
    /// `{"unbounded": "as many as the folder holds"}`
    Unbounded(String),
    /// `{"rebatch": {"of": "images", "size": "batch_size"}}`
    Rebatch(Rebatch),
}
