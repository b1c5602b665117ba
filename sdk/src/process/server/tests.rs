use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, watch};

use super::*;

/// Size of the largest body that a host accepts from its clients.
const BODY: usize = 32 << 20;

/// The first bytes of a connection: the preface, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Services whose methods are named after their behaviour.
#[derive(Default)]
struct Stub {
    /// Calls that have reached a method.
    begun: AtomicUsize,
    /// Calls of `/wait` that were dropped without an answer.
    dropped: Arc<AtomicUsize>,
    /// Ends all calls of `/wait`.
    go: watch::Sender<bool>,
    /// Methods that streaming calls have ended with their body.
    ended: Arc<Mutex<Vec<u8>>>,
    barrier: Option<Barrier>,
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Services for Stub {
    fn kind(&self, path: &str) -> Option<Kind> {
        match path {
            "/echo" | "/early" | "/wait" | "/panic" | "/meet" => Some(Kind::Unary),
            "/stream" => Some(Kind::Streaming),
            _ => None,
        }
    }

    fn early(&self, call: &Call, start: &[u8]) -> Option<Bytes> {
        (call.path() == "/early" && start.starts_with(b"early")).then(|| message(b"constant"))
    }

    async fn unary(&self, call: Call, received: Bytes) -> Answer {
        self.begun.fetch_add(1, Ordering::SeqCst);
        match call.path() {
            "/panic" => panic!("told to"),
            "/meet" => {
                self.barrier.as_ref().map(Barrier::wait);
            }
            "/wait" => {
                let dropped = Dropped(self.dropped.clone());
                let _ = self.go.subscribe().wait_for(|go| *go).await;
                std::mem::forget(dropped);
            }
            _ => {}
        }
        Ok(message(&received))
    }

    /// Sends every message back.
    fn streaming(&self, _path: &str, mut messages: Messages) -> Result<BoxStream<'static, Bytes>, Status> {
        let (echo, mut echoed) = mpsc::unbounded_channel();
        let ended = self.ended.clone();
        tokio::spawn(async move {
            while let Ok(Some(received)) = messages.next().await {
                let _ = echo.send(message(&received));
            }
            ended.lock().unwrap().push(1);
        });
        Ok(futures_util::stream::poll_fn(move |cx| echoed.poll_recv(cx)).boxed())
    }
}

/// Returns a message with its prefix.
fn message(content: &[u8]) -> Bytes {
    [&[0][..], &u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat().into()
}

fn served(services: &Arc<Stub>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 16);
    let services = services.clone();
    tokio::spawn(async move { serve(near, Streams::default(), services).await });
    far
}

/// Connects as a host.
async fn host(services: &Arc<Stub>) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(usize::MAX);
    let (requests, connection) = builder.handshake(served(services)).await.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

fn begin(host: &mut SendRequest<Bytes>, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = http::Request::post(format!("http://localhost{path}")).body(()).unwrap();
    host.send_request(request, false).unwrap()
}

/// Calls a method with these bytes as the body.
fn call(host: &mut SendRequest<Bytes>, path: &str, body: impl Into<Bytes>) -> ResponseFuture {
    let (answer, mut sent) = begin(host, path);
    sent.send_data(body.into(), true).unwrap();
    answer
}

/// Reads an answer to its end. Returns its status, and its body.
async fn read(answer: ResponseFuture) -> (String, Vec<u8>) {
    let (head, mut body) = answer.await.unwrap().into_parts();
    assert_eq!((head.status.as_u16(), head.headers["content-type"].as_bytes()), (200, &b"application/grpc"[..]));
    let status = |headers: &HeaderMap| headers["grpc-status"].to_str().unwrap().to_owned();
    if body.is_end_stream() {
        return (status(&head.headers), Vec::new());
    }
    let mut read = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        read.extend_from_slice(&part);
    }
    (status(&body.trailers().await.unwrap().unwrap()), read)
}

fn ok(content: &[u8]) -> (String, Vec<u8>) {
    ("0".to_owned(), message(content).to_vec())
}

#[tokio::test]
async fn a_body_is_one_message() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    assert_eq!(read(call(&mut host, "/echo", message(b"hello"))).await, ok(b"hello"));
    assert_eq!(read(call(&mut host, "/echo", message(b""))).await, ok(b""));
    let whole = message(b"hello");
    for (name, body, status) in [
        ("nothing", Vec::new(), "13"),
        ("a part of the prefix", whole[..3].to_vec(), "13"),
        ("a part of the message", whole[..7].to_vec(), "13"),
        ("two messages", [&whole[..], &whole].concat(), "13"),
        ("a byte after the message", [&whole[..], b"x"].concat(), "13"),
        ("a compressed message", [&[1], &whole[1..]].concat(), "12"),
        ("a length that is too large", vec![0, 0xff, 0xff, 0xff, 0xff, 0], "8"),
    ] {
        assert_eq!(read(call(&mut host, "/echo", body)).await, (status.to_owned(), Vec::new()), "{name}");
    }
    assert_eq!(services.begun.load(Ordering::SeqCst), 2);
    assert_eq!(read(call(&mut host, "/unknown", message(b"hello"))).await.0, "12");
}

