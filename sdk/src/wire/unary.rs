//! Unary calls to the host (gRPC over HTTP/2): one message each way.
//!
//! tonic's client builds a head, a stream of messages and a decoder for each call. Calls to the host are many, small and
//! fast, so these would cost more than the calls.

use std::marker::PhantomData;
use std::sync::OnceLock;

use bytes::{BufMut as _, Bytes};
use h2::RecvStream;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::{Authority, Scheme, Uri};
use http::{Request, Response, StatusCode};
use prost::Message;
use tonic::Status;

use super::channel::{Channel, broken};

/// Length of the prefix of a message: a flag for compression, and the size of the message.
const PREFIX: usize = 5;

/// The longest answer in bytes, unless a method has another limit. It is the limit of all gRPC libraries.
const LIMIT: usize = 4 << 20;

const STATUS: &str = "grpc-status";

/// A method of the host, which takes `A` and returns `R`.
pub(super) struct Method<A, R> {
    path: &'static str,
    limit: usize,
    head: OnceLock<Request<()>>,
    types: PhantomData<fn(A) -> R>,
}

impl<A: Message, R: Message + Default> Method<A, R> {
    /// Returns the method with this path: a slash, the service, a slash, the name.
    pub(super) const fn new(path: &'static str) -> Self {
        Self { path, limit: LIMIT, head: OnceLock::new(), types: PhantomData }
    }

    /// Accepts answers of any size.
    pub(super) const fn unlimited(mut self) -> Self {
        self.limit = usize::MAX;
        self
    }

    /// Calls the method. `metadata` is an additional header of the request.
    ///
    /// # Errors
    /// The status with which the host answers, or [`tonic::Code::Unavailable`] if the connection breaks.
    pub(super) async fn call(
        &self,
        channel: &Channel,
        args: &A,
        metadata: Option<(HeaderName, HeaderValue)>,
    ) -> Result<R, Status> {
        let mut head = self.head.get_or_init(|| head(self.path)).clone();
        head.headers_mut().extend(metadata.into_iter().map(|(name, value)| (Some(name), value)));
        let answer = channel.send(head, encode(args)?).await?;
        let body = read(answer, self.limit).await?;
        R::decode(&body[PREFIX..]).map_err(|error| Status::internal(format!("the host's answer is damaged: {error}")))
    }
}

fn head(path: &'static str) -> Request<()> {
    // HTTP/2 needs a scheme and a host. They have no effect here: the socket is known, and the connector handles TLS.
    let mut uri = Uri::from_static(path).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::from_static("localhost"));
    let mut head = Request::new(());
    *head.method_mut() = http::Method::POST;
    *head.version_mut() = http::Version::HTTP_2;
    // Cannot fail: all parts are there.
    *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head
}

/// Returns the message with its prefix, in a buffer of exactly this size.
fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let size = message.encoded_len();
    let prefix = u32::try_from(size).map_err(|_| Status::resource_exhausted("the message is longer than 4 GiB"))?;
    let mut body = Vec::with_capacity(PREFIX + size);
    body.put_u8(0);
    body.put_u32(prefix);
    message.encode(&mut body).map_err(|error| Status::internal(error.to_string()))?;
    Ok(body.into())
}

/// Reads an answer to its end. Returns the message with its prefix.
async fn read(answer: Response<RecvStream>, limit: usize) -> Result<Vec<u8>, Status> {
    let (mut head, mut stream) = answer.into_parts();
    // An answer without a message can have its status in the head.
    if let Some(status) = status(&mut head.headers) {
        return Err(status.err().unwrap_or_else(incomplete));
    }
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.map_err(broken)?;
        append(&mut body, &data, limit)?;
        stream.flow_control().release_capacity(data.len()).map_err(broken)?;
    }
    let mut trailers = stream.trailers().await.map_err(broken)?.unwrap_or_default();
    status(&mut trailers).unwrap_or_else(|| Err(without_status(head.status)))?;
    match size(&body) {
        Some(size) if body.len() == PREFIX + size => Ok(body),
        _ => Err(incomplete()),
    }
}

