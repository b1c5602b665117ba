//! The metadata of a new token: the pairs of the caller, and the defaults of the role.
//!
//! A default can have templates, which are filled in from the caller's identity. The text is read in one pass at each mint,
//! and the host is asked for the entity only if a template needs it.

use vault_plugin_sdk::logical::{Caller, Entity};

use super::engine::Engine;
use super::error::Error;
use super::store::{Metadata, Role};

/// A key that no role can set: agents read it from the answers of reads that mint.
pub(crate) const RESERVED_KEY: &str = "deletion_time";

/// The most bytes of all keys and values of a token. A limit keeps the inventory readable.
pub(crate) const MAX_METADATA: usize = 64 << 10;

/// The templates, as errors list them.
const KNOWN: &str = "{{identity.entity.id}}, {{identity.entity.name}}, {{identity.entity.metadata.<key>}} and \
                     {{display_name}}";

/// A part of a default.
#[derive(Debug, Eq, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    EntityId,
    EntityName,
    EntityMetadata(&'a str),
    DisplayName,
}

impl Part<'_> {
    fn needs_entity(&self) -> bool {
        matches!(self, Self::EntityId | Self::EntityName | Self::EntityMetadata(_))
    }
}

/// Splits a default into its parts.
///
/// # Errors
/// Returns what is wrong with a template.
fn parts(mut text: &str) -> impl Iterator<Item = Result<Part<'_>, String>> {
    std::iter::from_fn(move || {
        let before = text.find("{{").unwrap_or(text.len());
        if before > 0 {
            let (part, rest) = text.split_at(before);
            text = rest;
            return Some(if part.contains("}}") { Err(unbalanced()) } else { Ok(Part::Text(part)) });
        }
        let rest = text.strip_prefix("{{")?;
        let Some((name, rest)) = rest.split_once("}}") else {
            text = "";
            return Some(Err(unbalanced()));
        };
        text = rest;
        Some(template(name.trim()).ok_or_else(|| {
            // The name is the operator's text, and can be long.
            let name: String = name.chars().take(64).collect();
            format!("has the unknown template {:?}; the templates are {KNOWN}", format!("{{{{{name}}}}}"))
        }))
    })
}

fn template(name: &str) -> Option<Part<'_>> {
    Some(match name {
        "identity.entity.id" => Part::EntityId,
        "identity.entity.name" => Part::EntityName,
        "display_name" => Part::DisplayName,
        _ => Part::EntityMetadata(name.strip_prefix("identity.entity.metadata.").filter(|key| !key.is_empty())?),
    })
}

fn unbalanced() -> String {
    format!("has a \"{{{{\" or \"}}}}\" without the other; the templates are {KNOWN}")
}

/// Checks a default of a role.
///
/// # Errors
/// Returns what is wrong with a template.
pub(crate) fn check_default(text: &str) -> Result<(), String> {
    parts(text).try_for_each(|part| part.map(drop))
}

