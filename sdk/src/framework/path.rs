//! The declaration of a path, and the route that is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use futures_util::future::{BoxFuture, TryFutureExt as _};
use regex_lite::Regex;

use super::coerce::coerce;
use super::field::FieldSpec;
use super::fields::Fields;
use crate::logical::{Answer, Error, Operation, Request, Response};

/// A request on its way into a handler.
#[non_exhaustive]
pub struct Call {
    /// The request as the host sent it.
    pub request: Request,
    /// Its data, read by the declarations of the path.
    pub fields: Fields,
}

/// What the named groups of a pattern matched.
pub(super) type Captures = Vec<(&'static str, String)>;

type HandlerFn<E> = Arc<dyn Fn(Arc<E>, Call) -> BoxFuture<'static, Answer> + Send + Sync>;
type ExistsFn<E> = Arc<dyn Fn(Arc<E>, Call) -> BoxFuture<'static, Result<bool, Error>> + Send + Sync>;

/// What a path does for one operation.
pub struct Handler<E> {
    pub(super) run: HandlerFn<E>,
    #[cfg_attr(not(feature = "openapi"), expect(dead_code, reason = "only the OpenAPI document shows it"))]
    pub(super) summary: &'static str,
    pub(super) returns: &'static [(&'static str, &'static str)],
    pub(super) active_node: bool,
    pub(super) shows_fields: bool,
    pub(super) detached: bool,
}

// Not derived, because that would ask it of `E`.
impl<E> Clone for Handler<E> {
    fn clone(&self) -> Self {
        Self { run: self.run.clone(), ..*self }
    }
}

impl<E: Send + Sync + 'static> Handler<E> {
    /// Declares a handler with the one-line summary that OpenAPI shows. It fails with any error that has a conversion
    /// into [`Error`], so an engine can return its own.
    pub fn new<F, Fut, Failure>(summary: &'static str, run: F) -> Self
    where
        F: Fn(Arc<E>, Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Response>, Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        let run: HandlerFn<E> = Arc::new(move |engine, call| Box::pin(run(engine, call).map_err(Into::into)));
        Self { run, summary, returns: &[], active_node: false, shows_fields: false, detached: false }
    }

    /// Describes the members of the answer: name and what it is.
    #[must_use]
    pub fn returns(mut self, members: &'static [(&'static str, &'static str)]) -> Self {
        self.returns = members;
        self
    }

    /// Says that the answer has a member for each field with [`Field::shown`](super::Field::shown).
    #[must_use]
    pub fn shows_fields(mut self) -> Self {
        self.shows_fields = true;
        self
    }

    /// Runs on the active node only: elsewhere the host is asked to forward before the handler starts. For whatever
    /// changes another system or makes a lease (OpenBao `sdk/framework/backend.go`, `ForwardPerformanceStandby`).
    #[must_use]
    pub fn on_active_node(mut self) -> Self {
        self.active_node = true;
        self
    }

    /// Runs as a task of the mount, which goes on when the caller hangs up. For changes: the host may store a write
    /// although the caller has gone, and caches must follow.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }
}

/// A path of an engine.
///
/// Wrong declarations panic at start-up: a pattern that cannot be read, a field that is there twice, a default or
/// allowed value that the field's own type cannot read, a field of which no operation is there.
pub struct Path<E> {
    pub(super) pattern: &'static str,
    route: Route,
    pub(super) captures: Vec<&'static str>,
    pub(super) fields: &'static [FieldSpec],
    pub(super) operations: BTreeMap<Operation, Handler<E>>,
    pub(super) exists: Option<ExistsFn<E>>,
    pub(super) synopsis: &'static str,
    pub(super) description: &'static str,
}

impl<E: Send + Sync + 'static> Path<E> {
    /// Declares a path by a pattern, which is anchored at both ends. Named groups fill the fields of their names. The
    /// pattern of a list ends in `/?`, because hosts append a slash to it.
    ///
    /// # Panics
    /// On a pattern that is no regular expression, or that has a group without a field of its name: at start-up.
    pub fn new(pattern: &'static str, fields: &'static [FieldSpec]) -> Self {
        #[expect(clippy::expect_used, reason = "a wrong declaration shall stop the start-up, not a request")]
        let regex = Regex::new(&format!("^(?:{pattern})$")).expect("path pattern is a regular expression");
        let captures = regex
            .capture_names()
            .flatten()
            .map(|group| {
                let spec = fields.iter().find(|spec| spec.name == group);
                #[expect(clippy::panic, reason = "a wrong declaration shall stop the start-up, not a request")]
                spec.map_or_else(|| panic!("path {pattern:?} captures {group:?}, which is no field of it"), |s| s.name)
            })
            .collect();
        Self {
            pattern,
            route: Route::new(pattern, regex),
            captures,
            fields,
            operations: BTreeMap::new(),
            exists: None,
            synopsis: "",
            description: "",
        }
    }

    /// Sets the help: one line, and as much as it takes.
    #[must_use]
    pub fn help(mut self, synopsis: &'static str, description: &'static str) -> Self {
        self.synopsis = synopsis;
        self.description = description;
        self
    }

    /// Answers reads.
    #[must_use]
    pub fn read(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Read, handler)
    }

    /// Answers writes, whether they create or update.
    #[must_use]
    pub fn write(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Create, handler.clone()).operation(Operation::Update, handler)
    }

    /// Answers partial writes. The handler applies each [`super::Change`] to the stored object.
    #[must_use]
    pub fn patch(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Patch, handler)
    }

    /// Answers deletions.
    #[must_use]
    pub fn delete(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Delete, handler)
    }

    /// Answers listings.
    #[must_use]
    pub fn list(self, handler: Handler<E>) -> Self {
        self.operation(Operation::List, handler)
    }

    /// Answers any one operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation, handler: Handler<E>) -> Self {
        self.operations.insert(operation, handler);
        self
    }

    /// Tells creating from updating, so that a policy can allow one without the other. Without it, every write is an
    /// update. It must have no effect: callers without a right to the path can trigger it.
    #[must_use]
    pub fn exists<F, Fut, Failure>(mut self, check: F) -> Self
    where
        F: Fn(Arc<E>, Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        self.exists = Some(Arc::new(move |engine, call| Box::pin(check(engine, call).map_err(Into::into))));
        self
    }
}

