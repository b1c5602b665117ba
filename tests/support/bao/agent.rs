//! A real agent that renders templates.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::{Client, alive, redact, wait};

/// An agent, stopped when dropped.
pub(crate) struct Agent {
    dir: PathBuf,
    process: Process,
}

impl Agent {
    /// Starts the agent of a server with the caller's Vault token. Each template is rendered into a file named by its
    /// index.
    pub(crate) fn start(client: &Client, templates: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("e2e-agent-").tempdir().expect("temporary directory").keep();
        fs::write(dir.join("token"), &client.token).expect("write the token");
        let mut config = format!(
            "pid_file = \"{dir}/pid\"\nvault {{\n  address = \"{address}\"\n}}\n\
             auto_auth {{\n  method \"token_file\" {{\n    config = {{ token_file_path = \"{dir}/token\" }}\n  }}\n}}\n",
            dir = dir.display(),
            address = client.address(),
        );
        for (place, template) in templates.iter().enumerate() {
            config.push_str(&format!(
                "template {{\n  destination = \"{}/{place}\"\n  contents = <<EOT\n{template}\nEOT\n}}\n",
                dir.display()
            ));
        }
        fs::write(dir.join("agent.hcl"), config).expect("write the configuration");
        Self::with_config(client.command(), dir)
    }

    /// Starts the agent with the `agent.hcl` of a directory. The directory is removed when the agent ends. The command
    /// is the CLI.
    pub(crate) fn with_config(mut command: Command, dir: PathBuf) -> Self {
        command.arg("agent").arg(format!("-config={}", dir.join("agent.hcl").display())).arg("-log-level=debug");
        let process = Process::spawn(&mut command, &dir.join("agent.log"), &dir);
        Self { dir, process }
    }

    /// Waits until a template is rendered and `wanted` accepts the text. Returns the text.
    #[track_caller]
    pub(crate) fn rendered(&self, place: usize, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        self.file(&place.to_string(), limit, wanted)
    }

    /// Waits until a file of the agent's directory exists and `wanted` accepts its text. Returns the text.
    #[track_caller]
    pub(crate) fn file(&self, name: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let file = self.dir.join(name);
        let found = wait_or(limit, || fs::read_to_string(&file).ok().filter(|text| wanted(text)));
        found.unwrap_or_else(|| panic!("the agent did not render {name} as expected\n{}", self.log_tail()))
    }

    /// Returns whether the agent still runs.
    pub(crate) fn runs(&self) -> bool {
        alive(self.process.pid())
    }

    /// Returns the agent's log without secrets.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        redact::clean(&lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

fn wait_or<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = std::time::Instant::now() + limit;
    wait("the file, or the time limit", limit + Duration::from_secs(1), || match condition() {
        Some(found) => Some(Some(found)),
        None => (std::time::Instant::now() >= deadline).then_some(None),
    })
}
