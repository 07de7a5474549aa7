//! Pictures that a workflow's nodes send over the WebSocket instead of saving them (`SaveImageWebsocket`): results, though they look like previews.
//!
//! The relay hands each to the attempt's [`Intake`], which never waits; a task puts them into the blobs. The attempt ends with all of them or is lost: ComfyUI sends each once
//! and keeps none, and its own history does not tell of them. That all have come is known by the order of one connection: whoever heard the start and the end of a
//! run by the same connection has heard everything between.

use super::attempt::{LEDGER_INTERVAL, OUTPUT_BYTES_MAX};
use super::tracks::Span;
use crate::deliver::events::codec::{ClientEvent, Preview, UpstreamEvent};
use crate::deliver::events::upstream::FRAME_BYTES_MAX;
use crate::ids::PromptId;
use crate::record::blobs::{BlobError, Blobs, Stored};
use crate::record::holds::Hold;
use crate::record::ledger::SentPicture;
use bytes::Bytes;
use comfygate_policy::NodeId;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The class that sends its pictures: each execution anew, since its `IS_CHANGED` never gives the same twice.
pub const SENDER: &str = "SaveImageWebsocket";
/// Pictures of one attempt.
pub const PICTURES_MAX: usize = 4096;
/// Bytes of one attempt's pictures that wait for the disk; one alone may be larger.
const WAITING_BYTES_MAX: u64 = 128 << 20;
/// Metadata of a picture takes some two hundred bytes; what is larger is not kept.
const METADATA_BYTES_MAX: usize = 4096;
/// After the history says that a run is over, its last events may be on their way still: ComfyUI encodes each picture as it sends it. When nothing was heard for so long, nothing more comes.
pub const GRACE: Duration = Duration::from_secs(10);

/// Why there are no pictures to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spoiled {
    /// Not all of them came: the attempt is lost.
    Lost(String),
    /// More than may be kept: trying again would not help.
    TooLarge(String),
}

/// The pictures of one attempt; dropped before they are collected, nothing waits for more.
#[derive(Debug)]
pub struct Pictures {
    intake: Intake,
    spool: JoinHandle<Result<Vec<(SentPicture, Hold)>, BlobError>>,
    /// What was collected stays in the blobs until the ledger names it.
    holds: Vec<Hold>,
}

/// Takes pictures without waiting.
#[derive(Debug, Clone)]
pub struct Intake(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    senders: Vec<NodeId>,
    arrived: mpsc::UnboundedSender<Arrived>,
    count: AtomicUsize,
    waiting_bytes: AtomicU64,
    /// They came faster than the disk takes them.
    overrun: AtomicBool,
    too_many: AtomicBool,
    /// Length of a frame that was larger than the gateway takes; 0: none.
    missed_bytes: AtomicU64,
}

#[derive(Debug)]
enum Arrived {
    Picture {
        node: String,
        metadata: Map<String, Value>,
        image: Bytes,
    },
    /// No more come.
    Over,
}

impl Pictures {
    /// Begins to keep what these nodes send.
    pub fn begin(blobs: Blobs, senders: Vec<NodeId>) -> Self {
        Self::of_at_most(OUTPUT_BYTES_MAX, blobs, senders)
    }

    fn of_at_most(bytes_max: u64, blobs: Blobs, senders: Vec<NodeId>) -> Self {
        let (arrived, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            senders,
            arrived,
            count: AtomicUsize::new(0),
            waiting_bytes: AtomicU64::new(0),
            overrun: AtomicBool::new(false),
            too_many: AtomicBool::new(false),
            missed_bytes: AtomicU64::new(0),
        };
        let intake = Intake(Arc::new(shared));
        let spool = tokio::spawn(spool(bytes_max, blobs, receiver, intake.clone()));
        Self { intake, spool, holds: Vec::new() }
    }

