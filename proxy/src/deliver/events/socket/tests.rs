//! A socket against a real client role of tungstenite, over memory.

use super::super::hub::{Hub, Route};
use super::*;
use crate::clock::Clock;
use crate::deliver::events::codec::ImageFormat;
use crate::deliver::events::end::Step as EndStep;
use crate::ids::JobId;
use crate::owner::OwnerScope;
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;

/// More than any deadline of these tests; reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(20);
/// The same where pings are waited for, on a clock that stands until it is needed.
const PING_DEADLINE: Duration = Duration::from_secs(60);

struct Duplex(DuplexStream);

#[async_trait]
impl RawStream for Duplex {
    async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        let mut bytes = BytesMut::with_capacity(4096);
        match self.0.read_buf(&mut bytes).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(bytes.freeze())),
            Err(error) => Err(StreamError(error.to_string())),
        }
    }
    async fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.write_all(&bytes).await.map_err(|error| StreamError(error.to_string()))
    }
}

struct Session {
    hub: Arc<Hub>,
    scope: OwnerScope,
    client: WebSocketStream<DuplexStream>,
    served: tokio::task::JoinHandle<Closed>,
    stop: watch::Sender<bool>,
    end_credential: tokio::sync::oneshot::Sender<End>,
}

async fn session() -> Session {
    session_in(Arc::new(Hub::new(100, Clock::system())), OwnerScope { tenant: "a".parse().unwrap(), user: None }).await
}

async fn session_in(hub: Arc<Hub>, scope: OwnerScope) -> Session {
    session_at(hub, scope, AtEnd::Close).await
}

async fn session_at(hub: Arc<Hub>, scope: OwnerScope, at_end: AtEnd) -> Session {
    session_through(1 << 20, hub, scope, at_end).await
}

/// Through a connection that takes so many bytes until the client reads.
async fn session_through(buffer_bytes: usize, hub: Arc<Hub>, scope: OwnerScope, at_end: AtEnd) -> Session {
    let handle = hub.register(&scope, Some("x".parse().unwrap()), 5).unwrap();
    let (ours, theirs) = tokio::io::duplex(buffer_bytes);
    let (stop, stopping) = watch::channel(false);
    let (end_credential, ended) = tokio::sync::oneshot::channel();
    let credential_ended = async move { ended.await.unwrap_or(End::Over) };
    let served =
        tokio::spawn(async move { serve(&mut Duplex(ours), handle, 2, 100, stopping, credential_ended, at_end).await });
    let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    Session { hub, scope, client, served, stop, end_credential }
}

impl Session {
    /// Its credential ends, like this.
    fn ends(&mut self, end: End) {
        std::mem::replace(&mut self.end_credential, tokio::sync::oneshot::channel().0).send(end).unwrap();
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(PING_DEADLINE, self.client.next()).await.unwrap().unwrap().unwrap()
    }
    async fn json(&mut self) -> Value {
        serde_json::from_str(self.next().await.to_text().unwrap()).unwrap()
    }
    async fn closed(&mut self) -> (CloseCode, Closed) {
        let code = loop {
            match self.next().await {
                Message::Close(Some(frame)) => break frame.code,
                Message::Close(None) => panic!("no code"),
                _ => {}
            }
        };
        (code, tokio::time::timeout(DEADLINE, &mut self.served).await.unwrap().unwrap())
    }
}

#[tokio::test]
async fn the_first_message_is_the_owners_status_with_the_sid() {
    let mut session = session().await;
    let status = session.json().await;
    assert_eq!(
        status,
        json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}, "sid": "x"}})
    );
}

#[tokio::test]
async fn a_client_that_comes_back_hears_second_which_node_runs() {
    let hub = Arc::new(Hub::new(100, Clock::system()));
    let scope = OwnerScope { tenant: "a".parse().unwrap(), user: None };
    let route = Route { scope: scope.clone(), client_id: Some("x".parse().unwrap()) };
    hub.set_executing(&route, &"p".parse().unwrap(), Some("7".into()));
    let mut session = session_in(hub, scope).await;
    assert_eq!(session.json().await["data"]["sid"], "x");
    assert_eq!(session.json().await, json!({"type": "executing", "data": {"node": "7"}}));
}

fn picture(dir: &std::path::Path, name: &str, content: &[u8]) -> Picture {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    let metadata = json!({"node_id": "3"}).as_object().unwrap().clone();
    Picture { path, bytes: content.len() as u64, metadata, format: ImageFormat::Png }
}

