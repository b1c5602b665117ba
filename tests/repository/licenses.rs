//! Licences of the crates that are linked into the binary. The list is committed; a release ships the texts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The platforms of releases. The committed list is for the first platform.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn committed() -> String {
    fs::read_to_string(root().join("packaging/licenses.txt")).unwrap()
}

/// Returns the output of `packaging/licenses.py`.
fn print(what: &str, platform: &str) -> String {
    let script = root().join("packaging/licenses.py");
    let output = Command::new("python3").arg(script).args([what, platform]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_committed_list_is_current_on_every_platform() {
    assert!(committed().lines().count() > 50, "the list is too short");
    for platform in PLATFORMS {
        assert!(
            committed() == print("list", platform),
            "packaging/licenses.txt is not current for {platform}; run `make -C packaging licenses`"
        );
    }
}

#[test]
fn a_release_ships_the_licence_text_of_every_crate() {
    let shipped = print("texts", PLATFORMS[0]);
    // Each text has a title between two rules. The title names the crates with this text.
    let rule = "-".repeat(100);
    let (list, texts) = shipped.split_once(&rule).unwrap();
    assert!(list.contains(&committed()), "the file does not begin with the list");

    let titles = texts.split(&rule).step_by(2);
    let with_text: BTreeSet<&str> = titles.flat_map(|title| title.trim().split(", ")).collect();
    for line in committed().lines() {
        let (package, licence) = line.split_once(": ").unwrap();
        let is_choice = licence.contains("Apache-2.0") && !licence.contains("AND");
        assert!(with_text.contains(package) || is_choice, "{package} ({licence}) has no text");
    }
    for text in ["Version 2.0, January 2004", "UNICODE LICENSE V3", "Permission is hereby granted, free of charge"] {
        assert!(texts.contains(text), "no text has {text:?}");
    }
}

/// These scripts list the files for the archive and for the images.
#[test]
fn archives_and_images_ship_the_licence_texts() {
    let shipped = ["LICENSE.txt", "NOTICE", "THIRD_PARTY_LICENSES"];
    for script in ["dist.sh", "plugin.Dockerfile", "server.Dockerfile"] {
        let text = fs::read_to_string(root().join("packaging").join(script)).unwrap();
        for file in shipped {
            assert!(text.contains(file), "packaging/{script} does not ship {file}");
        }
    }
}
