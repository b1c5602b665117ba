//! Does jobs with a token of Astra under a lease: renews it, replaces it when the lease cannot be extended any more, and
//! revokes it at the end. `README.md` beside it tells what it reads from its environment.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program with a console and an environment"
)]

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustify_derive::Endpoint;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use vaultrs::api::{exec_with_empty, exec_with_no_result};
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};
use vaultrs::kv1;

/// `vaultrs` has no calls for leases, so here they are.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "/sys/leases/renew", method = "PUT", response = "Granted")]
struct Renew {
    lease_id: String,
    increment: u64,
}

#[derive(Endpoint, Serialize)]
#[endpoint(path = "/sys/leases/revoke", method = "PUT")]
struct Revoke {
    lease_id: String,
    /// Waits until the token is gone in Astra.
    sync: bool,
}

#[derive(Deserialize)]
struct Granted {
    /// Seconds from now.
    lease_duration: u64,
}

/// A token and its lease. It has no `Debug`, so that it cannot be printed by mistake.
struct Token {
    value: String,
    client_id: String,
    lease_id: String,
    /// What the role grants each time.
    ttl: Duration,
    renew_at: Instant,
}

/// Gives a token that works, as long as it is asked before each job.
struct Tokens {
    vault: VaultClient,
    mount: String,
    path: String,
    current: Option<Token>,
}

impl Tokens {
    /// Takes `<mount>/creds/<org>/<role>`; address and token of the server come from `VAULT_ADDR` and `VAULT_TOKEN`.
    fn new(creds: &str) -> Result<Self, Box<dyn Error>> {
        let vault = VaultClient::new(VaultClientSettingsBuilder::default().timeout(Some(TIMEOUT)).build()?)?;
        let (mount, role) = creds.split_once("/creds/").ok_or("ASTRA_CREDS is not <mount>/creds/<org>/<role>")?;
        Ok(Self { vault, mount: mount.into(), path: format!("creds/{role}"), current: None })
    }

    /// Returns the token, after a renewal or a replacement if it is time for one.
    async fn token(&mut self) -> Result<&Token, Box<dyn Error>> {
        if self.current.as_ref().is_some_and(|token| Instant::now() >= token.renew_at) && !self.renew().await {
            self.revoke().await;
        }
        if self.current.is_none() {
            self.current = Some(self.mint().await?);
        }
        self.current.as_ref().ok_or_else(|| "no token".into())
    }

    async fn mint(&self) -> Result<Token, Box<dyn Error>> {
        let answer = kv1::get_raw(&self.vault, &self.mount, &self.path).await?;
        let text = |field: &str| answer.data[field].as_str().map(str::to_owned).ok_or(format!("no {field}"));
        let ttl = Duration::from_secs(answer.lease_duration.try_into()?);
        let token = Token {
            value: text("token")?,
            client_id: text("clientId")?,
            lease_id: answer.lease_id,
            ttl,
            renew_at: Instant::now() + ttl * 2 / 3,
        };
        println!("got token {} for {} s", token.client_id, ttl.as_secs());
        Ok(token)
    }

    /// Extends the lease; false if a new token is needed, because `max_ttl` is near or the lease is gone.
    async fn renew(&mut self) -> bool {
        let Some(token) = &mut self.current else { return false };
        let request = Renew { lease_id: token.lease_id.clone(), increment: token.ttl.as_secs() };
        match exec_with_no_result(&self.vault, request).await {
            Ok(Granted { lease_duration }) => {
                let granted = Duration::from_secs(lease_duration);
                token.renew_at = Instant::now() + granted * 2 / 3;
                println!("renewed token {} for {lease_duration} s", token.client_id);
                granted >= token.ttl / 2
            }
            Err(error) => {
                eprintln!("token {} was not renewed: {error}", token.client_id);
                false
            }
        }
    }

    /// Ends the token in Astra. If that fails, it ends with its lease.
    async fn revoke(&mut self) {
        let Some(token) = self.current.take() else { return };
        match exec_with_empty(&self.vault, Revoke { lease_id: token.lease_id, sync: true }).await {
            Ok(()) => println!("revoked token {}", token.client_id),
            Err(error) => eprintln!("token {} was not revoked: {error}", token.client_id),
        }
    }
}

/// The work itself: here, asking Astra which organization the token is for.
async fn job(http: &reqwest::Client, url: &str, token: &Token) -> Result<(), reqwest::Error> {
    let call = http.get(format!("{url}/v2/currentOrg")).timeout(TIMEOUT).bearer_auth(&token.value);
    call.send().await?.error_for_status()?;
    Ok(())
}

async fn jobs(tokens: &mut Tokens, url: &str, number: u64) -> Result<(), Box<dyn Error>> {
    let http = reqwest::Client::new();
    for job_number in 1..=number {
        let token = tokens.token().await?;
        job(&http, url, token).await?;
        println!("job {job_number} done with token {}", token.client_id);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("ASTRA_URL").unwrap_or_else(|_| "https://api.astra.datastax.com".into());
    let number = std::env::var("JOBS").map_or(Ok(10), |text| text.parse())?;
    let mut tokens = Tokens::new(&std::env::var("ASTRA_CREDS")?)?;
    let mut stop = signal(SignalKind::terminate())?;
    let result = tokio::select! {
        result = jobs(&mut tokens, &url, number) => result,
        _ = stop.recv() => Ok(()),
    };
    tokens.revoke().await;
    result
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);
