//! A slow, plain evaluator of generated graphs: what ComfyUI 0.8.0 really makes, in concrete numbers.
//!
//! Written from what ComfyUI's functions do and not from the engine's transfer functions, whose judge it is. No intervals, no caps: one value for each output, `Raises` where ComfyUI's
//! function would raise (what depends on it does not run), `Unknown` for classes that are not here. Tensors are never made, only their dimensions.

use std::collections::{BTreeMap, HashMap};

use comfygate_policy::fuzzing::generator::{Given, Graph, GraphNode};
use serde_json::Value;

/// A concrete value of an output.
#[derive(Debug, Clone, PartialEq)]
pub enum Thing {
    /// Images × height × width × channels.
    Image { n: i128, h: i128, w: i128, c: i128 },
    /// Masks × height × width.
    Mask { n: i128, h: i128, w: i128 },
    /// The dimensions of the tensor, with the pixels of a cell and the frames of a latent frame in the model that it was made for.
    Latent { dims: Vec<i128>, cell: i128, time: i128 },
    /// A whole number.
    Int(i128),
    /// A double.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// Sounds × channels × samples, samples a second.
    Audio { n: i128, c: i128, samples: i128, rate: i128 },
    /// Frames, height, width.
    Video { n: i128, h: i128, w: i128, c: i128, sound: Option<Box<Thing>> },
    /// How many numbers a schedule has: one more than its steps.
    Sigmas(i128),
    /// A model or the like.
    Other,
}

/// What a node gives in one output.
#[derive(Debug, Clone, PartialEq)]
pub enum Given1 {
    /// A list of values: one, but for classes that give lists.
    List(Vec<Thing>),
    /// ComfyUI's function raises, or needs what another would have given.
    Raises,
    /// Nobody wrote down what this class does.
    Unknown,
}

/// What is in the files that graphs name: width, height, frames, whether there is an alpha channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Picture {
    /// Pixels.
    pub w: i128,
    /// Pixels.
    pub h: i128,
    /// Frames.
    pub n: i128,
    /// Has transparency.
    pub alpha: bool,
}

/// What the installation is like.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Files by name.
    pub files: HashMap<String, Picture>,
    /// Pixels of a cell in the VAE that is loaded.
    pub vae_scale: i128,
}

/// The largest number of numbers that any node makes, for those who run the graph somewhere.
pub fn largest(values: &BTreeMap<(usize, usize), Given1>) -> i128 {
    let product = |sides: &[i128]| sides.iter().fold(1, |product: i128, side| product.saturating_mul(*side));
    let size = |thing: &Thing| match thing {
        Thing::Image { n, h, w, c } => product(&[*n, *h, *w, *c]),
        Thing::Mask { n, h, w } => product(&[*n, *h, *w]),
        Thing::Latent { dims, .. } => product(dims),
        Thing::Audio { n, c, samples, .. } => product(&[*n, *c, *samples]),
        Thing::Video { n, h, w, c, .. } => product(&[*n, *h, *w, *c]),
        Thing::Sigmas(n) => *n,
        Thing::Text(text) => i128::try_from(text.len()).unwrap(),
        _ => 1,
    };
    let sum = |given: &Given1| match given {
        Given1::List(things) => things.iter().map(size).sum(),
        _ => 0,
    };
    values.values().map(sum).max().unwrap_or(0)
}

/// The values of every output, by place of the node and slot.
pub fn evaluate(graph: &Graph, world: &World) -> BTreeMap<(usize, usize), Given1> {
    let mut out: BTreeMap<(usize, usize), Given1> = BTreeMap::new();
    for (place, node) in graph.nodes.iter().enumerate() {
        for (slot, given) in node_outputs(node, &out, world).into_iter().enumerate() {
            out.insert((place, slot), given);
        }
    }
    out
}

fn node_outputs(node: &GraphNode, known: &BTreeMap<(usize, usize), Given1>, world: &World) -> Vec<Given1> {
    let count = node.outputs.len();
    let mut lists: BTreeMap<&str, Vec<Thing>> = BTreeMap::new();
    // A lazy switch asks for one side only: whatever happens on the other does not matter.
    let skipped = lazy_side(node, known);
    for (name, given) in &node.inputs {
        if Some(name.as_str()) == skipped {
            continue;
        }
        match given {
            Given::Literal(value) => {
                lists.insert(name, vec![literal(value)]);
            }
            Given::Link(place, slot) => match known.get(&(*place, *slot)) {
                Some(Given1::List(things)) => {
                    lists.insert(name, things.clone());
                }
                Some(Given1::Raises) => return vec![Given1::Raises; count],
                Some(Given1::Unknown) | None => return vec![Given1::Unknown; count],
            },
        }
    }
    if takes_lists(&node.class) {
        return of_lists(&node.class, &lists);
    }
    // ComfyUI runs a function once for each item of the longest list, with the last item of shorter ones again.
    let rounds = lists.values().map(Vec::len).max().unwrap_or(1);
    if lists.values().any(Vec::is_empty) {
        return vec![Given1::Unknown; count];
    }
    let mut gathered: Vec<Vec<Thing>> = vec![Vec::new(); count];
    for round in 0..rounds {
        let now: BTreeMap<&str, &Thing> =
            lists.iter().map(|(name, list)| (*name, &list[round.min(list.len() - 1)])).collect();
        match once(&node.class, &Args { now, world }) {
            Ran::Gives(things) => gathered.iter_mut().zip(things).for_each(|(list, thing)| list.push(thing)),
            Ran::Raises => return vec![Given1::Raises; count],
            Ran::Unknown => return vec![Given1::Unknown; count],
        }
    }
    gathered.into_iter().map(Given1::List).collect()
}

fn lazy_side<'a>(node: &'a GraphNode, known: &BTreeMap<(usize, usize), Given1>) -> Option<&'a str> {
    if node.class != "ComfySwitchNode" {
        return None;
    }
    let switch = match node.input("switch")? {
        Given::Literal(Value::Bool(value)) => *value,
        Given::Link(place, slot) => match known.get(&(*place, *slot))? {
            Given1::List(things) => match things.first()? {
                Thing::Bool(value) => *value,
                _ => return None,
            },
            _ => return None,
        },
        Given::Literal(_) => return None,
    };
    Some(if switch { "on_false" } else { "on_true" })
}

fn literal(value: &Value) -> Thing {
    match value {
        Value::Bool(value) => Thing::Bool(*value),
        Value::Number(number) if number.is_f64() => Thing::Float(number.as_f64().unwrap()),
        Value::Number(number) => Thing::Int(number.to_string().parse().unwrap()),
        Value::String(text) => Thing::Text(text.clone()),
        _ => Thing::Other,
    }
}

/// What one call gave.
enum Ran {
    Gives(Vec<Thing>),
    Raises,
    Unknown,
}

struct Args<'a> {
    now: BTreeMap<&'a str, &'a Thing>,
    world: &'a World,
}

