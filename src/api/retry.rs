//! Retries calls to Astra. The error decides whether a call may be retried.

use std::time::{Duration, SystemTime};

use backon::{ExponentialBuilder, Retryable as _};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use tokio::time::Instant;

use super::delete::Patience;
use super::error::Error;

/// Pauses of 0.1 s to 0.2 s, 0.2 s to 0.4 s, and 0.4 s to 0.8 s. Four attempts outlast a restart or a lost connection.
/// The jitter spreads the retries of calls that failed at the same time.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_factor(2.0)
    .with_max_times(3);

/// Makes attempts until one succeeds. Stops early if the error is not retryable, if `patience` forbids a retry, or if the
/// next attempt would start after the deadline.
pub(super) async fn until<T, F>(
    deadline: Instant,
    is_idempotent: bool,
    patience: &dyn Patience,
    attempt: impl FnMut() -> F + Send,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + Send,
{
    let (mut attempts, mut last, mut may_have_happened) = (1, None, false);
    let outcome = attempt
        .retry(BACKOFF)
        .when(|error: &Error| error.is_retryable(is_idempotent) && patience.may_retry())
        .adjust(|error, pause| pause_before(deadline, error, pause?))
        .notify(|error, pause| {
            tracing::debug!(error = %error, ?pause, "failed to call Astra, will retry");
            attempts += 1;
            may_have_happened |= error.may_have_happened();
            last = Some(error.clone());
        })
        .await;
    outcome.map_err(|error| match last {
        // The last answer of Astra explains more than the missing permit for the next attempt.
        Some(last) if error.is_not_sent() => last.after(attempts - 1, may_have_happened),
        _ => error.after(attempts, may_have_happened),
    })
}

/// An attempt in less time says nothing: it fails because it has no time to connect, and hides the failure before it.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// Returns the pause before the next attempt; `None` if there is no time for another attempt.
fn pause_before(deadline: Instant, error: &Error, pause: Duration) -> Option<Duration> {
    let pause = pause.max(error.retry_after().unwrap_or_default());
    let left = deadline.saturating_duration_since(Instant::now());
    (pause.saturating_add(SHORTEST_ATTEMPT) < left).then_some(pause)
}

/// Returns how long the server asks to wait (RFC 9110, section 10.2.3), in whole seconds. Ignores an invalid value.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| Some(headers.get(name)?.to_str().ok()?.trim());
    let value = text(RETRY_AFTER)?;
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().ok()?)
    } else {
        // The date is a time of the server's clock, so compare it with the server's own time.
        let now = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(SystemTime::now);
        let wait = httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?;
        Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    };
    (!wait.is_zero()).then_some(wait)
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    /// A wait has at least one second and no fraction, and a number of seconds is not changed. The first line of the
    /// input is `Retry-After`, the second line is `Date`.
    pub(crate) fn fuzz_retry_after(data: &[u8]) {
        let mut lines = data.splitn(2, |byte| *byte == b'\n');
        let headers: HeaderMap = [RETRY_AFTER, DATE]
            .into_iter()
            .zip(&mut lines)
            .filter_map(|(name, line)| Some((name, line.try_into().ok()?)))
            .collect();
        let wait = retry_after(&headers);
        assert!(wait.is_none_or(|wait| wait.as_secs() > 0 && wait.subsec_nanos() == 0));
        let line = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Ok(seconds) = line.parse::<u64>()
            && !line.starts_with('+')
        {
            assert_eq!(wait.map_or(0, |wait| wait.as_secs()), seconds);
        }
        let error = Error::garbled("x", "y").with_retry_after(wait);
        let pause = Duration::from_millis(100);
        let soon = pause_before(Instant::now() + Duration::from_secs(30), &error, pause);
        assert!(soon.is_none_or(|soon| soon >= pause && soon < Duration::from_secs(30)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::super::body::Body;
    use super::super::delete::Unlimited;
    use super::super::error::{Case, MINT};
    use super::*;

    fn wait(headers: &[(HeaderName, &str)]) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        retry_after(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (value, expected) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("86400", Some(86400)),
            ("0", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999999999", None),
        ] {
            assert_eq!(wait(&[(RETRY_AFTER, value)]), expected, "{value:?}");
        }
        assert_eq!(wait(&[]), None);
        // If the answer has a `Date`, the wait is relative to it.
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(wait(&[(DATE, date), (RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT")]), Some(30));
        assert_eq!(wait(&[(DATE, date), (RETRY_AFTER, "Sunday, 06-Nov-94 08:49:38 GMT")]), Some(1));
        assert_eq!(wait(&[(DATE, date), (RETRY_AFTER, "Sun, 06 Nov 1994 08:00:00 GMT")]), None);
        assert_eq!(wait(&[(RETRY_AFTER, date)]), None);
        let ahead = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        assert!(matches!(wait(&[(RETRY_AFTER, &ahead)]), Some(55..=60)));
        assert!(matches!(wait(&[(DATE, "nonsense"), (RETRY_AFTER, &ahead)]), Some(55..=60)));
    }

    fn status_error(status: u16, wait: Option<u64>) -> Error {
        let body = Body::parse(b"", false);
        Error::from_answer(MINT, status, body).with_retry_after(wait.map(Duration::from_secs))
    }

    /// Runs attempts that fail with these errors, one after the other. Returns the last error, the number of attempts
    /// and the seconds.
    async fn run(is_idempotent: bool, failures: Vec<Error>) -> (Error, usize, f32) {
        let (start, attempts) = (Instant::now(), AtomicUsize::new(0));
        let attempt = || async { Err::<(), _>(failures[attempts.fetch_add(1, Relaxed)].clone()) };
        let outcome = until(start + Duration::from_secs(30), is_idempotent, &Unlimited, attempt).await;
        (outcome.unwrap_err(), attempts.into_inner(), start.elapsed().as_secs_f32())
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_four_attempts_with_growing_pauses() {
        let mut all = Vec::new();
        for _ in 0..10 {
            let (error, attempts, seconds) = run(true, vec![status_error(503, None); 5]).await;
            assert!(attempts == 4 && (0.7..1.42).contains(&seconds), "{attempts} in {seconds}");
            assert!(error.to_string().contains("after 4 attempts"), "{error}");
            all.push(seconds);
        }
        all.dedup();
        assert!(all.len() > 1, "there is no jitter");
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honored_up_to_the_deadline() {
        let (error, attempts, seconds) = run(false, vec![status_error(429, Some(10)); 5]).await;
        assert!(attempts == 3 && (20.0..20.1).contains(&seconds), "{attempts} in {seconds}");
        assert!(error.to_string().contains(", after 3 attempts, and Astra asks to wait 10 s"), "{error}");
        let (error, attempts, seconds) = run(false, vec![status_error(429, Some(u64::MAX))]).await;
        assert!(attempts == 1 && seconds < 0.1, "{error}");
        let (error, attempts, _) = run(false, vec![status_error(503, Some(1))]).await;
        assert!(attempts == 1 && error.to_string().contains("asks to wait 1 s"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_astras_last_answer_if_the_next_attempt_gets_no_permit() {
        let no_permit = || Error::no_permit(MINT, Duration::from_secs(30));
        let (error, ..) = run(true, vec![status_error(503, None), status_error(500, None), no_permit()]).await;
        assert!(error.case() == Case::ServerFailed && error.to_string().contains("after 2 attempts"), "{error}");
        let (error, ..) = run(false, vec![no_permit()]).await;
        assert!(error.case() == Case::NoPermit && error.to_string().contains("was not sent"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_remembers_if_any_attempt_may_have_taken_effect() {
        for (failures, expected) in [
            (vec![status_error(503, None), status_error(403, None)], true),
            (vec![status_error(503, None), Error::no_permit(MINT, Duration::ZERO)], true),
            (vec![status_error(429, None), status_error(403, None)], false),
            (vec![status_error(429, None), Error::no_permit(MINT, Duration::ZERO)], false),
        ] {
            let (error, ..) = run(true, failures).await;
            assert_eq!(error.may_have_happened(), expected, "{error}");
        }
    }
}
