//! The values of one request, read by the declarations of its path.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::coerce::coerce;
use super::field::{Field, FieldKind, FieldSpec, FieldType, FieldValue};
use crate::logical::{Error, Map, Operation};

/// The effect of a write on one field of a stored object. The enum is exhaustive, so a `match` needs no wildcard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<T> {
    /// The request does not contain the field: the stored value stays.
    Keep,
    /// The request contains `null`: the default replaces the stored value.
    Reset,
    /// The request contains a new value.
    Set(T),
}

impl<T> Change<T> {
    /// Changes `stored` to the new value, or to `default` on a reset.
    pub fn apply(self, stored: &mut T, default: impl FnOnce() -> T) {
        match self {
            Self::Keep => {}
            Self::Reset => *stored = default(),
            Self::Set(value) => *stored = value,
        }
    }
}

/// The values of one request. No `Debug`: they may be secrets.
#[derive(Clone)]
pub struct Fields {
    specs: &'static [FieldSpec],
    /// `None` is a JSON `null`.
    given: BTreeMap<&'static str, Option<FieldValue>>,
    /// Whether objects and pairs are merged with the stored ones.
    merges: bool,
    /// The keys of pairs that a patch removes.
    removed: BTreeMap<&'static str, Vec<String>>,
    /// Members of the request that the path does not declare, sorted.
    pub(super) unknown: Vec<String>,
    /// Members of the request that another value in the path overrides, sorted.
    pub(super) replaced: Vec<String>,
}