impl Args<'_> {
    fn int(&self, name: &str) -> Option<i128> {
        match self.now.get(name)? {
            Thing::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Python takes an int for a float.
    fn float(&self, name: &str) -> Option<f64> {
        match self.now.get(name)? {
            Thing::Float(value) => Some(*value),
            Thing::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    fn bool(&self, name: &str) -> Option<bool> {
        match self.now.get(name)? {
            Thing::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.now.get(name)? {
            Thing::Text(text) => Some(text),
            _ => None,
        }
    }

    fn image(&self, name: &str) -> Option<[i128; 4]> {
        match self.now.get(name)? {
            Thing::Image { n, h, w, c } => Some([*n, *h, *w, *c]),
            _ => None,
        }
    }

    fn mask(&self, name: &str) -> Option<[i128; 3]> {
        match self.now.get(name)? {
            Thing::Mask { n, h, w } => Some([*n, *h, *w]),
            _ => None,
        }
    }

    fn latent(&self, name: &str) -> Option<(Vec<i128>, i128, i128)> {
        match self.now.get(name)? {
            Thing::Latent { dims, cell, time } => Some((dims.clone(), *cell, *time)),
            _ => None,
        }
    }

    fn sigmas(&self, name: &str) -> Option<i128> {
        match self.now.get(name)? {
            Thing::Sigmas(count) => Some(*count),
            _ => None,
        }
    }

    fn audio(&self, name: &str) -> Option<[i128; 4]> {
        match self.now.get(name)? {
            Thing::Audio { n, c, samples, rate } => Some([*n, *c, *samples, *rate]),
            _ => None,
        }
    }

    /// The items of a row of inputs, in the order of their names as declared: `image0`, `image1` …
    fn row(&self, prefix: &str) -> Vec<&Thing> {
        let mut found: Vec<(usize, &Thing)> = self
            .now
            .iter()
            .filter_map(|(name, thing)| {
                let number = name.strip_prefix(prefix)?.trim_start_matches(|c: char| !c.is_ascii_digit());
                Some((number.parse().ok()?, *thing))
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, thing)| thing).collect()
    }
}

fn image(n: i128, h: i128, w: i128, c: i128) -> Thing {
    Thing::Image { n, h, w, c }
}

fn mask(n: i128, h: i128, w: i128) -> Thing {
    Thing::Mask { n, h, w }
}

fn latent(dims: Vec<i128>, cell: i128, time: i128) -> Thing {
    Thing::Latent { dims, cell, time }
}

/// Python's `round` of a float: halves to even.
fn round(value: f64) -> i128 {
    value.round_ties_even() as i128
}

/// Python's `int` of a float: towards zero.
fn int(value: f64) -> i128 {
    value.trunc() as i128
}

/// `a / b` of Python's whole numbers.
fn quotient(a: i128, b: i128) -> f64 {
    a as f64 / b as f64
}

/// Python's `//`.
fn floor_div(a: i128, b: i128) -> i128 {
    a.div_euclid(b)
}

/// The length of `[start:end]` of something `len` long, with Python's rules for ends that are negative or too large.
fn slice(len: i128, start: i128, end: i128) -> i128 {
    let place = |at: i128| if at < 0 { (at + len).max(0) } else { at.min(len) };
    (place(end) - place(start)).max(0)
}

/// Whether `torch.nn.functional.interpolate` takes these sizes.
fn can_scale(w: i128, h: i128, to_w: i128, to_h: i128) -> bool {
    w > 0 && h > 0 && to_w > 0 && to_h > 0
}

/// The same for a method that may be `area`, which gives nothing at all where the others raise.
fn scales(w: i128, h: i128, to_w: i128, to_h: i128, pooled: bool) -> bool {
    can_scale(w, h, to_w, to_h) || (pooled && w > 0 && h > 0 && to_w >= 0 && to_h >= 0)
}

/// Whether cutting to the other aspect leaves anything: `common_upscale(.., crop="center")` rounds what it cuts.
fn can_crop(w: i128, h: i128, to_w: i128, to_h: i128) -> bool {
    if !can_scale(w, h, to_w, to_h) {
        return false;
    }
    let (old, new) = (quotient(w, h), quotient(to_w, to_h));
    let (mut x, mut y) = (0, 0);
    if old > new {
        x = round((w as f64 - w as f64 * (new / old)) / 2.0);
    } else if old < new {
        y = round((h as f64 - h as f64 * (old / new)) / 2.0);
    }
    w - 2 * x > 0 && h - 2 * y > 0
}

/// The class's function is applied; `?` on a missing or ill-typed argument means that ComfyUI's function would raise.
fn once(class: &str, args: &Args<'_>) -> Ran {
    match raised(class, args) {
        Some(Some(things)) => Ran::Gives(things),
        Some(None) => Ran::Unknown,
        None => Ran::Raises,
    }
}

/// `None`: raises. `Some(None)`: not written down here.
fn raised(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    if let Some(things) = numbers(class, a)? {
        return Some(Some(things));
    }
    if let Some(things) = images(class, a)? {
        return Some(Some(things));
    }
    if let Some(things) = masks(class, a)? {
        return Some(Some(things));
    }
    if let Some(things) = latents(class, a)? {
        return Some(Some(things));
    }
    if let Some(things) = empty_latents(class, a)? {
        return Some(Some(things));
    }
    if let Some(things) = schedules(class, a)? {
        return Some(Some(things));
    }
    sounds(class, a)
}

fn numbers(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let one = |thing: Thing| Some(Some(vec![thing]));
    match class {
        "PrimitiveInt" => one(Thing::Int(a.int("value")?)),
        "PrimitiveFloat" => one(Thing::Float(a.float("value")?)),
        "PrimitiveBoolean" => one(Thing::Bool(a.bool("value")?)),
        "PrimitiveString" | "PrimitiveStringMultiline" => one(Thing::Text(a.text("value")?.to_owned())),
        "ComfySwitchNode" => {
            let side = if a.bool("switch")? { "on_true" } else { "on_false" };
            one((*a.now.get(side)?).clone())
        }
        "GetImageSize" => {
            let [n, h, w, _] = a.image("image")?;
            Some(Some(vec![Thing::Int(w), Thing::Int(h), Thing::Int(n)]))
        }
        "StringLength" => one(Thing::Int(i128::try_from(a.text("string")?.chars().count()).ok()?)),
        "StringConcatenate" => {
            let delimiter = a.text("delimiter").unwrap_or("");
            one(Thing::Text([a.text("string_a")?, a.text("string_b")?].join(delimiter)))
        }
        "StringSubstring" => {
            let text: Vec<char> = a.text("string")?.chars().collect();
            let len = i128::try_from(text.len()).ok()?;
            let (start, end) = (a.int("start")?, a.int("end")?);
            let from = if start < 0 { (start + len).max(0) } else { start.min(len) };
            let count = slice(len, start, end);
            one(Thing::Text(text.iter().skip(usize::try_from(from).ok()?).take(usize::try_from(count).ok()?).collect()))
        }
        "CaseConverter" => {
            let text = a.text("string")?;
            match a.text("mode")? {
                "UPPERCASE" => one(Thing::Text(text.to_uppercase())),
                "lowercase" => one(Thing::Text(text.to_lowercase())),
                // Python's `capitalize`: the first letter in title case (`ß` becomes `Ss`), the rest small.
                "Capitalize" => {
                    let mut chars = text.chars();
                    let mut first = chars.next().into_iter().flat_map(char::to_uppercase);
                    let large: String = first.next().into_iter().collect();
                    let small: String = first.flat_map(char::to_lowercase).collect();
                    one(Thing::Text(large + &small + &chars.as_str().to_lowercase()))
                }
                _ => Some(None),
            }
        }
        "StringTrim" => {
            let text = a.text("string")?;
            one(Thing::Text(
                match a.text("mode")? {
                    "Both" => text.trim(),
                    "Left" => text.trim_start(),
                    "Right" => text.trim_end(),
                    _ => text,
                }
                .to_owned(),
            ))
        }
        "StringReplace" => one(Thing::Text(a.text("string")?.replace(a.text("find")?, a.text("replace")?))),
        "StringContains" => {
            let (text, part) = (a.text("string")?, a.text("substring")?);
            let found = if a.bool("case_sensitive")? {
                text.contains(part)
            } else {
                text.to_lowercase().contains(&part.to_lowercase())
            };
            one(Thing::Bool(found))
        }
        "StringCompare" => {
            let same = a.bool("case_sensitive")?;
            let side = |name: &str| a.text(name).map(|text| if same { text.to_owned() } else { text.to_lowercase() });
            let (x, y) = (side("string_a")?, side("string_b")?);
            one(Thing::Bool(match a.text("mode")? {
                "Equal" => x == y,
                "Starts With" => x.starts_with(&y),
                _ => x.ends_with(&y),
            }))
        }
        _ => Some(None),
    }
}

fn images(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let one = |thing: Thing| Some(Some(vec![thing]));
    let pooled = a.text("upscale_method") == Some("area");
    let scaled = |source: [i128; 4], w: i128, h: i128| {
        scales(source[2], source[1], w, h, pooled).then(|| Some(vec![image(source[0], h, w, source[3])]))
    };
    match class {
        "EmptyImage" => {
            let (w, h, n) = (a.int("width")?, a.int("height")?, a.int("batch_size").unwrap_or(1));
            (w >= 0 && h >= 0 && n >= 0).then(|| Some(vec![image(n, h, w, 3)]))
        }
        "LoadImage" | "LoadImageOutput" => {
            let file = a.world.files.get(a.text("image")?)?;
            let (w, h) = if file.alpha { (file.w, file.h) } else { (64, 64) };
            Some(Some(vec![image(file.n, file.h, file.w, 3), mask(file.n, h, w)]))
        }
        "ImageInvert" | "ImageBlur" | "ImageSharpen" | "ImageQuantize" | "ImageAddNoise" | "Canny" | "Morphology"
        | "NormalizeImages" | "AdjustBrightness" | "AdjustContrast" | "LTXVPreprocess" | "ImageYUVToRGB" => {
            let name = ["image", "images", "Y"].into_iter().find(|name| a.now.contains_key(name))?;
            let [n, h, w, c] = a.image(name)?;
            one(image(n, h, w, if class == "Canny" || class == "ImageYUVToRGB" { 3 } else { c }))
        }
        "ImageRGBToYUV" => {
            let [n, h, w, c] = a.image("image")?;
            Some(Some(vec![image(n, h, w, c); 3]))
        }
        "ImageCrop" => {
            let [n, h, w, c] = a.image("image")?;
            let (x, y) = (a.int("x")?.min(w - 1), a.int("y")?.min(h - 1));
            one(image(n, slice(h, y, a.int("height")? + y), slice(w, x, a.int("width")? + x), c))
        }
        "ImageScale" => {
            let source = a.image("image")?;
            let [_, old_h, old_w, _] = source;
            let (mut w, mut h) = (a.int("width")?, a.int("height")?);
            if w == 0 && h == 0 {
                return one(image(source[0], source[1], source[2], source[3]));
            }
            if w == 0 {
                w = round(quotient(old_w * h, old_h)).max(1);
            } else if h == 0 {
                h = round(quotient(old_h * w, old_w)).max(1);
            }
            if a.text("crop") == Some("center") && !can_crop(old_w, old_h, w, h) {
                // Pillow makes a picture of the size that is asked for of one without pixels too.
                let by_pillow = a.text("upscale_method") == Some("lanczos") && can_scale(old_w, old_h, w, h);
                return by_pillow.then(|| Some(vec![image(source[0], h, w, source[3])]));
            }
            scaled(source, w, h)
        }
        "ImageScaleBy" => {
            let source = a.image("image")?;
            let by = a.float("scale_by")?;
            scaled(source, round(source[2] as f64 * by), round(source[1] as f64 * by))
        }
        "ImageScaleToTotalPixels" => {
            let source = a.image("image")?;
            let (w, h) = (source[2] as f64, source[1] as f64);
            let total = a.float("megapixels")? * 1024.0 * 1024.0;
            let by = (total / (source[2] * source[1]) as f64).sqrt();
            let steps = a.int("resolution_steps").unwrap_or(1);
            (steps > 0).then_some(())?;
            let side = |side: f64| round(side * by / steps as f64).saturating_mul(steps);
            scaled(source, side(w), side(h))
        }
        "ImageScaleToMaxDimension" => {
            let source = a.image("image")?;
            let (w, h) = longest(source[2], source[1], a.int("largest_size")?);
            scaled(source, w, h)
        }
        "ResizeImagesByLongerEdge" => {
            let [n, h, w, c] = a.image("images")?;
            let edge = a.int("longer_edge")?;
            let (w, h) = if w > h {
                (edge, int(h as f64 * quotient(edge, w)))
            } else {
                (int(w as f64 * quotient(edge, h)), edge)
            };
            (w > 0 && h > 0).then(|| Some(vec![image(n, h, w, c)]))
        }
        "ResizeImagesByShorterEdge" => {
            let [n, h, w, c] = a.image("images")?;
            let edge = a.int("shorter_edge")?;
            let (w, h) = if w < h {
                (edge, int(h as f64 * quotient(edge, w)))
            } else {
                (int(w as f64 * quotient(edge, h)), edge)
            };
            // More than one image is no picture for PIL.
            (w > 0 && h > 0 && n == 1).then(|| Some(vec![image(1, h, w, c)]))
        }
        "CenterCropImages" | "RandomCropImages" => {
            let [n, h, w, c] = a.image("images")?;
            let (to_w, to_h) = (a.int("width")?, a.int("height")?);
            // Pillow refuses a box whose right end lies left of its left one.
            (n == 1 && to_w >= 0 && to_h >= 0).then_some(())?;
            one(image(1, h.min(to_h), w.min(to_w), c))
        }
        "ResizeImageMaskNode" => resized(a),
        "ResizeAndPadImage" => {
            let [n, h, w, c] = a.image("image")?;
            let (to_w, to_h) = (a.int("target_width")?, a.int("target_height")?);
            let by = quotient(to_w, w).min(quotient(to_h, h));
            can_scale(w, h, int(w as f64 * by), int(h as f64 * by)).then(|| Some(vec![image(n, to_h, to_w, c)]))
        }
        "ImagePadForOutpaint" => {
            let [n, h, w, c] = a.image("image")?;
            let (h, w) = (h + a.int("top")? + a.int("bottom")?, w + a.int("left")? + a.int("right")?);
            Some(Some(vec![image(n, h, w, c), mask(1, h, w)]))
        }
        "ImageBatch" => {
            let ([n1, h1, w1, c1], [n2, h2, w2, c2]) = (a.image("image1")?, a.image("image2")?);
            let same = (h1, w1) == (h2, w2);
            (same || can_crop(w2, h2, w1, h1)).then(|| Some(vec![image(n1 + n2, h1, w1, c1.max(c2))]))
        }
        "BatchImagesNode" => {
            let all: Option<Vec<[i128; 4]>> = a.row("images.").into_iter().map(image_dims).collect();
            let all = all?;
            let [_, h, w, _] = *all.first()?;
            let fits = all.iter().all(|of| (of[1], of[2]) == (h, w) || can_crop(of[2], of[1], w, h));
            let c = all.iter().map(|of| of[3]).max()?;
            fits.then(|| Some(vec![image(all.iter().map(|of| of[0]).sum(), h, w, c)]))
        }
        "RepeatImageBatch" => {
            let [n, h, w, c] = a.image("image")?;
            let times = a.int("amount")?;
            (times >= 0).then(|| Some(vec![image(n.saturating_mul(times), h, w, c)]))
        }
        "ImageFromBatch" => {
            let [n, h, w, c] = a.image("image")?;
            let from = a.int("batch_index")?.min(n - 1);
            let length = a.int("length")?.min(n - from);
            one(image(slice(n, from, from + length), h, w, c))
        }
        "ImageRotate" => {
            let [n, h, w, c] = a.image("image")?;
            let turned = a.text("rotation")?.starts_with("90") || a.text("rotation")?.starts_with("270");
            one(if turned { image(n, w, h, c) } else { image(n, h, w, c) })
        }
        "ImageFlip" => {
            let [n, h, w, c] = a.image("image")?;
            one(image(n, h, w, c))
        }
        "ImageStitch" => stitched(a),
        "ImageBlend" => {
            let ([n1, h1, w1, c1], [n2, h2, w2, c2]) = (a.image("image1")?, a.image("image2")?);
            let same = (h1, w1) == (h2, w2);
            // The smaller number of images has to be one, for torch to spread it.
            let n = broadcast(n1, n2)?;
            // Fewer channels are filled up, more are cut.
            (same || can_crop(w2, h2, w1, h1)).then(|| Some(vec![image(n, h1, w1, c1.max(c1.min(c2)))]))
        }
        "ImageCompositeMasked" => {
            let ([n, h, w, c], [_, _, _, _]) = (a.image("destination")?, a.image("source")?);
            one(image(n, h, w, c))
        }
        "FluxKontextImageScale" => {
            const LIKED: [(i128, i128); 17] = [
                (672, 1568),
                (688, 1504),
                (720, 1456),
                (752, 1392),
                (800, 1328),
                (832, 1248),
                (880, 1184),
                (944, 1104),
                (1024, 1024),
                (1104, 944),
                (1184, 880),
                (1248, 832),
                (1328, 800),
                (1392, 752),
                (1456, 720),
                (1504, 688),
                (1568, 672),
            ];
            let [n, h, w, c] = a.image("image")?;
            let aspect = quotient(w, h);
            let far = |(w, h): &(i128, i128)| (aspect - quotient(*w, *h)).abs();
            let (to_w, to_h) = LIKED.into_iter().min_by(|x, y| far(x).total_cmp(&far(y)).then(x.cmp(y)))?;
            can_crop(w, h, to_w, to_h).then(|| Some(vec![image(n, to_h, to_w, c)]))
        }
        "PorterDuffImageComposite" => {
            let ([n1, _, _, c1], [n2, h, w, c2]) = (a.image("source")?, a.image("destination")?);
            let ([m1, _, _], [m2, _, _]) = (a.mask("source_alpha")?, a.mask("destination_alpha")?);
            let n = n1.min(n2).min(m1).min(m2);
            (c1 == c2 && n > 0).then(|| Some(vec![image(n, h, w, c2), mask(n, h, w)]))
        }
        "SplitImageWithAlpha" => {
            let [n, h, w, c] = a.image("image")?;
            (n > 0).then(|| Some(vec![image(n, h, w, c.min(3)), mask(n, h, w)]))
        }
        "JoinImageWithAlpha" => {
            let ([n, h, w, c], [m, _, _]) = (a.image("image")?, a.mask("alpha")?);
            (n.min(m) > 0).then(|| Some(vec![image(n.min(m), h, w, c.min(3) + 1)]))
        }
        "VAEDecode" | "VAEDecodeTiled" => {
            let (dims, _, time) = a.latent("samples")?;
            let s = a.world.vae_scale;
            match dims.as_slice() {
                [n, _, h, w] => one(image(*n, h * s, w * s, 3)),
                [n, _, t, h, w] => one(image(n * ((t - 1) * time + 1), h * s, w * s, 3)),
                _ => Some(None),
            }
        }
        _ => Some(None),
    }
}

/// ComfyUI's rounding of the other side when the longer one is given.
fn longest(w: i128, h: i128, size: i128) -> (i128, i128) {
    if h > w {
        (round(quotient(w, h) * size as f64), size)
    } else if w > h {
        (size, round(quotient(h, w) * size as f64))
    } else {
        (size, size)
    }
}

/// torch spreads a dimension of one.
fn broadcast(a: i128, b: i128) -> Option<i128> {
    match (a, b) {
        _ if a == b => Some(a),
        (1, n) | (n, 1) => Some(n),
        _ => None,
    }
}

fn image_dims(thing: &Thing) -> Option<[i128; 4]> {
    match thing {
        Thing::Image { n, h, w, c } => Some([*n, *h, *w, *c]),
        _ => None,
    }
}

fn resized(a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let source = *a.now.get("input")?;
    let (n, h, w) = match source {
        Thing::Image { n, h, w, .. } | Thing::Mask { n, h, w } => (*n, *h, *w),
        _ => return None,
    };
    let with = |w: i128, h: i128| match source {
        Thing::Image { c, .. } => image(n, h, w, *c),
        _ => mask(n, h, w),
    };
    let own = |name: &str| a.int(&format!("resize_type.{name}"));
    let crop = a.text("resize_type.crop").unwrap_or("center") == "center";
    let mut cropped = false;
    let (to_w, to_h) = match a.text("resize_type")? {
        "scale by multiplier" => {
            let by = a.float("resize_type.multiplier")?;
            (round(w as f64 * by), round(h as f64 * by))
        }
        kind @ ("scale dimensions" | "scale width" | "scale height") => {
            let to_w = if kind == "scale height" { 0 } else { own("width")? };
            let to_h = if kind == "scale width" { 0 } else { own("height")? };
            cropped = crop && kind == "scale dimensions";
            match (to_w, to_h) {
                (0, 0) => return Some(Some(vec![source.clone()])),
                (0, to_h) => (round(quotient(w * to_h, h)).max(1), to_h),
                (to_w, 0) => (to_w, round(quotient(h * to_w, w)).max(1)),
                both => both,
            }
        }
        "scale longer dimension" => longest(w, h, own("longer_size")?),
        "scale shorter dimension" => {
            let size = own("shorter_size")?;
            if h < w {
                (round(quotient(w, h) * size as f64), size)
            } else {
                // A picture that is higher than wide ends here too: ComfyUI 0.8.0 asks the same question twice.
                (size, size)
            }
        }
        "scale total pixels" => {
            let total = int(a.float("resize_type.megapixels")? * 1024.0 * 1024.0);
            let by = quotient(total, w * h).sqrt();
            (round(w as f64 * by), round(h as f64 * by))
        }
        "match size" => {
            cropped = crop;
            match *a.now.get("resize_type.match")? {
                Thing::Image { h, w, .. } | Thing::Mask { h, w, .. } => (*w, *h),
                _ => return None,
            }
        }
        _ => return None,
    };
    if cropped && !can_crop(w, h, to_w, to_h) {
        return None;
    }
    let pooled = a.text("scale_method") == Some("area");
    scales(w, h, to_w, to_h, pooled).then(|| Some(vec![with(to_w, to_h)]))
}

fn stitched(a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let [n1, h1, w1, c1] = a.image("image1")?;
    if !a.now.contains_key("image2") {
        return Some(Some(vec![image(n1, h1, w1, c1)]));
    }
    let [n2, mut h2, mut w2, c2] = a.image("image2")?;
    let sideways = matches!(a.text("direction")?, "left" | "right");
    if a.bool("match_image_size")? {
        let aspect = quotient(w2, h2);
        (h2, w2) = if sideways { (h1, int(h1 as f64 * aspect)) } else { (int(w1 as f64 / aspect), w1) };
        if h2 <= 0 || w2 <= 0 {
            return None;
        }
    }
    let mut space = a.int("spacing_width")?;
    space = if space > 0 { space + space.rem_euclid(2) } else { 0 };
    let (n, c) = (n1.max(n2), c1.max(c2));
    let made =
        if sideways { image(n, h1.max(h2), w1 + w2 + space, c) } else { image(n, h1 + h2 + space, w1.max(w2), c) };
    Some(Some(vec![made]))
}

fn masks(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let one = |thing: Thing| Some(Some(vec![thing]));
    match class {
        "SolidMask" => {
            let (w, h) = (a.int("width")?, a.int("height")?);
            (w >= 0 && h >= 0).then(|| Some(vec![mask(1, h, w)]))
        }
        "LoadImageMask" => {
            let file = a.world.files.get(a.text("image")?)?;
            // Whatever has no alpha is made RGBA first, so the channel is there.
            one(mask(1, file.h, file.w))
        }
        "InvertMask" | "FeatherMask" | "GrowMask" | "ThresholdMask" => {
            let [n, h, w] = a.mask("mask")?;
            one(mask(n, h, w))
        }
        "MaskToImage" => {
            let [n, h, w] = a.mask("mask")?;
            one(image(n, h, w, 3))
        }
        "ImageToMask" => {
            let [n, h, w, c] = a.image("image")?;
            (a.text("channel")? != "alpha" || c > 3).then(|| Some(vec![mask(n, h, w)]))
        }
        "ImageColorToMask" => {
            let [n, h, w, _] = a.image("image")?;
            one(mask(n, h, w))
        }
        "CropMask" => {
            let [n, h, w] = a.mask("mask")?;
            let (x, y) = (a.int("x")?, a.int("y")?);
            one(mask(n, slice(h, y, y + a.int("height")?), slice(w, x, x + a.int("width")?)))
        }
        "MaskComposite" => {
            let ([n, h, w], [m, _, _]) = (a.mask("destination")?, a.mask("source")?);
            // The part of the destination is written in place: it can't grow.
            (n == m || m == 1).then(|| Some(vec![mask(n, h, w)]))
        }
        "BatchMasksNode" => {
            let all: Option<Vec<[i128; 3]>> = a
                .row("masks.")
                .into_iter()
                .map(|thing| match thing {
                    Thing::Mask { n, h, w } => Some([*n, *h, *w]),
                    _ => None,
                })
                .collect();
            let all = all?;
            let [_, h, w] = *all.first()?;
            let fits = all.iter().all(|of| (of[1], of[2]) == (h, w) || can_crop(of[2], of[1], w, h));
            fits.then(|| Some(vec![mask(all.iter().map(|of| of[0]).sum(), h, w)]))
        }
        _ => Some(None),
    }
}

/// `reshape_latent_to(.., repeat_batch=False)`: the last two dimensions of `to`, where any but the first differs.
fn reshaped(to: &[i128], from: &[i128]) -> Option<Vec<i128>> {
    if to.get(1..)? == from.get(1..)? {
        return Some(from.to_vec());
    }
    let (&[.., h, w], &[.., to_h, to_w]) = (from, to) else { return None };
    if from.len() < 4 || !can_crop(w, h, to_w, to_h) {
        return None;
    }
    let mut out = from.to_vec();
    let count = out.len();
    (out[count - 2], out[count - 1]) = (to_h, to_w);
    Some(out)
}

/// All but dimension `at` must be the same for `torch.cat`.
fn joined(a: &[i128], b: &[i128], at: usize) -> Option<Vec<i128>> {
    let fits = a.len() == b.len() && a.iter().zip(b).enumerate().all(|(place, (x, y))| place == at || x == y);
    let mut out = a.to_vec();
    *out.get_mut(at)? += *b.get(at)?;
    fits.then_some(out)
}

fn latents(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let one = |thing: Thing| Some(Some(vec![thing]));
    match class {
        "VAEEncode" | "VAEEncodeTiled" => {
            let [n, h, w, _] = a.image("pixels")?;
            let s = a.world.vae_scale;
            one(latent(vec![n, 4, floor_div(h, s), floor_div(w, s)], s, 1))
        }
        "LatentUpscale" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            let [.., old_h, old_w] = dims[..] else { return None };
            let (mut w, mut h) = (a.int("width")?, a.int("height")?);
            if w == 0 && h == 0 {
                return one(latent(dims, cell, time));
            }
            if w == 0 {
                h = h.max(64);
                w = round(quotient(old_w * h, old_h)).max(64);
            } else if h == 0 {
                w = w.max(64);
                h = round(quotient(old_h * w, old_w)).max(64);
            } else {
                (w, h) = (w.max(64), h.max(64));
            }
            let (w, h) = (floor_div(w, 8), floor_div(h, 8));
            if dims.len() < 4 || (a.text("crop") == Some("center") && !can_crop(old_w, old_h, w, h)) {
                return None;
            }
            let count = dims.len();
            (dims[count - 2], dims[count - 1]) = (h, w);
            // ComfyUI divides by 8 here whatever the model is.
            can_scale(old_w, old_h, w, h).then(|| Some(vec![latent(dims, cell, time)]))
        }
        "LatentUpscaleBy" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            let [.., old_h, old_w] = dims[..] else { return None };
            let by = a.float("scale_by")?;
            let (w, h) = (round(old_w as f64 * by), round(old_h as f64 * by));
            let count = dims.len();
            (dims[count - 2], dims[count - 1]) = (h, w);
            let pooled = a.text("upscale_method") == Some("area");
            (count >= 4 && scales(old_w, old_h, w, h, pooled)).then(|| Some(vec![latent(dims, cell, time)]))
        }
        "LatentFromBatch" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            let from = a.int("batch_index")?.min(dims[0] - 1);
            dims[0] = slice(dims[0], from, from + a.int("length")?.min(dims[0] - from));
            one(latent(dims, cell, time))
        }
        "RepeatLatentBatch" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            dims[0] = dims[0].saturating_mul(a.int("amount")?);
            (dims[0] >= 0).then(|| Some(vec![latent(dims, cell, time)]))
        }
        // With an unknown model: the number of channels may change, and a film's model adds a dimension of one.
        "KSampler" | "KSamplerAdvanced" => {
            let (dims, cell, time) = a.latent("latent_image")?;
            one(latent(dims, cell, time))
        }
        "SetLatentNoiseMask" | "LatentMultiply" | "LatentBatchSeedBehavior" | "NormalizeVideoLatentStart" => {
            let name = if a.now.contains_key("latent") { "latent" } else { "samples" };
            let (dims, cell, time) = a.latent(name)?;
            one(latent(dims, cell, time))
        }
        "LatentRotate" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            // The third and fourth dimension, also where these are time and height.
            if dims.len() < 4 {
                return None;
            }
            if a.text("rotation")?.starts_with("90") || a.text("rotation")?.starts_with("270") {
                dims.swap(2, 3);
            }
            one(latent(dims, cell, time))
        }
        "LatentFlip" | "LatentComposite" | "LatentCompositeMasked" => {
            let name = ["samples", "samples_to", "destination"].into_iter().find(|name| a.now.contains_key(name))?;
            let (dims, cell, time) = a.latent(name)?;
            one(latent(dims, cell, time))
        }
        "LatentCrop" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            // The third and fourth dimension, also where these are time and height.
            let [_, _, h, w, ..] = dims[..] else { return Some(None) };
            let (x, y) = ((a.int("x")? / 8).min(w - 8), (a.int("y")? / 8).min(h - 8));
            dims[2] = slice(h, y, floor_div(a.int("height")?, 8) + y);
            dims[3] = slice(w, x, floor_div(a.int("width")?, 8) + x);
            one(latent(dims, cell, time))
        }
        "LatentAdd" | "LatentSubtract" | "LatentInterpolate" | "LatentBlend" => {
            let ((to, cell, time), (from, of_cell, of_time)) = (a.latent("samples1")?, a.latent("samples2")?);
            if class == "LatentBlend" && to.len() != from.len() {
                return Some(None);
            }
            let mut from = reshaped(&to, &from)?;
            if class != "LatentBlend" {
                from[0] = to[0];
            }
            // A film's latent has one dimension more. torch aligns the last ones, so that the channels of a picture's latent meet the frames of a film's.
            let rank = to.len().max(from.len());
            let aligned = |dims: &[i128]| [vec![1; rank - dims.len()], dims.to_vec()].concat();
            let dims: Option<Vec<i128>> =
                aligned(&to).into_iter().zip(aligned(&from)).map(|(x, y)| broadcast(x, y)).collect();
            one(latent(dims?, cell.min(of_cell), time.min(of_time)))
        }
        "LatentConcat" => {
            let ((to, cell, time), (mut from, cell2, time2)) = (a.latent("samples1")?, a.latent("samples2")?);
            from[0] = to[0];
            let dim = a.text("dim")?;
            let back = if dim.contains('x') {
                1
            } else if dim.contains('y') {
                2
            } else {
                3
            };
            let at = to.len().checked_sub(back)?;
            one(latent(joined(&to, &from, at)?, cell.min(cell2), time.min(time2)))
        }
        "LatentCut" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            let dim = a.text("dim")?;
            let back = if dim.contains('x') {
                1
            } else if dim.contains('y') {
                2
            } else {
                3
            };
            let at = dims.len().checked_sub(back)?;
            let (index, amount, size) = (a.int("index")?, a.int("amount")?, dims[at]);
            dims[at] = if index >= 0 { amount.min(size - index.min(size - 1)) } else { amount.min(-index.max(-size)) };
            (dims[at] >= 0).then(|| Some(vec![latent(dims, cell, time)]))
        }
        "LatentCutToBatch" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            let dim = a.text("dim")?;
            let back = if dim.contains('x') {
                1
            } else if dim.contains('y') {
                2
            } else {
                3
            };
            let at = dims.len().checked_sub(back)?;
            if at < 2 {
                return one(latent(dims, cell, time));
            }
            let size = dims[at];
            let piece = a.int("slice_size")?.min(size);
            (piece > 0).then_some(())?;
            dims[0] *= size / piece;
            dims[at] = piece;
            one(latent(dims, cell, time))
        }
        "LatentBatch" | "BatchLatentsNode" => {
            let all: Vec<&Thing> = if class == "LatentBatch" {
                vec![*a.now.get("samples1")?, *a.now.get("samples2")?]
            } else {
                a.row("latents.")
            };
            let mut sum: Option<(Vec<i128>, i128, i128)> = None;
            for thing in all {
                let Thing::Latent { dims, cell, time } = thing else { return None };
                sum = Some(match sum {
                    None => (dims.clone(), *cell, *time),
                    Some((to, of_cell, of_time)) => {
                        (joined(&to, &reshaped(&to, dims)?, 0)?, of_cell.min(*cell), of_time.min(*time))
                    }
                });
            }
            let (dims, cell, time) = sum?;
            one(latent(dims, cell, time))
        }
        "ReplaceVideoLatentFrames" => {
            let (dims, cell, time) = a.latent("destination")?;
            one(latent(dims, cell, time))
        }
        "TrimVideoLatent" => {
            let (mut dims, cell, time) = a.latent("samples")?;
            let size = *dims.get(2)?;
            dims[2] = slice(size, a.int("trim_amount")?, size);
            one(latent(dims, cell, time))
        }
        _ => Some(None),
    }
}

