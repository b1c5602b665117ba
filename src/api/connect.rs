//! Time limits for connecting to Astra.
//!
//! The look-up of a host name and the connection have separate limits. A slow name server must not use up the time of
//! the connection: the next attempt would begin with the same look-up, and fail in the same way.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service};

/// How long the TCP and TLS handshakes may take. If a host has several addresses, each address gets a share of this
/// time, and each attempt begins with another address.
const LIMIT: Duration = Duration::from_secs(10);

/// The least share: a slow network needs about this long for both handshakes.
const SHARE: Duration = Duration::from_secs(3);

/// Look-ups and connections fail this long before their call, so that the error names the cause. Shorter than the
/// shortest pause before another attempt.
const MARGIN: Duration = Duration::from_millis(50);

/// How long a look-up may take outside of a call.
const NO_CALL: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

tokio::task_local! {
    /// The call that needs a connection.
    static CALL: Call;
    /// The current attempt to connect.
    static ATTEMPT: Arc<Attempt>;
}

struct Call {
    deadline: Instant,
    /// How many connections the call has started.
    connections: AtomicUsize,
}

/// One attempt to connect.
struct Attempt {
    /// When the last step of the attempt must be done.
    deadline: Instant,
    /// How many connections the same call has started before.
    number: usize,
    /// When the current step of the attempt fails.
    limit: Mutex<Instant>,
    through_proxy: bool,
}

/// A look-up, and the attempt to connect that needs the look-up, if there is one.
pub(super) struct Lookup(Option<Arc<Attempt>>);

/// Adds the time limit to a connector.
#[derive(Clone)]
pub(super) struct Limit {
    /// Whether a proxy makes the connection to Astra. The proxy needs time for a look-up and a connection, so the limit is not
    /// shared among the addresses of the proxy.
    pub(super) through_proxy: bool,
}

/// A connector with the time limit.
#[derive(Clone)]
pub(super) struct Limited<S> {
    connector: S,
    through_proxy: bool,
}

/// Runs a call with all its attempts. Connections that it makes fail shortly before its deadline.
pub(super) async fn within<F: Future>(deadline: Instant, call: F) -> F::Output {
    CALL.scope(Call { deadline, connections: AtomicUsize::new(0) }, call).await
}

impl Attempt {
    fn begin(through_proxy: bool) -> Self {
        let now = Instant::now();
        let of_call = CALL.try_with(|call| (call.deadline - MARGIN, call.connections.fetch_add(1, Ordering::Relaxed)));
        let (deadline, number) = of_call.unwrap_or((now + NO_CALL, 0));
        Self { deadline, number, limit: Mutex::new(deadline.min(now + LIMIT)), through_proxy }
    }

    fn limit(&self) -> MutexGuard<'_, Instant> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lookup {
    /// Starts a look-up. Suspends the limit of the connection until [`Lookup::end`].
    pub(super) fn begin() -> Self {
        let attempt = ATTEMPT.try_with(Arc::clone).ok();
        if let Some(attempt) = &attempt {
            // The look-up fails at the deadline, before this limit, with a better error.
            *attempt.limit() = attempt.deadline + MARGIN;
        }
        Self(attempt)
    }

    /// Returns the deadline of the look-up.
    pub(super) fn deadline(&self) -> Instant {
        self.0.as_ref().map_or_else(|| Instant::now() + NO_CALL, |attempt| attempt.deadline)
    }

    /// Ends the look-up. Returns the addresses in the order in which this attempt tries them.
    pub(super) fn end(self, mut found: Vec<IpAddr>) -> Vec<IpAddr> {
        let count = found.len().max(1);
        if let Some(attempt) = self.0 {
            found.rotate_left(attempt.number % count);
            let share = if attempt.through_proxy { LIMIT } else { SHARE.max(LIMIT / count as u32) };
            *attempt.limit() = attempt.deadline.min(Instant::now() + share);
        }
        found
    }
}

impl<S> Layer<S> for Limit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { connector: inner, through_proxy: self.through_proxy }
    }
}

impl<S, R> Service<R> for Limited<S>
where
    S: Service<R, Response: 'static, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let attempt = Arc::new(Attempt::begin(self.through_proxy));
        let connecting = ATTEMPT.scope(attempt.clone(), self.connector.call(request));
        Box::pin(limited(attempt, connecting))
    }
}

