//! Points 1 to 5 and 9: from the start to the handshake line.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::host::process::{COOKIE, PATIENCE, SOCKETS, TEMPORARY, files};
use crate::host::{Host, Launch};
use crate::plugin;

const ONE_SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn p01_without_the_cookie_the_plugin_exits_with_a_message() {
    for launch in [Launch::astra(), Launch::passbook()] {
        let mut plugin = launch.without(COOKIE.0).spawn();
        plugin.assert_start_fails(ONE_SECOND).await;
        assert!(plugin.stderr().contains("plugin"), "the text does not say what this binary is");
    }
    Launch::astra().env(COOKIE.0, "something else").spawn().assert_start_fails(ONE_SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_the_plugin_refuses_the_cookie_of_a_database_plugin() {
    for versions in ["5,6", "3,4"] {
        let launch = Launch::astra().without(COOKIE.0);
        // OpenBao does this with a plugin directory whose plugins have no type (`vault/sdk` `database/dbplugin/v5`).
        let launch = launch.env("VAULT_DATABASE_PLUGIN", "926a0820-aea2-be28-51d6-83cdf00e8edb");
        launch.env("PLUGIN_PROTOCOL_VERSIONS", versions).spawn().assert_start_fails(ONE_SECOND).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_the_handshake_has_as_many_fields_as_the_host_expects() {
    // `handshake` has already checked each field. Here follow the number of fields, and whether the socket exists.
    let cases = [
        (Launch::astra(), 6),
        (Launch::passbook(), 6),
        (Launch::astra().by_vault(), 6),
        (Launch::astra().env("PLUGIN_MULTIPLEX_GRPC", ""), 6),
        (Launch::astra().env("PLUGIN_MULTIPLEX_GRPC", "true"), 7),
        (Launch::astra().env("PLUGIN_MULTIPLEX_GRPC", "false"), 7),
        // Go reads an empty variable as not set.
        (Launch::astra().env("TMPDIR", ""), 6),
        // Flags from tutorials for Go plugins.
        (Launch::astra().arg("-ca-cert=/x").arg("--tls-skip-verify").arg("-unknown"), 6),
        // Flags for people, who start the binary without a cookie.
        (Launch::astra().arg("-version"), 6),
        (Launch::astra().arg("-x").arg("--help"), 6),
    ];
    for (launch, count) in cases {
        let host = Host::start(launch).await;
        let fields: Vec<&str> = host.handshake.line.split('|').collect();
        assert_eq!(fields.len(), count, "{}", host.handshake.line);
        if count == 7 {
            assert!(["true", "false"].contains(&fields[6]), "{}", host.handshake.line);
        }
        assert!(host.handshake.socket.is_absolute());
        assert!(host.handshake.socket.metadata().unwrap().file_type().is_socket());
        assert!(!fields[5].contains(['=', '-', '_']), "the certificate is not unpadded standard base64");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_only_the_handshake_line_is_on_stdout() {
    let host = Host::start(Launch::passbook()).await;
    let expected = format!("{}\n", host.handshake.line);
    let mount = host.mount().await;
    for errand in ["panic", "log", "fail"] {
        mount.write(&format!("teller/{errand}"), json!({"text": "x"})).await;
    }
    assert_eq!(host.plugin.stdout(), expected);
    // Checks again after the last output of the process.
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_the_plugin_needs_version_5_in_the_list_of_the_host() {
    for versions in ["5", "4,5", "6,5", "5,6", ""] {
        let host = Host::start(Launch::astra().env("PLUGIN_PROTOCOL_VERSIONS", versions)).await;
        host.stop().await;
    }
    for versions in ["3,4", "6"] {
        // The second attempt of a host: an older version, without a certificate.
        let launch = Launch::astra().without("PLUGIN_CLIENT_CERT");
        let mut plugin = launch.env("PLUGIN_PROTOCOL_VERSIONS", versions).spawn();
        plugin.assert_start_fails(ONE_SECOND).await;
        let text = plugin.stderr();
        assert!(text.contains("version") && text.contains('5'), "the text does not name the version");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_the_socket_has_the_directory_and_group_of_the_host() {
    // Root can give a file to any group. Other users can only give it to their own groups.
    let own = rustix::process::getgid().as_raw();
    let group = if rustix::process::geteuid().is_root() { 4242 } else { own };
    let name = group_name(own).expect("the group of this process has a name");
    for (given, expected) in [(group.to_string(), group), (name, own)] {
        let launch = Launch::astra();
        let directory = launch.directory(SOCKETS);
        let launch = launch.env("PLUGIN_UNIX_SOCKET_DIR", directory.to_str().unwrap());
        let host = Host::start(launch.env("PLUGIN_UNIX_SOCKET_GROUP", &given)).await;
        assert!(host.handshake.socket.starts_with(&directory), "{}", host.handshake.line);
        let metadata = host.handshake.socket.metadata().unwrap();
        assert_eq!(metadata.gid(), expected, "group {given}");
        assert_eq!(metadata.mode() & 0o777, 0o660);
        host.mount().await;
        // Stopping also checks that no file is left.
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_by_default_only_the_owner_can_reach_the_socket() {
    let host = Host::start(Launch::astra()).await;
    let temporary = host.plugin.directory(TEMPORARY);
    let socket = &host.handshake.socket;
    assert!(socket.starts_with(&temporary), "{}", host.handshake.line);
    let private = socket.ancestors().take_while(|path| *path != temporary).any(|path| {
        let metadata = path.metadata().unwrap();
        metadata.mode() & 0o077 == 0
    });
    assert!(private, "neither the socket nor its directory is private");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_the_error_names_an_unusable_tmpdir_and_the_cause() {
    let advice = "set TMPDIR to a directory that the server can write to, with a path of at most 90 bytes";
    let parent = tempfile::tempdir().unwrap();
    let (file, long) = (parent.path().join("file"), padded(parent.path(), 102));
    std::fs::write(&file, "").unwrap();
    let cases = [
        (&parent.path().join("missing"), "No such file or directory"),
        (&file, "Not a directory"),
        (&padded(parent.path(), 91), "path must be shorter than SUN_LEN"),
        (&long, "path must be shorter than SUN_LEN"),
    ];
    for (directory, cause) in cases {
        let mut plugin = Launch::astra().env("TMPDIR", directory.to_str().unwrap()).spawn();
        plugin.assert_start_fails(ONE_SECOND).await;
        let text = plugin.stderr();
        let line = text.lines().next().unwrap();
        for part in ["plugin cannot start", directory.to_str().unwrap(), cause, advice] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
    assert_eq!(files(&long), Vec::<PathBuf>::new(), "files are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_the_error_names_a_full_or_read_only_tmpdir() {
    const MOUNT: &str = r#"mount -t tmpfs -o "$OPTIONS" none "$TMPDIR" && exec "$0""#;
    if !has_namespaces("a full and a read-only TMPDIR") {
        return;
    }
    for (options, cause) in [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")] {
        let args = ["sh", "-c", MOUNT, plugin::binary().to_str().unwrap()];
        let mut plugin = in_namespaces(&args).env("OPTIONS", options).spawn();
        plugin.assert_start_fails(ONE_SECOND).await;
        let text = plugin.stderr();
        let line = text.lines().next().unwrap();
        for part in ["plugin cannot start", TEMPORARY, cause, "set TMPDIR"] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_a_tmpdir_of_90_bytes_has_room_for_the_socket() {
    let parent = tempfile::tempdir().unwrap();
    for length in [89, 90] {
        let directory = padded(parent.path(), length);
        let host = Host::start(Launch::astra().env("TMPDIR", directory.to_str().unwrap())).await;
        assert!(host.handshake.socket.starts_with(&directory), "{}", host.handshake.line);
        host.mount().await;
        host.stop().await;
        assert_eq!(files(&directory), Vec::<PathBuf>::new(), "files are left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_the_plugin_starts_in_an_empty_root_directory() {
    if !has_namespaces("a start in an empty root") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(plugin::binary(), root.path().join("plugin")).unwrap();
    std::fs::create_dir(root.path().join("tmp")).unwrap();
    let launch = in_namespaces(&["chroot", root.path().to_str().unwrap(), "/plugin"]).env("PATH", "/usr/sbin:/usr/bin");
    let mut plugin = launch.env("TMPDIR", "/tmp").spawn();
    let socket = plugin.handshake().await.socket;
    assert!(root.path().join(socket.strip_prefix("/").unwrap()).exists());
    plugin.signal(Signal::TERM);
    assert!(plugin.exit(PATIENCE).await.success());
    plugin.check_output();
    assert_eq!(files(&root.path().join("tmp")), Vec::<PathBuf>::new(), "files are left");
}

/// Starts a program as root of a user namespace and a mount namespace.
fn in_namespaces(args: &[&str]) -> Launch {
    args.iter().fold(Launch::of("unshare".into()).arg("-Urm"), |launch, arg| launch.arg(arg))
}

/// Whether this machine permits namespaces. If not, prints the skipped check.
fn has_namespaces(what: &str) -> bool {
    let tried = Command::new("unshare").args(["-Urm", "true"]).output();
    let permitted = tried.is_ok_and(|output| output.status.success());
    if !permitted {
        // Writes to stderr directly, because the test runner would hide a macro's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: no namespaces on this machine");
    }
    permitted
}

/// Makes a directory whose path has this length in bytes.
fn padded(parent: &Path, length: usize) -> PathBuf {
    let directory = parent.join("x".repeat(length - parent.as_os_str().len() - 1));
    std::fs::create_dir(&directory).unwrap();
    directory
}

fn group_name(gid: u32) -> Option<String> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id == gid.to_string()).then(|| name.to_owned())
    })
}
