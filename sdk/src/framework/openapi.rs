//! OpenAPI documents, derived from the declarations.
//!
//! The host fails if a member has the wrong type, and it drops `$ref`, so schemas are inline. OpenBao
//! `sdk/framework/openapi.go` shows how the host reads a document.

use serde_json::{Map, Value, json};

use super::coerce::coerce;
use super::declaration::Backend;
use super::field::{FieldKind, FieldSpec, FieldValue};
use super::path::{Handler, Path};
use super::pattern;
use crate::logical::Operation;
use crate::plugin::Plugin;

/// Returns the document of these paths. Each operation id starts with `prefix`, which is empty or the type of the
/// mount.
pub(super) fn document<E>(backend: &Backend<E>, plugin: &Plugin, paths: &[Path<E>], prefix: &str) -> Value {
    let mut items = Map::new();
    for path in paths {
        // The trailing slash only matters for lists, and `add_path` always adds the slash there.
        let mut names = pattern::expand(path.pattern);
        names.iter_mut().for_each(|name| name.truncate(name.trim_end_matches('/').len()));
        names.dedup();
        for name in names {
            add_path(&mut items, backend, path, &name, prefix);
        }
    }
    let mut info = json!({
        "title": backend.help.trim().lines().next().unwrap_or_default(),
        "description": backend.help.trim(),
        "version": plugin.version,
    });
    if let Some(license) = plugin.license {
        info["license"] = json!({ "name": license.name, "url": license.url });
    }
    json!({
        "openapi": "3.0.2",
        "info": info,
        "paths": items,
        "components": { "schemas": {} },
    })
}

/// Adds the entries of one path. A list needs a separate entry, because it is also a `get` and its path ends in `/`.
fn add_path<E>(items: &mut Map<String, Value>, backend: &Backend<E>, path: &Path<E>, name: &str, prefix: &str) {
    let mut others = Map::new();
    for (operation, handler) in &path.operations {
        let document = || operation_document(path, *operation, handler, name, prefix);
        match operation {
            Operation::Read => _ = others.insert("get".into(), document()),
            Operation::Create | Operation::Update => _ = others.insert("post".into(), document()),
            Operation::Patch => _ = others.insert("patch".into(), document()),
            Operation::Delete => _ = others.insert("delete".into(), document()),
            Operation::List => {
                let item = path_item(backend, path, &format!("{name}/"), Map::from_iter([("get".into(), document())]));
                items.insert(format!("/{name}/"), item);
            }
            _ => {}
        }
    }
    if !others.is_empty() {
        if path.exists.is_some() && path.operations.contains_key(&Operation::Create) {
            others.insert("x-vault-createSupported".into(), true.into());
        }
        items.insert(format!("/{name}"), path_item(backend, path, name, others));
    }
}

fn path_item<E>(backend: &Backend<E>, path: &Path<E>, name: &str, mut item: Map<String, Value>) -> Value {
    item.insert("description".into(), path.synopsis.into());
    let captured = path.fields.iter().filter(|field| path.is_captured(field) && is_part_of(field, name));
    let parameters: Vec<Value> = captured.map(|field| parameter(field, "path", true)).collect();
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    for (key, special) in
        [("x-vault-sudo", &backend.special.root), ("x-vault-unauthenticated", &backend.special.unauthenticated)]
    {
        if special.iter().any(|special| is_special(name, special)) {
            item.insert(key.into(), true.into());
        }
    }
    item.into()
}

