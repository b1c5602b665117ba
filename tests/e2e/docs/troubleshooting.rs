//! `docs/troubleshooting.md`: provokes each failure, and captures the messages of the server.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use super::Shell;
use crate::bao::{Client, PLUGIN, Server, install, sha256, wait};

const PAGE: &str = "docs/troubleshooting.md";

/// Registers a file as another version of the plugin.
fn register(server: &Server, command: &str, version: &str, content: &[u8], mode: u32) {
    let file = server.plugin_dir().join(command);
    fs::write(&file, content).expect("write a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set its mode");
    let digest = format!("-sha256={}", sha256(&file));
    let (command, version) = (format!("-command={command}"), format!("-version={version}"));
    server.cli(&["plugin", "register", &digest, &command, &version, "secret", PLUGIN]).ok();
}

/// Moves the file of the plugin aside, and writes another file in its place. A running process keeps the old file open.
fn replace(plugin: &Path, aside: &Path) {
    fs::rename(plugin, aside).expect("put the plugin aside");
    fs::write(plugin, b"something else").expect("write a file");
}

fn shell(client: &Client, plugin: &Path) -> Shell {
    let mut shell = Shell::new(client, "astra", "");
    let plugin_dir = plugin.parent().expect("its directory");
    shell.set("PLUGIN_DIR", plugin_dir.display().to_string());
    shell.set("SHA256", sha256(plugin));
    let folder = plugin_dir.parent().expect("the folder of the server");
    shell.mask(&folder.display().to_string(), "folder of the server");
    shell
}

#[test]
fn the_page_explains_a_plugin_that_does_not_start() {
    let server = Server::dev();
    let (plugin, aside) = (server.plugin_dir().join(PLUGIN), server.plugin_dir().with_file_name("aside"));
    let mut shell = shell(&server, &plugin);
    shell.run_sample(PAGE, "run by hand");
    shell.run_sample(PAGE, "old server");
    shell.run_sample(PAGE, "no file");
    shell.run_sample(PAGE, "another version");
    shell.run_sample(PAGE, "not registered");
    let outside = server.plugin_dir().with_file_name("outside");
    install(&outside);
    symlink(&outside, server.plugin_dir().join("linked")).expect("link the plugin");
    shell.run_sample(PAGE, "link");

    register(&server, "hello", "v3.0.1", b"#!/bin/sh\necho hello\n", 0o755);
    shell.run_sample(PAGE, "another program");
    register(&server, "locked", "v3.0.2", b"#!/bin/sh\n", 0o644);
    shell.run_sample(PAGE, "not executable");
    register(&server, "garbage", "v3.0.3", b"\x7fELF of another world", 0o755);
    shell.run_sample(PAGE, "no program");
    for version in ["v3.0.1", "v3.0.2", "v3.0.3"] {
        server.cli(&["plugin", "deregister", &format!("-version={version}"), "secret", PLUGIN]).ok();
    }

    replace(&plugin, &aside);
    shell.run_sample(PAGE, "checksum");
    shell.mask(&sha256(&plugin), "another sha256");
    shell.run_sample(PAGE, "compare checksums");
    fs::rename(&aside, &plugin).expect("put the plugin back");
    server.enable("astra");
    replace(&plugin, &aside);
    server.kill_plugins();
    // Until the server notices the end of the process, requests fail with a lost connection.
    wait("the server to start the plugin again", Duration::from_secs(60), || {
        server.list("astra/configs").errors().contains("checksums did not match").then_some(())
    });
    shell.run_sample(PAGE, "checksum of a mount");
    fs::rename(&aside, &plugin).expect("put the plugin back");
    shell.run_sample(PAGE, "checksum mended");
}

#[test]
fn the_page_explains_a_missing_directory_for_sockets() {
    let server = Server::dev();
    let mut shell = shell(&server, &server.plugin_dir().join(PLUGIN));
    shell.set("SERVER_LOG", server.plugin_dir().with_file_name("server.log").display().to_string());
    let temporary = server.plugin_dir().with_file_name("tmp");
    fs::remove_dir(&temporary).expect("remove the empty directory");
    shell.run_sample(PAGE, "no socket");
    wait("the cause in the log", Duration::from_secs(10), || server.log().contains("No such file").then_some(()));
    shell.run_sample(PAGE, "no socket in the log");

    fs::write(&temporary, "").expect("write a file");
    let enabled = server.cli(&["secrets", "enable", "-path=astra", PLUGIN]).fails();
    assert!(enabled.contains("Failed to read any lines from plugin's stdout"), "{enabled}");
    wait("the cause in the log", Duration::from_secs(10), || server.log().contains("Not a directory").then_some(()));
    fs::remove_file(&temporary).expect("remove the file");
    fs::create_dir(&temporary).expect("make the directory again");
    server.enable("first");

    fs::remove_dir_all(&temporary).expect("remove the directory");
    shell.run_sample(PAGE, "no socket of the server");
    assert!(server.log().contains("acceptAndServe error"), "{}", server.log_tail());
    fs::create_dir(&temporary).expect("make the directory again");
    server.enable("astra");
}

#[test]
fn the_page_explains_a_missing_plugin_directory() {
    let server = Server::dev_without_plugins();
    shell(&server, &server.plugin_dir().join(PLUGIN)).run_sample(PAGE, "no plugin directory");
}
