//! Kubernetes: objects are checked against schemas. Logins and templates are tested with a real server and agent.

mod cluster;
mod login;
mod pod;

use std::time::Duration;

use serde_json::{Value, json};

use super::{parsed, text};
use crate::bao::Agent;
use crate::world::{Mode, World};

const SOON: Duration = Duration::from_secs(60);

/// Reads all documents of a YAML file.
pub(super) const YAML: &str = "import json, sys; from ruamel.yaml import YAML
print(json.dumps(list(YAML(typ='safe', pure=True).load_all(open(sys.argv[1], encoding='utf-8')))))";

/// The files for an injector, and the prefix of the injector's annotations.
const ANNOTATIONS: [(&str, &str); 2] =
    [("injector.yaml", "vault.hashicorp.com/"), ("openbao/injector.yaml", "openbao.org/")];

/// All files with objects.
const FILES: [&str; 9] = [
    "injector.yaml",
    "operator.yaml",
    "operator-static.yaml",
    "csi.yaml",
    "external-secrets.yaml",
    "server-in-cluster.yaml",
    "server-outside.yaml",
    "openbao/injector.yaml",
    "openbao/csi.yaml",
];

#[track_caller]
fn objects(name: &str) -> Vec<Value> {
    let Value::Array(objects) = parsed(YAML, &text(&format!("kubernetes/{name}"))) else { panic!("no list") };
    objects
}

/// Returns the only object of a kind.
#[track_caller]
fn object(objects: &[Value], kind: &str) -> Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    object.clone()
}

/// Returns the value of an annotation of a pod.
fn annotation(pod: &Value, prefix: &str, name: &str) -> Value {
    pod["metadata"]["annotations"][format!("{prefix}{name}")].clone()
}

/// Returns the files of a `SecretProviderClass`, whose parameters contain them as a text.
#[track_caller]
fn class_objects(parameters: &Value) -> Vec<Value> {
    let documents = parsed(YAML, parameters["objects"].as_str().expect("objects"));
    documents[0].as_array().expect("a list").clone()
}

/// Field rules for the operator's custom resources, in the version that the examples name. They are written by hand:
/// the licence of the operator's definitions does not fit this repository.
fn operator_schema(kind: &str) -> Option<Value> {
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let object = |fields: Value, required: &[&str]| json!({"type": "object", "properties": fields, "required": required, "additionalProperties": false});
    let text = json!({"type": "string"});
    let yes = json!({"type": "boolean"});
    let destination = object(
        json!({
            "name": text, "create": yes,
            "transformation": object(json!({"excludeRaw": yes, "includes": strings, "excludes": strings}), &[]),
        }),
        &["name"],
    );
    let kinds = json!({"enum": ["Deployment", "DaemonSet", "StatefulSet", "argo.Rollout"]});
    let targets = json!({"type": "array", "items": object(json!({"kind": kinds, "name": text}), &["kind", "name"])});
    let spec = match kind {
        "VaultConnection" => object(
            json!({"address": {"type": "string", "pattern": "^https://"}, "caCertSecretRef": text, "skipTLSVerify": {"const": false}}),
            &["address", "skipTLSVerify"],
        ),
        "VaultAuth" => object(
            json!({
                "vaultConnectionRef": text, "mount": text, "method": {"enum": ["kubernetes", "jwt", "appRole", "aws", "gcp"]},
                "kubernetes": object(json!({"role": text, "serviceAccount": text, "audiences": strings}), &[]),
            }),
            &[],
        ),
        "VaultDynamicSecret" => object(
            json!({
                "vaultAuthRef": text, "mount": text, "path": text, "revoke": yes,
                "renewalPercent": {"type": "integer", "minimum": 0, "maximum": 90},
                "destination": destination, "rolloutRestartTargets": targets,
            }),
            &["destination", "mount", "path"],
        ),
        "VaultStaticSecret" => object(
            json!({
                "vaultAuthRef": text, "mount": text, "path": text, "type": {"enum": ["kv-v1", "kv-v2"]},
                "refreshAfter": {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(s|m|h))$"},
                "destination": destination, "rolloutRestartTargets": targets,
            }),
            &["destination", "mount", "path", "type"],
        ),
        _ => return None,
    };
    let version = json!({"const": "secrets.hashicorp.com/v1beta1"});
    let fields = json!({"apiVersion": version, "kind": text, "metadata": {"type": "object"}, "spec": spec});
    Some(object(fields, &["apiVersion", "kind", "metadata", "spec"]))
}