impl Fields {
    /// Reads the data of a request. A value captured from the path wins over the body.
    ///
    /// # Errors
    /// If a value cannot be read as the type of its field. The error names the field and never contains the value.
    pub(super) fn parse(
        operation: Operation,
        specs: &'static [FieldSpec],
        captures: &[(&'static str, Option<String>)],
        data: &Map,
    ) -> Result<Self, Error> {
        let mut fields = Self {
            specs,
            given: BTreeMap::new(),
            merges: operation == Operation::Patch,
            removed: BTreeMap::new(),
            unknown: Vec::new(),
            replaced: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for (name, text) in captures {
            let Some(spec) = specs.iter().find(|spec| spec.name == *name) else { continue };
            // Go engines read a group that took no part in the match as an empty text. Here it counts as `null`, since an
            // empty text is not a value of each kind. In both, the body cannot fill the field.
            fields.insert(spec, &text.as_deref().map_or(Value::Null, Value::from))?;
            seen.insert(spec.name);
        }
        for (name, value) in data {
            match specs.iter().find(|spec| spec.name == name || spec.aliases.contains(&name.as_str())) {
                None => fields.unknown.push(name.clone()),
                Some(spec) if captures.iter().any(|(captured, _)| *captured == spec.name) => {
                    // A client that writes back what it has read repeats the value of the path.
                    if !fields.holds(spec, value) {
                        fields.replaced.push(name.clone());
                    }
                }
                Some(spec) if !seen.insert(spec.name) => {
                    // If the request has the field and an alias, the field's own name wins in either order.
                    if spec.name == name {
                        fields.insert(spec, value)?;
                    }
                }
                Some(spec) => fields.insert(spec, value)?,
            }
        }
        fields.unknown.sort();
        fields.replaced.sort();
        Ok(fields)
    }

    /// Returns the given value, else the default, else `None`.
    pub fn get<T: FieldType>(&self, field: &Field<T>) -> Option<T> {
        match self.change(field) {
            Change::Set(value) => Some(value),
            Change::Reset => T::zero().or_else(|| default_of(field)),
            Change::Keep => default_of(field),
        }
    }

    /// Returns the effect of the request on a field of a stored object. In a patch, the new value of an object or of pairs
    /// is what the request names; [`Fields::apply`] merges it with what is stored.
    pub fn change<T: FieldType>(&self, field: &Field<T>) -> Change<T> {
        assert!(
            self.given.contains_key(field.name()) || self.specs.iter().any(|spec| spec.name == field.name()),
            "field {:?} is not declared on this path",
            field.name()
        );
        match self.given.get(field.name()) {
            None => Change::Keep,
            Some(None) => Change::Reset,
            Some(Some(value)) => T::from_value(value.clone()).map_or(Change::Keep, Change::Set),
        }
    }

    /// Returns the same request for a new object: a field that is not given is reset to its default.
    #[must_use]
    pub fn for_new_object(&self) -> Self {
        let mut fields = self.clone();
        for spec in self.specs {
            fields.given.entry(spec.name).or_insert(None);
        }
        fields
    }

    /// Changes `stored` as the request says. A reset gives `stored` the default of the field. A patch merges objects and
    /// pairs with the stored ones: a member that the request does not name stays, and `null` removes a member (RFC 7396).
    pub fn apply<T: FieldType>(&self, field: &Field<T>, stored: &mut T) {
        match self.change(field) {
            Change::Keep => {}
            Change::Reset => {
                if let Some(default) = default_of(field).or_else(T::zero) {
                    *stored = default;
                }
            }
            Change::Set(value) if self.merges => {
                stored.merge(value, self.removed.get(field.name()).map_or(&[], Vec::as_slice));
            }
            Change::Set(value) => *stored = value,
        }
    }

    /// Whether the request has a value (not `null`) for this field.
    pub fn is_given<T>(&self, field: &Field<T>) -> bool {
        matches!(self.given.get(field.name()), Some(Some(_)))
    }

    /// Returns the same request with this text in a field, which the path need not declare. With it, a path can use the
    /// handler of another path that takes the same object from a field.
    #[must_use]
    pub fn with_text(&self, field: &Field<String>, text: impl Into<String>) -> Self {
        let mut fields = self.clone();
        fields.given.insert(field.name(), Some(FieldValue::String(text.into())));
        fields
    }

    /// Returns the same request without a value of this field.
    #[must_use]
    pub fn without<T>(&self, field: &Field<T>) -> Self {
        let mut fields = self.clone();
        fields.given.remove(field.name());
        fields.removed.remove(field.name());
        fields
    }

    /// Whether the value of a field is the same as this one.
    fn holds(&self, spec: &FieldSpec, value: &Value) -> bool {
        let known = self.given.get(spec.name).and_then(Option::as_ref);
        known.is_some_and(|known| coerce(spec.kind, value).is_ok_and(|value| value == *known))
    }

    /// Returns how the value of a field is written in a path. `None` if there is no value, or no single way to write it.
    pub(super) fn spelling(&self, name: &str) -> Option<String> {
        match self.given.get(name)?.as_ref()? {
            FieldValue::String(text) => Some(text.clone()),
            FieldValue::Int(number) => Some(number.to_string()),
            FieldValue::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    fn insert(&mut self, spec: &'static FieldSpec, value: &Value) -> Result<(), Error> {
        let named;
        let value = match value {
            Value::Object(members) if self.merges && spec.kind == FieldKind::Pairs => {
                let (removed, members): (Map, Map) = members
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .partition(|(_, value)| value.is_null());
                self.removed.insert(spec.name, removed.into_iter().map(|(key, _)| key).collect());
                named = Value::Object(members);
                &named
            }
            value => value,
        };
        let value = match value {
            Value::Null => None,
            value => Some(coerce(spec.kind, value).map_err(|reason| {
                Error::invalid(format!(
                    "Field validation failed: error converting input for field {:?}: {reason}",
                    spec.name
                ))
            })?),
        };
        self.given.insert(spec.name, value);
        Ok(())
    }
}

/// Returns the declared default. `Backend::path` has already checked that each default is valid.
fn default_of<T: FieldType>(field: &Field<T>) -> Option<T> {
    let spec = field.spec();
    let text = spec.default?;
    coerce(spec.kind, &Value::String(text.into())).ok().and_then(T::from_value)
}

#[cfg(any(test, fuzzing, feature = "testing"))]
pub(super) mod fuzz {
    use super::super::coerce::fuzz::{MARK, marked};
    use super::*;

    const SPECS: &[FieldSpec] = &[
        Field::bool("bool", "").aliases(&["a", "z"]).spec(),
        Field::comma_ints("comma_ints", "").spec(),
        Field::comma_strings("comma_strings", "").spec(),
        Field::duration("duration", "").aliases(&["ttl"]).spec(),
        Field::float("float", "").spec(),
        Field::header("header", "").spec(),
        Field::int("int", "").aliases(&["zz"]).spec(),
        Field::list("list", "").spec(),
        Field::lowercase("lowercase", "").spec(),
        Field::map("map", "").spec(),
        Field::name_string("name_string", "").spec(),
        Field::pairs("pairs", "").spec(),
        Field::string("string", "").aliases(&["text"]).spec(),
        Field::strings("strings", "").spec(),
        Field::time("time", "").spec(),
    ];

    /// Checks three things. Each member of a request is a field or is reported as unknown. A captured value wins over
    /// the field's own name, which wins over an alias. No error contains a value. The member `/` stands for the
    /// captured value of `string`.
    pub fn fuzz_fields(data: &[u8]) {
        let Ok(Value::Object(mut data)) = serde_json::from_slice(data) else { return };
        let captures = match data.remove("/") {
            Some(Value::String(text)) => vec![("string", Some(text))],
            Some(Value::Null) => vec![("string", None)],
            _ => Vec::new(),
        };
        let with_marks = data.iter().map(|(name, value)| (name.clone(), marked(value))).collect();
        let parse = |data| Fields::parse(Operation::Update, SPECS, &captures, data);
        let error = parse(&with_marks).err().map(|error| error.to_string());
        assert!(error.is_none_or(|text| text.starts_with("Field validation failed: ") && !text.contains(MARK)));

        let Ok(fields) = parse(&data) else { return };
        let is_of = |spec: &FieldSpec, name: &String| spec.name == name || spec.aliases.contains(&name.as_str());
        let unknown = data.keys().filter(|name| !SPECS.iter().any(|spec| is_of(spec, name)));
        assert!(fields.unknown.is_sorted() && fields.replaced.is_sorted());
        assert_eq!(fields.unknown.iter().collect::<BTreeSet<_>>(), unknown.collect());
        for spec in SPECS {
            let captured =
                captures.iter().find(|(name, _)| *name == spec.name).map(|(_, text)| Value::from(text.clone()));
            let alias = || data.iter().find(|(name, _)| is_of(spec, name)).map(|(_, value)| value);
            let chosen = captured.as_ref().or_else(|| data.get(spec.name)).or_else(alias);
            let expected = chosen.map(|value| coerce(spec.kind, value).ok().filter(|_| !value.is_null()));
            assert!(fields.given.get(spec.name) == expected.as_ref(), "{}", spec.name);
            let known = fields.given.get(spec.name).cloned().flatten();
            let differs = |value: &Value| known.is_none() || coerce(spec.kind, value).ok() != known;
            let is_replaced =
                captured.is_some() && data.iter().any(|(name, value)| is_of(spec, name) && differs(value));
            assert_eq!(fields.replaced.iter().any(|name| is_of(spec, name)), is_replaced, "{}", spec.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const ROLE: Field<String> = Field::string("role_name", "").aliases(&["role", "name"]);
    const TTL: Field<Duration> = Field::duration("ttl", "").default("1h");
    const COUNT: Field<i64> = Field::int("count", "");
    const SPECS: &[FieldSpec] = &[ROLE.spec(), TTL.spec(), COUNT.spec()];

    fn parse(captures: &[(&'static str, Option<String>)], data: Value) -> Fields {
        Fields::parse(Operation::Update, SPECS, captures, data.as_object().unwrap())
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn an_alias_gives_way_to_the_name() {
        for data in [json!({ "role": "b", "role_name": "a" }), json!({ "name": "b", "role_name": "a", "role": "c" })] {
            assert_eq!(parse(&[], data).get(&ROLE).as_deref(), Some("a"));
        }
        assert_eq!(parse(&[], json!({ "role": "b" })).get(&ROLE).as_deref(), Some("b"));
    }

    #[test]
    fn what_the_path_captured_wins() {
        let fields = parse(&[("role_name", Some("path".into()))], json!({ "role": "body", "count": 1 }));
        assert_eq!(fields.get(&ROLE).as_deref(), Some("path"));
        assert_eq!(fields.replaced, ["role"]);
        assert!(fields.unknown.is_empty());
        // The same value is not replaced.
        let fields = parse(&[("role_name", Some("path".into()))], json!({ "role_name": "path", "role": "path" }));
        assert_eq!((fields.get(&ROLE).as_deref(), fields.replaced.len()), (Some("path"), 0));
    }

    #[test]
    fn a_text_can_be_put_into_a_request() {
        let fields = parse(&[], json!({ "count": 1 })).with_text(&ROLE, "path");
        assert_eq!((fields.get(&ROLE).as_deref(), fields.get(&COUNT)), (Some("path"), Some(1)));
        assert!(fields.is_given(&ROLE) && fields.unknown.is_empty());
    }

    #[test]
    fn a_value_can_be_left_out_of_a_request() {
        let fields = parse(&[], json!({ "role_name": "a", "count": 1 })).without(&COUNT);
        assert_eq!((fields.change(&COUNT), fields.change(&ROLE)), (Change::Keep, Change::Set("a".to_owned())));
    }

    #[test]
    fn null_is_the_zero_value_but_for_durations() {
        let fields = parse(&[], json!({ "role_name": null, "ttl": null, "count": null }));
        assert_eq!(fields.get(&ROLE).as_deref(), Some(""));
        assert_eq!(fields.get(&TTL), Some(Duration::from_secs(3600)));
        assert_eq!(fields.get(&COUNT), Some(0));
        assert_eq!(fields.change(&COUNT), Change::Reset);
        assert!(!fields.is_given(&COUNT));
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let fields = parse(&[], json!({}));
        assert_eq!(fields.get(&TTL), Some(Duration::from_secs(3600)));
        assert_eq!(fields.get(&COUNT), None);
        assert_eq!(fields.change(&TTL), Change::Keep);
    }

    #[test]
    fn a_change_is_applied_to_what_is_stored() {
        for (change, expected) in [(Change::Keep, 1), (Change::Reset, 2), (Change::Set(3), 3)] {
            let mut stored = 1;
            change.apply(&mut stored, || 2);
            assert_eq!(stored, expected);
        }
    }
}