/// Appends a part of an answer. The first part that has the prefix makes room for the whole message.
fn append(body: &mut Vec<u8>, data: &[u8], limit: usize) -> Result<(), Status> {
    body.extend_from_slice(data);
    let Some(size) = size(body) else { return Ok(()) };
    if body[0] != 0 {
        return Err(Status::internal("the host's answer is compressed"));
    }
    if size > limit {
        return Err(Status::out_of_range(format!("the host's answer has {size} bytes, the limit is {limit}")));
    }
    let missing = (PREFIX + size).checked_sub(body.len());
    let missing = missing.ok_or_else(|| Status::internal("the host's answer has more than one message"))?;
    body.try_reserve_exact(missing).map_err(|error| Status::resource_exhausted(error.to_string()))
}

/// Returns the size of the message in a body, if the body has the whole prefix.
fn size(body: &[u8]) -> Option<usize> {
    let [_, size @ ..] = body.first_chunk::<PREFIX>()?;
    usize::try_from(u32::from_be_bytes(*size)).ok()
}

fn incomplete() -> Status {
    Status::internal("the host's answer has no whole message")
}

/// Takes the status of a call out of its trailers.
fn status(trailers: &mut HeaderMap) -> Option<Result<(), Status>> {
    if trailers.get(STATUS)? == "0" {
        return Some(Ok(()));
    }
    // Nobody reads the details, and tonic panics if they are not base64.
    trailers.remove("grpc-status-details-bin");
    Status::from_header_map(trailers).map(Err)
}

