//! What the classes do. Classes without models really compute; samplers are simulated: they take their time, report
//! progress and give a picture drawn from the seed. A class that is not here ends in an error that says so.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::value::{Latent, Value};
use super::{Entry, Preview, Run, Stop};
use crate::catalogue::Catalogue;
use crate::events::Audience;
use crate::files;
use crate::json::{Json, dict};
use crate::packs;
use crate::picture::{Picture, PictureError};
use crate::python;

/// Output types that only models understand; classes that give nothing else are passed through.
const OPAQUE_TYPES: [&str; 20] = [
    "MODEL",
    "CLIP",
    "VAE",
    "CONDITIONING",
    "CONTROL_NET",
    "STYLE_MODEL",
    "CLIP_VISION",
    "CLIP_VISION_OUTPUT",
    "GLIGEN",
    "UPSCALE_MODEL",
    "HOOKS",
    "HOOK_KEYFRAMES",
    "SAMPLER",
    "SIGMAS",
    "GUIDER",
    "NOISE",
    "MODEL_PATCH",
    "AUDIO_ENCODER",
    "PHOTOMAKER",
    "LATENT_UPSCALE_MODEL",
];

/// Pixels of a latent's side in the decoded picture.
const LATENT_SCALE: usize = 8;

/// What a node came to.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Done(Entry),
    /// It wants this lazy input first.
    Needs(String),
}

type Arguments = IndexMap<String, Value>;
type Ran = Result<Vec<Value>, Stop>;

impl From<PictureError> for Stop {
    fn from(error: PictureError) -> Stop {
        Stop::Raised("RuntimeError", format!("{}\n", error.0))
    }
}

fn raised(kind: &'static str, text: impl std::fmt::Display) -> Stop {
    Stop::Raised(kind, format!("{text}\n"))
}

/// Runs one node: faults first, then the class.
pub fn run_node(
    run: &mut Run<'_>,
    id: &str,
    catalogue: Catalogue<'_>,
    arguments: &Arguments,
    undeclared: &[String],
) -> Result<Outcome, Stop> {
    let class = run.prompt.at(&[id, "class_type"]).and_then(Json::as_str).unwrap_or_default().to_owned();
    if let Some(needed) = lazy_need(run, id, &class, arguments) {
        return Ok(Outcome::Needs(needed));
    }
    run.check_interrupt()?;
    run.process.fault_of_node()?;
    let hidden = catalogue.hidden(&class);
    let unexpected = undeclared.iter().find(|name| {
        let known = (class == "PreviewImage" && *name == "filename_prefix") || hidden.contains(name);
        !known
    });
    if let Some(name) = unexpected {
        return Err(raised(
            "TypeError",
            format!("{class}.{}() got an unexpected keyword argument '{name}'", function_of(&class)),
        ));
    }
    let node = Node { id, class: &class, arguments };
    if let Some(ui) = output_node(run, &node)? {
        let shown = ui.as_dict().is_some_and(|ui| !ui.is_empty());
        return Ok(Outcome::Done(Entry { outputs: Vec::new(), ui: shown.then_some(ui) }));
    }
    let outputs = match compute(run, &node)? {
        Some(outputs) => outputs,
        None => simulate(run, &node, catalogue)?,
    };
    Ok(Outcome::Done(Entry { outputs, ui: None }))
}

/// The Python function behind a class, as far as errors name it; classes of the newer kind all have `execute`.
fn function_of(class: &str) -> &'static str {
    match class {
        "GateProbeSleep" | "GateProbeFail" | "GateProbeSize" => "run",
        "SaveImage" | "PreviewImage" | "SaveImageWebsocket" => "save_images",
        "EmptyImage" | "EmptyLatentImage" => "generate",
        "LoadImage" | "LoadImageMask" | "LoadImageOutput" => "load_image",
        "ImageScale" | "ImageScaleBy" | "LatentUpscale" | "LatentUpscaleBy" => "upscale",
        "ImageInvert" => "invert",
        "ImageBatch" => "batch",
        "KSampler" | "KSamplerAdvanced" => "sample",
        "VAEDecode" | "VAEDecodeTiled" => "decode",
        "VAEEncode" | "CLIPTextEncode" => "encode",
        "CheckpointLoaderSimple" => "load_checkpoint",
        _ => "execute",
    }
}

