//! Serves the calls of one connection, directly on `h2`.
//!
//! A router, boxed services and a task for each call would cost more than most calls. A call is therefore polled once by
//! the task of its connection. Only a call that has to wait gets its own task, so it delays no other call. If the runtime
//! has several threads, each call gets its own task at once, so that calls run on all threads.
//!
//! Architecture invariant: knows no method. The caller provides [`Services`].

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::timeout_at;
use tonic::Status;

use super::delivery::{Stream, Streams};
use super::messages::Messages;

/// How many bytes the host may send before the plugin reads any: for one call, and for all calls of the connection.
const WINDOW: u32 = 1 << 20;

/// The longest headers of a call, in bytes.
const HEADERS: u32 = 16 * 1024;

/// The headers and the trailers of every answer.
static HEAD: LazyLock<HeaderMap> =
    LazyLock::new(|| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))]));
static TRAILERS: LazyLock<HeaderMap> =
    LazyLock::new(|| HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]));

/// A message with its prefix, or the reason why there is none.
pub(crate) type Answer = Result<Bytes, Status>;

/// The kinds of methods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// One message in each direction.
    Unary,
    /// Any number of messages in each direction.
    Streaming,
}

/// The methods that the host can call.
pub(crate) trait Services: Send + Sync + 'static {
    /// Returns the kind of the method with this path, or `None` if there is no such method.
    fn kind(&self, path: &str) -> Option<Kind>;

    /// Answers a unary call from the first bytes of its message, if they are enough. The rest is then never read.
    fn early(&self, call: &Call, start: &[u8]) -> Option<Bytes>;

    /// Answers a unary call.
    fn unary(&self, call: Call, message: Bytes) -> impl Future<Output = Answer> + Send;

    /// Opens a stream of messages with their prefixes.
    fn streaming(&self, path: &str, messages: Messages) -> Result<BoxStream<'static, Bytes>, Status>;
}

/// A call, apart from its messages.
pub(crate) struct Call {
    pub(super) uri: http::Uri,
    pub(crate) headers: HeaderMap,
    /// When the host gives the call up.
    pub(crate) deadline: Option<Instant>,
    pub(crate) stream: Stream,
}

impl Call {
    pub(crate) fn new(uri: http::Uri, headers: HeaderMap, stream: Stream) -> Self {
        Self { uri, deadline: deadline(&headers), headers, stream }
    }

    /// The path of the method: `/` service `/` method.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }
}

/// Serves a connection until the host closes it.
///
/// # Errors
/// If the connection breaks.
pub(super) async fn serve<S: Services>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    streams: Streams,
    services: Arc<S>,
) -> Result<(), h2::Error> {
    let mut connection = builder().handshake(stream).await?;
    let is_alone = Handle::current().metrics().num_workers() == 1;
    let mut begun = Vec::new();
    poll_fn(|cx| {
        loop {
            let accepted = poll_accept(&mut connection, &mut begun, cx)?;
            if begun.is_empty() {
                return accepted.map(Ok);
            }
            for (request, respond) in begun.drain(..) {
                if let Some(exchange) = begin(request, respond, &streams, &services) {
                    exchange.poll_once_or_spawn(is_alone, cx);
                }
            }
            // The next poll of the connection writes the answers.
        }
    })
    .await
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_header_list_size(HEADERS);
    // An HTTP/2 server takes many cancelled requests for an attack. Here the peer is the host, which passes on the
    // cancellations of its clients. Without this connection, the process is useless.
    builder.max_pending_accept_reset_streams(usize::MAX).max_local_error_reset_streams(None);
    // For the same reason. `h2` counts small DATA frames, and never forgets those of calls that were answered early.
    builder.data_frame_budget(usize::MAX);
    builder
}

type Begun = (http::Request<RecvStream>, SendResponse<Bytes>);

/// Reads and writes the connection, and collects the calls that have begun. Ready when the connection has ended.
fn poll_accept<T: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<T, Bytes>,
    begun: &mut Vec<Begun>,
    cx: &mut Context<'_>,
) -> Result<Poll<()>, h2::Error> {
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(call))) => begun.push(call),
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(None) => return Ok(Poll::Ready(())),
            Poll::Pending => return Ok(Poll::Pending),
        }
    }
}

