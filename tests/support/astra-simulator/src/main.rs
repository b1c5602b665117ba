//! Runs the simulated Astra DevOps API as a program, for demonstrations and end-to-end tests.
//!
//! ```text
//! cargo run -p astra-simulator -- --listen 127.0.0.1:0 --org <id> --root-token <token>
//! ```
//!
//! It prints one line of JSON with its addresses, and serves until it is killed.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "a program that owns its stdout")]

use std::error::Error;
use std::io::Write as _;

use astra_simulator::{Astra, Builder, Certificate, Seed, built_in_id};

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}\n\n{USAGE}");
        std::process::exit(2);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(flags) = parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let astra = flags.builder.try_spawn()?;
    if let (Some(path), Some(pem)) = (flags.ca_file, astra.ca_pem()) {
        std::fs::write(path, pem)?;
    }
    let orgs: Vec<&str> = astra.orgs().iter().map(|org| org.id.as_str()).collect();
    let line = serde_json::json!({ "url": astra.url(), "control_url": astra.control_url(), "orgs": orgs });
    println!("{line}");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

struct Flags {
    builder: Builder,
    /// The file to write the CA of an HTTPS server to.
    ca_file: Option<String>,
}

/// Parses the flags. Returns `None` if the caller asked for help.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Flags>, Box<dyn Error>> {
    let mut builder = Astra::builder();
    let mut ca_file = None;
    let mut seed: Option<Seed> = None;
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            return Ok(None);
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--listen" => builder = builder.listen(value.parse()?),
            "--control" => builder = builder.control(value.parse()?),
            "--seed" => builder = builder.seed(value.parse()?),
            "--tls-ca-file" => {
                builder = builder.tls(Certificate::Valid);
                ca_file = Some(value);
            }
            "--org" => {
                builder = seed.replace(Seed::new().id(value)).into_iter().fold(builder, Builder::org);
            }
            "--name" | "--root-token" | "--root-role" => {
                let org = seed.take().ok_or_else(|| format!("{flag} follows an --org"))?;
                seed = Some(match flag.as_str() {
                    "--name" => org.name(value),
                    "--root-token" => org.root_token(value),
                    _ => org.role(built_in_id(&value)),
                });
            }
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    Ok(Some(Flags { builder: seed.into_iter().fold(builder, Builder::org), ca_file }))
}

const USAGE: &str = "usage: astra-simulator [--listen ADDR] [--control ADDR] [--seed N] [--tls-ca-file FILE]
                       [--org ID [--name NAME] [--root-token TOKEN] [--root-role NAME]]...

  --listen, --control  addresses of the API and of the control endpoint (default 127.0.0.1:0)
  --seed               makes ids and tokens repeatable (default 1)
  --tls-ca-file        serves HTTPS and writes the CA to trust to FILE
  --org                an organization; the flags after it belong to it
  --root-token         AstraCS:<client id>:<digest> (default: made up)
  --root-role          API name of the root token's role (default Organization Administrator)";