/// The switch evaluates only the side it takes.
fn lazy_need(run: &Run<'_>, id: &str, class: &str, arguments: &Arguments) -> Option<String> {
    if class != "ComfySwitchNode" {
        return None;
    }
    let side = switch_side(arguments);
    let linked = run.prompt.at(&[id, "inputs", side]).is_some_and(|value| super::as_link(value).is_some());
    (linked && !arguments.contains_key(side)).then(|| side.to_owned())
}

fn switch_side(arguments: &Arguments) -> &'static str {
    let on = matches!(arguments.get("switch"), Some(Value::Json(value)) if value.truthy());
    if on { "on_true" } else { "on_false" }
}

struct Node<'a> {
    id: &'a str,
    class: &'a str,
    arguments: &'a Arguments,
}

impl Node<'_> {
    fn missing(&self, name: &str, value: Option<&Value>) -> Stop {
        match value {
            None => raised("TypeError", format!("{}.execute() missing 1 required argument: '{name}'", self.class)),
            Some(value) => raised("TypeError", format!("{}: `{name}` cannot be {}", self.class, value.shown().dumps())),
        }
    }

    fn image(&self, name: &str) -> Result<&Arc<Picture>, Stop> {
        match self.arguments.get(name) {
            Some(Value::Image(picture)) => Ok(picture),
            other => Err(self.missing(name, other)),
        }
    }

    fn mask(&self, name: &str) -> Result<&Arc<Picture>, Stop> {
        match self.arguments.get(name) {
            Some(Value::Mask(picture)) => Ok(picture),
            other => Err(self.missing(name, other)),
        }
    }

    fn latent(&self, name: &str) -> Result<&Latent, Stop> {
        match self.arguments.get(name) {
            Some(Value::Latent(latent)) => Ok(latent),
            other => Err(self.missing(name, other)),
        }
    }

    fn json(&self, name: &str) -> Result<&Json, Stop> {
        match self.arguments.get(name) {
            Some(Value::Json(value)) => Ok(value),
            other => Err(self.missing(name, other)),
        }
    }

    /// An integer as torch wants it: texts and floats that a link brought are a TypeError.
    fn int(&self, name: &str) -> Result<i128, Stop> {
        let value = self.json(name)?;
        if matches!(value, Json::Int(_) | Json::Bool(_)) {
            return python::int(value).map_err(|text| raised("ValueError", text));
        }
        let kind = python::type_name(value);
        let position = ["batch_size", "height", "width"].iter().position(|known| *known == name);
        let text = match position.filter(|_| self.class == "EmptyImage") {
            Some(index) => format!(
                "full(): argument 'size' failed to unpack the object at pos {} with error \"type must be tuple of ints,but \
                 got {kind}\"",
                index + 1
            ),
            None => format!("'{kind}' object cannot be interpreted as an integer"),
        };
        Err(raised("TypeError", text))
    }

    fn int_or(&self, name: &str, default: i128) -> i128 {
        self.int(name).unwrap_or(default)
    }

    fn size(&self, name: &str) -> Result<usize, Stop> {
        let number = self.int(name)?;
        usize::try_from(number)
            .map_err(|_| raised("RuntimeError", format!("Trying to create tensor with negative dimension {number}")))
    }

    fn float(&self, name: &str) -> Result<f64, Stop> {
        let value = self.json(name)?;
        let text = || raised("TypeError", format!("must be real number, not {}", python::type_name(value)));
        value.as_number().ok_or_else(text)
    }

    fn text(&self, name: &str) -> Result<String, Stop> {
        self.json(name).map(python::str)
    }
}

