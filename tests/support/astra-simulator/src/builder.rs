//! Configures and starts a simulator: its organizations, transport and seed.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use jiff::SignedDuration;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::control;
use super::handle::{Astra, Org};
use super::knobs::Knobs;
use super::roles::built_in_id;
use super::server;
use super::state::{Organization, Shared, State, User, sha256_hex};
use super::tls::{Certificate, acceptor};

/// An organization that exists from the start.
#[derive(Clone)]
pub struct Seed {
    id: Option<String>,
    name: String,
    root_token: Option<String>,
    role: String,
    enterprise: Option<String>,
    max_token_age: Option<SignedDuration>,
}

impl Seed {
    /// Returns an organization with a random id, whose root token has the role Organization Administrator.
    pub fn new() -> Self {
        Self {
            id: None,
            name: "Simulated".into(),
            root_token: None,
            role: built_in_id("Organization Administrator").into(),
            enterprise: None,
            max_token_age: None,
        }
    }

    /// Sets the id. It can be any text, because the ids in users' guides are not UUIDs.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the root token, `AstraCS:<client id>:<digest>`. Client id and digest can be any texts.
    pub fn root_token(mut self, token: impl Into<String>) -> Self {
        self.root_token = Some(token.into());
        self
    }

    /// Sets the id of the root token's role.
    pub fn role(mut self, role_id: impl Into<String>) -> Self {
        self.role = role_id.into();
        self
    }

    pub fn enterprise(mut self, id: impl Into<String>) -> Self {
        self.enterprise = Some(id.into());
        self
    }

    pub fn max_token_age(mut self, age: SignedDuration) -> Self {
        self.max_token_age = Some(age);
        self
    }

    fn plant(self, state: &mut State) -> Org {
        let id = self.id.unwrap_or_else(|| state.rng.uuid());
        let mut root = state.generate_token(&id, vec![self.role]);
        if let Some(text) = &self.root_token {
            let parts = text.strip_prefix("AstraCS:").and_then(|rest| rest.split_once(':'));
            let (client_id, digest) = parts.unwrap_or_else(|| panic!("a root token is AstraCS:<client id>:<digest>"));
            (root.client_id, root.digest) = (client_id.to_owned(), digest.to_owned());
        }
        let org = Org::new(&id, &self.name, &root.client_id, root.text());
        let user = User {
            id: state.rng.uuid(),
            email: format!("owner@{}.example", &sha256_hex(&id)[..8]),
            status: "active",
            roles: vec![built_in_id("Organization Administrator").into()],
        };
        state.data.tokens.insert(root.client_id.clone(), root);
        state.data.users.insert(id.clone(), vec![user]);
        let (name, enterprise, max_token_age) = (self.name, self.enterprise, self.max_token_age);
        state.data.orgs.push(Organization { id, name, enterprise, max_token_age });
        org
    }
}

impl Default for Seed {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone)]
pub struct Builder {
    seeds: Vec<Seed>,
    certificate: Option<Certificate>,
    seed: u64,
    knobs: Knobs,
    listen: SocketAddr,
    control: SocketAddr,
}

impl Builder {
    /// Returns a builder for one organization, over plain HTTP, on free ports of the loopback address.
    pub fn new() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            seeds: Vec::new(),
            certificate: None,
            seed: 1,
            knobs: Knobs::default(),
            listen: any_port,
            control: any_port,
        }
    }

    pub fn org(mut self, seed: Seed) -> Self {
        self.seeds.push(seed);
        self
    }

    /// Adds `count` organizations with random ids.
    pub fn orgs(mut self, count: usize) -> Self {
        self.seeds.extend((0..count).map(|number| Seed::new().name(format!("Simulated {number}"))));
        self
    }

    pub fn tls(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Sets the seed. Two simulators with the same seed generate the same ids and tokens.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    pub fn knobs(mut self, change: impl FnOnce(&mut Knobs)) -> Self {
        change(&mut self.knobs);
        self
    }

    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    pub fn control(mut self, address: SocketAddr) -> Self {
        self.control = address;
        self
    }

    /// Starts the simulator in its own thread. When this returns, the simulator accepts connections.
    pub fn spawn(self) -> Astra {
        self.try_spawn().unwrap_or_else(|error| panic!("the simulator did not start: {error}"))
    }

    /// Like [`Builder::spawn`], but returns an error if an address cannot be bound.
    pub fn try_spawn(mut self) -> io::Result<Astra> {
        let mut state = State::new(self.seed, self.knobs);
        if self.seeds.is_empty() {
            self.seeds.push(Seed::new());
        }
        let orgs: Vec<Org> = self.seeds.into_iter().map(|seed| seed.plant(&mut state)).collect();
        state.initial.0 = state.data.clone();
        state.listening = true;
        let shared = Arc::new(Shared::new(state));

        let (listener, control) = (bind(reserve(self.listen)?.local_addr()?)?, bind(self.control)?);
        let (tls, ca_pem) = self.certificate.map(acceptor).unzip();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let control_url = format!("http://{}", control.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let for_server = Arc::clone(&shared);
        let thread = thread::Builder::new().name("astra".into()).spawn(move || {
            runtime.block_on(async {
                let api = async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    server::serve(Arc::clone(&for_server), listener, tls).await
                };
                let control = async {
                    let control = tokio::net::TcpListener::from_std(control)?;
                    control::serve(Arc::clone(&for_server), control).await
                };
                let result = tokio::select! {
                    _ = stopped => Ok(()),
                    result = api => result,
                    result = control => result,
                };
                if let Err(error) = &result {
                    for_server.update(|state| state.failure = Some(error.to_string()));
                }
                result
            })
        })?;
        Ok(Astra::new(shared, orgs, url, control_url, ca_pem, stop, thread))
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

/// Binds a socket that shares its address with one listener. If a listener was bound to a port by number, it keeps the
/// port after a shutdown. It loses a port that the kernel chose (Linux, `inet_bind`).
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
