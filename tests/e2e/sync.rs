//! `roles/sync` and `update_roles.sh`, used as an operator uses them.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::astra::{Astra, AstraFault, Kind, Org, RoleStyle, Route, Seed, built_in_id};
use crate::bao::{Client, host_binary, redact};
use crate::world::World;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/update_roles.sh");

/// Two shells, because each rejects some scripts that the other accepts.
const SHELLS: [&str; 2] = ["dash", "bash"];

/// A search path with only the programs that the script may use: the CLI under one of its names, `sed` and `tr`.
struct Machine {
    shell: PathBuf,
    tools: TempDir,
}

/// The result of a run of the script.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Machine {
    fn new(shell: &str, cli: Option<&str>) -> Self {
        let tools = tempfile::tempdir().expect("temporary directory");
        for tool in ["sed", "tr"] {
            symlink(find(tool), tools.path().join(tool)).expect("link a tool");
        }
        if let Some(name) = cli {
            symlink(host_binary(), tools.path().join(name)).expect("link the CLI");
        }
        Self { shell: find(shell), tools }
    }

    /// Runs the script as this caller.
    fn run(&self, client: &Client, environment: &[(&str, &str)]) -> Run {
        let output = Command::new(&self.shell)
            .arg(SCRIPT)
            .env_clear()
            .envs(client.command().get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("PATH", self.tools.path())
            .envs(environment.iter().copied())
            .output()
            .expect("run the script");
        let text = |bytes: &[u8]| redact::clean(&String::from_utf8_lossy(bytes));
        // The CLI wraps its lines at any place.
        let stderr = text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        Run { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr }
    }
}

impl Run {
    /// Returns the lines of a run, sorted. The run must succeed without warnings.
    #[track_caller]
    fn ok(self) -> Vec<String> {
        assert!(self.code == 0 && self.stderr.is_empty(), "{}", self.told());
        let mut lines: Vec<String> = self.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Returns the error text of a run that must fail, and checks the lines of the run.
    #[track_caller]
    fn fails(self, lines: &[String]) -> String {
        assert!(self.code != 0, "{}", self.told());
        assert_eq!(self.stdout.lines().collect::<Vec<_>>(), lines, "{}", self.told());
        self.stderr
    }

    fn told(&self) -> String {
        format!("exit code {}\nstdout:\n{}\nstderr:\n{}", self.code, self.stdout, self.stderr)
    }
}

#[track_caller]
fn find(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("a search path");
    let found = std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("this test needs {tool}, which is not in PATH; install it"))
}

fn line(org: &Org, role: &str) -> String {
    format!("created role {role} for org_id {}", org.id)
}

/// Names in Vault of the built-in roles.
fn built_in() -> Vec<&'static str> {
    vec![
        "admin_svc_acct",
        "admin_user",
        "api_admin_svc_acct",
        "api_admin_user",
        "api_r_w_svc_acct",
        "api_r_w_user",
        "api_ro_svc_acct",
        "api_ro_user",
        "billing_admin",
        "database_administrator",
        "organization_administrator",
        "r_w_svc_acct",
        "r_w_user",
        "ro_svc_acct",
        "ro_user",
        "ui_view_only",
    ]
}

fn lines(org: &Org, roles: &[&str]) -> Vec<String> {
    roles.iter().map(|role| line(org, role)).collect()
}

fn role(world: &World, org: &Org, name: &str) -> Value {
    world.get(&format!("role?org_id={}&role_name={name}", org.id)).data()
}

/// Returns a configured org.
fn configured(world: &World) -> Org {
    let org = world.next_org();
    world.configure(&org, &json!({"request_timeout": "5s"}));
    org
}

