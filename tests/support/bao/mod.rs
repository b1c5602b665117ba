//! A real Vault or OpenBao server with the plugin in its plugin directory.
//!
//! Every server has its own directory, home and port. It stops with the tests, however they end.

mod agent;
mod answer;
mod client;
pub(crate) mod cluster;
mod process;
pub(crate) mod redact;
mod setup;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

pub(crate) use agent::Agent;
pub(crate) use answer::{Output, Reply};
pub(crate) use client::Client;
use process::Process;
pub(crate) use process::alive;
use setup::{RAW, dev_args, free_port, new_dir, raft_config, search_path};
pub(crate) use setup::{host_binary, install, sha256};

/// Name of the plugin in the catalog, and of its binary.
pub(crate) const PLUGIN: &str = "vault-plugin-secrets-datastax-astra";

/// The plugin's version, as the plugin reports it.
pub(crate) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// A start is slow if many servers share few cores.
const START: Duration = Duration::from_secs(60);

/// Lets OpenBao enable audit devices through its API, as Vault does.
pub(crate) const AUDIT: &str = "unsafe_allow_api_audit_creation = true";

/// The product of the server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    OpenBao,
    Vault,
}

impl Product {
    /// Returns the product of `HOST_BIN`.
    pub(crate) fn of_host() -> Self {
        static PRODUCT: LazyLock<Product> = LazyLock::new(|| {
            let output = Command::new(host_binary()).arg("version").output().expect("run the CLI");
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            match told.split(' ').next() {
                Some("OpenBao") => Product::OpenBao,
                Some("Vault") => Product::Vault,
                _ => panic!("the server is neither OpenBao nor Vault: {told}"),
            }
        });
        *PRODUCT
    }
}

/// A server. It dereferences to a caller with its Vault root token.
pub(crate) struct Server {
    root: Client,
    dir: PathBuf,
    /// Arguments of the server command.
    args: Vec<String>,
    /// Folder that the server uses as the root of the file system.
    chroot: Option<PathBuf>,
    env: Vec<(String, String)>,
    /// Unseal key. `None` in dev mode.
    key: Option<String>,
    process: Mutex<Option<Process>>,
}

/// Log level, environment and other options of a server.
pub(crate) struct Options {
    /// Level of the server's log.
    pub(crate) log_level: &'static str,
    /// Additional environment.
    pub(crate) env: Vec<(String, String)>,
    /// Folder that the server uses as the root of the file system. Needed files have the same path in this folder.
    pub(crate) chroot: Option<PathBuf>,
    /// Additional lines of the configuration file.
    pub(crate) config: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_level: "debug", env: Vec::new(), chroot: None, config: "" }
    }
}

impl Server {
    /// Starts a server in dev mode. Its Vault root token is `root`, and the plugin is in its catalog.
    pub(crate) fn dev() -> Self {
        Self::dev_with(&Options::default())
    }

    /// Starts a server in dev mode with options.
    pub(crate) fn dev_with(options: &Options) -> Self {
        Self::first_start(|dir, port| {
            let plugins = dir.join("plugins");
            let mut args = dev_args(port);
            args.push(format!("-dev-plugin-dir={}", plugins.display()));
            let config = dir.join("config.hcl");
            fs::write(&config, format!("{RAW}\n{}\n", options.config)).expect("write the configuration");
            args.push(format!("-config={}", config.display()));
            args.push(format!("-log-level={}", options.log_level));
            Self::new(dir, port, args, options)
        })
    }

    /// Starts a server in dev mode without a plugin directory.
    pub(crate) fn dev_without_plugins() -> Self {
        Self::first_start(|dir, port| Self::new(dir, port, dev_args(port), &Options::default()))
    }

    /// Starts an unsealed server with integrated storage, which survives restarts. The plugin is in its catalog.
    pub(crate) fn raft() -> Self {
        let server = Self::raft_with("");
        server.register();
        server
    }

