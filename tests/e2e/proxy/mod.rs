//! The proxies in the environment: the server's proxies, and the proxies of one plugin.
//!
//! Calls to this machine use no proxy. So `astra.test` stands for a host that is only reachable through a proxy.
//! `0.0.0.0` stands for a host that is reachable directly: it is this machine, but the engine does not know that.

mod stand_in;

use std::net::TcpListener;
use std::sync::{Arc, LazyLock};

use serde_json::json;

use self::stand_in::{BASIC, LOGIN, Proxy};
use crate::astra::{Astra, Builder, Certificate};
use crate::bao::{Options, PLUGIN, Server, sha256};
use crate::docs::Shell;
use crate::servers::on_vault;
use crate::world::{Token, World};

const FAR: &str = "astra.test";
const NEAR: &str = "0.0.0.0";

type Variables<'a> = &'a [(&'a str, &'a str)];

/// Starts a server with these variables. The server logs at the most detailed level.
fn server(variables: Variables<'_>) -> Arc<Server> {
    let env = variables.iter().chain(&[("DATASTAX_ASTRA_VAULT_LOG_LEVEL", "trace")]);
    let env = env.map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Arc::new(Server::dev_with(&Options { log_level: "trace", env, ..Options::default() }))
}

/// The server of the tests that set variables for one plugin.
fn shared() -> &'static Arc<Server> {
    static SHARED: LazyLock<Arc<Server>> = LazyLock::new(|| server(&[]));
    &SHARED
}

/// A mount whose config names Astra's host.
struct ProxyMount {
    world: World,
    authority: String,
}

impl ProxyMount {
    fn new(server: &Arc<Server>, host: &str, name: &str, astra: Builder) -> Self {
        Self::of(server, PLUGIN, host, name, astra, |_| Vec::new())
    }

