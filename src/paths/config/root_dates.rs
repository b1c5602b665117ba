//! When the root token of a config expires and is rotated: the members in answers, and the warnings.

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Change, Field, FieldSpec, Fields, WRITES};
use vault_plugin_sdk::logical::Request;

use crate::paths::shared::mount;
use crate::store::Config;
use crate::upkeep::expires_soon;

/// The members that only a read has. Clients of the paths below `orgs` write them back.
const DATES: [Field<String>; 4] = [
    read_only("last_rotated_at", LAST_ROTATED),
    read_only("next_rotation_at", NEXT_ROTATION),
    read_only("root_created_at", CREATED),
    read_only("root_expires_at", EXPIRES),
];

const LAST_ROTATED: &str = "When a rotation last replaced the root token. null if none has.";

const NEXT_ROTATION: &str = "When the engine rotates the root token on its own. null if rotation_period is 0. In the past if the rotation fails.";

const CREATED: &str = "When Astra generated the root token. null if the engine has not learned this yet.";

const EXPIRES: &str =
    "When the root token expires in Astra. null if it does not expire, or if the engine has not learned this yet.";

/// The fields of writes, which the engine ignores.
pub(in crate::paths) const DATE_FIELDS: [FieldSpec; 4] =
    [DATES[0].spec(), DATES[1].spec(), DATES[2].spec(), DATES[3].spec()];

/// The members of answers, with their descriptions.
pub(super) const MEMBERS: [(&str, &str); 4] = [
    ("last_rotated_at", LAST_ROTATED),
    ("next_rotation_at", NEXT_ROTATION),
    ("root_created_at", CREATED),
    ("root_expires_at", EXPIRES),
];

const fn read_only(name: &'static str, shown: &'static str) -> Field<String> {
    Field::string(name, "As a read shows it. The engine sets this value, and ignores the value in a write.")
        .only(WRITES)
        .shown(shown)
}

/// Returns the members in answers.
pub(super) fn shown(config: &Config) -> [(String, Value); 4] {
    let times = times(config);
    std::array::from_fn(|index| {
        let time = times[index].map(|time| time.to_string());
        (DATES[index].name().to_owned(), json!(time))
    })
}

/// Returns the times of [`DATES`].
fn times(config: &Config) -> [Option<Timestamp>; 4] {
    let root = &config.root;
    [root.rotated_at, config.next_rotation(), root.created_at, root.expires_at]
}

/// Returns the names of the members that a write would change. Members that are as a read showed them, before or after the
/// write, do not count.
pub(in crate::paths) fn ignored(fields: &Fields, states: [Option<&Config>; 2]) -> Vec<&'static str> {
    let is_ignored = |index: usize| match fields.change(&DATES[index]) {
        Change::Set(text) => !states
            .into_iter()
            .flatten()
            .any(|config| times(config)[index].is_some_and(|time| time.to_string() == text)),
        Change::Keep | Change::Reset => false,
    };
    (0..DATES.len()).filter(|index| is_ignored(*index)).map(|index| DATES[index].name()).collect()
}

/// Returns a warning if the root token expires soon.
pub(in crate::paths) fn expiry_warning(config: &Config, request: &Request, now: Timestamp) -> Option<String> {
    let expiry = config.root.expires_at.filter(|_| expires_soon(config, now))?;
    let root = config.root_id().unwrap_or_default();
    let left = expiry.duration_since(now).as_secs();
    let when = match left {
        ..=0 => format!("expired at {expiry}"),
        1..172_800 => format!("expires at {expiry}, in {} hours", left / 3600),
        _ => format!("expires at {expiry}, in {} days", left / 86400),
    };
    let command = rotation_command(config, request);
    let advice = match config.next_rotation() {
        _ if left <= 0 => "write another astra_token".to_owned(),
        Some(next) if now <= next => format!("the engine rotates it at {next}"),
        Some(_) => format!(
            "the engine tries to rotate it, see the log of the server; rotate it with \"{command}\", or write another astra_token"
        ),
        None => format!("rotate it with \"{command}\", or write another astra_token"),
    };
    Some(format!("the root token with client id {root:?} {when}; {advice}"))
}

/// Returns a warning if the engine has stopped rotating the root token on a schedule.
pub(super) fn stop_warning(config: &Config, request: &Request) -> Option<String> {
    let stopped = config.root.stopped_at?;
    let command = rotation_command(config, request);
    Some(format!(
        "the engine stopped rotating the root token at {stopped:.0}, because it does not know whether Astra made another one; look for \
         a root token of that time in Astra's portal, delete it, and then rotate the root token with \"{command}\", or write \
         the config"
    ))
}

fn rotation_command(config: &Config, request: &Request) -> String {
    let mount = mount(request);
    match config.path_name() {
        Some(name) => format!("vault write -f {mount}/orgs/{name}/rotate-root"),
        None => format!("vault write {mount}/config/rotate-root org_id={:?}", config.org_id.as_str()),
    }
}
