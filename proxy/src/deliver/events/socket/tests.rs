//! A tungstenite client on the other end of an in-memory stream. Time is tokio's, paused: it moves only when everybody waits.

use super::*;
use crate::deliver::events::hub::{Hub, QUEUE_FRAMES_MAX, Route};
use crate::owner::OwnerScope;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;

struct Pipe(DuplexStream);

#[async_trait]
impl RawStream for Pipe {
    async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        let mut bytes = BytesMut::with_capacity(1024);
        let read = self.0.read_buf(&mut bytes).await.map_err(|error| StreamError(error.to_string()))?;
        Ok((read > 0).then(|| bytes.freeze()))
    }
    async fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.write_all(&bytes).await.map_err(|error| StreamError(error.to_string()))
    }
}

struct Scene {
    hub: Arc<Hub>,
    client: WebSocketStream<DuplexStream>,
    shutdown: watch::Sender<bool>,
    served: JoinHandle<CloseReason>,
}

fn scope() -> OwnerScope {
    OwnerScope { tenant: "acme".parse().unwrap(), user: None }
}

fn route() -> Route {
    Route { scope: scope(), client_id: Some("tab".parse().unwrap()) }
}

impl Scene {
    async fn new() -> Self {
        Self::with_hub(Arc::new(Hub::default()), 1 << 16).await
    }

    async fn with_hub(hub: Arc<Hub>, pipe_bytes: usize) -> Self {
        let (near, far) = tokio::io::duplex(pipe_bytes);
        let handle = hub.register(&scope(), Some("tab".parse().unwrap()), 9).unwrap();
        let (shutdown, stopping) = watch::channel(false);
        let served = tokio::spawn(async move { serve(&mut Pipe(near), handle, 3, 1 << 20, stopping).await });
        let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        Self { hub, client, shutdown, served }
    }

