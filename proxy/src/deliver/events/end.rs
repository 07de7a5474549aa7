//! What the sockets of a job's client are told at its end: some events and pictures, in order, made once and shared by all queues that hold them.

use super::codec::{ClientEvent, ImageFormat, picture_head};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// About what a picture takes while it waits: its place and metadata, not its bytes.
const PICTURE_REFERENCE_BYTES: usize = 512;

/// A picture that is a result, told by reference: its bytes stay in the blobs until they are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Its file.
    pub path: PathBuf,
    /// Length of the file.
    pub bytes: u64,
    /// With the owner's ids; empty if the backend sent none.
    pub metadata: Map<String, Value>,
    /// JPEG or PNG.
    pub format: ImageFormat,
}

impl Picture {
    /// The WebSocket frame (RFC 6455 §5.2: whole, binary, unmasked) up to the picture's own bytes, of which exactly [`Picture::bytes`] follow.
    pub fn frame_head(&self, with_metadata: bool) -> Bytes {
        let head = picture_head(with_metadata, &self.metadata, self.format);
        let length = self.bytes.saturating_add(head.len() as u64);
        let mut frame = vec![0x82];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => frame.push(short),
            (_, Ok(medium)) => {
                frame.push(126);
                frame.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend_from_slice(&length.to_be_bytes());
            }
        }
        frame.extend_from_slice(&head);
        frame.into()
    }
}

/// One thing that is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// An event.
    Event(ClientEvent),
    /// A picture.
    Picture(Picture),
}

/// The end of one job.
#[derive(Debug)]
pub struct End {
    steps: Box<[Step]>,
    bytes: usize,
    told: AtomicBool,
}

impl End {
    /// Nobody has heard of it yet.
    pub fn new(steps: Vec<Step>) -> Arc<Self> {
        let size = |step: &Step| match step {
            Step::Event(event) => event.bytes(),
            Step::Picture(_) => PICTURE_REFERENCE_BYTES,
        };
        let bytes = steps.iter().map(size).sum();
        Arc::new(Self { steps: steps.into(), bytes, told: AtomicBool::new(false) })
    }

    /// About how many bytes it takes while it waits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What comes after so many steps.
    pub fn step(&self, done: usize) -> Option<&Step> {
        self.steps.get(done)
    }

    /// A client has been sent all of it.
    pub fn set_told(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    /// Whether a client has been sent all of it.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn picture(bytes: u64) -> Picture {
        let metadata = json!({"node_id": "9"}).as_object().unwrap().clone();
        Picture { path: "x".into(), bytes, metadata, format: ImageFormat::Png }
    }

    #[test]
    fn the_head_of_a_frame_tells_its_length_in_the_shortest_form() {
        // 8 bytes stand before the picture's own.
        let head = |bytes: u64| picture(bytes).frame_head(false);
        assert_eq!(head(117)[..], [&[0x82, 125][..], b"\0\0\0\x01\0\0\0\x02"].concat());
        assert_eq!(head(118)[..4], [0x82, 126, 0, 126]);
        assert_eq!(head(65_527)[..4], [0x82, 126, 0xff, 0xff]);
        assert_eq!(head(65_528)[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_client_that_announced_it_gets_the_metadata() {
        let text = r#"{"node_id":"9"}"#;
        let expected = [&[0x82, 8 + 15 + 5][..], b"\0\0\0\x04\0\0\0\x0f", text.as_bytes()].concat();
        assert_eq!(picture(5).frame_head(true)[..], expected);
        let plain = Picture { metadata: Map::new(), ..picture(5) };
        assert_eq!(plain.frame_head(true), plain.frame_head(false), "there is none to give");
    }
}
