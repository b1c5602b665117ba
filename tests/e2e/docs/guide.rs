//! `docs/guide.md`: runs each command of the Go plugin's guide, and captures the output of this engine.

use std::fmt::Write as _;
use std::sync::Arc;

use super::page::agrees;
use super::sample::Recorder;
use super::speaks_as_documented;
use crate::astra::{Astra, Seed};
use crate::bao::{PLUGIN, Server, redact, sha256};
use crate::world::World;

const PAGE: &str = "docs/guide.md";

/// The `org_id` in the guide.
const ORG: &str = "ccd999999_facd_4ad3_bbb99903d999999999999999d";

/// A command, and how the output of this engine differs from the guide.
type Row = (&'static str, &'static str);

const INSTALL: &[Row] = &[
    (
        "vault plugin register -sha256=$SHA256 -command=vault-plugin-secrets-datastax-astra -version=v3.0.0 secret \
         vault-plugin-secrets-datastax-astra",
        "Same, in the words of a current server.",
    ),
    ("vault secrets enable -path=astra vault-plugin-secrets-datastax-astra", "Same."),
];

const CONFIG: &[Row] = &[
    (
        "vault list astra/configs",
        "Different: each key is an org id that `vault read astra/config` accepts. The guide shows keys such as `config/<org id>`.",
    ),
    (
        "vault read astra/config org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\"",
        "Same members, and the new settings. The engine always masks the root token.",
    ),
    ("vault read astra/config logical_name=\"retailOrg\"", "Same."),
];

const ROLES: &[Row] = &[
    (
        "sh update_roles.sh",
        "Different: the script needs no `jq`, and no root token leaves the server. The script prints the roles that it created.",
    ),
    ("vault list astra/roles", "Same, with a heading above the list."),
    (
        "vault write astra/role role_name=\"R_W_User\" role_id=\"946cfbde-24cc-4953-9355-d57bfd61bf39\" \
         org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" ttl=3600 max_ttl=36000",
        "Same.",
    ),
    ("vault read astra/role org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\"", "Same."),
    (
        "vault read astra/role org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role=\"R_W_User\"",
        "Same: the parameter `role` works, with names in any letter case.",
    ),
];

const STANDARD: &[Row] = &[
    (
        "vault read astra/org/token client_id=\"$CLIENT_ID\" org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\"",
        "Same.",
    ),
    (
        "vault read astra/org/token org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\" \
         logical_name=\"org1\"",
        "Same.",
    ),
];

const LEASES: &[Row] = &[
    ("vault list astra/org/tokens", "Same, with a heading above the list."),
    ("vault lease renew -increment=3600 $LEASE_ID", "Same, and the data of the lease, which 2.0.0 drops."),
];

const REVOKE: Row = ("vault lease revoke $LEASE_ID", "Same.");

const REVOKE_SYNC: Row = (
    "vault lease revoke -sync $LEASE_ID",
    "Different: the guide does not use `-sync`. With `-sync`, the command succeeds only if the token is deleted in Astra.",
);

const STANDARD_CONFIG: Row = (
    "vault write astra/config org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" astra_token=\"$ROOT_TOKEN\" \
     url=\"https://api.astra.datastax.com\" logical_name=\"retailOrg\" caller_mode=\"standard\"",
    "Different: the message names the path that was written, and the guide shows `astra/configs`. The engine also asks Astra to \
     which organization the root token belongs.",
);

const SIDECAR_CONFIG: Row = (
    "vault write astra/config org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" astra_token=\"$ROOT_TOKEN\" \
     url=\"https://api.astra.datastax.com\" logical_name=\"retailOrg\" caller_mode=\"sidecar\"",
    "Different, as in standard mode.",
);

const STANDARD_MINT: Row = (
    "vault write astra/org/token org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\" \
     logical_name=\"org1\"",
    "Same.",
);

const SIDECAR_MINT: Row = (
    "vault read astra/org/token org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\" \
     logical_name=\"org1\"",
    "Same. In sidecar mode, several tokens can have the same `logical_name`.",
);

const DELETE_AND_UPGRADE: &[Row] = &[
    ("vault delete astra/role org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role=\"r_w_user\"", "Same."),
    (
        "vault secrets tune -plugin-version=v3.0.0 astra/",
        "Different: the guide names the plugin here, but the server needs the path of the mount.",
    ),
    ("vault plugin reload -plugin vault-plugin-secrets-datastax-astra", "Same."),
];

struct Reader {
    recorder: Recorder,
    samples: String,
}

impl Reader {
    #[track_caller]
    fn follows(&mut self, rows: &[Row]) {
        rows.iter().for_each(|row| _ = self.follow(row));
    }

    /// Runs a command, adds it to the samples with its output, and returns the output.
    #[track_caller]
    fn follow(&mut self, (command, verdict): &Row) -> super::shell::Ran {
        let (ran, told) = self.recorder.tell(command);
        let command = self.recorder.command(command).replace("\"$ORG_ID\"", "$ORG_ID");
        let _ = write!(self.samples, "\n{verdict}\n\n```console\n$ {command}\n{told}```\n");
        ran
    }

    fn compare(&mut self, name: &str) {
        let found = format!("{}\n", std::mem::take(&mut self.samples));
        self.recorder.world.assert_no_secret(PAGE, &found);
        if speaks_as_documented(PAGE) {
            agrees(PAGE, &format!("<!-- seen: guide, {name} -->\n"), "<!-- end -->", &found, "readme");
        }
    }

    fn mint(&mut self, row: &Row) {
        let ran = self.follow(row);
        redact::hide(ran.row("token"));
        let (client_id, lease_id) = (ran.row("clientId"), ran.row("lease_id"));
        assert!(self.recorder.world.is_alive(&client_id));
        self.recorder.shell.set("CLIENT_ID", client_id);
        self.recorder.shell.set("LEASE_ID", lease_id);
    }
}

/// Follows the guide on a server whose path `astra` is free.
pub(crate) fn follow_the_guide(server: &Arc<Server>) {
    let root = format!("AstraCS:ABcDeFgHiJkLmNoPqRsTuVwX:{}", "0b".repeat(32));
    let astra = Astra::builder().org(Seed::new().id(ORG).root_token(&root));
    let mut recorder = Recorder::new(World::with_astra(server, "astra", astra));
    recorder.shell.set("SHA256", sha256(&server.plugin_dir().join(PLUGIN)));
    recorder.shell.set("ROOT_TOKEN", root);
    recorder.mask(ORG, "org id");
    let mut reader = Reader { recorder, samples: String::new() };
    reader.follows(INSTALL);
    reader.compare("install");

    reader.follow(&STANDARD_CONFIG);
    reader.follows(CONFIG);
    reader.follows(ROLES);
    reader.mint(&STANDARD_MINT);
    reader.follows(STANDARD);
    reader.follows(LEASES);
    reader.follow(&REVOKE);
    // The server revokes the lease in the background.
    reader.recorder.world.wait_for_no_lease();
    assert!(reader.recorder.world.live(ORG).is_empty());
    reader.compare("standard mode");

    reader.follow(&SIDECAR_CONFIG);
    reader.mint(&SIDECAR_MINT);
    reader.follows(LEASES);
    reader.follow(&REVOKE_SYNC);
    assert!(reader.recorder.world.live(ORG).is_empty());
    reader.compare("sidecar mode");
    reader.follows(DELETE_AND_UPGRADE);
    reader.compare("delete a role, and upgrade");
}