async fn limited<T>(
    attempt: Arc<Attempt>,
    connecting: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    let (begin, mut connecting) = (Instant::now(), pin!(connecting));
    let mut end = pin!(sleep_until(*attempt.limit()));
    poll_fn(|context| {
        if let Poll::Ready(done) = connecting.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        // A look-up moves the limit when it begins and when it ends.
        let limit = *attempt.limit();
        if end.deadline() != limit {
            end.as_mut().reset(limit);
        }
        end.as_mut().poll(context).map(|()| Err(no_connection(begin.elapsed())))
    })
    .await
}

fn no_connection(time: Duration) -> BoxError {
    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:.2} s", time.as_secs_f32())).into()
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;

    /// Connects to a host whose look-up and connection take these times. Returns the outcome and how many seconds it
    /// took.
    async fn connect(lookup: Duration, connection: Duration, addresses: usize) -> (Result<Vec<IpAddr>, String>, f32) {
        connect_by(false, lookup, connection, addresses).await
    }

    async fn connect_by(
        through_proxy: bool,
        lookup: Duration,
        connection: Duration,
        addresses: usize,
    ) -> (Result<Vec<IpAddr>, String>, f32) {
        let begin = Instant::now();
        let mut connector = Limit { through_proxy }.layer(service_fn(move |()| async move {
            let begun = Lookup::begin();
            let late = || io::Error::other("look-up failed");
            tokio::time::timeout_at(begun.deadline(), sleep_until(Instant::now() + lookup))
                .await
                .map_err(|_| late())?;
            let found = begun.end((1..=addresses as u8).map(|last| [10, 0, 0, last].into()).collect());
            sleep_until(Instant::now() + connection).await;
            Ok::<_, BoxError>(found)
        }));
        let outcome = connector.call(()).await.map_err(|error| error.to_string());
        (outcome, begin.elapsed().as_secs_f32())
    }

    async fn connect_within(seconds: u64, lookup: u64, connection: u64) -> (String, f32) {
        let [call, lookup, connection] = [seconds, lookup, connection].map(Duration::from_secs);
        let (outcome, seconds) = within(Instant::now() + call, connect(lookup, connection, 1)).await;
        (outcome.map_or_else(|error| error, |_| "connected".to_owned()), seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_look_up_takes_no_time_from_the_connection() {
        assert_eq!(connect_within(30, 12, 9).await, ("connected".to_owned(), 21.0));
        assert_eq!(connect_within(30, 0, 9).await, ("connected".to_owned(), 9.0));
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_fails_before_the_call_does() {
        for (seconds, lookup, connection, expected, at) in [
            (30, 0, 11, "no connection within 10.00 s", 10.0),
            (30, 12, 11, "no connection within 22.00 s", 22.0),
            (30, 25, 11, "no connection within 29.95 s", 29.95),
            (30, 31, 0, "look-up failed", 29.95),
            (1, 0, 11, "no connection within 0.95 s", 0.95),
        ] {
            let (outcome, seconds) = connect_within(seconds, lookup, connection).await;
            assert!(outcome == expected && (seconds - at).abs() < 0.01, "{outcome} {seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_attempt_of_a_call_begins_with_another_address_and_has_a_share_of_the_time() {
        let (none, ever) = (Duration::ZERO, Duration::from_secs(60));
        let first = |outcome: Result<Vec<IpAddr>, String>| outcome.unwrap()[0].to_string();
        within(Instant::now() + Duration::from_secs(300), async {
            assert_eq!(first(connect(none, none, 2).await.0), "10.0.0.1");
            assert_eq!(first(connect(none, none, 2).await.0), "10.0.0.2");
            assert_eq!(first(connect(none, none, 2).await.0), "10.0.0.1");
            assert_eq!(connect(none, ever, 2).await.1, 5.0);
            assert_eq!(connect(none, ever, 9).await.1, 3.0);
            assert_eq!(connect_by(true, none, ever, 9).await.1, 10.0);
        })
        .await;
        assert_eq!(first(connect(none, none, 2).await.0), "10.0.0.1");
    }
}