#[tokio::test]
async fn pictures_are_read_from_their_files_and_come_in_the_form_that_the_client_takes() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Arc::new(Hub::new(100, Clock::system()));
    let scope = OwnerScope { tenant: "a".parse().unwrap(), user: None };
    // More than one piece, and of every form of a length.
    let contents: Vec<Vec<u8>> = [0, 100, 200, 70_000, 3 * PIECE_BYTES + 1].map(|length| vec![7; length]).into();
    let pictures = contents.iter().enumerate().map(|(at, content)| picture(dir.path(), &at.to_string(), content));
    let steps: Vec<EndStep> = pictures.map(EndStep::Picture).chain([EndStep::Event(told())]).collect();
    let route = Route { scope: scope.clone(), client_id: Some("x".parse().unwrap()) };
    hub.publish_end(&route, JobId::new(), steps.clone());
    let mut session = session_in(hub, scope).await;
    assert_eq!(session.json().await["data"]["sid"], "x", "the status comes first");
    for content in &contents {
        assert_eq!(session.next().await.into_data(), [b"\0\0\0\x01\0\0\0\x02", &content[..]].concat());
    }
    assert_eq!(session.json().await["type"], "x");
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    session.client.send(Message::text(flags.to_string())).await.unwrap();
    session.json().await;
    session.hub.publish_end(&route, JobId::new(), steps);
    for content in &contents {
        assert_eq!(
            session.next().await.into_data(),
            [b"\0\0\0\x04\0\0\0\x0f{\"node_id\":\"3\"}", &content[..]].concat()
        );
    }
    assert_eq!(session.json().await["type"], "x");
}

#[tokio::test]
async fn a_picture_whose_file_is_gone_or_cut_ends_the_socket_and_is_not_passed_over() {
    for cut in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut session = session().await;
        session.json().await;
        let lost = picture(dir.path(), "lost", b"PNG");
        if cut { std::fs::write(&lost.path, b"PN") } else { std::fs::remove_file(&lost.path) }.unwrap();
        let route = Route { scope: session.scope.clone(), client_id: None };
        session.hub.publish_end(&route, JobId::new(), vec![EndStep::Picture(lost), EndStep::Event(told())]);
        let closed = tokio::time::timeout(DEADLINE, session.served).await.unwrap().unwrap();
        assert!(matches!(closed, Closed::Failed(_)), "{closed:?}");
        while let Ok(Some(Ok(message))) = tokio::time::timeout(DEADLINE, session.client.next()).await {
            assert!(!message.is_text(), "{message:?}");
        }
    }
}

#[tokio::test]
async fn feature_flags_are_answered_once_and_decide_the_form_of_previews() {
    let mut session = session().await;
    session.json().await;
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    session.client.send(Message::text(flags.to_string())).await.unwrap();
    let answer = session.json().await;
    assert_eq!(answer["type"], "feature_flags");
    assert_eq!(answer["data"]["max_upload_size"], 100);
    let metadata = json!({"node_id": "3"}).as_object().unwrap().clone();
    let image = Bytes::from_static(b"JPG");
    let preview = ClientEvent::Preview { metadata, format: super::super::codec::ImageFormat::Jpeg, image };
    let route = Route { scope: session.scope.clone(), client_id: None };
    session.hub.publish(&route, &preview);
    assert_eq!(session.next().await.into_data()[..4], [0, 0, 0, 4]);
    // A second announcement is no first message: nothing changes.
    let other = json!({"type": "feature_flags", "data": {"supports_preview_metadata": false}});
    session.client.send(Message::text(other.to_string())).await.unwrap();
    session.client.send(Message::Ping(Bytes::from_static(b"after"))).await.unwrap();
    assert_eq!(session.next().await, Message::Pong(Bytes::from_static(b"after")));
    session.hub.publish(&route, &preview);
    assert_eq!(session.next().await.into_data()[..4], [0, 0, 0, 4]);
}

#[tokio::test]
async fn invalid_json_is_dropped_and_the_socket_lives_on() {
    let mut session = session().await;
    session.json().await;
    for odd in ["{", "null", "[1]", "\"x\"", "{\"type\":1}"] {
        session.client.send(Message::text(odd)).await.unwrap();
    }
    session.hub.status(&session.scope, 7);
    assert_eq!(session.json().await["data"]["status"]["exec_info"]["queue_remaining"], 7);
}

#[tokio::test]
async fn a_message_of_64_kib_is_read_and_a_larger_one_ends_with_1009() {
    let mut session = session().await;
    session.json().await;
    session.client.send(Message::text("x".repeat(INBOUND_BYTES_MAX))).await.unwrap();
    session.client.send(Message::Ping(Bytes::new())).await.unwrap();
    assert!(matches!(session.next().await, Message::Pong(_)));
    session.client.send(Message::text("x".repeat(INBOUND_BYTES_MAX + 1))).await.unwrap();
    assert_eq!(session.closed().await, (CloseCode::Size, Closed::Misused("size")));
}

