//! Nobody hands out more than he holds: every pair of what a caller holds and what it hands out.

use moltbot_protocol::{Scope, Scopes};
use moltbot_tests::{Client, Connect, Daemon, Device, Version};
use serde_json::{Value, json};

/// What callers hold. All can answer pairing requests.
const CALLERS: [&[Scope]; 6] = [
    &[Scope::Pairing],
    &[Scope::Pairing, Scope::Read],
    &[Scope::Pairing, Scope::Write],
    &[Scope::Pairing, Scope::Approvals],
    &[Scope::Pairing, Scope::Write, Scope::Approvals],
    &[Scope::Admin],
];

/// What devices ask for.
const ASKED: [&[Scope]; 7] = [
    &[Scope::Read],
    &[Scope::Write],
    &[Scope::Approvals],
    &[Scope::Pairing],
    &[Scope::Admin],
    &[Scope::Read, Scope::Pairing],
    &[Scope::Write, Scope::Approvals, Scope::Pairing],
];

#[tokio::test]
async fn a_grant_is_within_the_callers_scopes_for_every_pair() {
    let daemon = Daemon::start().await;
    let mut owner = daemon.operator().await;
    for held in CALLERS {
        let mut caller = daemon.connect(Connect::operator().scopes(&names(held))).await;
        for asked in ASKED {
            let may = allows_all(&Scopes::of(held), &Scopes::of(asked));
            let what = format!("{held:?} grants {asked:?}");

            // Approving what a device asks for.
            let device = Device::new();
            let connect = Connect::operator().scopes(&names(asked)).device(&device, Version::V2);
            let request = ask(&daemon, connect.clone().remote()).await;
            let params = json!({ "requestId": request });
            let approved = caller.call("device.pair.approve", params.clone()).await;
            assert_eq!(approved.is_ok(), may, "approve: {what}: {approved:?}");

            // Issuing a token with other scopes than the device has.
            if !may {
                owner.call("device.pair.approve", params).await.unwrap();
            }
            let params = json!({
                "deviceId": device.id(), "role": "operator", "scopes": names(asked),
            });
            let rotated = caller.call("device.token.rotate", params).await;
            assert_eq!(rotated.is_ok(), may, "rotate: {what}: {rotated:?}");
        }
    }
}

/// Says it scope by scope, not with the comparison of sets that the daemon uses.
fn allows_all(held: &Scopes, asked: &Scopes) -> bool {
    Scope::ALL.into_iter().all(|scope| !asked.holds(scope) || held.holds(scope))
}

fn names(scopes: &[Scope]) -> Vec<&'static str> {
    scopes.iter().map(|scope| scope.name()).collect()
}

async fn ask(daemon: &Daemon, connect: Connect) -> String {
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    let error: Value = refusal.error.unwrap();
    error["details"]["requestId"].as_str().unwrap().to_owned()
}
