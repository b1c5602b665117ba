//! The log: writes `tracing` events as hclog lines to stderr, where the host reads them.
//!
//! The host filters the lines, but does not announce its level. So the level comes from the environment.

mod line;
mod writer;

use std::fmt::{self, Debug, Display};
use std::panic::PanicHookInfo;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use self::line::{Line, Origin};
use self::writer::Writer;
use crate::context;

/// Writes the lines in the queue when it is dropped.
pub(super) struct Guard(Writer);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts the log of this process, including panics. `engine` is the crate whose events are logged at every level. The
/// log replaces the text after each prefix in `secrets`.
pub(super) fn start(level: Option<&str>, engine: Option<&'static str>, secrets: &'static [&'static str]) -> Guard {
    let writer = Writer::start(std::io::stderr());
    let known = level.map_or(Some(LevelFilter::INFO), parse_level);
    let threshold = known.unwrap_or(LevelFilter::INFO);
    let subscriber =
        tracing_subscriber::registry().with(threshold).with(Hclog { writer: writer.clone(), engine, secrets });
    // Fails only if a subscriber exists already. That subscriber then gets the events.
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(log_panic));
    if known.is_none() {
        tracing::warn!("unknown log level in the environment, using info");
    }
    Guard(writer)
}

/// Reads a level name of hclog.
fn parse_level(name: &str) -> Option<LevelFilter> {
    Some(match name.trim().to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" | "notice" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "err" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => return None,
    })
}

/// Logs a panic. The default text of a panic is a plain line, which the host shows only in debug mode.
fn log_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(panic = text.unwrap_or("no text"), location, "panicked");
}

/// Turns events into lines, and adds the fields of the surrounding spans and of the current request.
struct Hclog {
    writer: Writer,
    engine: Option<&'static str>,
    secrets: &'static [&'static str],
}

impl Hclog {
    /// Below `info`, dependencies log headers and bodies. So at those levels, only the SDK and the engine may log.
    fn hears(&self, metadata: &Metadata<'_>) -> bool {
        let speaker = metadata.target().split("::").next();
        *metadata.level() <= Level::INFO
            || speaker == Some(env!("CARGO_CRATE_NAME"))
            || (self.engine.is_some() && speaker == self.engine)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Hclog {
    /// The answer is the same for all events of a place in the code, so tracing asks once.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.hears(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.hears(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(known) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(known);
        }
    }

    fn on_event(&self, event: &Event<'_>, spans: Context<'_, S>) {
        let metadata = event.metadata();
        let origin = Origin { level: *metadata.level(), time: Timestamp::now(), module: metadata.target() };
        let fields = |line: &mut Line| {
            event.record(&mut Own(line));
            // The first field with a name wins: that of the event, of the innermost span, the last value of a span, and at
            // last that of the request.
            for span in spans.event_scope(event).into_iter().flatten() {
                if let Some(known) = span.extensions().get::<Fields>() {
                    known.0.iter().rev().for_each(|(name, value)| line.field(name, format_args!("{value}")));
                }
            }
            context::with_current(|request| {
                request.fields().iter().for_each(|(name, value)| line.field(name, format_args!("{value}")));
            });
        };
        line::render(origin, self.secrets, fields, |line| self.writer.line(line));
    }
}

/// The fields of a span, with their values as text.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.0.push((field.name(), Chain(error).to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

/// Writes the fields of an event into a line.
struct Own<'a>(&'a mut Line);

impl Own<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        match field.name() {
            "message" => self.0.message(value),
            name => self.0.field(name, value),
        }
    }
}

impl Visit for Own<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.put(field, format_args!("{}", Chain(error)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format_args!("{value:?}"));
    }
}

/// An error with its causes.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl writer::Output for Output {
        fn is_ready(&self) -> bool {
            true
        }
    }

    /// Returns the lines that `run` logs.
    fn logged(run: impl FnOnce()) -> Vec<Value> {
        logged_and_spans(run).0
    }

    /// Counts spans.
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Returns the lines that `run` logs, and the number of spans that it makes.
    pub(crate) fn logged_and_spans(run: impl FnOnce()) -> (Vec<Value>, usize) {
        let spans = Arc::new(AtomicUsize::new(0));
        let output = Output::default();
        let writer = Writer::start(output.clone());
        let layer = Hclog { writer: writer.clone(), engine: Some("engine"), secrets: &["Tok:"] };
        let subscriber = tracing_subscriber::registry().with(LevelFilter::DEBUG).with(layer).with(Count(spans.clone()));
        tracing::subscriber::with_default(subscriber, run);
        writer.flush();
        let bytes = output.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lines = String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, spans.load(Ordering::SeqCst))
    }

    #[test]
    fn event_carries_its_fields_and_those_of_its_spans() {
        let lines = logged(|| {
            let outer = tracing::error_span!("request", mount = "cards/", id = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("id", "r1");
            let _inner = tracing::error_span!("inner", id = "r2").entered();
            outer.record("mount", "dice/");
            tracing::info!(count = 3, ok = true, token = %"Tok:abc", "created {}", "token");
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["@message"], "created token");
        assert_eq!(line["@level"], "info");
        assert_eq!((&line["mount"], &line["id"]), (&"dice/".into(), &"r2".into()));
        assert_eq!((&line["count"], &line["ok"]), (&"3".into(), &"true".into()));
        assert_eq!(line["token"], "Tok:[redacted]");
    }

    #[test]
    fn error_is_told_with_its_causes() {
        let cause = std::io::Error::other("inner");
        let error = crate::logical::Error::Internal { message: "outer".into(), cause: Some(Box::new(cause)) };
        let lines = logged(|| {
            tracing::error!(error = &error as &(dyn std::error::Error + 'static), "failed");
        });
        assert_eq!(lines[0]["error"], "outer: inner");
    }

    #[test]
    fn dependencies_are_heard_from_info_up_only() {
        let lines = logged(|| {
            tracing::debug!(target: "hyper::proto", "header");
            tracing::info!(target: "hyper::proto", "fine");
            tracing::debug!("ours");
            tracing::debug!(target: "engine::path", "the engine's");
            tracing::trace!("too much");
        });
        let messages: Vec<_> = lines.iter().map(|line| line["@message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["fine", "ours", "the engine's"]);
    }

    #[test]
    fn levels_have_the_names_of_hclog() {
        assert_eq!(parse_level(" WARN "), Some(LevelFilter::WARN));
        assert_eq!(parse_level("err"), Some(LevelFilter::ERROR));
        assert_eq!(parse_level("loud"), None);
    }
}
