//! Points 6 to 8, 13 to 15: the connection, and the services that come with every plugin.

use std::time::Duration;

use rustls::ProtocolVersion;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::host::pb::pluginutil::multiplexing::MultiplexingSupportRequest;
use crate::host::pb::pluginutil::multiplexing::plugin_multiplexing_client::PluginMultiplexingClient;
use crate::host::tls::{Identity, anonymous_client};
use crate::host::wire::first_bytes;
use crate::host::{Host, Launch};

#[tokio::test(flavor = "multi_thread")]
async fn p06_only_the_host_of_the_plugin_can_connect() {
    let host = Host::start(Launch::astra()).await;
    let (socket, certificate) = (&host.handshake.socket, &host.handshake.certificate);
    let identity = host.plugin.identity();
    let strangers = [
        ("another certificate of the same kind", Identity::generate().client(certificate)),
        ("the right certificate without its key", identity.client_without_key(certificate)),
        ("no certificate", anonymous_client(certificate)),
    ];
    for (who, config) in strangers {
        assert_eq!(first_bytes(socket, config).await, b"", "the plugin answered a client with {who}");
    }
    // The host's own identity is accepted, so the rejections above are not a fault of `first_bytes`.
    assert_ne!(first_bytes(socket, identity.client(certificate)).await, b"");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_a_silent_client_does_not_delay_others() {
    let host = Host::start(Launch::astra()).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(tokio::net::UnixStream::connect(&host.handshake.socket).await.unwrap());
    }
    let config = host.plugin.identity().client(&host.handshake.certificate);
    assert_ne!(first_bytes(&host.handshake.socket, config).await, b"");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_the_main_connection_uses_tls_1_3_and_http_2() {
    for launch in [Launch::astra(), Launch::passbook()] {
        // The host's certificate is a P-521 CA. The host's own verification also checks names, validity and usage.
        let host = Host::start(launch).await;
        assert_eq!(host.agreed.version, Some(ProtocolVersion::TLSv1_3));
        assert_eq!(host.agreed.alpn.as_deref(), Some(b"h2".as_slice()));
        assert_eq!(host.agreed.peer, std::slice::from_ref(&host.handshake.certificate));
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_each_start_has_a_new_certificate() {
    let (one, other) = (Host::start(Launch::astra()).await, Host::start(Launch::astra()).await);
    assert_ne!(one.handshake.certificate, other.handshake.certificate);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p08_the_brokered_connection_uses_mutual_tls_and_http_2() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    assert!(mount.storage.value("accounts/a").is_some());
    let connections = mount.connections();
    assert_eq!(connections.len(), 1, "{connections:?}");
    let agreed = connections[0].as_ref().expect("the brokered connection");
    assert_eq!(agreed.version, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(agreed.alpn.as_deref(), Some(b"h2".as_slice()));
    assert_eq!(agreed.peer, std::slice::from_ref(&host.handshake.certificate));
    assert_eq!(agreed.server_name.as_deref(), Some("localhost"));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p08_brokered_connections_can_share_one_socket() {
    let host = Host::start(Launch::passbook().env("PLUGIN_MULTIPLEX_GRPC", "true")).await;
    assert!(host.handshake.line.ends_with("|true"), "{}", host.handshake.line);
    // Both at once, because the plugin must knock for one connection at a time.
    let (one, other) = tokio::join!(host.mount(), host.mount());
    for (mount, owner) in [(&one, "x"), (&other, "y")] {
        assert_eq!(mount.write("accounts/a", json!({"owner": owner})).await.http(), 204);
        assert_eq!(mount.read("accounts/a").await.data()["owner"], owner);
        let connections = mount.connections();
        assert_eq!(connections.len(), 1, "{connections:?}");
        let agreed = connections[0].as_ref().expect("the brokered connection");
        assert_eq!(agreed.alpn.as_deref(), Some(b"h2".as_slice()));
        assert_eq!(agreed.peer, std::slice::from_ref(&host.handshake.certificate));
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_the_health_service_reports_serving() {
    let host = Host::start(Launch::astra()).await;
    let mut client = HealthClient::new(host.channel.clone());
    let reply = client.check(HealthCheckRequest { service: "plugin".into() }).await.unwrap();
    assert_eq!(reply.into_inner().status, ServingStatus::Serving as i32);
    let unknown = client.check(HealthCheckRequest { service: "other".into() }).await;
    assert_eq!(unknown.err().map(|status| status.code()), Some(Code::NotFound));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_stdio_and_broker_streams_stay_open_and_silent() {
    let mut host = Host::start(Launch::passbook()).await;
    host.streams_are_open().await;
    for _ in 0..2 {
        let mount = host.mount().await;
        mount.write("teller/log", json!({"text": "x"})).await;
        mount.write("teller/panic", json!({})).await;
        mount.cleanup().await.unwrap();
    }
    host.streams_are_open().await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_multiplexing_is_supported_without_an_id() {
    let host = Host::start(Launch::astra()).await;
    let mut client = PluginMultiplexingClient::new(host.channel.clone());
    let call = client.multiplexing_support(MultiplexingSupportRequest {});
    let reply = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap();
    assert!(reply.into_inner().supported);
    host.stop().await;
}
