//! Orderly stops during a mint.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use super::plan::{Left, Mode, Work};
use super::world::{KillWorld, Node, hang, until};
use crate::host::gate::Phase;
use crate::host::process::PATIENCE;
use crate::host::{Host, Mount, Reply};

/// How long `Cleanup` may take. The plugin answers after 5 seconds at the latest. A busy machine may add some time.
const CLEANUP: Duration = Duration::from_secs(10);

/// Returns a mount and its process. Astra answers the next mint slowly, or never.
async fn mount_with_slow_mint(for_ms: Option<u64>) -> (KillWorld, Node) {
    let mut world = KillWorld::new(Mode::Standard, json!({})).await;
    world.reset();
    let node = world.start().await;
    world.astra.fault(hang(Phase::After, for_ms).once());
    (world, node)
}

/// Asks for a token. When Astra has minted it but has not answered, runs `then`.
async fn while_minting<T>(world: &KillWorld, mount: &Mount, then: impl Future<Output = T>) -> (Option<Reply>, T) {
    let minted = world.astra.minted();
    let then = async {
        world.astra.until(PATIENCE, |astra| astra.minted() > minted).await;
        then.await
    };
    let (reply, done) = tokio::join!(mount.send(world.request(Work::Mint)), then);
    (reply.ok(), done)
}

/// Starts the next process, and checks that nothing is lost.
async fn take_over(world: &mut KillWorld, answer: Option<Reply>) {
    if let Some(reply) = answer {
        world.keep_lease(Work::Mint, &reply);
    }
    world.astra.clear_faults();
    let node = world.start().await;
    world.ask_ok(&node, Work::Rollback).await;
    assert_eq!(world.check_nothing_lost(node).await, Left::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_waits_for_a_mint_and_refuses_a_new_one() {
    let (mut world, node) = mount_with_slow_mint(Some(1500)).await;
    let mount = &node.mount;
    let clean_up = async {
        // A second mint is delayed in storage until after the start of the cleanup.
        mount.invalidate("").await;
        world.gate.open();
        world.storage.delay(Duration::from_millis(400));
        let cleanup = async {
            let comes = || !world.gate.calls().is_empty();
            until("the second mint starts", comes).await;
            mount.cleanup().await.expect("Cleanup");
            world.storage.keys()
        };
        let (another, stored) = tokio::join!(mount.send(world.request(Work::Mint)), cleanup);
        world.storage.delay(Duration::ZERO);
        (another.expect("no answer to a request of a known instance"), stored)
    };
    let (reply, (another, stored)) = while_minting(&world, mount, clean_up).await;
    assert!(stored.iter().any(|key| key.starts_with("client/")), "Cleanup did not wait for the mint: {stored:?}");
    assert!(stored.iter().all(|key| !key.starts_with("wal/")), "Cleanup did not wait for the mint: {stored:?}");
    assert_eq!(reply.as_ref().map(Reply::http), Some(200));
    assert_eq!((another.http(), world.astra.minted()), (503, 1), "{}", another.error());
    world.stop(node).await;
    take_over(&mut world, reply).await;
}

/// Stops a process by `end` during a mint that never ends. The mint is cut short, and nothing is lost.
async fn assert_interrupted(end: impl AsyncFnOnce(&Mount, Host)) {
    let (mut world, Node { host, mount }) = mount_with_slow_mint(None).await;
    let (reply, ()) = while_minting(&world, &mount, end(&mount, host)).await;
    assert!(reply.is_none(), "a mint was answered that never finished");
    take_over(&mut world, reply).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_does_not_wait_forever_for_a_mint() {
    assert_interrupted(async |mount, host| {
        let started = Instant::now();
        mount.cleanup().await.expect("Cleanup");
        assert!(started.elapsed() < CLEANUP, "Cleanup took {:?}", started.elapsed());
        host.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_interrupts_a_mint_that_never_finishes() {
    assert_interrupted(async |_, host| host.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_interrupts_a_mint_that_never_finishes() {
    assert_interrupted(async |_, mut host| {
        host.plugin.signal(Signal::TERM);
        assert!(host.plugin.exit(PATIENCE / 2).await.success());
        host.plugin.assert_clean_exit().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_the_host_interrupts_a_mint_that_never_finishes() {
    assert_interrupted(async |_, host| {
        let mut plugin = host.hang_up();
        assert!(plugin.exit(PATIENCE / 2).await.success());
        plugin.assert_clean_exit().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_a_mint_that_is_nearly_finished() {
    let (mut world, node) = mount_with_slow_mint(Some(300)).await;
    let Node { host, mount } = node;
    let (reply, ()) = while_minting(&world, &mount, host.stop()).await;
    assert!(world.storage.keys().iter().all(|key| !key.starts_with("wal/")), "the shutdown did not wait for the mint");
    take_over(&mut world, reply).await;
}
