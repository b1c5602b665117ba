//! Values for the Helm charts: their parts fit together, and the script of the init container checks the binary.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::kubernetes::YAML;
use super::{HCL, find, parsed, skip, text};
use crate::bao::{PLUGIN, sha256};
use crate::plugin::binary;

/// The values below `server` that the charts of Vault 0.31 and OpenBao know, and the examples use.
const KNOWN: [&str; 5] = ["extraInitContainers", "volumes", "volumeMounts", "image", "ha"];

#[track_caller]
fn server(name: &str) -> Value {
    let values = parsed(YAML, &text(&format!("helm/{name}")))[0].take();
    assert_eq!(values.as_object().expect("values").keys().collect::<Vec<_>>(), ["server"]);
    for key in values["server"].as_object().expect("values").keys() {
        assert!(KNOWN.contains(&key.as_str()), "{name}: {key}");
    }
    values["server"].clone()
}

/// Returns the configuration of the server.
#[track_caller]
fn config(server: &Value) -> Value {
    assert!(server["ha"]["enabled"] == true && server["ha"]["raft"]["enabled"] == true);
    parsed(HCL, server["ha"]["raft"]["config"].as_str().expect("a configuration"))
}

#[test]
fn the_volume_of_the_plugin_is_mounted_at_the_plugin_directory() {
    let init = server("init-container.yaml");
    assert_eq!(init["volumes"][0]["name"], init["volumeMounts"][0]["name"]);
    assert_eq!(init["volumes"][0]["name"], init["extraInitContainers"][0]["volumeMounts"][0]["name"]);
    assert_eq!(init["volumeMounts"][0]["readOnly"], true);
    assert_eq!(init["extraInitContainers"][0]["volumeMounts"][0]["mountPath"], "/plugins");
    // The charts have a volume `data`, which OpenBao can write to.
    let download = server("openbao-download.yaml");
    assert_eq!(download["volumeMounts"][0]["name"], "data");
    assert!(download["volumeMounts"][0].get("readOnly").is_none());
    for server in [&init, &download] {
        assert_eq!(config(server)["plugin_directory"], server["volumeMounts"][0]["mountPath"]);
    }
    let image = server("image.yaml");
    let recipe = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/server.Dockerfile"));
    let directory = config(&image)["plugin_directory"].as_str().expect("a directory").to_owned();
    assert!(recipe.expect("the recipe").contains(&format!(" {directory}/{PLUGIN}\n")), "{directory}");
}

#[test]
fn the_download_has_the_settings_of_the_install_page() {
    let config = config(&server("openbao-download.yaml"));
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).expect("read the page");
    let mark = "<!-- the test of this block: install, image -->\n```hcl\n";
    let block = page.split_once(mark).expect("the block").1.split_once("```").expect("its end").0;
    let documented = parsed(HCL, block);
    for name in ["plugin_auto_download", "plugin_auto_register", "plugin"] {
        assert_eq!(config[name], documented[name], "{name}");
    }
}

/// Runs the script of the init container with another plugin directory.
fn script(plugins: &Path, url: &str, digest: &str) -> Output {
    let init = server("init-container.yaml")["extraInitContainers"][0].take();
    let script = init["args"][0].as_str().expect("a script").replace("/plugins", &plugins.display().to_string());
    assert_eq!(init["command"], serde_json::json!(["/bin/sh", "-euc"]));
    let mut command = Command::new("sh");
    command.args(["-euc", &script]).env("ASTRA_PLUGIN_URL", url).env("ASTRA_PLUGIN_SHA256", digest);
    command.output().expect("run sh")
}

#[test]
fn the_init_container_installs_only_the_binary_with_the_right_digest() {
    if find("wget").is_none() {
        return skip("the script of the init container", "wget");
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let (web, plugins) = (dir.path().join("web"), dir.path().join("plugins"));
    let release = format!("{PLUGIN}_3.0.0_linux_amd64");
    fs::create_dir_all(web.join(&release)).expect("create a directory");
    // A copy, no link: other tests make and remove links to the plugin, and tar fails if a file changes while it reads.
    fs::copy(binary(), web.join(&release).join(PLUGIN)).expect("copy the plugin");
    let digest = sha256(&web.join(&release).join(PLUGIN));
    let packed = Command::new("tar").args(["-czf", &format!("{release}.tar.gz"), &release]).current_dir(&web).status();
    assert!(packed.expect("run tar").success());

    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]).current_dir(&web);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run python3");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read the port");
    let port = line.split(' ').skip_while(|word| *word != "port").nth(1).expect("a port");
    let url = format!("http://127.0.0.1:{port}/{release}.tar.gz");

    let file = plugins.join(format!("{PLUGIN}_3.0.0"));
    let run = |url: &str, digest: &str| {
        let _ = fs::remove_dir_all(&plugins);
        fs::create_dir(&plugins).expect("create a directory");
        script(&plugins, url, digest)
    };
    let (archive, missing) = (sha256(&web.join(format!("{release}.tar.gz"))), format!("{url}.missing"));
    for (url, digest) in [(&url, &archive), (&missing, &digest)] {
        let output = run(url, digest);
        assert!(!output.status.success() && !file.exists(), "{url}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let output = run(&url, &digest);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sha256(&file), digest);
    let version = Command::new(&file).arg("-version").output().expect("run the plugin");
    assert!(version.status.success());
    child.kill().and_then(|()| child.wait()).expect("stop the web server");
}
