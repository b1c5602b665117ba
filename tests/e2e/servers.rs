//! The differences between Vault and OpenBao.
//!
//! This table is the only place that lists them. A test that expects another result on Vault asks [`on_vault`] for its
//! row. `docs/servers.md` shows the rows to users.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::attacks::is_test;
use crate::bao::{Product, Server, host_binary};
use crate::docs::{OPENBAO, VAULT, agrees};
use crate::world::{Mode, World};

/// A difference between the two servers.
struct Difference {
    /// Key of the row.
    name: &'static str,
    /// The difference, in words for users.
    what: &'static str,
    openbao: &'static str,
    vault: &'static str,
    /// Advice for users.
    advice: &'static str,
    /// Tests whose result depends on the server: file below `tests/e2e/`, and name.
    tests: &'static [(&'static str, &'static str)],
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "reload by mount",
        what: "`plugin reload -mounts=astra/`",
        openbao: "reloads the mount",
        vault: "returns 404: the CLI sends no mounts, and requests a plugin without a name",
        advice: "`vault write sys/plugins/reload/backend mounts=astra/` works on both",
        tests: &[("lifecycle.rs", "leases_survive_a_reload_of_the_plugin")],
    },
    Difference {
        name: "failed reload",
        what: "a reload with a version that cannot start",
        openbao: "the mount returns 404 until a reload succeeds",
        vault: "the old version continues to answer",
        advice: "[run the binary](upgrade.md#2-register-the-new-version) before you register it",
        tests: &[("facts.rs", "a_binary_that_cannot_start_can_be_registered")],
    },
    Difference {
        name: "reload of a mount without a plugin",
        what: "a reload of a mount whose plugin could not start when the server was unsealed",
        openbao: "the mount works again",
        vault: "reads work again. Each write returns 500 `cannot write to storage during setup`",
        advice: "on Vault, [restart the server](troubleshooting.md#no-handler-for-route)",
        tests: &[("facts.rs", "leases_that_expire_while_the_plugin_cannot_start_can_be_revoked")],
    },
    Difference {
        name: "reads of standbys",
        what: "reads at a standby",
        openbao: "the standby runs its own plugin. The plugin answers each read that does not need Astra. Once an hour for each token, it forwards a read of the token",
        vault: "the standby forwards every request to the active node, and runs no plugin",
        advice: "with `X-Vault-No-Request-Forwarding`, a standby of Vault returns 307 to every request",
        tests: &[
            ("cluster.rs", "standbys_forward_changes_and_astra_gets_each_change_once"),
            ("cluster.rs", "callers_at_all_nodes_get_one_token_for_one_name"),
            ("cluster.rs", "standbys_show_changes_of_the_active_node_within_a_second"),
            ("cluster.rs", "a_new_active_node_finishes_the_work_of_a_killed_node"),
            ("cluster.rs", "a_plugin_of_a_killed_server_stops_and_its_leases_survive"),
        ],
    },
    Difference {
        name: "environment of a plugin",
        what: "a variable that both the server's environment and the plugin's registration set",
        openbao: "the server's value wins",
        vault: "the plugin's value wins",
        advice: "with `VAULT_PLUGIN_USE_LEGACY_ENV_LAYERING=true`, the server's value also wins on Vault",
        tests: &[("proxy/mod.rs", "proxy_variables_have_the_documented_precedence")],
    },
    Difference {
        name: "namespaces",
        what: "namespaces",
        openbao: "a mount works in any namespace",
        vault: "the community edition has no namespaces: `sys/namespaces` returns 404",
        advice: "Vault Enterprise has namespaces. No test runs on Vault Enterprise",
        tests: &[
            ("lifecycle.rs", "a_mount_in_a_namespace_works"),
            ("facts.rs", "deleting_a_namespace_revokes_no_lease"),
            ("facts.rs", "leases_of_a_sealed_namespace_are_revoked_when_it_is_unsealed"),
        ],
    },
    Difference {
        name: "limits of JSON",
        what: "a body with broken JSON, a duplicate key, a text of more than 1 MiB, more than 300 levels, or more than 10 000 \
               members in one place",
        openbao: "broken JSON returns 400. Other bodies reach the engine, which returns 400 or accepts them",
        vault: "the server returns 500, and the engine does not see the body",
        advice: "the settings `max_json_*` of Vault's listener set the limits",
        tests: &[
            ("servers.rs", "json_that_vault_refuses_does_not_reach_the_engine"),
            ("attacks/callers.rs", "hostile_values_in_any_field_change_no_other_org"),
            ("attacks/callers.rs", "metadata_above_64_kib_is_refused"),
            ("attacks/callers.rs", "a_ca_cert_above_512_kib_is_refused"),
        ],
    },
    Difference {
        name: "scan",
        what: "the method `SCAN`",
        openbao: "returns 403 if the policy does not allow it",
        vault: "returns 405: the method does not exist",
        advice: "the engine has nothing to scan",
        tests: &[("policies.rs", "each_policy_allows_its_requests_and_no_others")],
    },
    Difference {
        name: "audit devices",
        what: "`audit enable`",
        openbao: "fails: audit devices are part of the server's configuration",
        vault: "works",
        advice: "the audit log has the same entries for the engine",
        tests: &[("servers.rs", "only_vault_enables_audit_devices_by_api")],
    },
    Difference {
        name: "memory locking",
        what: "integrated storage without `disable_mlock` in the configuration",
        openbao: "the server starts",
        vault: "the server does not start",
        advice: "set `disable_mlock` to true or false",
        tests: &[("servers.rs", "integrated_storage_of_vault_needs_disable_mlock")],
    },
    Difference {
        name: "paging",
        what: "`list -limit=10 astra/org/tokens`",
        openbao: "lists ten keys. `-after` lists the next keys",
        vault: "the CLI has no such flags",
        advice: "`vault read astra/org/tokens list=true limit=10` works on both",
        tests: &[("servers.rs", "a_list_with_a_limit_returns_one_page_of_tokens")],
    },
    Difference {
        name: "type of the mount",
        what: "the JSON of an answer",
        openbao: "has no `mount_type`",
        vault: "has `mount_type`, which is the name of the plugin",
        advice: "all other members are the same",
        tests: &[("docs/reference.rs", "the_reference_matches_the_paths_and_the_answers")],
    },
    Difference {
        name: "lease lookup",
        what: "`lease lookup`",
        openbao: "shows the `path` of the lease",
        vault: "does not show the `path`",
        advice: "the id of the lease begins with the path",
        tests: &[("docs/reference.rs", "the_reference_matches_the_paths_and_the_answers")],
    },
];

