//! Lists of tokens of large organizations.

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::peer::{Act, List, Peer, answer};
use super::retries::client;
use crate::api::Case;

/// Astra with a list of tokens. Its answer to a deletion does not say whether the token is deleted.
async fn unclear(list: List) -> Peer {
    Peer::start(move |seen, _| match seen.method.as_str() {
        "DELETE" => Act::Answer(answer(501, "", "")),
        _ => Act::List(list.clone()),
    })
    .await
}

const ROOT_ONLY: &str = r#"{"clientId": "root"}]}"#;

/// A list of 15,000 tokens takes 1.5 s, in pieces of 240 kB.
const SLOW: List = List { tokens: 15_000, end: ROOT_ONLY, pause: Duration::from_millis(100) };

#[tokio::test]
async fn an_unclear_deletion_is_settled_by_a_list_of_300000_tokens() {
    let peer = unclear(List { tokens: 300_000, end: ROOT_ONLY, pause: Duration::ZERO }).await;
    let client = client(&peer.url, Duration::from_secs(60));
    client.delete_token("gone").await.unwrap();
    assert!(client.delete_token("id299999").await.is_err());
}

#[tokio::test]
async fn a_list_may_take_longer_than_the_request_timeout_while_it_makes_progress() {
    let peer = unclear(SLOW).await;
    let client = client(&peer.url, Duration::from_millis(500));
    let begin = Instant::now();
    assert_eq!((client.has_token("id14999").await.unwrap(), client.has_token("gone").await.unwrap()), (true, false));
    assert!(begin.elapsed() > Duration::from_secs(3));
}

#[tokio::test]
async fn a_list_that_makes_little_progress_is_an_error_after_the_request_timeout() {
    // The list has less than 64 KiB.
    let peer = unclear(List { tokens: 200, end: ROOT_ONLY, pause: Duration::from_secs(5) }).await;
    let client = client(&peer.url, Duration::from_millis(500));
    let begin = Instant::now();
    let error = client.has_token("gone").await.unwrap_err();
    assert_eq!(error.case(), Case::NoAnswer, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_long_list_that_is_cut_proves_nothing() {
    for end in ["", "]", r#"{"clientId": "root"}], "more":"#, r#"{"description": "x"}]}"#, "<html></html>"] {
        let peer = unclear(List { tokens: 2000, end, pause: Duration::ZERO }).await;
        let client = client(&peer.url, Duration::from_secs(10));
        let error = client.has_token("gone").await.unwrap_err();
        assert_eq!(error.case(), Case::UnusableAnswer, "{end:?}: {error}");
        assert!(client.delete_token("gone").await.is_err() && client.find_tokens("m").await.is_err(), "{end:?}");
    }
}

#[tokio::test]
async fn other_tasks_of_the_thread_run_while_a_long_list_is_read() {
    let peer = unclear(List { tokens: 100_000, end: ROOT_ONLY, pause: Duration::ZERO }).await;
    let client = client(&peer.url, Duration::from_secs(60));
    let mut polls = 0;
    let mut listing = pin!(client.has_token("gone"));
    let found = poll_fn(|context| {
        polls += 1;
        listing.as_mut().poll(context)
    });
    assert!(!found.await.unwrap());
    // The list has 24 MB. At most 64 KiB are read in one poll.
    assert!(polls > 24_000_000 / (64 << 10), "{polls}");
}
