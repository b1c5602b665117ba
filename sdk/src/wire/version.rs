//! The two small services that describe the plugin itself.

use tonic::{Request, Response, Status};

use crate::pb::logical::plugin_version_server::PluginVersion;
use crate::pb::logical::{Empty, VersionReply};
use crate::pb::pluginutil::multiplexing::plugin_multiplexing_server::PluginMultiplexing;
use crate::pb::pluginutil::multiplexing::{MultiplexingSupportRequest, MultiplexingSupportResponse};

/// `logical.PluginVersion`. Hosts built on Vault's SDK crash on an error here, so this never fails.
pub(super) struct Version(pub(super) &'static str);

#[tonic::async_trait]
impl PluginVersion for Version {
    async fn version(&self, _request: Request<Empty>) -> Result<Response<VersionReply>, Status> {
        // The host compares this text with the version in the catalog, which has the `v`.
        Ok(Response::new(VersionReply { plugin_version: format!("v{}", self.0) }))
    }
}

/// `pluginutil.multiplexing.PluginMultiplexing`: one process serves all mounts.
pub(super) struct Multiplexing;

#[tonic::async_trait]
impl PluginMultiplexing for Multiplexing {
    async fn multiplexing_support(
        &self,
        _request: Request<MultiplexingSupportRequest>,
    ) -> Result<Response<MultiplexingSupportResponse>, Status> {
        Ok(Response::new(MultiplexingSupportResponse { supported: true }))
    }
}
