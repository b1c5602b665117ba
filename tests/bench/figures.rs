//! The figures that are measured once for each plugin: its start, memory, size and calls.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::host::process::COOKIE;
use crate::host::tls::Identity;
use crate::host::{Host, Launch, Setup, Storage};
use crate::proc::Memory;
use crate::server::{BenchServer, Plugin, stored_token};
use crate::wire::{Fixture, Op};

/// The figures of one plugin. A figure that could not be measured has its default value.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) plugin: &'static str,
    pub(crate) binary_bytes: u64,
    pub(crate) handshake_ms: f64,
    pub(crate) enable_ms: f64,
    /// Time until `Initialize` answers, with the smallest and the largest number of stored tokens.
    pub(crate) initialize_ms: Option<(f64, f64)>,
    pub(crate) idle: Memory,
    /// Memory with ten mounts.
    pub(crate) mounts: Memory,
    /// Memory after many requests, with the largest number of stored tokens.
    pub(crate) after: Memory,
    pub(crate) calls: Vec<Calls>,
}

/// The calls of one request with filled caches.
pub(crate) struct Calls {
    pub(crate) op: &'static str,
    /// Method and folder of each storage call, without ids.
    pub(crate) storage: Vec<String>,
    /// Number of calls to the system view of the host.
    pub(crate) facts: usize,
    /// Number of calls to Astra.
    pub(crate) astra: usize,
}

/// Measures the figures that need no stored tokens. Call it when the plugins have no mounts.
pub(crate) fn before(bench: &BenchServer, starts: usize) -> Vec<Figures> {
    let starting = in_turn(bench, starts, |plugin| first_line(&plugin_command(&plugin.binary)));
    // The server prepares its catalog during the first start of a plugin.
    in_turn(bench, 1, |plugin| enable_and_disable(bench, plugin));
    let enabling = in_turn(bench, (starts / 4).max(3), |plugin| enable_and_disable(bench, plugin));
    let times = starting.into_iter().zip(enabling);
    let each = bench.plugins.iter().zip(times).map(|(plugin, (handshake_ms, enable_ms))| {
        let binary_bytes = std::fs::metadata(&plugin.binary).expect("the size of a binary").len();
        let figures = Figures { plugin: plugin.name, binary_bytes, handshake_ms, enable_ms, ..Figures::default() };
        with_memory(bench, figures)
    });
    each.collect()
}

/// Measures a time of each plugin in alternating rounds. Returns the median for each plugin, in milliseconds.
fn in_turn(bench: &BenchServer, rounds: usize, measure: impl Fn(&Plugin) -> Duration) -> Vec<f64> {
    let mut times = vec![Vec::new(); bench.plugins.len()];
    for _ in 0..rounds {
        for (times, plugin) in times.iter_mut().zip(&bench.plugins) {
            times.push(measure(plugin));
        }
    }
    times.into_iter().map(|times| median(times.into_iter())).collect()
}

/// Returns the time until the first mount of a plugin is enabled.
fn enable_and_disable(bench: &BenchServer, plugin: &Plugin) -> Duration {
    let began = Instant::now();
    bench.enable(plugin.name, "brief");
    let took = began.elapsed();
    bench.disable("brief");
    bench.wait_for_end(plugin.name);
    took
}

/// Adds the memory with one new mount, and with ten.
fn with_memory(bench: &BenchServer, mut figures: Figures) -> Figures {
    const MOUNTS: usize = 10;
    let name = figures.plugin;
    let memory = || Memory::of(bench.pid(name).expect("the plugin runs"));
    let mounts: Vec<String> = (0..MOUNTS).map(|number| format!("brief-{number}")).collect();
    bench.enable(name, &mounts[0]);
    // The background work of the start is done after this time.
    std::thread::sleep(Duration::from_secs(1));
    figures.idle = memory();
    mounts[1..].iter().for_each(|mount| bench.enable(name, mount));
    figures.mounts = memory();
    mounts.iter().for_each(|mount| bench.disable(mount));
    bench.wait_for_end(name);
    figures
}

