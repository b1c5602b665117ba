//! Points 31 and 32: leases.

use std::time::Duration;

use serde_json::json;

use crate::host::system::{ACTIVE, STANDBY};
use crate::host::{Host, Launch, Lease};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn p31_the_max_ttl_of_the_mount_limits_the_requested_ttl() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    let hour = 60 * MINUTE;
    for (given, maximum, expected) in [
        (json!({}), hour, 10 * MINUTE),
        (json!({"ttl": "20m"}), hour, 20 * MINUTE),
        (json!({"ttl": "2h"}), hour, hour),
        (json!({}), MINUTE, MINUTE),
    ] {
        // The engine must ask for the maximum with each request, because the operator can change it at any time.
        mount.system.set(|facts| facts.max_lease_ttl = maximum);
        let reply = mount.call("read", "cards/a", &given).await;
        let options = reply.secret().lease_options.unwrap();
        assert_eq!(duration(options.ttl), expected, "{given} of {maximum:?}");
        assert_eq!(duration(options.max_ttl), maximum);
        assert!(options.renewable);
        assert_eq!(options.increment, 0);
        assert_eq!(reply.data()["account"], "a");
    }
    // Without a known maximum, the engine must not lend.
    mount.system.set(|facts| facts.missing = true);
    let before = mount.storage.keys();
    assert_eq!(mount.read("cards/a").await.http(), 500);
    assert_eq!(mount.storage.keys(), before, "a card was lent although the max TTL is unknown");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p31_a_standby_creates_no_lease() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    let before = mount.storage.keys();
    mount.storage.take_calls();
    mount.system.set(|facts| facts.replication_state = STANDBY);
    let reply = mount.read("cards/a").await;
    assert!(reply.is_forwarded(), "{}", reply.error());
    assert_eq!(
        mount.storage.take_calls(),
        Vec::<String>::new(),
        "the standby called storage before it forwarded the request"
    );
    assert_eq!(mount.storage.keys(), before);
    assert_eq!(mount.read("accounts/a").await.http(), 200);
    mount.system.set(|facts| facts.replication_state = ACTIVE);
    assert_eq!(mount.read("cards/a").await.http(), 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_a_lease_can_be_revoked_after_three_renewals() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    let issued = mount.read("cards/a").await;
    let key = format!("cards/{}", issued.data()["card"].as_str().unwrap());
    assert!(mount.storage.value(&key).is_some());
    let mut lease = Lease::new("cards/a", &issued).aged(MINUTE);
    for increment in [Duration::ZERO, MINUTE, 5 * MINUTE] {
        let renewed = mount.renew(&mut lease, increment).await;
        assert_eq!(renewed.http(), 200);
        assert_eq!(renewed.data(), issued.data());
        assert_eq!(renewed.internal_data(), issued.internal_data());
        assert!(renewed.secret().lease_options.unwrap().renewable);
    }
    // A revocation does not need the account.
    mount.delete("accounts/a").await;
    assert_eq!(mount.revoke(&lease).await.err.map(|err| err.err_msg), None);
    assert!(mount.storage.value(&key).is_none());
    // The host may repeat a revocation.
    assert_eq!(mount.revoke(&lease).await.err.map(|err| err.err_msg), None);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_hosts_repeat_a_revocation_after_a_storage_failure() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    let lease = Lease::new("cards/a", &mount.read("cards/a").await);
    for fault in
        [crate::host::storage::StorageFault::Missing, crate::host::storage::StorageFault::Error("barrier is sealed")]
    {
        mount.storage.fail(fault);
        let kind = mount.revoke(&lease).await.error_type().expect("a revocation succeeded without storage");
        assert!(![5, 6, 7, 10].contains(&kind), "type {kind} makes the lease irrevocable");
    }
    mount.storage.fail(crate::host::storage::StorageFault::None);
    assert_eq!(mount.revoke(&lease).await.error_type(), None);
    host.stop().await;
}

fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(nanoseconds.try_into().unwrap())
}