/// Begins a call. Returns the exchange of a unary call.
fn begin<S: Services>(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    streams: &Streams,
    services: &Arc<S>,
) -> Option<Exchange> {
    let (head, body) = request.into_parts();
    let (services, messages) = (services.clone(), Messages::new(body));
    match services.kind(head.uri.path()) {
        Some(Kind::Unary) => {
            let call = Call::new(head.uri, head.headers, streams.stream(respond.stream_id().as_u32()));
            let deadline = call.deadline;
            let work = AssertUnwindSafe(unary(services, call, messages)).catch_unwind().map(|answer| {
                // The panic hook has logged the panic.
                answer.unwrap_or_else(|_| Err(Status::internal("internal error")))
            });
            return Some(Exchange { work: Box::pin(work), respond, deadline });
        }
        Some(Kind::Streaming) => match services.streaming(head.uri.path(), messages) {
            Ok(answers) => drop(tokio::spawn(stream(answers, respond))),
            Err(status) => send(respond, Err(status)),
        },
        None => send(respond, Err(Status::unimplemented(format!("there is no method {:?}", head.uri.path())))),
    }
    None
}

async fn unary<S: Services>(services: Arc<S>, call: Call, mut messages: Messages) -> Answer {
    let length = messages.length().await?.ok_or_else(|| Status::internal("the call has no message"))?;
    if let Some(answer) = services.early(&call, messages.start(length).await?) {
        // The rest of the body is dropped: `h2` resets the stream after the answer, with NO_ERROR (RFC 9113, section 8.1).
        return Ok(answer);
    }
    let message = messages.message(length).await?;
    if messages.length().await?.is_some() {
        return Err(Status::internal("the call has more than one message"));
    }
    drop(messages);
    services.unary(call, message).await
}

/// A unary call without an answer yet.
struct Exchange {
    work: BoxFuture<'static, Answer>,
    respond: SendResponse<Bytes>,
    deadline: Option<Instant>,
}

impl Exchange {
    fn poll_once_or_spawn(mut self, is_alone: bool, cx: &mut Context<'_>) {
        match is_alone.then(|| self.work.as_mut().poll(cx)) {
            Some(Poll::Ready(answer)) => send(self.respond, answer),
            _ => drop(tokio::spawn(self.finish())),
        }
    }

    async fn finish(self) {
        let Self { mut work, mut respond, deadline } = self;
        let answered = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // If the host has reset the stream, or is gone, the handler is dropped.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        });
        let answer = match deadline {
            Some(deadline) => timeout_at(deadline.into(), answered).await.unwrap_or_else(|_| {
                Some(Err(Status::deadline_exceeded("the call took longer than the host wanted to wait")))
            }),
            None => answered.await,
        };
        drop(work);
        if let Some(answer) = answer {
            send(respond, answer);
        }
    }
}

/// Sends an answer. Fails only if the host does not want it any more.
fn send(mut respond: SendResponse<Bytes>, answer: Answer) {
    let _ = match answer {
        Ok(message) => respond.send_response(head(HEAD.clone()), false).and_then(|mut sent| {
            // `h2` keeps the part for which the host has no room yet.
            sent.send_data(message, false)?;
            sent.send_trailers(TRAILERS.clone())
        }),
        Err(status) => respond.send_response(status.into_http(), true).map(drop),
    };
}

fn head(headers: HeaderMap) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.headers_mut() = headers;
    response
}

/// Sends the messages of a stream until it ends, or until the host does not want more.
async fn stream(mut answers: BoxStream<'static, Bytes>, mut respond: SendResponse<Bytes>) {
    let Ok(mut sent) = respond.send_response(head(HEAD.clone()), false) else { return };
    while let Some(message) = poll_fn(|cx| poll_message(&mut answers, &mut sent, cx)).await {
        if sent.send_data(message, false).is_err() {
            return;
        }
    }
    // Fails if the host has reset the stream.
    let _ = sent.send_trailers(TRAILERS.clone());
}

fn poll_message(
    answers: &mut BoxStream<'static, Bytes>,
    sent: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Option<Bytes>> {
    match answers.as_mut().poll_next(cx) {
        Poll::Ready(message) => Poll::Ready(message),
        Poll::Pending => sent.poll_reset(cx).map(|_| None),
    }
}

/// Reads the time limit of a call (gRPC over HTTP/2, `grpc-timeout`): up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let nanoseconds: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    let amount: u64 = digits.parse().ok()?;
    Instant::now().checked_add(Duration::from_nanos(nanoseconds.saturating_mul(amount)))
}

#[cfg(test)]
mod tests;
