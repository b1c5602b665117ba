//! A mount of a plugin under the fake host, to count the calls and instructions of a request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::astra::{Astra, Org};
use crate::host::{Host, Launch, Lease, Mount, Reply, Setup};

/// A kind of request.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    /// The host sends this before each request of a client.
    ResolvePath,
    RoleRead,
    TokenByName,
    TokenByClientId,
    Mint,
    Renew,
    /// Cannot be repeated, because each revocation needs a new lease.
    Revoke,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ResolvePath => "resolve-path",
            Self::RoleRead => "role read",
            Self::TokenByName => "token by name",
            Self::TokenByClientId => "token by client id",
            Self::Mint => "mint",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
        }
    }
}

/// A mount under the fake host, with an org, a role and a token.
pub(crate) struct Fixture {
    host: Host,
    pub(crate) mount: Mount,
    pub(crate) astra: Astra,
    org: Org,
    client_id: String,
    /// The lease of a named token.
    lease: Lease,
}

impl Fixture {
    pub(crate) async fn new(launch: Launch) -> Self {
        let astra = Astra::spawn();
        let org = astra.org().clone();
        let host = Host::start(launch).await;
        let mount = host.mount_with(Setup::default()).await.expect("set up a mount");
        mount.initialize().await;
        let config =
            json!({"org_id": org.id, "astra_token": org.root_token, "url": astra.url(), "logical_name": "shop"});
        done(&mount.write("config", config).await);
        let role = json!({"org_id": org.id, "role_name": "reader", "role_id": ROLE_ID, "ttl": 3600, "max_ttl": 36000});
        done(&mount.write("role", role).await);
        let token = json!({"org_id": org.id, "role_name": "reader", "logical_name": "cart"});
        let minted = mount.write("org/token", token).await;
        done(&minted);
        let lease = Lease::new("org/token", &minted);
        let client_id = minted.data()["clientId"].as_str().expect("a client id").to_owned();
        Self { host, mount, astra, org, client_id, lease }
    }

    /// Makes one request.
    pub(crate) async fn run(&mut self, op: Op) {
        let read = |path, data: Value| {
            let mount = &self.mount;
            async move { mount.call("read", path, &data).await }
        };
        let org = &self.org.id;
        let reply = match op {
            Op::ResolvePath => {
                // The plugin resolves no paths. The protocol expresses this as "unsupported operation".
                let data = json!({"org_id": org, "role_name": "reader"});
                let reply = self.mount.call("resolve-path", "role", &data).await;
                assert_eq!(reply.error_type(), Some(5), "resolve-path");
                return;
            }
            Op::RoleRead => read("role", json!({"org_id": org, "role_name": "reader"})).await,
            Op::TokenByName => {
                read("org/token", json!({"org_id": org, "role_name": "reader", "logical_name": "cart"})).await
            }
            Op::TokenByClientId => read("org/token", json!({"org_id": org, "client_id": self.client_id})).await,
            Op::Mint => read("creds/shop/reader", json!({})).await,
            Op::Renew => self.mount.renew(&mut self.lease, Duration::ZERO).await,
            Op::Revoke => self.mount.revoke(&self.lease).await,
        };
        done(&reply);
    }

    /// Stops the plugin and waits until its process has ended.
    pub(crate) async fn stop(mut self) {
        const LONGEST: Duration = Duration::from_secs(60);
        drop(self.mount);
        self.host.shutdown().await.expect("Shutdown");
        let status = self.host.plugin.exit(LONGEST).await;
        assert!(status.success(), "ended with {status}");
        self.host.plugin.check_output();
    }
}

fn done(reply: &Reply) -> &Reply {
    assert!((200..300).contains(&reply.http()), "status {}: {}", reply.http(), reply.error());
    reply
}

/// The id of an Astra role. The simulated Astra does not check it.
pub(crate) const ROLE_ID: &str = "946cfbde-24cc-4953-9355-d57bfd61bf39";
