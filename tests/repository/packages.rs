//! What is made from a release archive: the image for OpenBao's download, and the Debian and RPM packages.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const NAME: &str = "vault-plugin-secrets-datastax-astra";
const PROGRAM: &str = "/usr/lib/vault-plugin-secrets-datastax-astra/vault-plugin-secrets-datastax-astra";

/// Makes a folder with release archives for both platforms. Their binary is a script.
fn releases() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for platform in ["linux_amd64", "linux_arm64"] {
        let release = format!("{NAME}_9.8.7_{platform}");
        let files = folder.path().join(&release);
        fs::create_dir(&files).unwrap();
        for name in ["LICENSE.txt", "NOTICE", "README.md", "CHANGELOG.md"] {
            fs::copy(Path::new(ROOT).join(name), files.join(name)).unwrap();
        }
        fs::write(files.join("THIRD_PARTY_LICENSES"), "licences").unwrap();
        fs::write(files.join(NAME), format!("#!/bin/sh\necho {platform}\n")).unwrap();
        fs::set_permissions(files.join(NAME), fs::Permissions::from_mode(0o755)).unwrap();
        let archive = format!("{release}.tar.gz");
        tell(Command::new("tar").args(["--mtime=@1700000000", "-czf", &archive, &release]).current_dir(&folder));
        fs::remove_dir_all(files).unwrap();
    }
    folder
}

#[test]
fn an_image_has_an_index_with_each_platform_and_the_same_bytes_each_time() {
    let releases = releases();
    let layouts = ["one", "two"].map(|name| releases.path().join(name));
    for layout in &layouts {
        let script = Path::new(ROOT).join("packaging/oci.py");
        assert_eq!(tell(Command::new("python3").arg(script).args([releases.path(), layout])), "v9.8.7\n");
    }
    tell(Command::new("diff").arg("-r").args(&layouts));

    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        layouts[0].join("blobs").join(digest)
    };
    let json = |file: PathBuf| -> Value { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() };
    let tag = json(layouts[0].join("index.json"))["manifests"][0].take();
    assert_eq!(tag["annotations"]["org.opencontainers.image.ref.name"], "v9.8.7");
    let index = json(blob(&tag));
    let images = index["manifests"].as_array().unwrap();
    let platforms: Vec<String> = images.iter().map(|image| image["platform"].to_string()).collect();
    assert_eq!(
        platforms,
        [r#"{"architecture":"amd64","os":"linux"}"#, r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#]
    );
    for (image, platform) in images.iter().zip(["linux_amd64", "linux_arm64"]) {
        let manifest = json(blob(image));
        let config = json(blob(&manifest["config"]));
        assert_eq!(config["architecture"], image["platform"]["architecture"]);
        assert_eq!(config["config"]["Entrypoint"][0], format!("/{NAME}"));
        let layer = blob(&manifest["layers"][0]);
        let listed = tell(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&layer));
        let program = listed.lines().find(|line| line.ends_with(&format!(" {NAME}"))).unwrap();
        assert!(program.starts_with("-rwxr-xr-x 0/0"), "{program}");
        assert!(
            listed.contains("licenses/LICENSE.txt") && listed.contains("licenses/THIRD_PARTY_LICENSES"),
            "{listed}"
        );
        let unpacked = tell(Command::new("tar").arg("-xzOf").arg(&layer).arg(NAME));
        assert_eq!(unpacked, format!("#!/bin/sh\necho {platform}\n"));
    }
}

#[test]
fn an_image_is_made_of_archives_of_one_version() {
    let releases = releases();
    let old = format!("{NAME}_9.8.6_linux_amd64.tar.gz");
    fs::write(releases.path().join(old), "").unwrap();
    let script = Path::new(ROOT).join("packaging/oci.py");
    let output = Command::new("python3").arg(script).arg(releases.path()).arg(releases.path().join("out")).output();
    let told = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(told.contains("9.8.6") && told.contains("9.8.7") && !told.contains("Traceback"), "{told}");
}

#[test]
fn packages_install_the_binary_and_its_licences() {
    if !runs("go", "version") {
        return skip("the packages", "Go");
    }
    let (first, second) = (releases(), releases());
    for folder in [&first, &second] {
        tell(Command::new("sh").arg(Path::new(ROOT).join("packaging/packages.sh")).arg(folder.path()));
    }
    let mut names: Vec<String> = fs::read_dir(&first)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".gz"))
        .collect();
    names.sort();
    let [x86_rpm, x86_deb] = [format!("{NAME}-9.8.7-1.x86_64.rpm"), format!("{NAME}_9.8.7-1_amd64.deb")];
    let arm = [format!("{NAME}-9.8.7-1.aarch64.rpm"), format!("{NAME}_9.8.7-1_arm64.deb")];
    assert_eq!(names, [arm[0].as_str(), &x86_rpm, &x86_deb, &arm[1]]);
    for name in &names {
        assert_eq!(fs::read(first.path().join(name)).unwrap(), fs::read(second.path().join(name)).unwrap(), "{name}");
    }
    installs_with_dpkg(&first.path().join(&x86_deb));
    installs_with_rpm(&first.path().join(&x86_rpm));
}

