//! The services of every plugin (go-plugin): broker, controller, standard output, and health.
//!
//! Architecture invariant: passes all other calls on to the plugin's own services.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::broker::Broker;
use super::control::{Control, Stop};
use super::messages::{Messages, decode, frame};
use super::server::{Answer, Call, Kind, Services};
use crate::pb::plugin::{ConnInfo, Empty};

const START_STREAM: &str = "/plugin.GRPCBroker/StartStream";
const STREAM_STDIO: &str = "/plugin.GRPCStdio/StreamStdio";
const SHUTDOWN: &str = "/plugin.GRPCController/Shutdown";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    /// `plugin`, or empty for the whole process.
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The value of `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// The services of every plugin, and the plugin's own.
pub(super) struct Process<S> {
    own: S,
    broker: Arc<Broker>,
    control: Control,
    /// Messages of the broker to the host. The host's only stream takes them.
    said: Mutex<Option<mpsc::Receiver<ConnInfo>>>,
}

impl<S: Services> Process<S> {
    pub(super) fn new(own: S, broker: Arc<Broker>, control: Control, said: mpsc::Receiver<ConnInfo>) -> Self {
        Self { own, broker, control, said: Mutex::new(Some(said)) }
    }

    fn start_stream(&self, mut heard: Messages) -> Result<BoxStream<'static, Bytes>, Status> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut said = said.ok_or_else(|| Status::already_exists("the broker stream is open already"))?;
        let (broker, control) = (self.broker.clone(), self.control.clone());
        // The reply must not wait for the first message, and must not end with the last message.
        tokio::spawn(async move {
            while let Ok(Some(message)) = heard.next().await
                && let Ok(info) = decode(message)
            {
                broker.hear(info);
            }
            control.stop(Stop::HostGone);
        });
        let said = stream::poll_fn(move |cx| said.poll_recv(cx));
        Ok(said.filter_map(async |info| frame(&info).ok()).boxed())
    }
}

impl<S: Services> Services for Process<S> {
    fn kind(&self, path: &str) -> Option<Kind> {
        // The plugin's own services come first, since almost all calls are for them.
        self.own.kind(path).or(match path {
            SHUTDOWN | CHECK => Some(Kind::Unary),
            START_STREAM | STREAM_STDIO | WATCH => Some(Kind::Streaming),
            _ => None,
        })
    }

    fn early(&self, call: &Call, start: &[u8]) -> Option<Bytes> {
        self.own.early(call, start)
    }

    async fn unary(&self, call: Call, message: Bytes) -> Answer {
        match call.path() {
            SHUTDOWN => {
                self.control.stop(Stop::Shutdown);
                frame(&Empty {})
            }
            CHECK => health(message),
            _ => self.own.unary(call, message).await,
        }
    }

    fn streaming(&self, path: &str, mut messages: Messages) -> Result<BoxStream<'static, Bytes>, Status> {
        match path {
            START_STREAM => self.start_stream(messages),
            // The plugin sends no output this way. But if the stream ended, the host's idle connection could be closed.
            STREAM_STDIO => Ok(stream::pending().boxed()),
            WATCH => {
                let first = async move { health(messages.next().await.ok()??).ok() };
                Ok(stream::once(first).filter_map(std::future::ready).chain(stream::pending()).boxed())
            }
            _ => self.own.streaming(path, messages),
        }
    }
}

fn health(message: Bytes) -> Answer {
    match decode::<HealthCheckRequest>(message)?.service.as_str() {
        "" | "plugin" => frame(&HealthCheckResponse { status: SERVING }),
        service => Err(Status::not_found(format!("there is no service {service:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mtls::tests::plugin;
    use super::super::tests::call;
    use super::*;

    /// A plugin without services.
    struct Nothing;

    impl Services for Nothing {
        fn kind(&self, _path: &str) -> Option<Kind> {
            None
        }

        fn early(&self, _call: &Call, _start: &[u8]) -> Option<Bytes> {
            None
        }

        async fn unary(&self, _call: Call, _message: Bytes) -> Answer {
            Err(Status::unimplemented("nothing"))
        }

        fn streaming(&self, _path: &str, _messages: Messages) -> Result<BoxStream<'static, Bytes>, Status> {
            Err(Status::unimplemented("nothing"))
        }
    }

    #[tokio::test]
    async fn the_host_asks_for_the_health_and_for_the_end() {
        let (broker, said) = Broker::new(plugin().connector, None);
        let (control, stops) = Control::new(|| 0);
        let services = Process::new(Nothing, Arc::new(broker), control, said);
        let ask = async |path: &'static str, service: &str| {
            let request = HealthCheckRequest { service: service.to_owned() };
            let call = Call { uri: path.parse().unwrap(), ..call(1) };
            services.unary(call, request.encode_to_vec().into()).await
        };
        for service in ["", "plugin"] {
            assert_eq!(ask(CHECK, service).await.unwrap(), [0, 0, 0, 0, 2, 8, 1][..], "{service:?}");
        }
        assert_eq!(ask(CHECK, "other").await.unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(ask(SHUTDOWN, "").await.unwrap(), [0; 5][..]);
        assert_eq!(stops.try_recv(), Ok(Stop::Shutdown));
    }
}
