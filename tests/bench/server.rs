//! The measured system: one server, one simulated Astra, and a mount of each plugin with stored tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::astra::{Astra, Org};
use crate::bao::{Options, Server, sha256, wait};
use crate::wire::ROLE_ID;

/// Mount of the server's `kv` engine, the baseline of all comparisons.
pub(crate) const BASELINE: &str = "baseline";

/// Number of roles in each org, and of keys in the `kv` engine.
pub(crate) const ROLES: usize = 10;

/// Number of connections that write entries.
const WRITERS: usize = 8;

/// A plugin in the catalog.
pub(crate) struct Plugin {
    /// Name of the plugin in the catalog, and of its binary.
    pub(crate) name: &'static str,
    pub(crate) binary: PathBuf,
}

/// A server, its plugins and a simulated Astra.
pub(crate) struct BenchServer {
    pub(crate) server: Server,
    pub(crate) astra: Astra,
    pub(crate) plugins: Vec<Plugin>,
}

impl BenchServer {
    pub(crate) fn new(binaries: &[(&'static str, &Path)]) -> Self {
        let server = Server::dev_with(&Options { log_level: "error", ..Options::default() });
        server.post(&format!("sys/mounts/{BASELINE}"), &json!({"type": "kv", "options": {"version": "1"}})).ok();
        for number in 0..ROLES {
            let role = json!({"role_name": role(number), "role_id": ROLE_ID, "ttl": "1h0m0s", "max_ttl": "10h0m0s"});
            server.post(&format!("{BASELINE}/{}", role_name(number)), &role).ok();
        }
        let mut plugins = Vec::new();
        for &(name, binary) in binaries {
            let installed = server.plugin_dir().join(name);
            fs::copy(binary, &installed).expect("copy a plugin");
            fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).expect("make a plugin executable");
            let entry = json!({"sha256": sha256(&installed), "command": name});
            server.post(&format!("sys/plugins/catalog/secret/{name}"), &entry).ok();
            plugins.push(Plugin { name, binary: binary.to_owned() });
        }
        Self { server, astra: Astra::builder().orgs(2).spawn(), plugins }
    }

    /// Returns the process id of a plugin; `None` if the plugin has no mounts.
    pub(crate) fn pid(&self, plugin: &str) -> Option<u32> {
        let runs = |pid: &u32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
            program.is_some_and(|program| program.file_name().is_some_and(|name| name == plugin))
        };
        self.server.plugins().into_iter().find(runs)
    }

    pub(crate) fn enable(&self, plugin: &str, mount: &str) {
        self.server.post(&format!("sys/mounts/{mount}"), &json!({"type": plugin})).ok();
    }

    pub(crate) fn disable(&self, mount: &str) {
        self.server.delete(&format!("sys/mounts/{mount}")).ok();
    }

    /// Waits until the process of a plugin has ended. The server stops it with the last mount.
    pub(crate) fn wait_for_end(&self, plugin: &str) {
        wait("the plugin to end", Duration::from_secs(30), || self.pid(plugin).is_none().then_some(()));
    }

    /// Sets the delay of Astra's answers.
    pub(crate) fn delay_astra(&self, milliseconds: u64) {
        self.astra.knobs(|knobs| knobs.latency_ms = (milliseconds > 0).then_some((milliseconds, milliseconds)));
    }
}

/// A mount with an org in each caller mode and ten roles in each org.
pub(crate) struct TestMount {
    pub(crate) plugin: &'static str,
    /// Path of the mount.
    pub(crate) path: String,
    pub(crate) standard: Org,
    pub(crate) sidecar: Org,
    uuid: String,
    pub(crate) stored: usize,
}

impl TestMount {
    pub(crate) fn new(bench: &BenchServer, plugin: &'static str) -> Self {
        let [standard, sidecar] = bench.astra.orgs() else { panic!("two orgs") };
        let path = format!("at-{plugin}");
        bench.enable(plugin, &path);
        for (org, name, mode) in [(standard, "shop", "standard"), (sidecar, "side", "sidecar")] {
            let config = json!({"org_id": org.id, "astra_token": org.root_token, "url": bench.astra.url(),
                "logical_name": name, "caller_mode": mode});
            bench.server.post(&format!("{path}/config"), &config).ok();
            for number in 0..ROLES {
                let role = json!({"org_id": org.id, "role_name": role(number), "role_id": ROLE_ID,
                    "ttl": "1h", "max_ttl": "10h"});
                bench.server.post(&format!("{path}/role"), &role).ok();
            }
        }
        let data = bench.server.get(&format!("sys/mounts/{path}")).data();
        let uuid = data["uuid"].as_str().expect("the id of a mount").to_owned();
        Self { plugin, path, standard: standard.clone(), sidecar: sidecar.clone(), uuid, stored: 0 }
    }

    /// Stores tokens until there are `size` of them. Writes the same entries as the engine does for minted tokens. A
    /// plugin without an inventory ignores the records.
    pub(crate) fn fill(&mut self, bench: &BenchServer, size: usize) {
        let began = Instant::now();
        let new: Vec<usize> = (self.stored..size).collect();
        let mount = &*self;
        std::thread::scope(|threads| {
            for part in new.chunks(new.len().div_ceil(WRITERS).max(1)) {
                threads.spawn(move || {
                    for &number in part {
                        for (key, value) in stored_token(&mount.standard.id, number) {
                            let path = format!("sys/raw/logical/{}/{key}", mount.uuid);
                            bench.server.post(&path, &json!({"value": value.to_string()})).ok();
                        }
                    }
                });
            }
        });
        self.stored = self.stored.max(size);
        crate::say(&format!("stored {} tokens for {} in {:.1?}", new.len(), self.plugin, began.elapsed()));
    }
}

/// Returns the entries of a token: the token and its record.
pub(crate) fn stored_token(org: &str, number: usize) -> [(String, Value); 2] {
    let (client_id, role, name) = (client_id(number), role(number % ROLES), logical_name(number));
    let token_id = hex(&format!("{org}:{role}:{name}"));
    let token = json!({"clientId": client_id, "secret": hex(&client_id), "orgId": org, "roleName": role,
        "roles": [ROLE_ID], "token": format!("AstraCS:{client_id}:{}", hex(&name)),
        "generatedOn": "2026-01-02T03:04:05.678901234Z", "logicalName": name, "metadata": null});
    let record = json!({"token_id": token_id, "role_name": role, "logical_name": name, "metadata": {},
        "generated_on": "2026-01-02T03:04:05.678901234Z", "created_at": "2026-01-02T03:04:05Z",
        // The lease is still valid, so the sweep finds nothing to delete.
        "display_name": "token", "entity_id": "", "expires_at": "2126-01-02T03:04:05Z", "marker": ""});
    [(format!("token/{token_id}"), token), (format!("client/{org}/{client_id}"), record)]
}

pub(crate) fn role(number: usize) -> String {
    format!("reader-{number}")
}

fn role_name(number: usize) -> String {
    role(number)
}

pub(crate) fn logical_name(number: usize) -> String {
    format!("service-{number:06}")
}

pub(crate) fn client_id(number: usize) -> String {
    format!("StoredByTheBench{number:08}")
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
