//! The settings of a config: their fields, their checks and their members in answers.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::json;
use vault_plugin_sdk::framework::{Change, Field, FieldSpec, Fields, WRITES};
use vault_plugin_sdk::logical::{Map, Operation};

use super::root_dates;
use crate::api::{self, MAX_TOKEN, TOKEN_PREFIX};
use crate::clock;
use crate::error::Error;
use crate::identity::is_uuid;
use crate::names::{OrgId, validate_name};
use crate::paths::shared::{self, Durations, ORG_ID, Setting, Shown, missing, object};
use crate::store::{CallerMode, Config, DEFAULT_URL};

pub(super) const ASTRA_TOKEN: Field<String> = Field::string(
    "astra_token",
    "Root token: an Astra application token with the permission to manage tokens, for example through the Astra role \
     Organization Administrator. A root token has the form \"AstraCS:<id>:<digest>\". Required for a new config. No answer \
     shows the root token. A write with the beginning that a read shows keeps the stored root token.",
)
.sensitive()
.only(WRITES)
.shown("The beginning of the root token.");

const URL: Field<String> = Field::string(
    "url",
    "URL of Astra's DevOps API, with or without \"/v2\". Change the URL only for another Astra environment or a gateway. A \
     write that changes the scheme, the host or the port must also contain astra_token.",
)
.default(DEFAULT_URL)
.only(WRITES)
.shown("URL of Astra's DevOps API.");

pub(in crate::paths) const LOGICAL_NAME: Field<String> = Field::string(
    "logical_name",
    "Short name of the organization. The config can be read by this name. If the name fits into a path, creds/:org/:role \
     uses the name. Two organizations of a mount cannot have the same logical name, and a logical name cannot be the org_id of \
     another organization.",
)
.only(NOT_DELETE)
.shown("Short name of the organization.");

const CALLER_MODE: Field<String> = Field::string(
    "caller_mode",
    "How callers ask for tokens. With \"standard\", a write to org/token mints a token, and a read fetches the token. With \
     \"sidecar\", a read mints a token, which suits agents and templates.",
)
.default("standard")
.allowed(&["standard", "sidecar"])
.only(WRITES)
.shown("How callers ask for tokens.");

pub(super) const VERIFY_CONNECTION: Field<bool> = Field::bool(
    "verify_connection",
    "Whether this write first asks Astra whether the root token is valid and belongs to the organization. Use false to write \
     the config while Astra cannot be reached. This parameter is not stored.",
)
.default("true")
.only(WRITES);

pub(super) const CREATE_ONLY: Field<bool> = Field::bool(
    "create_only",
    "Whether astra_token is only for a new config. If the organization has a config already, the write ignores astra_token, keeps \
     the stored root token, and changes the other settings as usual. Use true in tools that write the same config again \
     and again, because a rotation replaces the root token that the tool knows. This parameter is not stored.",
)
.default("false")
.only(WRITES);

const CA_CERT: Field<String> = Field::string(
    "ca_cert",
    "Certificates in PEM form that the engine trusts for the URL, in addition to those of the system. Needed for a gateway \
     with its own certificate. An empty text removes the certificates.",
)
.only(WRITES)
.shown("Certificates that the engine trusts in addition to those of the system.");

const REQUEST_TIMEOUT: Field<Duration> = Field::duration(
    "request_timeout",
    "How long one call to Astra may take, including the wait in the queue and all attempts. Between 1s and 10m.",
)
.default("30s")
.only(WRITES)
.shown("How long one call to Astra may take.");

const ROTATION_PERIOD: Field<Duration> = Field::duration(
    "rotation_period",
    "How often the engine rotates the root token on its own. 0 means never, otherwise at least 1h. The time counts from the \
     last rotation, or from the first write of a rotation_period. Each rotation comes up to a tenth of the period earlier, \
     at most an hour. A root token that expires is also rotated before less than a tenth of its life is left.",
)
.default("0s")
.only(WRITES)
.shown("How often the engine rotates the root token on its own. 0 means never.");

const DESCRIPTION: Field<bool> = Field::bool(
    "description",
    "Whether Astra gets a description of each token, with mount, role, names and a unique marker. Without a description, the \
     engine cannot find a token if Astra's answer to the mint is lost. Use false only if Astra rejects the member \
     \"description\".",
)
.default("true")
.only(WRITES)
.shown("Whether Astra gets a description of each token.");

const TOKEN_EXPIRY: Field<bool> = Field::bool(
    "token_expiry",
    "Whether each token expires in Astra, one hour after the max TTL of its lease. Use false only if Astra rejects the member \
     \"tokenExpiry\".",
)
.default("true")
.only(WRITES)
.shown("Whether each token expires in Astra.");

pub(super) const FORCE: Field<bool> = Field::bool(
    "force",
    "Whether to delete the config although the organization has live tokens or an unfinished mint or rotation, or although \
     the stored config cannot be read. The engine \
     cannot revoke the leases or undo the mint until the config is written again.",
)
.default("false")
.only(&[Operation::Delete]);

