//! Points 16 to 20: setting up and cleaning up instances.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::host::storage::StorageFault;
use crate::host::{Host, Launch, Offer, Setup, Storage, System};

#[tokio::test(flavor = "multi_thread")]
async fn p16_setup_waits_up_to_5_s_for_the_address_of_the_host() {
    let host = Host::start(Launch::passbook()).await;
    let setup = |offer| host.mount_with(Setup { offer, ..Setup::default() });
    let started = Instant::now();
    let never = async {
        let result = setup(Offer::Never).await;
        (result, started.elapsed())
    };
    let (before, after, late, (never, waited)) = tokio::join!(
        setup(Offer::Before),
        setup(Offer::After(Duration::from_millis(20))),
        setup(Offer::After(Duration::from_secs(4))),
        never,
    );
    for mount in [before, after, late] {
        let mount = mount.expect("Setup");
        assert_eq!(mount.write("accounts/a", json!({"owner": "x"})).await.http(), 204);
        assert!(mount.storage.value("accounts/a").is_some());
    }
    let text = never.err().expect("Setup succeeded without an address");
    assert!(!text.starts_with("gRPC status"), "{text}");
    assert!((4.5..8.0).contains(&waited.as_secs_f64()), "Setup gave up after {waited:?}");
    // A failed `Setup` does not affect the next `Setup`.
    let mount = host.mount().await;
    assert_eq!(mount.list("accounts").await.http(), 404);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_setup_needs_neither_storage_nor_system_view() {
    for launch in [Launch::astra(), Launch::passbook()] {
        // The whole registration. It has no Type, no Initialize and no Cleanup.
        let host = Host::start(launch).await;
        let mount = host.mount_with(Setup::registration()).await.expect("Setup at registration");
        assert!(is_version(&mount.version().await));
        host.stop().await;
    }
    let host = Host::start(Launch::astra()).await;
    let storage = Storage::default();
    storage.fail(StorageFault::Error("barrier is sealed"));
    let setup = Setup { storage, system: System::missing(), ..Setup::default() };
    let mount = host.mount_with(setup).await.expect("Setup with broken storage");
    mount.initialize().await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_setup_does_not_wait_for_storage() {
    let host = Host::start(Launch::astra()).await;
    let storage = Storage::default();
    storage.delay(Duration::from_secs(15));
    let setup = Setup { storage, ..Setup::default() };
    let started = Instant::now();
    host.mount_with(setup).await.expect("Setup");
    assert!(started.elapsed() < Duration::from_secs(10), "Setup waited for storage");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p18_ten_instances_set_up_at_once_are_isolated() {
    let host = Host::start(Launch::passbook()).await;
    let mounts = join_all((0..10).map(|_| host.mount())).await;
    join_all(mounts.iter().enumerate().map(|(number, mount)| async move {
        let reply = mount.write("accounts/a", json!({"owner": format!("owner {number}")})).await;
        assert_eq!(reply.http(), 204);
        mount.write(&format!("accounts/only-{number}"), json!({"owner": "x"})).await;
    }))
    .await;
    // An invalidated key must not lose data, or mix up data of two mounts.
    mounts[3].invalidate("accounts/a").await;
    mounts[3].invalidate("no/such/key").await;
    for (number, mount) in mounts.iter().enumerate() {
        assert_eq!(mount.read("accounts/a").await.data()["owner"], format!("owner {number}"));
        assert_eq!(mount.list("accounts").await.data()["keys"], json!(["a", format!("only-{number}")]));
        assert_eq!(mount.storage.keys(), ["accounts/a".to_owned(), format!("accounts/only-{number}")]);
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p19_a_second_cleanup_does_not_affect_other_instances() {
    let host = Host::start(Launch::passbook()).await;
    let (one, other) = (host.mount().await, host.mount().await);
    one.write("accounts/a", json!({"owner": "x"})).await;
    other.write("accounts/b", json!({"owner": "y"})).await;
    one.cleanup().await.expect("the first Cleanup");
    // The second call finds no instance. An error status is as good as a success.
    let _ = one.cleanup().await;
    let gone = one.send(crate::host::mount::request("read", "accounts/a", &json!(null))).await;
    assert!(gone.is_err(), "an instance answered after its Cleanup");
    // Vault's client crashes on an error of Version, even after the Cleanup of the instance.
    assert!(is_version(&one.version().await));
    assert_eq!(other.read("accounts/b").await.data()["owner"], "y");
    // The process runs on without instances, because a new instance may follow.
    other.cleanup().await.unwrap();
    let _ = other.cleanup().await;
    let next = host.mount().await;
    assert_eq!(next.list("accounts").await.http(), 404);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_hosts_accept_type_special_paths_and_version() {
    for launch in [Launch::astra(), Launch::passbook()] {
        let host = Host::start(launch).await;
        let mount = host.mount().await;
        assert_eq!(mount.kind().await, 1);
        let paths = mount.special_paths().await;
        assert_eq!(paths.unauthenticated, Vec::<String>::new(), "the engine has a path that needs no Vault token");
        for path in paths.root.iter().chain(&paths.unauthenticated) {
            assert!(is_pattern(path), "{path}");
        }
        for prefix in paths.local_storage.iter().chain(&paths.seal_wrap_storage) {
            assert!(!prefix.starts_with('/') && !prefix.contains(['*', '+']), "{prefix}");
        }
        let version = mount.version().await;
        assert!(is_version(&version), "{version}");
        host.stop().await;
    }
    let host = Host::start(Launch::passbook()).await;
    let paths = host.mount().await.special_paths().await;
    assert_eq!((paths.local_storage, paths.seal_wrap_storage), (vec!["wal/".into()], vec!["accounts/".into()]));
    host.stop().await;
}

/// Whether the text is empty, or `v` and a semantic version without the suffix that the host adds.
fn is_version(text: &str) -> bool {
    let Some(version) = text.strip_prefix('v') else { return text.is_empty() };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let is_number = |part: &&str| part.parse::<u32>().is_ok() && (*part == "0" || !part.starts_with('0'));
    numbers.len() == 3 && numbers.iter().all(is_number) && !version.contains("builtin")
}

/// Whether `*` is only at the end, and `+` only stands for a whole segment (OpenBao `sdk/logical/logical.go`, `Paths`).
fn is_pattern(path: &str) -> bool {
    let body = path.strip_suffix('*').unwrap_or(path);
    let segments = body.split('/').all(|segment| segment == "+" || !segment.contains('+'));
    !path.starts_with('/') && !body.contains('*') && !path.ends_with("+*") && segments
}
