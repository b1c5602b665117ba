//! Runs the commands of the user's guide unchanged, except for address and mount.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::astra::{Astra, Seed};
use crate::bao::{Output, PLUGIN, Server, VERSION, host_binary, install, redact, sha256};
use crate::world::World;

const ORG: &str = "ccd999999_facd_4ad3_bbb99903d999999999999999d";
const OTHERS: [&str; 2] =
    ["Some0therOrgId_aaa999999_bbbb_4ad3_ccc99903dd", "Y3tAnotherOrgId_aaa777777_bbbb_4ad3_ccc77777d"];
const ROOT_TOKEN: &str = "AstraCS:ONqZCOAAAAAAAAAAAAAAAAe:608ba9999999999999190219";

/// A mount for the guide, with the guide's own org.
struct Guide(World);

impl Guide {
    fn new(mount: &str) -> Self {
        static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
        let server = SERVER.get_or_init(|| Arc::new(Server::dev()));
        let astra = Astra::builder()
            .org(Seed::new().id(ORG).root_token(ROOT_TOKEN))
            .org(Seed::new().id(OTHERS[0]))
            .org(Seed::new().id(OTHERS[1]));
        let guide = Self(World::with_astra(server, mount, astra));
        let enabled = guide.run(&format!("vault secrets enable -path=astra {PLUGIN}")).ok();
        assert_eq!(enabled.trim(), format!("Success! Enabled the {PLUGIN} secrets engine at: {mount}/"));
        guide
    }