fn operation_document<E>(
    path: &Path<E>,
    operation: Operation,
    handler: &Handler<E>,
    name: &str,
    prefix: &str,
) -> Value {
    let mut document = Map::new();
    document.insert("summary".into(), handler.summary.into());
    document.insert("description".into(), path.description.trim().into());
    document.insert("operationId".into(), operation_id(prefix, operation, name).into());
    document.insert("tags".into(), json!(["secrets"]));
    document.insert("responses".into(), responses(path, operation, handler));
    let fields = path.fields.iter().filter(|field| !path.is_captured(field) && field.is_taken_by(operation));
    if matches!(operation, Operation::Create | Operation::Update | Operation::Patch) {
        let schema = body(fields, operation);
        // The host accepts no other media type for a patch.
        let media = if operation == Operation::Patch { "application/merge-patch+json" } else { "application/json" };
        let content = json!({ media: { "schema": schema } });
        document.insert("requestBody".into(), json!({ "required": true, "content": content }));
        return document.into();
    }
    // A secret must not be in a URL.
    let in_url = fields.filter(|field| !field.sensitive);
    let mut query: Vec<Value> =
        in_url.map(|field| parameter(field, "query", field.is_required_by(operation))).collect();
    if operation == Operation::List {
        query.push(json!({
            "name": "list",
            "description": "Must be set to `true`.",
            "in": "query",
            "required": true,
            "schema": { "type": "string", "enum": ["true"] },
        }));
    }
    if !query.is_empty() {
        document.insert("parameters".into(), query.into());
    }
    document.into()
}

fn parameter(field: &FieldSpec, place: &str, required: bool) -> Value {
    let mut schema = schema(field);
    schema.remove("description");
    json!({
        "name": field.name,
        "description": description(field),
        "in": place,
        "required": required,
        "schema": schema,
    })
}

/// Returns the description without the facts that the schema already contains.
fn description(field: &FieldSpec) -> String {
    field.description.trim().to_owned() + &field.aliases_sentence()
}

fn body<'a>(fields: impl Iterator<Item = &'a FieldSpec>, operation: Operation) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        properties.insert(field.name.into(), schema(field).into());
        if field.is_required_by(operation) {
            required.push(field.name);
        }
    }
    let mut body = Map::from_iter([("type".into(), "object".into()), ("properties".into(), properties.into())]);
    if !required.is_empty() {
        required.sort_unstable();
        body.insert("required".into(), json!(required));
    }
    body.into()
}

fn schema(field: &FieldSpec) -> Map<String, Value> {
    let (base, format) = type_of(field.kind);
    let mut schema = Map::new();
    schema.insert("type".into(), base.into());
    schema.insert("description".into(), description(field).into());
    if let Some(format) = format {
        schema.insert("format".into(), format.into());
    }
    let allowed: Vec<Value> = field.allowed.iter().filter_map(|text| typed(field.kind, text)).collect();
    let items = match field.kind {
        FieldKind::Strings | FieldKind::CommaStrings => Some("string"),
        FieldKind::CommaInts => Some("integer"),
        FieldKind::List => Some("object"),
        _ => None,
    };
    if let Some(items) = items {
        schema.insert("items".into(), json!({ "type": items }));
    } else if !allowed.is_empty() {
        schema.insert("enum".into(), allowed.into());
    }
    if field.kind == FieldKind::NameString {
        schema.insert("pattern".into(), r"^\w(([\w\-.]+)?\w)?$".into());
    }
    if let Some(default) = field.default.and_then(|text| typed(field.kind, text)) {
        schema.insert("default".into(), default);
    }
    if field.sensitive {
        schema.insert("x-vault-displayAttrs".into(), json!({ "sensitive": true }));
    }
    schema
}

/// Returns the type and format, as in Go engines.
fn type_of(kind: FieldKind) -> (&'static str, Option<&'static str>) {
    match kind {
        FieldKind::String | FieldKind::NameString | FieldKind::Header => ("string", None),
        FieldKind::LowercaseString => ("string", Some("lowercase")),
        FieldKind::Int => ("integer", Some("int64")),
        FieldKind::Float => ("number", Some("float")),
        FieldKind::Bool => ("boolean", None),
        FieldKind::Duration => ("integer", Some("seconds")),
        FieldKind::Time => ("string", Some("date-time")),
        FieldKind::Map => ("object", Some("map")),
        FieldKind::Pairs => ("object", Some("kvpairs")),
        FieldKind::Strings | FieldKind::CommaStrings | FieldKind::CommaInts | FieldKind::List => ("array", None),
    }
}

