//! The login of a pod: the commands of the page run on a real server, and a stand-in for the API server reviews the tokens.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::{AUDIENCE, Cluster};
use super::{ANNOTATIONS, SOON, annotation, class_objects, object, objects, pod};
use crate::bao::{Agent, Client, Reply, Server, host_binary, redact, wait};
use crate::examples::{block, example, run, search_path};
use crate::world::{Mode, Org, Token, World};

const PAGE: &str = "kubernetes/README.md";

/// A server whose mount `astra` has the organization `retail`, and a cluster.
struct Site {
    world: World,
    org: Org,
    cluster: Cluster,
    /// The reader's directory, with the policies and the certificate of the cluster's authority.
    dir: TempDir,
}

impl Site {
    fn new(cluster: Cluster) -> Self {
        let world = World::at_mount(&Arc::new(Server::dev()), "astra");
        let org = world.configured("retail", Mode::Sidecar);
        world.role(&org, "reader", 3600, 36000);
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["policy.hcl", "namespaces.hcl"] {
            fs::copy(example(&format!("kubernetes/{name}")), dir.path().join(name)).expect("copy a policy");
        }
        fs::write(dir.path().join("ca.crt"), &cluster.ca_pem).expect("write a certificate");
        Self { world, org, cluster, dir }
    }

    /// Returns a site whose server is outside of the cluster. The API server knows the page's reviewer, unless its binding
    /// is missing.
    fn outside(is_bound: bool) -> Self {
        let site = Self::new(Cluster::start());
        let mut all = objects("server-outside.yaml");
        all.retain(|object| is_bound || object["kind"] != "ClusterRoleBinding");
        let reviewer = site.cluster.apply(&all).expect("a token");
        fs::write(site.dir.path().join("reviewer.jwt"), reviewer).expect("write a token");
        site.run(&block(PAGE, "kubernetes outside"));
        site.run(&block(PAGE, "kubernetes role"));
        site
    }

    fn run(&self, commands: &str) {
        let commands = commands.replace("https://kubernetes.example.com:6443", &self.cluster.url());
        run(&self.world.server, &commands, self.dir.path());
    }

    fn login(&self, role: &str, token: &str) -> Reply {
        self.world.server.with_token("").post("auth/kubernetes/login", &json!({"role": role, "jwt": token}))
    }

    /// Logs in as the page's service account.
    #[track_caller]
    fn client(&self) -> Client {
        self.client_of("shop", &self.cluster.token("retail", "shop", "vault"))
    }

    #[track_caller]
    fn client_of(&self, role: &str, token: &str) -> Client {
        let made = self.login(role, token).ok();
        let token = made["auth"]["client_token"].as_str().expect("a token");
        redact::hide(token);
        self.world.server.with_token(token)
    }
}

/// How an example logs in, and the path that it reads.
struct Caller {
    file: &'static str,
    role: Value,
    account: Value,
    audience: Value,
    path: String,
}