fn empty_latents(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let good = |dims: Vec<i128>, cell: i128, time: i128| {
        dims.iter().all(|size| *size >= 0).then(|| Some(vec![latent(dims, cell, time)]))
    };
    let n = a.int("batch_size").unwrap_or(1);
    let flat = |channels: i128, cell: i128| {
        let (w, h) = (a.int("width")?, a.int("height")?);
        good(vec![n, channels, floor_div(h, cell), floor_div(w, cell)], cell, 1)
    };
    let film = |channels: i128, cell: i128, time: i128| {
        let (w, h, length) = (a.int("width")?, a.int("height")?, a.int("length")?);
        let frames = floor_div(length - 1, time) + 1;
        good(vec![n, channels, frames, floor_div(h, cell), floor_div(w, cell)], cell, time)
    };
    match class {
        "EmptyLatentImage" => flat(4, 8),
        "EmptySD3LatentImage" => flat(16, 8),
        "EmptyFlux2LatentImage" => flat(128, 16),
        "EmptyHunyuanImageLatent" => flat(64, 32),
        "EmptyChromaRadianceLatentImage" => flat(3, 1),
        "EmptyHunyuanLatentVideo" => film(16, 8, 4),
        "EmptyHunyuanVideo15Latent" => film(32, 16, 4),
        "EmptyMochiLatentVideo" => film(12, 8, 6),
        "EmptyLTXVLatentVideo" => film(128, 32, 8),
        "EmptyCosmosLatentVideo" => film(16, 8, 8),
        "EmptyQwenImageLayeredLatentImage" => {
            let (w, h, layers) = (a.int("width")?, a.int("height")?, a.int("layers")?);
            // Each layer is an image of its own.
            good(vec![n, 16, layers + 1, floor_div(h, 8), floor_div(w, 8)], 8, 1)
        }
        "StableCascade_EmptyLatentImage" => {
            let (w, h, by) = (a.int("width")?, a.int("height")?, a.int("compression")?);
            (by > 0).then_some(())?;
            let (c, b) =
                (vec![n, 16, floor_div(h, by), floor_div(w, by)], vec![n, 4, floor_div(h, 4), floor_div(w, 4)]);
            Some(Some(vec![latent(c, by, 1), latent(b, 4, 1)]))
        }
        "EmptyLatentAudio" => {
            let length = round((a.float("seconds")? * 44100.0 / 2048.0) / 2.0) * 2;
            good(vec![n, 64, length], 1, 1)
        }
        "EmptyAceStepLatentAudio" => good(vec![n, 8, 16, int(a.float("seconds")? * 44100.0 / 512.0 / 8.0)], 1, 1),
        "EmptyLatentHunyuan3Dv2" => good(vec![n, 64, a.int("resolution")?], 1, 1),
        _ => Some(None),
    }
}

