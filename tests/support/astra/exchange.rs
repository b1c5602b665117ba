//! One request from its arrival to the last byte of its answer.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::armed::{Context, Stage};
use super::fault::Kind;
use super::http::{BodyForm, Connection, Framing, Request, Response};
use super::inject::{Delivery, PADDING, apply, http_date, shifted};
use super::routes::Route;
use super::state::{Shared, State};

/// What happens before anything is checked.
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
    /// The token whose only copy this answer is.
    minted: Option<String>,
}

impl Shared {
    /// Answers a request; the connection may be used again when `true` comes back.
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
            // Noted first: who has its answer must find it noted.
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

/// Waits; for no time at all it does not, which would take until the next tick of the timer.
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

    /// Checks, carries out and answers. Everything here happens at one moment.
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
            Err(refusal) => return self.plain(refusal),
        };
        if let Some(limit) = self.knobs.rate_limit {
            let key = if limit.per_token { &checked.caller.client_id } else { &checked.caller.org_id };
            if let Some(seconds) = self.throttle(key, limit) {
                let refusal = Response::error(429, BodyForm::Errors, Some(429), "too many requests");
                return self.plain(refusal.with_header("retry-after", seconds.to_string()));
            }
        }
        let context = self.context(request);
        let before = self.faults.take(Stage::Before, &context, self.now());
        self.log.faulted(seq, before.names());
        self.fresh = None;
        if let Some(kind) = before.main {
            // The answer is that of a success which never took place.
            let world = self.world.clone();
            let phantom = self.operate(&checked);
            self.world = world;
            self.fresh = None;
            return self.spoiled(&kind, phantom, request);
        }
        let response = self.operate(&checked);
        let minted = self.fresh.take();
        let after = self.faults.take(Stage::After, &context, self.now());
        self.log.faulted(seq, after.names());
        let wait = after.latency(&mut self.rng);
        let mut answer = match &after.main {
            Some(kind) => self.spoiled(kind, response, request),
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

    fn spoiled(&mut self, kind: &Kind, response: Response, request: &Request) -> Answer {
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

    /// Notes whether an answer went out; the owner of a token has it only if nothing touched the answer.
    fn note_delivery(&mut self, seq: u64, answer: &Answer, sent: bool) {
        let Some(call) = self.log.find(seq) else { return };
        let altered = call.faults.iter().any(|name| !HARMLESS.contains(&name.as_str()));
        if let Some(token) = answer.minted.as_ref().and_then(|id| self.world.tokens.get_mut(id)) {
            token.delivered = sent && !altered && answer.delivery.completes();
        }
    }

    fn context(&self, request: &Request) -> Context {
        let route = Route::of(&request.method, &request.path);
        let caller = request.bearer().and_then(|text| text.strip_prefix("AstraCS:")?.split(':').next());
        let caller = caller.and_then(|client_id| self.world.tokens.get(client_id));
        Context {
            route: route.map(|(route, _)| route),
            method: request.method.clone(),
            org: caller.map(|token| token.org_id.clone()),
            caller: caller.map(|token| token.client_id.clone()),
            target: route.map(|(_, id)| id.to_owned()).unwrap_or_default(),
        }
    }
}

/// Sends an answer; `true` when all of it went out and the connection can go on.
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
            // At least one byte is missing, or it would be no cut.
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
    // Two chunks, so that a reader has to put them together.
    let (first, second) = body.split_at(body.len() / 2);
    let parts = [first, second].into_iter().filter(|part| !part.is_empty());
    let mut bytes: Vec<u8> = parts.flat_map(chunk).collect();
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn chunk(part: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
}

/// Lets the kernel send RST when the connection is dropped.
fn reset(connection: &Connection) -> io::Result<bool> {
    connection.stream.tcp().set_zero_linger()?;
    Ok(false)
}

async fn shut(connection: &mut Connection) -> io::Result<bool> {
    connection.stream.shutdown().await?;
    Ok(false)
}

/// Until the peer gives up; a stop of the simulator drops the task.
async fn hang(connection: &mut Connection) -> io::Result<bool> {
    connection.closed().await;
    Ok(false)
}

/// Faults that delay an answer, or change a header, but leave its content as it was.
const HARMLESS: [&str; 6] =
    ["latency", "clock_skew", "slow_body", "huge_body", "hang_before_headers", "hang_after_headers"];
