//! Help texts, in the shape that Go engines give them (OpenBao `sdk/framework/path.go`, `backend.go`).

use std::fmt::Write as _;
use std::slice;

use serde_json::Value;

use super::declaration::Backend;
use super::field::{FieldKind, FieldSpec};
#[cfg(feature = "openapi")]
use super::openapi;
use super::path::Path;
use crate::logical::{Answer, Error, Map, Request, Response};
use crate::plugin::Plugin;

/// Answers `help` on the root of the mount and on a path.
///
/// The host cannot handle a help reply without a response. It also builds its document from the roots of all mounts. So
/// help never fails on a path that exists.
pub(super) fn answer<E>(backend: &Backend<E>, plugin: &Plugin, request: &Request) -> Answer {
    let (help, paths) = if request.path.is_empty() {
        (root(backend), &*backend.paths)
    } else {
        let path = backend.paths.iter().find(|path| path.matches(&request.path).is_some());
        let path = path.ok_or(Error::UnsupportedPath)?;
        (of_path(path, &request.path), slice::from_ref(path))
    };
    let mut data = Map::from_iter([("help".into(), help.into()), ("see_also".into(), Value::Null)]);
    add_openapi(&mut data, backend, plugin, paths, request);
    Ok(Some(Response::new(data)))
}

#[cfg(feature = "openapi")]
fn add_openapi<E>(data: &mut Map, backend: &Backend<E>, plugin: &Plugin, paths: &[Path<E>], request: &Request) {
    let prefix = request.data.get("requestResponsePrefix").and_then(Value::as_str).unwrap_or_default();
    data.insert("openapi".into(), openapi::document(backend, plugin, paths, prefix));
}

/// Does nothing. The host then omits the mount from its document (OpenBao `vault/logical_system.go`,
/// `pathInternalOpenAPI`).
#[cfg(not(feature = "openapi"))]
fn add_openapi<E>(_: &mut Map, _: &Backend<E>, _: &Plugin, _: &[Path<E>], _: &Request) {}

fn root<E>(backend: &Backend<E>) -> String {
    let mut paths: Vec<_> = backend.paths.iter().map(|path| (path.pattern, path.synopsis)).collect();
    paths.sort_unstable();
    let mut text = format!("## DESCRIPTION\n\n{}\n\n## PATHS\n\n{ABOUT_PATHS}\n", backend.help.trim());
    for (pattern, synopsis) in paths {
        section(&mut text, &format!("^{pattern}$"), synopsis);
    }
    text
}

fn of_path<E>(path: &Path<E>, request: &str) -> String {
    let mut text = format!("Request:        {request}\nMatching Route: ^{}$\n\n", path.pattern);
    if !path.synopsis.is_empty() {
        let _ = write!(text, "{}\n\n", path.synopsis.trim());
    }
    let mut fields: Vec<_> = path.fields.iter().collect();
    fields.sort_unstable_by_key(|field| field.name);
    if !fields.is_empty() {
        text.push_str("## PARAMETERS\n");
        for field in fields {
            section(&mut text, &format!("{} ({})", field.name, type_word(field.kind)), &description(field));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "## DESCRIPTION\n\n{}", path.description.trim());
    text
}

/// Returns a field's description, with its aliases, default and other facts for the user.
fn description(field: &FieldSpec) -> String {
    let mut text = field.description.trim().to_owned();
    if field.required {
        text.push_str(" Required.");
    }
    if !field.allowed.is_empty() {
        let _ = write!(text, " One of: {}.", field.allowed.join(", "));
    }
    if let Some(default) = field.default.filter(|default| !default.is_empty()) {
        let _ = write!(text, " Default: {default}.");
    }
    text.push_str(&field.aliases_sentence());
    text
}

/// Adds a title, indented by 4, and its text, indented by 8.
fn section(text: &mut String, title: &str, about: &str) {
    let _ = writeln!(text, "\n    {title}");
    for line in about.trim().lines() {
        let indent = if line.is_empty() { "" } else { "        " };
        let _ = writeln!(text, "{indent}{line}");
    }
}

fn type_word(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::String => "string",
        FieldKind::LowercaseString => "lowercase string",
        FieldKind::NameString => "name string",
        FieldKind::Int => "int",
        FieldKind::Float => "float",
        FieldKind::Bool => "bool",
        FieldKind::Duration => "duration (sec)",
        FieldKind::Time => "time",
        FieldKind::Map => "map",
        FieldKind::Pairs => "keypair",
        FieldKind::Strings | FieldKind::CommaStrings | FieldKind::CommaInts | FieldKind::List => "slice",
        FieldKind::Header => "header",
    }
}

const ABOUT_PATHS: &str = "\
Each path below is a regular expression. Ask for help on any path that
matches one of them to see its parameters. Which of the paths you may
use is up to the policies of your token.";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::sample::{Mounted, mounted};
    use crate::logical::{Map, Operation};
    use crate::testing::request;

    async fn help(path: &str) -> Result<Map, Error> {
        let Mounted { backend, .. } = mounted();
        let answer = backend.handle(request(Operation::Help, path, Value::Null)).await?;
        Ok(answer.and_then(|response| response.data).expect("help always answers"))
    }

    #[tokio::test]
    async fn the_root_shows_all_paths() {
        let data = help("").await.unwrap();
        assert_eq!(data["see_also"], Value::Null);
        insta::assert_snapshot!(data["help"].as_str().unwrap());
    }

    #[tokio::test]
    async fn a_path_shows_its_fields() {
        insta::assert_snapshot!(help("books/dune").await.unwrap()["help"].as_str().unwrap());
    }

    #[tokio::test]
    async fn a_path_without_fields_has_no_parameters() {
        insta::assert_snapshot!(help("books/").await.unwrap()["help"].as_str().unwrap());
    }

    #[tokio::test]
    async fn an_unknown_path_has_no_help() {
        assert!(matches!(help("films/dune").await, Err(Error::UnsupportedPath)));
    }

    #[cfg(feature = "openapi")]
    #[tokio::test]
    async fn the_document_is_that_of_the_path() {
        let paths = |data: Map| data["openapi"]["paths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(help("books/dune").await.unwrap()), ["/books/{name}"]);
        assert_eq!(paths(help("").await.unwrap()), ["/books/", "/books/{name}", "/lend/{name}", "/lend/{name}/now"]);
    }

    #[cfg(feature = "openapi")]
    #[tokio::test]
    async fn the_prefix_of_the_host_begins_operation_ids() {
        let Mounted { backend, .. } = mounted();
        let prefix = json!({ "requestResponsePrefix": "shelf" });
        let response = backend.handle(request(Operation::Help, "", prefix)).await.unwrap().unwrap();
        let data = response.data.unwrap();
        assert_eq!(data["openapi"]["paths"]["/lend/{name}/now"]["get"]["operationId"], "shelf-read-lend-name-now");
    }
}