#[test]
fn the_script_creates_every_role_of_every_org() {
    for (shell, cli) in SHELLS.into_iter().zip(["vault", "bao"]) {
        let machine = Machine::new(shell, Some(cli));
        let world = World::new();
        let orgs = [configured(&world), configured(&world)];
        let custom = world.create_role(&orgs[1].id, "My team's role (EU)", &["db-cql"]);
        world.role(&orgs[0], "r_w_user", 60, 600);

        let mount = [("ASTRA_MOUNT", world.mount.as_str())];
        let mut expected: Vec<String> = lines(&orgs[0], &built_in());
        expected.retain(|made| *made != line(&orgs[0], "r_w_user"));
        expected.extend(lines(&orgs[1], &built_in()));
        expected.push(line(&orgs[1], "my_team_s_role_eu_"));
        expected.sort();
        assert_eq!(machine.run(&world.server, &mount).ok(), expected, "{shell}");

        let made = role(&world, &orgs[1], "my_team_s_role_eu_");
        assert_eq!(
            (&made["role_id"], &made["ttl"], &made["max_ttl"]),
            (&json!(custom), &json!("24h0m0s"), &json!("24h0m0s"))
        );
        let kept = role(&world, &orgs[0], "r_w_user");
        assert_eq!((&kept["role_id"], &kept["ttl"]), (&json!(built_in_id("R/W User")), &json!("1m0s")));
        // Slashes around the mount make no difference. The user can set the format of the names.
        let mount = format!("{}/", world.mount);
        let again = [("ASTRA_MOUNT", mount.as_str()), ("VAULT_FORMAT", "json"), ("BAO_FORMAT", "json")];
        assert_eq!(machine.run(&world.server, &again).ok(), Vec::<String>::new(), "{shell}");
        // An imported role can mint.
        let token = world.mint(&orgs[1], "my_team_s_role_eu_", "cart");
        assert!(world.is_alive(&token.client_id));
    }
}

#[test]
fn the_script_imports_more_organizations_than_one_page_has() {
    for (shell, cli) in SHELLS.into_iter().zip(["vault", "bao"]) {
        let machine = Machine::new(shell, Some(cli));
        let world = World::new();
        // Labels of one organization. The CLI takes a value that begins with "@" for the name of a file.
        let one = world.next_org();
        let orgs: Vec<Org> = (0..35).map(|n| Org { id: format!("@team {n:02}"), ..one.clone() }).collect();
        for org in &orgs {
            world.configure(org, &json!({"verify_connection": false}));
        }
        let mut expected: Vec<String> = orgs.iter().flat_map(|org| lines(org, &built_in())).collect();
        expected.sort();
        let mount = [("ASTRA_MOUNT", world.mount.as_str())];
        assert_eq!(machine.run(&world.server, &mount).ok(), expected, "{shell}");
        assert_eq!(machine.run(&world.server, &mount).ok(), Vec::<String>::new(), "{shell}");
    }
}

#[test]
fn roles_are_imported_in_every_known_json_style() {
    let world = World::new();
    let org = configured(&world);
    let mut styles = vec![RoleStyle::Lower, RoleStyle::Pascal, RoleStyle::PascalStringPolicy, RoleStyle::Spec];
    while let Some(style) = styles.pop() {
        world.knobs(|knobs| knobs.role_style = style);
        let answer = world.post("roles/sync", &json!({"org_id": org.id})).ok();
        let kind = if styles.len() == 3 { "created" } else { "unchanged" };
        assert_eq!(answer["data"][kind][&org.id], json!(built_in()), "{style:?}");
        assert!(answer["warnings"].is_null(), "{style:?}");
        world.assert_no_secret("the answer", &answer.to_string());
    }
}

#[test]
fn the_default_mount_of_the_script_is_astra() {
    let server = std::sync::Arc::new(crate::bao::Server::dev());
    let world = World::at_mount(&server, "astra");
    let org = configured(&world);
    for shell in SHELLS {
        let machine = Machine::new(shell, Some("vault"));
        let made = machine.run(&server, &[]).ok();
        assert_eq!(made, if shell == SHELLS[0] { lines(&org, &built_in()) } else { vec![] });
    }
}

#[test]
fn if_one_org_fails_the_script_imports_the_others_and_fails() {
    for shell in SHELLS {
        let machine = Machine::new(shell, Some("bao"));
        let world = World::new();
        let (one, down, two) = (configured(&world), configured(&world), configured(&world));
        let fault = world.fault(
            AstraFault::before(Kind::Error { code: 403, id: 340_003, message: "not for you".into() })
                .route(Route::ListRoles)
                .org(&down.id),
        );
        let mut made = lines(&one, &built_in());
        made.extend(lines(&two, &built_in()));
        made.sort();
        let run = machine.run(&world.server, &[("ASTRA_MOUNT", &world.mount)]);
        let mut lines_made: Vec<String> = run.stdout.lines().map(str::to_owned).collect();
        lines_made.sort();
        assert_eq!(lines_made, made, "{shell}");
        let said = Run { stdout: String::new(), ..run }.fails(&[]);
        for part in [&*down.id, "not for you", "org-role-read", "update_roles.sh: "] {
            assert!(said.contains(part), "{shell}: {said}");
        }
        assert!(!said.contains(&one.id) && !said.contains(&two.id), "{shell}: {said}");

        // The same import without the script.
        let answer = world.post("roles/sync", &json!({})).ok();
        assert_eq!(answer["data"]["errors"].as_object().expect("errors").keys().collect::<Vec<_>>(), [&down.id]);
        let text = world.post("roles/sync", &json!({"org_id": down.id})).fails(403);
        assert!(text.contains("org-role-read"), "{text}");

        world.clear_fault(fault);
        let rest = machine.run(&world.server, &[("ASTRA_MOUNT", &world.mount)]).ok();
        assert_eq!(rest, lines(&down, &built_in()), "{shell}");
    }
}