/// Returns a declared value as JSON of the field's type.
fn typed(kind: FieldKind, text: &str) -> Option<Value> {
    Some(match coerce(kind, &text.into()).ok()? {
        FieldValue::String(text) => text.into(),
        FieldValue::Int(int) => int.into(),
        FieldValue::Float(float) => float.into(),
        FieldValue::Bool(bool) => bool.into(),
        FieldValue::Duration(duration) => duration.as_secs().into(),
        FieldValue::Time(time) => time.to_string().into(),
        FieldValue::Map(map) => map.into(),
        FieldValue::Pairs(pairs) => json!(pairs),
        FieldValue::Strings(strings) => strings.into(),
        FieldValue::Ints(ints) => ints.into(),
        FieldValue::List(list) => list.into(),
        // OpenAPI shows headers as text.
        FieldValue::Header(_) => text.into(),
    })
}

fn responses<E>(path: &Path<E>, operation: Operation, handler: &Handler<E>) -> Value {
    let mut properties = Map::new();
    if operation == Operation::List {
        properties.insert("keys".into(), json!({ "type": "array", "items": { "type": "string" } }));
    }
    let shown = path.fields.iter().filter(|_| handler.shows_fields).filter_map(|spec| Some((spec.name, spec.shown?)));
    for (name, description) in handler.returns.iter().copied().chain(shown) {
        let property = properties.entry(name).or_insert_with(|| json!({}));
        property["description"] = description.into();
    }
    if !properties.is_empty() {
        let schema = json!({ "type": "object", "properties": properties });
        return json!({ "200": { "description": "OK", "content": { "application/json": { "schema": schema } } } });
    }
    match operation {
        Operation::Delete => json!({ "204": { "description": "empty body" } }),
        _ => json!({ "200": { "description": "OK" } }),
    }
}

