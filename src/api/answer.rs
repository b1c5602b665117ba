//! Reads the bodies of Astra's successful answers.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use tokio::time::{Instant, timeout_at};

use super::body::quote;
use super::error::Error;
use super::list::{ListedToken, TokenList};

/// The least bytes of a list that arrive in each `request_timeout` after the first one.
const PROGRESS: usize = 64 << 10;

/// How long a list may arrive. Without this limit, a list without an end would occupy the engine for ever.
const LONGEST_LIST: Duration = Duration::from_secs(300);

/// The most bytes of a list that are parsed at once. Between two parts, other tasks of the thread can run.
const PART: usize = 64 << 10;

/// The beginning of a successful answer.
pub(super) struct Answer {
    pub(super) response: Response,
    /// The call, as errors name it.
    pub(super) call: &'static str,
    /// Time limit of the call.
    pub(super) timeout: Duration,
    /// The end of this time.
    pub(super) deadline: Instant,
    /// Name of the environment variable with the proxy for the calls.
    pub(super) proxy: Option<&'static str>,
}

impl Answer {
    /// Reads the body, which is JSON or empty.
    ///
    /// # Errors
    /// When the body is not complete at the deadline, or is longer than `limit` bytes.
    pub(super) async fn json(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let body = self.bytes(limit).await?;
        if !body.is_empty() {
            self.require_json()?;
        }
        Ok(body)
    }

    /// Reads the body, with any content.
    ///
    /// # Errors
    /// When the body is not complete at the deadline, or is longer than `limit` bytes.
    pub(super) async fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = timeout_at(self.deadline, self.response.chunk())
            .await
            .map_err(|_| self.late())?
            .map_err(|error| self.broken(&error))?
        {
            if body.len() + chunk.len() > limit {
                return Err(self.garbled(format_args!("it is longer than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads a list of tokens. Returns what `pick` returns for each token.
    ///
    /// # Errors
    /// As [`Answer::fold`], and when `pick` picks more than `most` tokens.
    pub(super) async fn tokens<T>(
        self,
        most: usize,
        pick: &impl Fn(ListedToken<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let add = |picked: &mut Vec<T>, token: ListedToken<'_>| {
            picked.extend(pick(token));
            if picked.len() > most { Err("too many of its entries are for one token") } else { Ok(()) }
        };
        self.fold(Vec::new(), &add).await
    }

    /// Reads a list of tokens. Returns `all`, to which `add` adds each token. The list may arrive after the deadline, as
    /// long as it makes progress: the list of a large org is longer than a network carries in one `request_timeout`.
    ///
    /// # Errors
    /// When the list is not complete, or when `add` fails.
    pub(super) async fn fold<A>(
        mut self,
        mut all: A,
        add: &impl Fn(&mut A, ListedToken<'_>) -> Result<(), &'static str>,
    ) -> Result<A, Error> {
        self.require_json()?;
        let mut list = TokenList::default();
        let end = Instant::now() + LONGEST_LIST;
        let mut progress = Progress { arrived: 0, until: self.deadline, end, timeout: self.timeout };
        loop {
            let read = timeout_at(progress.until, self.response.chunk()).await;
            // Data that is always ready never lets the time-out expire, so the time is checked after each chunk.
            if !progress.goes_on() {
                return Err(self.late());
            }
            let Ok(chunk) = read else { continue };
            let Some(chunk) = chunk.map_err(|error| self.broken(&error))? else { break };
            progress.arrived += chunk.len();
            for part in chunk.chunks(PART) {
                list.push(part, |token| add(&mut all, token)).map_err(|reason| self.garbled(reason))?;
                tokio::task::yield_now().await;
            }
        }
        list.finish().map_err(|reason| self.garbled(reason))?;
        Ok(all)
    }

    /// Returns the content type in lower case and without parameters. It is empty if there is no content type.
    pub(super) fn media_type(&self) -> String {
        let value = self.response.headers().get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    fn require_json(&self) -> Result<(), Error> {
        let media_type = self.media_type();
        if is_json(&media_type) {
            return Ok(());
        }
        Err(self.garbled(format_args!("its content type is {:?}, not JSON", quote(&media_type))))
    }

    fn garbled(&self, reason: impl std::fmt::Display) -> Error {
        Error::garbled(self.call, reason)
    }

    fn broken(&self, error: &reqwest::Error) -> Error {
        Error::from_transport(self.call, error).through(self.proxy)
    }

    fn late(&self) -> Error {
        // Only a list can be later than the deadline.
        let late = self.deadline.elapsed().as_secs();
        Error::no_answer(self.call, self.timeout + Duration::from_secs(late))
    }
}

/// How much of a list has arrived.
struct Progress {
    /// The bytes since the last check.
    arrived: usize,
    /// The time of the next check.
    until: Instant,
    /// When the list must be complete.
    end: Instant,
    /// The time between two checks.
    timeout: Duration,
}

impl Progress {
    /// Whether the rest of the list may still arrive. Checks the progress once in each time limit.
    fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        if now < self.until {
            return true;
        }
        self.until = self.end.min(now + self.timeout);
        std::mem::take(&mut self.arrived) >= PROGRESS && now < self.end
    }
}

/// Whether this is the content type of JSON (RFC 8259, section 11; RFC 6839, section 3.1), or empty.
fn is_json(media_type: &str) -> bool {
    match media_type.split_once('/') {
        Some((kind, name)) => (kind, name) == ("application", "json") || (!kind.is_empty() && name.ends_with("+json")),
        None => media_type.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_must_make_progress_and_must_end() {
        let timeout = Duration::from_secs(30);
        for (per_second, seconds) in [(PROGRESS, 300), (PROGRESS / 30, 30), (0, 30)] {
            let begin = Instant::now();
            let mut progress = Progress { arrived: 0, until: begin + timeout, end: begin + LONGEST_LIST, timeout };
            while progress.goes_on() {
                tokio::time::advance(Duration::from_secs(1)).await;
                progress.arrived += per_second;
            }
            assert_eq!(begin.elapsed().as_secs(), seconds, "{per_second}");
        }
    }
}
