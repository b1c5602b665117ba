//! The two small services that describe the plugin itself.

use crate::pb::logical::VersionReply;
use crate::pb::pluginutil::multiplexing::MultiplexingSupportResponse;

/// `logical.PluginVersion`. Hosts built on Vault's SDK crash on an error here, so this never fails.
pub(super) fn version(version: &str) -> VersionReply {
    // The host compares this text with the version in the catalog, which has the `v`.
    VersionReply { plugin_version: format!("v{version}") }
}

/// `pluginutil.multiplexing.PluginMultiplexing`: one process serves all mounts.
pub(super) fn multiplexing() -> MultiplexingSupportResponse {
    MultiplexingSupportResponse { supported: true }
}