impl<E> Path<E> {
    /// Whether the path itself has this field.
    #[cfg(feature = "openapi")]
    pub(super) fn is_captured(&self, field: &FieldSpec) -> bool {
        self.captures.contains(&field.name)
    }

    pub(super) fn check_fields(&self) {
        let mut names = BTreeSet::new();
        for spec in self.fields {
            let readable = |text: &str| coerce(spec.kind, &text.into()).is_ok();
            let place = format!("path {:?}, field {:?}", self.pattern, spec.name);
            assert!(spec.default.is_none_or(readable), "{place}: the default cannot be read");
            assert!(spec.allowed.iter().all(|text| readable(text)), "{place}: an allowed value cannot be read");
            let mut all = std::iter::once(&spec.name).chain(spec.aliases);
            assert!(all.all(|name| names.insert(*name)), "{place}: the name or an alias is there twice");
        }
        for spec in self.fields {
            let used = spec.operations.is_none_or(|taken| taken.iter().any(|one| self.operations.contains_key(one)));
            assert!(used, "path {:?}, field {:?}: the path has none of its operations", self.pattern, spec.name);
        }
    }

    /// Returns what the named groups matched, if the path matches.
    pub(super) fn matches(&self, path: &str) -> Option<Captures> {
        let regex = match &self.route {
            Route::Plain { text, slash } => {
                let rest = path.strip_prefix(text)?;
                return (rest.is_empty() || (*slash && rest == "/")).then(Captures::new);
            }
            Route::Pattern(regex) => regex,
        };
        let found = regex.captures(path)?;
        let group = |name: &&'static str| found.name(name).map(|text| (*name, text.as_str().to_owned()));
        Some(self.captures.iter().filter_map(group).collect())
    }
}

/// What a path is compared with. Most patterns are plain text, for which that costs next to nothing.
enum Route {
    /// This text, with or without a slash behind it if `slash` is set.
    Plain {
        text: &'static str,
        slash: bool,
    },
    Pattern(Regex),
}

impl Route {
    fn new(pattern: &'static str, regex: Regex) -> Self {
        let (text, slash) = pattern.strip_suffix("/?").map_or((pattern, false), |text| (text, true));
        if regex_lite::escape(text) == text { Self::Plain { text, slash } } else { Self::Pattern(regex) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(pattern: &'static str) -> Path<()> {
        Path::new(pattern, &[])
    }

    #[test]
    fn plain_patterns_are_compared_and_others_matched() {
        for pattern in ["config", "org/token", "org/tokens/?"] {
            assert!(matches!(path(pattern).route, Route::Plain { .. }), "{pattern}");
        }
        for pattern in ["a.b", "a?", "roles?/?", "a|b"] {
            assert!(matches!(path(pattern).route, Route::Pattern(_)), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn comparing_finds_what_matching_finds(plain in "[a-c]{1,2}(/[a-c])?", slash: bool, asked in "[a-c]{1,2}(/[a-c])?/{0,2}\n?") {
            let pattern: &'static str = if slash { format!("{plain}/?") } else { plain }.leak();
            let regex = Regex::new(&format!("^(?:{pattern})$")).unwrap();
            prop_assert_eq!(path(pattern).matches(&asked).is_some(), regex.is_match(&asked));
        }
    }
}