/// Output nodes: what they show. `None`: the class is no output node of ours.
fn output_node(run: &mut Run<'_>, node: &Node<'_>) -> Result<Option<Json>, Stop> {
    let ui = match node.class {
        "SaveImage" => {
            let prefix = node.text("filename_prefix").or_else(|_| Ok::<_, Stop>("ComfyUI".into()))?;
            save(run, node.image("images")?, &prefix, "output")?
        }
        "PreviewImage" => {
            let prefix = node.text("filename_prefix").unwrap_or_else(|_| "ComfyUI".into());
            let prefix = format!("{prefix}{}", temp_suffix(run, node));
            save(run, node.image("images")?, &prefix, "temp")?
        }
        "MaskPreview" => {
            let picture = Arc::new(node.mask("mask")?.with_channels(3)?);
            let prefix = format!("ComfyUI{}", temp_suffix(run, node));
            let mut ui = save(run, &picture, &prefix, "temp")?;
            if let Json::Dict(ui) = &mut ui {
                ui.insert("animated".into(), Json::List(vec![Json::Bool(false)]));
            }
            ui
        }
        "SaveImageWebsocket" => {
            let picture = Arc::clone(node.image("images")?);
            let frames = i64::try_from(picture.frames.len()).unwrap_or(i64::MAX);
            for (frame, step) in (0..picture.frames.len()).zip(0_i64..) {
                let bytes = picture.png(frame, &[])?;
                run.progress(node.id, step, frames, Some(Preview { png: true, bytes }))?;
            }
            dict([])
        }
        "PreviewAny" => {
            let text = match node.arguments.get("source") {
                Some(Value::Json(value @ (Json::List(_) | Json::Dict(_)))) => value.dumps(),
                Some(Value::Json(value)) => python::str(value),
                Some(other) => python::str(&other.shown()),
                None => "None".into(),
            };
            dict([("text", Json::List(vec![text.into()]))])
        }
        "GateProbeSize" => {
            let picture = node.image("image")?;
            let number = |n: usize| Json::Int(i128::try_from(n).unwrap_or(i128::MAX));
            let size = dict([
                ("batch", number(picture.frames.len())),
                ("height", number(picture.height)),
                ("width", number(picture.width)),
                ("channels", number(picture.channels)),
            ]);
            dict([("probe_size", Json::List(vec![size]))])
        }
        class => {
            let Some(number) = packs::number_of(class, run.process.options().packs) else { return Ok(None) };
            let text = node.text("text")?;
            let said = dict([("text", text.as_str().into())]);
            run.process.hub.send(&packs::event(number), said, Audience::All);
            dict([("text", Json::List(vec![text.into()]))])
        }
    };
    Ok(Some(ui))
}

/// `_temp_` and five letters, fixed for as long as the node stays in the graph.
fn temp_suffix(run: &mut Run<'_>, node: &Node<'_>) -> String {
    let key = (node.id.to_owned(), node.class.to_owned());
    let fresh = || {
        let letters = b"abcdefghijklmnopqrstupvxyz";
        let random = *uuid::Uuid::new_v4().as_bytes();
        let pick = |byte: &u8| letters.get(usize::from(*byte) % letters.len()).copied().map(char::from);
        format!("_temp_{}", random.iter().take(5).filter_map(pick).collect::<String>())
    };
    run.suffixes.entry(key).or_insert_with(fresh).clone()
}

fn save(run: &Run<'_>, picture: &Picture, prefix: &str, kind: &str) -> Result<Json, Stop> {
    let base = run.process.folders().by_type(kind).ok_or_else(|| raised("KeyError", kind))?;
    let path =
        files::save_path(prefix, &base, picture.width, picture.height).map_err(|text| raised("Exception", text))?;
    let mut texts = vec![("prompt".to_owned(), run.prompt.dumps())];
    if let Some(Json::Dict(extra)) = run.item.extra_data.get("extra_pnginfo") {
        texts.extend(extra.iter().map(|(key, value)| (key.clone(), value.dumps())));
    }
    let mut images = Vec::new();
    for (frame, counter) in (0..picture.frames.len()).zip(path.counter..) {
        let stem = path.stem.replace("%batch_num%", &frame.to_string());
        let name = format!("{stem}_{counter:05}_.png");
        let file = path.folder.join(&name);
        run.process.disk().map_err(|text| raised("OSError", format!("{text}: '{}'", file.display())))?;
        std::fs::write(&file, picture.png(frame, &texts)?)
            .map_err(|error| raised("OSError", format!("{error}: '{}'", file.display())))?;
        images.push(dict([
            ("filename", name.into()),
            ("subfolder", path.subfolder.as_str().into()),
            ("type", kind.into()),
        ]));
    }
    Ok(dict([("images", Json::List(images))]))
}

fn image(picture: Picture) -> Value {
    Value::Image(Arc::new(picture))
}

