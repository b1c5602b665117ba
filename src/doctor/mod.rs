//! The command `-doctor`: checks an installation and Astra, and prints a report that can be pasted into an issue.
//!
//! Where Astra's documentation says nothing, the report shows how Astra behaves. People with an account can send us the report.
//!
//! Architecture invariant: does not use the storage or the engine. The report contains no secret. The only token that the
//! doctor mints is deleted, or expires within 15 minutes.

mod astra;
mod mint;
mod network;
mod options;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use vault_plugin_sdk::doctor::{Check, Report, Verdict, machine};
use vault_plugin_sdk::{Command, Plugin};

use self::options::{Asked, Options};
use super::api::{self, Client, Pools, Probe, Proxies, Settings};
use super::error::advice;

/// The command.
pub(super) const COMMAND: Command =
    Command::new("doctor", "checks this machine and Astra, and prints a report; -doctor -help shows its options", run);

/// Time limit of each call, as in a config with defaults.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The exit status if an option cannot be used.
const BAD_OPTION: u8 = 2;

fn run(plugin: &Plugin, arguments: Vec<OsString>) -> ExitCode {
    // Ignores write errors: there is nobody to report them to.
    let options = match options::parse(arguments, vault_plugin_sdk::variable, &mut io::stdin()) {
        Ok(Asked::Usage) => {
            let _ = io::stdout().write_all(options::USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Checks(options)) => options,
        Err(mistake) => {
            let _ = writeln!(io::stderr(), "{mistake}; -doctor -help shows the options");
            return ExitCode::from(BAD_OPTION);
        }
    };
    let mut checks = machine(plugin);
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => checks.extend(runtime.block_on(astra_checks(plugin, &options))),
        Err(error) => checks.push(Check::failed("runtime", error.to_string(), "raise the limits of the process")),
    }
    let report = Report::new(plugin, checks);
    let text = if options.json { report.json() } else { report.table() };
    let _ = io::stdout().write_all(text.as_bytes());
    if report.verdict() == Verdict::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Checks the connection to Astra, and the root token if a root token was given.
async fn astra_checks(plugin: &Plugin, options: &Options) -> Vec<Check> {
    let settings = Settings {
        url: options.url.clone(),
        token: options.token.clone().unwrap_or_default(),
        astra_org_id: options.org_id.clone(),
        ca_cert: options.ca_cert.clone(),
        timeout: TIMEOUT,
        user_agent: format!("{}/{} doctor", plugin.name, plugin.version),
    };
    let pools = Pools::new(Proxies::new(&vault_plugin_sdk::proxy_variables()));
    let made =
        Probe::new(&settings, &pools).and_then(|probe| Ok((probe, Client::new(&settings, &pools, Arc::default())?)));
    let (probe, client) = match made {
        Ok(made) => made,
        Err(error) => return vec![failed("settings", &error)],
    };
    let (mut checks, is_reached) = network::checks(&probe, &options.url).await;
    checks.extend(match &options.token {
        None => vec![Check::skipped("root token", "none was given; -doctor -help says how to give one")],
        Some(_) if !is_reached => vec![Check::skipped("root token", "Astra cannot be reached")],
        Some(_) => astra::checks(&probe, &client, options).await,
    });
    checks
}

/// Returns a check that failed because a call to Astra failed.
fn failed(name: &'static str, error: &api::Error) -> Check {
    Check::failed(name, error.what(), advice(error))
}
