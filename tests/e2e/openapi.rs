//! The server's OpenAPI document, from which users generate clients.
//!
//! The server's own parts are ignored: its components violate the specification, and two mounts of one plugin have the
//! same operation ids.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::world::World;

/// The schema of OpenAPI 3.0 documents, published by the OpenAPI Initiative under the Apache License 2.0:
/// spec.openapis.org/oas/3.0/schema/2021-09-28
const SCHEMA: &str = include_str!("../fixtures/openapi/schema-3.0.json");

/// Returns the server's document with the paths of one mount.
pub(crate) fn document(world: &World) -> Value {
    let mut document = world.server.get("sys/internal/specs/openapi").ok();
    let prefix = format!("/{}/", world.mount);
    let paths = document["paths"].as_object_mut().expect("paths");
    paths.retain(|path, _| path.starts_with(&prefix));
    document["components"] = json!({});
    document
}

/// Returns the methods of all paths. Each path is without its mount.
pub(crate) fn operations(document: &Value) -> Vec<(String, &str, &Value)> {
    const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];
    let paths = document["paths"].as_object().expect("paths").iter();
    paths
        .flat_map(|(path, item)| {
            let path = path.splitn(3, '/').nth(2).expect("a path in the mount").trim_end_matches('/');
            METHODS.iter().filter_map(move |method| Some((path.to_owned(), *method, item.get(method)?)))
        })
        .collect()
}

/// Returns the fields of an operation: name, declaration and schema.
pub(crate) fn fields(operation: &Value) -> Vec<(&str, &Value, &Value)> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let parameters = parameters.map(|field| (field["name"].as_str().expect("a name"), field, &field["schema"]));
    let media = operation["requestBody"]["content"].as_object().into_iter().flat_map(Map::values);
    let properties = media.flat_map(|media| media["schema"]["properties"].as_object().into_iter().flatten());
    parameters.chain(properties.map(|(name, schema)| (name.as_str(), schema, schema))).collect()
}

#[test]
fn the_document_is_valid_and_its_operation_ids_are_unique() {
    let world = World::new();
    let document = document(&world);
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let validator = jsonschema::draft4::new(&schema).expect("a schema");
    let errors: Vec<String> =
        validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    // Checks that the validator refuses a broken document.
    let mut broken = document.clone();
    broken["paths"][format!("/{}/config", world.mount)]["get"]["responses"]["200"].take();
    assert!(!validator.is_valid(&broken));

    let operations = operations(&document);
    let ids: BTreeSet<&str> =
        operations.iter().filter_map(|(.., operation)| operation["operationId"].as_str()).collect();
    assert_eq!(ids.len(), operations.len());
}

#[test]
fn every_field_has_a_description_and_a_valid_default() {
    let world = World::new();
    let document = document(&world);
    let operations = operations(&document);
    let paths: BTreeSet<&String> = operations.iter().map(|(path, ..)| path).collect();
    assert!(paths.len() >= 6, "{paths:?}");
    for path in paths {
        let mut named = path_parameters(path);
        for (_, method, operation) in operations.iter().filter(|(of, ..)| of == path) {
            let place = format!("{method} {path}");
            for text in ["summary", "description"] {
                assert!(operation[text].as_str().is_some_and(|text| text.len() > 10), "{place} has no {text}");
            }
            for (name, field, schema) in fields(operation) {
                assert!(field["description"].as_str().is_some_and(|text| text.len() > 10), "{place}: {name}");
                assert!(
                    schema.get("default").is_none_or(|value| jsonschema::is_valid(schema, value)),
                    "{place}: {name}"
                );
                named.insert(name.to_owned());
            }
            for answer in operation["responses"].as_object().expect("answers").values() {
                let members = answer["content"]["application/json"]["schema"]["properties"].as_object();
                let undescribed = members.into_iter().flatten().find(|(_, member)| member["description"].is_null());
                assert!(undescribed.is_none(), "{place}: {undescribed:?}");
            }
        }
        // The host adds this parameter to lists.
        named.remove("list");
        assert_eq!(named, fields_in_help(&world, path), "{path}");
    }
}

/// Returns the parameters in a path.
fn path_parameters(path: &str) -> BTreeSet<String> {
    let parts = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    parts.map(str::to_owned).collect()
}

/// Returns the fields that the help of a path contains.
fn fields_in_help(world: &World, path: &str) -> BTreeSet<String> {
    let example = path.replace(['{', '}'], "");
    let help = world.get(&format!("{example}?help=1")).ok();
    let text = help["help"].as_str().or_else(|| help["data"]["help"].as_str()).expect("help");
    let lines = text.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(" ("));
    lines
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .map(str::to_owned)
        .collect()
}