fn mask(picture: Picture) -> Value {
    Value::Mask(Arc::new(picture))
}

/// Classes that compute without a model. `None`: not one of them.
fn compute(run: &mut Run<'_>, node: &Node<'_>) -> Result<Option<Vec<Value>>, Stop> {
    let outputs = match node.class {
        "GateProbeSleep" => return probe_sleep(run, node).map(Some),
        "GateProbeFail" => return Err(raised("RuntimeError", node.text("message")?)),
        "EmptyImage" => vec![empty_image(node)?],
        "IdeogramV1" => vec![paid_image(run, node)?],
        "LoadImage" | "LoadImageOutput" => load_image(run, node)?,
        "LoadImageMask" => vec![load_mask(run, node)?],
        "SolidMask" => {
            let level = unit_byte(node.float("value")?);
            vec![mask(Picture::from_fn((node.size("width")?, node.size("height")?, 1), 1, |_, _, _, _| level)?)]
        }
        "InvertMask" => vec![mask(map(node.mask("mask")?, |sample| 255 - sample)?)],
        "MaskToImage" => vec![image(node.mask("mask")?.with_channels(3)?)],
        "ImageToMask" => vec![image_to_mask(node)?],
        "ImageInvert" => vec![image(map(node.image("image")?, |sample| 255 - sample)?)],
        "ImageScale" => vec![image_scale(node)?],
        "ImageScaleBy" => {
            let (picture, factor) = (node.image("image")?, node.float("scale_by")?);
            vec![image(picture.scaled(times(picture.width, factor), times(picture.height, factor))?)]
        }
        "ImageBatch" => vec![image(batch(node.image("image1")?, node.image("image2")?)?)],
        "ImageCrop" => vec![image_crop(node)?],
        "ImageFromBatch" => {
            let picture = node.image("image")?;
            let first = node.size("batch_index")?.min(picture.frames.len().saturating_sub(1));
            let frames = picture.frames.iter().skip(first).take(node.size("length")?).cloned().collect();
            vec![image(Picture { frames, ..(**picture).clone() })]
        }
        "RepeatImageBatch" => vec![repeat(node)?],
        "GetImageSize" => {
            let picture = node.image("image")?;
            let numbers = [picture.width, picture.height, picture.frames.len()];
            let text = format!("width: {}, height: {}\n batch size: {}", numbers[0], numbers[1], numbers[2]);
            run.send_text(node.id, &text);
            numbers.map(|n| Value::Json(Json::Int(i128::try_from(n).unwrap_or(i128::MAX)))).to_vec()
        }
        "PrimitiveInt" | "PrimitiveFloat" | "PrimitiveString" | "PrimitiveStringMultiline" | "PrimitiveBoolean" => {
            vec![Value::Json(node.json("value")?.clone())]
        }
        "StringConcatenate" => {
            let parts = [node.text("string_a")?, node.text("string_b")?];
            vec![Value::Json(parts.join(&node.text("delimiter")?).into())]
        }
        "StringLength" => {
            let length = node.text("string")?.chars().count();
            vec![Value::Json(Json::Int(i128::try_from(length).unwrap_or(i128::MAX)))]
        }
        "ComfySwitchNode" => {
            vec![node.arguments.get(switch_side(node.arguments)).cloned().unwrap_or(Value::Json(Json::Null))]
        }
        _ => return Ok(None),
    };
    Ok(Some(outputs))
}

fn probe_sleep(run: &mut Run<'_>, node: &Node<'_>) -> Ran {
    let picture = node.image("image")?.clone();
    let steps = i64::try_from(node.int("steps")?).unwrap_or(i64::MAX);
    let tick = Duration::from_millis(u64::try_from(node.int("tick_ms")?).unwrap_or(0));
    let preview = node.json("preview")?.truthy();
    for step in 1..=steps {
        run.check_interrupt()?;
        run.process.sleep(tick)?;
        let red = u8::try_from((step - 1).rem_euclid(256)).unwrap_or(0);
        let shown = preview.then(|| solid_preview([red, 0, 0])).transpose()?;
        run.progress(node.id, step, steps, shown)?;
    }
    Ok(vec![Value::Image(picture)])
}

