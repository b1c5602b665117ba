//! Kubernetes: objects are checked against schemas. Logins and templates are tested with a real server and agent.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::{block, parsed, run, text};
use crate::astra::{Astra, Certificate};
use crate::bao::Agent;
use crate::world::{Mode, World};

const SOON: Duration = Duration::from_secs(60);

/// Reads all documents of a YAML file.
pub(super) const YAML: &str = "import json, sys; from ruamel.yaml import YAML
print(json.dumps(list(YAML(typ='safe', pure=True).load_all(open(sys.argv[1], encoding='utf-8')))))";

const ANNOTATION: &str = "vault.hashicorp.com/";

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

/// Field rules for the operator's custom resources, in the version that the examples name. They are written by hand:
/// the licence of the operator's definitions does not fit this repository.
fn operator_schema(kind: &str) -> Option<Value> {
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let object = |fields: Value, required: &[&str]| json!({"type": "object", "properties": fields, "required": required, "additionalProperties": false});
    let text = json!({"type": "string"});
    let yes = json!({"type": "boolean"});
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
                "destination": object(
                    json!({
                        "name": text, "create": yes,
                        "transformation": object(
                            json!({"excludeRaw": yes, "includes": strings, "excludes": strings}), &[]),
                    }),
                    &["name"],
                ),
                "rolloutRestartTargets": {"type": "array", "items": object(
                    json!({"kind": {"enum": ["Deployment", "DaemonSet", "StatefulSet", "argo.Rollout"]}, "name": text}),
                    &["kind", "name"],
                )},
            }),
            &["destination", "mount", "path"],
        ),
        _ => return None,
    };
    let version = json!({"const": "secrets.hashicorp.com/v1beta1"});
    let fields = json!({"apiVersion": version, "kind": text, "metadata": {"type": "object"}, "spec": spec});
    Some(object(fields, &["apiVersion", "kind", "metadata", "spec"]))
}

fn errors(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().expect("a kind");
    let schema = operator_schema(kind).unwrap_or_else(|| {
        let text = include_str!("../../fixtures/kubernetes/schema.json");
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
    for name in ["injector.yaml", "operator.yaml", "csi.yaml"] {
        for object in objects(name) {
            assert_eq!(errors(&object), Vec::<String>::new(), "{name}");
            assert_eq!(object["metadata"]["namespace"], "retail");
        }
    }
}

#[test]
fn a_misspelt_field_does_not_match_the_schema() {
    let all = ["operator.yaml", "csi.yaml"].into_iter().flat_map(objects);
    for mut object in all {
        object["spec"]["misspelt"] = json!("x");
        assert!(!errors(&object).is_empty(), "{}", object["kind"]);
        object["spec"].as_object_mut().expect("a spec").remove("misspelt");
        object["misspelt"] = json!("x");
        assert!(!errors(&object).is_empty(), "{}", object["kind"]);
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

    let csi = objects("csi.yaml");
    let pod = &object(&csi, "Deployment")["spec"]["template"]["spec"];
    let class = object(&csi, "SecretProviderClass");
    assert_eq!(pod["volumes"][0]["csi"]["volumeAttributes"]["secretProviderClass"], name(&class));
    assert_eq!(pod["volumes"][0]["name"], pod["containers"][0]["volumeMounts"][0]["name"]);
    for objects in [&csi, &objects("injector.yaml")] {
        let account = &object(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"];
        assert_eq!(*account, name(&object(objects, "ServiceAccount")));
    }
}

/// All three examples read a path that their policy permits, and use fields that the response has.
#[test]
fn paths_and_fields_exist_on_the_server() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("policy.hcl"), world.here(&text("kubernetes/policy.hcl"))).expect("write a policy");
    let cluster = Astra::builder().tls(Certificate::Valid).spawn();
    fs::write(dir.path().join("ca.crt"), cluster.ca_pem().expect("a CA")).expect("write a certificate");
    run(&world.server, &block("kubernetes/README.md", "kubernetes login"), dir.path());
    let role = world.server.get("auth/kubernetes/role/shop").data();
    assert_eq!((&role["token_policies"], &role["audience"]), (&json!(["shop"]), &json!("vault")));

    let made = world.server.post("auth/token/create", &json!({"policies": ["shop"]})).ok();
    let client = world.server.with_token(made["auth"]["client_token"].as_str().expect("a token"));
    let secret = object(&objects("operator.yaml"), "VaultDynamicSecret")["spec"].clone();
    let path = format!("{}/{}", secret["mount"].as_str().expect("a mount"), secret["path"].as_str().expect("a path"));
    let answer = client.get(&world.here(&path)).ok();
    let lease = json!({"lease_id": answer["lease_id"], "sync": true});
    client.post("sys/leases/renew", &lease).ok();
    for pattern in secret["destination"]["transformation"]["includes"].as_array().expect("patterns") {
        let field = pattern.as_str().expect("a pattern").trim_start_matches('^').trim_end_matches('$');
        assert!(answer["data"][field].is_string(), "{field}");
    }
    client.post("sys/leases/revoke", &lease).ok();
    assert!(world.alive(&org).is_empty());

    let class = object(&objects("csi.yaml"), "SecretProviderClass")["spec"]["parameters"].clone();
    let files = parsed(YAML, class["objects"].as_str().expect("objects"))[0].clone();
    for file in files.as_array().expect("a list") {
        assert_eq!(file["secretPath"], json!(path));
        assert!(answer["data"][file["secretKey"].as_str().expect("a key")].is_string(), "{file}");
        assert!(file["objectName"].is_string());
    }
    assert_eq!(class["roleName"], "shop");
    world.server.delete("sys/auth/kubernetes").ok();
}

#[test]
fn an_agent_renders_the_template_of_the_injector() {
    let world = World::new();
    let org = world.configured("retail", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    let pod = object(&objects("injector.yaml"), "Deployment")["spec"]["template"].clone();
    let annotations = pod["metadata"]["annotations"].as_object().expect("annotations").clone();
    let known = ["agent-inject", "role", "agent-pre-populate", "agent-revoke-on-shutdown"];
    let named = ["agent-inject-secret-", "agent-inject-template-", "agent-inject-perms-"];
    for (name, value) in &annotations {
        let name = name.strip_prefix(ANNOTATION).expect("an annotation of the injector");
        let file = named.iter().find_map(|prefix| name.strip_prefix(prefix));
        assert!(known.contains(&name) || file == Some("astra.env"), "{name}");
        assert!(value.is_string(), "{name} is not a text");
    }
    let template = annotations[&format!("{ANNOTATION}agent-inject-template-astra.env")].as_str().expect("a template");
    let path = annotations[&format!("{ANNOTATION}agent-inject-secret-astra.env")].as_str().expect("a path");
    assert!(template.contains(&format!("secret \"{path}\"")));
    let agent = Agent::start(&world.server, &[&world.here(template)]);
    let text = agent.rendered(0, SOON, |text| text.contains("ASTRA_TOKEN=AstraCS:"));
    assert_eq!(text.lines().filter(|line| line.starts_with("ASTRA_")).count(), 2);
    assert_eq!(world.minted(), 1);
}
