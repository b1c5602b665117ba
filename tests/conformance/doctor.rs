//! The command `-doctor`, on sound set-ups and on broken ones.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::astra::{Astra, AstraFault, Builder, Certificate, DeleteSuccess, FieldPolicy, Kind, Route, Seed, UnknownId};
use crate::plugin;

/// The variable with the root token.
const VARIABLE: &str = "ASTRA_DB_APPLICATION_TOKEN";

/// A simulated Astra with TLS, and an installed plugin.
struct Setup {
    astra: Astra,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self::with(Astra::builder().orgs(1))
    }

    fn with(astra: Builder) -> Self {
        let astra = astra.tls(Certificate::Valid).spawn();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let setup = Self { astra, folder };
        // This process must not open the copy for writing: a child of another test would inherit the open file, and the
        // system starts no file that is open for writing.
        assert!(Command::new("cp").arg(plugin::binary()).arg(setup.binary()).status().unwrap().success());
        fs::set_permissions(setup.binary(), Permissions::from_mode(0o755)).unwrap();
        fs::write(setup.path("ca.pem"), setup.astra.ca_pem().unwrap()).unwrap();
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join(name)
    }

    fn binary(&self) -> PathBuf {
        self.path("plugin")
    }

    /// Returns the command with the root token, and without variables of the test run.
    fn doctor(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        command.env_clear().env(VARIABLE, &self.astra.org().root_token);
        command.arg("-doctor").arg(format!("-url={}", self.astra.url())).arg("--json");
        command.arg(format!("-ca-cert={}", self.path("ca.pem").display()));
        command
    }

    /// Runs the command. Checks that it shows no token.
    fn run(&self, command: &mut Command) -> Report {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (shown, told) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        for secret in self.astra.secrets() {
            assert!(!shown.contains(&secret) && !told.contains(&secret), "a token is shown");
        }
        assert!(told.is_empty(), "{told}");
        Report { json: serde_json::from_str(&shown).unwrap(), status: status.code().unwrap() }
    }

    /// Runs the command with the options of a sound set-up.
    fn check(&self) -> Report {
        self.run(&mut self.doctor(&self.binary()))
    }

    /// Returns how many live tokens the doctor has left.
    fn left(&self) -> usize {
        self.astra.live(&self.astra.org().id).len()
    }
}

struct Report {
    json: Value,
    status: i32,
}