/// Measures figures with the fake host. If a plugin does not work with the fake host, these figures are missing.
pub(crate) fn on_the_wire(figures: &mut Figures, plugin: &Plugin, sizes: (usize, usize)) {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let binary = plugin.binary.clone();
    let calls = runtime.block_on(async { tokio::spawn(calls(binary)).await });
    figures.calls = calls.unwrap_or_default();
    let binary = plugin.binary.clone();
    let initialize = async |size| initialize(&binary, size).await;
    if !figures.calls.is_empty() {
        figures.initialize_ms =
            runtime.block_on(async { Some((initialize(sizes.0).await, initialize(sizes.1).await)) });
    }
}

/// Restarts the process of the plugin, and waits until it runs again.
pub(crate) fn restart(bench: &BenchServer, plugin: &'static str, mount: &str) {
    bench.server.post("sys/plugins/reload/backend", &json!({"mounts": [format!("{mount}/")]})).ok();
    crate::bao::wait("the plugin to run again", Duration::from_secs(60), || bench.pid(plugin));
}

/// Returns the time from the start of a process to the first line of its output.
fn first_line((program, env): &(&Path, Vec<(&str, String)>)) -> Duration {
    let mut command = Command::new(program);
    command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().expect("start a process");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read a line");
    let took = began.elapsed();
    assert!(!line.is_empty() || env.is_empty(), "no handshake line");
    let _ = child.kill();
    let _ = child.wait();
    took
}

fn plugin_command(binary: &Path) -> (&Path, Vec<(&'static str, String)>) {
    let env = vec![
        (COOKIE.0, COOKIE.1.to_owned()),
        ("PATH", "/usr/bin:/bin".to_owned()),
        ("PLUGIN_PROTOCOL_VERSIONS", "5".to_owned()),
        ("PLUGIN_CLIENT_CERT", Identity::generate().pem),
        ("VAULT_VERSION", "2.7.2".to_owned()),
        ("VAULT_PLUGIN_AUTOMTLS_ENABLED", "true".to_owned()),
        ("VAULT_PLUGIN_METADATA_MODE", "false".to_owned()),
    ];
    (binary, env)
}

/// Returns the same time for a program that only prints a line.
pub(crate) fn echo_ms(starts: usize) -> f64 {
    median((0..starts).map(|_| first_line(&(Path::new("/bin/echo"), Vec::new()))))
}

async fn calls(binary: std::path::PathBuf) -> Vec<Calls> {
    const OPS: &[Op] =
        &[Op::ResolvePath, Op::RoleRead, Op::TokenByName, Op::TokenByClientId, Op::Mint, Op::Renew, Op::Revoke];
    let mut fixture = Fixture::new(Launch::of(binary)).await;
    let mut found = Vec::new();
    for &op in OPS {
        // The first run fills the caches. A lease can be revoked only once, and earlier requests have filled the
        // caches.
        if !matches!(op, Op::Revoke) {
            fixture.run(op).await;
        }
        let astra = fixture.astra.requests().len();
        fixture.mount.storage.take_calls();
        fixture.mount.system.take_calls();
        fixture.run(op).await;
        let storage = fixture.mount.storage.take_calls().iter().map(|call| kind(call)).collect();
        let (facts, astra) = (fixture.mount.system.take_calls(), fixture.astra.requests().len() - astra);
        found.push(Calls { op: op.name(), storage, facts, astra });
    }
    fixture.stop().await;
    found
}

/// Returns method and folder of a storage call.
fn kind(call: &str) -> String {
    call.find('/').map_or(call, |slash| &call[..slash]).to_owned()
}

/// Returns the time until `Initialize` answers on a mount with this number of tokens.
async fn initialize(binary: &Path, tokens: usize) -> f64 {
    const TIMES: usize = 9;
    let storage = Storage::default();
    for number in 0..tokens {
        for (key, value) in stored_token("0d6f5bb1-0000-4000-8000-000000000000", number) {
            storage.insert(&key, value.to_string().as_bytes());
        }
    }
    storage.insert("client-index", br#"{"version":1}"#);
    let host = Host::start(Launch::of(binary.to_owned())).await;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let setup = Setup { storage: storage.clone(), ..Setup::default() };
        let mount = host.mount_with(setup).await.expect("set up a mount");
        let began = Instant::now();
        mount.initialize().await;
        times.push(began.elapsed());
    }
    host.stop().await;
    median(times.into_iter())
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    crate::report::median(times.map(|time| time.as_secs_f64() * 1000.0))
}
