//! `make scale MODE=stop`: how long a seal, a step-down and a stop of the server take while Astra hangs.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::world::{ROLE, org_name};
use super::{Row, Table};
use crate::astra::{Astra, AstraFault, Kind, Route};
use crate::bao::{Server, alive, wait};
use crate::say;
use crate::wire::ROLE_ID;

/// The numbers of mounts.
const MOUNTS: [usize; 3] = [1, 12, 50];

/// The target in seconds: all mounts share the time that one mount waits for its calls.
const MOST: f64 = 10.0;

/// The longest time of a seal, a step-down or a stop.
const LONGEST: Duration = Duration::from_secs(300);

/// The server logs this line when all mounts have ended.
const TEARDOWN: &str = "pre-seal teardown complete";

/// Measures all figures.
pub(super) fn measure() -> Table {
    let mut rows = Vec::new();
    let mut version = String::new();
    for mounts in MOUNTS {
        say(&format!("starting a server with {mounts} mounts"));
        let world = World::new(mounts);
        version = world.server.get("sys/health").ok()["version"].as_str().unwrap_or("unknown").to_owned();
        let times = [("step-down", world.step_down()), ("seal", world.seal()), ("stop", world.stop())];
        for (action, time) in times {
            rows.push(Row::at_most(format!("{action}, {mounts} mounts"), time.as_secs_f64(), MOST, "s"));
        }
    }
    Table {
        title: format!("Time of a stop while Astra hangs: each mount has a mint whose caller has hung up ({version})"),
        rows,
    }
}

/// A server with integrated storage, and mounts of the plugin.
struct World {
    server: Server,
    astra: Astra,
    mounts: usize,
}

impl World {
    fn new(mounts: usize) -> Self {
        let (server, astra) = (Server::raft(), Astra::spawn());
        let org = astra.org();
        for number in 0..mounts {
            let mount = mount(number);
            server.enable(&mount);
            let config = json!({"org_id": org.id, "astra_token": org.root_token, "url": astra.url(),
                "logical_name": org_name(0)});
            server.post(&format!("{mount}/config"), &config).ok();
            let role = json!({"org_id": org.id, "role_name": ROLE, "role_id": ROLE_ID});
            server.post(&format!("{mount}/role"), &role).ok();
        }
        Self { server, astra, mounts }
    }

    /// Measures from the request until all mounts have ended. The only node then becomes active again.
    fn step_down(&self) -> Duration {
        self.hang();
        let ended = || self.server.log().matches(TEARDOWN).count();
        let (before, began) = (ended(), Instant::now());
        self.server.post("sys/step-down", &Value::Null).ok();
        wait("the mounts to end", LONGEST, || (ended() > before).then_some(()));
        let took = began.elapsed();
        self.astra.clear_faults();
        wait("the server to be active", LONGEST, || (self.server.get("sys/health").status == 200).then_some(()));
        took
    }

    /// Measures the request, which is answered when the server is sealed.
    fn seal(&self) -> Duration {
        self.hang();
        let began = Instant::now();
        self.server.seal();
        let took = began.elapsed();
        self.astra.clear_faults();
        self.server.unseal();
        took
    }

    /// Measures from SIGTERM until the process has ended.
    fn stop(&self) -> Duration {
        self.hang();
        let (pid, began) = (self.server.pid(), Instant::now());
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(process, Signal::TERM).expect("stop the server");
        wait("the server to stop", LONGEST, || (!alive(pid)).then_some(()));
        began.elapsed()
    }

    /// Lets Astra hang, and begins a mint in each mount. The callers hang up.
    fn hang(&self) {
        self.astra.fault(AstraFault::before(Kind::HangBeforeHeaders { for_ms: None }));
        let before = self.astra.calls(Route::CreateToken);
        let host = self.server.address().trim_start_matches("http://");
        let mint = |number| {
            let mut caller = TcpStream::connect(host).expect("connect to the server");
            let (path, token) = (format!("{}/creds/{}/{ROLE}", mount(number), org_name(0)), self.server.token());
            write!(caller, "GET /v1/{path} HTTP/1.1\r\nHost: {host}\r\nX-Vault-Token: {token}\r\n\r\n")
                .expect("send a request");
            caller
        };
        let callers: Vec<TcpStream> = (0..self.mounts).map(mint).collect();
        let mounts = self.mounts as u64;
        self.astra.wait_for(LONGEST, |astra| astra.calls(Route::CreateToken) >= before + mounts);
        drop(callers);
    }
}

fn mount(number: usize) -> String {
    format!("astra-{number}")
}
