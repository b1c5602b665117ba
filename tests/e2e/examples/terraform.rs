//! Terraform: files are formatted and parsed. Parts that need no provider are applied to a real server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{HCL, example, find, parsed, skip, text};
use crate::bao::{host_binary, redact};
use crate::world::World;

const FILES: [&str; 4] = ["main.tf", "variables.tf", "org/main.tf", "org/variables.tf"];

#[track_caller]
fn file(name: &str) -> Value {
    parsed(HCL, &text(&format!("terraform/{name}")))
}

/// Returns the blocks of a kind: their labels and arguments.
fn blocks(file: &Value, kind: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for block in file[kind].as_array().expect("blocks") {
        for (label, body) in block.as_object().expect("a block") {
            let nested = matches!(kind, "resource" | "data");
            match body.as_object().filter(|_| nested) {
                Some(bodies) => found.extend(bodies.iter().map(|(_, body)| (label.clone(), body.clone()))),
                None => found.push((label.clone(), body.clone())),
            }
        }
    }
    found
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn the_tests_parse_every_terraform_file() {
    let mut found: Vec<PathBuf> = Vec::new();
    for dir in ["terraform", "terraform/org"] {
        for entry in fs::read_dir(example(dir)).expect("list the files") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|extension| extension == "tf") {
                found.push(path.strip_prefix(example("terraform")).expect("a file of it").into());
            }
        }
    }
    found.sort();
    let mut files: Vec<&Path> = FILES.iter().map(Path::new).collect();
    files.sort();
    assert_eq!(found, files);
    for name in FILES {
        assert!(file(name).as_object().is_some_and(|file| !file.is_empty()), "{name}");
    }
}

/// The arguments of versions 4 and 5 of the provider. The tests cannot download the provider itself.
#[test]
fn resources_have_only_known_arguments() {
    let known = |kind: &str| match kind {
        "vault_mount" => vec!["path", "type", "description", "max_lease_ttl_seconds"],
        "vault_generic_endpoint" => vec!["depends_on", "path", "data_json", "ignore_absent_fields"],
        "vault_policy" => vec!["name", "policy"],
        "vault_policy_document" => vec!["rule"],
        _ => panic!("this test does not know {kind}"),
    };
    let main = file("main.tf");
    for (kind, body) in blocks(&main, "resource").into_iter().chain(blocks(&main, "data")) {
        for argument in keys(&body) {
            assert!(known(&kind).contains(&argument.as_str()), "{kind} has no {argument}");
        }
    }
    let declared = |name: &str| -> BTreeSet<String> {
        blocks(&file(name), "variable").into_iter().map(|(name, _)| name).collect()
    };
    let (_, module) = blocks(&main, "module").into_iter().next().expect("a module");
    for argument in keys(&module) {
        assert!(
            argument == "source" || declared("org/variables.tf").contains(&argument),
            "the module has no {argument}"
        );
    }
    for (name, declared) in [("main.tf", declared("variables.tf")), ("org/main.tf", declared("org/variables.tf"))] {
        let text = text(&format!("terraform/{name}"));
        let used: BTreeSet<String> = text
            .split("var.")
            .skip(1)
            .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().into())
            .collect();
        assert_eq!(used, declared, "{name}");
    }
}

/// The example must keep tokens out of the state. This test does not need Terraform.
#[test]
fn the_root_token_is_ephemeral_everywhere() {
    for name in ["variables.tf", "org/variables.tf"] {
        let variables = blocks(&file(name), "variable");
        let (_, token) = variables.iter().find(|(name, _)| name == "root_token").expect("the variable");
        assert_eq!((&token["ephemeral"], &token["sensitive"]), (&json!(true), &json!(true)), "{name}");
    }
    let (_, config) = blocks(&file("org/main.tf"), "resource").into_iter().next().expect("a resource");
    assert!(!keys(&config["triggers_replace"]).contains("root_token"));
    let command = config["provisioner"][0]["local-exec"]["command"].as_str().expect("a command");
    assert!(command.contains("astra_token=-") && !command.contains("var."), "{command}");
}

