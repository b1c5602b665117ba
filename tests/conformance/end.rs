//! Points 10 to 12: signals and the end of the process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::host::mount::request;
use crate::host::process::{PATIENCE, TEMPORARY, files};
use crate::host::{Host, Launch};

#[tokio::test(flavor = "multi_thread")]
async fn p10_sigint_is_ignored() {
    let mut host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    for _ in 0..3 {
        host.plugin.signal(Signal::INT);
        assert_eq!(mount.write("accounts/a", json!({"owner": "x"})).await.http(), 204);
    }
    assert!(host.plugin.is_running());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_sigterm_leaves_the_host_time_to_stop_the_plugin() {
    let mut host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    host.plugin.signal(Signal::TERM);
    for _ in 0..20 {
        assert_eq!(mount.write("accounts/a", json!({"owner": "x"})).await.http(), 204);
    }
    mount.cleanup().await.expect("Cleanup");
    host.shutdown().await.expect("Shutdown");
    assert!(host.plugin.exit(Duration::from_secs(1)).await.success());
    host.plugin.assert_clean_exit().await;

    // Here, only the signal stops the plugin.
    let mut host = Host::start(Launch::passbook()).await;
    let _mount = host.mount().await;
    host.plugin.signal(Signal::TERM);
    assert!(host.plugin.exit(Duration::from_secs(10)).await.success());
    host.plugin.assert_clean_exit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_shutdown_is_answered_and_the_process_exits_within_1_s() {
    let mut host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    // The end of the process does not wait for a running request.
    let sleep = request("update", "teller/sleep", &json!({"milliseconds": 60_000}));
    let sleeping = tokio::spawn(async move { mount.send(sleep).await.is_ok() });
    host.plugin.logged(|line| line["@message"] == "sleeps").await;
    host.shutdown().await.expect("Shutdown");
    let answered = Instant::now();
    let status = host.plugin.exit(Duration::from_secs(1)).await;
    let took = answered.elapsed();
    assert!(status.success(), "ended with {status}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!host.handshake.socket.exists(), "the socket file still exists");
    host.plugin.assert_clean_exit().await;
    assert!(!sleeping.await.unwrap(), "a request of one minute was answered at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_the_plugin_exits_if_its_connection_drops() {
    for launch in [Launch::astra(), Launch::passbook().env("PLUGIN_MULTIPLEX_GRPC", "true")] {
        let host = Host::start(launch).await;
        let _mount = host.mount().await;
        let mut plugin = host.hang_up();
        let status = plugin.exit(Duration::from_secs(5)).await;
        assert!(status.success(), "ended with {status}");
        plugin.assert_clean_exit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_the_plugin_exits_if_its_host_is_killed() {
    host_is_killed("end::p12_the_plugin_exits_if_its_host_is_killed", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_the_plugin_exits_if_its_host_is_killed_before_connecting() {
    host_is_killed("end::p12_the_plugin_exits_if_its_host_is_killed_before_connecting", false).await;
}

/// Set in the environment of the process to kill. The value is a directory: the process writes there which plugin it
/// has started.
const DOOMED: &str = "CONFORMANCE_DOOMED_HOST";

/// Starts the test of this name again in a second process. This process becomes the host of a plugin and is then
/// killed.
async fn host_is_killed(test: &str, connects: bool) {
    #[expect(clippy::disallowed_methods, reason = "the test starts itself as another process")]
    if let Some(directory) = std::env::var_os(DOOMED) {
        return doomed_host(Path::new(&directory), connects).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let note = directory.path().join("started");
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(DOOMED, directory.path())
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let started = wait_for(|| std::fs::read_to_string(&note).ok()).await;
    let (pid, socket) = started.split_once(' ').unwrap();
    let socket = Path::new(socket);
    assert!(is_alive(pid) && socket.exists());
    host.start_kill().unwrap();
    host.wait().await.unwrap();
    let killed = Instant::now();
    wait_for(|| (!is_alive(pid)).then_some(())).await;
    assert!(killed.elapsed() < Duration::from_secs(5), "the plugin exited only after {:?}", killed.elapsed());
    assert!(!socket.exists(), "the socket file still exists");
    let temporary = socket.ancestors().find(|path| path.ends_with(TEMPORARY)).unwrap();
    assert_eq!(files(temporary), Vec::<PathBuf>::new(), "files are left in the directory for sockets");
}

/// A host that writes down which plugin it has started, and then waits until it is killed.
async fn doomed_host(directory: &Path, connects: bool) {
    let launch = Launch::passbook();
    let (host, mut plugin);
    let (pid, socket) = if connects {
        host = Host::start(launch).await;
        host.mount().await.write("accounts/a", json!({"owner": "x"})).await;
        (host.plugin.pid(), host.handshake.socket.clone())
    } else {
        plugin = launch.spawn();
        let handshake = plugin.handshake().await;
        (plugin.pid(), handshake.socket)
    };
    // Renamed, so that nobody reads a half-written file.
    std::fs::write(directory.join("starting"), format!("{} {}", pid.as_raw_pid(), socket.display())).unwrap();
    std::fs::rename(directory.join("starting"), directory.join("started")).unwrap();
    std::future::pending::<()>().await;
}

async fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out after {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process runs. A zombie does not run.
fn is_alive(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}
