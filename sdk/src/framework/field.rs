//! The declaration of a field: name, type, default and the text that users read in `path-help`.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::logical::{Map, Operation};

/// The rules by which a field's values are read. They are the rules of Go engines (OpenBao
/// `sdk/framework/field_data.go` and `sdk/helper/parseutil`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FieldKind {
    /// Text.
    String,
    /// Text that is lower-cased.
    LowercaseString,
    /// Text of letters, digits and `_`. `-` and `.` are allowed, but not at the start or the end.
    NameString,
    /// Whole number.
    Int,
    /// Number.
    Float,
    /// Truth value.
    Bool,
    /// Length of time, not negative: seconds, `"1h30m"` or `"2d"`.
    Duration,
    /// Point in time: RFC 3339 or seconds since 1970.
    Time,
    /// Object.
    Map,
    /// key=value pairs.
    Pairs,
    /// List of text.
    Strings,
    /// List of text, also as one text with commas.
    CommaStrings,
    /// List of whole numbers, also as one text with commas.
    CommaInts,
    /// List of any JSON values.
    List,
    /// Headers: names with one or more values.
    Header,
}

/// A value that was read by the rules of a [`FieldKind`]. No `Debug`: it may be a secret.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum FieldValue {
    /// From `String`, `LowercaseString` or `NameString`.
    String(String),
    /// From `Int`.
    Int(i64),
    /// From `Float`.
    Float(f64),
    /// From `Bool`.
    Bool(bool),
    /// From `Duration`, in whole seconds.
    Duration(Duration),
    /// From `Time`.
    Time(Timestamp),
    /// From `Map`.
    Map(Map),
    /// From `Pairs`.
    Pairs(BTreeMap<String, String>),
    /// From `Strings` and `CommaStrings`.
    Strings(Vec<String>),
    /// From `CommaInts`.
    Ints(Vec<i64>),
    /// From `List`.
    List(Vec<Value>),
    /// From `Header`.
    Header(BTreeMap<String, Vec<String>>),
}

/// A Rust type of field values.
pub trait FieldType: Sized {
    /// Returns the value, or `None` if it is of another kind.
    fn from_value(value: FieldValue) -> Option<Self>;

    /// Returns the value that a JSON `null` stands for. `None` means that `null` counts as not given.
    fn zero() -> Option<Self>;

    /// Applies the value of a patch to a stored value. `removed` are the keys of pairs that the patch removes. Most types
    /// are replaced.
    fn merge(&mut self, patch: Self, removed: &[String]) {
        let _ = removed;
        *self = patch;
    }
}

/// The declaration of a field, without its Rust type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FieldSpec {
    /// Name in requests.
    pub name: &'static str,
    /// Other accepted names.
    pub aliases: &'static [&'static str],
    /// How values are read.
    pub kind: FieldKind,
    /// Description for the user, in full sentences.
    pub description: &'static str,
    /// Default value, in the form that a user would write.
    pub default: Option<&'static str>,
    /// Whether help and OpenAPI show the field as required. Handlers still check, as in Go engines.
    pub required: bool,
    /// Operations for which OpenAPI shows the field as required, if other operations of the path do not require it.
    pub required_by: &'static [Operation],
    /// Whether OpenAPI shows the field as a secret.
    pub sensitive: bool,
    /// Allowed values, shown in OpenAPI. Handlers still check.
    pub allowed: &'static [&'static str],
    /// Operations that take the field; `None` means all operations of the path.
    pub operations: Option<&'static [Operation]>,
    /// Description of the member with the same name in responses, if responses have this member.
    pub shown: Option<&'static str>,
}

/// The operations that write: create, update and patch, for [`Field::only`]. A path need not have all of them.
pub const WRITES: &[Operation] = &[Operation::Create, Operation::Update, Operation::Patch];

impl FieldSpec {
    /// Whether an operation takes the field.
    #[cfg(feature = "openapi")]
    pub(super) fn is_taken_by(&self, operation: Operation) -> bool {
        self.operations.is_none_or(|operations| operations.contains(&operation))
    }

    /// Returns true if OpenAPI shows the field as required by an operation. A patch changes some fields only, so its
    /// required fields must be declared.
    #[cfg(feature = "openapi")]
    pub(super) fn is_required_by(&self, operation: Operation) -> bool {
        self.required && operation != Operation::Patch || self.required_by.contains(&operation)
    }

    /// Returns a sentence that lists the aliases, with a space before the sentence. Returns an empty text without
    /// aliases.
    pub(super) fn aliases_sentence(&self) -> String {
        match self.aliases {
            [] => String::new(),
            aliases => format!(" Also accepted as: {}.", aliases.join(", ")),
        }
    }
}

/// A field of a path, declared as a constant:
///
/// ```
/// use vault_plugin_sdk::framework::Field;
///
/// const TTL: Field<std::time::Duration> = Field::duration("ttl", "How long the lease lasts.").default("1h");
/// ```
pub struct Field<T> {
    spec: FieldSpec,
    kind: PhantomData<fn() -> T>,
}

impl<T> Field<T> {
    const fn new(name: &'static str, kind: FieldKind, description: &'static str) -> Self {
        let spec = FieldSpec {
            name,
            aliases: &[],
            kind,
            description,
            default: None,
            required: false,
            required_by: &[],
            sensitive: false,
            allowed: &[],
            operations: None,
            shown: None,
        };
        Self { spec, kind: PhantomData }
    }

