//! Mints a token, checks how Astra shows the token, and deletes the token.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use vault_plugin_sdk::doctor::Check;

use super::failed;
use crate::api::{Answered, AstraRole, Client, CreatedToken, ListReader, ListedToken, NewToken, Probe, describe};
use crate::clock::now;

/// The token expires after this time if the doctor cannot delete it.
const LIFE: SignedDuration = SignedDuration::from_mins(15);

/// How long a change may take until the list shows it.
const SETTLED: Duration = Duration::from_secs(10);

/// The pause between two reads of the list.
const PAUSE: Duration = Duration::from_millis(500);

/// The instance in the description of the token. No mount has this instance, so no tidy deletes the token.
const INSTANCE: &str = "doctor";

/// The token in Astra's list.
struct Listed {
    description: String,
    expires_at: Option<Timestamp>,
}

struct Search<'a> {
    client_id: &'a str,
}

impl ListReader for Search<'_> {
    type All = Option<Listed>;

    fn begin(&self) -> Self::All {
        None
    }

    fn add(&self, found: &mut Self::All, token: &ListedToken<'_>) {
        if token.client_id == self.client_id {
            *found = Some(Listed { description: token.safe_description(), expires_at: token.dates().expires_at });
        }
    }
}

/// Returns the checks. `root_id` is the client id of the root token.
pub(super) async fn checks(probe: &Probe, client: &Client, role: &AstraRole, root_id: &str) -> Vec<Check> {
    let marker = Uuid::new_v4().to_string();
    // As long as a description can be, to see if Astra keeps all of it.
    let description = describe(INSTANCE, &marker, &format!("minted by -doctor, can be deleted {}", "x".repeat(255)));
    let Some(expires_at) = now().checked_add(LIFE).ok() else { return Vec::new() };
    let token = NewToken {
        roles: vec![role.id.clone()],
        description: Some(description.clone()),
        token_expiry: Some(expires_at.to_string()),
    };
    let start = Instant::now();
    let created = match client.create_token(&token).await {
        Ok(created) => created,
        Err(error) if error.may_have_happened() => return vec![failed("mint", &error), undo(client, &marker).await],
        Err(error) => return vec![failed("mint", &error)],
    };
    let took = start.elapsed().as_secs_f32();
    let mut checks = vec![minted(&created, role, took)];
    // An answer with a fault can name any token, also one that is in use.
    if created.fault().is_some() || created.client_id == root_id {
        checks.push(undo(client, &marker).await);
        return checks;
    }
    checks.extend([echo(&created, &marker, expires_at), new_token(probe, &created).await]);
    let (listed, is_other) = listed(client, &created.client_id, &description, expires_at).await;
    checks.push(listed);
    checks.extend(if is_other {
        vec![undo(client, &marker).await]
    } else {
        deletions(probe, client, &created.client_id, expires_at).await
    });
    checks
}

/// Deletes the tokens with this marker, which a failed mint may have made. Astra's list can be late.
async fn undo(client: &Client, marker: &str) -> Check {
    const NAME: &str = "undo";
    let start = Instant::now();
    let ids = loop {
        match client.find_tokens(marker).await {
            Ok(ids) if ids.is_empty() && start.elapsed() < SETTLED => sleep(PAUSE).await,
            Ok(ids) => break ids,
            Err(error) => return failed(NAME, &error),
        }
    };
    if ids.is_empty() {
        let found = format!("Astra's list has no token of this mint after {} s", SETTLED.as_secs());
        let advice = format!("if a token whose description contains {marker} appears in Astra's portal, delete it");
        return Check::warning(NAME, found, advice);
    }
    let mut left = Vec::new();
    for id in ids {
        if client.delete_token(&id).await.is_err() {
            left.push(id);
        }
    }
    if left.is_empty() {
        return Check::ok(NAME, "Astra minted a token although the call failed; the token is deleted");
    }
    let advice = "delete the tokens in Astra's portal; they expire in 15 minutes if Astra keeps expiries";
    Check::failed(NAME, format!("the tokens {} are left", left.join(", ")), advice)
}

fn minted(created: &CreatedToken, role: &AstraRole, took: f32) -> Check {
    match created.fault() {
        None => Check::ok("mint", format!("a token with the role {:?} in {took:.1} s", role.label())),
        Some(fault) => Check::failed(
            "mint",
            format!("the engine cannot use the answer: {fault}"),
            "check -url and the proxy, or report this",
        ),
    }
}

fn echo(created: &CreatedToken, marker: &str, expires_at: Timestamp) -> Check {
    let description = if created.is_marked(marker) { "confirms" } else { "does not confirm" };
    let expiry = match created.expiry {
        Some(expiry) if is_near(expiry, expires_at) => "confirms the expiry".to_owned(),
        Some(expiry) => format!("has another expiry, {expiry}"),
        None => "does not confirm the expiry".to_owned(),
    };
    Check::ok("answer to the mint", format!("it {description} the description, and {expiry}"))
}