/// Returns the status of an answer that has none.
fn without_status(http: StatusCode) -> Status {
    let text = format!("the host answered with HTTP status {} and without a gRPC status", http.as_u16());
    if http == StatusCode::NOT_FOUND { Status::unimplemented(text) } else { Status::unknown(text) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::any::type_name;
    use std::future::ready;
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use h2::server::SendResponse;
    use tonic::Code;

    use super::*;
    use crate::pb::pb::{StorageGetArgs, StorageGetReply};
    use crate::process::Io;

    impl<A, R> Method<A, R> {
        /// Asserts that the generated client has this method with these messages.
        pub(in super::super) fn check(&self, generated: &str) {
            let path = format!("\"{}\"", self.path);
            let mut clients = generated.split("pub async fn ").map(|text| text.replace([' ', '\n'], ""));
            let client = clients.find(|text| text.contains(&path)).unwrap_or_else(|| panic!("no method {}", self.path));
            for (wrapper, message) in [("IntoRequest", type_name::<A>()), ("Response", type_name::<R>())] {
                let name = message.rsplit("::").next().unwrap();
                let ends = [">", ",>"].map(|end| format!("{wrapper}<super::{name}{end}"));
                assert!(ends.iter().any(|text| client.contains(text)), "{}: {name}", self.path);
            }
        }
    }

    static GET: Method<StorageGetArgs, StorageGetReply> = Method::new("/pb.Storage/Get");

    /// Calls a host that answers with `answer`, and returns the text in the reply.
    async fn call(answer: impl FnOnce(SendResponse<Bytes>) + Send + 'static) -> Result<String, (Code, String)> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let host = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri(), "http://localhost/pb.Storage/Get");
            let mut answer = Some(answer);
            let mut body = request.into_body();
            let read = async move {
                let data = body.data().await.unwrap().unwrap();
                assert_eq!(StorageGetArgs::decode(&data[PREFIX..]).unwrap().key, "k");
                (answer.take().unwrap())(respond);
            };
            tokio::join!(read, async { while connection.accept().await.is_some() {} });
        });
        let near = Mutex::new(Some(near));
        let channel = Channel::new(move || {
            let near = near.lock().unwrap().take().map(|near| Box::new(near) as Box<dyn Io>);
            ready(near.ok_or(std::io::ErrorKind::NotConnected.into())).boxed()
        });
        let args = StorageGetArgs { key: "k".into(), ..StorageGetArgs::default() };
        let answer = GET.call(&channel, &args, None).await;
        host.abort();
        answer.map(|reply| reply.err).map_err(|status| (status.code(), status.message().to_owned()))
    }

    fn message(err: &str) -> Bytes {
        encode(&StorageGetReply { err: err.into(), ..StorageGetReply::default() }).unwrap()
    }

    fn trailers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    /// Answers with a body in parts, and with trailers.
    fn body(
        parts: Vec<Bytes>,
        fields: &'static [(&'static str, &'static str)],
    ) -> impl FnOnce(SendResponse<Bytes>) + Send + 'static {
        move |mut respond| {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            for part in parts {
                stream.send_data(part, false).unwrap();
            }
            stream.send_trailers(trailers(fields)).unwrap();
        }
    }

    const OK: &[(&str, &str)] = &[(STATUS, "0")];

    #[tokio::test]
    async fn a_message_arrives_in_any_parts() {
        for (length, part) in [(0, 100), (200, 3), (1_000_000, 20_000)] {
            let text = "x".repeat(length);
            let parts = message(&text).chunks(part).map(Bytes::copy_from_slice).collect();
            assert_eq!(call(body(parts, OK)).await.map(|read| read.len()), Ok(length));
        }
    }

    #[tokio::test]
    async fn a_status_is_read_from_head_and_trailers() {
        const FULL: &[(&str, &str)] =
            &[(STATUS, "12"), ("grpc-message", "no%20%E2%82%AC"), ("grpc-status-details-bin", "%")];
        let expected = Err((Code::Unimplemented, "no €".to_owned()));
        assert_eq!(call(body(vec![], FULL)).await, expected);
        assert_eq!(call(body(vec![message("ignored")], FULL)).await, expected);
        let only_head = |mut respond: SendResponse<Bytes>| {
            let mut head = Response::new(());
            *head.headers_mut() = trailers(FULL);
            respond.send_response(head, true).unwrap();
        };
        assert_eq!(call(only_head).await, expected);
    }

    #[tokio::test]
    async fn an_answer_without_a_status_fails() {
        let without = |status: u16| {
            move |mut respond: SendResponse<Bytes>| {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::from_u16(status).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(message(""), true).unwrap();
            }
        };
        assert_eq!(call(without(200)).await.map_err(|error| error.0), Err(Code::Unknown));
        assert_eq!(call(without(404)).await.map_err(|error| error.0), Err(Code::Unimplemented));
    }

    #[tokio::test]
    async fn a_damaged_message_fails() {
        let whole = message("text");
        let huge = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 0]);
        let cases = [
            (vec![], Code::Internal),
            (vec![whole.slice(..3)], Code::Internal),
            (vec![whole.slice(..7)], Code::Internal),
            (vec![whole.clone(), whole.clone()], Code::Internal),
            (vec![Bytes::from([&[1], &whole[1..]].concat())], Code::Internal),
            (vec![Bytes::from_static(&[0, 0, 0, 0, 1, 0xff])], Code::Internal),
            (vec![huge], Code::OutOfRange),
        ];
        for (number, (parts, code)) in cases.into_iter().enumerate() {
            assert_eq!(call(body(parts, OK)).await.map_err(|error| error.0), Err(code), "case {number}");
        }
    }

    #[tokio::test]
    async fn a_reset_stream_and_a_lost_connection_are_unavailable() {
        let refused = |mut respond: SendResponse<Bytes>| respond.send_reset(h2::Reason::REFUSED_STREAM);
        assert_eq!(call(refused).await.map_err(|error| error.0), Err(Code::Unavailable));
        let cut = |mut respond: SendResponse<Bytes>| {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(message("half"), false).unwrap();
            stream.send_reset(h2::Reason::CANCEL);
        };
        assert_eq!(call(cut).await.map_err(|error| error.0), Err(Code::Unavailable));
    }
}
