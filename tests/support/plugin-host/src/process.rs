//! The child process: environment, handshake line, output, end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rustix::process::{Pid, Signal};
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::log;
use super::tls::Identity;
use crate::plugin;

/// Name and value of the variable that shows that a plugin host starts the process (`vault/sdk` `plugin/serve.go`).
pub const COOKIE: (&str, &str) = ("VAULT_BACKEND_PLUGIN", "6669da05-b1c8-4f49-97d9-c8e5bed98e20");

/// Name of the directory for `TMPDIR`.
pub const TEMPORARY: &str = "tmp";

/// Name of a directory for `PLUGIN_UNIX_SOCKET_DIR`.
pub const SOCKETS: &str = "sockets";

/// Upper bound for waits without their own limit. It is only reached if something hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long a host waits for a plugin to exit before it kills it.
const GRACE: Duration = Duration::from_secs(2);

/// How a plugin is started.
pub struct Launch {
    binary: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    identity: Identity,
    dir: TempDir,
    secrets: Vec<String>,
}

impl Launch {
    /// The engine of this package, as OpenBao starts it.
    pub fn astra() -> Self {
        Self::of(plugin::binary().into())
    }

    /// The example engine, passbook.
    pub fn passbook() -> Self {
        Self::of(plugin::example("passbook"))
    }

    /// Any program, as OpenBao starts it.
    pub fn of(binary: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("host").tempdir().unwrap();
        let identity = Identity::generate();
        let mut launch = Self { binary, args: Vec::new(), env: BTreeMap::new(), identity, dir, secrets: Vec::new() };
        let (cookie, value) = COOKIE;
        let pem = launch.identity.pem.clone();
        let temporary = launch.directory(TEMPORARY);
        launch = launch
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", temporary.to_str().unwrap())
            .env(cookie, value)
            .env("PLUGIN_MIN_PORT", "10000")
            .env("PLUGIN_MAX_PORT", "25000")
            .env("PLUGIN_PROTOCOL_VERSIONS", "5")
            .env("PLUGIN_CLIENT_CERT", &pem);
        for prefix in ["BAO", "VAULT"] {
            launch = launch
                .env(&format!("{prefix}_VERSION"), "2.7.2")
                .env(&format!("{prefix}_PLUGIN_METADATA_MODE"), "false")
                .env(&format!("{prefix}_PLUGIN_AUTOMTLS_ENABLED"), "true");
        }
        launch
    }

    /// Keeps only the variables that Vault sets.
    #[must_use]
    pub fn by_vault(mut self) -> Self {
        self.env.retain(|name, _| !name.starts_with("BAO_"));
        self.env("VAULT_VERSION", "1.21.1")
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Adds a command-line argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Registers a secret. The plugin's output must not contain it, and the output of a failing test hides it.
    #[must_use]
    pub fn secret(mut self, secret: &str) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Makes a directory for the test and returns its path.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Starts the process as a person does, without a cookie, and returns its stdout.
    pub async fn by_hand(self) -> String {
        let mut plugin = self.without(COOKIE.0).spawn();
        plugin.checked = true;
        let status = plugin.exit(PATIENCE).await;
        assert!(status.success(), "ended with {status}");
        assert_eq!(plugin.stderr(), "");
        plugin.stdout()
    }

    /// Starts the process.
    pub fn spawn(self) -> Plugin {
        let mut command = Command::new(&self.binary);
        command.args(&self.args).env_clear().envs(&self.env);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display()));
        let held = watch::Sender::new(false);
        let stdout = capture(child.stdout.take().unwrap(), watch::Sender::new(false).subscribe());
        let stderr = capture(child.stderr.take().unwrap(), held.subscribe());
        Plugin { launch: self, child, stdout, stderr, held, status: None, checked: false }
    }
}

/// The output of a process so far, and whether more can follow.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    closed: bool,
}

fn capture(
    mut pipe: impl AsyncRead + Unpin + Send + 'static,
    mut held: watch::Receiver<bool>,
) -> watch::Receiver<Output> {
    let (sender, receiver) = watch::channel(Output::default());
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            // If the sender is gone, nobody holds the output any more.
            drop(held.wait_for(|held| !held).await);
            sender.send_modify(|output| output.bytes.extend_from_slice(&buffer[..count]));
        }
        sender.send_modify(|output| output.closed = true);
    });
    receiver
}

/// The fields of a handshake line.
pub struct Handshake {
    /// The line, without its newline.
    pub line: String,
    /// Path of the socket.
    pub socket: PathBuf,
    /// The certificate that the plugin will present.
    pub certificate: CertificateDer<'static>,
}

/// A running or ended plugin process.
pub struct Plugin {
    launch: Launch,
    child: Child,
    stdout: watch::Receiver<Output>,
    stderr: watch::Receiver<Output>,
    held: watch::Sender<bool>,
    status: Option<ExitStatus>,
    checked: bool,
}

impl Plugin {
    /// Waits for the handshake line and reads it as a host does, but strictly.
    pub async fn handshake(&mut self) -> Handshake {
        let line = self.first_line().await;
        let fields: Vec<&str> = line.split('|').collect();
        assert!(fields.len() >= 6, "handshake line with {} fields: {line}", fields.len());
        assert_eq!(fields[0], "1", "core protocol");
        assert_eq!(fields[1], "5", "plugin API version");
        assert_eq!(fields[2], "unix", "network");
        assert_eq!(fields[4], "grpc", "protocol");
        let socket = PathBuf::from(fields[3]);
        let certificate = STANDARD_NO_PAD.decode(fields[5]).expect("unpadded standard base64 in field 6").into();
        Handshake { socket, certificate, line }
    }