const NOT_DELETE: &[Operation] = &[Operation::Create, Operation::Update, Operation::Patch, Operation::Read];

/// The settings, in the order of their checks.
pub(in crate::paths) const SETTINGS: &[Setting<Config>] = &[
    Setting {
        field: ASTRA_TOKEN.spec(),
        show: |config| Some(Shown::Value(json!(masked(config.astra_token.expose_secret())))),
        write: |fields, config, _| {
            match fields.change(&ASTRA_TOKEN) {
                Change::Keep => {}
                Change::Reset => {
                    return Err(Error::field(ASTRA_TOKEN.name(), "cannot be removed; give another astra_token"));
                }
                Change::Set(token) if token == masked(config.astra_token.expose_secret()) => {}
                Change::Set(token) => config.write_root(root_token(token)?.into()),
            }
            Ok(())
        },
    },
    Setting {
        field: URL.spec(),
        show: |config| Some(Shown::Value(json!(config.url))),
        write: |fields, config, _| {
            if let Change::Set(url) = fields.change(&URL) {
                api::parse_url(&url).map_err(|reason| Error::field(URL.name(), reason))?;
            }
            fields.apply(&URL, &mut config.url);
            Ok(())
        },
    },
    Setting {
        field: LOGICAL_NAME.spec(),
        show: |config| Some(Shown::Value(json!(config.logical_name))),
        write: |fields, config, _| {
            match fields.change(&LOGICAL_NAME) {
                Change::Keep => {}
                Change::Set(name) if !name.is_empty() => {
                    validate_name(LOGICAL_NAME.name(), &name)?;
                    config.rename(name);
                }
                _ => config.rename(String::new()),
            }
            Ok(())
        },
    },
    Setting {
        field: CALLER_MODE.spec(),
        show: |config| Some(Shown::Value(json!(config.caller_mode.as_str()))),
        write: |fields, config, _| {
            let mut mode = config.caller_mode.as_str().to_owned();
            fields.apply(&CALLER_MODE, &mut mode);
            let known = CallerMode::parse(&mode);
            config.caller_mode =
                known.ok_or_else(|| Error::field(CALLER_MODE.name(), "must be \"standard\" or \"sidecar\""))?;
            Ok(())
        },
    },
    Setting {
        field: CA_CERT.spec(),
        show: |config| Some(Shown::Value(json!(config.ca_cert))),
        write: |fields, config, _| {
            if let Change::Set(pem) = fields.change(&CA_CERT) {
                require_certificates(&pem)?;
            }
            fields.apply(&CA_CERT, &mut config.ca_cert);
            Ok(())
        },
    },
    Setting {
        field: REQUEST_TIMEOUT.spec(),
        show: |config| Some(Shown::Duration(config.request_timeout)),
        write: |fields, config, _| {
            fields.apply(&REQUEST_TIMEOUT, &mut config.request_timeout);
            if TIMEOUTS.contains(&config.request_timeout) {
                Ok(())
            } else {
                Err(Error::field(REQUEST_TIMEOUT.name(), "must be between 1s and 10m"))
            }
        },
    },
    Setting {
        field: ROTATION_PERIOD.spec(),
        show: |config| Some(Shown::Duration(config.root.rotation_period)),
        write: |fields, config, _| {
            let mut period = config.root.rotation_period;
            fields.apply(&ROTATION_PERIOD, &mut period);
            if !period.is_zero() && !PERIODS.contains(&period) {
                return Err(Error::field(ROTATION_PERIOD.name(), "must be 0, or between 1h and 87600h (ten years)"));
            }
            config.root.set_rotation_period(period, clock::now());
            Ok(())
        },
    },
    Setting {
        field: DESCRIPTION.spec(),
        show: |config| Some(Shown::Value(json!(config.description))),
        write: |fields, config, warnings| {
            fields.apply(&DESCRIPTION, &mut config.description);
            if fields.is_given(&DESCRIPTION) && !config.description {
                warnings.push(WITHOUT_DESCRIPTION.to_owned());
            }
            Ok(())
        },
    },
    Setting {
        field: TOKEN_EXPIRY.spec(),
        show: |config| Some(Shown::Value(json!(config.token_expiry))),
        write: |fields, config, warnings| {
            fields.apply(&TOKEN_EXPIRY, &mut config.token_expiry);
            if fields.is_given(&TOKEN_EXPIRY) && !config.token_expiry {
                warnings.push(WITHOUT_EXPIRY.to_owned());
            }
            Ok(())
        },
    },
];

pub(super) const FIELDS: &[FieldSpec] = &shared::fields::<4, 13, Config>(
    [
        ORG_ID.required_by(CHANGES).shown("Id of the organization.").spec(),
        CREATE_ONLY.spec(),
        VERIFY_CONNECTION.spec(),
        FORCE.spec(),
    ],
    SETTINGS,
);

