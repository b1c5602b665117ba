//! The process: a child of the host. It announces its socket, serves, and ends with its host.
//!
//! Architecture invariant: nothing in here knows the plugin's purpose. The caller provides the services.

mod broker;
mod control;
mod cork;
mod delivery;
mod env;
mod handshake;
mod listener;
mod log;
mod manual;
mod memory;
mod messages;
mod mtls;
#[cfg(feature = "mux")]
mod mux;
mod pings;
mod serve;
mod server;
mod services;
mod socket;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::mpsc;

pub(crate) use self::broker::{Broker, Io};
use self::control::{Control, Stop};
pub(crate) use self::delivery::WINDOW as UNDO_WINDOW;
use self::env::{Environment, Mux};
pub use self::env::{proxy_variables, variable};
pub(crate) use self::manual::{register_command, sha256};
pub(crate) use self::messages::{Messages, decode, frame};
use self::mtls::Mtls;
pub(crate) use self::pings::Pings;
pub(crate) use self::server::{Answer, Call, Kind, Services};
use self::services::Process;
use super::plugin::Plugin;
use super::tasks;

/// The reason why the process did not start.
type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the plugin until its host stops it. `services` are the plugin's own services.
pub(super) fn run<S: Services>(plugin: &Plugin, services: impl FnOnce(Arc<Broker>) -> S) -> ExitCode {
    let environment = Environment::read(plugin.log_level_variable);
    if !environment.cookie {
        return manual::answer(plugin, std::env::args_os().skip(1));
    }
    let _log = log::start(environment.log_level.as_deref(), plugin.log_target, plugin.redact);
    match start(&environment, plugin.worker_threads, services) {
        Ok(reason) => {
            if reason == Stop::Unused {
                tracing::warn!("the host had no connection for too long");
            }
            tracing::debug!(?reason, "plugin ends");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = &*error as &(dyn std::error::Error + 'static), "plugin cannot start");
            ExitCode::FAILURE
        }
    }
}

fn start<S: Services>(
    environment: &Environment,
    workers: usize,
    services: impl FnOnce(Arc<Broker>) -> S,
) -> Result<Stop, StartError> {
    let client_cert = handshake::negotiate(environment)?;
    memory::protect(environment.lock_memory);
    let mtls = Mtls::new(client_cert)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let (control, stops) = Control::new(tasks::running);
    let _entered = runtime.enter();
    serve::listen_to_signals(&control)?;
    let (listener, socket) = listener::bind(environment)?;

    let is_shared = CAN_MUX && environment.mux == Mux::On;
    let (open, asked) = is_shared.then(|| mpsc::channel(1)).unzip();
    let (broker, said) = Broker::new(mtls.connector, open);
    let broker = Arc::new(broker);
    let connections = match asked {
        #[cfg(feature = "mux")]
        Some(asked) => mux::accept(listener, mtls.acceptor, control.clone(), asked),
        _ => serve::accept(listener, mtls.acceptor, control.clone()),
    };
    let services = Process::new(services(broker.clone()), broker, control.clone(), said);
    serve::serve(services, connections, control.clone());

    let path = socket.path().to_str().ok_or("the path of the socket is not UTF-8")?;
    handshake::send(&handshake::line(path, &mtls.certificate, mux_answer(environment.mux)))?;
    let reason = control.wait(&stops);
    drop(socket);
    runtime.shutdown_background();
    Ok(reason)
}

/// Makes a socket where [`run`] would make it, and removes it. Returns the directory of the socket.
pub(crate) fn try_socket() -> std::io::Result<std::path::PathBuf> {
    listener::try_bind(&Environment::read(None))
}

/// Whether all connections can share one socket. Without the feature, the host gets `false` and tells its operator.
const CAN_MUX: bool = cfg!(feature = "mux");

/// Returns the answer to a host that mentions the shared socket. A host that does not mention it may be old, and would
/// read an answer as part of the certificate.
fn mux_answer(asked: Mux) -> Option<bool> {
    (asked != Mux::Unasked).then_some(CAN_MUX)
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::delivery::tests::{connection, frame};
    pub(crate) use super::log::tests::logged_and_spans;
    use super::*;

    #[test]
    fn a_host_learns_whether_connections_can_share_a_socket_only_if_it_asks() {
        assert_eq!(mux_answer(Mux::Unasked), None);
        assert_eq!(mux_answer(Mux::On), Some(cfg!(feature = "mux")));
        assert_eq!(mux_answer(Mux::Off), Some(cfg!(feature = "mux")));
    }

    /// Returns a call without headers, on this stream.
    pub(crate) fn call(stream: u32) -> Call {
        Call::new(http::Uri::default(), http::HeaderMap::new(), connection().streams().stream(stream))
    }

    /// Returns a broker whose host announces nothing.
    pub(crate) fn broker() -> Arc<Broker> {
        Arc::new(Broker::new(mtls::tests::plugin().connector, None).0)
    }
}
