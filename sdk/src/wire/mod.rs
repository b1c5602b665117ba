//! The plugin's services: gRPC on one side, [`crate::logical`] on the other.
//!
//! Architecture invariant: gRPC messages stay in here. No backend sees a message, and no data of a request is logged.

mod answer;
mod backend;
mod channel;
mod convert;
mod limits;
mod storage;
mod system;
mod unary;
mod version;
mod watch;

use std::sync::Arc;

use tonic::service::Routes;

#[cfg(any(test, fuzzing, feature = "testing"))]
pub use self::convert::fuzz::{fuzz_wire_data, fuzz_wire_request};
use super::logical::Factory;
use super::pb::logical::plugin_version_server::PluginVersionServer;
use super::pb::pb::backend_server::BackendServer;
use super::pb::pluginutil::multiplexing::plugin_multiplexing_server::PluginMultiplexingServer;
use super::plugin::Plugin;
use super::process::Broker;

/// Returns the services of a plugin.
pub(super) fn routes(broker: Arc<Broker>, plugin: Plugin, factory: Factory) -> Routes {
    // The host accepts bodies of 32 MiB. The engine decides how much it accepts.
    let backend = BackendServer::new(backend::Service::new(broker, plugin, factory))
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    Routes::new(backend)
        .add_service(PluginVersionServer::new(version::Version(plugin.version)))
        .add_service(PluginMultiplexingServer::new(version::Multiplexing))
}