/// Returns true if two times differ by less than a second. Astra may store whole seconds only.
fn is_near(one: Timestamp, other: Timestamp) -> bool {
    one.duration_since(other).abs() < SignedDuration::from_secs(1)
}

async fn new_token(probe: &Probe, created: &CreatedToken) -> Check {
    const NAME: &str = "use of the token";
    match probe.ask_with(&created.token).await {
        Ok(Answered { status, .. }) if (200..300).contains(&status) => Check::ok(NAME, "it works at once"),
        Ok(Answered { status, body, .. }) => {
            Check::ok(NAME, format!("asked for its organization, Astra answers {status}, {body}"))
        }
        Err(error) => failed(NAME, &error),
    }
}

/// Returns the check, and whether the list shows that another program made the token.
async fn listed(client: &Client, client_id: &str, description: &str, expires_at: Timestamp) -> (Check, bool) {
    const NAME: &str = "token in the list";
    let start = Instant::now();
    loop {
        match client.survey(&Search { client_id }).await {
            Ok(Some(listed)) if !description.starts_with(&listed.description) => {
                let found = "the answer to the mint names a token with the description of another program";
                return (Check::failed(NAME, found, "check -url and the proxy: this token is not deleted"), true);
            }
            Ok(Some(listed)) => return (compare(&listed, description, expires_at, start.elapsed()), false),
            Ok(None) if start.elapsed() < SETTLED => sleep(PAUSE).await,
            Ok(None) => {
                let advice = "the engine finds a token whose answer was lost only in the list; please report this";
                let found = format!("it is not there after {} s", SETTLED.as_secs());
                return (Check::warning(NAME, found, advice), false);
            }
            Err(error) => return (failed(NAME, &error), false),
        }
    }
}

fn compare(listed: &Listed, description: &str, expires_at: Timestamp, took: Duration) -> Check {
    let kept = listed.description.chars().count();
    let after = format!("seen after {:.1} s", took.as_secs_f32());
    let expiry = match listed.expires_at {
        Some(expiry) if is_near(expiry, expires_at) => "with its expiry".to_owned(),
        Some(expiry) => format!("with another expiry, {expiry}"),
        None => "without an expiry".to_owned(),
    };
    let text = match kept {
        _ if listed.description == description => format!("all {kept} characters of its description"),
        0 => "no description".to_owned(),
        kept => format!("the first {kept} of {} characters of its description", description.chars().count()),
    };
    let found = format!("{after}, {expiry}, {text}");
    // The marker is at the beginning.
    if kept >= 64 && listed.expires_at.is_some() {
        return Check::ok("token in the list", found);
    }
    let advice = "without its description, a lost token cannot be found; without its expiry, the token does not expire: \
                  see the fields description and token_expiry of the config";
    Check::warning("token in the list", found, advice)
}

/// Deletes the token, deletes it again, and deletes a token that never existed.
async fn deletions(probe: &Probe, client: &Client, client_id: &str, expires_at: Timestamp) -> Vec<Check> {
    let shown = |answered: &Answered| format!("Astra answers {}, {}", answered.status, answered.body);
    let first = probe.delete(client_id).await;
    // The probe only shows Astra's answer. This call ensures that the token is deleted, also after a failed probe.
    if let Err(error) = client.delete_token(client_id).await {
        let advice = format!("delete the token {client_id} in Astra's portal; it expires on {expires_at}");
        return vec![Check::failed("deletion", error.to_string(), advice)];
    }
    let deletion = match first {
        Ok(answered) if (200..300).contains(&answered.status) => Check::ok("deletion", shown(&answered)),
        Ok(answered) => Check::warning("deletion", shown(&answered), "please report this"),
        Err(error) => Check::warning("deletion", error.to_string(), "the second attempt succeeded"),
    };
    let mut checks = vec![deletion, gone(client, client_id).await];
    // A client id of Astra has 24 letters. These 24 letters are random, so no token has this client id.
    let letters = Uuid::new_v4().simple().to_string();
    let unknown: String = letters.bytes().take(24).map(|byte| char::from(b'A' + byte % 26)).collect();
    for (name, id) in [("second deletion", client_id), ("deletion of an unknown id", &unknown)] {
        checks.push(match probe.delete(id).await {
            Ok(answered) => Check::ok(name, shown(&answered)),
            Err(error) => failed(name, &error),
        });
    }
    checks
}

async fn gone(client: &Client, client_id: &str) -> Check {
    const NAME: &str = "list after the deletion";
    let start = Instant::now();
    loop {
        match client.has_token(client_id).await {
            Ok(false) => {
                return Check::ok(NAME, format!("the token is gone after {:.1} s", start.elapsed().as_secs_f32()));
            }
            Ok(true) if start.elapsed() < SETTLED => sleep(PAUSE).await,
            Ok(true) => {
                let found = format!("the token is still there after {} s", SETTLED.as_secs());
                return Check::warning(NAME, found, "please report this");
            }
            Err(error) => return failed(NAME, &error),
        }
    }
}
