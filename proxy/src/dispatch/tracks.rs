//! Whose an upstream event is: from the id a backend uses to the owner, the owner's label and the task that carries the attempt.

use super::attempt::Signal;
use super::pictures::Intake;
use crate::deliver::events::codec::{ImageFormat, Preview};
use crate::deliver::events::hub::Route;
use crate::ids::{BackendId, PromptId, UpstreamPromptId};
use crate::record::ledger::{Attempt, Job};
use comfygate_policy::ComfyOrgCredential;
use dashmap::DashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Hints that wait for an attempt's task; more are dropped, since one is as good as many.
const SIGNALS_MAX: usize = 8;

/// Every attempt that is followed now: at most one a slot of a backend.
#[derive(Debug, Default)]
pub struct Tracks {
    by_upstream: DashMap<UpstreamPromptId, Track>,
    /// What runs at each backend by its own events, for frames that name no prompt (facts §6.4).
    running: DashMap<BackendId, UpstreamPromptId>,
}

/// Where an attempt's events go.
#[derive(Debug, Clone)]
pub struct Track {
    /// Whose sockets.
    pub route: Route,
    /// The owner's name of the job.
    pub prompt_id: PromptId,
    /// Which backend has it.
    pub backend: BackendId,
    /// What it may be paid with: in no event that people hear.
    pub secrets: Arc<[ComfyOrgCredential]>,
    /// An earlier attempt has told the start already: it is told once, whatever the number of attempts.
    pub start_told: bool,
    /// Where pictures go that are results; none if the workflow has no node that sends some.
    pictures: Option<Intake>,
    heard: Arc<Heard>,
    signals: mpsc::Sender<Signal>,
}

/// What was heard of one attempt.
#[derive(Debug, Default)]
struct Heard {
    start: AtomicBool,
    further: AtomicU64,
    /// By which connection of our socket the start and the end were heard; 0: not yet.
    began_by: AtomicU64,
    ended_by: AtomicU64,
    /// The node that `executing` told last.
    node: Mutex<Option<String>>,
}

/// Which part of an attempt's run was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The connection of our socket that its start was heard by, counted from 1; 0: not heard.
    pub began_by: u64,
    /// Its end, the same.
    pub ended_by: u64,
    /// Events between.
    pub events: u64,
}

impl Track {
    /// Gives the attempt's task a hint.
    pub fn signal(&self, signal: Signal) {
        let _ = self.signals.try_send(signal);
    }

    /// Its start was heard by that connection of our socket.
    pub fn began(&self, connection: u64) {
        self.heard.began_by.store(connection, Ordering::Relaxed);
    }

    /// Its end was heard by that connection of our socket: everything that it sent before has been heard too, since one connection keeps the order.
    pub fn ended(&self, connection: u64) {
        self.heard.ended_by.store(connection, Ordering::Release);
    }

    /// That node is executed now.
    pub fn executes(&self, node: Option<&str>) {
        *self.heard.node.lock().unwrap_or_else(PoisonError::into_inner) = node.map(str::to_owned);
    }

    /// Takes a picture that is a result, and says whether it is one: a PNG of a node that sends its pictures, by the frame's own word, else by the node that is executed now.
    pub fn take_picture(&self, preview: &Preview) -> bool {
        let (Some(pictures), ImageFormat::Png) = (&self.pictures, preview.format) else { return false };
        let named = preview.metadata.get("node_id").and_then(|node| node.as_str()).map(str::to_owned);
        let node = named.or_else(|| self.heard.node.lock().unwrap_or_else(PoisonError::into_inner).clone());
        node.is_some_and(|node| pictures.take(&node, preview, &self.prompt_id))
    }

    /// A frame of so many bytes came that is larger than the gateway takes. Of a node that sends its pictures it was one: the next run of it would be as large.
    pub fn missed(&self, bytes: u64) {
        let node = self.heard.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (Some(pictures), Some(node)) = (&self.pictures, node) {
            pictures.miss(&node, bytes);
        }
    }