/// Returns the number of bytes of all keys and values.
pub(crate) fn size(metadata: &Metadata) -> usize {
    metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Returns the metadata of a new token: the pairs that the caller gives, and the defaults of the role.
///
/// # Errors
/// If the caller gives a key that the role sets, if a key that the role requires has no value, or if a template needs an
/// identity that the caller does not have.
pub(crate) async fn complete(
    engine: &Engine,
    role: &Role,
    mut metadata: Metadata,
    caller: &Caller,
) -> Result<Metadata, Error> {
    let name = role.role_name.as_str();
    if let Some(key) = role.default_metadata.keys().find(|key| metadata.contains_key(*key)) {
        return Err(Error::field(
            "metadata",
            format!(
                "must not have the key {key:?}, which the role {name:?} sets by default_metadata; leave the key out"
            ),
        ));
    }
    let is_needed = |text: &String| parts(text).any(|part| part.is_ok_and(|part| part.needs_entity()));
    let entity = match role.default_metadata.values().any(is_needed) {
        true => entity_of(engine, role, caller).await?,
        false => Entity::default(),
    };
    for (key, text) in &role.default_metadata {
        let value = render(text, &entity, caller).map_err(|reason| {
            Error::Refused(format!("default_metadata of the role {name:?} {reason} (key {key:?})"))
        })?;
        metadata.insert(key.clone(), value);
    }
    let missing = role.required_metadata.iter().find(|key| metadata.get(*key).is_none_or(String::is_empty));
    if let Some(key) = missing {
        return Err(Error::field(
            "metadata",
            format!(
                "must have the key {key:?} with a value, because the role {name:?} requires it; add metadata={key}=..."
            ),
        ));
    }
    if size(&metadata) > MAX_METADATA {
        return Err(Error::field("metadata", "must not have more than 64 KiB of keys and values"));
    }
    Ok(metadata)
}

/// Returns the entity of the caller.
async fn entity_of(engine: &Engine, role: &Role, caller: &Caller) -> Result<Entity, Error> {
    if !caller.entity_id.is_empty()
        && let Some(entity) = engine.system.entity(&caller.entity_id).await?
    {
        return Ok(entity);
    }
    Err(Error::Refused(format!(
        "default_metadata of the role {:?} needs the identity entity of the caller, and this caller has none; log in with an \
         auth method that gives an entity (a root token has none), or change the role",
        role.role_name.as_str()
    )))
}

fn render(text: &str, entity: &Entity, caller: &Caller) -> Result<String, String> {
    let mut value = String::with_capacity(text.len());
    for part in parts(text) {
        value.push_str(match part? {
            Part::Text(text) => text,
            Part::EntityId => &entity.id,
            Part::EntityName => given(&entity.name, "needs a name of the caller's entity, which is empty")?,
            Part::DisplayName => given(&caller.display_name, "needs a display name of the caller, which is empty")?,
            Part::EntityMetadata(key) => entity.metadata.get(key).ok_or_else(|| {
                format!(
                    "needs the metadata key {key:?} of the caller's entity {:?}; set the key with \"vault write \
                     identity/entity/id/{} metadata={key}=...\", or change the role",
                    entity.name, entity.id
                )
            })?,
        });
    }
    Ok(value)
}

fn given<'a>(text: &'a str, reason: &str) -> Result<&'a str, String> {
    if text.is_empty() { Err(reason.to_owned()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Result<String, String> {
        let mut entity = Entity::default();
        (entity.id, entity.name) = ("e1".into(), "bob".into());
        entity.metadata.insert("team.x".into(), "{{display_name}}".into());
        render(text, &entity, &Caller::new("token-bob"))
    }

    #[test]
    fn templates_are_filled_in_once() {
        for (text, value) in [
            ("", ""),
            ("plain } { text", "plain } { text"),
            ("{{identity.entity.id}}/{{ identity.entity.name }}", "e1/bob"),
            ("by {{display_name}}!", "by token-bob!"),
            // A value that looks like a template stays.
            ("{{identity.entity.metadata.team.x}}", "{{display_name}}"),
        ] {
            assert_eq!(rendered(text).as_deref(), Ok(value), "{text}");
            assert_eq!(check_default(text), Ok(()));
        }
        assert!(rendered("{{identity.entity.metadata.other}}").unwrap_err().contains("\"other\""));
    }

    #[test]
    fn unknown_templates_and_single_braces_are_errors() {
        for text in [
            "{{}}",
            "{{ }}",
            "{{identity.entity.metadata.}}",
            "{{identity.entity.Name}}",
            "{{identity.groups.names}}",
            "{{{display_name}}}",
            "a {{display_name",
            "a }} b",
            "{{a}} {{display_name}}",
        ] {
            let reason = check_default(text).unwrap_err();
            assert!(reason.contains("{{identity.entity.id}}"), "{reason}");
        }
        assert!(check_default(&"{{x".repeat(1 << 20)).unwrap_err().len() < 300);
    }
}
