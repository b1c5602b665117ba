//! Checks of the connection to Astra: proxy, name service, TLS and clock.

use std::time::{Duration, SystemTime};

use vault_plugin_sdk::doctor::Check;

use super::failed;
use crate::api::{Answered, Probe};

/// A clock with at least this difference is a warning: leases and tokens with a short TTL would expire too early or too late.
const MUCH: Duration = Duration::from_secs(30);

/// Returns the checks, and whether Astra could be reached.
pub(super) async fn checks(probe: &Probe, url: &str) -> (Vec<Check>, bool) {
    let mut checks = vec![proxy(probe)];
    let (names, is_resolved) = name_service(probe).await;
    checks.push(names);
    if !is_resolved {
        checks.push(Check::skipped("connection", "the host name cannot be resolved"));
        return (checks, false);
    }
    let answered = match probe.ask_without_token().await {
        Ok(answered) => answered,
        Err(error) => {
            checks.push(failed("connection", &error));
            return (checks, false);
        }
    };
    checks.extend([connection(probe, url, &answered), clock(&answered, SystemTime::now())]);
    (checks, true)
}

fn proxy(probe: &Probe) -> Check {
    let found = probe.proxy().map_or_else(
        || "the calls use no proxy".to_owned(),
        |variable| {
            format!("the calls use the proxy in {variable} of this environment; the server's own environment counts")
        },
    );
    Check::ok("proxy", found)
}

/// Returns the check, and whether the plugin has an address to connect to.
async fn name_service(probe: &Probe) -> (Check, bool) {
    const NAME: &str = "name service";
    match probe.addresses().await {
        Ok(Some(addresses)) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            (Check::ok(NAME, addresses.join(", ")), true)
        }
        Ok(None) => {
            (Check::skipped(NAME, "the calls need no look-up: the url has an address, or there is a proxy"), true)
        }
        Err(error) => {
            (Check::failed(NAME, error, "check -url, and /etc/hosts and /etc/resolv.conf of this machine"), false)
        }
    }
}

/// Checks that Astra rejects a request without a token with 401.
fn connection(probe: &Probe, url: &str, answered: &Answered) -> Check {
    let found = format!("without a token, {url} answers {}, {}", answered.status, answered.body);
    if answered.status != 401 {
        return Check::warning("connection", found, "Astra should answer 401: check -url and the proxy");
    }
    if !probe.is_encrypted() {
        let advice = "use an https url: everybody on the way can read the tokens";
        return Check::warning("connection", format!("not encrypted; {found}"), advice);
    }
    Check::ok("connection", found)
}

fn clock(answered: &Answered, now: SystemTime) -> Check {
    let Some(theirs) = answered.date else { return Check::skipped("clock", "the answer has no time") };
    let (difference, word) = match now.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let found = format!("{} s {word} Astra", difference.as_secs());
    if difference < MUCH {
        Check::ok("clock", found)
    } else {
        Check::warning("clock", found, "synchronize the clock: tokens would expire in Astra too early or too late")
    }
}

#[cfg(test)]
mod tests {
    use vault_plugin_sdk::doctor::Verdict;

    use super::*;

    #[test]
    fn a_wrong_clock_is_a_warning() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (theirs, verdict) in [
            (Some(now), Verdict::Ok),
            (Some(now - Duration::from_secs(29)), Verdict::Ok),
            (Some(now + Duration::from_secs(29)), Verdict::Ok),
            (Some(now - MUCH), Verdict::Warning),
            (Some(now + MUCH), Verdict::Warning),
            (None, Verdict::Skipped),
        ] {
            let answered = Answered { status: 401, date: theirs, body: String::new() };
            assert_eq!(clock(&answered, now).verdict(), verdict, "{theirs:?}");
        }
    }
}