#[tokio::test]
async fn a_message_may_arrive_in_any_parts() {
    let mut host = host(&Arc::default()).await;
    let whole = message(b"hello");
    for size in 1..=whole.len() {
        let (answer, mut sent) = begin(&mut host, "/echo");
        for part in whole.chunks(size) {
            sent.send_data(Bytes::copy_from_slice(part), false).unwrap();
            tokio::task::yield_now().await;
        }
        sent.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(answer).await, ok(b"hello"), "{size}");
    }
}

#[tokio::test]
async fn a_body_of_32_mib_passes_in_both_directions() {
    let mut host = host(&Arc::default()).await;
    for size in [5 << 20, BODY] {
        let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let body = message(&content);
        assert!(read(call(&mut host, "/echo", body.clone())).await == ("0".to_owned(), body.to_vec()), "{size}");
    }
}

#[tokio::test]
async fn many_slow_calls_do_not_delay_a_fast_one() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    let slow: Vec<_> = (0..400).map(|_| call(&mut host, "/wait", message(b"slow"))).collect();
    assert_eq!(read(call(&mut host, "/echo", message(b"fast"))).await, ok(b"fast"));
    assert_eq!(services.begun.load(Ordering::SeqCst), 401);
    services.go.send_replace(true);
    for answer in join_all(slow.into_iter().map(read)).await {
        assert_eq!(answer, ok(b"slow"));
    }
}

#[tokio::test]
async fn a_panic_spoils_one_call_only() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    let waiting = call(&mut host, "/wait", message(b"slow"));
    let (panicking, echo) = (call(&mut host, "/panic", message(b"")), call(&mut host, "/echo", message(b"hello")));
    assert_eq!((read(panicking).await.0.as_str(), read(echo).await), ("13", ok(b"hello")));
    services.go.send_replace(true);
    assert_eq!(read(waiting).await, ok(b"slow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_run_on_all_threads() {
    let services = Arc::new(Stub { barrier: Some(Barrier::new(2)), ..Stub::default() });
    let mut host = host(&services).await;
    // Each call holds its thread until the other call runs, too.
    let calls = [call(&mut host, "/meet", message(b"a")), call(&mut host, "/meet", message(b"b"))];
    assert_eq!(join_all(calls.map(read)).await, [ok(b"a"), ok(b"b")]);
}

#[tokio::test]
async fn a_reset_or_the_end_of_the_connection_drops_the_handler() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    let (_first, mut sent) = begin(&mut host, "/wait");
    sent.send_data(message(b"slow"), true).unwrap();
    let second = call(&mut host, "/wait", message(b"slow"));
    assert_eq!(read(call(&mut host, "/echo", message(b""))).await.0, "0");
    assert_eq!(services.dropped.load(Ordering::SeqCst), 0);
    sent.send_reset(Reason::CANCEL);
    until(&services.dropped, 1).await;
    drop((second, host));
    until(&services.dropped, 2).await;
}

async fn until(count: &AtomicUsize, value: usize) {
    while count.load(Ordering::SeqCst) < value {
        tokio::task::yield_now().await;
    }
    assert_eq!(count.load(Ordering::SeqCst), value);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    let request = http::Request::post("http://localhost/wait").header("grpc-timeout", "5S").body(()).unwrap();
    let (answer, mut sent) = host.send_request(request, false).unwrap();
    sent.send_data(message(b""), true).unwrap();
    assert_eq!(read(answer).await.0, "4");
    assert_eq!(services.dropped.load(Ordering::SeqCst), 1);
}

/// Returns a message of 32 MiB that is answered early.
fn early() -> Bytes {
    message(&[b"early", &vec![b'x'; BODY][..]].concat())
}