fn schedules(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let one = |count: i128| Some(Some(vec![Thing::Sigmas(count)]));
    match class {
        "KarrasScheduler"
        | "ExponentialScheduler"
        | "PolyexponentialScheduler"
        | "VPScheduler"
        | "LTXVScheduler"
        | "Flux2Scheduler" => one(a.int("steps")? + 1),
        // The one that appends no zero.
        "LaplaceScheduler" => one(a.int("steps")?),
        "AlignYourStepsScheduler" | "OptimalStepsScheduler" | "GITSScheduler" => {
            let (steps, denoise) = (a.int("steps")?, a.float("denoise").unwrap_or(1.0));
            if denoise <= 0.0 {
                return one(0);
            }
            let total = if denoise < 1.0 { round(steps as f64 * denoise) } else { steps };
            one((total + 1).min(steps + 1))
        }
        "BasicScheduler" => {
            let (steps, denoise) = (a.int("steps")?, a.float("denoise").unwrap_or(1.0));
            if denoise <= 0.0 {
                return one(0);
            }
            let total = if denoise < 1.0 { int(steps as f64 / denoise) } else { steps };
            // The stride of `ddim_uniform` is a whole number: it makes more steps than it was asked for. The others make no more.
            let made = match a.text("scheduler")? {
                "ddim_uniform" => {
                    let stride = (1000 / total.max(1)).max(1);
                    // One for each place from 1 on, and the closing zero.
                    (999 + stride - 1) / stride + 1
                }
                _ => total + 1,
            };
            one(made.min(steps + 1))
        }
        "SDTurboScheduler" => {
            let start = 10 - int(10.0 * a.float("denoise")?);
            one(slice(10, start, start + a.int("steps")?) + 1)
        }
        "BetaSamplingScheduler" => one(a.int("steps")? + 1),
        "ManualSigmas" => one(found_numbers(a.text("sigmas")?)),
        "SplitSigmas" => {
            let (count, step) = (a.sigmas("sigmas")?, a.int("step")?);
            Some(Some(vec![Thing::Sigmas(slice(count, 0, step + 1)), Thing::Sigmas(slice(count, step, count))]))
        }
        "SplitSigmasDenoise" => {
            let (count, denoise) = (a.sigmas("sigmas")?, a.float("denoise")?);
            let total = round((count - 1).max(0) as f64 * denoise);
            // `[:-0]` is `[:0]`.
            let (high, low) = (slice(count, 0, -total), slice(count, -(total + 1), count));
            Some(Some(vec![Thing::Sigmas(if total == 0 { 0 } else { high }), Thing::Sigmas(low)]))
        }
        "FlipSigmas" => one(a.sigmas("sigmas")?),
        "SetFirstSigma" => {
            let count = a.sigmas("sigmas")?;
            (count > 0).then(|| Some(vec![Thing::Sigmas(count)]))
        }
        _ => Some(None),
    }
}

