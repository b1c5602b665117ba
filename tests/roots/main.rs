//! Runs the binary under a real server on machines that differ from the build machine: `make test-roots`.
//!
//! Each machine is a folder that the server uses as the root of the file system. All machines share the network of the
//! test, which has only a loopback device, a simulated Astra and a DNS server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    dead_code,
    unused_imports,
    missing_docs,
    reason = "tests fail by panicking, read the environment of the run, print a table, and use a part of the test support"
)]

use astra_simulator as astra;
use plugin_host::plugin;

#[path = "../support/bao/mod.rs"]
mod bao;
#[path = "../support/dns/mod.rs"]
mod dns;
mod root;
#[path = "../e2e/world.rs"]
mod world;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use astra::{Astra, Builder, Certificate};
use bao::Reply;
use dns::{Behaviour, Dns};
use root::Root;
use world::{ROLE_ID, Token, World};

/// Real values of `hosts:` in `/etc/nsswitch.conf`.
const HOSTS: [&str; 6] = [
    "files dns",
    "files myhostname dns",
    "files dns myhostname",
    "myhostname files dns",
    "files mdns4_minimal [NOTFOUND=return] dns",
    "files resolve [!UNAVAIL=return] myhostname dns",
];

#[test]
fn a_host_name_in_a_url_resolves_on_every_machine() {
    let by_dns = "dns.astra.test";
    let zone = vec![(by_dns, Behaviour::Has(vec![Ipv4Addr::LOCALHOST.into()]))];
    let _dns = Dns::start((Ipv4Addr::LOCALHOST, 53).into(), &zone).expect("port 53 of a network of its own");
    let mut table = Table::default();
    for suite in ["bullseye", "bookworm", "trixie"] {
        let root = Root::debian(suite);
        root.write(Path::new("/etc/resolv.conf"), "nameserver 127.0.0.1\n");
        root.write(Path::new("/etc/hosts"), "127.0.0.1 localhost astra-of-hosts\n");
        for hosts in HOSTS {
            root.write(Path::new("/etc/nsswitch.conf"), &format!("passwd: files\nhosts: {hosts}\n"));
            for host in ["astra-of-hosts", by_dns] {
                assert!(root.resolves(host), "{suite}, {hosts:?}: its own programs do not resolve {host}");
                let world = world(&root, Astra::builder());
                table.row(suite, hosts, host, mint_and_revoke(&world, host));
            }
        }
    }

    let root = Root::empty("no-etc");
    for host in ["localhost", by_dns] {
        let world = world(&root, Astra::builder());
        table.row("without /etc", "none", host, mint_and_revoke(&world, host));
    }

    let root = Root::empty("scratch");
    let world = world(&root, Astra::builder().tls(Certificate::Valid));
    root.write(Path::new("/etc/ssl/certs/ca-certificates.crt"), world.ca_pem().expect("a CA"));
    table.row("CA bundle only", "none", "localhost", mint_and_revoke(&world, "localhost"));

    assert!(table.failed == 0, "{} cases failed, see the table", table.failed);
}

/// Starts a new server in a root, so that a crash in an earlier case has no effect.
fn world(root: &Root, astra: Builder) -> World {
    let server = Arc::new(root.server());
    server.enable("astra");
    World::with_astra(&server, "astra", astra.orgs(1))
}

/// Writes a config whose URL has this host name, mints a token and revokes it.
fn mint_and_revoke(world: &World, host: &str) -> Result<(), String> {
    let org = world.next_org();
    let url = world.url().replace("127.0.0.1", host);
    assert!(url.contains(host), "{url}");
    let config = json!({"org_id": org.id, "astra_token": org.root_token, "url": url, "logical_name": "shop"});
    done(world.post("config", &config))?;
    let role = json!({"org_id": org.id, "role_name": "reader", "role_id": ROLE_ID, "ttl": 600, "max_ttl": 600});
    done(world.post("role", &role))?;
    let asked = json!({"org_id": org.id, "role_name": "reader", "logical_name": "one"});
    let token = Token::of(done(world.post("org/token", &asked))?);
    if !world.is_alive(&token.client_id) {
        return Err("the token is not in Astra".into());
    }
    done(world.revoke(&token))?;
    if world.is_alive(&token.client_id) { Err("the token is not revoked".into()) } else { Ok(()) }
}

fn done(reply: Reply) -> Result<Value, String> {
    if reply.status < 300 { Ok(reply.body) } else { Err(format!("{}: {}", reply.status, reply.errors())) }
}

/// Prints each result as soon as it is known.
#[derive(Default)]
struct Table {
    rows: usize,
    failed: usize,
}

impl Table {
    fn row(&mut self, machine: &str, hosts: &str, host: &str, result: Result<(), String>) {
        if self.rows == 0 {
            println!(
                "\n| machine | `hosts:` in `/etc/nsswitch.conf` | host of the `url` | result |\n| --- | --- | --- | --- |"
            );
        }
        self.rows += 1;
        self.failed += usize::from(result.is_err());
        let result = result.map_or_else(|error| error.replace('\n', " "), |()| "works".into());
        println!("| {machine} | {hosts} | {host} | {result} |");
    }
}