    async fn first_line(&mut self) -> String {
        let complete = |output: &Output| output.closed || output.bytes.contains(&b'\n');
        let output =
            timeout(PATIENCE, self.stdout.wait_for(complete)).await.expect("no handshake line in time").unwrap();
        let end =
            output.bytes.iter().position(|byte| *byte == b'\n').expect("the plugin exited before the handshake line");
        String::from_utf8(output.bytes[..end].to_vec()).unwrap()
    }

    /// Waits until the process has ended and its output is complete.
    pub async fn exit(&mut self, within: Duration) -> ExitStatus {
        let status = timeout(within, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("still running after {within:?}")).unwrap();
        self.hold_stderr(false);
        for output in [&mut self.stdout, &mut self.stderr] {
            let closed = timeout(GRACE, output.wait_for(|output| output.closed)).await;
            drop(closed.expect("another process keeps the plugin's output open").unwrap());
        }
        self.status = Some(status);
        status
    }

    /// Waits for a line on stderr that `fits` accepts.
    pub async fn logged(&mut self, fits: impl Fn(&Map<String, Value>) -> bool) -> Map<String, Value> {
        let find = |output: &Output| {
            let text = String::from_utf8_lossy(&output.bytes).into_owned();
            text.lines().filter_map(|line| log::parse(line).ok()).find(|members| fits(members))
        };
        let found = timeout(PATIENCE, self.stderr.wait_for(|output| find(output).is_some())).await;
        let output =
            found.expect("no such line on stderr in time").expect("the plugin exited without such a line on stderr");
        find(&output).unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Returns the process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("the process has ended").cast_signed()).unwrap()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whether the host wants one socket for all connections.
    pub fn wants_one_socket(&self) -> bool {
        self.launch.env.get("PLUGIN_MULTIPLEX_GRPC").is_some_and(|value| value == "true")
    }

    /// Returns the host's identity.
    pub fn identity(&self) -> &Identity {
        &self.launch.identity
    }

    /// Returns a directory of the test.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.launch.directory(name)
    }

    /// Stops or resumes reading stderr. Meanwhile, the output stays in the pipe.
    pub fn hold_stderr(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Returns everything on stdout.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.borrow().bytes).into_owned()
    }

    /// Returns everything on stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.borrow().bytes).into_owned()
    }

    /// Waits for a clean end: in time, with status 0, and without files left behind.
    pub async fn assert_clean_exit(&mut self) {
        let status = self.exit(GRACE).await;
        assert!(status.success(), "ended with {status}");
        self.check_output();
        for name in [TEMPORARY, SOCKETS] {
            assert_eq!(files(&self.directory(name)), Vec::<PathBuf>::new(), "left behind in the directory {name}");
        }
    }

    /// Checks the output of any start that reached the handshake.
    pub fn check_output(&mut self) {
        self.checked = true;
        let stdout = self.stdout();
        assert_eq!(stdout.matches('\n').count(), 1, "stdout contains more than the handshake line");
        assert!(stdout.ends_with('\n'), "stdout contains text after the handshake line");
        Self::check_lines(&self.stderr());
        self.check_secrets();
    }

    /// Checks the output of a process whose last line may be incomplete.
    pub fn check_cut_output(&mut self) {
        let whole = self.stderr().rfind('\n').map_or(0, |end| end + 1);
        Self::check_lines(&self.stderr()[..whole]);
        self.check_secrets();
        self.checked = true;
    }

    /// Checks that the plugin does not start: exit status 1, nothing on stdout, a text on stderr.
    pub async fn assert_start_fails(&mut self, within: Duration) {
        self.checked = true;
        let status = self.exit(within).await;
        assert_eq!(status.code(), Some(1), "ended with {status}");
        assert_eq!(self.stdout(), "");
        assert!(!self.stderr().trim().is_empty(), "stderr does not say why the plugin stopped");
        self.check_secrets();
    }

    fn check_lines(text: &str) {
        for (number, line) in text.lines().enumerate() {
            if let Err(reason) = log::parse(line) {
                panic!("line {} on stderr: {reason}", number + 1);
            }
        }
    }

    fn check_secrets(&self) {
        for (stream, text) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
            for (number, secret) in self.launch.secrets.iter().enumerate() {
                for form in [secret.clone(), STANDARD.encode(secret)] {
                    assert!(!text.contains(&form), "secret {number} is on {stream}");
                }
            }
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.checked, "the test did not check the output of the plugin");
            return;
        }
        let mut report = format!(
            "command: {} {:?}\nstatus: {:?}\nstdout:\n{}\nstderr:\n{}",
            self.launch.binary.display(),
            self.launch.args,
            self.status,
            self.stdout(),
            self.stderr()
        );
        for secret in &self.launch.secrets {
            report = report.replace(secret, "[secret]");
        }
        eprintln!("{report}");
    }
}

/// Returns all files in a directory and its subdirectories.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            let mut found = files(&path);
            found.push(path);
            found
        })
        .collect()
}