/// How often Python's `re.findall(r"[-+]?(?:\d*\.*\d+)", text)` finds something, for texts of ASCII digits.
fn found_numbers(text: &str) -> i128 {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut found) = (0, 0);
    let digits = |mut at: usize| {
        while chars.get(at).is_some_and(char::is_ascii_digit) {
            at += 1;
        }
        at
    };
    while at < chars.len() {
        let start = at + usize::from(matches!(chars[at], '-' | '+'));
        let first = digits(start);
        let mut dots = first;
        while chars.get(dots) == Some(&'.') {
            dots += 1;
        }
        let end = digits(dots);
        // Without digits at the end the expression takes back the dots, and ends with the first run.
        let stop = if end > dots { end } else { first };
        if stop > start {
            found += 1;
            at = stop;
        } else {
            at += 1;
        }
    }
    found
}

fn sounds(class: &str, a: &Args<'_>) -> Option<Option<Vec<Thing>>> {
    let one = |[n, c, samples, rate]: [i128; 4]| Some(Some(vec![Thing::Audio { n, c, samples, rate }]));
    // torchaudio's resampling rounds up.
    let resampled = |[n, c, samples, rate]: [i128; 4], to: i128| {
        if rate == to { [n, c, samples, rate] } else { [n, c, (to * samples + rate - 1) / rate, to] }
    };
    match class {
        "EmptyAudio" => {
            let (duration, rate, c) = (a.float("duration")?, a.int("sample_rate")?, a.int("channels")?);
            let samples = round(duration * rate as f64);
            (samples >= 0 && c > 0 && rate > 0).then(|| Some(vec![Thing::Audio { n: 1, c, samples, rate }]))
        }
        "AudioAdjustVolume" => one(a.audio("audio")?),
        "TrimAudioDuration" => {
            let [n, c, length, rate] = a.audio("audio")?;
            let (start, duration) = (a.float("start_index")?, a.float("duration")?);
            let from = round(start * rate as f64) + if start < 0.0 { length } else { 0 };
            let from = from.min(length - 1).max(0);
            let to = (from + round(duration * rate as f64)).min(length).max(0);
            (from < to).then(|| Some(vec![Thing::Audio { n, c, samples: to - from, rate }]))
        }
        "SplitAudioChannels" => {
            let [n, c, samples, rate] = a.audio("audio")?;
            (c == 2).then(|| Some(vec![Thing::Audio { n, c: 1, samples, rate }; 2]))
        }
        "AudioConcat" => {
            let (x, y) = (a.audio("audio1")?, a.audio("audio2")?);
            let rate = x[3].max(y[3]);
            let (x, y) = (resampled(x, rate), resampled(y, rate));
            (x[0] == y[0]).then(|| Some(vec![Thing::Audio { n: x[0], c: 2, samples: x[2] + y[2], rate }]))
        }
        "AudioMerge" => {
            let (x, y) = (a.audio("audio1")?, a.audio("audio2")?);
            let rate = x[3].max(y[3]);
            let x = resampled(x, rate);
            (x[2] > 0).then_some(())?;
            one([x[0].max(y[0]), x[1].max(y[1]), x[2], rate])
        }
        "CreateVideo" => {
            let [n, h, w, c] = a.image("images")?;
            let sound = a.now.get("audio").map(|thing| Box::new((*thing).clone()));
            Some(Some(vec![Thing::Video { n, h, w, c, sound }]))
        }
        "GetVideoComponents" => match *a.now.get("video")? {
            Thing::Video { n, h, w, c, sound } => {
                let sound = sound.as_ref().map_or(Thing::Other, |sound| (**sound).clone());
                Some(Some(vec![image(*n, *h, *w, *c), sound, Thing::Other]))
            }
            _ => None,
        },
        "CheckpointLoaderSimple" | "VAELoader" | "UNETLoader" | "CLIPLoader" | "CLIPTextEncode" => {
            Some(Some(vec![Thing::Other, Thing::Other, Thing::Other]))
        }
        _ => Some(None),
    }
}

