//! The agreement before the first connection: the plugin API version, and one line on stdout.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::env::Environment;

/// The supported plugin API version. Older versions have no automatic TLS, so the plugin refuses them.
pub(super) const VERSION: u32 = 5;

/// The reason why the plugin refuses to start.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the host speaks plugin API versions {0:?} only, this plugin speaks version 5")]
    Version(Vec<u32>),
    #[error("the host sent no certificate (PLUGIN_CLIENT_CERT): this plugin does not speak without mutual TLS")]
    NoTls,
}

/// Returns the host's certificate (PEM) if both sides agree.
pub(super) fn negotiate(environment: &Environment) -> Result<&str, Refusal> {
    // If the host names no version, it uses the plugin's lowest version (go-plugin server.go, protocolVersion).
    if !environment.versions.is_empty() && !environment.versions.contains(&VERSION) {
        return Err(Refusal::Version(environment.versions.clone()));
    }
    environment.client_cert.as_deref().ok_or(Refusal::NoTls)
}

/// Returns the handshake line. `mux` is only for hosts that ask: older hosts read it as part of the certificate.
pub(super) fn line(socket: &str, certificate: &[u8], mux: Option<bool>) -> String {
    let certificate = STANDARD_NO_PAD.encode(certificate);
    let mux = mux.map(|mux| format!("|{mux}")).unwrap_or_default();
    format!("1|{VERSION}|unix|{socket}|grpc|{certificate}{mux}\n")
}

/// Writes the handshake line, then redirects stdout to a sink. The host later stops reading, and a full pipe blocks.
pub(super) fn send(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()?;
    let sink: OwnedFd = match File::options().write(true).open("/dev/null") {
        Ok(null) => null.into(),
        // An empty root file system has no `/dev/null`. A write to a pipe without a reader fails, so it does not block
        // either.
        Err(_) => io::pipe()?.1.into(),
    };
    Ok(rustix::stdio::dup2_stdout(sink)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(versions: &[u32], client_cert: Option<&str>) -> Environment {
        Environment {
            versions: versions.to_vec(),
            client_cert: client_cert.map(String::from),
            ..Environment::default()
        }
    }

    #[test]
    fn version_5_is_found_in_any_list() {
        for versions in [&[5][..], &[4, 5], &[6, 5], &[]] {
            assert_eq!(negotiate(&offered(versions, Some("pem"))), Ok("pem"), "{versions:?}");
        }
    }

    #[test]
    fn older_versions_and_plain_connections_are_refused() {
        assert_eq!(negotiate(&offered(&[3, 4], None)), Err(Refusal::Version(vec![3, 4])));
        assert_eq!(negotiate(&offered(&[5], None)), Err(Refusal::NoTls));
    }

    #[test]
    fn line_has_the_sixth_field_without_padding_and_the_seventh_on_demand() {
        assert_eq!(line("/tmp/p", &[0xfb, 0xff], None), "1|5|unix|/tmp/p|grpc|+/8\n");
        assert_eq!(line("/tmp/p", &[0xfb, 0xff], Some(true)), "1|5|unix|/tmp/p|grpc|+/8|true\n");
    }
}