fn installs_with_dpkg(package: &Path) {
    if !runs("dpkg", "--version") {
        return skip("the Debian package", "dpkg");
    }
    let root = tempfile::tempdir().unwrap();
    if rustix::process::getuid().is_root() {
        let database = root.path().join("var/lib/dpkg");
        fs::create_dir_all(database.join("info")).unwrap();
        fs::create_dir_all(database.join("updates")).unwrap();
        fs::write(database.join("status"), "").unwrap();
        let dpkg = |args: &[&str]| {
            tell(
                Command::new("dpkg")
                    .arg(format!("--root={}", root.path().display()))
                    .args(args)
                    .env("DPKG_FORCE", "unsafe-io"),
            )
        };
        dpkg(&["--install", package.to_str().unwrap()]);
        assert_eq!(dpkg(&["--verify", NAME]), "");
        has_the_files(root.path(), "usr/share/doc/vault-plugin-secrets-datastax-astra/copyright");
        dpkg(&["--remove", NAME]);
        assert!(!root.path().join("usr").exists(), "the package left files behind");
    } else {
        tell(Command::new("dpkg-deb").arg("--extract").arg(package).arg(root.path()));
        has_the_files(root.path(), "usr/share/doc/vault-plugin-secrets-datastax-astra/copyright");
    }
    let about = tell(Command::new("dpkg-deb").arg("--field").arg(package));
    for line in ["Version: 9.8.7-1", "Architecture: amd64", "Recommends: ca-certificates"] {
        assert!(about.contains(line), "{about}");
    }
    assert!(!about.contains("Depends:"), "a static binary needs no other package\n{about}");
}

fn installs_with_rpm(package: &Path) {
    let script = Path::new(ROOT).join("tests/support/rpm.sh");
    let output = Command::new("sh").arg(script).output().unwrap();
    if !output.status.success() {
        return skip("the RPM package", "rpm");
    }
    let program = String::from_utf8(output.stdout).unwrap();
    let rpm = |args: &[&str]| tell(Command::new(program.trim_end()).args(args));
    let root = tempfile::tempdir().unwrap();
    let (package, place) = (package.to_str().unwrap(), root.path().to_str().unwrap());
    if rustix::process::getuid().is_root() {
        rpm(&["--root", place, "--dbpath", "/var/lib/rpm", "--install", package]);
        assert_eq!(rpm(&["--root", place, "--dbpath", "/var/lib/rpm", "--verify", NAME]), "");
        has_the_files(root.path(), "usr/share/licenses/vault-plugin-secrets-datastax-astra/LICENSE.txt");
    }
    let listed = rpm(&["--query", "--list", "--verbose", "--package", package]);
    let file = listed.lines().find(|line| line.ends_with(PROGRAM)).unwrap();
    assert!(file.starts_with("-rwxr-xr-x    1 root     root"), "{file}");
    let about = rpm(&["--query", "--info", "--package", package]);
    for line in ["Version     : 9.8.7", "Architecture: x86_64", "License     : Apache-2.0", "Build Host  : localhost"] {
        assert!(about.contains(line), "{about}");
    }
}

/// Checks the program in the root of a file system, and that the licences are there.
fn has_the_files(root: &Path, licence: &str) {
    let program = root.join(&PROGRAM[1..]);
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_to_string(program).unwrap(), "#!/bin/sh\necho linux_amd64\n");
    assert_eq!(fs::read(root.join(licence)).unwrap(), fs::read(Path::new(ROOT).join("LICENSE.txt")).unwrap());
    for name in ["NOTICE", "THIRD_PARTY_LICENSES"] {
        assert!(root.join("usr/share/doc").join(NAME).join(name).is_file(), "{name}");
    }
}

/// Runs a command and returns its output.
#[track_caller]
fn tell(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, told.concat());
    let [out, _] = told;
    out
}

fn runs(program: &str, arg: &str) -> bool {
    match Command::new(program).arg(arg).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        output => output.unwrap().status.success(),
    }
}

/// Prints the check that was skipped. The test runner would hide a macro's output.
fn skip(what: &str, program: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: no {program} on this machine");
}