/// Classes whose function gets whole lists.
fn takes_lists(class: &str) -> bool {
    matches!(
        class,
        "RebatchImages" | "RebatchLatents" | "ImageGrid" | "MergeImageLists" | "ShuffleDataset" | "ImageDeduplication"
    )
}

/// Items of a list that are written down one by one; of more nobody says what they are.
const ITEMS_MAX: i128 = 100_000;

fn of_lists(class: &str, lists: &BTreeMap<&str, Vec<Thing>>) -> Vec<Given1> {
    let first = |name: &str| match lists.get(name).and_then(|list| list.first()) {
        Some(Thing::Int(value)) => Some(*value),
        _ => None,
    };
    let images = || {
        let list = lists.get("images")?;
        list.iter().map(image_dims).collect::<Option<Vec<_>>>()
    };
    let batches = |total: i128| first("batch_size").is_some_and(|size| size > 0 && total / size > ITEMS_MAX);
    let many = match class {
        "RebatchImages" => images().is_some_and(|list| batches(list.iter().map(|of| of[0]).sum())),
        "RebatchLatents" => match lists.get("latents").map(Vec::as_slice) {
            Some([Thing::Latent { dims, .. }]) => dims.first().is_some_and(|total| batches(*total)),
            _ => false,
        },
        _ => false,
    };
    if many {
        return vec![Given1::Unknown];
    }
    let found = match class {
        "RebatchImages" => images().zip(first("batch_size")).and_then(|(list, size)| {
            let same = list.windows(2).all(|pair| pair[0][1..] == pair[1][1..]);
            let total: i128 = list.iter().map(|of| of[0]).sum();
            let [_, h, w, c] = *list.first()?;
            (same && size > 0).then(|| {
                (0..(total + size - 1) / size).map(|part| image(size.min(total - part * size), h, w, c)).collect()
            })
        }),
        "MergeImageLists" | "ShuffleDataset" => lists.get("images").cloned(),
        "ImageGrid" => images().and_then(|list| {
            let (columns, w, h, space) =
                (first("columns")?, first("cell_width")?, first("cell_height")?, first("padding")?);
            (columns > 0).then_some(())?;
            let rows = (i128::try_from(list.len()).ok()? + columns - 1) / columns;
            let fits = list.iter().all(|of| of[0] == 1);
            let (w, h) = (columns * w + (columns - 1) * space, rows * h + (rows - 1) * space);
            fits.then(|| vec![image(1, h, w, 3)])
        }),
        "RebatchLatents" => rebatched(lists, first("batch_size")),
        _ => return vec![Given1::Unknown],
    };
    vec![found.map_or(Given1::Raises, Given1::List)]
}