fn solid_preview(colour: [u8; 3]) -> Result<Preview, Stop> {
    let picture = Picture::from_fn((64, 64, 3), 1, |_, _, _, channel| colour.get(channel).copied().unwrap_or(0))?;
    Ok(Preview { png: false, bytes: picture.jpeg(64)? })
}

/// A paid node: it pays with what came beside the prompt, as ComfyUI's own do. For the prompt `quote` it fails and quotes that in its error, as a careless one may.
fn paid_image(run: &Run<'_>, node: &Node<'_>) -> Result<Value, Stop> {
    let secret = run.item.sensitive.values().find_map(Json::as_str);
    let Some(secret) = secret else {
        return Err(raised("Exception", "Unauthorized: Please login first to use this node."));
    };
    if node.text("prompt")? == "quote" {
        run.send_text(node.id, &format!("paying with {secret}"));
        return Err(raised("Exception", format!("API Error: 401 for '{secret}'")));
    }
    Ok(image(Picture::from_fn((64, 48, 3), 1, |_, _, _, _| 128)?))
}

fn empty_image(node: &Node<'_>) -> Result<Value, Stop> {
    let colour = node.int("color")?;
    let channel = |shift: u32| u8::try_from((colour >> shift) & 0xff).unwrap_or(0);
    let colours = [channel(16), channel(8), channel(0)];
    let size = (node.size("width")?, node.size("height")?, 3);
    Ok(image(Picture::from_fn(size, node.size("batch_size")?, |_, _, _, c| colours.get(c).copied().unwrap_or(0))?))
}

fn opened(run: &Run<'_>, node: &Node<'_>) -> Result<Picture, Stop> {
    let name = node.text("image")?;
    let path = run.process.folders().annotated(&name);
    let bytes = std::fs::read(&path).map_err(|_| {
        raised("FileNotFoundError", format!("[Errno 2] No such file or directory: '{}'", path.display()))
    })?;
    Picture::from_png(&bytes).map_err(|error| {
        raised("PIL.UnidentifiedImageError", format!("{} (the stand-in reads only PNG): '{name}'", error.0))
    })
}

fn load_image(run: &Run<'_>, node: &Node<'_>) -> Ran {
    let picture = opened(run, node)?;
    let shape = if picture.channels == 4 {
        let size = (picture.width, picture.height, 1);
        Picture::from_fn(size, 1, |frame, x, y, _| 255 - picture.sample(frame, x, y, 3))?
    } else {
        Picture::from_fn((64, 64, 1), 1, |_, _, _, _| 0)?
    };
    Ok(vec![image(picture.with_channels(3)?), mask(shape)])
}

fn channel_index(name: &str) -> usize {
    match name {
        "red" => 0,
        "green" => 1,
        "blue" => 2,
        _ => 3,
    }
}

fn load_mask(run: &Run<'_>, node: &Node<'_>) -> Result<Value, Stop> {
    let picture = opened(run, node)?;
    let channel = channel_index(&node.text("channel")?);
    let size = (picture.width, picture.height, 1);
    Ok(mask(Picture::from_fn(size, 1, |frame, x, y, _| {
        let sample = picture.sample(frame, x, y, channel);
        if channel == 3 { 255 - sample } else { sample }
    })?))
}

fn image_to_mask(node: &Node<'_>) -> Result<Value, Stop> {
    let picture = node.image("image")?;
    let channel = channel_index(&node.text("channel")?);
    let size = (picture.width, picture.height, 1);
    let frames = picture.frames.len();
    Ok(mask(Picture::from_fn(size, frames, |frame, x, y, _| picture.sample(frame, x, y, channel))?))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of a byte")]
fn unit_byte(level: f64) -> u8 {
    (level.clamp(0.0, 1.0) * 255.0) as u8
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes are small, and a huge product is refused by Picture"
)]
fn times(length: usize, factor: f64) -> usize {
    (length as f64 * factor).round() as usize
}

fn map(picture: &Picture, change: impl Fn(u8) -> u8) -> Result<Picture, Stop> {
    let size = (picture.width, picture.height, picture.channels);
    let frames = picture.frames.len();
    Ok(Picture::from_fn(size, frames, |frame, x, y, channel| change(picture.sample(frame, x, y, channel)))?)
}