    /// An event of it was heard.
    pub fn heard(&self, is_start: bool) {
        if is_start {
            self.heard.start.store(true, Ordering::Relaxed);
        } else {
            self.heard.further.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracks {
    /// From now on events of `attempt` reach the job's owner; the receiver hears the hints.
    pub fn track(&self, job: &Job, attempt: &Attempt, pictures: Option<Intake>) -> mpsc::Receiver<Signal> {
        let (signals, receiver) = mpsc::channel(SIGNALS_MAX);
        let track = Track {
            route: Route { scope: job.owner.scope(), client_id: job.client_id.clone() },
            prompt_id: job.prompt_id.clone(),
            backend: attempt.backend.clone(),
            secrets: Arc::default(),
            start_told: job.attempts.iter().any(|earlier| earlier.n != attempt.n && earlier.started_at.is_some()),
            pictures,
            heard: Arc::default(),
            signals,
        };
        self.by_upstream.insert(attempt.upstream, track);
        receiver
    }

    /// From now on nobody hears these in events of that attempt.
    pub fn hide(&self, upstream: UpstreamPromptId, secrets: &[ComfyOrgCredential]) {
        if let Some(mut track) = self.by_upstream.get_mut(&upstream) {
            track.secrets = secrets.into();
        }
    }

    /// Events of that attempt reach nobody any more.
    pub fn untrack(&self, upstream: UpstreamPromptId) {
        self.by_upstream.remove(&upstream);
        self.running.retain(|_, running| *running != upstream);
    }

    /// Whose that prompt is; `None`: not ours, or not any more.
    pub fn of(&self, upstream: UpstreamPromptId) -> Option<Track> {
        self.by_upstream.get(&upstream).map(|track| track.clone())
    }

    /// Whether the start of that prompt was heard, and how many events after it.
    pub fn heard(&self, upstream: UpstreamPromptId) -> (bool, u64) {
        self.by_upstream.get(&upstream).map_or((false, 0), |track| {
            (track.heard.start.load(Ordering::Relaxed), track.heard.further.load(Ordering::Relaxed))
        })
    }

    /// Which part of that prompt's run was heard.
    pub fn span(&self, upstream: UpstreamPromptId) -> Span {
        self.by_upstream.get(&upstream).map_or(Span::default(), |track| Span {
            ended_by: track.heard.ended_by.load(Ordering::Acquire),
            began_by: track.heard.began_by.load(Ordering::Relaxed),
            events: track.heard.further.load(Ordering::Relaxed),
        })
    }

    /// How many prompts of ours a backend has.
    pub fn at(&self, backend: &BackendId) -> u64 {
        self.by_upstream.iter().filter(|track| track.backend == *backend).count() as u64
    }

    /// A backend began, or ended, a prompt: ours or foreign.
    pub fn set_running(&self, backend: &BackendId, upstream: Option<UpstreamPromptId>) {
        match upstream {
            Some(upstream) => drop(self.running.insert(backend.clone(), upstream)),
            None => drop(self.running.remove(backend)),
        }
    }

    /// What a frame without prompt id of that backend belongs to.
    pub fn running_at(&self, backend: &BackendId) -> Option<Track> {
        self.of(self.running_prompt_at(backend)?)
    }

    /// The prompt that runs at a backend by its own events, ours or foreign.
    pub fn running_prompt_at(&self, backend: &BackendId) -> Option<UpstreamPromptId> {
        self.running.get(backend).map(|prompt| *prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::dispatch::pictures::{Pictures, Spoiled};
    use crate::ids::JobId;
    use crate::owner::Owner;
    use crate::record::blobs::Blobs;
    use crate::record::ledger::JobState;
    use bytes::Bytes;
    use comfygate_policy::Digest;
    use serde_json::json;

    fn attempt() -> Attempt {
        Attempt {
            n: 1,
            backend: "gpu0".parse().unwrap(),
            upstream: UpstreamPromptId::from_bytes([7; 16]),
            folder: "t/x/1-1".into(),
            assigned_at: WallMillis(1),
            started_at: None,
            sent: false,
            lost: None,
        }
    }

    fn job() -> Job {
        Job {
            id: JobId::new(),
            sequence: 0,
            version: 1,
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            prompt_id: "mine".parse().unwrap(),
            number: 0,
            client_id: None,
            submission: Digest::of(b""),
            output_nodes: vec![],
            verdict: None,
            paid: false,
            place: None,
            work: None,
            accepted_at: WallMillis(0),
            state: JobState::Assigned,
            attempts: vec![attempt()],
            cancel_requested: false,
        }
    }

    fn preview(node: Option<&str>, format: ImageFormat) -> Preview {
        let metadata = node.map(|node| json!({"node_id": node}).as_object().unwrap().clone());
        let prompt = node.map(|_| attempt().upstream);
        Preview { prompt, metadata: metadata.unwrap_or_default(), format, image: Bytes::from_static(b"x") }
    }

    #[tokio::test]
    async fn a_picture_is_a_result_by_its_own_node_or_the_one_that_is_executed_and_only_as_png() {
        let dir = tempfile::tempdir().unwrap();
        let mut pictures = Pictures::begin(Blobs::open(dir.path()).unwrap(), vec!["8".parse().unwrap()]);
        let tracks = Tracks::default();
        let _signals = tracks.track(&job(), &attempt(), Some(pictures.intake()));
        let track = tracks.of(attempt().upstream).unwrap();
        use ImageFormat::{Jpeg, Png};
        assert!(!track.take_picture(&preview(None, Png)), "nobody knows whose it is");
        track.executes(Some("8"));
        assert!(track.take_picture(&preview(None, Png)));
        assert!(!track.take_picture(&preview(None, Jpeg)), "a preview");
        assert!(!track.take_picture(&preview(Some("3"), Png)), "what it says itself counts more");
        track.executes(Some("3"));
        assert!(!track.take_picture(&preview(None, Png)));
        assert!(track.take_picture(&preview(Some("8"), Png)));
        assert!(!track.take_picture(&preview(Some("8"), Jpeg)));
        assert_eq!(pictures.collected().await.unwrap().len(), 2);
        let other = Tracks::default();
        let _signals = other.track(&job(), &attempt(), None);
        assert!(!other.of(attempt().upstream).unwrap().take_picture(&preview(Some("8"), Png)), "it has no such nodes");
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_spoils_the_pictures_only_while_a_node_runs_that_sends_some() {
        for (node, good) in [(None, true), (Some("3"), true), (Some("8"), false)] {
            let dir = tempfile::tempdir().unwrap();
            let mut pictures = Pictures::begin(Blobs::open(dir.path()).unwrap(), vec!["8".parse().unwrap()]);
            let tracks = Tracks::default();
            let _signals = tracks.track(&job(), &attempt(), Some(pictures.intake()));
            let track = tracks.of(attempt().upstream).unwrap();
            track.executes(node);
            track.missed(70_000_000);
            match pictures.collected().await {
                Ok(_) => assert!(good, "{node:?}"),
                Err(Spoiled::TooLarge(text)) => {
                    assert!(!good && text.contains("70000000") && text.contains("67108864"), "{text}");
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_was_heard_of_a_run_is_told_by_connection() {
        let tracks = Tracks::default();
        let _signals = tracks.track(&job(), &attempt(), None);
        let upstream = attempt().upstream;
        assert_eq!(tracks.span(upstream), Span::default());
        let track = tracks.of(upstream).unwrap();
        track.heard(true);
        track.began(2);
        track.heard(false);
        assert_eq!(tracks.span(upstream), Span { began_by: 2, ended_by: 0, events: 1 });
        track.ended(3);
        assert_eq!(tracks.span(upstream), Span { began_by: 2, ended_by: 3, events: 1 });
        tracks.untrack(upstream);
        assert_eq!(tracks.span(upstream), Span::default());
    }
}