/// Returns whether a test that knows this difference runs on Vault.
#[track_caller]
pub(crate) fn on_vault(difference: &str) -> bool {
    let known = DIFFERENCES.iter().any(|row| row.name == difference);
    assert!(known, "{difference:?} is not a row of the table in tests/e2e/servers.rs");
    Product::of_host() == Product::Vault
}

#[test]
fn the_documented_differences_match_the_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_else(|_| panic!("{file}"));
    let mut found = String::from("| feature | OpenBao | Vault | advice | test |\n| --- | --- | --- | --- | --- |\n");
    let mut names = BTreeSet::new();
    let sources = sources(&folder);
    for Difference { name, what, openbao, vault, advice, tests } in DIFFERENCES {
        assert!(names.insert(name), "two rows have the name {name:?}");
        assert!(sources.contains(&format!("on_vault({name:?})")), "no test asks for {name:?}");
        let mut cells = Vec::new();
        for (file, test) in *tests {
            assert!(is_test(&read(file), test), "no test {test} in {file}");
            cells.push(format!("[`{test}`](../tests/e2e/{file})"));
        }
        let _ = writeln!(found, "| {what} | {openbao} | {vault} | {advice} | {} |", cells.join("<br>"));
    }
    agrees(
        "docs/servers.md",
        "<!-- the differences that the tests see: DOCS_WRITE=1 cargo test --test e2e servers -->\n",
        "<!-- end -->",
        &found,
        "servers",
    );
}