    /// Runs a command line of the guide, with this mount and this Astra.
    fn run(&self, line: &str) -> Output {
        let path = |word: &str| match word.strip_prefix("astra/") {
            Some(rest) => self.0.at(rest),
            None => word.replace("-path=astra", &format!("-path={}", self.0.mount)),
        };
        let words: Vec<String> = line
            .split_whitespace()
            .skip(1)
            .map(|word| path(word).replace('"', "").replace("https://api.astra.datastax.com", self.0.url()))
            .collect();
        self.0.server.cli(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn row(&self, line: &str) -> BTreeMap<String, String> {
        self.run(line).table().into_iter().collect()
    }

    /// Returns the keys that a list command prints.
    fn keys(&self, line: &str) -> Vec<String> {
        let stdout = self.run(line).ok();
        stdout.lines().filter(|line| !matches!(*line, "Keys" | "----")).map(str::to_owned).collect()
    }

    fn config(&self, mode: &str) {
        let written = self
            .run(&format!(
                "vault write astra/config org_id=\"{ORG}\" astra_token=\"{ROOT_TOKEN}\" \
                 url=\"https://api.astra.datastax.com\" logical_name=\"retailOrg\" caller_mode=\"{mode}\""
            ))
            .ok();
        assert_eq!(written.trim(), format!("Success! Data written to: {}/config", self.0.mount));
    }

    fn role(&self) {
        let written = self
            .run(&format!(
                "vault write astra/role role_name=\"R_W_User\" role_id=\"946cfbde-24cc-4953-9355-d57bfd61bf39\" \
                 org_id=\"{ORG}\" ttl=3600 max_ttl=36000"
            ))
            .ok();
        assert_eq!(written.trim(), format!("Success! Data written to: {}/role", self.0.mount));
    }

    /// Checks a token that a command printed, and returns its lease.
    #[track_caller]
    fn minted(&self, line: &str) -> BTreeMap<String, String> {
        let output = self.row(line);
        redact::hide(&output["token"]);
        assert!(output["lease_id"].starts_with(&format!("{}/org/token/", self.0.mount)));
        assert_eq!(output["lease_duration"], "1h");
        assert_eq!(output["lease_renewable"], "true");
        self.assert_token(&output);
        output
    }

    #[track_caller]
    fn assert_token(&self, row: &BTreeMap<String, String>) {
        assert_eq!(row["clientId"].len(), 24);
        assert!(row["generatedOn"].contains('T') && row["generatedOn"].ends_with('Z'));
        assert_eq!(row["logicalName"], "org1");
        assert_eq!(row["metadata"], "<nil>");
        assert_eq!(row["orgId"], ORG);
        assert_eq!(row["roleName"], "r_w_user");
        assert!(row["token"].starts_with(&format!("AstraCS:{}:", row["clientId"])), "the token has another client id");
        assert!(self.0.is_alive(&row["clientId"]));
    }
}

#[test]
fn config_commands_of_the_guide_work_in_both_modes() {
    let guide = Guide::new("guide-config");
    for mode in ["standard", "sidecar"] {
        guide.config(mode);
        for by in [format!("org_id=\"{ORG}\""), "logical_name=\"retailOrg\"".into()] {
            let row = guide.row(&format!("vault read astra/config {by}"));
            // The list shows only the part of the client id that identifies the token.
            assert_eq!(row["astra_token"], "AstraCS:ONqZCOA...");
            assert_eq!(row["caller_mode"], mode);
            assert_eq!(row["logical_name"], "retailOrg");
            assert_eq!(row["org_id"], ORG);
            assert_eq!(row["url"].trim_end_matches('/'), guide.0.url());
        }
    }
    for org in &guide.0.orgs()[1..] {
        guide.0.configure(org, &serde_json::json!({}));
    }
    assert_eq!(guide.keys("vault list astra/configs"), [OTHERS[0], OTHERS[1], ORG].map(str::to_owned));
}

#[test]
fn role_commands_of_the_guide_work() {
    let guide = Guide::new("guide-roles");
    guide.config("standard");
    guide.role();
    assert_eq!(guide.keys("vault list astra/roles"), ["r_w_user"]);
    for by in ["role_name=\"r_w_user\"", "role=\"R_W_User\""] {
        let row = guide.row(&format!("vault read astra/role org_id=\"{ORG}\" {by}"));
        assert_eq!(row["max_ttl"], "10h0m0s");
        assert_eq!(row["org_id"], ORG);
        assert_eq!(row["role_id"], "946cfbde-24cc-4953-9355-d57bfd61bf39");
        assert_eq!(row["role_name"], "r_w_user");
        assert_eq!(row["ttl"], "1h0m0s");
    }
    // The guide's note: a write with the same names and new times changes the times.
    guide.run(&format!("vault write astra/role role_name=\"R_W_User\" org_id=\"{ORG}\" ttl=60 max_ttl=600")).ok();
    let row = guide.row(&format!("vault read astra/role org_id=\"{ORG}\" role=\"r_w_user\""));
    assert_eq!((row["ttl"].as_str(), row["max_ttl"].as_str()), ("1m0s", "10m0s"));
    // Without times, or with 0, the time is a day.
    guide.run(&format!("vault write astra/role role_name=\"plain\" role_id=\"x\" org_id=\"{ORG}\"")).ok();
    guide
        .run(&format!("vault write astra/role role_name=\"zero\" role_id=\"x\" org_id=\"{ORG}\" ttl=0 max_ttl=0"))
        .ok();
    for name in ["plain", "zero"] {
        let row = guide.row(&format!("vault read astra/role org_id=\"{ORG}\" role=\"{name}\""));
        assert_eq!((row["ttl"].as_str(), row["max_ttl"].as_str()), ("24h0m0s", "24h0m0s"));
    }
    guide.run(&format!("vault delete astra/role org_id=\"{ORG}\" role=\"R_W_User\"")).ok();
    assert_eq!(guide.keys("vault list astra/roles"), ["plain", "zero"]);
}

#[test]
fn token_commands_of_the_guide_work_in_standard_mode() {
    let guide = Guide::new("guide-standard");
    guide.config("standard");
    guide.role();
    let minted = guide
        .minted(&format!("vault write astra/org/token org_id=\"{ORG}\" role_name=\"r_w_user\" logical_name=\"org1\""));
    let client_id = &minted["clientId"];
    for by in [format!("client_id=\"{client_id}\""), "role_name=\"r_w_user\" logical_name=\"org1\"".into()] {
        let row = guide.row(&format!("vault read astra/org/token {by} org_id=\"{ORG}\""));
        guide.assert_token(&row);
        assert!(row["token"] == minted["token"], "the read returned another token");
        assert!(!row.contains_key("lease_id"));
    }
    // The combination of names must be unique.
    let again = format!("vault write astra/org/token org_id=\"{ORG}\" role_name=\"R_W_User\" logical_name=\"Org1\"");
    assert!(guide.run(&again).fails().contains("org1"));
    assert_eq!(guide.keys("vault list astra/org/tokens"), [client_id.as_str()]);
    renew_and_revoke(&guide, &minted);
    assert_eq!(guide.0.minted(), 1);
}

#[test]
fn token_commands_of_the_guide_work_in_sidecar_mode() {
    let guide = Guide::new("guide-sidecar");
    guide.config("sidecar");
    guide.role();
    let minted = guide
        .minted(&format!("vault read astra/org/token org_id=\"{ORG}\" role_name=\"r_w_user\" logical_name=\"org1\""));
    assert_eq!(guide.keys("vault list astra/org/tokens"), [minted["clientId"].as_str()]);
    let write = format!("vault write astra/org/token org_id=\"{ORG}\" role_name=\"r_w_user\" logical_name=\"org1\"");
    assert!(guide.run(&write).fails().contains("read"));
    let fetch = format!("vault read astra/org/token client_id=\"{}\" org_id=\"{ORG}\"", minted["clientId"]);
    guide.run(&fetch).fails();
    renew_and_revoke(&guide, &minted);
    assert_eq!(guide.0.minted(), 1);
}

fn renew_and_revoke(guide: &Guide, minted: &BTreeMap<String, String>) {
    let lease = &minted["lease_id"];
    let row = guide.row(&format!("vault lease lookup {lease}"));
    assert_eq!(&row["id"], lease);
    let listed: Value =
        guide.run(&format!("vault list -format=json sys/leases/lookup/{}/org/token", guide.0.mount)).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));