#[test]
fn if_astra_is_down_the_script_shows_the_error_of_the_server() {
    for shell in SHELLS {
        let machine = Machine::new(shell, Some("bao"));
        let world = World::new();
        configured(&world);
        world.refuse_connections(true);
        let said = machine.run(&world.server, &[("ASTRA_MOUNT", &world.mount)]).fails(&[]);
        assert!(said.contains("Code: 503") && said.contains("Astra cannot be reached"), "{shell}: {said}");
    }
}

#[test]
fn the_script_warns_about_roles_that_it_does_not_import() {
    for shell in SHELLS {
        let machine = Machine::new(shell, Some("vault"));
        let world = World::new();
        let org = configured(&world);
        world.create_role(&org.id, "Team (one)", &["db-cql"]);
        world.create_role(&org.id, "team/one/", &["db-cql"]);
        world.role(&org, "by_hand", 60, 600);
        world.post("role", &json!({"org_id": org.id, "role_name": "gone", "role_id": "gone"})).ok();
        let run = machine.run(&world.server, &[("ASTRA_MOUNT", &world.mount)]);
        assert!(run.code == 0, "{}", run.told());
        assert_eq!(run.stdout.lines().collect::<Vec<_>>(), lines(&org, &built_in()));
        for part in [
            "\"team_one_\" was not imported",
            "\"Team (one)\", \"team/one/\"",
            "\"by_hand\" is \"API R/W User\" in Astra",
            "which were not changed: \"gone\"",
        ] {
            assert!(run.stderr.contains(part), "{shell}: {}", run.stderr);
        }
        assert_eq!(world.keys("roles").len(), built_in().len() + 2);
    }
}

#[test]
fn the_script_fails_with_a_reason_for_each_mistake() {
    let world = World::new();
    let org = configured(&world);
    let empty = World::new();
    world
        .server
        .http(
            "PUT",
            "sys/policies/acl/sync-only",
            &json!({
        "policy": format!("path \"{}/roles/sync\" {{ capabilities = [\"update\"] }}", world.mount)}),
        )
        .ok();
    let token = |policy: &str| {
        let made = world.server.post("auth/token/create", &json!({"policies": [policy]})).ok();
        let token = made["auth"]["client_token"].as_str().expect("a token").to_owned();
        redact::hide(&token);
        world.server.with_token(&token)
    };
    let (allowed, denied) = (token("sync-only"), token("default"));
    for shell in SHELLS {
        let machine = Machine::new(shell, Some("bao"));
        let fails = |client: &Client, mount: &str, expected: &[&str]| {
            let said = machine.run(client, &[("ASTRA_MOUNT", mount)]).fails(&[]);
            for part in expected {
                assert!(said.contains(part), "{shell}: {said}");
            }
        };
        fails(&world.server, "nowhere", &["Code: 404", "nowhere/roles/sync"]);
        fails(&world.server, &empty.mount, &["Code: 400", "no organization has a config"]);
        fails(&denied, &world.mount, &["Code: 403", "permission denied"]);

        let alone = Machine::new(shell, None);
        let said = alone.run(&world.server, &[("ASTRA_MOUNT", &world.mount)]).fails(&[]);
        assert_eq!(said.trim(), "update_roles.sh: neither \"vault\" nor \"bao\" is in PATH: install one of them");
    }
    // The operator needs only one path.
    let machine = Machine::new(SHELLS[0], Some("vault"));
    assert_eq!(machine.run(&allowed, &[("ASTRA_MOUNT", &world.mount)]).ok(), lines(&org, &built_in()));
}

/// If the role of the root token is deleted, Astra rejects the import.
#[test]
fn a_rejected_import_names_the_missing_permission() {
    let astra = Astra::builder().org(Seed::new().role("no-such-role"));
    let world = World::with(astra);
    let org = world.next_org();
    world.configure(&org, &json!({"verify_connection": false}));
    let text = world.post("roles/sync", &json!({})).fails(403);
    assert!(text.contains("org-role-read"), "{text}");
}