/// Returns the text of all files in a folder of tests.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| match path.is_dir() {
            true => sources(&path),
            false => fs::read_to_string(&path).expect("text"),
        })
        .collect()
}

#[test]
fn json_that_vault_refuses_does_not_reach_the_engine() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    let with = |member: String| format!("{{\"org_id\":\"{}\",{member}}}", org.id);
    // A write with only the `org_id` changes nothing. Each row has Vault's error and OpenBao's status.
    let wrong = [
        ("{\"org_id\":".to_owned(), "malformed JSON, unclosed containers", 400),
        (with("\"x\":1,\"x\":2".to_owned()), "duplicate key 'x'", 200),
        (with(format!("\"x\":\"{}\"", "x".repeat((1 << 20) + 1))), "JSON string value exceeds allowed length", 200),
        (
            with(format!("\"x\":{}{}", "[".repeat(300), "]".repeat(300))),
            "JSON input exceeds allowed nesting depth",
            400,
        ),
        (with(format!("\"x\":[{}1]", "1,".repeat(10_000))), "JSON array exceeds allowed element count", 200),
    ];
    for (body, told, status) in wrong {
        let reply = world.server.send("POST", &world.at("config"), Some(body)).expect("an answer");
        if on_vault("limits of JSON") {
            assert!(reply.status == 500 && reply.errors().contains(told), "{told}: {reply}");
        } else {
            assert_eq!(reply.status, status, "{told}: {reply}");
        }
    }
    assert_eq!(world.keys("configs"), [org.id]);
}

#[test]
fn only_vault_enables_audit_devices_by_api() {
    let server = Server::dev();
    let file = format!("file_path={}", server.plugin_dir().with_file_name("audit.log").display());
    let output = server.cli(&["audit", "enable", "file", &file]);
    if on_vault("audit devices") {
        output.ok();
    } else {
        assert!(output.fails().contains("config-based audit device"));
    }
}

#[test]
fn integrated_storage_of_vault_needs_disable_mlock() {
    if !on_vault("memory locking") {
        // No OpenBao server of the tests has this line in its configuration.
        let server = Server::raft();
        let config = fs::read_to_string(server.plugin_dir().with_file_name("config.hcl")).expect("the configuration");
        assert!(!config.contains("disable_mlock"), "{config}");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("create a directory");
    let config = dir.path().join("config.hcl");
    let text = format!(
        "storage \"raft\" {{\n  path = {data:?}\n  node_id = \"one\"\n}}\nlistener \"tcp\" {{\n  address = \"127.0.0.1:0\"\n  \
         tls_disable = true\n}}\napi_addr = \"http://127.0.0.1:1\"\ncluster_addr = \"http://127.0.0.1:1\"\n"
    );
    fs::write(&config, text).expect("write the configuration");
    let output =
        Command::new(host_binary()).arg("server").arg("-config").arg(&config).output().expect("run the server");
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && told.contains("disable_mlock must be configured"), "{told}");
}

#[test]
fn a_list_with_a_limit_returns_one_page_of_tokens() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let mut ids: Vec<String> = ["one", "two", "three"].map(|name| world.mint(&org, "reader", name).client_id).into();
    ids.sort();
    let path = world.at("org/tokens");
    let after = format!("after={}", ids[0]);
    let page = world.server.cli(&["read", "-format=json", &path, "list=true", "limit=1", &after]).json();
    assert_eq!(page["data"]["keys"], json!([ids[1]]));
    let output = world.server.cli(&["list", "-limit=1", &path]);
    if on_vault("paging") {
        assert!(output.fails().contains("flag provided but not defined"));
    } else {
        assert!(output.ok().contains(&ids[0]));
    }
}

#[test]
fn the_readme_names_the_tested_servers() {
    let readme = include_str!("../../README.md");
    let row = |product: &str| {
        let start = format!("| {product} | {product} ");
        readme
            .lines()
            .find_map(|line| line.strip_prefix(&start)?.split([',', ' ']).next())
            .expect("a row of the README")
    };
    assert_eq!((row("OpenBao"), row("Vault")), (OPENBAO.as_str(), VAULT.as_str()));
}