/// Only for a list of one, which is what generated graphs have in nearly all cases.
fn rebatched(lists: &BTreeMap<&str, Vec<Thing>>, size: Option<i128>) -> Option<Vec<Thing>> {
    let (list, size) = (lists.get("latents")?, size.filter(|size| *size > 0)?);
    let [Thing::Latent { dims, cell, time }] = list.as_slice() else { return None };
    let total = *dims.first()?;
    (dims.len() >= 4).then(|| {
        (0..(total + size - 1) / size)
            .map(|part| {
                let mut dims = dims.clone();
                dims[0] = size.min(total - part * size);
                latent(dims, *cell, *time)
            })
            .collect()
    })
}

/// Classes that the evaluator knows and that make graphs worth looking at.
///
/// The other annotated core classes that make sizes or numbers are left out because what they make depends on what is no number of the graph:
/// - a model or its VAE: `ImageUpscaleWithModel`, the `LTXV…`, `Wan…`, `Hunyuan…ToVideo`, `Cosmos…ToVideo`, `Kandinsky5…`, `SV3D…`, `SVD…`, `StableZero123…`, `StableCascade_StageC…` and `InpaintModelConditioning`,
///   whose latents are as long and as fine as the model's VAE says, `AddNoise`, `SamplerCustom` and `SamplerCustomAdvanced` (as `KSampler`, which is here);
/// - a file's content: `LoadLatent`, `LoadVideo`, `LoadAudio`, `Load3D`, `RecordAudio`, `WebcamCapture`, the loaders of data sets;
/// - what is in the pictures: `ImageDeduplication`, `ResolutionBucket`;
/// - the text of tracks: `GenerateTracks` and the `WanMove…` classes.
pub const CLASSES: &[&str] = &[
    "PrimitiveInt",
    "PrimitiveFloat",
    "PrimitiveBoolean",
    "PrimitiveString",
    "ComfySwitchNode",
    "GetImageSize",
    "StringLength",
    "StringConcatenate",
    "StringSubstring",
    "CaseConverter",
    "StringTrim",
    "StringReplace",
    "StringContains",
    "StringCompare",
    "EmptyImage",
    "LoadImage",
    "LoadImageMask",
    "ImageInvert",
    "ImageBlur",
    "ImageSharpen",
    "ImageQuantize",
    "ImageAddNoise",
    "Canny",
    "Morphology",
    "ImageRGBToYUV",
    "ImageYUVToRGB",
    "ImageCrop",
    "ImageScale",
    "ImageScaleBy",
    "ImageScaleToTotalPixels",
    "ImageScaleToMaxDimension",
    "ResizeImagesByLongerEdge",
    "ResizeImagesByShorterEdge",
    "CenterCropImages",
    "RandomCropImages",
    "NormalizeImages",
    "AdjustBrightness",
    "AdjustContrast",
    "ResizeImageMaskNode",
    "ResizeAndPadImage",
    "ImagePadForOutpaint",
    "ImageBatch",
    "BatchImagesNode",
    "RepeatImageBatch",
    "ImageFromBatch",
    "ImageRotate",
    "ImageFlip",
    "ImageStitch",
    "ImageBlend",
    "ImageCompositeMasked",
    "FluxKontextImageScale",
    "PorterDuffImageComposite",
    "SplitImageWithAlpha",
    "JoinImageWithAlpha",
    "VAEDecode",
    "VAEEncode",
    "SolidMask",
    "InvertMask",
    "FeatherMask",
    "GrowMask",
    "ThresholdMask",
    "MaskToImage",
    "ImageToMask",
    "ImageColorToMask",
    "CropMask",
    "MaskComposite",
    "BatchMasksNode",
    "LatentUpscale",
    "LatentUpscaleBy",
    "LatentFromBatch",
    "RepeatLatentBatch",
    "SetLatentNoiseMask",
    "LatentMultiply",
    "LatentBatchSeedBehavior",
    "LatentRotate",
    "LatentFlip",
    "LatentComposite",
    "LatentCompositeMasked",
    "LatentCrop",
    "LatentAdd",
    "LatentSubtract",
    "LatentInterpolate",
    "LatentBlend",
    "LatentConcat",
    "LatentCut",
    "LatentCutToBatch",
    "LatentBatch",
    "BatchLatentsNode",
    "ReplaceVideoLatentFrames",
    "TrimVideoLatent",
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "EmptyFlux2LatentImage",
    "EmptyHunyuanImageLatent",
    "EmptyChromaRadianceLatentImage",
    "EmptyHunyuanLatentVideo",
    "EmptyHunyuanVideo15Latent",
    "EmptyMochiLatentVideo",
    "EmptyLTXVLatentVideo",
    "EmptyCosmosLatentVideo",
    "EmptyQwenImageLayeredLatentImage",
    "StableCascade_EmptyLatentImage",
    "EmptyLatentAudio",
    "EmptyAceStepLatentAudio",
    "EmptyLatentHunyuan3Dv2",
    "KarrasScheduler",
    "ExponentialScheduler",
    "PolyexponentialScheduler",
    "LaplaceScheduler",
    "VPScheduler",
    "LTXVScheduler",
    "Flux2Scheduler",
    "AlignYourStepsScheduler",
    "OptimalStepsScheduler",
    "GITSScheduler",
    "SDTurboScheduler",
    "BetaSamplingScheduler",
    "BasicScheduler",
    "ManualSigmas",
    "SplitSigmas",
    "SplitSigmasDenoise",
    "FlipSigmas",
    "SetFirstSigma",
    "EmptyAudio",
    "AudioAdjustVolume",
    "TrimAudioDuration",
    "SplitAudioChannels",
    "AudioConcat",
    "AudioMerge",
    "CreateVideo",
    "GetVideoComponents",
    "RebatchImages",
    "RebatchLatents",
    "ImageGrid",
    "MergeImageLists",
    "ShuffleDataset",
    "VAEDecodeTiled",
    "VAEEncodeTiled",
    "NormalizeVideoLatentStart",
    "KSampler",
    "KSamplerAdvanced",
];