    /// Starts an unsealed server with integrated storage and additional lines of configuration. The plugin is not in its
    /// catalog, unless these lines register it.
    pub(crate) fn raft_with(lines: &str) -> Self {
        let mut server = Self::raft_node("one", lines);
        server.init();
        server.unseal();
        server
    }

    /// Starts a server with integrated storage, without initializing it.
    fn raft_node(id: &str, lines: &str) -> Self {
        let options = Options::default();
        Self::first_start(|dir, port| {
            let config = dir.join("config.hcl");
            fs::write(&config, raft_config(dir, port, id) + lines).expect("write the configuration");
            let args = vec![
                "server".into(),
                format!("-config={}", config.display()),
                format!("-log-level={}", options.log_level),
            ];
            Self::new(dir, port, args, &options)
        })
    }

    /// Initializes the server: creates the unseal key and the Vault root token.
    fn init(&mut self) {
        let init = self.post("sys/init", &json!({"secret_shares": 1, "secret_threshold": 1})).ok();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let (key, token) = (text(&init["keys"][0]), text(&init["root_token"]));
        redact::hide(&key);
        redact::hide(&token);
        self.root = self.root.with_token(&token);
        self.key = Some(key);
    }

    fn new(dir: &Path, port: u16, args: Vec<String>, options: &Options) -> Self {
        let root = Client {
            bin: host_binary(),
            home: dir.join("home"),
            log: dir.join("server.log"),
            address: format!("http://127.0.0.1:{port}"),
            token: "root".into(),
            namespace: String::new(),
            forwarding: true,
        };
        let mut env = options.env.clone();
        env.push(("HOME".into(), root.home.display().to_string()));
        env.push(("TMPDIR".into(), dir.join("tmp").display().to_string()));
        env.push(("PATH".into(), search_path()));
        let chroot = options.chroot.clone();
        Self { root, dir: dir.to_owned(), args, chroot, env, key: None, process: Mutex::new(None) }
    }

    /// Starts a server on a free port. If another process takes the port first, tries another port.
    fn first_start(new: impl Fn(&Path, u16) -> Self) -> Self {
        for _ in 0..5 {
            let dir = new_dir();
            let server = new(&dir, free_port());
            if server.start() {
                return server;
            }
            assert!(server.log().contains("address already in use"), "the server did not start\n{}", server.log_tail());
        }
        panic!("no free port");
    }

