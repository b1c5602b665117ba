use std::fs;
use std::path::Path;
use std::process::Command;

/// The first check of the release workflow.
#[test]
fn a_tag_must_be_the_version_and_have_a_heading_in_the_changelog() {
    let version = env!("CARGO_PKG_VERSION");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("packaging")).unwrap();
    for file in ["Cargo.toml", "packaging/check-tag.sh"] {
        fs::copy(root.join(file), folder.path().join(file)).unwrap();
    }
    let check = |tag: &str, changelog: &str| {
        fs::write(folder.path().join("CHANGELOG.md"), changelog).unwrap();
        let output = Command::new("sh").arg(folder.path().join("packaging/check-tag.sh")).arg(tag).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let right = format!("v{version}");
    for heading in [format!("## {version}\n"), format!("# Changelog\n\n## {version} (2 May)\n")] {
        assert_eq!(check(&right, &heading), (true, String::new()));
    }
    for tag in [version, "v0.0.1", "", &format!("{right}-rc1")] {
        let (passes, told) = check(tag, &format!("## {version}\n"));
        assert!(!passes && told.contains(version), "{tag}: {told}");
    }
    for heading in ["## Unreleased\n", &format!("## {version}1\n")] {
        let (passes, told) = check(&right, heading);
        assert!(!passes && told.contains("CHANGELOG.md"), "{heading}: {told}");
    }
}
