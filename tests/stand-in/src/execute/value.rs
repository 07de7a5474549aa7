//! What flows along links.

use std::sync::Arc;

use crate::json::Json;
use crate::picture::Picture;

/// A latent image: only its size and origin, since no model runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latent {
    /// Width of the decoded picture in pixels.
    pub width: usize,
    /// Height of the decoded picture in pixels.
    pub height: usize,
    /// Pictures after decoding.
    pub frames: usize,
    /// Seed of the last sampler, from which the decoded picture is drawn.
    pub seed: u64,
}

/// One output of a node.
#[derive(Debug, Clone)]
pub enum Value {
    /// IMAGE.
    Image(Arc<Picture>),
    /// MASK: one channel.
    Mask(Arc<Picture>),
    /// LATENT.
    Latent(Latent),
    /// INT, FLOAT, STRING, BOOLEAN and literals of any type.
    Json(Json),
    /// MODEL, CLIP, CONDITIONING and all else that only models understand; what a simulated sampler wants of it.
    Opaque {
        /// Steps of a schedule.
        steps: Option<i64>,
        /// Seed of a noise source.
        seed: Option<u64>,
    },
}

impl Value {
    /// How an error report shows the value.
    pub fn shown(&self) -> Json {
        match self {
            Value::Json(value @ (Json::List(_) | Json::Dict(_))) => Json::from(crate::python::str(value)),
            Value::Json(value) => value.clone(),
            Value::Image(picture) | Value::Mask(picture) => Json::from(format!(
                "tensor(shape=[{}, {}, {}, {}])",
                picture.frames.len(),
                picture.height,
                picture.width,
                picture.channels
            )),
            Value::Latent(latent) => {
                Json::from(format!("{{'samples': {} x {} x {}}}", latent.frames, latent.width, latent.height))
            }
            Value::Opaque { .. } => Json::from("<stand-in object>"),
        }
    }
}
