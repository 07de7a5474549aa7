//! Whether a concrete value lies within what the engine said.

use comfygate_policy::fuzzing::{SeenShape, SeenSlot, SeenValue};

use super::evaluator::Thing;

/// `Ok(true)`: within its bounds; `Ok(false)`: the engine says that it knows nothing; an error: outside.
pub fn fault(thing: &Thing, said: &SeenSlot) -> Result<bool, String> {
    match thing {
        Thing::Int(value) => match said.value {
            SeenValue::Int(lo, hi) => inside("value", *value, (lo, hi)),
            SeenValue::Unknown => Ok(false),
            other => Err(format!("a whole number, said to be {other:?}")),
        },
        Thing::Float(value) => match said.value {
            SeenValue::Float(lo, hi) if (lo..=hi).contains(value) => Ok(true),
            SeenValue::Unknown => Ok(false),
            other => Err(format!("a float, said to be {other:?}")),
        },
        Thing::Bool(value) => match said.value {
            SeenValue::Bool(Some(said)) if said != *value => Err("the other truth value".to_owned()),
            SeenValue::Bool(_) => Ok(true),
            SeenValue::Unknown => Ok(false),
            other => Err(format!("a truth value, said to be {other:?}")),
        },
        Thing::Text(text) => match said.text_bytes {
            Some(most) if i128::try_from(text.len()).unwrap() > most => Err(format!("text of {} bytes", text.len())),
            most => Ok(most.is_some()),
        },
        Thing::Sigmas(count) => match said.steps {
            Some(most) if count - 1 > most => Err(format!("schedule of {} steps", count - 1)),
            most => Ok(most.is_some()),
        },
        Thing::Image { n, h, w, .. } | Thing::Mask { n, h, w } | Thing::Video { n, h, w, .. } => {
            said.shape.map_or(Ok(false), |shape| pictures(&shape, *n, *h, *w))
        }
        Thing::Latent { dims, .. } => said.shape.map_or(Ok(false), |shape| latents(&shape, dims)),
        Thing::Audio { .. } | Thing::Other => Ok(false),
    }
}

fn inside(what: &str, value: i128, (lo, hi): (i128, i128)) -> Result<bool, String> {
    if (lo..=hi).contains(&value) { Ok(true) } else { Err(format!("{what} {value} not in {lo} to {hi}")) }
}

fn at_most(what: &str, value: i128, hi: i128) -> Result<bool, String> {
    if value <= hi { Ok(true) } else { Err(format!("{what} {value} more than {hi}")) }
}

fn pictures(shape: &SeenShape, n: i128, h: i128, w: i128) -> Result<bool, String> {
    inside("width", w, shape.width)?;
    inside("height", h, shape.height)?;
    at_most("pixels", w * h, shape.area)?;
    let ratio = w as f64 / h as f64;
    // What has no pixels has no ratio, and can't be scaled.
    if w > 0 && h > 0 && !(shape.ratio.0..=shape.ratio.1).contains(&ratio) {
        return Err(format!("ratio {ratio} not in {:?}", shape.ratio));
    }
    // An IMAGE has one dimension for batch and frames.
    inside("images", n, shape.count)
}

/// A latent is bounded in pixels of the model that it is for.
fn latents(shape: &SeenShape, dims: &[i128]) -> Result<bool, String> {
    match dims {
        [n, _, h, w] => {
            at_most("width in pixels", w * shape.cell, shape.width.1)?;
            at_most("height in pixels", h * shape.cell, shape.height.1)?;
            at_most("latents", *n, shape.count.1)
        }
        [n, _, t, h, w] => {
            at_most("width in pixels", w * shape.cell, shape.width.1)?;
            at_most("height in pixels", h * shape.cell, shape.height.1)?;
            at_most("frames", n * t, shape.count.1)
        }
        _ => Ok(false),
    }
}