impl Report {
    /// Returns the result of a check, and what was found with the advice.
    fn of(&self, name: &str) -> (&str, String) {
        let checks = self.json["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["check"] == name);
        let check = check.unwrap_or_else(|| panic!("no {name:?} in {:#}", self.json));
        let text = |member: &str| check[member].as_str().unwrap();
        (text("result"), format!("{}; {}", text("found"), text("advice")))
    }

    /// Expects a check with a result, and parts of its text.
    fn expect(&self, name: &str, result: &str, parts: &[&str]) {
        let (actual, text) = self.of(name);
        assert_eq!(actual, result, "{name}: {text}");
        for part in parts {
            assert!(text.contains(part), "{name}: no {part:?} in {text}");
        }
        assert_eq!(self.status, i32::from(self.json["result"] == "failed"), "{:#}", self.json);
    }
}

#[test]
fn a_sound_set_up_passes_and_leaves_no_token() {
    let setup = Setup::new();
    let report = setup.check();
    assert_eq!((&report.json["result"], report.status), (&Value::from("skipped"), 0), "{:#}", report.json);
    for check in report.json["checks"].as_array().unwrap() {
        // The URL of the simulator has an address.
        let expected = if check["check"] == "name service" { "skipped" } else { "ok" };
        assert_eq!(check["result"], expected, "{check:#}");
    }
    report.expect("organization", "ok", &[&setup.astra.org().id]);
    report.expect("root token", "ok", &["Organization Administrator"]);
    report.expect("token in the list", "ok", &["with its expiry", "all 255 characters"]);
    report.expect("second deletion", "ok", &["404", "error of the API"]);
    report.expect("deletion of an unknown id", "ok", &["404"]);
    assert_eq!((setup.astra.minted(), setup.left()), (1, 0));
}

#[test]
fn the_table_has_one_row_for_each_check() {
    let setup = Setup::new();
    let mut command = setup.doctor(&setup.binary());
    let json = setup.run(&mut command).json;
    let Output { stdout, .. } =
        Command::new(setup.binary()).env_clear().args(["-doctor", "-url=http://127.0.0.1:1"]).output().unwrap();
    let table = String::from_utf8(stdout).unwrap();
    assert!(table.starts_with(&format!(
        "{} v{}\n\n| result ",
        json["plugin"].as_str().unwrap(),
        env!("CARGO_PKG_VERSION")
    )));
    assert!(table.contains("| failed  | connection "), "{table}");
    assert!(table.ends_with(" skipped\n"), "{table}");
}

#[test]
fn without_a_root_token_only_the_machine_and_the_way_are_checked() {
    let setup = Setup::new();
    let report = setup.run(setup.doctor(&setup.binary()).env_remove(VARIABLE));
    report.expect("connection", "ok", &["401"]);
    report.expect("root token", "skipped", &["-doctor -help"]);
    let report = setup.run(setup.doctor(&setup.binary()).arg("-read-only"));
    report.expect("mint", "skipped", &["-read-only"]);
    assert_eq!(setup.astra.minted(), 0);
}

#[test]
fn the_root_token_is_read_from_standard_input() {
    let setup = Setup::new();
    let mut command = setup.doctor(&setup.binary());
    command.env_remove(VARIABLE).args(["-token-stdin", "-read-only"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", setup.astra.org().root_token).unwrap();
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(&setup.astra.org().id), "{shown}");
}

#[test]
fn options_that_cannot_be_used_print_advice() {
    let setup = Setup::new();
    let root = setup.astra.org().root_token.clone();
    for (argument, part) in [("-no-such-option", "unknown option"), (root.as_str(), "must not be an argument")] {
        let output = Command::new(setup.binary()).env_clear().args(["-doctor", argument]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{told}");
        assert!(told.contains(part) && told.contains("-doctor -help") && !told.contains(&root), "{told}");
    }
    let output = Command::new(setup.binary()).env_clear().args(["-doctor", "-help"]).output().unwrap();
    let usage = String::from_utf8(output.stdout).unwrap();
    for option in ["-url=", "-ca-cert=", "-org-id=", "-role-id=", "-token-stdin", "-read-only", "-json", VARIABLE] {
        assert!(usage.contains(option), "{usage}");
    }
    assert!(usage.lines().all(|line| line.len() <= 130), "{usage}");
}

#[test]
fn a_file_that_others_can_replace() {
    let setup = Setup::new();
    fs::set_permissions(setup.binary(), Permissions::from_mode(0o777)).unwrap();
    setup.check().expect("permissions", "warning", &["mode 0777", "chmod go-w"]);
}

#[test]
fn a_file_that_is_a_link() {
    let setup = Setup::new();
    symlink(setup.binary(), setup.path("link")).unwrap();
    let report = setup.run(&mut setup.doctor(&setup.path("link")));
    report.expect("file", "warning", &["symbolic link", setup.binary().to_str().unwrap(), "plugin_directory"]);
}

#[test]
fn no_directory_for_sockets() {
    let setup = Setup::new();
    let report = setup.run(setup.doctor(&setup.binary()).env("TMPDIR", setup.path("nothing")));
    report.expect("sockets", "failed", &["nothing", "TMPDIR"]);
}

#[test]
fn a_proxy_variable_that_cannot_be_used() {
    let setup = Setup::new();
    let mut command = setup.doctor(&setup.binary());
    let report = setup.run(command.env("HTTPS_PROXY", "proxy:no-port").arg("-url=https://astra.test"));
    report.expect("settings", "failed", &["HTTPS_PROXY"]);
    assert!(!report.of("settings").1.contains("no-port"), "{:#}", report.json);
}

#[test]
fn a_host_name_without_an_address() {
    let setup = Setup::new();
    let name = "x".repeat(70);
    let report = setup.run(setup.doctor(&setup.binary()).arg(format!("-url=https://{name}.test")));
    report.expect("name service", "failed", &["not a valid host name", "resolv.conf"]);
    report.expect("connection", "skipped", &[]);
}

#[test]
fn nothing_listens() {
    let setup = Setup::new();
    setup.astra.refuse_connections(true);
    let report = setup.check();
    report.expect("connection", "failed", &["cannot be reached"]);
    report.expect("root token", "skipped", &[]);
}

#[test]
fn a_certificate_that_is_not_trusted() {
    let setup = Setup::new();
    let mut command = Command::new(setup.binary());
    command.env_clear().args(["-doctor", "-json", &format!("-url={}", setup.astra.url())]);
    setup.run(&mut command).expect("connection", "failed", &["ca_cert"]);
}

#[test]
fn a_connection_that_is_not_encrypted() {
    let (setup, plain) = (Setup::new(), Astra::spawn());
    let report = setup.run(setup.doctor(&setup.binary()).env_remove(VARIABLE).arg(format!("-url={}", plain.url())));
    report.expect("connection", "warning", &["not encrypted", "https"]);
}

/// Returns the URL of a web server that gives every request this answer.
fn web_server(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let read = connection.read(&mut [0; 4096]);
            // The client may be gone.
            let _ = read.and_then(|_| connection.write_all(answer.as_bytes()));
        }
    });
    url
}

