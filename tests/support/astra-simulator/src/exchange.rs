//! Handles one request, from its arrival to the last byte of its answer.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::armed::{Context, Stage};
use super::fault::{Kind, Phase};
use super::http::{BodyForm, Connection, Framing, Request, Response};
use super::inject::{Delivery, PADDING, apply, http_date, shifted};
use super::routes::Route;
use super::state::{Shared, State};

/// An arrived request, before any check.
struct Arrival {
    seq: u64,
    wait: Duration,
    main: Option<Kind>,
}

struct Answer {
    response: Response,
    wait: Duration,
    delivery: Delivery,
    chunked: bool,
    /// The client id of a new token. This answer is the only copy of the token.
    minted: Option<String>,
}

impl Shared {
    /// Answers a request. Returns whether the connection can serve another request.
    pub async fn exchange(&self, connection: &mut Connection, request: &Request, close: bool) -> io::Result<bool> {
        let started = Instant::now();
        let arrival = self.update(|state| state.arrive(request));
        pause(arrival.wait).await;
        match arrival.main {
            Some(Kind::Reset) => return reset(connection),
            Some(Kind::CleanClose) => return shut(connection).await,
            Some(Kind::HangBeforeHeaders { for_ms: None }) => return hang(connection).await,
            Some(Kind::HangBeforeHeaders { for_ms: Some(time) }) => sleep(Duration::from_millis(time)).await,
            _ => {}
        }
        let mut answer = self.update(|state| state.answer(request, arrival.seq));
        if close {
            answer.response = answer.response.with_header("connection", "close");
        }
        pause(answer.wait).await;
        let open = !connection.peer_closed().await;
        if answer.delivery == Delivery::Whole {
            // Recorded before sending: a client that has the answer must find the token marked as delivered.
            self.update(|state| state.note_delivery(arrival.seq, &answer, open));
        }
        let sent = open && deliver(connection, &answer).await.unwrap_or(false);
        self.update(|state| {
            state.note_delivery(arrival.seq, &answer, sent);
            if let Some(call) = state.log.find(arrival.seq) {
                call.took_ms = u64::try_from(started.elapsed().as_millis()).ok();
            }
        });
        Ok(sent && !close)
    }
}

/// Waits. For a zero duration it returns at once, because a sleep lasts until the next tick of the timer.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

impl State {
    fn arrive(&mut self, request: &Request) -> Arrival {
        let context = self.context(request);
        let seq = self.record(request, &context);
        let due = self.faults.take(Stage::Arrival, &context, self.now());
        self.log.faulted(seq, due.names());
        Arrival { seq, wait: due.latency(&mut self.rng), main: due.main }
    }

    /// Checks the request, runs the operation and builds the answer, all under one lock.
    fn answer(&mut self, request: &Request, seq: u64) -> Answer {
        let mut answer = self.faulty_answer(request, seq);
        if let Some((low, high)) = self.knobs.latency_ms {
            answer.wait += Duration::from_millis(self.rng.between(low, high));
        }
        if let Some(call) = self.log.find(seq) {
            call.minted.clone_from(&answer.minted);
        }
        let silent = matches!(answer.delivery, Delivery::Reset | Delivery::CleanClose | Delivery::Hang(None));
        if !silent {
            self.log.answered(seq, answer.response.status);
        }
        answer
    }

    fn faulty_answer(&mut self, request: &Request, seq: u64) -> Answer {
        let checked = match self.check(request) {
            Ok(checked) => checked,
            Err(rejection) => return self.plain(rejection),
        };
        if let Some(limit) = self.knobs.rate_limit {
            let key = if limit.per_token { &checked.caller.client_id } else { &checked.caller.org_id };
            if let Some(seconds) = self.throttle(key, limit) {
                let rejection = Response::error(429, BodyForm::Errors, Some(429), "too many requests");
                return self.plain(rejection.with_header("retry-after", seconds.to_string()));
            }
        }
        let context = self.context(request);
        let before = self.faults.take(Stage::Before, &context, self.now());
        self.log.faulted(seq, before.names());
        self.fresh = None;
        if let Some(due) = before.late {
            self.postpone(due, seq, request);
        }
        if let Some(kind) = &before.main {
            // The fault alters the answer of a success, but the operation must not take effect now.
            let data = self.data.clone();
            let success = self.operate(&checked);
            self.data = data;
            self.fresh = None;
            let response = if matches!(before.phase, Phase::Late(_)) { gave_up() } else { success };
            let mut answer = self.altered(kind, response, request);
            answer.wait = before.latency(&mut self.rng);
            return answer;
        }
        let response = self.operate(&checked);
        let minted = self.fresh.take();
        let after = self.faults.take(Stage::After, &context, self.now());
        self.log.faulted(seq, after.names());
        if let Some(due) = after.late {
            self.postpone(due, seq, request);
        }
        let wait = after.latency(&mut self.rng);
        let mut answer = match &after.main {
            Some(kind) => self.altered(kind, response, request),
            None => self.plain(response),
        };
        for kind in &after.stacked {
            if let Kind::ClockSkew { seconds } = kind {
                let date = http_date(shifted(self.now(), *seconds));
                answer.response.headers.retain(|(name, _)| name != "date");
                answer.response = answer.response.with_header("date", date);
            }
        }
        answer.wait = wait;
        answer.minted = minted;
        answer
    }

    fn plain(&mut self, response: Response) -> Answer {
        let response = self.with_headers(response);
        let chunked = self.knobs.chunked && !response.body.is_empty();
        Answer { response, wait: Duration::ZERO, delivery: Delivery::Whole, chunked, minted: None }
    }