    /// The next message that is no ping.
    async fn next(&mut self) -> Message {
        loop {
            match self.client.next().await.unwrap().unwrap() {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(self.next().await.to_text().unwrap()).unwrap()
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.next().await {
                return frame.unwrap().code.into();
            }
        }
    }
}

fn preview() -> ClientEvent {
    let head = r#"{"node_id":"3","prompt_id":"735e7c8d-0c6e-45d3-91cb-6c915f479079","image_type":"image/jpeg"}"#;
    let mut frame = vec![0, 0, 0, 4, 0, 0, 0, u8::try_from(head.len()).unwrap()];
    frame.extend_from_slice(head.as_bytes());
    let event = crate::deliver::events::codec::UpstreamEvent::parse(&Message::Binary(frame.into()));
    event.for_owner(&"mine".parse().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_message_is_the_status_with_sid_and_own_count() {
    let mut scene = Scene::new().await;
    let expected = json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}, "sid": "tab"}});
    assert_eq!(scene.json().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_hears_which_node_runs() {
    let hub = Arc::new(Hub::default());
    let message = json!({"type": "executing", "data": {"node": "7", "prompt_id": "735e7c8d-0c6e-45d3-91cb-6c915f479079"}});
    let event = crate::deliver::events::codec::UpstreamEvent::parse(&Message::Text(message.to_string().into()));
    hub.publish(&route(), &event.for_owner(&"mine".parse().unwrap()).unwrap());
    let mut scene = Scene::with_hub(hub, 1 << 16).await;
    scene.json().await;
    assert_eq!(scene.json().await, json!({"type": "executing", "data": {"node": "7"}}));
}

#[tokio::test(start_paused = true)]
async fn feature_flags_are_answered_and_change_the_previews() {
    let mut scene = Scene::new().await;
    scene.json().await;
    scene.hub.publish(&route(), &preview());
    assert_eq!(scene.next().await.into_data()[3], 1);
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    scene.client.send(Message::Text(flags.to_string().into())).await.unwrap();
    let answer = scene.json().await;
    assert_eq!(answer["type"], "feature_flags");
    assert_eq!(answer["data"]["supports_preview_metadata"], true);
    assert_eq!(answer["data"]["max_upload_size"], 1 << 20);
    scene.hub.publish(&route(), &preview());
    assert_eq!(scene.next().await.into_data()[3], 4);
}

#[tokio::test(start_paused = true)]
async fn only_the_first_object_may_be_feature_flags() {
    let mut scene = Scene::new().await;
    scene.json().await;
    for text in ["not json", "[]", "{}", r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#] {
        scene.client.send(Message::Text(text.into())).await.unwrap();
    }
    scene.client.send(Message::Ping(Bytes::from_static(b"done"))).await.unwrap();
    assert_eq!(scene.next().await, Message::Pong(Bytes::from_static(b"done")));
    scene.hub.publish(&route(), &preview());
    assert_eq!(scene.next().await.into_data()[3], 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_64_kib_is_taken_and_one_byte_more_closes_with_1009() {
    let mut scene = Scene::new().await;
    scene.json().await;
    scene.client.send(Message::Text("x".repeat(MESSAGE_BYTES_MAX).into())).await.unwrap();
    scene.client.send(Message::Ping(Bytes::new())).await.unwrap();
    assert!(matches!(scene.next().await, Message::Pong(_)));
    scene.client.send(Message::Text("x".repeat(MESSAGE_BYTES_MAX + 1).into())).await.unwrap();
    assert_eq!(scene.close_code().await, 1009);
    assert_eq!(scene.served.await.unwrap(), CloseReason::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn the_burst_of_messages_is_taken_and_one_more_closes_with_1008() {
    let mut scene = Scene::new().await;
    scene.json().await;
    for _ in 0..MESSAGES_BURST {
        scene.client.send(Message::Text("x".into())).await.unwrap();
    }
    // Paused time moves past nothing here: the socket is still open, and the next tenth of a second earns one message.
    tokio::time::advance(MESSAGE_INTERVAL).await;
    scene.client.send(Message::Ping(Bytes::new())).await.unwrap();
    assert!(matches!(scene.next().await, Message::Pong(_)));
    for _ in 0..=MESSAGES_BURST {
        scene.client.feed(Message::Text("x".into())).await.unwrap();
    }
    scene.client.flush().await.unwrap();
    assert_eq!(scene.close_code().await, 1008);
    assert_eq!(scene.served.await.unwrap(), CloseReason::TooMany);
}

#[tokio::test(start_paused = true)]
async fn shutdown_closes_with_1012() {
    let mut scene = Scene::new().await;
    scene.json().await;
    scene.shutdown.send_replace(true);
    assert_eq!(scene.close_code().await, 1012);
    assert_eq!(scene.served.await.unwrap(), CloseReason::Shutdown);
    assert_eq!(scene.hub.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_closed_with_1013_or_cut_off() {
    // A pipe of one kilobyte: the first large batch stalls in it.
    let scene = Scene::with_hub(Arc::new(Hub::default()), 1 << 10).await;
    for _ in 0..=QUEUE_FRAMES_MAX {
        scene.hub.publish(&route(), &ClientEvent::status(1, None));
    }
    assert_eq!(scene.served.await.unwrap(), CloseReason::Slow);
    assert_eq!(scene.hub.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_a_silent_one_is_closed() {
    let mut scene = Scene::new().await;
    scene.json().await;
    // Reading answers pings: many idle timeouts later the socket is still there.
    let reading = async {
        loop {
            scene.client.next().await.unwrap().unwrap();
        }
    };
    assert!(tokio::time::timeout(IDLE_TIMEOUT * 5, reading).await.is_err());
    assert!(!scene.served.is_finished());
    // Nobody reads now, so nobody answers.
    assert_eq!(scene.served.await.unwrap(), CloseReason::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_is_answered_and_an_abrupt_end_is_noticed() {
    let mut scene = Scene::new().await;
    scene.json().await;
    scene.client.close(None).await.unwrap();
    assert!(matches!(scene.next().await, Message::Close(_)));
    drop(scene.client);
    assert_eq!(scene.served.await.unwrap(), CloseReason::Client);

    let scene = Scene::new().await;
    drop(scene.client);
    assert_eq!(scene.served.await.unwrap(), CloseReason::Gone);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_frames_close_with_1002() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let hub = Arc::new(Hub::default());
    let handle = hub.register(&scope(), None, 9).unwrap();
    let (_shutdown, stopping) = watch::channel(false);
    // An unmasked frame, which a client must not send (RFC 6455 §5.1).
    far.write_all(&[0x81, 0x01, b'x']).await.unwrap();
    assert_eq!(serve(&mut Pipe(near), handle, 0, 1, stopping).await, CloseReason::Protocol);
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert!(received.windows(4).any(|window| window[0] == 0x88 && window[2..] == 1002_u16.to_be_bytes()), "{received:?}");
}
