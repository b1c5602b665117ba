//! Name look-ups on machines of all kinds.
//!
//! Each test runs the plugin in a separate machine, made of namespaces. The machine has an `/etc` that the test fills,
//! a loopback interface, and a DNS server that behaves differently for each name.

mod machine;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use serde_json::{Value, json};

use self::machine::Machine;
use crate::astra::Astra;
use crate::dns::{Behaviour, Dns, Zone};
use crate::host::{Host, Launch, Mount, Reply, Setup};

const DNS_PORT: u16 = 53;

/// A plugin in the machine, and a simulated Astra. The plugin reaches Astra under every name that resolves to the
/// machine.
struct MachineWorld {
    astra: Astra,
    host: Host,
    mount: Mount,
}

impl MachineWorld {
    async fn new() -> Self {
        Self::with(|launch| launch, Astra::spawn()).await
    }

    async fn with(change: impl FnOnce(Launch) -> Launch, astra: Astra) -> Self {
        let host = Host::start(change(Launch::astra()).secret(&astra.org().root_token)).await;
        let mount = host.mount_with(Setup::default()).await.expect("Setup");
        mount.initialize().await;
        Self { astra, host, mount }
    }

    /// Writes a config whose URL has a host name. The plugin looks up the name. Returns the answer and how long it took.
    async fn write(&self, name: &str, fields: Value) -> (Reply, Duration) {
        let (begin, org) = (Instant::now(), self.astra.org());
        let port = self.astra.url().rsplit(':').next().unwrap().trim_end_matches('/');
        let mut config =
            json!({"org_id": org.id, "astra_token": org.root_token, "url": format!("http://{name}:{port}")});
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = self.mount.write("config", config).await;
        (reply, begin.elapsed())
    }

    async fn works(&self, name: &str) {
        let (reply, _) = self.write(name, json!({})).await;
        assert!(reply.http() < 300, "{name}: {}", reply.error());
    }

    /// Writes a config with a name that cannot be resolved. Returns the error.
    async fn fails(&self, name: &str) -> String {
        let (reply, time) = self.write(name, json!({"request_timeout": "2s"})).await;
        assert_eq!(reply.http(), 400, "{name}");
        assert!(time < Duration::from_secs(3), "{name}: {time:?}");
        let error = reply.error();
        assert!(error.contains(&format!("the host name {name:?} cannot be resolved: ")), "{name}: {error}");
        error
    }

    async fn end(self) {
        self.host.stop().await;
    }
}

fn serve(zone: Zone) -> Dns {
    Dns::start((Ipv4Addr::LOCALHOST, DNS_PORT).into(), &zone).expect("the machine's own port 53")
}

fn here() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into()]
}

#[test]
fn each_dns_answer_leads_to_astra_or_to_a_clear_error() {
    Machine::run("each_dns_answer_leads_to_astra_or_to_a_clear_error", async {
        machine::resolv_conf("search domain.test\nnameserver 127.0.0.1\noptions timeout:1 attempts:1 ndots:2\n");
        let _dns = serve(vec![
            // For a name that does not exist, the server also drops questions for IPv6 addresses.
            ("drops.test.domain.test", Behaviour::DropsIpv6(Behaviour::Fails(Rcode::NXDOMAIN).into())),
            ("four.test", Behaviour::Has(here())),
            // Astra does not listen there, so the connection falls back.
            ("both.test", Behaviour::Has(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()])),
            ("alias.test", Behaviour::IsAlias("four.test", here())),
            ("long.test", Behaviour::IsLong(here())),
            ("drops.test", Behaviour::DropsIpv6(Behaviour::Has(here()).into())),
            ("forged.test", Behaviour::AfterForgeries(here())),
            ("none.test", Behaviour::Has(vec![])),
            ("broken.test", Behaviour::Fails(Rcode::SERVFAIL)),
            ("refused.test", Behaviour::Refuses),
            ("silent.test", Behaviour::Silent),
        ]);
        let world = MachineWorld::new().await;
        for name in ["four.test", "both.test", "alias.test", "long.test", "drops.test", "forged.test", "four.test."] {
            world.works(name).await;
        }
        for (name, cause) in [
            ("none.test", "name server 127.0.0.1 says that it has no address"),
            ("unknown.test", "name server 127.0.0.1 says that it does not exist (NXDOMAIN)"),
            ("broken.test", "name server 127.0.0.1 answered SERVFAIL"),
            ("refused.test", "name server 127.0.0.1 answered REFUSED"),
            ("silent.test", "name server 127.0.0.1 did not answer "),
        ] {
            let error = world.fails(name).await;
            assert!(error.contains(cause), "{error}");
        }
        world.end().await;
    });
}