#[tokio::test]
async fn the_first_bytes_of_a_message_may_arrive_in_any_parts() {
    let mut host = host(&Arc::default()).await;
    for size in [1, 2, 5, 7, 600] {
        let (answer, mut sent) = begin(&mut host, "/early");
        for part in early()[..2000].chunks(size) {
            // The plugin has answered before the last part.
            if sent.send_data(Bytes::copy_from_slice(part), false).is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(read(answer).await, ok(b"constant"), "{size}");
    }
}

/// By default, `h2` ends a connection after about 2,000 such frames.
#[tokio::test]
async fn small_parts_of_an_answered_call_do_not_end_the_connection() {
    let mut connection = served(&Arc::default());
    let call = frames(1, "/early", 0, &early()[..2000]);
    connection.write_all(&[PREFACE, &call].concat()).await.unwrap();
    read_frames(&mut connection, (3, 0, 1)).await;
    connection.write_all(&frame(0, 0, 1, b"x").repeat(10_000)).await.unwrap();
    connection.write_all(&frames(3, "/echo", 1, &message(b"hello"))).await.unwrap();
    read_frames(&mut connection, (1, 5, 3)).await;
}

/// Each call announces 32 MiB. The plugin reads only the first part of each, and gives back the room for the rest.
#[tokio::test]
async fn calls_that_are_answered_early_take_no_memory() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    let start = early().slice(..100_000);
    for _ in 0..4 {
        let calls: Vec<_> = (0..100).map(|_| begin(&mut host, "/early")).collect();
        join_all(calls.into_iter().map(async |(answer, mut sent)| {
            // The host would send more if the plugin wanted more.
            sent.send_data(start.clone(), false).unwrap();
            assert_eq!(read(answer).await, ok(b"constant"));
            assert_eq!(poll_fn(|cx| sent.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
        }))
        .await;
    }
    assert_eq!(services.begun.load(Ordering::SeqCst), 0);
    // A body that starts otherwise is read to its end.
    assert_eq!(read(call(&mut host, "/early", message(b"late"))).await, ok(b"late"));
    assert_eq!(read(call(&mut host, "/early", message(b"early"))).await, ok(b"constant"));
}

#[tokio::test]
async fn a_stream_sends_and_receives_until_it_is_reset() {
    let services = Arc::<Stub>::default();
    let mut host = host(&services).await;
    let (answer, mut sent) = begin(&mut host, "/stream");
    // The head of the answer does not wait for a message.
    let mut echo = answer.await.unwrap().into_body();
    for content in [b"one", b"two"] {
        sent.send_data(message(content), false).unwrap();
        assert_eq!(echo.data().await.unwrap().unwrap(), message(content));
    }
    sent.send_data([message(b"three"), message(b"four")].concat().into(), false).unwrap();
    for content in [&b"three"[..], b"four"] {
        assert_eq!(echo.data().await.unwrap().unwrap(), message(content));
    }
    sent.send_reset(Reason::CANCEL);
    while services.ended.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

/// The frames of a call without further headers. `body` is the payload of its DATA frame.
fn frames(stream: u32, path: &str, flags: u8, body: &[u8]) -> Vec<u8> {
    // `:method POST`, `:scheme http` and a literal `:path` (RFC 7541, appendix A).
    let headers = [&[0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    [frame(1, 4, stream, &headers), frame(0, flags, stream, body)].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames until this one. Returns the kind, the flags and the stream of each frame of a call.
async fn read_frames(connection: &mut DuplexStream, last: (u8, u8, u32)) -> Vec<(u8, u8, u32)> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let mut header = [0; 9];
        connection.read_exact(&mut header).await.unwrap();
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        connection.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes(stream);
        if stream > 0 {
            seen.push((kind, flags, stream));
        }
    }
    seen
}

#[tokio::test]
async fn a_call_that_is_cut_off_by_a_reset_reaches_no_handler() {
    let services = Arc::<Stub>::default();
    let mut connection = served(&services);
    let cut = [frames(1, "/echo", 0, &message(b"hello")[..7]), frame(3, 0, 1, &[0, 0, 0, 8])].concat();
    let whole = frames(3, "/echo", 1, &message(b"hello"));
    let bytes = [PREFACE, &cut, &whole].concat();
    connection.write_all(&bytes).await.unwrap();
    assert_eq!(read_frames(&mut connection, (1, 5, 3)).await, [(1, 4, 3), (0, 0, 3), (1, 5, 3)]);
    assert_eq!(services.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_early_answer_is_whole_before_the_reset() {
    let mut connection = served(&Arc::default());
    let call = frames(1, "/early", 0, &early()[..2000]);
    let bytes = [PREFACE, &call].concat();
    connection.write_all(&bytes).await.unwrap();
    assert_eq!(read_frames(&mut connection, (3, 0, 1)).await, [(1, 4, 1), (0, 0, 1), (1, 5, 1), (3, 0, 1)]);
}

#[test]
fn a_deadline_is_read_in_every_unit() {
    let left = |text: &str| {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), text.parse().unwrap())]);
        deadline(&headers).map(|deadline| deadline.saturating_duration_since(Instant::now()))
    };
    for (text, seconds) in [("90S", 90), ("89999999u", 90), ("90000m", 90), ("2M", 120), ("1H", 3600)] {
        let left = left(text).unwrap().as_secs_f64();
        assert!(left > f64::from(seconds) - 10.0 && left <= f64::from(seconds), "{text}: {left}");
    }
    for text in ["", "S", "90", "90x", "-1S", "1.5S"] {
        assert_eq!(left(text), None, "{text}");
    }
    assert_eq!(deadline(&HeaderMap::new()), None);
}
