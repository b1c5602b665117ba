//! What is measured once for each plugin, beside requests: its start, its memory, its size, its calls.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::host::process::COOKIE;
use crate::host::tls::Identity;
use crate::host::{Host, Launch, Setup, Storage};
use crate::proc::Memory;
use crate::scene::{Plugin, Scene, stored_token};
use crate::wire::{Bed, Op};

/// The figures of one plugin. What could not be measured is not there.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) plugin: &'static str,
    pub(crate) binary_bytes: u64,
    pub(crate) handshake_ms: f64,
    pub(crate) enable_ms: f64,
    /// Until `Initialize` answers, with the fewest and with the most tokens stored.
    pub(crate) initialize_ms: Option<(f64, f64)>,
    pub(crate) idle: Memory,
    /// With ten mounts.
    pub(crate) mounts: Memory,
    /// With the most tokens stored, after many requests.
    pub(crate) after: Memory,
    pub(crate) calls: Vec<Calls>,
}

/// The calls that one request makes, once caches are filled.
pub(crate) struct Calls {
    pub(crate) op: &'static str,
    /// As `method key`, ids left out.
    pub(crate) storage: Vec<String>,
    /// Calls for facts of the host.
    pub(crate) facts: usize,
    pub(crate) astra: usize,
}

/// Measures what needs no stored tokens, while no mount of the plugin is there.
pub(crate) fn before(scene: &Scene, plugin: &Plugin, starts: usize) -> Figures {
    const MOUNTS: usize = 10;
    let name = plugin.name;
    let mut figures = Figures { plugin: name, ..Figures::default() };
    figures.binary_bytes = std::fs::metadata(&plugin.binary).expect("the size of a binary").len();
    figures.handshake_ms = median((0..starts).map(|_| first_line(&plugin_command(&plugin.binary))));
    let cycles = (starts / 4).max(3);
    figures.enable_ms = median((0..cycles).map(|_| {
        let began = Instant::now();
        scene.enable(name, "brief");
        let took = began.elapsed();
        scene.disable("brief");
        scene.wait_for_end(name);
        took
    }));
    let memory = || Memory::of(scene.pid(name).expect("the plugin runs"));
    let mounts: Vec<String> = (0..MOUNTS).map(|number| format!("brief-{number}")).collect();
    scene.enable(name, &mounts[0]);
    // What a start leaves behind is done by then.
    std::thread::sleep(Duration::from_secs(1));
    figures.idle = memory();
    mounts[1..].iter().for_each(|mount| scene.enable(name, mount));
    figures.mounts = memory();
    mounts.iter().for_each(|mount| scene.disable(mount));
    scene.wait_for_end(name);
    figures
}

/// Measures what a host of our own can see. A plugin that is too strange for that host has no such figures.
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

/// Returns a new process of the plugin to its state before any request, and waits until it serves again.
pub(crate) fn restart(scene: &Scene, plugin: &'static str, mount: &str) {
    scene.server.post("sys/plugins/reload/backend", &json!({"mounts": [format!("{mount}/")]})).ok();
    crate::bao::wait("the plugin to run again", Duration::from_secs(60), || scene.pid(plugin));
}

/// Returns the time from the start of a process to its first line.
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
        ("PLUGIN_CLIENT_CERT", Identity::new().pem),
        ("VAULT_VERSION", "2.7.2".to_owned()),
        ("VAULT_PLUGIN_AUTOMTLS_ENABLED", "true".to_owned()),
        ("VAULT_PLUGIN_METADATA_MODE", "false".to_owned()),
    ];
    (binary, env)
}

/// Returns the time that a program takes which does nothing but print a line.
pub(crate) fn echo_ms(starts: usize) -> f64 {
    median((0..starts).map(|_| first_line(&(Path::new("/bin/echo"), Vec::new()))))
}

async fn calls(binary: std::path::PathBuf) -> Vec<Calls> {
    const OPS: &[Op] =
        &[Op::ResolvePath, Op::RoleRead, Op::TokenByName, Op::TokenByClientId, Op::Mint, Op::Renew, Op::Revoke];
    let mut bed = Bed::new(Launch::of(binary)).await;
    let mut found = Vec::new();
    for &op in OPS {
        // The first one fills the caches. A lease can be revoked only once; minting has filled them.
        if !matches!(op, Op::Revoke) {
            bed.run(op).await;
        }
        let astra = bed.astra.requests().len();
        bed.mount.storage.take_calls();
        bed.mount.system.take_calls();
        bed.run(op).await;
        let storage = bed.mount.storage.take_calls().iter().map(|call| kind(call)).collect();
        let (facts, astra) = (bed.mount.system.take_calls(), bed.astra.requests().len() - astra);
        found.push(Calls { op: op.name(), storage, facts, astra });
    }
    bed.stop().await;
    found
}

/// Returns method and folder of a storage call.
fn kind(call: &str) -> String {
    call.find('/').map_or(call, |slash| &call[..slash]).to_owned()
}

/// Returns the time until `Initialize` answers on a mount with so many tokens.
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