#[tokio::test]
async fn a_flood_of_messages_ends_with_1008() {
    let mut session = session().await;
    session.json().await;
    // More than two seconds' worth: whichever second they fall into, one of them overflows.
    for _ in 0..3 * INBOUND_PER_SECOND_MAX {
        if session.client.send(Message::text("{}")).await.is_err() {
            break;
        }
    }
    assert_eq!(session.closed().await, (CloseCode::Policy, Closed::Misused("rate")));
}

#[tokio::test]
async fn a_stop_is_told_with_1012() {
    let mut session = session().await;
    session.json().await;
    session.stop.send_replace(true);
    assert_eq!(session.closed().await, (CloseCode::Restart, Closed::Stopping));
}

#[tokio::test]
async fn a_socket_whose_credential_ends_is_closed_with_4401() {
    let session = session().await;
    let Session { mut client, served, end_credential, .. } = session;
    end_credential.send(End::Over).unwrap();
    let code = loop {
        match tokio::time::timeout(DEADLINE, client.next()).await.unwrap().unwrap().unwrap() {
            Message::Close(Some(frame)) => break u16::from(frame.code),
            Message::Close(None) => panic!("no code"),
            _ => {}
        }
    };
    assert_eq!(code, CREDENTIAL_ENDED);
    assert_eq!(tokio::time::timeout(DEADLINE, served).await.unwrap().unwrap(), Closed::CredentialEnded);
}

/// How a socket is told that it is over.
#[derive(Debug, Clone, Copy)]
enum Word {
    Credential,
    Stop,
}

impl Session {
    fn is_over(&mut self, word: Word) {
        match word {
            Word::Credential => self.ends(End::Over),
            Word::Stop => drop(self.stop.send_replace(true)),
        }
    }
}

/// A session whose client has read the status and then the first bytes of a large picture, and no more.
async fn amid_a_picture(dir: &std::path::Path, at_end: AtEnd) -> Session {
    let (hub, scope) =
        (Arc::new(Hub::new(100, Clock::system())), OwnerScope { tenant: "a".parse().unwrap(), user: None });
    let mut session = session_through(512, hub, scope, at_end).await;
    assert_eq!(session.json().await["data"]["sid"], "x");
    let route = Route { scope: session.scope.clone(), client_id: None };
    let large = picture(dir, "large", &[7; 3 * PIECE_BYTES]);
    session.hub.publish_end(&route, JobId::new(), vec![EndStep::Picture(large), EndStep::Event(told())]);
    session.client.get_mut().read_exact(&mut [0; 1024]).await.unwrap();
    session
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_over_is_cut_within_five_seconds_though_its_client_is_amid_a_picture_and_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    for word in [Word::Credential, Word::Stop] {
        for at_end in [AtEnd::Close, held().1] {
            let mut session = amid_a_picture(dir.path(), at_end).await;
            session.is_over(word);
            let closed = tokio::time::timeout(Duration::from_secs(5), session.served).await;
            assert_eq!(closed.map(Result::unwrap), Ok(Closed::Cut), "{word:?}");
            let mut rest = Vec::new();
            session.client.get_mut().read_to_end(&mut rest).await.unwrap();
            assert!(rest.len() <= 512, "nothing but what was under way: {}", rest.len());
        }
    }
}