fn callers() -> Vec<Caller> {
    let words = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut found = Vec::new();
    for (file, prefix) in ANNOTATIONS {
        let pod = object(&objects(file), "Deployment")["spec"]["template"].clone();
        let volume = &pod["spec"]["volumes"][0];
        assert_eq!(annotation(&pod, prefix, "agent-service-account-token-volume-name"), volume["name"]);
        found.push(Caller {
            file,
            role: annotation(&pod, prefix, "role"),
            account: pod["spec"]["serviceAccountName"].clone(),
            audience: volume["projected"]["sources"][0]["serviceAccountToken"]["audience"].clone(),
            path: words(&annotation(&pod, prefix, "agent-inject-secret-astra.env")),
        });
    }
    for file in ["csi.yaml", "openbao/csi.yaml"] {
        let all = objects(file);
        let class = object(&all, "SecretProviderClass")["spec"]["parameters"].clone();
        found.push(Caller {
            file,
            role: class["roleName"].clone(),
            account: object(&all, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"].clone(),
            audience: class["audience"].clone(),
            path: words(&class_objects(&class)[0]["secretPath"]),
        });
    }
    let all = objects("operator.yaml");
    let (auth, secret) =
        (&object(&all, "VaultAuth")["spec"]["kubernetes"], &object(&all, "VaultDynamicSecret")["spec"]);
    found.push(Caller {
        file: "operator.yaml",
        role: auth["role"].clone(),
        account: auth["serviceAccount"].clone(),
        audience: auth["audiences"][0].clone(),
        path: format!("{}/{}", words(&secret["mount"]), words(&secret["path"])),
    });
    let spec = object(&objects("external-secrets.yaml"), "VaultDynamicSecret")["spec"].clone();
    let auth = &spec["provider"]["auth"]["kubernetes"];
    found.push(Caller {
        file: "external-secrets.yaml",
        role: auth["role"].clone(),
        account: auth["serviceAccountRef"]["name"].clone(),
        audience: auth["serviceAccountRef"]["audiences"][0].clone(),
        path: words(&spec["path"]),
    });
    found
}

/// The set-up that this page had before.
#[test]
fn without_a_reviewer_the_api_server_refuses_the_login_of_a_pod() {
    let site = Site::new(Cluster::start());
    site.run(
        "vault auth enable kubernetes
         vault write auth/kubernetes/config kubernetes_host=https://kubernetes.example.com:6443 \
             kubernetes_ca_cert=@ca.crt disable_local_ca_jwt=true",
    );
    site.run(&block(PAGE, "kubernetes role"));
    let refused = site.login("shop", &site.cluster.token("retail", "shop", "vault")).fails(403);
    assert!(refused.contains("permission denied"), "{refused}");
    assert_eq!(site.cluster.reviews(), [("system:serviceaccount:retail:shop".to_owned(), 401)]);
    assert_told(&site, "service account unauthorized");
}

#[test]
fn without_a_binding_the_api_server_refuses_the_reviewer() {
    let site = Site::outside(false);
    site.login("shop", &site.cluster.token("retail", "shop", "vault")).fails(403);
    assert_eq!(site.cluster.reviews(), [("system:serviceaccount:vault:vault-reviewer".to_owned(), 403)]);
    assert_told(&site, "Forbidden");
}

/// Checks that the page has this reason, and that the server logs it.
#[track_caller]
fn assert_told(site: &Site, reason: &str) {
    let log = site.world.server.log();
    let line = log.lines().find(|line| line.contains("login unauthorized"));
    let line = line.unwrap_or_else(|| panic!("no line about the login\n{}", site.world.server.log_tail()));
    assert!(line.contains(reason), "{}", redact::clean(line));
    assert!(super::text(PAGE).contains(reason), "the page does not name {reason:?}");
}

#[test]
fn a_pod_logs_in_to_a_server_outside_of_the_cluster() {
    let site = Site::outside(true);
    let client = site.client();
    Token::of(client.get("astra/creds/retail/reader").ok());
    assert_eq!(site.world.alive(&site.org).len(), 1);
    assert_eq!(site.cluster.reviews(), [("system:serviceaccount:vault:vault-reviewer".to_owned(), 201)]);
    client.get("astra/creds/retail/writer").fails(403);
    client.post("auth/token/revoke-self", &Value::Null).ok();
    site.world.wait_for(SOON, |astra| astra.live(&site.org.id).is_empty());

    for (namespace, account, audience) in
        [("retail", "shop", AUDIENCE), ("retail", "other", "vault"), ("other", "shop", "vault")]
    {
        let reply = site.login("shop", &site.cluster.token(namespace, account, audience));
        assert!(reply.status == 403 || reply.status == 400, "{namespace}/{account} for {audience}: {reply}");
    }
    let of_another_cluster = Cluster::start().token("retail", "shop", "vault");
    site.login("shop", &of_another_cluster).fails(403);
}

#[test]
fn a_pod_logs_in_to_a_server_in_the_cluster() {
    pod::run("examples::kubernetes::login::a_pod_logs_in_to_a_server_in_the_cluster", || {
        let cluster = Cluster::start_at("127.0.0.1:443");
        let vault = cluster.token("vault", "vault", AUDIENCE);
        fs::write(format!("{}/token", pod::ACCOUNT), vault).expect("write a token");
        fs::write(format!("{}/ca.crt", pod::ACCOUNT), &cluster.ca_pem).expect("write a certificate");
        let site = Site::new(cluster);
        site.run(&block(PAGE, "kubernetes in the cluster"));
        site.run(&block(PAGE, "kubernetes role"));
        let token = site.cluster.token("retail", "shop", "vault");
        site.login("shop", &token).fails(403);
        site.cluster.apply(&objects("server-in-cluster.yaml"));
        Token::of(site.client_of("shop", &token).get("astra/creds/retail/reader").ok());
        let vault = "system:serviceaccount:vault:vault".to_owned();
        assert_eq!(site.cluster.reviews(), [(vault.clone(), 403), (vault, 201)]);
    });
}

#[test]
fn each_example_logs_in_and_mints() {
    let site = Site::outside(true);
    for caller in callers() {
        let word = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{}: no text", caller.file)).to_owned();
        let token = site.cluster.token("retail", &word(&caller.account), &word(&caller.audience));
        let client = site.client_of(&word(&caller.role), &token);
        Token::of(client.get(&caller.path).ok());
    }
    assert_eq!(site.world.alive(&site.org).len(), callers().len());
}

/// The agent that the injector adds to a pod.
#[test]
fn an_agent_logs_in_with_the_projected_token() {
    let site = Site::outside(true);
    for (file, prefix) in ANNOTATIONS {
        let pod = object(&objects(file), "Deployment")["spec"]["template"].clone();
        let dir = tempfile::Builder::new().prefix("e2e-pod-").tempdir().expect("temporary directory").keep();
        let place = dir.display();
        fs::write(dir.join("login"), site.cluster.token("retail", "shop", "vault")).expect("write a token");
        let template = annotation(&pod, prefix, "agent-inject-template-astra.env");
        let config = format!(
            "pid_file = \"{place}/pid\"\nvault {{\n  address = \"{address}\"\n}}\n\
             auto_auth {{\n  method \"kubernetes\" {{\n    config = {{\n      role = {role}\n      token_path = \
             \"{place}/login\"\n    }}\n  }}\n}}\n\
             template {{\n  destination = \"{place}/astra.env\"\n  contents = <<EOT\n{template}\nEOT\n}}\n",
            address = site.world.server.address(),
            role = annotation(&pod, prefix, "role"),
            template = template.as_str().expect("a template"),
        );
        fs::write(dir.join("agent.hcl"), config).expect("write the configuration");
        let mut command = Command::new(host_binary());
        // No environment of the caller: the configuration contains address and login.
        command.env_clear().env("HOME", &dir).env("PATH", search_path(&dir));
        let agent = Agent::with_config(command, dir.clone());
        let text = agent.file("astra.env", SOON, |text| text.contains("ASTRA_TOKEN=AstraCS:"));
        assert_eq!(text.lines().filter(|line| line.starts_with("ASTRA_")).count(), 2, "{file}");
    }
}

/// External Secrets never renews, neither the lease nor the login.
#[test]
fn external_secrets_replaces_a_token_before_the_token_is_deleted() {
    let site = Site::outside(true);
    let login = site.login("shop", &site.cluster.token("retail", "shop", "vault")).ok();
    let client = site.world.server.with_token(login["auth"]["client_token"].as_str().expect("a token"));
    let minted = client.get("astra/creds/retail/reader").ok();
    let seconds = |value: &Value| value.as_u64().expect("a number");
    let spec = object(&objects("external-secrets.yaml"), "ExternalSecret")["spec"].clone();
    let minutes = spec["refreshInterval"].as_str().and_then(|text| text.strip_suffix('m')).expect("minutes");
    let interval = minutes.parse::<u64>().expect("a number") * 60;
    let (lease, login) = (seconds(&minted["lease_duration"]), seconds(&login["auth"]["lease_duration"]));
    assert!(interval < lease && lease < login, "refreshed after {interval} s, lease {lease} s, login {login} s");
    for (name, template) in spec["target"]["template"]["data"].as_object().expect("templates") {
        assert_eq!(*template, json!(format!("{{{{ .{name} }}}}")));
        assert!(minted["data"][name].is_string(), "the response has no {name}");
    }
}

#[test]
fn a_short_login_deletes_its_token_before_the_lease_ends() {
    let site = Site::outside(true);
    site.run(&block(PAGE, "kubernetes role").replace("token_ttl=2h", "token_ttl=5s"));
    let token = Token::of(site.client().get("astra/creds/retail/reader").ok());
    let lease = site.world.server.post("sys/leases/lookup", &json!({"lease_id": token.lease_id})).data();
    assert!(lease["ttl"].as_u64().expect("a number") > 3000, "{lease}");
    site.world.wait_for(SOON, |astra| astra.live(&site.org.id).is_empty());
    wait("the lease to be gone", SOON, || (!site.world.lease_exists(&token)).then_some(()));
}

#[test]
fn a_namespace_reaches_only_the_organization_of_its_name() {
    let site = Site::outside(true);
    let other = site.world.configured("wholesale", Mode::Sidecar);
    site.world.role(&other, "reader", 3600, 36000);
    site.run(&block(PAGE, "kubernetes namespaces"));
    for (namespace, reached, denied) in [("retail", "retail", "wholesale"), ("wholesale", "wholesale", "retail")] {
        let client = site.client_of("namespaces", &site.cluster.token(namespace, "shop", "vault"));
        Token::of(client.get(&format!("astra/creds/{reached}/reader")).ok());
        client.get(&format!("astra/creds/{denied}/reader")).fails(403);
        client.get(&format!("astra/creds/{reached}/writer")).fails(403);
    }
    let client = site.client_of("namespaces", &site.cluster.token("other", "shop", "vault"));
    client.get("astra/creds/retail/reader").fails(403);
}

#[test]
fn the_operator_reads_the_token_of_a_static_role() {
    let site = Site::outside(true);
    site.run(&block(PAGE, "kubernetes static role"));
    let spec = object(&objects("operator-static.yaml"), "VaultStaticSecret")["spec"].clone();
    let word = |value: &Value| value.as_str().expect("a text").to_owned();
    let path = format!("{}/{}", word(&spec["mount"]), word(&spec["path"]));
    let client = site.client();
    let first = client.get(&path).ok();
    assert_eq!(first["lease_id"], "");
    for pattern in spec["destination"]["transformation"]["includes"].as_array().expect("patterns") {
        let field = word(pattern);
        assert!(first["data"][field.trim_matches(['^', '$'])].is_string(), "{field}");
    }
    let refresh = word(&spec["refreshAfter"]).trim_end_matches('m').parse::<u64>().expect("minutes") * 60;
    let overlap = site.world.get("orgs/retail/static-roles/ci").data()["overlap"].as_u64().expect("seconds");
    assert!(refresh < overlap, "read after {refresh} s, overlap {overlap} s");

    site.world.post("orgs/retail/static-roles/ci", &json!({"rotate": true})).ok();
    let second = client.get(&path).ok();
    client.post("auth/token/revoke-self", &Value::Null).ok();
    let [first, second] = [first, second].map(|answer| word(&answer["data"]["clientId"]));
    assert_ne!(first, second);
    assert!(site.world.is_alive(&first) && site.world.is_alive(&second));
}
