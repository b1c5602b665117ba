//! A machine for one test, made of namespaces: an empty `/etc`, and no network except a loopback interface.
//!
//! A test starts its own program again inside the machine. The work happens in this second run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// This variable is set inside the machine. Its value is the name of the test.
const INSIDE: &str = "TEST_MACHINE";

/// Only the `/etc` of such a machine has this file.
const MARK: &str = "/etc/machine-of-a-test";

/// Hides the files in `/etc`, raises the loopback interface unless the first argument is `without-network`, and runs
/// the test. The C compiler can be a link through `/etc`, so the script finds its real path first. Python raises the
/// interface, because some machines have no other program for this.
const ENTER: &str = r#"
set -eu
CC=$(readlink -f "$(command -v cc)") && export CC
mount -t tmpfs tmpfs /etc
touch /etc/machine-of-a-test
[ "$1" = without-network ] || python3 -c '
import fcntl, socket, struct
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))'
shift
exec "$@"
"#;

pub struct Machine;

impl Machine {
    /// Runs the work of the named test in a machine with a loopback interface.
    pub fn run(test: &str, work: impl Future<Output = ()>) {
        Self::enter(test, "with-network", work);
    }

    /// Runs the work of the named test in a machine without a network.
    pub fn without_network(test: &str, work: impl Future<Output = ()>) {
        Self::enter(test, "without-network", work);
    }

    fn enter(test: &str, network: &str, work: impl Future<Output = ()>) {
        let name = format!("names::{test}");
        if is_inside(&name) {
            tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
            return;
        }
        if !namespaces() {
            // The test runner would hide a macro's output.
            let _ = writeln!(std::io::stderr(), "not run: {name} (this machine permits no namespaces)");
            return;
        }
        let output = unshare()
            .args(["sh", "-c", ENTER, "sh", network])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(INSIDE, &name)
            .output()
            .expect("unshare");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "the test failed in its machine:\n{text}");
    }
}

/// Writes `/etc/resolv.conf`.
pub fn resolv_conf(text: &str) {
    write("/etc/resolv.conf", text);
}

pub fn hosts(text: &str) {
    write("/etc/hosts", text);
}

/// Removes everything from `/dev` except an empty file, which the test needs to start a program.
pub fn remove_devices() {
    assert!(Path::new(MARK).exists(), "this is the machine that runs the tests");
    let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/dev"]).status();
    assert!(status.expect("mount").success());
    fs::write("/dev/null", "").unwrap();
}

/// Returns the real path of the C compiler. Inside the machine, the compiler has no other path.
#[expect(clippy::disallowed_methods, reason = "a test's own variable")]
pub fn c_compiler() -> PathBuf {
    std::env::var_os("CC").expect("set on entering").into()
}

fn write(path: &str, text: &str) {
    assert!(Path::new(MARK).exists(), "this is the machine that runs the tests");
    fs::write(path, text).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test's own variable")]
fn is_inside(name: &str) -> bool {
    let inside = std::env::var_os(INSIDE).is_some_and(|inside| inside == name);
    assert!(!inside || Path::new(MARK).exists(), "{INSIDE} is set outside of such a machine");
    inside
}

fn namespaces() -> bool {
    unshare().args(["mount", "-t", "tmpfs", "tmpfs", "/etc"]).output().is_ok_and(|output| output.status.success())
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "--"]);
    command
}