/// Returns prefix, verb and path in lower case, joined by hyphens.
fn operation_id(prefix: &str, operation: Operation, name: &str) -> String {
    let verb = match operation {
        Operation::Create | Operation::Update => "write",
        other => other.as_str(),
    };
    let text = format!("{prefix}-{verb}-{name}").to_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn is_part_of(field: &FieldSpec, name: &str) -> bool {
    name.contains(&format!("{{{}}}", field.name))
}

/// Whether a special path covers this path: exactly, as a prefix before `*`, or with `+` for any one segment.
fn is_special(name: &str, special: &str) -> bool {
    let (special, prefix) = special.strip_suffix('*').map_or((special, false), |special| (special, true));
    let (mut names, mut specials) = (name.split('/'), special.split('/').peekable());
    while let Some(special) = specials.next() {
        let Some(name) = names.next() else { return false };
        let last = prefix && specials.peek().is_none();
        if special != "+" && special != name && !(last && name.starts_with(special)) {
            return false;
        }
        if last {
            return true;
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::sample;

    fn whole() -> Value {
        let backend = sample::backend();
        let plugin = Plugin::new("books", "1.2.3").license("MIT", "https://mit.example");
        document(&backend, &plugin, &backend.paths, "shelf")
    }

    #[test]
    fn the_document_is_derived_from_the_declarations() {
        // insta's JSON snapshots do not support numbers of arbitrary precision.
        insta::assert_snapshot!(serde_json::to_string_pretty(&whole()).unwrap());
    }

    #[test]
    fn a_plugin_without_a_licence_claims_none() {
        let backend = sample::backend();
        let document = document(&backend, &Plugin::new("books", "1.2.3"), &backend.paths, "");
        assert_eq!(document["info"].get("license"), None);
    }

    #[test]
    fn a_secret_is_in_no_query() {
        let parameters = &whole()["paths"]["/books/{name}"]["get"]["parameters"];
        let names: Vec<_> = parameters.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["pages"]);
    }

    /// If a member has the wrong type, the host fails for all mounts.
    #[test]
    fn members_have_the_types_that_the_host_reads() {
        let document = whole();
        for (name, item) in document["paths"].as_object().unwrap() {
            assert!(name.starts_with('/'));
            for (member, value) in item.as_object().unwrap() {
                match member.as_str() {
                    "description" => assert!(value.is_string()),
                    "parameters" => value.as_array().unwrap().iter().for_each(check_parameter),
                    "get" | "post" | "patch" | "delete" => check_operation(value),
                    "x-vault-sudo" | "x-vault-unauthenticated" | "x-vault-createSupported" => {
                        assert!(value.is_boolean());
                    }
                    other => panic!("{other} is no member of a path"),
                }
            }
        }
    }

    fn check_operation(operation: &Value) {
        for (member, value) in operation.as_object().unwrap() {
            match member.as_str() {
                "summary" | "description" | "operationId" => assert!(value.is_string()),
                "tags" => assert_eq!(*value, json!(["secrets"])),
                "parameters" => value.as_array().unwrap().iter().for_each(check_parameter),
                "requestBody" => {
                    assert!(value["required"].is_boolean());
                    value["content"].as_object().unwrap().values().for_each(|media| check_schema(&media["schema"]));
                }
                "responses" => {
                    for (status, response) in value.as_object().unwrap() {
                        assert!((100..600).contains(&status.parse::<u16>().unwrap()));
                        assert!(response["description"].is_string());
                    }
                }
                other => panic!("{other} is no member of an operation"),
            }
        }
    }

    fn check_parameter(parameter: &Value) {
        for member in ["name", "description", "in"] {
            assert!(parameter[member].is_string());
        }
        assert!(parameter["required"].is_boolean());
        check_schema(&parameter["schema"]);
    }

    fn check_schema(schema: &Value) {
        for (member, value) in schema.as_object().unwrap() {
            match member.as_str() {
                "type" | "description" | "format" | "pattern" => assert!(value.is_string()),
                "properties" => value.as_object().unwrap().values().for_each(check_schema),
                "items" => check_schema(value),
                "required" => assert!(value.as_array().unwrap().iter().all(Value::is_string)),
                "enum" => assert!(value.is_array()),
                "default" => {}
                "x-vault-displayAttrs" => assert_eq!(*value, json!({ "sensitive": true })),
                other => panic!("{other} is no member of a schema"),
            }
        }
    }

    #[test]
    fn defaults_have_the_type_of_their_field() {
        let cases = [
            (FieldKind::String, "a", json!("a")),
            (FieldKind::Int, "0x10", json!(16)),
            (FieldKind::Float, "1.5", json!(1.5)),
            (FieldKind::Bool, "true", json!(true)),
            (FieldKind::Duration, "1h", json!(3600)),
            (FieldKind::Time, "0", json!("1970-01-01T00:00:00Z")),
            (FieldKind::Pairs, "a=b", json!({ "a": "b" })),
            (FieldKind::CommaStrings, "a,b", json!(["a", "b"])),
            (FieldKind::CommaInts, "1,2", json!([1, 2])),
            (FieldKind::List, "a", json!(["a"])),
            (FieldKind::Header, r#"{"a":"b"}"#, json!(r#"{"a":"b"}"#)),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(typed(kind, text), Some(expected), "{kind:?}");
        }
    }

    #[test]
    fn special_paths_are_found_by_prefix_and_segment() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a/b/c", "a/*", true),
            ("a/bc", "a/b*", true),
            ("a", "a/*", false),
            ("a/{x}/c", "a/+/c", true),
            ("a/{x}/d", "a/+/c", false),
            ("a/{x}/c/d", "a/+/c*", true),
            ("a", "*", true),
        ];
        for (name, special, expected) in cases {
            assert_eq!(is_special(name, special), expected, "{name} {special}");
        }
    }
}