/// `common_upscale` by nearest pixel: 0 keeps the aspect ratio, `center` crops before scaling.
fn image_scale(node: &Node<'_>) -> Result<Value, Stop> {
    let picture = node.image("image")?;
    let (mut width, mut height) = (node.size("width")?, node.size("height")?);
    match (width, height) {
        (0, 0) => return Ok(Value::Image(Arc::clone(picture))),
        (0, _) => width = (picture.width * height / picture.height.max(1)).max(1),
        (_, 0) => height = (picture.height * width / picture.width.max(1)).max(1),
        _ => {}
    }
    if node.text("crop")? != "center" {
        return Ok(image(picture.scaled(width, height)?));
    }
    let cropped_width = (picture.height * width / height.max(1)).clamp(1, picture.width.max(1));
    let cropped_height = (picture.width * height / width.max(1)).clamp(1, picture.height.max(1));
    let (left, top) = ((picture.width - cropped_width) / 2, (picture.height - cropped_height) / 2);
    Ok(image(crop(picture, left, top, cropped_width, cropped_height)?.scaled(width, height)?))
}

fn crop(picture: &Picture, left: usize, top: usize, width: usize, height: usize) -> Result<Picture, Stop> {
    let size = (width, height, picture.channels);
    let frames = picture.frames.len();
    Ok(Picture::from_fn(size, frames, |frame, x, y, channel| picture.sample(frame, x + left, y + top, channel))?)
}

fn image_crop(node: &Node<'_>) -> Result<Value, Stop> {
    let picture = node.image("image")?;
    let left = node.size("x")?.min(picture.width.saturating_sub(1));
    let top = node.size("y")?.min(picture.height.saturating_sub(1));
    let width = node.size("width")?.min(picture.width - left);
    let height = node.size("height")?.min(picture.height - top);
    Ok(image(crop(picture, left, top, width, height)?))
}

fn batch(first: &Picture, second: &Picture) -> Result<Picture, Stop> {
    let channels = first.channels.max(second.channels);
    let first = first.with_channels(channels)?;
    let second = second.with_channels(channels)?.scaled(first.width, first.height)?;
    let frames = first.frames.iter().chain(&second.frames).cloned().collect();
    Ok(Picture { frames, ..first })
}

fn repeat(node: &Node<'_>) -> Result<Value, Stop> {
    let picture = node.image("image")?;
    let count = picture.frames.len();
    let size = (picture.width, picture.height, picture.channels);
    let frames = count.saturating_mul(node.size("amount")?);
    Ok(image(Picture::from_fn(size, frames, |frame, x, y, c| picture.sample(frame % count.max(1), x, y, c))?))
}

/// Classes that need models: their time and shapes, not their pictures.
fn simulate(run: &mut Run<'_>, node: &Node<'_>, catalogue: Catalogue<'_>) -> Ran {
    let kinds: Vec<&str> = catalogue.outputs(node.class).iter().filter_map(Json::as_str).collect();
    match node.class {
        "KSampler" | "KSamplerAdvanced" | "SamplerCustom" | "SamplerCustomAdvanced" => sample(run, node, kinds.len()),
        "VAEDecode" | "VAEDecodeTiled" => Ok(vec![image(decoded(node.latent("samples")?)?)]),
        "VAEEncode" | "VAEEncodeTiled" | "VAEEncodeForInpaint" => {
            let picture = node.image("pixels")?;
            Ok(vec![latent(picture.width, picture.height, picture.frames.len(), 0)])
        }
        "ImageUpscaleWithModel" => {
            let picture = node.image("image")?;
            let sides = (picture.width.saturating_mul(4), picture.height.saturating_mul(4));
            Ok(vec![image(picture.scaled(sides.0, sides.1)?)])
        }
        "InpaintModelConditioning" => {
            let picture = node.image("pixels")?;
            let opaque = Value::Opaque { steps: None, seed: None };
            let noise = latent(picture.width, picture.height, picture.frames.len(), 0);
            Ok(vec![opaque.clone(), opaque, noise])
        }
        "SetLatentNoiseMask" => Ok(vec![Value::Latent(node.latent("samples")?.clone())]),
        "LatentUpscale" => {
            let (width, height) = (node.size("width")?, node.size("height")?);
            let from = node.latent("samples")?;
            Ok(vec![latent(width, height, from.frames, from.seed)])
        }
        "LatentUpscaleBy" => {
            let (from, factor) = (node.latent("samples")?, node.float("scale_by")?);
            Ok(vec![latent(times(from.width, factor), times(from.height, factor), from.frames, from.seed)])
        }
        "RepeatLatentBatch" => {
            let from = node.latent("samples")?;
            Ok(vec![latent(from.width, from.height, from.frames.saturating_mul(node.size("amount")?), from.seed)])
        }
        class if class.starts_with("Empty") && kinds == ["LATENT"] && node.json("width").is_ok() => {
            let frames = if node.json("length").is_ok() { node.size("length")? } else { 1 };
            let batch = node.size("batch_size").unwrap_or(1);
            Ok(vec![latent(node.size("width")?, node.size("height")?, frames.saturating_mul(batch), 0)])
        }
        class
            if !catalogue.is_api_node(class)
                && !kinds.is_empty()
                && kinds.iter().all(|kind| OPAQUE_TYPES.contains(kind)) =>
        {
            let steps = node.int("steps").ok().and_then(|steps| i64::try_from(steps).ok());
            let seed = node.int("noise_seed").ok().and_then(|seed| u64::try_from(seed).ok());
            // A guider or patched model keeps nothing of its inputs; a schedule and a noise source are all that counts.
            Ok(kinds.iter().map(|_| Value::Opaque { steps, seed }).collect())
        }
        class => {
            Err(raised("NotImplementedError", format!("the stand-in cannot run `{class}`: it has no executor for it")))
        }
    }
}

