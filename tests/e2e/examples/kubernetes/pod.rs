//! A pod for one test, made of namespaces: the folder of a service account, the name of the API server, and no network
//! except a loopback interface.
//!
//! A test starts its own program again inside the pod. The work happens in this second run.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Kubernetes puts token and certificate of a pod's service account here.
pub(super) const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// This variable is set inside the pod. Its value is the name of the test.
const INSIDE: &str = "TEST_POD";

/// Only such a pod has this file.
const MARK: &str = "/var/run/pod-of-a-test";

/// Makes the folder, names the API server, raises the loopback interface, and runs the test. Python raises the interface,
/// because some machines have no other program for this.
const ENTER: &str = r#"
set -eu
mount -t tmpfs tmpfs "$(readlink -f /var/run)"
mkdir -p "$1"
shift
touch /var/run/pod-of-a-test
echo '127.0.0.1 localhost kubernetes.default.svc' >/var/run/hosts
mount --bind /var/run/hosts /etc/hosts
python3 -c '
import fcntl, socket, struct
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))'
exec "$@"
"#;

/// Runs the work of the named test in a pod. If the machine permits no namespaces, says so and does not run the test.
pub(super) fn run(test: &str, work: impl FnOnce()) {
    if is_inside(test) {
        return work();
    }
    if !namespaces() {
        // The test runner would hide a macro's output.
        let _ = writeln!(std::io::stderr(), "not run: {test} (this machine permits no namespaces)");
        return;
    }
    let output = unshare()
        .args(["sh", "-c", ENTER, "sh", ACCOUNT])
        .arg(std::env::current_exe().expect("the path of this program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, test)
        .output()
        .expect("run unshare");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "the test failed in its pod:\n{text}");
}

fn is_inside(test: &str) -> bool {
    let inside = std::env::var_os(INSIDE).is_some_and(|inside| inside == test);
    assert!(!inside || Path::new(MARK).exists(), "{INSIDE} is set outside of such a pod");
    inside
}

fn namespaces() -> bool {
    let probe = unshare().args(["mount", "-t", "tmpfs", "tmpfs", "/var/run/"]).output();
    probe.is_ok_and(|output| output.status.success())
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "--"]);
    command
}