    let row = guide.row(&format!("vault lease renew -increment=3600 {lease}"));
    assert_eq!(&row["lease_id"], lease);
    assert_eq!(row["lease_duration"], "1h");
    assert_eq!(row["lease_renewable"], "true");

    guide.run(&format!("vault lease revoke -sync {lease}")).ok();
    assert!(!guide.0.is_alive(&minted["clientId"]));
    assert!(guide.run("vault list astra/org/tokens").fails().contains("No value found"));
}

#[test]
fn a_revocation_in_the_background_deletes_the_token() {
    let guide = Guide::new("guide-revoke");
    guide.config("standard");
    guide.role();
    let minted = guide
        .minted(&format!("vault write astra/org/token org_id=\"{ORG}\" role_name=\"r_w_user\" logical_name=\"org1\""));
    guide.run(&format!("vault lease revoke {}", minted["lease_id"])).ok();
    guide.0.wait_for(std::time::Duration::from_secs(30), |astra| astra.live(ORG).is_empty());
}

/// Installs a binary, then upgrades to a newer binary: a different file, and so a different checksum and process.
#[test]
fn an_upgrade_keeps_config_and_leases() {
    let server = Arc::new(Server::dev());
    let run = |args: &[&str]| server.cli(args);
    let register = |command: &str, version: &str| {
        let sha256 = format!("-sha256={}", sha256(&server.plugin_dir().join(command)));
        let command = format!("-command={command}");
        let args = ["plugin", "register", &sha256, &command, version, "secret", PLUGIN];
        let said = run(&args.into_iter().filter(|arg| !arg.is_empty()).collect::<Vec<_>>()).ok();
        assert!(said.contains("Success!") && said.contains(PLUGIN), "{said}");
    };
    register(PLUGIN, "");
    run(&["secrets", "enable", PLUGIN]).ok();
    let world = World::with_astra(&server, PLUGIN, Astra::builder());
    let org = world.configured("shop", crate::world::Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    let before = server.plugins();

    let newer = format!("{PLUGIN}_{VERSION}");
    install_other(&server, &newer);
    register(&newer, &format!("-version={VERSION}"));
    run(&["secrets", "tune", &format!("-plugin-version={VERSION}"), PLUGIN]).ok();
    assert_eq!(server.plugins(), before);
    run(&["plugin", "reload", "-plugin", PLUGIN]).ok();

    let mounts = run(&["secrets", "list", "-detailed", "-format=json"]).json();
    let mount = &mounts[format!("{PLUGIN}/")];
    assert_eq!(mount["plugin_version"], VERSION);
    assert_eq!(mount["running_plugin_version"], VERSION);
    assert_eq!(mount["running_sha256"], sha256(&server.plugin_dir().join(&newer)).as_str());
    assert_eq!(world.fetch(&org, &token).data()["token"], token.data["token"]);
    world.renew(&token, 0).ok();
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
}

/// The commands that `-help` prints work unchanged.
#[test]
fn the_commands_in_the_help_register_and_upgrade_the_plugin() {
    let server = Server::dev();
    let elsewhere = tempfile::Builder::new().prefix("it's else where").tempdir().expect("temporary directory");
    let binary = elsewhere.path().join("plugin's");
    std::fs::copy(server.plugin_dir().join(PLUGIN), &binary).expect("copy the plugin");
    let output = std::process::Command::new(&binary).arg("-help").env_clear().output().expect("run the plugin");
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("text").replace("\\\n", "");
    let commands: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(commands.iter().filter(|line| line.starts_with("vault ")).count(), 4, "{help}");

    let run = |word: &str| {
        let line = commands.iter().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no {word}\n{help}"));
        let mut shell = std::process::Command::new("sh");
        shell.arg("-ec").arg(format!("vault() {{ \"$HOST_BIN\" \"$@\"; }}; {line}"));
        shell.envs(server.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("HOST_BIN", host_binary()).env("PLUGIN_DIRECTORY", server.plugin_dir());
        let output = shell.output().expect("run a shell");
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{told}");
    };
    run("install ");
    run("vault plugin register ");
    run("vault secrets enable ");
    let mount = || server.cli(&["secrets", "list", "-detailed", "-format=json"]).json()[format!("{PLUGIN}/")].clone();
    assert_eq!(mount()["running_sha256"], sha256(&binary).as_str());
    assert_eq!(mount()["running_plugin_version"], VERSION);
    run("vault secrets tune ");
    run("vault plugin reload ");
    assert_eq!(mount()["plugin_version"], VERSION);
}

/// Installs a copy of the plugin with additional bytes after the end of the program.
fn install_other(server: &Server, name: &str) {
    let file = server.plugin_dir().join(format!(".{name}"));
    install(&file);
    let mut program = std::fs::read(&file).expect("read the plugin");
    std::fs::remove_file(&file).expect("remove the link");
    program.extend_from_slice(b"newer");
    let target = server.plugin_dir().join(name);
    std::fs::write(&target, program).expect("write the plugin");
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&target, executable).expect("make the plugin executable");
}
