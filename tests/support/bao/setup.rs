//! Prepares a server: directory, port, arguments, configuration, and the plugin's binary.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{PLUGIN, Product};
use crate::plugin::binary;

/// Enables `sys/raw`. Through it, tests write entries that another version of the plugin would have stored.
pub(super) const RAW: &str = "raw_storage_endpoint = true";

/// Returns the arguments of every server in dev mode.
pub(super) fn dev_args(port: u16) -> Vec<String> {
    let mut args: Vec<String> =
        ["server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token"].map(String::from).into();
    args.push(format!("-dev-listen-address=127.0.0.1:{port}"));
    args
}

/// Returns the lower-case hex SHA-256 of a file.
pub(crate) fn sha256(file: &Path) -> String {
    let digest = Sha256::digest(fs::read(file).expect("read the file"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts the plugin's binary into a directory.
pub(crate) fn install(plugin: &Path) {
    let built = binary();
    // A hard link cannot cross file systems.
    if fs::hard_link(built, plugin).is_err() {
        fs::copy(built, plugin).expect("copy the plugin");
    }
}

/// Returns the `PATH` of child processes.
pub(super) fn search_path() -> String {
    std::env::var("PATH").expect("a search path")
}

/// Returns the server's binary.
pub(crate) fn host_binary() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("HOST_BIN").map_or_else(|| repository.join(".cache/bao/bao"), PathBuf::from);
    assert!(path.is_file(), "no server at {}: \"make test\" fetches one, or set HOST_BIN", path.display());
    path.canonicalize().expect("path of the server")
}

/// Makes the directory of a server. The path is short, because it holds sockets, and has no symbolic links.
pub(super) fn new_dir() -> PathBuf {
    let dir = tempfile::Builder::new().prefix("e2e-").tempdir().expect("temporary directory").keep();
    let dir = dir.canonicalize().expect("path of the temporary directory");
    for name in ["home", "tmp", "plugins", "data"] {
        fs::create_dir(dir.join(name)).expect("create a directory");
    }
    install(&dir.join("plugins").join(PLUGIN));
    dir
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("free port").port()
}

/// Returns a configuration with fast elections.
pub(super) fn raft_config(dir: &Path, port: u16, id: &str) -> String {
    format!(
        r#"
storage "raft" {{
  path = "{data}"
  node_id = "{id}"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_disable = true
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster}"
plugin_directory = "{plugins}"
{mlock}
{RAW}
"#,
        data = dir.join("data").display(),
        cluster = free_port(),
        // Vault does not start integrated storage without this setting.
        mlock = if Product::of_host() == Product::Vault { "disable_mlock = true" } else { "" },
        plugins = dir.join("plugins").display(),
    )
}
