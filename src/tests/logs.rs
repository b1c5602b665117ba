//! The log: events with their fields, and never a secret.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Instrument as _, error_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use vault_plugin_sdk::logical::Operation;
use wiremock::ResponseTemplate;

use super::{ORG, ROLE_ID, ROOT, World, failed, lease, ok, order, some, text};

/// Keeps all events as text.
#[derive(Clone, Default)]
pub(super) struct Capture(Arc<Mutex<Vec<String>>>);

impl Capture {
    /// Whether an event of this level has this text in its message or fields.
    pub(super) fn has(&self, level: &str, text: &str) -> bool {
        self.count(level, text) > 0
    }

    /// Returns the number of events of this level that have this text in their message or fields.
    pub(super) fn count(&self, level: &str, text: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.starts_with(level) && line.contains(text)).count()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        for span in context.event_scope(event).into_iter().flatten() {
            write!(line.0, " in {:?}", span.name()).unwrap();
        }
        self.0.lock().unwrap().push(line.0);
    }
}

/// Keeps the events of this thread until the guard is dropped.
pub(super) fn capture() -> (Capture, DefaultGuard) {
    // With a single subscriber, the first thread at an event decides for all threads whether the event is enabled. A
    // second subscriber prevents this.
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&ANOTHER);
    let capture = Capture::default();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(capture.clone()));
    (capture, guard)
}

#[tokio::test]
async fn events_are_logged_with_their_fields_and_without_secrets() {
    let (capture, _guard) = capture();

    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    ok(world.read("org/token", order("org1")).await);
    let secret = lease(&minted);
    some(world.renew(&secret, json!({})).await);
    some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
    ok(world.revoke(&secret).await);
    world.mint("org2").await;
    ok(world.ask(Operation::Delete, "org/token", order("org2")).await);
    let echo = ResponseTemplate::new(500).set_body_json(json!({"errors": [{"message": format!("token {ROOT}")}]}));
    world.astra.answer("POST", echo);
    failed(world.write("org/token", order("org3")).await);
    world.storage.fail_nth(2);
    failed(world.write("org/token", order("org3")).await);
    world.until_undone().await;
    ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);

    let lines = capture.0.lock().unwrap().clone();
    for (level, message) in [
        ("INFO", "wrote config"),
        ("INFO", "wrote role"),
        ("INFO", "rotated root token"),
        ("INFO", "created token"),
        ("INFO", "read token"),
        ("INFO", "renewed token"),
        ("INFO", "revoked token"),
        ("INFO", "deleted token"),
        ("INFO", "deleted role"),
        ("INFO", "deleted config"),
        ("ERROR", "failed to answer a request"),
    ] {
        let line = lines.iter().find(|line| line.contains(message)).unwrap_or_else(|| panic!("no {message:?}"));
        assert!(line.starts_with(level), "{message:?} has another level");
        if message == "rotated root token" {
            assert!([ORG, ROOT.split(':').nth(1).unwrap()].iter().all(|value| line.contains(value)), "{line}");
        } else if message.ends_with("token") {
            let client_id = text(&minted, "clientId");
            let known = [ORG, "r_w_user"].iter().all(|value| line.contains(value));
            assert!(known && (line.contains(&client_id) || message == "deleted token"), "{line}");
        }
        if level == "INFO" && !matches!(message, "renewed token" | "revoked token") {
            assert!(line.contains("token-bob") && line.contains("entity-1"), "{line}");
        }
    }
    let digest = ROOT.rsplit(':').next().unwrap();
    let token = text(&minted, "token");
    let root = world.astra.root();
    for secret in [digest, root.rsplit(':').next().unwrap(), "s3cret-1", token.rsplit(':').next().unwrap()] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "a secret is in the log");
    }
    assert!(lines.iter().any(|line| line.contains(ROLE_ID)));
}

#[tokio::test]
async fn each_event_of_a_request_is_in_a_span_that_names_mount_and_request() {
    let (capture, _guard) = capture();
    let world = World::with_role("standard").await;
    let run = async {
        let secret = lease(&world.mint("org1").await);
        some(world.renew(&secret, json!({})).await);
        ok(world.revoke(&secret).await);
    };
    run.instrument(error_span!("request")).await;
    let lines = capture.0.lock().unwrap().clone();
    for message in ["created token", "renewed token", "revoked token"] {
        let line = lines.iter().find(|line| line.contains(message)).unwrap_or_else(|| panic!("no {message:?}"));
        assert!(line.ends_with(" in \"request\""), "{line}");
    }
}

#[tokio::test]
async fn a_failed_revocation_logs_the_token() {
    let (capture, _guard) = capture();
    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    failed(world.revoke(&lease(&minted)).await);
    let lines = capture.0.lock().unwrap().clone();
    let line = lines.iter().find(|line| line.starts_with("ERROR")).expect("it is logged");
    assert!([ORG, "r_w_user", &text(&minted, "clientId"), "503"].iter().all(|value| line.contains(value)), "{line}");
}

#[tokio::test]
async fn a_sweep_logs_each_failing_org_once() {
    let (capture, _guard) = capture();
    let world = World::with_role("standard").await;
    for name in ["a", "b", "c"] {
        world.mint(name).await;
    }
    world.make_overdue().await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    ok(world.tick(false).await);
    let lines = capture.0.lock().unwrap().clone();
    let failures: Vec<_> =
        lines.iter().filter(|line| line.contains("failed to delete tokens without a lease")).collect();
    assert!(failures.len() == 1 && failures[0].contains("tokens=3"), "{failures:?}");
    assert_eq!((world.astra.count("DELETE"), world.keys("client/").len()), (1, 3));
}

#[tokio::test]
async fn an_error_that_the_sdk_logs_is_not_logged_twice() {
    let (capture, _guard) = capture();
    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    world.storage.fail_nth(1);
    let error = failed(world.read("org/token", json!({"org_id": ORG, "client_id": text(&minted, "clientId")})).await);
    assert!(matches!(error, vault_plugin_sdk::logical::Error::Internal { .. }), "{error}");
    let lines = capture.0.lock().unwrap().clone();
    assert!(!lines.iter().any(|line| line.starts_with("ERROR")), "{lines:?}");
}
