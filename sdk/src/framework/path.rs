//! The declaration of a path, and the route built from the declaration.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use futures_util::future::{BoxFuture, TryFutureExt as _};
use regex_lite::Regex;

use super::coerce::coerce;
use super::field::{FieldKind, FieldSpec};
use super::fields::Fields;
use super::pattern;
use crate::logical::{Answer, Error, Operation, Request, Response};

/// The input of a handler.
#[non_exhaustive]
pub struct Call {
    /// The request as the host sent it.
    pub request: Request,
    /// The request's data, read as the path declares.
    pub fields: Fields,
}

/// The values of a pattern's named groups. `None` is a group that took no part in the match.
pub(super) type Captures = Vec<(&'static str, Option<String>)>;

type HandlerFn<E> = Arc<dyn Fn(Arc<E>, Call) -> BoxFuture<'static, Answer> + Send + Sync>;
type ExistsFn<E> = Arc<dyn Fn(Arc<E>, Call) -> BoxFuture<'static, Result<bool, Error>> + Send + Sync>;

/// The handler of one operation of a path.
pub struct Handler<E> {
    pub(super) run: HandlerFn<E>,
    #[cfg_attr(not(feature = "openapi"), expect(dead_code, reason = "only the OpenAPI document shows it"))]
    pub(super) summary: &'static str,
    pub(super) returns: &'static [(&'static str, &'static str)],
    pub(super) active_node: bool,
    pub(super) shows_fields: bool,
    pub(super) detached: bool,
}

// Not derived: `derive` would require `E: Clone`.
impl<E> Clone for Handler<E> {
    fn clone(&self) -> Self {
        Self { run: self.run.clone(), ..*self }
    }
}

impl<E: Send + Sync + 'static> Handler<E> {
    /// Declares a handler with the one-line summary that OpenAPI shows. The handler can return any error type that
    /// converts into [`Error`], so an engine can use its own error type.
    pub fn new<F, Fut, Failure>(summary: &'static str, run: F) -> Self
    where
        F: Fn(Arc<E>, Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Response>, Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        let run: HandlerFn<E> = Arc::new(move |engine, call| Box::pin(run(engine, call).map_err(Into::into)));
        Self { run, summary, returns: &[], active_node: false, shows_fields: false, detached: false }
    }

    /// Describes the members of the response: name and description.
    #[must_use]
    pub fn returns(mut self, members: &'static [(&'static str, &'static str)]) -> Self {
        self.returns = members;
        self
    }

    /// Adds each field with [`Field::shown`](super::Field::shown) to the described members of the response.
    #[must_use]
    pub fn shows_fields(mut self) -> Self {
        self.shows_fields = true;
        self
    }

    /// Runs the handler on the active node only. On other nodes, the host is asked to forward the request before the
    /// handler starts. Use this for handlers that change another system or create a lease (OpenBao
    /// `sdk/framework/backend.go`, `ForwardPerformanceStandby`).
    #[must_use]
    pub fn on_active_node(mut self) -> Self {
        self.active_node = true;
        self
    }

    /// Runs the handler as a task of the mount, which continues if the caller hangs up. Use this for changes: the host
    /// may store a write although the caller has gone, and caches must stay consistent with storage.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }
}

/// A path of an engine.
///
/// These mistakes panic at start-up: an invalid pattern, a list or a create that no request can reach, two fields with the
/// same name, and a field if the path has none of the field's operations. A default or allowed value that the field's own
/// type cannot read also panics, and so does a named group whose value has several spellings (see [`Path::one_spelling`]).
pub struct Path<E> {
    pub(super) pattern: &'static str,
    route: Route,
    pub(super) captures: Vec<&'static str>,
    pub(super) fields: &'static [FieldSpec],
    pub(super) operations: BTreeMap<Operation, Handler<E>>,
    pub(super) exists: Option<ExistsFn<E>>,
    one_spelling: bool,
    pub(super) synopsis: &'static str,
    pub(super) description: &'static str,
}

impl<E: Send + Sync + 'static> Path<E> {
    /// Declares a path by a pattern, which is anchored at both ends. A named group fills the field of the same name.
    /// The pattern of a list ends in `/?`, because hosts append a slash. The usual group for a name, which takes the same
    /// names as [`Field::name_string`](super::Field::name_string), is `(?P<name>\w(?:[\w\-.]*\w)?)`. Text that no pattern
    /// matches returns 404.
    ///
    /// # Panics
    /// At start-up, if the pattern is not a valid regular expression, or if a group has no field of the same name.
    pub fn new(pattern: &'static str, fields: &'static [FieldSpec]) -> Self {
        #[expect(clippy::expect_used, reason = "a wrong declaration shall stop the start-up, not a request")]
        let regex = Regex::new(&format!("^(?:{pattern})$")).expect("path pattern is a regular expression");
        let captures = regex
            .capture_names()
            .flatten()
            .map(|group| {
                let spec = fields.iter().find(|spec| spec.name == group);
                #[expect(clippy::panic, reason = "a wrong declaration shall stop the start-up, not a request")]
                spec.map_or_else(
                    || panic!("path {pattern:?} captures {group:?}; declare a field with this name"),
                    |s| s.name,
                )
            })
            .collect();
        Self {
            pattern,
            route: Route::new(pattern, regex),
            captures,
            fields,
            operations: BTreeMap::new(),
            exists: None,
            one_spelling: false,
            synopsis: "",
            description: "",
        }
    }

    /// Sets the help: a synopsis of one line, and a description of any length.
    #[must_use]
    pub fn help(mut self, synopsis: &'static str, description: &'static str) -> Self {
        self.synopsis = synopsis;
        self.description = description;
        self
    }

    /// Rejects a path in which a named group is not spelled as its field reads it. If the field `name` is lower-cased,
    /// `roles/ADMIN` is a 400 that names `roles/admin`.
    ///
    /// Policies compare paths letter by letter. If `roles/ADMIN` meant the same role, it would pass a policy that denies
    /// `roles/admin`. So a group whose field reads several spellings as one value needs this. The kinds `String` and
    /// `NameString` have one spelling for each value.
    #[must_use]
    pub fn one_spelling(mut self) -> Self {
        self.one_spelling = true;
        self
    }

    /// Sets the handler for reads.
    #[must_use]
    pub fn read(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Read, handler)
    }

    /// Sets the handler for writes, both creates and updates. If an update changes only the fields that it names, the
    /// handler reads a create with [`Fields::for_new_object`].
    #[must_use]
    pub fn write(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Create, handler.clone()).operation(Operation::Update, handler)
    }

    /// Sets the handler for partial writes. The handler changes the stored object with [`Fields::apply`]. The host does
    /// not check whether the object exists, so the handler returns [`Error::status`] 404 if it does not. The handler of
    /// the writes can serve patches too: `call.request.operation` tells which of the two it is.
    #[must_use]
    pub fn patch(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Patch, handler)
    }

    /// Sets the handler for deletes.
    #[must_use]
    pub fn delete(self, handler: Handler<E>) -> Self {
        self.operation(Operation::Delete, handler)
    }

    /// Sets the handler for lists.
    #[must_use]
    pub fn list(self, handler: Handler<E>) -> Self {
        self.operation(Operation::List, handler)
    }

    /// Sets the handler for one operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation, handler: Handler<E>) -> Self {
        self.operations.insert(operation, handler);
        self
    }

    /// Sets the check that tells creates from updates, so that a policy can allow one of the two. Without a check,
    /// every write is an update. The check must have no effect: callers without a right to the path can trigger it.
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
    /// Whether the path itself captures this field.
    #[cfg(feature = "openapi")]
    pub(super) fn is_captured(&self, field: &FieldSpec) -> bool {
        self.captures.contains(&field.name)
    }

    /// A pattern without a slash at its end never matches the path of a list.
    pub(super) fn check_list(&self) {
        let pattern = self.pattern;
        let lists = [Operation::List, Operation::Scan].iter().any(|operation| self.operations.contains_key(operation));
        assert!(
            !lists || self.may_match_list(),
            "path {pattern:?} has a list, but hosts append a slash; write the pattern as \"{pattern}/?\""
        );
    }

    /// Tries examples: whether the pattern matches a path that ends in a slash.
    fn may_match_list(&self) -> bool {
        // Each stands for the text of all groups of an example.
        const GROUPS: [&str; 4] = ["x", "1", "X", "x1-x"];
        let paths = pattern::expand(self.pattern);
        if paths.iter().any(|path| path.is_empty() || path.ends_with('/')) {
            return true;
        }
        let examples = paths.iter().flat_map(|path| GROUPS.map(|text| pattern::fill(path, text)));
        let known: Vec<String> = examples.filter(|path| self.matches(path).is_some()).collect();
        known.is_empty() || known.iter().any(|path| self.matches(&format!("{path}/")).is_some())
    }

    /// Without a check of existence, every write is an update.
    pub(super) fn check_create(&self) {
        let unreachable = self.operations.contains_key(&Operation::Create)
            && !self.operations.contains_key(&Operation::Update)
            && self.exists.is_none();
        assert!(
            !unreachable,
            "path {:?} has a create that no request reaches; add `Path::exists`, or a handler for updates",
            self.pattern
        );
    }

    /// A value with several spellings in a path would open the policies about the path.
    pub(super) fn check_spelling(&self) {
        for spec in self.fields.iter().filter(|spec| self.captures.contains(&spec.name)) {
            let is_text = matches!(spec.kind, FieldKind::String | FieldKind::NameString);
            let is_one = match spec.kind {
                FieldKind::LowercaseString | FieldKind::Int | FieldKind::Bool => self.one_spelling,
                _ => false,
            };
            assert!(
                is_text || is_one,
                "path {:?}, field {:?}: a value of this kind has several spellings, which policies tell apart; use \
                 `Path::one_spelling`, or a field of text",
                self.pattern,
                spec.name
            );
        }
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

    /// Returns the right spelling of a path, if the path has only one and this is another.
    pub(super) fn right_spelling(&self, path: &str, fields: &Fields) -> Option<String> {
        let (true, Route::Pattern(regex)) = (self.one_spelling, &self.route) else { return None };
        let found = regex.captures(path)?;
        let mut right = path.to_owned();
        let mut end = path.len();
        for (name, group) in self.captures.iter().rev().filter_map(|name| Some((*name, found.name(name)?))) {
            let spelling = fields.spelling(name)?;
            if group.end() <= end && group.as_str() != spelling {
                right.replace_range(group.range(), &spelling);
            }
            end = group.start();
        }
        (right != path).then_some(right)
    }

    /// Returns the values of the named groups, if the path matches.
    pub(super) fn matches(&self, path: &str) -> Option<Captures> {
        let regex = match &self.route {
            Route::Plain { text, slash } => {
                let rest = path.strip_prefix(text)?;
                return (rest.is_empty() || (*slash && rest == "/")).then(Captures::new);
            }
            Route::Pattern(regex) => regex,
        };
        let found = regex.captures(path)?;
        let group = |name: &&'static str| (*name, found.name(name).map(|text| text.as_str().to_owned()));
        Some(self.captures.iter().map(group).collect())
    }
}

/// How a path is matched. Most patterns are plain text, and comparing plain text is nearly free.
enum Route {
    /// This text. If `slash` is set, a trailing slash is optional.
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