fn errors(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().expect("a kind");
    // External Secrets has a kind with the name of one of the operator's kinds.
    let is_of_operator = object["apiVersion"].as_str().is_some_and(|text| text.starts_with("secrets.hashicorp.com/"));
    let schema = is_of_operator.then(|| operator_schema(kind)).flatten().unwrap_or_else(|| {
        let text = include_str!("../../../fixtures/kubernetes/schema.json");
        let mut schema: Value = serde_json::from_str(text).expect("JSON");
        assert!(schema["$defs"][kind].is_object(), "no schema of {kind}");
        schema["$ref"] = json!(format!("#/$defs/{kind}"));
        schema
    });
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    validator.iter_errors(object).map(|error| format!("{kind} {}: {error}", error.instance_path())).collect()
}

#[test]
fn objects_match_their_schemas() {
    for name in FILES {
        for object in objects(name) {
            assert_eq!(errors(&object), Vec::<String>::new(), "{name}");
            let namespace = &object["metadata"]["namespace"];
            match object["kind"].as_str() {
                Some("ClusterRoleBinding") => assert!(namespace.is_null(), "{name}"),
                _ if name.starts_with("server-") => assert_eq!(*namespace, "vault", "{name}"),
                _ => assert_eq!(*namespace, "retail", "{name}"),
            }
        }
    }
}

#[test]
fn a_misspelt_field_does_not_match_the_schema() {
    for mut object in FILES.into_iter().flat_map(objects) {
        object["misspelt"] = json!("x");
        assert!(!errors(&object).is_empty(), "{}", object["kind"]);
        object.as_object_mut().expect("an object").remove("misspelt");
        if object["spec"].is_object() {
            object["spec"]["misspelt"] = json!("x");
            assert!(!errors(&object).is_empty(), "{}", object["kind"]);
        }
    }
}

#[test]
fn names_refer_to_existing_objects() {
    let name = |object: &Value| object["metadata"]["name"].clone();
    let operator = objects("operator.yaml");
    let [connection, auth, secret] =
        ["VaultConnection", "VaultAuth", "VaultDynamicSecret"].map(|kind| object(&operator, kind));
    assert_eq!(auth["spec"]["vaultConnectionRef"], name(&connection));
    assert_eq!(secret["spec"]["vaultAuthRef"], name(&auth));
    assert_eq!(auth["spec"]["kubernetes"]["serviceAccount"], name(&object(&operator, "ServiceAccount")));

    let fixed = object(&objects("operator-static.yaml"), "VaultStaticSecret");
    assert_eq!(fixed["spec"]["vaultAuthRef"], name(&auth));

    let external = objects("external-secrets.yaml");
    let generator = object(&external, "VaultDynamicSecret");
    let reference = &object(&external, "ExternalSecret")["spec"]["dataFrom"][0]["sourceRef"]["generatorRef"];
    assert_eq!(reference["name"], name(&generator));
    assert_eq!((&reference["kind"], &reference["apiVersion"]), (&generator["kind"], &generator["apiVersion"]));
    let login = &generator["spec"]["provider"]["auth"]["kubernetes"];
    assert_eq!(login["serviceAccountRef"]["name"], name(&object(&external, "ServiceAccount")));

    let reviewer = objects("server-outside.yaml");
    let [account, secret, binding] =
        ["ServiceAccount", "Secret", "ClusterRoleBinding"].map(|kind| object(&reviewer, kind));
    assert_eq!(secret["metadata"]["annotations"]["kubernetes.io/service-account.name"], name(&account));
    assert_eq!(binding["subjects"][0]["name"], name(&account));
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);

    for (file, provider) in [("csi.yaml", "vault"), ("openbao/csi.yaml", "openbao")] {
        let csi = objects(file);
        let pod = &object(&csi, "Deployment")["spec"]["template"]["spec"];
        let class = object(&csi, "SecretProviderClass");
        assert_eq!(class["spec"]["provider"], provider);
        assert_eq!(pod["volumes"][0]["csi"]["volumeAttributes"]["secretProviderClass"], name(&class));
        assert_eq!(pod["volumes"][0]["name"], pod["containers"][0]["volumeMounts"][0]["name"]);
    }
    for file in ["injector.yaml", "csi.yaml", "openbao/injector.yaml", "openbao/csi.yaml"] {
        let all = objects(file);
        let account = &object(&all, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"];
        assert_eq!(*account, name(&object(&all, "ServiceAccount")), "{file}");
    }
}