    fn altered(&mut self, kind: &Kind, response: Response, request: &Request) -> Answer {
        let (response, delivery) = apply(kind, response, &request.path, self.now());
        let mut answer = self.plain(response);
        answer.delivery = delivery;
        answer
    }

    fn with_headers(&mut self, response: Response) -> Response {
        let response = response
            .with_header("server", "istio-envoy")
            .with_header("x-envoy-upstream-service-time", self.rng.between(33, 46).to_string())
            .with_header("strict-transport-security", "max-age=63072000; include-subdomains")
            .with_header("date", http_date(self.now()));
        if self.knobs.request_id { response.with_header("x-request-id", self.rng.uuid()) } else { response }
    }

    /// Records whether the answer to a mint was sent. The token counts as delivered only if the answer is complete and
    /// unaltered.
    fn note_delivery(&mut self, seq: u64, answer: &Answer, sent: bool) {
        let Some(call) = self.log.find(seq) else { return };
        let is_altered = call.faults.iter().any(|name| !HARMLESS.contains(&name.as_str()));
        if let Some(token) = answer.minted.as_ref().and_then(|id| self.data.tokens.get_mut(id)) {
            token.delivered = sent && !is_altered && answer.delivery.completes();
        }
    }

    fn context(&self, request: &Request) -> Context {
        let route = Route::of(&request.method, &request.path);
        let caller = request.bearer().and_then(|text| text.strip_prefix("AstraCS:")?.split(':').next());
        let caller = caller.and_then(|client_id| self.data.tokens.get(client_id));
        Context {
            route: route.map(|(route, _)| route),
            method: request.method.clone(),
            org: caller.map(|token| token.org_id.clone()),
            caller: caller.map(|token| token.client_id.clone()),
            target: route.map(|(_, id)| id.to_owned()).unwrap_or_default(),
        }
    }
}

/// Returns the answer of a gateway that gave up waiting for the service.
fn gave_up() -> Response {
    Response::error(504, BodyForm::Text, None, "upstream request timeout")
}

/// Sends an answer. Returns whether the answer is complete and the connection can serve another request.
async fn deliver(connection: &mut Connection, answer: &Answer) -> io::Result<bool> {
    let response = &answer.response;
    let body = &response.body;
    let head = response.head(if answer.chunked { Framing::Chunked } else { Framing::Length(body.len() as u64) });
    match answer.delivery {
        Delivery::Reset => return reset(connection),
        Delivery::CleanClose => return shut(connection).await,
        Delivery::Hang(None) => return hang(connection).await,
        Delivery::Hang(Some(time)) => {
            sleep(time).await;
            write(connection, &[head, framed(body, answer.chunked)].concat()).await?;
        }
        Delivery::HangAfterHeaders(time) => {
            write(connection, &head).await?;
            match time {
                None => return hang(connection).await,
                Some(time) => sleep(time).await,
            }
            write(connection, &framed(body, answer.chunked)).await?;
        }
        Delivery::Whole => write(connection, &[head, framed(body, answer.chunked)].concat()).await?,
        Delivery::Cut { bytes, reset: with_reset } => {
            let head = response.head(Framing::Length(body.len() as u64));
            // At least one byte must be missing.
            let bytes = bytes.min(body.len() - 1);
            write(connection, &[&head, &body[..bytes]].concat()).await?;
            return if with_reset { reset(connection) } else { shut(connection).await };
        }
        Delivery::TruncatedChunk { bytes } => {
            let part = &body[..bytes.min(body.len())];
            write(connection, &[response.head(Framing::Chunked), chunk(part)].concat()).await?;
            return shut(connection).await;
        }
        Delivery::Slow(interval) => {
            write(connection, &response.head(Framing::Length(body.len() as u64))).await?;
            for byte in body {
                sleep(interval).await;
                write(connection, std::slice::from_ref(byte)).await?;
            }
        }
        Delivery::Padded(padding) => {
            write(connection, &response.head(Framing::Length(padding + body.len() as u64))).await?;
            let mut left = usize::try_from(padding).unwrap_or(usize::MAX);
            while left > 0 {
                let piece = left.min(PADDING.len());
                write(connection, &PADDING[..piece]).await?;
                left -= piece;
            }
            write(connection, body).await?;
        }
    }
    Ok(true)
}

async fn write(connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    connection.stream.write_all(bytes).await?;
    connection.stream.flush().await
}

fn framed(body: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked {
        return body.to_vec();
    }
    // With two chunks, a client has to join them.
    let (first, second) = body.split_at(body.len() / 2);
    let parts = [first, second].into_iter().filter(|part| !part.is_empty());
    let mut bytes: Vec<u8> = parts.flat_map(chunk).collect();
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn chunk(part: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
}

/// Makes the kernel send RST when the connection is dropped.
fn reset(connection: &Connection) -> io::Result<bool> {
    connection.stream.tcp().set_zero_linger()?;
    Ok(false)
}

async fn shut(connection: &mut Connection) -> io::Result<bool> {
    connection.stream.shutdown().await?;
    Ok(false)
}

/// Waits until the client closes the connection. If the simulator stops, this task is dropped.
async fn hang(connection: &mut Connection) -> io::Result<bool> {
    connection.closed().await;
    Ok(false)
}

/// Faults that delay an answer or change a header, but not the content.
const HARMLESS: [&str; 7] =
    ["latency", "clock_skew", "slow_body", "huge_body", "hang_before_headers", "hang_after_headers", "twice"];
