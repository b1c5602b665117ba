//! `docs/guide.md`: the commands of the Go plugin's guide, one by one, and what they print with this engine.

use std::fmt::Write as _;
use std::sync::Arc;

use super::page::agrees;
use super::sample::Recorder;
use super::speaks_as_documented;
use crate::astra::{Astra, Seed};
use crate::bao::{PLUGIN, Server, redact, sha256};
use crate::world::World;

const PAGE: &str = "docs/guide.md";

/// The guide's own org.
const ORG: &str = "ccd999999_facd_4ad3_bbb99903d999999999999999d";

/// Lines that a row shows of what a command prints; of more, it shows the first three.
const SHOWN: usize = 13;

/// A command, and how its output compares with what the guide shows.
type Row = (&'static str, &'static str);

const SET_UP: &[Row] = &[
    (
        "vault plugin register -sha256=$SHA256 -command=vault-plugin-secrets-datastax-astra -version=v3.0.0 secret \
         vault-plugin-secrets-datastax-astra",
        "same, in the words of today's server",
    ),
    ("vault secrets enable -path=astra vault-plugin-secrets-datastax-astra", "same"),
];

const CONFIG: &[Row] = &[
    (
        "vault list astra/configs",
        "better: bare org ids, which `vault read astra/config` takes; the guide shows `config/` before each",
    ),
    (
        "vault read astra/config org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\"",
        "same members, and the new settings; the root token is masked, always",
    ),
    ("vault read astra/config logical_name=\"retailOrg\"", "same"),
];

const ROLES: &[Row] = &[
    ("sh update_roles.sh", "better: needs no `jq`, no root token leaves the server, and it says what it made"),
    ("vault list astra/roles", "same, with a head over the list"),
    (
        "vault write astra/role role_name=\"R_W_User\" role_id=\"946cfbde-24cc-4953-9355-d57bfd61bf39\" \
         org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" ttl=3600 max_ttl=36000",
        "same",
    ),
    ("vault read astra/role org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\"", "same"),
    (
        "vault read astra/role org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role=\"R_W_User\"",
        "same: `role` and any letter case",
    ),
];

const STANDARD: &[Row] = &[
    (
        "vault read astra/org/token client_id=\"$CLIENT_ID\" org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\"",
        "same",
    ),
    (
        "vault read astra/org/token org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\" \
         logical_name=\"org1\"",
        "same",
    ),
];

const LEASES: &[Row] = &[
    ("vault list astra/org/tokens", "same, with a head over the list"),
    ("vault lease renew -increment=3600 $LEASE_ID", "same, and the data of the lease, which 2.0.0 drops"),
];

const REVOKE: Row = ("vault lease revoke $LEASE_ID", "same");

const REVOKE_SYNC: Row = (
    "vault lease revoke -sync $LEASE_ID",
    "better: with `-sync`, which the guide has not, it says whether the token is gone in Astra",
);

const STANDARD_CONFIG: Row = (
    "vault write astra/config org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" astra_token=\"$ROOT_TOKEN\" \
     url=\"https://api.astra.datastax.com\" logical_name=\"retailOrg\" caller_mode=\"standard\"",
    "better: it names the path that was written (the guide says `astra/configs`), and Astra was asked whose token it is",
);

const SIDECAR_CONFIG: Row = (
    "vault write astra/config org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" astra_token=\"$ROOT_TOKEN\" \
     url=\"https://api.astra.datastax.com\" logical_name=\"retailOrg\" caller_mode=\"sidecar\"",
    "better, as above",
);

const STANDARD_MINT: Row = (
    "vault write astra/org/token org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\" \
     logical_name=\"org1\"",
    "same",
);

const SIDECAR_MINT: Row = (
    "vault read astra/org/token org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role_name=\"r_w_user\" \
     logical_name=\"org1\"",
    "same; better: `logical_name` is only a label there, and may repeat",
);

const END: &[Row] = &[
    ("vault delete astra/role org_id=\"ccd999999_facd_4ad3_bbb99903d999999999999999d\" role=\"r_w_user\"", "same"),
    (
        "vault secrets tune -plugin-version=v3.0.0 astra/",
        "same; the guide names the plugin, where the server wants the path of the mount",
    ),
    ("vault plugin reload -plugin vault-plugin-secrets-datastax-astra", "same"),
];

struct Reader {
    recorder: Recorder,
    rows: String,
}

impl Reader {
    #[track_caller]
    fn follows(&mut self, rows: &[Row]) {
        rows.iter().for_each(|row| _ = self.follow(row));
    }

    /// Runs a command, writes its row, and returns what it printed.
    #[track_caller]
    fn follow(&mut self, (command, verdict): &Row) -> super::shell::Ran {
        let (ran, told) = self.recorder.tell(command);
        let lines: Vec<String> = told
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("---"))
            .map(|line| format!("`{}`", line.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        let (shown, more) = if lines.len() > SHOWN { (&lines[..3], "<br>…") } else { (&lines[..], "") };
        let command = self.recorder.command(command).replace("\"$ORG_ID\"", "$ORG_ID");
        let _ = writeln!(self.rows, "| `{command}` | {verdict} | {}{more} |", shown.join("<br>"));
        ran
    }

    fn compare(&mut self, name: &str) {
        let rows = std::mem::take(&mut self.rows);
        self.recorder.world.assert_no_secret(PAGE, &rows);
        let found = format!("| command | compared with the guide | prints |\n| --- | --- | --- |\n{rows}");
        if !speaks_as_documented(PAGE) {
            return;
        }
        agrees(PAGE, &format!("<!-- seen: guide, {name} -->\n"), "<!-- end -->", &found, "readme");
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
    let mut reader = Reader { recorder, rows: String::new() };
    reader.follows(SET_UP);
    reader.compare("set-up");

    reader.follow(&STANDARD_CONFIG);
    reader.follows(CONFIG);
    reader.follows(ROLES);
    reader.mint(&STANDARD_MINT);
    reader.follows(STANDARD);
    reader.follows(LEASES);
    reader.follow(&REVOKE);
    // The server revokes it in its own time.
    reader.recorder.world.wait_for_no_lease();
    assert!(reader.recorder.world.live(ORG).is_empty());
    reader.compare("standard mode");

    reader.follow(&SIDECAR_CONFIG);
    reader.mint(&SIDECAR_MINT);
    reader.follows(LEASES);
    reader.follow(&REVOKE_SYNC);
    assert!(reader.recorder.world.live(ORG).is_empty());
    reader.compare("sidecar mode");
    reader.follows(END);
    reader.compare("the end, and the upgrade");
}