#[tokio::test]
async fn what_has_begun_is_sent_whole_to_a_client_that_takes_it_and_then_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (word, code, end) in [
        (Word::Credential, CloseCode::from(CREDENTIAL_ENDED), Closed::CredentialEnded),
        (Word::Stop, CloseCode::Restart, Closed::Stopping),
    ] {
        let mut session = amid_a_picture(dir.path(), AtEnd::Close).await;
        session.is_over(word);
        let (mut rest, stream) = (Vec::new(), session.client.get_mut());
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        // Ten bytes of the frame's head and eight of the picture's were read with its first bytes.
        let left = 3 * PIECE_BYTES - (1024 - 18);
        assert!(rest[..left].iter().all(|byte| *byte == 7));
        // A close frame, with the length of its reason and two bytes of the code; no event between.
        assert_eq!((rest[left], &rest[left + 2..left + 4]), (0x88, &u16::from(code).to_be_bytes()[..]), "{word:?}");
        assert_eq!(rest.len(), left + 2 + usize::from(rest[left + 1]));
        assert_eq!(tokio::time::timeout(DEADLINE, session.served).await.unwrap().unwrap(), end);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_at_all_is_cut_within_five_seconds_too() {
    for word in [Word::Credential, Word::Stop] {
        let (hub, scope) =
            (Arc::new(Hub::new(100, Clock::system())), OwnerScope { tenant: "a".parse().unwrap(), user: None });
        // Not even the status goes through; or it does, and the close frame does not.
        for buffer_bytes in [16, 100] {
            let mut session = session_through(buffer_bytes, Arc::clone(&hub), scope.clone(), AtEnd::Close).await;
            session.is_over(word);
            let closed = tokio::time::timeout(Duration::from_secs(5), session.served).await;
            assert_eq!(closed.map(Result::unwrap), Ok(Closed::Cut), "{word:?} {buffer_bytes}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_leaves_the_hub() {
    let mut session = session().await;
    session.json().await;
    session.client.close(None).await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, session.served).await.unwrap().unwrap(), Closed::ByClient);
    assert!(session.hub.register(&session.scope, None, 1).is_ok(), "its place is free again");
}

fn held() -> (Arc<Held>, AtEnd) {
    let held = Arc::<Held>::default();
    let at_end = AtEnd::Hold(Arc::clone(&held), group());
    (held, at_end)
}

fn group() -> AddrGroup {
    crate::listen::ClientAddr::of_peer(([192, 0, 2, 1], 1).into()).group()
}

fn told() -> ClientEvent {
    ClientEvent::Json(json!({"type": "x"}).to_string().into())
}

#[tokio::test(start_paused = true)]
async fn the_socket_of_an_ended_session_stays_open_is_pinged_and_hears_nothing_until_its_time_is_over() {
    let (_held, at_end) = held();
    let (hub, scope) =
        (Arc::new(Hub::new(100, Clock::system())), OwnerScope { tenant: "a".parse().unwrap(), user: None });
    let mut session = session_at(hub, scope, at_end).await;
    session.json().await;
    let route = Route { scope: session.scope.clone(), client_id: None };
    session.hub.publish(&route, &told());
    assert_eq!(session.json().await["type"], "x", "until then it hears");
    session.ends(End::Over);
    // The first ping is on its way whether or not the end was seen before it.
    for _ in 0..3 {
        assert!(matches!(session.next().await, Message::Ping(_)));
        session.hub.publish(&route, &told());
    }
    assert_eq!(session.hub.sockets(), 0, "it counts for nobody");
    // Its last ping may cross the end.
    let mut others = Vec::new();
    while let Ok(message) = tokio::time::timeout(PING_DEADLINE, session.client.next()).await.unwrap().unwrap() {
        match message {
            Message::Ping(_) => {}
            Message::Close(frame) => assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(CREDENTIAL_ENDED)),
            other => others.push(other),
        }
        if session.served.is_finished() {
            break;
        }
    }
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(session.served.await.unwrap(), Closed::CredentialEnded);
}

#[tokio::test]
async fn where_no_more_sockets_are_held_an_ended_session_closes_its_own() {
    let (held, at_end) = held();
    let places: Vec<_> = std::iter::from_fn(|| held.enter(group())).collect();
    assert!(!places.is_empty());
    let scope = OwnerScope { tenant: "a".parse().unwrap(), user: None };
    let mut session = session_at(Arc::new(Hub::new(100, Clock::system())), scope, at_end).await;
    session.json().await;
    session.ends(End::Over);
    assert_eq!(session.closed().await.1, Closed::CredentialEnded);
}

#[tokio::test(start_paused = true)]
async fn a_socket_whose_session_is_not_renewed_yet_is_told_to_come_again_as_soon_as_that_is_worth_a_try() {
    let retry_after = Duration::from_secs(7);
    let (full, nowhere) = held();
    let places: Vec<_> = std::iter::from_fn(|| full.enter(group())).collect();
    assert!(!places.is_empty());
    for (at_end, silent_for) in [(AtEnd::Close, Duration::ZERO), (nowhere, Duration::ZERO), (held().1, retry_after)] {
        let scope = OwnerScope { tenant: "a".parse().unwrap(), user: None };
        let mut session = session_at(Arc::new(Hub::new(100, Clock::system())), scope, at_end).await;
        session.json().await;
        let begun = Instant::now();
        session.ends(End::NotRenewedYet { retry_after });
        assert_eq!(session.closed().await, (CloseCode::Again, Closed::NotRenewedYet));
        // The clock stands but for sleeps.
        let silent = begun.elapsed();
        assert!((silent_for..silent_for + Duration::from_secs(1)).contains(&silent), "{silent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_socket_is_greeted_with_nothing_and_answers_nothing() {
    let held = Arc::<Held>::default();
    let place = held.enter(group()).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(async move { hold(&mut Duplex(ours), place, End::Over, stopping).await });
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    client.send(Message::text(flags.to_string())).await.unwrap();
    let first = tokio::time::timeout(PING_DEADLINE, client.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first, Message::Ping(_)), "{first:?}");
}
