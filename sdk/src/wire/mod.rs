//! The plugin's services: gRPC on one side, [`crate::logical`] on the other.
//!
//! Architecture invariant: gRPC messages stay in here. No backend sees a message, and no data of a request is logged.

mod answer;
mod backend;
mod channel;
mod convert;
mod early;
mod limits;
mod storage;
mod system;
mod unary;
mod version;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tonic::Status;

#[cfg(any(test, fuzzing, feature = "testing"))]
pub use self::convert::fuzz::{fuzz_wire_data, fuzz_wire_request};
use super::logical::Factory;
use super::plugin::Plugin;
use super::process::{Answer, Broker, Call, Kind, Messages, Services, decode, frame};

/// Returns the services of a plugin.
pub(super) fn services(broker: Arc<Broker>, plugin: Plugin, factory: Factory) -> impl Services {
    Own { backend: backend::Service::new(broker, plugin, factory), version: plugin.version }
}

struct Own {
    backend: backend::Service,
    version: &'static str,
}

const HANDLE_REQUEST: &str = "/pb.Backend/HandleRequest";
const HANDLE_EXISTENCE_CHECK: &str = "/pb.Backend/HandleExistenceCheck";
const SETUP: &str = "/pb.Backend/Setup";
const TYPE: &str = "/pb.Backend/Type";
const SPECIAL_PATHS: &str = "/pb.Backend/SpecialPaths";
const INITIALIZE: &str = "/pb.Backend/Initialize";
const CLEANUP: &str = "/pb.Backend/Cleanup";
const INVALIDATE_KEY: &str = "/pb.Backend/InvalidateKey";
const VERSION: &str = "/logical.PluginVersion/Version";
const MULTIPLEXING_SUPPORT: &str = "/pluginutil.multiplexing.PluginMultiplexing/MultiplexingSupport";

impl Services for Own {
    fn kind(&self, path: &str) -> Option<Kind> {
        let is_known = matches!(
            path,
            HANDLE_REQUEST
                | HANDLE_EXISTENCE_CHECK
                | SETUP
                | TYPE
                | SPECIAL_PATHS
                | INITIALIZE
                | CLEANUP
                | INVALIDATE_KEY
                | VERSION
                | MULTIPLEXING_SUPPORT
        );
        is_known.then_some(Kind::Unary)
    }

    fn early(&self, call: &Call, start: &[u8]) -> Option<Bytes> {
        if call.path() == HANDLE_REQUEST { self.backend.early(call, start) } else { None }
    }

    async fn unary(&self, call: Call, message: Bytes) -> Answer {
        match call.path() {
            HANDLE_REQUEST => frame(&self.backend.handle_request(call, decode(message)?).await?),
            HANDLE_EXISTENCE_CHECK => frame(&self.backend.handle_existence_check(&call, decode(message)?).await?),
            // The future of a setup is large. In its own box, it does not enlarge the futures of all other calls.
            SETUP => frame(&Box::pin(self.backend.setup(&call, decode(message)?)).await?),
            TYPE => frame(&backend::Service::r#type(&call)?),
            SPECIAL_PATHS => frame(&self.backend.special_paths(&call).await?),
            INITIALIZE => frame(&self.backend.initialize(&call).await?),
            CLEANUP => frame(&self.backend.cleanup(&call).await?),
            INVALIDATE_KEY => frame(&self.backend.invalidate_key(&call, decode(message)?).await?),
            VERSION => frame(&version::version(self.version)),
            MULTIPLEXING_SUPPORT => frame(&version::multiplexing()),
            path => Err(Status::unimplemented(format!("there is no method {path:?}"))),
        }
    }

    fn streaming(&self, path: &str, _messages: Messages) -> Result<BoxStream<'static, Bytes>, Status> {
        Err(Status::unimplemented(format!("there is no method {path:?}")))
    }
}