    /// Where they are handed in.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// All that came so far, in the blobs. What comes later is not kept.
    ///
    /// # Errors
    /// [`Spoiled`]: too many, too large, or faster than the disk takes them.
    pub async fn collected(&mut self) -> Result<Vec<SentPicture>, Spoiled> {
        let shared = &self.intake.0;
        // Nobody listens only when the spool has failed, which it says itself.
        let _ = shared.arrived.send(Arrived::Over);
        let spooled = (&mut self.spool).await;
        if shared.too_many.load(Ordering::Relaxed) {
            return Err(Spoiled::TooLarge(format!("more than {PICTURES_MAX} pictures were sent over the WebSocket")));
        }
        match shared.missed_bytes.load(Ordering::Relaxed) {
            0 => {}
            bytes => {
                return Err(Spoiled::TooLarge(format!(
                    "a picture of {bytes} bytes was sent over the WebSocket, and {FRAME_BYTES_MAX} are the most: make it smaller, or save it as a file"
                )));
            }
        }
        match spooled {
            // What came after a picture that can't be kept waited for nothing: that error says more.
            Ok(Ok(_)) if shared.overrun.load(Ordering::Relaxed) => {
                Err(Spoiled::Lost("its pictures came faster than they could be stored".into()))
            }
            Ok(Ok(spooled)) => {
                let (sent, holds) = spooled.into_iter().unzip();
                self.holds = holds;
                Ok(sent)
            }
            Ok(Err(error)) => Err(Spoiled::TooLarge(format!("a picture can't be kept: {error}"))),
            Err(error) => Err(Spoiled::Lost(format!("its pictures could not be stored: {error}"))),
        }
    }

    /// What keeps them in the blobs: to be kept until the attempt is committed.
    pub fn holds(&mut self) -> Vec<Hold> {
        std::mem::take(&mut self.holds)
    }

    /// Whether these are all pictures of a run that succeeded: a success without them would be none.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, settled: Settled, sent: &[SentPicture], cached: &[&str]) -> Result<(), String> {
        if let Settled::Broken(reason) = settled {
            return Err(format!("not all of its pictures came: {reason}"));
        }
        let lacks = |node: &&NodeId| {
            !cached.contains(&node.as_str()) && !sent.iter().any(|picture| picture.node == node.as_str())
        };
        match self.intake.0.senders.iter().find(lacks) {
            Some(node) => Err(format!("no picture of node {node} came")),
            None => Ok(()),
        }
    }
}

impl Drop for Pictures {
    fn drop(&mut self) {
        self.spool.abort();
    }
}