fn latent(width: usize, height: usize, frames: usize, seed: u64) -> Value {
    let whole = |length: usize| length / LATENT_SCALE * LATENT_SCALE;
    Value::Latent(Latent { width: whole(width), height: whole(height), frames, seed })
}

fn sample(run: &mut Run<'_>, node: &Node<'_>, outputs: usize) -> Ran {
    let from = node.latent("latent_image")?.clone();
    let of = |name: &str| match node.arguments.get(name) {
        Some(Value::Opaque { steps, seed }) => (*steps, *seed),
        _ => (None, None),
    };
    let steps = match node.class {
        "KSampler" => node.int("steps")?,
        "KSamplerAdvanced" => {
            let (start, end) = (node.int_or("start_at_step", 0), node.int_or("end_at_step", i128::MAX));
            (node.int("steps")?.min(end) - start).max(0)
        }
        _ => i128::from(of("sigmas").0.unwrap_or(20)),
    };
    let steps = i64::try_from(steps).unwrap_or(i64::MAX);
    let seed = node.int("seed").or_else(|_| node.int("noise_seed")).ok();
    let seed = seed.and_then(|seed| u64::try_from(seed).ok()).or(of("noise").1).unwrap_or(0);
    let previews = run.process.previews(run.item.extra_data.get("preview_method"));
    let done = Latent { seed, ..from };
    for step in 1..=steps {
        run.check_interrupt()?;
        run.process.sleep(run.process.options().step_time)?;
        let shown = if previews {
            let small = decoded(&Latent { width: 64, height: 64, frames: 1, ..done.clone() })?;
            Some(Preview { png: false, bytes: small.jpeg(512)? })
        } else {
            None
        };
        run.progress(node.id, step, steps, shown)?;
    }
    Ok((0..outputs).map(|_| Value::Latent(done.clone())).collect())
}

/// A gradient whose colours come from the seed: equal seeds give equal pictures, others differ.
fn decoded(latent: &Latent) -> Result<Picture, Stop> {
    let mixed = latent.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ latent.seed;
    let base = mixed.to_le_bytes();
    let (width, height) = (latent.width.max(1), latent.height.max(1));
    Ok(Picture::from_fn((latent.width, latent.height, 3), latent.frames, |frame, x, y, channel| {
        let across = u8::try_from(x * 127 / width).unwrap_or(0);
        let down = u8::try_from(y * 127 / height).unwrap_or(0);
        let shift = u8::try_from(frame % 256).unwrap_or(0);
        let slope = if channel == 0 {
            across
        } else if channel == 1 {
            down
        } else {
            across / 2 + down / 2
        };
        base.get(channel).copied().unwrap_or(0).wrapping_add(slope).wrapping_add(shift)
    })?)
}