/// The operations that need the `org_id`. A read can have the `logical_name` in its place.
const CHANGES: &[Operation] = &[Operation::Create, Operation::Update, Operation::Patch, Operation::Delete];

/// The fields of writes and deletes that are not settings.
pub(in crate::paths) const UNSTORED: [FieldSpec; 3] = [CREATE_ONLY.spec(), VERIFY_CONNECTION.spec(), FORCE.spec()];

const WITHOUT_DESCRIPTION: &str = "without a description, the engine cannot find and delete a token if Astra's answer to the mint is \
                                   lost; this token stays until it expires";

const WITHOUT_EXPIRY: &str =
    "without an expiry in Astra, a token is valid until it is deleted; if Vault is lost, its tokens stay valid";

/// Enough for all certificates that a system trusts. The host's storage rejects entries of 1 MiB.
const MAX_CA_CERT: usize = 512 << 10;

const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(3650 * 86400);

const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Applies a write to a config. Returns the new config and warnings.
pub(super) fn changed(old: Option<&Config>, org: &OrgId, fields: &Fields) -> Result<(Config, Vec<String>), Error> {
    if let Some(old) = old {
        let (new, warnings) = shared::changed(SETTINGS, fields, old.clone())?;
        require_same_server(old, &new, fields)?;
        return Ok((new, warnings));
    }
    if !fields.is_given(&ASTRA_TOKEN) {
        return Err(missing(ASTRA_TOKEN.name()));
    }
    // A new `org_id` in the form of a UUID is Astra's id of the organization. Only configs of the Go plugin can differ.
    let astra_org_id = if is_uuid(org.as_str()) { org.as_str() } else { "" };
    shared::changed(SETTINGS, &fields.for_new_object(), Config::new(org.clone(), astra_org_id))
}

/// Whether a request contains a root token. The beginning that a read shows is not a root token.
pub(super) fn carries_token(old: Option<&Config>, fields: &Fields) -> bool {
    let is_mask = |token: &str| old.is_some_and(|old| token == masked(old.astra_token.expose_secret()));
    matches!(fields.change(&ASTRA_TOKEN), Change::Set(token) if !is_mask(&token))
}

/// Fails if the stored root token would be sent to another server. A caller that knows no root token could otherwise
/// receive the stored root token on a server of the caller.
fn require_same_server(old: &Config, new: &Config, fields: &Fields) -> Result<(), Error> {
    let server = |config: &Config| api::parse_url(&config.url).ok().map(|url| url.origin());
    if old.url == new.url || carries_token(Some(old), fields) || server(old).is_some_and(|old| server(new) == Some(old))
    {
        return Ok(());
    }
    Err(Error::field(
        ASTRA_TOKEN.name(),
        "is required if url changes its scheme, host or port; give the root token for the new url",
    ))
}

/// Returns the members of a config in answers.
pub(in crate::paths) fn shown(config: &Config, durations: Durations) -> Map {
    let mut shown = shared::shown(SETTINGS, config, durations);
    shown.extend(root_dates::shown(config));
    shown.extend(object([("astra_org_id", json!(config.astra_org_id)), ("org_id", json!(config.org_id))]));
    shown
}

/// Replaces the rest of a root token in answers.
const MASKED: &str = "...";

/// Returns the root token cut to the beginning of its client id, which is not secret.
fn masked(token: &str) -> String {
    let client_id = token.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split(':').next()).unwrap_or_default();
    format!("{TOKEN_PREFIX}{}{MASKED}", client_id.chars().take(7).collect::<String>())
}

fn require_certificates(pem: &str) -> Result<(), Error> {
    if pem.len() > MAX_CA_CERT {
        return Err(Error::field(
            CA_CERT.name(),
            "must not be longer than 512 KiB; give only the certificates that are needed",
        ));
    }
    if !pem.is_empty() && !api::are_certificates(pem) {
        return Err(Error::field(CA_CERT.name(), "must be certificates in PEM form"));
    }
    Ok(())
}

/// Checks the form of a root token. The error never holds the root token.
fn root_token(token: String) -> Result<String, Error> {
    match api::token_parts(&token) {
        // A longer token does not fit into an HTTP header. Tokens of Astra have about a hundred bytes.
        Some(_) if token.len() > MAX_TOKEN => {
            Err(Error::field(ASTRA_TOKEN.name(), format!("must not be longer than {MAX_TOKEN} bytes")))
        }
        Some(_) => Ok(token),
        None if token.ends_with(MASKED) => Err(Error::field(
            ASTRA_TOKEN.name(),
            "is the beginning of another root token; give the whole root token, or omit astra_token to keep the stored one",
        )),
        None => Err(Error::field(
            ASTRA_TOKEN.name(),
            "must have the form \"AstraCS:<id>:<digest>\", as in Astra's portal, without spaces or line breaks",
        )),
    }
}
