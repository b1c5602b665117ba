//! Pings of the host. A host in Go measures its connections with pings after the plugin's data, at most one at a time. The
//! plugin holds its answers, so that most calls come without a ping. It answers all other pings at once.
//!
//! The simulated host measures in every test of this tier.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::host::estimator::{Counts, PAYLOAD};
use crate::host::process::PATIENCE;
use crate::host::{Host, Launch};

/// The plugin holds an answer for this time.
const HOLD: Duration = Duration::from_secs(1);

/// Waits until each ping has its answer.
async fn all_answered(counts: impl Fn() -> Counts) -> Counts {
    let answered = async {
        while counts().answered < counts().sent {
            sleep(Duration::from_millis(20)).await;
        }
        counts()
    };
    timeout(PATIENCE, answered).await.expect("a ping has no answer")
}

/// Checks that there was about one ping for each second instead of one for each call.
fn assert_seldom(counts: Counts, calls: u64, took: Duration) {
    let most = 2 + took.as_secs();
    assert!(counts.sent >= 1 && counts.sent <= most, "{counts:?} for {calls} calls in {took:?}");
    assert!(counts.longest >= HOLD / 2, "{counts:?}: no answer was held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_measures_gets_every_call_answered_and_seldom_a_ping() {
    const CALLS: u64 = 300;
    let host = Host::start(Launch::astra()).await;
    let mut health = HealthClient::new(host.channel.clone());
    let begun = Instant::now();
    for _ in 0..CALLS {
        health.check(HealthCheckRequest { service: "plugin".into() }).await.expect("the answer of a call");
    }
    let took = begun.elapsed();
    let counts = all_answered(|| host.pings.counts()).await;
    assert_seldom(counts, CALLS, took);
    // After the answer, the next data starts the next measurement.
    health.check(HealthCheckRequest { service: "plugin".into() }).await.expect("the answer of a call");
    let next = all_answered(|| host.pings.counts()).await;
    assert_eq!(next.sent, counts.sent + 1);
    drop(health);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_measures_its_storage_gets_seldom_a_ping() {
    const WRITES: u64 = 100;
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    let begun = Instant::now();
    for number in 0..WRITES {
        let written = mount.write(&format!("accounts/n{number}"), json!({"owner": "x".repeat(20_000)})).await;
        assert!(written.http() < 300, "{}", written.error());
    }
    let took = begun.elapsed();
    let counts = all_answered(|| mount.pings()).await;
    assert_seldom(counts, WRITES, took);
    drop(mount);
    host.stop().await;
}

/// A PING frame with the flag ACK or without.
fn ping(flags: u8, payload: [u8; 8]) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[..5].copy_from_slice(&[0, 0, 8, 6, flags]);
    frame[9..].copy_from_slice(&payload);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_that_keep_alive_are_answered_before_an_earlier_ping_that_measures() {
    /// The payloads of grpc-go for a keepalive and for the first ping of a graceful stop.
    const AT_ONCE: [[u8; 8]; 2] = [[0; 8], [1, 6, 1, 8, 0, 3, 3, 9]];
    let host = Host::start(Launch::astra()).await;
    let config = host.plugin.identity().client(&host.handshake.certificate);
    let socket = UnixStream::connect(&host.handshake.socket).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    // The preface of HTTP/2 and an empty SETTINGS frame.
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for payload in [PAYLOAD, AT_ONCE[0], AT_ONCE[1]] {
        sent.extend(ping(0, payload));
    }
    stream.write_all(&sent).await.unwrap();
    stream.flush().await.unwrap();
    let mut answered = Vec::new();
    while answered.len() < 3 {
        let mut header = [0; 9];
        timeout(PATIENCE, stream.read_exact(&mut header)).await.expect("a ping has no answer").unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if header[3..5] == [6, 1] {
            answered.push(<[u8; 8]>::try_from(payload).unwrap());
        }
    }
    assert_eq!(answered, [AT_ONCE[0], AT_ONCE[1], PAYLOAD]);
    drop(stream);
    host.stop().await;
}