    /// Returns a mount of a plugin with its own variables, which may depend on the address of its Astra.
    fn with(
        server: &Arc<Server>,
        host: &str,
        name: &str,
        variables: impl Fn(&str) -> Vec<(&'static str, String)>,
    ) -> Self {
        Self::of(server, name, host, name, Astra::builder(), variables)
    }

    fn of(
        server: &Arc<Server>,
        plugin: &str,
        host: &str,
        name: &str,
        astra: Builder,
        variables: impl Fn(&str) -> Vec<(&'static str, String)>,
    ) -> Self {
        let world = World::with_astra(server, name, astra.orgs(1));
        let url = world.url().replace("127.0.0.1", host).replace("localhost", host);
        let authority = url.split_once("://").expect("a URL").1.to_owned();
        if plugin != PLUGIN {
            let env = variables(&authority).into_iter().map(|(name, value)| format!("{name}={value}"));
            server.register_as(plugin, env.collect());
        }
        server.enable_plugin(name, plugin);
        let org = world.next_org();
        let ca = world.ca_pem().unwrap_or_default().to_owned();
        let fields = json!({"url": url, "ca_cert": ca, "logical_name": "retail", "verify_connection": false, "request_timeout": "5s"});
        world.configure(&org, &fields);
        world.role(&org, "reader", 60, 600);
        Self { world, authority }
    }

    /// Mints and revokes. Both must succeed.
    #[track_caller]
    fn works(&self) {
        let token = Token::of(self.world.get("creds/retail/reader").ok());
        self.world.revoke(&token).ok();
        assert!(!self.world.is_alive(&token.client_id));
    }

    /// Mints, which must fail. Returns the error.
    #[track_caller]
    fn fails(&self, status: u16) -> String {
        let text = self.world.get("creds/retail/reader").fails(status);
        assert!(!text.contains("proxy-secret") && !text.contains(BASIC), "an error holds the login of a proxy: {text}");
        text
    }
}

fn assert_no_login(server: &Server) {
    let log = server.log();
    assert!(log.contains("created token") && log.contains("[TRACE]"), "the log does not show the mints of this test");
    let line = log.lines().find(|line| line.contains("proxy-secret") || line.contains(BASIC));
    assert!(line.is_none(), "the log holds the login of a proxy: {line:?}");
}

/// Returns a port on which nobody listens.
fn unused_address() -> String {
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    gone.to_string()
}

#[test]
fn calls_use_the_proxies_of_the_environment() {
    let proxy = Proxy::start();
    let url = proxy.url("http");
    let server = server(&[("HTTP_PROXY", &url), ("HTTPS_PROXY", &url), ("NO_PROXY", "10.0.0.0/8, 0.0.0.0")]);

    let plain = ProxyMount::new(&server, FAR, "plain", Astra::builder());
    plain.works();
    let lines = proxy.lines();
    let wanted = [
        format!("POST http://{}/v2/clientIdSecrets ", plain.authority),
        format!("DELETE http://{}/v2/", plain.authority),
    ];
    assert!(lines.len() == 2 && lines.iter().zip(&wanted).all(|(line, wanted)| line.starts_with(wanted)), "{lines:?}");

    proxy.sent();
    let tls = ProxyMount::new(&server, FAR, "tls", Astra::builder().tls(Certificate::Valid));
    tls.works();
    let lines = proxy.lines();
    let tunnel = format!("CONNECT {} HTTP/1.1", tls.authority);
    assert!(!lines.is_empty() && lines.iter().all(|line| *line == tunnel), "{lines:?}");
    let sent = proxy.sent();
    assert!(
        sent.contains("CONNECT") && !sent.contains("AstraCS") && !sent.contains("clientIdSecrets"),
        "the proxy saw clear text"
    );
    tls.world.assert_no_secret("what the proxy saw", &sent);

    let direct = ProxyMount::new(&server, NEAR, "direct", Astra::builder());
    direct.works();
    assert!(proxy.lines().is_empty(), "the call ignored NO_PROXY");
    for host in ["localhost", "127.0.0.1"] {
        ProxyMount::new(&server, host, host, Astra::builder().tls(Certificate::Valid)).works();
        assert!(proxy.lines().is_empty(), "a call to {host} used a proxy");
    }

    proxy.refuse();
    for mount in [&plain, &ProxyMount::new(&server, FAR, "new", Astra::builder().tls(Certificate::Valid))] {
        let text = mount.fails(if mount.world.mount == "plain" { 502 } else { 503 });
        assert!(text.contains("proxy"), "{text}");
    }
    direct.works();
    assert_no_login(&server);
}

#[test]
fn lower_case_variables_work_and_the_error_names_the_variable() {
    let proxy = Proxy::start();
    let (url, gone) = (proxy.url("http"), format!("http://{LOGIN}@{}", unused_address()));
    // A variable with an upper-case name and an empty value counts as not set.
    let server = server(&[
        ("http_proxy", &url),
        ("HTTP_PROXY", ""),
        ("https_proxy", &gone),
        ("no_proxy", NEAR),
        ("NO_PROXY", ""),
    ]);

    let plain = ProxyMount::new(&server, FAR, "plain", Astra::builder());
    plain.works();
    assert_eq!(proxy.lines().len(), 2);
    let tls = ProxyMount::new(&server, FAR, "tls", Astra::builder().tls(Certificate::Valid));
    let text = tls.fails(503);
    assert!(text.contains("Astra cannot be reached") && text.contains("through the proxy in https_proxy"), "{text}");
    ProxyMount::new(&server, NEAR, "direct", Astra::builder()).works();
    assert!(proxy.lines().is_empty(), "the call ignored no_proxy");
    assert_no_login(&server);
}

#[test]
fn a_socks5_proxy_resolves_the_name_and_gets_its_login() {
    let server = shared();
    for scheme in ["socks5", "socks5h"] {
        let proxy = Proxy::start();
        let variables = [("ALL_PROXY", proxy.url(scheme))];
        for (kind, astra) in [("plain", Astra::builder()), ("tls", Astra::builder().tls(Certificate::Valid))] {
            let name = format!("{scheme}-{kind}");
            let mount = ProxyMount::of(server, &name, FAR, &name, astra, |_| variables.to_vec());
            mount.works();
            let lines = proxy.lines();
            let wanted = format!("SOCKS {}", mount.authority);
            assert!(!lines.is_empty() && lines.iter().all(|line| *line == wanted), "{lines:?}");
        }
    }
    assert_no_login(server);
}

/// The call must not go to port 80 of the proxy's host, or to Astra directly: it contains the root token.
#[test]
fn an_invalid_proxy_stops_every_call() {
    let proxy = Proxy::start();
    let raw = proxy.url("http").replace("secret", "secret#");
    let cases = [
        ("HTTP_PROXY", "http://127.0.0.1:notaport"),
        ("HTTP_PROXY", raw.as_str()),
        ("HTTP_PROXY", "gopher://127.0.0.1:3128"),
        ("http_proxy", "http://[::1"),
        ("ALL_PROXY", "http://127.0.0.1:99999"),
    ];
    for (number, (variable, value)) in cases.into_iter().enumerate() {
        let name = format!("broken-{number}");
        let mount = ProxyMount::with(shared(), NEAR, &name, |_| vec![(variable, value.to_owned())]);
        let text = mount.fails(503);
        assert!(text.contains(variable) && !text.contains(value), "{text}");
        assert!(!text.contains("notaport") && !text.contains("127.0.0.1"), "{text}");
        assert!(mount.world.requests().is_empty() && proxy.lines().is_empty(), "{variable}: a call was made");
    }
}

#[test]
fn an_invalid_proxy_for_other_calls_has_no_effect() {
    let broken = || "http://127.0.0.1:notaport".to_owned();
    ProxyMount::with(shared(), NEAR, "other-scheme", |_| vec![("HTTPS_PROXY", broken()), ("NO_PROXY", "10/8".into())])
        .works();
    ProxyMount::with(shared(), NEAR, "excepted", |_| {
        vec![("HTTP_PROXY", broken()), ("NO_PROXY", format!("10/8,{NEAR}"))]
    })
    .works();
    ProxyMount::with(shared(), "127.0.0.1", "loopback", |_| {
        vec![("HTTP_PROXY", broken()), ("NO_PROXY", "10/8".into())]
    })
    .works();
}

/// The entry must not be ignored, because the call would then go through the proxy.
#[test]
fn a_no_proxy_entry_with_a_port_applies_to_that_port_only() {
    let proxy = Proxy::start();
    let listed = ProxyMount::with(shared(), NEAR, "listed", |authority| {
        vec![("HTTP_PROXY", proxy.url("http")), ("NO_PROXY", format!("x.test:1, {authority}"))]
    });
    listed.works();
    assert!(proxy.lines().is_empty(), "the call ignored NO_PROXY");
    let other = ProxyMount::with(shared(), NEAR, "other", |_| {
        vec![("HTTP_PROXY", proxy.url("http")), ("NO_PROXY", format!("{NEAR}:1"))]
    });
    other.works();
    assert_eq!(proxy.lines().len(), 2);
}

#[test]
fn an_invalid_no_proxy_variable_stops_every_call() {
    let proxy = Proxy::start();
    let mount = ProxyMount::with(shared(), FAR, "exceptions", |_| {
        vec![("HTTP_PROXY", proxy.url("http")), ("NO_PROXY", "10.0.0.0/8,astra.test:http".into())]
    });
    let text = mount.fails(503);
    assert!(text.contains("NO_PROXY") && !text.contains("astra.test"), "{text}");
    assert!(proxy.lines().is_empty(), "a call was made");
}

#[test]
fn the_troubleshooting_page_explains_an_invalid_proxy() {
    let value = "http://127.0.0.1:notaport";
    let astra = Astra::builder().tls(Certificate::Valid);
    let mount =
        ProxyMount::of(shared(), "explained", FAR, "explained", astra, |_| vec![("HTTPS_PROXY", value.to_owned())]);
    Shell::new(shared(), "explained", mount.world.url()).run_sample("docs/troubleshooting.md", "proxy");
}

#[test]
fn the_catalog_sets_a_proxy_for_one_plugin() {
    let (server, proxy) = (server(&[]), Proxy::start());
    let mount = ProxyMount::new(&server, FAR, "astra", Astra::builder().tls(Certificate::Valid));
    let mut shell = Shell::new(&server, "astra", mount.world.url());
    shell.set("SHA256", sha256(&server.plugin_dir().join(PLUGIN)));
    shell.stands_for("http://proxy.corp.example:3128", proxy.url("http").leak());
    shell.run_block("docs/operations.md", "a proxy for the plugin alone");
    mount.works();
    assert!(!proxy.lines().is_empty(), "the call used no proxy");
    ProxyMount::new(&server, NEAR, "other", Astra::builder()).works();
    assert!(proxy.lines().is_empty(), "a call used the proxy of another scheme");
}

/// Returns the proxy that a new mount uses: the `server`'s proxy, or the proxy of this `plugin` only.
#[track_caller]
fn came_through(
    server: &Arc<Server>,
    proxies: [&Proxy; 2],
    name: &str,
    astra: Builder,
    variables: &[(&'static str, String)],
) -> &'static str {
    ProxyMount::of(server, name, FAR, name, astra, |_| variables.to_vec()).works();
    match proxies.map(|proxy| !proxy.lines().is_empty()) {
        [true, false] => "server",
        [false, true] => "plugin",
        both => panic!("calls used both proxies, or no proxy: {both:?}"),
    }
}

/// The table in `docs/operations.md`.
#[test]
fn proxy_variables_have_the_documented_precedence() {
    let proxies = [&Proxy::start(), &Proxy::start()];
    let [theirs, own] = proxies.map(|proxy| proxy.url("http"));
    let server = server(&[("HTTP_PROXY", &theirs), ("https_proxy", &theirs)]);
    let plain = |name, variables: &[_]| came_through(&server, proxies, name, Astra::builder(), variables);
    // If both set the same name, the servers differ.
    let same = if on_vault("environment of a plugin") { "plugin" } else { "server" };
    assert_eq!(plain("same", &[("HTTP_PROXY", own.clone())]), same);
    assert_eq!(plain("emptied", &[("HTTP_PROXY", String::new()), ("ALL_PROXY", own.clone())]), same);
    // An upper-case name takes precedence, on whichever side it is set.
    assert_eq!(plain("lower", &[("http_proxy", own.clone())]), "server");
    let tls = Astra::builder().tls(Certificate::Valid);
    assert_eq!(came_through(&server, proxies, "upper", tls, &[("HTTPS_PROXY", own.clone())]), "plugin");
    // A plugin without its own variables uses the server's variables.
    assert_eq!(plain("none", &[("OTHER", own)]), "server");
    assert_no_login(&server);
}

#[test]
fn with_legacy_layering_the_variables_of_the_server_win() {
    let proxies = [&Proxy::start(), &Proxy::start()];
    let [theirs, own] = proxies.map(|proxy| proxy.url("http"));
    let server = server(&[("HTTP_PROXY", &theirs), ("VAULT_PLUGIN_USE_LEGACY_ENV_LAYERING", "true")]);
    let through = came_through(&server, proxies, "legacy", Astra::builder(), &[("HTTP_PROXY", own)]);
    assert_eq!(through, "server");
}
