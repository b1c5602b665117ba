//! A small part of HTTP/1.1 on a raw stream, so that a test can produce every fault of a connection exactly.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A stream with access to its TCP socket, which a fault can reset.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Io for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Io for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

#[derive(Clone)]
pub struct Request {
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ").map(str::trim)
    }

    pub fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The form of an error body. The real service and its proxies use all of these forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyForm {
    /// `{"errors":[{"ID":…,"message":…}]}`
    #[default]
    Errors,
    /// A JSON string.
    JsonString,
    Text,
    /// The literal `null` with a JSON content type.
    Null,
    Empty,
    /// The error page of a proxy.
    Html,
    /// The text `404 page not found`, for any status.
    PageNotFound,
}

#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn empty(status: u16) -> Self {
        Self { status, content_type: None, headers: Vec::new(), body: Vec::new() }
    }

    pub fn json(status: u16, value: &Value) -> Self {
        Self::body(status, JSON, value.to_string())
    }

    pub fn body(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type: Some(content_type.into()), headers: Vec::new(), body: body.into() }
    }

    /// Returns the answer of the service's router to an unknown path or a wrong method.
    pub fn page_not_found() -> Self {
        Self::body(404, TEXT, PAGE_NOT_FOUND)
    }

    pub fn error(status: u16, form: BodyForm, id: Option<i64>, message: &str) -> Self {
        match form {
            BodyForm::Errors => {
                let mut error = json!({ "message": message });
                if let Some(id) = id {
                    error["ID"] = id.into();
                }
                Self::json(status, &json!({ "errors": [error] }))
            }
            BodyForm::JsonString => Self::json(status, &message.into()),
            BodyForm::Text => Self::body(status, TEXT, message),
            BodyForm::Null => Self::json(status, &Value::Null),
            BodyForm::Empty => Self::empty(status),
            BodyForm::Html => Self::body(status, "text/html", format!("<html><body><h1>{status}</h1></body></html>\n")),
            BodyForm::PageNotFound => Self::body(status, TEXT, PAGE_NOT_FOUND),
        }
    }

    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Returns the status line, all headers and the blank line.
    pub fn head(&self, framing: Framing) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        if let Some(content_type) = &self.content_type {
            head += &format!("content-type: {content_type}\r\n");
        }
        match framing {
            Framing::Length(_) if self.status == 204 => {}
            Framing::Length(length) => head += &format!("content-length: {length}\r\n"),
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        head.into_bytes()
    }
}

#[derive(Clone, Copy)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// A connection, and the bytes after the last request that were already read.
pub struct Connection {
    pub stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(stream: Box<dyn Io>) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads one request. Returns `None` if the client closed the connection between two requests.
    pub async fn read_request(&mut self) -> io::Result<Option<Request>> {
        let (mut request, head_length) = loop {
            if let Some(parsed) = parse_head(&self.buffer)? {
                break parsed;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("request head too long"));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        self.buffer.drain(..head_length);
        request.body = if request.header("transfer-encoding").is_some() {
            self.read_chunked().await?
        } else {
            let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(invalid)?;
            self.read_exact(length).await?
        };
        Ok(Some(request))
    }

    /// Whether the client has closed its side. Keeps bytes that the client has sent already.
    pub async fn peer_closed(&mut self) -> bool {
        match tokio::time::timeout(Duration::ZERO, self.fill()).await {
            Ok(Ok(length)) => length == 0,
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }

    /// Waits until the client has closed its side.
    pub async fn closed(&mut self) {
        while self.buffer.len() < MAX_BODY && self.fill().await.is_ok_and(|length| length > 0) {}
    }

    async fn read_exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > MAX_BODY {
            return Err(invalid("request body too long"));
        }
        while self.buffer.len() < length {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read_chunked(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            match httparse::parse_chunk_size(&self.buffer).map_err(|_| invalid("bad chunk size"))? {
                httparse::Status::Partial if self.fill().await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                httparse::Status::Partial => {}
                httparse::Status::Complete((line, size)) => {
                    self.buffer.drain(..line);
                    let size = usize::try_from(size).map_err(invalid)?;
                    body.extend(self.read_exact(size).await?);
                    self.read_exact(2).await?;
                    if size == 0 {
                        return Ok(body);
                    }
                }
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.buffer).await
    }
}

fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(buffer).map_err(invalid)? else {
        return Ok(None);
    };
    let target = parsed.path.unwrap_or_default();
    let headers = parsed.headers.iter();
    let headers = headers
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned()));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: Vec::new(),
    };
    Ok(Some((request, length)))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub const JSON: &str = "application/json; charset=UTF-8";
const TEXT: &str = "text/plain; charset=utf-8";
const PAGE_NOT_FOUND: &str = "404 page not found\n";
const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 16 << 20;