#[test]
fn a_name_with_only_ipv6_addresses_works() {
    Machine::run("a_name_with_only_ipv6_addresses_works", async {
        machine::resolv_conf("nameserver ::1\n");
        let zone = vec![("six.test", Behaviour::Has(vec![Ipv6Addr::LOCALHOST.into()]))];
        let _dns = Dns::start((Ipv6Addr::LOCALHOST, DNS_PORT).into(), &zone).expect("the machine's own port 53");
        let astra = Astra::builder().listen((Ipv6Addr::LOCALHOST, 0).into()).spawn();
        let world = MachineWorld::with(|launch| launch, astra).await;
        world.works("six.test").await;
        world.end().await;
    });
}

#[test]
fn a_silent_name_server_delays_only_the_first_look_up() {
    Machine::run("a_silent_name_server_delays_only_the_first_look_up", async {
        // The timeout of the silent server is longer than the limit of a connection.
        machine::resolv_conf("nameserver 127.0.0.2\nnameserver 127.0.0.1\noptions timeout:11\n");
        let _silent = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), DNS_PORT)).unwrap();
        let _dns = serve(vec![("a.test", Behaviour::Has(here())), ("b.test", Behaviour::Has(here()))]);
        let world = MachineWorld::new().await;
        let (reply, first) = world.write("a.test", json!({})).await;
        assert!(reply.http() < 300 && first > Duration::from_secs(10), "{} after {first:?}", reply.error());
        let (reply, next) = world.write("b.test", json!({})).await;
        assert!(reply.http() < 300 && next < Duration::from_secs(10), "{} after {next:?}", reply.error());
        world.end().await;
    });
}

#[test]
fn changes_of_resolver_files_need_no_restart() {
    Machine::run("changes_of_resolver_files_need_no_restart", async {
        let dns = serve(vec![("a.one.test", Behaviour::Has(here()))]);
        let world = MachineWorld::new().await;
        // A request on an open connection needs no look-up.
        world.astra.knobs(|knobs| knobs.connection_close = true);
        // Without a `resolv.conf`, the name server is on this machine.
        assert!(world.fails("a").await.contains("NXDOMAIN"));
        machine::resolv_conf("search one.test\nnameserver 127.0.0.1\n");
        world.works("a").await;
        let asked = dns.asked().len();
        machine::hosts("127.0.0.1 b.test\n");
        world.works("b.test").await;
        assert_eq!(dns.asked().len(), asked, "a name server was asked for a name of the hosts file");
        machine::hosts("");
        assert!(world.fails("b.test").await.contains("NXDOMAIN"));
        world.end().await;
    });
}

#[test]
fn localhost_resolves_without_files_and_devices() {
    Machine::run("localhost_resolves_without_files_and_devices", async {
        machine::remove_devices();
        let world = MachineWorld::new().await;
        world.works("localhost").await;
        world.works("astra.localhost").await;
        let error = world.fails("a.test").await;
        assert!(error.contains("name server 127.0.0.1 cannot be reached: Connection refused"), "{error}");
        world.end().await;
    });
}

#[test]
fn without_a_network_the_error_names_the_cause_at_once() {
    Machine::without_network("without_a_network_the_error_names_the_cause_at_once", async {
        machine::resolv_conf("nameserver 10.1.2.3\n");
        machine::hosts("10.1.2.4 known.test\n");
        let world = MachineWorld::new().await;
        let error = world.fails("a.test").await;
        assert!(error.contains("name server 10.1.2.3 cannot be reached: Network is unreachable"), "{error}");
        let (reply, _) = world.write("known.test", json!({})).await;
        assert!(reply.error().contains("Astra cannot be reached: Network is unreachable"), "{}", reply.error());
        world.end().await;
    });
}

#[test]
fn no_nss_module_is_loaded() {
    Machine::run("no_nss_module_is_loaded", async {
        let _dns = serve(vec![("a.test", Behaviour::Has(here()))]);
        let modules = tempfile::tempdir().unwrap();
        trap(modules.path());
        let lines =
            ["hosts", "passwd", "group", "services", "networks"].map(|name| format!("{name}: trap files dns\n"));
        fs::write("/etc/nsswitch.conf", lines.concat()).unwrap();
        // A program that loads NSS modules ends with the status of the trap.
        let status = Command::new("getent").args(["hosts", "a.test"]).env("LD_LIBRARY_PATH", modules.path()).status();
        assert_eq!(status.expect("getent").code(), Some(99));
        let path = modules.path().to_str().unwrap();
        let world = MachineWorld::with(|launch| launch.env("LD_LIBRARY_PATH", path), Astra::spawn()).await;
        world.works("a.test").await;
        assert!(world.fails("b.test").await.contains("NXDOMAIN"));
        world.end().await;
    });
}

/// Makes an NSS module that ends any process that loads it.
fn trap(dir: &Path) {
    let source = dir.join("trap.c");
    fs::write(&source, "#include <unistd.h>\n__attribute__((constructor)) static void trap(void) { _exit(99); }\n")
        .unwrap();
    let module = dir.join("libnss_trap.so.2");
    let status = Command::new(machine::c_compiler()).args(["-shared", "-fPIC", "-o"]).args([&module, &source]).status();
    assert!(status.expect("the C compiler").success());
}