impl Intake {
    /// A frame of that node was too large to be read: if the node sends its pictures, one is missing that never can be had.
    pub fn miss(&self, node: &str, bytes: u64) {
        if self.0.senders.iter().any(|sender| sender.as_str() == node) {
            self.0.missed_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// Takes a picture, if it is of a node that sends its pictures; says whether it is. The owner's `label` of the prompt takes the place of the backend's.
    pub fn take(&self, node: &str, preview: &Preview, label: &PromptId) -> bool {
        let shared = &self.0;
        if !shared.senders.iter().any(|sender| sender.as_str() == node) {
            return false;
        }
        let bytes = preview.image.len() as u64;
        let waiting = shared.waiting_bytes.load(Ordering::Relaxed);
        if shared.count.fetch_add(1, Ordering::Relaxed) >= PICTURES_MAX {
            shared.too_many.store(true, Ordering::Relaxed);
        } else if waiting > 0 && waiting.saturating_add(bytes) > WAITING_BYTES_MAX {
            shared.overrun.store(true, Ordering::Relaxed);
        } else if let Some(ClientEvent::Preview { metadata, image, .. }) =
            UpstreamEvent::Preview(preview.clone()).for_owner(label)
        {
            shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            let metadata = Some(metadata).filter(is_small).unwrap_or_default();
            // Collected already: the attempt is over.
            let _ = shared.arrived.send(Arrived::Picture { node: node.to_owned(), metadata, image });
        }
        true
    }
}

fn is_small(metadata: &Map<String, Value>) -> bool {
    serde_json::to_vec(metadata).is_ok_and(|text| text.len() <= METADATA_BYTES_MAX)
}

/// Puts what arrives into the blobs, in its order.
async fn spool(
    bytes_max: u64,
    blobs: Blobs,
    mut arrived: mpsc::UnboundedReceiver<Arrived>,
    intake: Intake,
) -> Result<Vec<(SentPicture, Hold)>, BlobError> {
    let (mut sent, mut left) = (Vec::new(), bytes_max);
    while let Some(Arrived::Picture { node, metadata, image }) = arrived.recv().await {
        let Stored { content, bytes, hold } = loop {
            match stored(&blobs, &image, left).await {
                // Our disk, not the backend's work; until it takes them again, so many may wait.
                Err(BlobError::Unavailable { action, reason }) => {
                    tracing::error!(action, reason, "a picture can't be stored; trying again");
                    tokio::time::sleep(LEDGER_INTERVAL).await;
                }
                stored => break stored?,
            }
        };
        intake.0.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        left = left.saturating_sub(bytes);
        sent.push((SentPicture { node, content, bytes, content_type: "image/png".into(), metadata }, hold));
    }
    Ok(sent)
}

async fn stored(blobs: &Blobs, image: &[u8], bytes_max: u64) -> Result<Stored, BlobError> {
    let mut writer = blobs.writer(bytes_max)?;
    writer.write(image).await?;
    writer.finish().await
}

/// Whether everything that was sent of a run was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Its start and its end came by one connection.
    Whole,
    /// Something is missing, or may be.
    Broken(&'static str),
}

/// Waits for the last events of a run that is over.
#[derive(Debug)]
pub struct Arrival {
    events: u64,
    since: Instant,
}

impl Arrival {
    /// The history says now that it is over.
    pub fn new(now: Instant) -> Self {
        Self { events: 0, since: now }
    }

    /// What is known by now. `connection` is that of our socket, counted from 1; 0: it has none.
    pub fn look(&mut self, span: Span, connection: u64, now: Instant) -> Option<Settled> {
        let replaced = Settled::Broken("our socket to its backend was replaced while it ran");
        if span.ended_by != 0 {
            return Some(if span.began_by == span.ended_by { Settled::Whole } else { replaced });
        }
        if span.began_by != 0 && span.began_by != connection {
            return Some(replaced);
        }
        if span.events != self.events {
            (self.events, self.since) = (span.events, now);
        }
        (now.saturating_duration_since(self.since) >= GRACE)
            .then_some(Settled::Broken("our socket to its backend was silent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::events::codec::ImageFormat;
    use crate::ids::UpstreamPromptId;
    use comfygate_policy::Digest;
    use serde_json::json;

    fn nodes(ids: &[&str]) -> Vec<NodeId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn preview(image: impl Into<Bytes>) -> Preview {
        let prompt = UpstreamPromptId::from_bytes([7; 16]);
        let metadata = json!({"node_id": "8", "prompt_id": prompt.to_string(), "image_type": "image/png"});
        let metadata = metadata.as_object().unwrap().clone();
        Preview { prompt: Some(prompt), metadata, format: ImageFormat::Png, image: image.into() }
    }

    fn begun() -> (tempfile::TempDir, Blobs, Pictures) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let pictures = Pictures::begin(blobs.clone(), nodes(&["8", "9"]));
        (dir, blobs, pictures)
    }

    fn label() -> PromptId {
        "mine".parse().unwrap()
    }

    #[tokio::test]
    async fn pictures_of_its_nodes_are_kept_in_order_under_the_owners_label_and_no_others() {
        let (_dir, blobs, mut pictures) = begun();
        let intake = pictures.intake();
        assert!(intake.take("8", &preview("one"), &label()));
        assert!(!intake.take("3", &preview("a preview"), &label()));
        assert!(intake.take("9", &preview("two"), &label()));
        assert!(intake.take("8", &preview("one"), &label()));
        let sent = pictures.collected().await.unwrap();
        let told: Vec<_> = sent.iter().map(|picture| (picture.node.as_str(), picture.content, picture.bytes)).collect();
        assert_eq!(told, [("8", Digest::of(b"one"), 3), ("9", Digest::of(b"two"), 3), ("8", Digest::of(b"one"), 3)]);
        assert_eq!(std::fs::read(blobs.place(&Digest::of(b"two"))).unwrap(), b"two");
        assert_eq!(
            Value::Object(sent[0].metadata.clone()),
            json!({"node_id": "8", "prompt_id": "mine", "image_type": "image/png"})
        );
        assert!(intake.take("8", &preview("late"), &label()), "it is none of anybody's previews either");
    }

    #[tokio::test]
    async fn as_many_pictures_are_kept_as_may_be_and_one_more_is_too_many() {
        for (more, good) in [(0, true), (1, false)] {
            let (_dir, _blobs, mut pictures) = begun();
            // Counted, not stored: so many files take a while.
            pictures.intake.0.count.store(PICTURES_MAX - 1, Ordering::Relaxed);
            for _ in 0..=more {
                pictures.intake.take("8", &preview("x"), &label());
            }
            match pictures.collected().await {
                Ok(sent) => assert!(good && sent.len() == 1),
                Err(Spoiled::TooLarge(text)) => assert!(!good && text.contains("4096"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_waits_for_the_disk_is_bounded_and_more_spoils_the_attempt() {
        for (waiting, good) in [(WAITING_BYTES_MAX - 3, true), (WAITING_BYTES_MAX - 2, false)] {
            let (_dir, _blobs, mut pictures) = begun();
            pictures.intake.0.waiting_bytes.store(waiting, Ordering::Relaxed);
            pictures.intake.take("8", &preview("one"), &label());
            assert_eq!(pictures.collected().await.is_ok(), good, "{waiting}");
        }
        let (_dir, _blobs, mut pictures) = begun();
        pictures.intake.take("8", &preview(vec![0; usize::try_from(WAITING_BYTES_MAX).unwrap() + 1]), &label());
        assert!(pictures.collected().await.is_ok(), "one alone may be larger");
    }

    #[tokio::test]
    async fn pictures_that_are_too_large_together_are_told_as_that_whatever_waits_behind_them() {
        for (bytes_max, good) in [(6, true), (5, false)] {
            let dir = tempfile::tempdir().unwrap();
            let mut pictures = Pictures::of_at_most(bytes_max, Blobs::open(dir.path()).unwrap(), nodes(&["8"]));
            for image in ["one", "two"] {
                pictures.intake.take("8", &preview(image), &label());
            }
            if !good {
                while !pictures.spool.is_finished() {
                    tokio::task::yield_now().await;
                }
                pictures.intake.take("8", &preview(vec![0; usize::try_from(WAITING_BYTES_MAX).unwrap()]), &label());
                assert!(pictures.intake.0.overrun.load(Ordering::Relaxed));
            }
            match pictures.collected().await {
                Ok(sent) => assert!(good && sent.len() == 2),
                Err(Spoiled::TooLarge(text)) => assert!(!good && text.contains("more than"), "{text}"),
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn metadata_of_four_kilobytes_is_kept_and_larger_is_left_out() {
        let (_dir, _blobs, mut pictures) = begun();
        for length in [METADATA_BYTES_MAX - r#"{"x":""}"#.len(), METADATA_BYTES_MAX - r#"{"x":""}"#.len() + 1] {
            let metadata = json!({"x": "x".repeat(length)}).as_object().unwrap().clone();
            pictures.intake.take("8", &Preview { metadata, ..preview("one") }, &label());
        }
        let sent = pictures.collected().await.unwrap();
        assert_eq!((sent[0].metadata.len(), sent[1].metadata.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_success_needs_a_picture_of_each_node_that_ran_and_an_unbroken_connection() {
        let (_dir, _blobs, mut pictures) = begun();
        pictures.intake.take("8", &preview("one"), &label());
        let sent = pictures.collected().await.unwrap();
        assert!(pictures.check(Settled::Whole, &sent, &[]).unwrap_err().contains('9'));
        assert_eq!(pictures.check(Settled::Whole, &sent, &["9"]), Ok(()), "what is cached does not run");
        assert!(pictures.check(Settled::Broken("gone"), &sent, &["9"]).unwrap_err().contains("gone"));
    }

    #[test]
    fn start_and_end_by_one_connection_are_whole_and_by_two_are_not() {
        let now = Instant::now();
        let mut arrival = Arrival::new(now);
        let span = Span { began_by: 2, ended_by: 0, events: 0 };
        assert_eq!(arrival.look(span, 2, now), None, "it may come");
        assert_eq!(arrival.look(Span { ended_by: 2, ..span }, 2, now), Some(Settled::Whole));
        assert_eq!(arrival.look(Span { ended_by: 2, ..span }, 3, now), Some(Settled::Whole), "replaced after the end");
        for (span, connection) in [
            (Span { ended_by: 3, ..span }, 3),
            (span, 3),
            (span, 0),
            // The start was missed.
            (Span { began_by: 0, ended_by: 2, events: 9 }, 2),
        ] {
            assert!(matches!(arrival.look(span, connection, now), Some(Settled::Broken(_))), "{span:?} {connection}");
        }
    }

    #[test]
    fn silence_is_borne_for_ten_seconds_after_the_last_event_and_no_longer() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut arrival = Arrival::new(began);
        let span = |events| Span { began_by: 1, ended_by: 0, events };
        assert_eq!(arrival.look(span(1), 1, at(9_000)), None);
        assert_eq!(arrival.look(span(1), 1, at(18_999)), None);
        assert!(matches!(arrival.look(span(1), 1, at(19_000)), Some(Settled::Broken(_))));
        assert_eq!(arrival.look(span(2), 1, at(19_000)), None, "an event in the last moment");
        let mut never = Arrival::new(began);
        assert_eq!(never.look(Span::default(), 1, at(9_999)), None);
        assert!(matches!(never.look(Span::default(), 1, at(10_000)), Some(Settled::Broken(_))));
    }
}