#[test]
fn another_web_server() {
    let setup = Setup::new();
    let page = "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<html></html>";
    let report = setup.run(setup.doctor(&setup.binary()).arg(format!("-url={}", web_server(page.to_owned()))));
    report.expect("connection", "warning", &["404", "HTML page", "-url"]);
    report.expect("clock", "skipped", &["no time"]);
    report.expect("organization", "failed", &["url"]);
}

#[test]
fn a_wrong_clock() {
    for (day, year, word) in [("Fri", 1999, "ahead of"), ("Thu", 2099, "behind")] {
        let setup = Setup::new();
        let time = format!("{day}, 01 Jan {year} 00:00:00 GMT");
        let answer =
            format!("HTTP/1.1 401 Unauthorized\r\ndate: {time}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let mut command = setup.doctor(&setup.binary());
        let report = setup.run(command.env_remove(VARIABLE).arg(format!("-url={}", web_server(answer))));
        report.expect("clock", "warning", &[word, "synchronize"]);
    }
}

#[test]
fn a_root_token_that_was_deleted() {
    let setup = Setup::new();
    setup.astra.delete_token(&setup.astra.org().client_id);
    setup.check().expect("organization", "failed", &["rejected the root token"]);
}

#[test]
fn a_root_token_of_another_organization() {
    let setup = Setup::new();
    let report = setup.run(setup.doctor(&setup.binary()).arg("-org-id=11111111-2222-3333-4444-555555555555"));
    report.expect("organization", "failed", &[&setup.astra.org().id, "-org-id"]);
    assert_eq!(setup.astra.minted(), 0);
}

#[test]
fn a_root_token_that_expires_soon() {
    let setup = Setup::new();
    let hour = jiff::SignedDuration::from_hours(1);
    assert!(setup.astra.date_token(&setup.astra.org().client_id, -hour, hour * 24));
    setup.check().expect("expiry", "warning", &["expires on", "rotate"]);
}

#[test]
fn a_root_token_that_may_not_mint() {
    let setup = Setup::with(Astra::builder().org(Seed::new().role(crate::astra::built_in_id("RO User"))));
    let report = setup.check();
    report.expect("list of tokens", "failed", &["rejected the root token"]);
    report.expect("mint", "failed", &["rejected the root token"]);
    assert_eq!(setup.left(), 0);
}

#[test]
fn an_astra_that_keeps_no_descriptions() {
    let setup = Setup::new();
    setup.astra.knobs(|knobs| knobs.description = FieldPolicy::Ignore);
    let report = setup.check();
    report.expect("answer to the mint", "ok", &["does not confirm the description"]);
    report.expect("token in the list", "warning", &["no description", "cannot be found"]);
    assert_eq!(setup.left(), 0);
}

#[test]
fn an_astra_that_cuts_descriptions_off() {
    let setup = Setup::new();
    setup.astra.knobs(|knobs| (knobs.description_max, knobs.description_cut) = (Some(100), true));
    setup.check().expect("token in the list", "ok", &["the first 100 of 255 characters"]);
}

#[test]
fn an_astra_that_answers_late_in_its_list() {
    let setup = Setup::new();
    setup.astra.knobs(|knobs| knobs.list_delay_after_create_ms = 700);
    let report = setup.check();
    report.expect("token in the list", "ok", &["all 255"]);
    assert!(!report.of("token in the list").1.contains("after 0.0 s"), "{:#}", report.json);
}

#[test]
fn other_answers_to_deletions_are_shown() {
    let setup = Setup::new();
    setup.astra.knobs(|knobs| {
        (knobs.delete_success, knobs.unknown_id) = (DeleteSuccess::OkJson, UnknownId::BadRequestString);
    });
    let report = setup.check();
    report.expect("deletion", "ok", &["200"]);
    report.expect("second deletion", "ok", &["400"]);
    assert_eq!(setup.left(), 0);
}

#[test]
fn a_mint_whose_answer_is_lost_is_undone() {
    let setup = Setup::new();
    setup.astra.fault(AstraFault::after(Kind::Reset).route(Route::CreateToken).once());
    let report = setup.check();
    report.expect("mint", "failed", &["the connection to Astra broke"]);
    report.expect("undo", "ok", &["the token is deleted"]);
    assert_eq!((setup.astra.minted(), setup.left()), (1, 0));
}

#[test]
fn an_unclear_mint_that_made_no_token_is_a_warning() {
    let setup = Setup::new();
    setup.astra.fault(AstraFault::before(Kind::Reset).route(Route::CreateToken).once());
    let report = setup.check();
    report.expect("mint", "failed", &["the connection to Astra broke"]);
    report.expect("undo", "warning", &["no token of this mint", "portal"]);
    assert_eq!(setup.astra.minted(), 0);
}

#[test]
fn an_answer_that_names_a_token_of_another_program_deletes_nothing_of_it() {
    for name_root in [false, true] {
        let setup = Setup::new();
        let root = setup.astra.org();
        let other = setup.astra.portal(&root.id, Some("made by a person"), None);
        let (client_id, token) = if name_root {
            (root.client_id.clone(), root.root_token.clone())
        } else {
            (other.client_id.clone(), other.token)
        };
        let answer = json!({"clientId": client_id, "token": token, "secret": "s", "orgId": root.id, "roles": ["r"]});
        let kind = Kind::Body { content_type: "application/json".to_owned(), text: answer.to_string() };
        setup.astra.fault(AstraFault::after(kind).route(Route::CreateToken));
        let report = setup.check();
        report.expect("undo", "ok", &["the token is deleted"]);
        for client_id in [&other.client_id, &root.client_id] {
            assert!(setup.astra.token(client_id).is_some_and(|token| token.live), "{client_id} was deleted");
        }
        assert_eq!(setup.left(), 0);
    }
}

#[test]
fn a_token_that_cannot_be_deleted_is_named() {
    let setup = Setup::new();
    let fault = Kind::Status { code: 400, body: Default::default(), retry_after: None };
    setup.astra.fault(AstraFault::before(fault).route(Route::DeleteToken));
    let report = setup.check();
    let left = setup.astra.live(&setup.astra.org().id).remove(0);
    report.expect("deletion", "failed", &[&left.client_id, "portal", "expires on"]);
    setup.astra.advance(Duration::from_secs(16 * 60));
    assert_eq!(setup.left(), 0, "the token has no expiry");
}