/// Sends what the provider sends for the role: a write of `data_json`, a read, and a delete. The plan is empty if each member
/// of `data_json` has the value that a read shows (`ignore_absent_fields`).
#[test]
fn the_server_shows_the_role_as_terraform_writes_it() {
    let world = World::new();
    let org = world.next_org();
    world.configure(&org, &json!({"logical_name": "retail"}));
    let resources = blocks(&file("main.tf"), "resource");
    let (_, role) = resources.iter().find(|(kind, _)| kind == "vault_generic_endpoint").expect("the role");
    assert_eq!(role["ignore_absent_fields"], true);
    let path = role["path"].as_str().and_then(|path| path.split_once("}/")).expect("a path below the mount").1;
    // The value is an expression: jsonencode of an object, in which a field is a quoted name with a colon.
    let expression = role["data_json"].as_str().expect("an expression");
    let number = |name: &str| -> u64 {
        let rest = expression.split_once(&format!("'{name}': ")).unwrap_or_else(|| panic!("{name} in {expression}")).1;
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).expect("seconds")
    };
    assert_eq!(expression.matches("': ").count(), 3, "{expression}");
    let data = json!({"role_id": crate::world::ROLE_ID, "ttl": number("ttl"), "max_ttl": number("max_ttl")});
    for _ in 0..2 {
        let reply = world.post(path, &data);
        assert_eq!(reply.warnings(), "");
        reply.ok();
        let read = world.get(path).data();
        for (member, value) in data.as_object().expect("an object") {
            assert_eq!(&read[member], value, "{member}");
        }
    }
    world.delete(path).ok();
    assert_eq!(world.get(path).status, 404);
}

#[test]
fn the_files_are_formatted_and_terraform_applies_the_module() {
    let Some(terraform) = find("terraform") else {
        return skip("terraform fmt, validate and apply of docs/examples/terraform", "terraform");
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = |args: &[&str], env: &[(&str, &str)]| -> Output {
        let mut command = Command::new(&terraform);
        command.args(args).current_dir(dir.path()).env("HOME", dir.path()).env("CHECKPOINT_DISABLE", "1");
        command.envs(env.iter().copied()).output().expect("run terraform")
    };
    let ok = |output: Output| {
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}", redact::clean(&told));
        told
    };
    let place = example("terraform").display().to_string();
    ok(run(&["fmt", "-check", "-recursive", "-diff", &place], &[]));

    for name in ["main.tf", "variables.tf"] {
        fs::copy(example("terraform/org").join(name), dir.path().join(name)).expect("copy the module");
    }
    let world = World::new();
    let org = world.next_org();
    ok(run(&["init"], &[]));
    let cli = host_binary().display().to_string();
    let apply = |version: &str, token: &str| {
        let environment = [
            ("VAULT_ADDR", world.server.address()),
            ("BAO_ADDR", world.server.address()),
            ("VAULT_TOKEN", "root"),
            ("BAO_TOKEN", "root"),
            ("TF_VAR_mount", &world.mount),
            ("TF_VAR_org_id", &org.id),
            ("TF_VAR_logical_name", "retail"),
            ("TF_VAR_url", world.url()),
            ("TF_VAR_cli", &cli),
            ("TF_VAR_root_token", token),
            ("TF_VAR_root_token_version", version),
        ];
        run(&["apply", "-auto-approve"], &environment)
    };
    let told = ok(apply("1", &org.root_token));
    let read = world.get(&format!("config?org_id={}", org.id)).data();
    assert_eq!(read["logical_name"], "retail");
    world.role(&org, "reader", 3600, 36000);
    world.get("creds/retail/reader").ok();
    world.assert_no_secret("the output", &told);
    for entry in fs::read_dir(dir.path()).expect("list the files") {
        let path = entry.expect("entry").path();
        if path.is_file() {
            world.assert_no_secret(
                "a file of Terraform",
                &String::from_utf8_lossy(&fs::read(&path).expect("read the file")),
            );
        }
    }
    // Terraform writes another token only if its number is raised. Then a wrong token fails.
    ok(apply("1", "AstraCS:wrong:wrong"));
    assert!(!apply("2", "wrong").status.success());
}
