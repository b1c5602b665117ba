//! `docs/doctor.md`: the reports of a sound set-up.

use std::fs;
use std::sync::Arc;

use super::Shell;
use crate::astra::{Astra, Certificate};
use crate::bao::{PLUGIN, Server, sha256};
use crate::world::World;

const PAGE: &str = "docs/doctor.md";

#[test]
fn the_page_shows_the_reports_of_a_sound_set_up() {
    let server = Arc::new(Server::dev());
    let world = World::with_astra(&server, "astra", Astra::builder().orgs(1).tls(Certificate::Valid));
    let org = world.next_org();
    let folder = server.plugin_dir();
    let ca_cert = folder.with_file_name("ca.pem");
    fs::write(&ca_cert, world.ca_pem().expect("a certificate")).expect("write the certificate");

    let mut shell = Shell::new(&server, "astra", world.url());
    shell.set("ASTRA_URL", world.url());
    shell.set("PLUGIN_DIR", folder.display().to_string());
    shell.set("CA_CERT", ca_cert.display().to_string());
    shell.set("ROOT_TOKEN", &org.root_token);
    shell.mask(&sha256(&folder.join(PLUGIN)), "sha256");
    shell.mask(&org.id, "org id");
    shell.run_sample(PAGE, "doctor");
    shell.run_sample(PAGE, "doctor with a root token");
    assert!(world.alive(&org).is_empty(), "the doctor left a token");
}
