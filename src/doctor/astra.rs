//! Checks of the root token: whose it is, its roles, when it expires, and the lists it may read.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use vault_plugin_sdk::doctor::{Check, Verdict};

use super::options::Options;
use super::{failed, mint};
use crate::api::{AstraRole, Client, ListReader, ListedToken, Probe, TokenDates};
use crate::clock::now;

/// A root token that expires sooner is a warning.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Reads Astra's list of tokens: finds the root token, and counts the tokens.
struct Tokens<'a> {
    root_id: &'a str,
}

#[derive(Default)]
pub(super) struct Found {
    count: usize,
    /// The root token; `None` if it is not in the list.
    root: Option<(Vec<String>, TokenDates)>,
}

impl ListReader for Tokens<'_> {
    type All = Found;

    fn begin(&self) -> Found {
        Found::default()
    }

    fn add(&self, found: &mut Found, token: &ListedToken<'_>) {
        found.count += 1;
        if token.client_id == self.root_id {
            found.root = Some((token.role_ids(), token.dates()));
        }
    }
}

/// Checks the root token, and mints a token unless the options forbid a mint.
pub(super) async fn checks(probe: &Probe, client: &Client, options: &Options) -> Vec<Check> {
    let organization = organization(client, options).await;
    if organization.verdict() == Verdict::Failed {
        return vec![organization];
    }
    let mut checks = vec![organization];
    let start = Instant::now();
    let tokens = client.survey(&Tokens { root_id: &options.root_id() }).await;
    let took = start.elapsed().as_secs_f32();
    let roles = client.roles().await.map(|list| list.roles);
    let known = roles.as_deref().unwrap_or_default();
    let root = match tokens {
        Ok(found) => {
            checks.push(Check::ok("list of tokens", format!("number of tokens: {}, read in {took:.1} s", found.count)));
            checks.extend(root_token(found.root.as_ref(), known));
            found.root
        }
        Err(error) => {
            checks.push(failed("list of tokens", &error));
            None
        }
    };
    checks.push(match &roles {
        Ok(roles) => Check::ok("list of roles", format!("number of roles: {}", roles.len())),
        // Only the import of roles needs the list.
        Err(error) => {
            Check::warning("list of roles", error.to_string(), "without org-role-read, roles/sync does not work")
        }
    });
    let roles_of_root = root.map(|(roles, _)| roles).unwrap_or_default();
    checks.extend(match role(options, known, &roles_of_root) {
        _ if options.read_only => vec![Check::skipped("mint", "-read-only was given")],
        None => vec![Check::skipped("mint", "no Astra role is known: give one with -role-id=<id>")],
        Some(role) => mint::checks(probe, client, &role, &options.root_id()).await,
    });
    checks
}

async fn organization(client: &Client, options: &Options) -> Check {
    const NAME: &str = "organization";
    match client.current_org().await {
        Ok(id) if options.org_id.is_empty() || options.org_id.eq_ignore_ascii_case(&id) => {
            Check::ok(NAME, format!("the root token belongs to the organization {id}"))
        }
        Ok(id) => Check::failed(
            NAME,
            format!("the root token belongs to the organization {id}, not to {:?}", options.org_id),
            "use a root token of the organization, or correct -org-id",
        ),
        Err(error) => failed(NAME, &error),
    }
}

/// Returns the checks of the root token in Astra's list.
fn root_token(root: Option<&(Vec<String>, TokenDates)>, known: &[AstraRole]) -> Vec<Check> {
    let Some((roles, dates)) = root else {
        let advice = "the engine cannot read when it expires, and cannot rotate it; please report this";
        return vec![Check::warning("root token", "Astra does not list it", advice)];
    };
    let names: Vec<String> = roles.iter().map(|id| label(id, known)).collect();
    let date = |date: Option<Timestamp>| date.map_or_else(|| "an unknown time".to_owned(), |date| date.to_string());
    let found = format!("generated on {}, with the roles {}", date(dates.created_at), names.join(", "));
    vec![Check::ok("root token", found), expiry(dates.expires_at)]
}

fn expiry(expires_at: Option<Timestamp>) -> Check {
    const NAME: &str = "expiry";
    let Some(expires_at) = expires_at else { return Check::ok(NAME, "the root token does not expire") };
    let found = format!("the root token expires on {expires_at}");
    if expires_at.duration_since(now()) < SOON {
        Check::warning(NAME, found, "rotate it with config/rotate-root, or set rotation_period on the config")
    } else {
        Check::ok(NAME, found)
    }
}

/// Returns the name of an Astra role, or its id if the name is not known.
fn label(id: &str, known: &[AstraRole]) -> String {
    known.iter().find(|role| role.id == id).map_or_else(|| format!("{id:?}"), |role| format!("{:?}", role.label()))
}

/// Returns the Astra role of the token to mint: the given role, a role that can only read, or a role of the root token.
fn role(options: &Options, known: &[AstraRole], roles_of_root: &[String]) -> Option<AstraRole> {
    let named = |id: &String| known.iter().find(|role| role.id == *id).cloned();
    if let Some(id) = &options.role_id {
        return Some(named(id).unwrap_or_else(|| AstraRole { id: id.clone(), name: id.clone() }));
    }
    let reads = |role: &&AstraRole| {
        let name = role.name.to_ascii_lowercase();
        name.contains("read only") || name.contains("ro user") || name.contains("viewer")
    };
    let of_root =
        || roles_of_root.first().map(|id| named(id).unwrap_or_else(|| AstraRole { id: id.clone(), name: id.clone() }));
    known.iter().find(reads).cloned().or_else(of_root)
}
