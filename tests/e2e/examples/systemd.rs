//! Tests the systemd units.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::{HCL, find, parsed, skip, text};
use crate::bao::host_binary;

const UNITS: [&str; 2] = ["systemd/vault.service", "agent/astra-agent.service"];

/// Reads a unit. Returns the values by section and name.
fn unit(name: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut section = String::new();
    let mut found: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for line in text(name).lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name.to_owned(),
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
                assert!(key.chars().all(|c| c.is_ascii_alphanumeric()), "{name}: {line}");
                found.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
            }
        }
    }
    found
}

#[test]
fn units_start_a_program_and_protect_its_secrets() {
    for name in UNITS {
        let unit = unit(name);
        let value = |section: &str, key: &str| {
            let values = unit.get(&(section.to_owned(), key.to_owned()));
            let values = values.unwrap_or_else(|| panic!("{name} has no {key} in [{section}]"));
            assert_eq!(values.len(), 1, "{name}: {key} is set twice");
            values[0].clone()
        };
        assert!(value("Service", "ExecStart").starts_with("/usr/bin/vault "));
        assert!(!value("Unit", "Description").is_empty());
        assert_eq!(value("Install", "WantedBy"), "multi-user.target");
        for (key, wanted) in [
            ("LimitCORE", "0"),
            ("NoNewPrivileges", "yes"),
            ("PrivateTmp", "yes"),
            ("ProtectHome", "yes"),
            ("ProtectSystem", "strict"),
            ("MemoryDenyWriteExecute", "yes"),
            ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ] {
            assert_eq!(value("Service", key), wanted, "{name}: {key}");
        }
    }
    let server = unit(UNITS[0]);
    let service = |key: &str| server[&("Service".to_owned(), key.to_owned())][0].clone();
    // Only this service can write to the folder of the plugin's sockets.
    assert_eq!(service("Environment"), format!("TMPDIR=/run/{}", service("RuntimeDirectory")));
    let config = parsed(HCL, &text("systemd/vault.hcl"));
    // Without a locked memory, the server needs no capability. The bounding set must have those of the program's file.
    assert_eq!(config["disable_mlock"], true);
    assert_eq!(
        (service("AmbientCapabilities").as_str(), service("CapabilityBoundingSet").as_str()),
        ("", "CAP_IPC_LOCK")
    );
    let directory = config["plugin_directory"].as_str().expect("the directory");
    assert!(text("systemd/README.md").contains(&format!("{directory}/\n")));
    let storage = config["storage"][0]["raft"]["path"].as_str().expect("a path");
    assert_eq!(storage, format!("/var/lib/{}", service("StateDirectory")));
}

#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = find("systemd-analyze") else {
        return skip("systemd-analyze verify of the units in docs/examples", "systemd-analyze");
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    for name in UNITS {
        let place = dir.path().join(name.rsplit('/').next().expect("a name"));
        // systemd-analyze checks that the program exists.
        let text = text(name).replace("/usr/bin/vault", &host_binary().display().to_string());
        fs::write(&place, text).expect("write a unit");
        let run = |args: &[&str]| {
            let output = Command::new(&analyze).args(args).arg(&place).output().expect("run systemd-analyze");
            let told =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            (output.status.success(), told)
        };
        let (good, told) = run(&["verify", "--man=no"]);
        // An unknown directive only prints a line, so the exit status is not enough.
        assert!(good && !told.contains(&*place.to_string_lossy()), "{name}: {told}");
        let (good, told) = run(&["security", "--offline=yes", "--no-pager", "--threshold=40"]);
        if !good && told.contains("nrecognized option") {
            skip("systemd-analyze security of the units", "version of systemd-analyze that does it offline");
        } else {
            assert!(good, "{name}: {told}");
        }
    }
}
