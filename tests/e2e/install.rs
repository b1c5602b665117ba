//! `docs/install.md`: installs the plugin in each documented way that needs no other machine, and mints a token.
//!
//! Release archives of these tests have the binary under test. The image for OpenBao is made of them as for a release.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::bao::{PLUGIN, Product, Server, VERSION, install, sha256, wait};
use crate::docs::Shell;
use crate::plugin::example;
use crate::world::{Mode, World};

const PAGE: &str = "docs/install.md";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SOON: Duration = Duration::from_secs(30);

/// Another plugin, which stands in for an older version.
const OLD: &str = "v0.1.0";

/// The platform of this machine in the names of release archives, and another platform.
const PLATFORMS: [&str; 2] =
    if cfg!(target_arch = "aarch64") { ["linux_arm64", "linux_amd64"] } else { ["linux_amd64", "linux_arm64"] };

/// Returns whether the server has a stanza for plugins. Says so if it has none.
fn has_stanza(what: &str) -> bool {
    let openbao = Product::of_host() == Product::OpenBao;
    if !openbao {
        // The test runner would hide a macro's output.
        let _ = writeln!(std::io::stderr(), "not run: {what}: Vault has no plugin stanza");
    }
    openbao
}

/// Packs a binary as a release archive.
fn archive(folder: &Path, version: &str, platform: &str, binary: &Path) {
    let release = format!("{PLUGIN}_{}_{platform}", version.trim_start_matches('v'));
    let files = folder.join(&release);
    fs::create_dir(&files).expect("create a directory");
    for name in ["LICENSE.txt", "NOTICE"] {
        fs::copy(Path::new(ROOT).join(name), files.join(name)).expect("copy a file");
    }
    fs::write(files.join("THIRD_PARTY_LICENSES"), "licences").expect("write a file");
    fs::copy(binary, files.join(PLUGIN)).expect("copy the binary");
    run(Command::new("tar").args(["-czf", &format!("{release}.tar.gz"), &release]).current_dir(folder));
    fs::remove_dir_all(files).expect("remove a directory");
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("run a command");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Images of the plugin, as OCI layouts: `astra` for both platforms, `old` of the older version, `other` without this platform.
struct Images {
    folder: TempDir,
    binary: PathBuf,
}

impl Images {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary directory");
        let binary = folder.path().join("binary");
        install(&binary);
        let images = Self { folder, binary };
        let stranger = images.folder.path().join("stranger");
        fs::write(&stranger, "a binary for another processor").expect("write a file");
        images.add("astra", VERSION, &[(PLATFORMS[0], &images.binary), (PLATFORMS[1], &stranger)]);
        images.add("old", OLD, &[(PLATFORMS[0], &example("passbook"))]);
        images.add("other", VERSION, &[(PLATFORMS[1], &images.binary)]);
        images
    }

    fn add(&self, name: &str, version: &str, binaries: &[(&str, &Path)]) {
        let archives = self.folder.path().join(format!("archives-{name}"));
        fs::create_dir(&archives).expect("create a directory");
        for (platform, binary) in binaries {
            archive(&archives, version, platform, binary);
        }
        let script = Path::new(ROOT).join("packaging/oci.py");
        run(Command::new("python3").arg(script).arg(archives).arg(self.layout(name)));
    }

    fn layout(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the digest of the index of an image.
    fn index(&self, name: &str) -> String {
        let index = fs::read(self.layout(name).join("index.json")).expect("read the layout");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        index["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
    }

    fn serve(&self) -> Registry {
        let layouts = ["astra", "old", "other"].map(|name| format!("{name}={}", self.layout(name).display()));
        Registry::start(&layouts)
    }
}

/// An OCI registry on loopback. It stops with the tests.
struct Registry {
    child: Child,
    _lifeline: ChildStdin,
    requests: BufReader<ChildStdout>,
    address: String,
}

impl Registry {
    fn start(layouts: &[String]) -> Self {
        let mut command = Command::new("python3");
        command.arg(Path::new(ROOT).join("tests/support/registry.py")).args(layouts);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run python3");
        let lifeline = child.stdin.take().expect("piped");
        let mut requests = BufReader::new(child.stdout.take().expect("piped"));
        let mut port = String::new();
        requests.read_line(&mut port).expect("read the port");
        Self { child, _lifeline: lifeline, requests, address: format!("127.0.0.1:{}", port.trim()) }
    }

    /// Stops the registry and returns its requests.
    fn stop(mut self) -> String {
        self.child.kill().expect("kill the registry");
        self.child.wait().expect("wait for the registry");
        let mut requests = String::new();
        self.requests.read_to_string(&mut requests).expect("read the requests");
        requests
    }
}

/// Returns a block of HCL of the page without the plugin directory, which the server of the test sets.
fn documented(name: &str) -> String {
    let page = fs::read_to_string(Path::new(ROOT).join(PAGE)).expect("read the page");
    let mark = format!("<!-- the test of this block: {name} -->\n```hcl\n");
    let block = page.split_once(&mark).expect("the block").1.split_once("```").expect("its end").0;
    let lines = block.lines().filter(|line| !line.starts_with("plugin_directory"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Replaces the examples in the documented configuration: image and digest.
fn filled(name: &str, image: &str, digest: &str) -> String {
    let (image_here, digest_here) = ("ghcr.io/OWNER/vault-plugin-secrets-datastax-astra", "0123456789abcdef".repeat(4));
    documented(name).replace(image_here, image).replace(&digest_here, digest)
}

/// Returns one `plugin` block.
fn stanza(lines: &str) -> String {
    format!("plugin \"secret\" \"{PLUGIN}\" {{\n{lines}\n}}\n")
}

fn shell(server: &Server) -> Shell {
    let mut shell = Shell::new(server, "astra", "");
    shell.set("PLUGIN_DIR", server.plugin_dir().display().to_string());
    shell
}

/// Checks that the mount runs this version from this file, and mints for a new organization.
#[track_caller]
fn mints(server: &Arc<Server>, file: &Path, organization: &str) {
    let mount = server.get("sys/mounts/astra").data();
    assert_eq!(mount["running_plugin_version"], VERSION);
    assert_eq!(mount["running_sha256"], sha256(file));
    let world = World::with_astra(server, "astra", crate::astra::Astra::builder().orgs(1));
    let org = world.configured(organization, Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    let running = server.plugins();
    assert!(!running.is_empty(), "no plugin runs");
    for pid in running {
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/exe")).expect("the program"),
            file.canonicalize().expect("a file")
        );
    }
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
}

#[test]
fn a_release_archive_is_installed_and_registered() {
    let server = Arc::new(Server::raft_with(""));
    let downloads = tempfile::tempdir().expect("temporary directory");
    let binary = downloads.path().join("binary");
    install(&binary);
    archive(downloads.path(), VERSION, PLATFORMS[0], &binary);
    let name = format!("{PLUGIN}_{}_{}.tar.gz", VERSION.trim_start_matches('v'), PLATFORMS[0]);
    let digest = sha256(&downloads.path().join(&name));
    let sums = format!("{digest}  {name}\n{digest}  of-another-platform.tar.gz\n");
    fs::write(downloads.path().join("SHA256SUMS"), sums).expect("write a file");
    let mut shell = shell(&server);
    shell.set("DOWNLOADS", downloads.path().display().to_string());
    shell.stands_for("linux_amd64", PLATFORMS[0]);
    shell.run_block(PAGE, "install, archive");
    shell.run_block(PAGE, "install, register");
    mints(&server, &server.plugin_dir().join(format!("{PLUGIN}_3.0.0")), "shop");
}

#[test]
fn the_file_of_a_package_is_copied_into_the_plugin_directory() {
    let server = Arc::new(Server::raft_with(""));
    let package = tempfile::tempdir().expect("temporary directory");
    install(&package.path().join(PLUGIN));
    // The packages are tested in `tests/repository/packages.rs`.
    let folder: &'static str = Box::leak(package.path().display().to_string().into_boxed_str());
    let mut shell = shell(&server);
    shell.stands_for("/usr/lib/vault-plugin-secrets-datastax-astra", folder);
    shell.run_block(PAGE, "install, package");
    shell.run_block(PAGE, "install, register");
    mints(&server, &server.plugin_dir().join(format!("{PLUGIN}_3.0.0")), "shop");
}

#[test]
fn openbao_downloads_registers_and_runs_the_plugin() {
    if !has_stanza("the download of an image") {
        return;
    }
    let images = Images::new();
    let registry = images.serve();
    let digest = sha256(&images.binary);
    let server =
        Arc::new(Server::raft_with(&filled("install, image", &format!("{}/astra", registry.address), &digest)));
    let entry = server.get(&format!("sys/plugins/catalog/secret/{PLUGIN}?version={VERSION}")).data();
    assert_eq!(entry["sha256"], digest);
    assert_eq!(entry["command"], format!("secret-{PLUGIN}-{VERSION}"));
    shell(&server).run_block(PAGE, "install, enable");
    let cached = server.plugin_dir().join(".oci-cache").join(images.index("astra"));
    mints(&server, &cached, "shop");

    // OpenBao takes the binary from the image of its platform, and reads the tag once.
    let requests = registry.stop();
    assert!(requests.contains(&format!("GET /v2/astra/manifests/{VERSION} 200")), "{requests}");
    assert_eq!(requests.matches("/blobs/").count(), 1, "{requests}");
    // The registry is gone, and the binary stays.
    server.restart();
    mints(&server, &cached, "restarted");
}

#[test]
fn openbao_upgrades_by_version_after_a_signal() {
    if !has_stanza("an upgrade by version") {
        return;
    }
    let images = Images::new();
    let registry = images.serve();
    let first = filled("install, image", &format!("{}/old", registry.address), &sha256(&example("passbook")));
    let server = Arc::new(Server::raft_with(&first.replace("v3.0.0", OLD)));
    server.enable("astra");
    assert_eq!(server.get("sys/mounts/astra").data()["running_plugin_version"], OLD);

    let new = filled("install, image", &format!("{}/astra", registry.address), &sha256(&images.binary));
    server.reconfigure(|old| old + new.split_once("\n\n").expect("the settings").1);
    let entry = format!("sys/plugins/catalog/secret/{PLUGIN}?version={VERSION}");
    wait("the new version", SOON, || (server.get(&entry).status == 200).then_some(()));
    assert_eq!(server.get("sys/mounts/astra").data()["running_plugin_version"], OLD);
    shell(&server).run_block(PAGE, "install, upgrade");
    let cached = server.plugin_dir().join(".oci-cache").join(images.index("astra"));
    mints(&server, &cached, "shop");

    // Without its block, the old version leaves the catalog. The mount does not need it.
    let old = stanza_of(OLD, &first.replace("v3.0.0", OLD));
    server.reconfigure(|config| config.replace(&old, ""));
    let entry = format!("sys/plugins/catalog/secret/{PLUGIN}?version={OLD}");
    wait("the old version to go", SOON, || (server.get(&entry).status == 404).then_some(()));
    server.reload("astra");
    mints(&server, &cached, "reloaded");
}

/// Returns the `plugin` block of a configuration, which has this version.
fn stanza_of(version: &str, config: &str) -> String {
    let block = &config[config.find("plugin \"secret\"").expect("a block")..];
    assert!(block.contains(version));
    block.to_owned()
}

#[test]
fn openbao_runs_a_changed_binary_unless_the_stanza_has_its_digest() {
    if !has_stanza("the digest of a stanza") {
        return;
    }
    let images = Images::new();
    let registry = images.serve();
    let pinned = format!("{}/astra@{}", registry.address, images.index("astra"));
    let digest = sha256(&images.binary);
    let with_digest = filled("install, image", &pinned, &digest);
    let without: String =
        with_digest.lines().filter(|line| !line.contains("sha256sum")).flat_map(|line| [line, "\n"]).collect();
    for (config, refused) in [(&with_digest, true), (&without, false)] {
        let server = Server::raft_with(config);
        server.enable("astra");
        let registered = server.get("sys/mounts/astra").data()["running_sha256"].as_str().map(str::to_owned);
        assert_eq!(registered.unwrap_or_default(), if refused { digest.as_str() } else { "" });
        let cached = server.plugin_dir().join(".oci-cache").join(images.index("astra"));
        // A running program cannot be written to, but replaced.
        let changed = cached.with_extension("changed");
        fs::copy(&cached, &changed).expect("copy the binary");
        let file = fs::File::options().append(true).open(&changed).expect("open the binary");
        (&file).write_all(b"changed").expect("change the binary");
        drop(file);
        fs::rename(&changed, &cached).expect("replace the binary");
        server.kill_plugins();
        // The changed binary answers, or the server does.
        let answer = server.get("astra/status");
        if refused {
            assert!(answer.errors().contains("checksums did not match"), "{}", answer.status);
        } else {
            answer.ok();
        }
    }
}

#[test]
fn openbao_registers_a_file_of_the_plugin_directory() {
    if !has_stanza("the registration of a file") {
        return;
    }
    let binary = tempfile::NamedTempFile::new().expect("temporary file");
    fs::remove_file(binary.path()).expect("remove a file");
    install(binary.path());
    let server = Arc::new(Server::raft_with(""));
    let file = server.plugin_dir().join(format!("{PLUGIN}_3.0.0"));
    fs::copy(binary.path(), &file).expect("copy the plugin");
    server.reconfigure(|old| old + &filled("install, command", "", &sha256(&file)));
    let entry = format!("sys/plugins/catalog/secret/{PLUGIN}?version={VERSION}");
    wait("the registration", SOON, || (server.get(&entry).status == 200).then_some(()));
    server.enable("astra");
    mints(&server, &file, "shop");
}

#[test]
fn a_plugin_that_cannot_be_registered_stops_a_restarted_server_and_a_signal_repairs_it() {
    if !has_stanza("a wrong version in a stanza") {
        return;
    }
    let server = Server::raft_with("plugin_auto_register = true\n");
    let digest = sha256(&server.plugin_dir().join(PLUGIN));
    let wrong = stanza(&format!("command = \"{PLUGIN}\"\nversion = \"v9.9.9\"\nsha256sum = \"{digest}\""));
    server.reconfigure(|old| old + &wrong);
    wait("the error", SOON, || server.log().contains("failed to set up plugins on reload").then_some(()));
    assert!(server.log().contains("plugin version mismatch"), "{}", server.log_tail());
    assert_eq!(server.get("sys/health").status, 200, "the server is not active any more");

    let faults =
        || server.log().matches("post-unseal setup failed: error=\"failed to set up declarative plugins").count();
    server.restart_sealed();
    assert_eq!(faults(), 0);
    server.give_key();
    wait("the server to fail twice", SOON, || (faults() > 1).then_some(()));
    assert_ne!(server.get("sys/health").status, 200);
    server.reconfigure(|old| old.replace("v9.9.9", VERSION));
    wait("the server to be active", SOON, || (server.get("sys/health").status == 200).then_some(()));
    server.enable("astra");
}

/// Checks what `bao plugin init`, which downloads as the server does, says to a stanza.
#[test]
fn a_download_checks_the_binary_the_pinned_index_the_tag_and_the_platform() {
    if !has_stanza("the checks of a download") {
        return;
    }
    let images = Images::new();
    let registry = images.serve();
    let (digest, index) = (sha256(&images.binary), images.index("astra"));
    let image = |reference: &str| format!("image = \"{}/{reference}\"\n", registry.address);
    let version = |version: &str| format!("version = \"{version}\"\n");
    let sum = |sum: &str| format!("sha256sum = \"{}\"\n", sum.trim_start_matches("sha256:"));
    let init = |lines: &[String]| {
        let dir = tempfile::tempdir().expect("temporary directory");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("create a directory");
        let config = dir.path().join("config.hcl");
        let text = format!("storage \"inmem\" {{}}\nplugin_directory = \"{}\"\n", plugins.display());
        fs::write(&config, text + &stanza(&lines.concat())).expect("write the configuration");
        let mut command = Command::new(crate::bao::host_binary());
        command.args(["plugin", "init"]).arg(format!("-config={}", config.display())).env_clear();
        let output = command.env("HOME", dir.path()).output().expect("run the CLI");
        let told = [output.stdout, output.stderr].concat();
        let link = format!("secret-{PLUGIN}-{VERSION}");
        let installed =
            plugins.join(link).exists().then(|| sha256(&plugins.join(format!("secret-{PLUGIN}-{VERSION}"))));
        (installed, String::from_utf8_lossy(&told).into_owned())
    };
    let pinned = format!("astra@{index}");
    let right = [
        vec![image("astra"), version(VERSION), sum(&digest)],
        vec![image("astra"), version(VERSION), sum(&digest), format!("binary_name = \"{PLUGIN}\"\n")],
        vec![image(&pinned), version(VERSION)],
        vec![image(&pinned), version(VERSION), sum(&digest)],
    ];
    for lines in right {
        let (installed, told) = init(&lines);
        assert_eq!(installed.as_deref(), Some(digest.as_str()), "{lines:?}: {told}");
    }
    let wrong = [
        (vec![image("astra"), version(VERSION)], "sha256sum must be set if image is not pinned by digest"),
        (vec![image("astra"), version(VERSION), sum(&index)], "plugin hash mismatch"),
        (vec![image(&pinned), version(VERSION), sum(&index)], "plugin hash mismatch"),
        (vec![image("astra"), version("v9.9.9"), sum(&digest)], "/astra/manifests/v9.9.9: unexpected status code 404"),
        (vec![image("astra"), version("3.0.0"), sum(&digest)], "/astra/manifests/3.0.0: unexpected status code 404"),
        (vec![image(&format!("astra@sha256:{digest}")), version(VERSION)], "unexpected status code 404"),
        (vec![image("other"), version(VERSION), sum(&digest)], "no child with platform linux/"),
    ];
    for (lines, message) in wrong {
        let (installed, told) = init(&lines);
        assert!(told.contains(message), "{lines:?}: {told}");
        assert_eq!(installed, None, "{lines:?}");
    }
}

#[test]
fn a_server_whose_download_fails_starts_only_if_told_to_continue() {
    if !has_stanza("a download that fails") {
        return;
    }
    let images = Images::new();
    let registry = images.serve();
    let config = filled("install, image", &format!("{}/nothing", registry.address), &sha256(&images.binary));
    let config = config.replace(
        "plugin_auto_register = true\n",
        "plugin_auto_register = false\nplugin_download_behavior = \"continue\"\n",
    );
    let server = Server::raft_with(&config);
    assert!(server.log().contains("failed to download plugin"), "{}", server.log_tail());
    assert_eq!(server.post("sys/mounts/astra", &json!({"type": PLUGIN})).status, 400);
}