/// The providers read only these parameters (`internal/config/config.go` of both).
#[test]
fn the_providers_know_the_parameters_and_the_response_has_the_fields() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let answer = world.get("creds/retail/reader").ok();
    for file in ["csi.yaml", "openbao/csi.yaml"] {
        let class = object(&objects(file), "SecretProviderClass")["spec"]["parameters"].clone();
        let mut names: Vec<&String> = class.as_object().expect("parameters").keys().collect();
        names.sort();
        assert_eq!(names, ["audience", "objects", "roleName"], "{file}");
        for file in class_objects(&class) {
            let known = ["objectName", "secretKey", "secretPath"];
            assert!(file.as_object().expect("a file").keys().all(|name| known.contains(&name.as_str())), "{file}");
            assert!(answer["data"][file["secretKey"].as_str().expect("a key")].is_string(), "{file}");
        }
    }
    let secret = object(&objects("operator.yaml"), "VaultDynamicSecret")["spec"].clone();
    for pattern in secret["destination"]["transformation"]["includes"].as_array().expect("patterns") {
        let field = pattern.as_str().expect("a pattern").trim_start_matches('^').trim_end_matches('$');
        assert!(answer["data"][field].is_string(), "{field}");
    }
}

/// The operator revokes the lease when its object is deleted.
#[test]
fn the_policy_permits_a_mint_a_renewal_and_a_revocation() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let policy = format!("shop-of-{}", world.mount);
    let rules = world.here(&text("kubernetes/policy.hcl"));
    world.server.post(&format!("sys/policies/acl/{policy}"), &json!({"policy": rules})).ok();
    let made = world.server.post("auth/token/create", &json!({"policies": [policy]})).ok();
    let client = world.server.with_token(made["auth"]["client_token"].as_str().expect("a token"));
    let answer = client.get(&world.at("creds/retail/reader")).ok();
    let lease = json!({"lease_id": answer["lease_id"], "sync": true});
    client.post("sys/leases/renew", &lease).ok();
    client.post("sys/leases/revoke", &lease).ok();
    assert!(world.alive(&org).is_empty());
}

#[test]
fn an_agent_renders_the_template_of_an_injector() {
    let world = World::new();
    let org = world.configured("retail", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    for (minted, (file, prefix)) in (1..).zip(ANNOTATIONS) {
        let pod = object(&objects(file), "Deployment")["spec"]["template"].clone();
        let known = [
            "agent-inject",
            "agent-pre-populate",
            "agent-revoke-on-shutdown",
            "agent-service-account-token-volume-name",
            "role",
            "secret-volume-path",
        ];
        let named = ["agent-inject-secret-", "agent-inject-template-", "agent-inject-perms-"];
        for (name, value) in pod["metadata"]["annotations"].as_object().expect("annotations") {
            let name = name.strip_prefix(prefix).unwrap_or_else(|| panic!("{file}: {name} is of another injector"));
            let of_file = named.iter().find_map(|prefix| name.strip_prefix(prefix));
            assert!(known.contains(&name) || of_file == Some("astra.env"), "{file}: {name}");
            assert!(value.is_string(), "{file}: {name} is not a text");
        }
        let folder = annotation(&pod, prefix, "secret-volume-path");
        let command = pod["spec"]["containers"][0]["command"][2].as_str().expect("a command");
        let rendered = format!("{}/astra.env", folder.as_str().unwrap_or("/vault/secrets"));
        assert_eq!(command.matches(&rendered).count(), 2, "{file}: {command}");

        let template = annotation(&pod, prefix, "agent-inject-template-astra.env");
        let template = template.as_str().expect("a template");
        let path = annotation(&pod, prefix, "agent-inject-secret-astra.env");
        assert!(template.contains(&format!("secret {path}")), "{file}");
        let agent = Agent::start(&world.server, &[&world.here(template)]);
        let text = agent.rendered(0, SOON, |text| text.contains("ASTRA_TOKEN=AstraCS:"));
        assert_eq!(text.lines().filter(|line| line.starts_with("ASTRA_")).count(), 2, "{file}");
        assert_eq!(world.minted(), minted, "{file}");
    }
}
