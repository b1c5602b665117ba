//! Runs the commands of documents in a shell, exactly as the documents have them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::mask::Masks;
use super::page::{agrees, block, commands};
use super::speaks_as_documented;
use crate::bao::{Client, host_binary, redact};

/// The URL of Astra in documents.
const ASTRA: &str = "https://api.astra.datastax.com";

/// The CLI of the documents. It replaces the mount `astra` with the mount of the test, and adds the URL of the simulated Astra
/// to a command with a root token.
const CLI: &str = r#"#!/bin/sh
url=
for word do
    shift
    case $word in
        astra | astra/*) word=$TEST_MOUNT${word#astra} ;;
        -path=astra) word=-path=$TEST_MOUNT ;;
        mounts=astra/) word=mounts=$TEST_MOUNT/ ;;
        */astra/*) word=${word%%astra/*}$TEST_MOUNT/${word#*astra/} ;;
        astra_token=?*) url=url=$TEST_ASTRA ;;
        url=https://api.astra.datastax.com) continue ;;
    esac
    set -- "$@" "$word"
done
exec "$TEST_HOST" "$@" $url
"#;

/// A shell in which `vault` and `bao` run the CLI of the server.
pub(crate) struct Shell {
    client: Client,
    mount: String,
    astra: String,
    bin: tempfile::TempDir,
    variables: Vec<(String, String)>,
    /// A word of the document, and the word that replaces it in the test.
    replaced: Option<(&'static str, &'static str)>,
    /// The names that samples show in place of values.
    pub(super) masks: Masks,
}

/// The result of a command.
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output, with the mount and the addresses of the document.
    pub(crate) stdout: String,
    /// Standard error, with the mount and the addresses of the document.
    pub(crate) stderr: String,
}

impl Ran {
    /// Returns a row of the table that the CLI prints.
    #[track_caller]
    pub(crate) fn row(&self, name: &str) -> String {
        let row = self.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        row.unwrap_or_else(|| panic!("no row {name:?}:\n{}", redact::clean(&self.stdout))).trim().to_owned()
    }
}

impl Shell {
    /// Creates a shell. The mount replaces `astra`, and `astra` is the URL of its simulated Astra.
    pub(crate) fn new(client: &Client, mount: &str, astra: &str) -> Self {
        let bin = tempfile::tempdir().expect("temporary directory");
        for name in ["vault", "bao"] {
            let script = bin.path().join(name);
            std::fs::write(&script, CLI).expect("write the CLI");
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/update_roles.sh");
        std::os::unix::fs::symlink(script, bin.path().join("update_roles.sh")).expect("link a script");
        Self {
            client: client.clone(),
            mount: mount.into(),
            astra: astra.into(),
            bin,
            variables: Vec::new(),
            replaced: None,
            masks: Masks::default(),
        }
    }

    /// Replaces a word of the document with another word.
    pub(crate) fn stands_for(&mut self, word: &'static str, here: &'static str) {
        self.replaced = Some((word, here));
    }

    /// Sets a variable that the commands name. Samples show the name of the variable in place of its value.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        self.mask(&value, &name.to_lowercase().replace('_', " "));
        self.variables.push((name.to_owned(), value));
    }

    /// Shows a name in place of a value in samples.
    pub(crate) fn mask(&mut self, value: &str, name: &str) {
        self.masks.add(&self.documented(value), name);
    }

    /// Runs one or more command lines.
    pub(crate) fn run(&self, script: &str) -> Ran {
        let path = std::env::var("PATH").expect("a search path");
        let mut command = Command::new("sh");
        let (word, here) = self.replaced.unwrap_or_default();
        let swap =
            |text: &str, from: &str, to: &str| if from.is_empty() { text.to_owned() } else { text.replace(from, to) };
        command.args(["-euc", &swap(script, word, here)]).env_clear();
        command.envs(self.client.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", format!("{}:{path}", self.bin.path().display()));
        command.env("TEST_MOUNT", &self.mount).env("TEST_ASTRA", &self.astra).env("TEST_HOST", host_binary());
        let output = command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.bin.path())
            .output()
            .expect("run a shell");
        let text = |bytes: &[u8]| self.documented(&swap(&String::from_utf8_lossy(bytes), here, word));
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Returns a text with the mount and the addresses of the document.
    pub(super) fn documented(&self, text: &str) -> String {
        let text = if self.astra.is_empty() { text.to_owned() } else { text.replace(&self.astra, ASTRA) };
        text.replace(&self.mount, "astra").replace(self.client.address(), "http://127.0.0.1:8200")
    }

    /// Runs a block of a document as one script, which must succeed.
    #[track_caller]
    pub(crate) fn run_block(&self, document: &str, name: &str) -> Ran {
        let ran = self.run(&block(document, name));
        let told = || redact::clean(&format!("{}\n{}", ran.stdout, ran.stderr));
        assert!(ran.code == 0, "{document}, {name:?} fails with {}:\n{}", ran.code, told());
        ran
    }

    /// Runs the commands of a sample. Compares the sample with the output, or writes the output into the document if
    /// DOCS_WRITE is set. A command that prints an error must fail, and any other command must succeed.
    #[track_caller]
    pub(crate) fn run_sample(&mut self, document: &str, name: &str) -> Vec<Ran> {
        let mut found = String::new();
        let mut runs = Vec::new();
        for command in commands(document, name) {
            let ran = self.run(&format!("exec 2>&1; {command}"));
            self.masks.learn(&ran.stdout).into_iter().for_each(redact::hide);
            let shown = self.masks.output(&ran.stdout);
            let error = ["Error", "No value found"].iter().any(|start| shown.starts_with(start));
            assert_eq!(ran.code != 0, error, "{document}: {command}\n{}", redact::clean(&shown));
            let _ = write!(found, "$ {command}\n{shown}");
            runs.push(ran);
        }
        assert!(redact::clean(&found) == found, "{document}, {name:?}: the sample shows a secret");
        if speaks_as_documented(document) {
            let start = format!("<!-- tested: {name} -->\n```console\n");
            agrees(
                document,
                &start,
                "```",
                &found,
                "docs:: readme:: operations:: root_expiry:: proxy:: tidy:: lookup:: team::",
            );
            return runs;
        }
        // Another version of the server may print other tables, but it passes on the same errors.
        let sample = block(document, name);
        let errors =
            sample.lines().map(str::trim).filter(|line| line.starts_with("* ") && !line.ends_with("occurred:"));
        errors.for_each(|error| assert!(found.contains(error), "{document}, {name:?}: no {error:?} in\n{found}"));
        runs
    }
}