    /// Returns the declaration without its Rust type.
    pub const fn spec(&self) -> FieldSpec {
        self.spec
    }

    /// Returns the name in requests.
    pub const fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Sets the default value, in the form that a user would write. [`Fields::get`](super::Fields::get) returns it for a
    /// field that the request does not have; [`Fields::apply`](super::Fields::apply) stores it for `null` and for a
    /// [new object](super::Fields::for_new_object).
    #[must_use]
    pub const fn default(mut self, default: &'static str) -> Self {
        self.spec.default = Some(default);
        self
    }

    /// Sets other accepted names.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.spec.aliases = aliases;
        self
    }

    /// Marks the field as required in help and OpenAPI. The handler still checks, as in Go engines.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.spec.required = true;
        self
    }

    /// Marks the field as required in OpenAPI for some operations. The handler still checks, as in Go engines.
    #[must_use]
    pub const fn required_by(mut self, operations: &'static [Operation]) -> Self {
        self.spec.required_by = operations;
        self
    }

    /// Marks the field as a secret in OpenAPI. An answer has only the members that the handler gives it.
    #[must_use]
    pub const fn sensitive(mut self) -> Self {
        self.spec.sensitive = true;
        self
    }

    /// Names the operations that take the field. Without this, all operations of the path take it.
    #[must_use]
    pub const fn only(mut self, operations: &'static [Operation]) -> Self {
        self.spec.operations = Some(operations);
        self
    }

    /// Describes the member with the same name in responses. See
    /// [`Handler::shows_fields`](super::Handler::shows_fields).
    #[must_use]
    pub const fn shown(mut self, description: &'static str) -> Self {
        self.spec.shown = Some(description);
        self
    }

    /// Sets the allowed values that OpenAPI shows. The handler still checks, as in Go engines.
    #[must_use]
    pub const fn allowed(mut self, allowed: &'static [&'static str]) -> Self {
        self.spec.allowed = allowed;
        self
    }
}

impl Field<String> {
    /// Declares text.
    pub const fn string(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldKind::String, description)
    }

    /// Declares text that is lower-cased.
    pub const fn lowercase(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldKind::LowercaseString, description)
    }

    /// Declares text of letters, digits and `_`, with `-` and `.` inside.
    pub const fn name_string(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldKind::NameString, description)
    }
}

/// Declares the constructor and the conversions for a Rust type with only one kind of field.
macro_rules! field_type {
    ($type:ty, $variant:ident, $zero:expr, $($constructor:ident = $kind:ident: $doc:literal),* $(; $merge:item)?) => {
        impl FieldType for $type {
            fn from_value(value: FieldValue) -> Option<Self> {
                match value {
                    FieldValue::$variant(value) => Some(value),
                    _ => None,
                }
            }

            fn zero() -> Option<Self> {
                $zero
            }

            $($merge)?
        }

        $(impl Field<$type> {
            #[doc = $doc]
            pub const fn $constructor(name: &'static str, description: &'static str) -> Self {
                Self::new(name, FieldKind::$kind, description)
            }
        })*
    };
}

field_type!(String, String, Some(String::new()),);
field_type!(i64, Int, Some(0), int = Int: "Declares a whole number.");
field_type!(f64, Float, Some(0.0), float = Float: "Declares a number.");
field_type!(bool, Bool, Some(false), bool = Bool: "Declares a truth value.");
field_type!(Duration, Duration, None, duration = Duration: "Declares a length of time in whole seconds.");
field_type!(Timestamp, Time, None, time = Time: "Declares a point in time.");
field_type!(
    Map, Map, Some(Map::new()), map = Map: "Declares an object.";
    fn merge(&mut self, patch: Self, _: &[String]) {
        merge_members(self, patch);
    }
);
field_type!(
    BTreeMap<String, String>, Pairs, Some(BTreeMap::new()), pairs = Pairs: "Declares key=value pairs.";
    fn merge(&mut self, patch: Self, removed: &[String]) {
        self.retain(|key, _| !removed.contains(key));
        self.extend(patch);
    }
);
field_type!(
    Vec<String>, Strings, Some(Vec::new()),
    strings = Strings: "Declares a list of text.",
    comma_strings = CommaStrings: "Declares a list of text that may be separated by commas."
);
field_type!(Vec<i64>, Ints, Some(Vec::new()), comma_ints = CommaInts: "Declares a list of whole numbers.");
field_type!(Vec<Value>, List, Some(Vec::new()), list = List: "Declares a list of anything.");
field_type!(BTreeMap<String, Vec<String>>, Header, Some(BTreeMap::new()), header = Header: "Declares headers.");

/// Merges objects as RFC 7396 says: `null` removes a member, objects are merged, any other value replaces.
fn merge_members(stored: &mut Map, patch: Map) {
    for (name, value) in patch {
        match value {
            Value::Null => _ = stored.remove(&name),
            Value::Object(members) => {
                let member = stored.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                if let Value::Object(stored) = member {
                    merge_members(stored, members);
                }
            }
            value => _ = stored.insert(name, value),
        }
    }
}