    /// Starts the process and waits for the API. Returns false if the process ended.
    fn start(&self) -> bool {
        let mut command = match &self.chroot {
            None => Command::new(&self.root.bin),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.root.bin);
                command
            }
        };
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        let process = Process::spawn(&mut command, &self.root.log, &self.dir);
        let pid = process.pid();
        *self.process() = Some(process);
        let dev = self.args.iter().any(|arg| arg == "-dev");
        wait("the server's API", START, || {
            if !alive(pid) {
                return Some(false);
            }
            let health = self.try_http("GET", "sys/health", &Value::Null).ok()?;
            (!dev || health.status == 200).then_some(true)
        })
    }

    /// Enables the plugin at a path.
    pub(crate) fn enable(&self, path: &str) {
        self.enable_plugin(path, PLUGIN);
    }

    /// Enables a plugin of the catalog at a path.
    pub(crate) fn enable_plugin(&self, path: &str, name: &str) {
        self.post(&format!("sys/mounts/{path}"), &json!({"type": name})).ok();
    }

    /// Registers the plugin in the catalog.
    pub(crate) fn register(&self) {
        self.register_as(PLUGIN, Vec::new());
    }

    /// Registers the plugin in the catalog under a name, with an additional environment.
    pub(crate) fn register_as(&self, name: &str, env: Vec<String>) {
        let digest = sha256(&self.plugin_dir().join(PLUGIN));
        let body = json!({"sha256": digest, "command": PLUGIN, "version": VERSION, "env": env});
        self.post(&format!("sys/plugins/catalog/secret/{name}"), &body).ok();
    }

    /// Returns the plugin directory.
    pub(crate) fn plugin_dir(&self) -> PathBuf {
        self.dir.join("plugins")
    }

    /// Enables an audit log to a file, and returns the path of the file.
    pub(crate) fn audit(&self) -> PathBuf {
        let file = self.dir.join("audit.log");
        self.post("sys/audit/file", &json!({"type": "file", "options": {"file_path": file}})).ok();
        file
    }

    /// Returns the whole log so far: lines of the server and of its plugins.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.root.log).unwrap_or_default()).into_owned()
    }

    /// Returns the end of the log, for the text of a failure.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        redact::clean(&lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// Returns the process id of the server.
    pub(crate) fn pid(&self) -> u32 {
        self.process().as_ref().expect("the server runs").pid()
    }

    /// Returns the process ids of the plugins.
    pub(crate) fn plugins(&self) -> Vec<u32> {
        process::children(self.pid())
    }

    /// Kills all plugins as a crash would, and waits until the server has noticed. Only later requests are certain to
    /// meet a new process.
    pub(crate) fn kill_plugins(&self) {
        for pid in self.plugins() {
            process::signal(pid, Signal::KILL);
            let noticed = |line: &str| line.contains("plugin process exited") && line.contains(&format!("id={pid}"));
            wait("the server to notice", Duration::from_secs(10), || self.log().lines().any(noticed).then_some(()));
        }
        // After that line, the server syncs its log and then gives the process up (go-plugin `client.go`,
        // `Client.Start`). No event shows that. But when the server is idle, it has done so.
        wait("the server to be idle", Duration::from_secs(10), || process::is_idle(self.pid()).then_some(()));
    }

    /// Kills all plugins and returns their number. Requests reach a killed process until the server notices.
    pub(crate) fn kill_plugins_unnoticed(&self) -> usize {
        let plugins = self.plugins();
        plugins.iter().for_each(|&pid| process::signal(pid, Signal::KILL));
        plugins.len()
    }

    /// Kills only the server, as a crash would.
    pub(crate) fn kill(&self) {
        self.process().as_ref().expect("the server runs").kill();
    }

    /// Stops the server, starts it again on the same storage and unseals it.
    pub(crate) fn restart(&self) {
        self.restart_sealed();
        self.unseal();
    }

    /// Edits the configuration of a server with integrated storage, and lets the server read it.
    pub(crate) fn reconfigure(&self, edit: impl FnOnce(String) -> String) {
        let file = self.dir.join("config.hcl");
        let config = fs::read_to_string(&file).expect("read the configuration");
        fs::write(&file, edit(config)).expect("write the configuration");
        process::signal(self.pid(), Signal::HUP);
    }

    /// Stops the server if it still runs, and starts it again on the same storage. The server stays sealed.
    pub(crate) fn restart_sealed(&self) {
        let process = self.process().take().expect("a server that was started");
        process.stop();
        assert!(self.start(), "the server did not start again\n{}", self.log_tail());
    }

    /// Seals the server.
    pub(crate) fn seal(&self) {
        self.post("sys/seal", &Value::Null).ok();
    }

    /// Gives the unseal key to the server. The server can fail to become active afterwards.
    pub(crate) fn give_key(&self) {
        let key = self.key.as_ref().expect("a server with a seal");
        self.post("sys/unseal", &json!({"key": key})).ok();
    }

    /// Unseals the server and waits until it is active.
    pub(crate) fn unseal(&self) {
        self.give_key();
        wait("the server to be active", START, || (self.get("sys/health").status == 200).then_some(()));
    }

    /// Reloads the plugin of a mount, as the documents tell users to.
    pub(crate) fn reload(&self, mount: &str) {
        self.cli(&["write", "sys/plugins/reload/backend", &format!("mounts={mount}/")]).ok();
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.root
    }
}

/// Repeats `condition` until it returns a value, and returns the value.
///
/// Panics after the limit.
#[track_caller]
pub(crate) fn wait<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out after {limit:?} waiting for {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}
