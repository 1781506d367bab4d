//! A session is its user's: the cookie is of no use to anybody else, and ends with the session.

use std::process::Command;

use interceptor_tests::daemon::until;
use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::{Said, Visitor, invitation, parts};

use super::{HOST, daemon, policy};

/// A user that is nobody else here.
const OTHER: u32 = 54_321;

/// What another user is told, by a program of its own.
#[track_caller]
pub(super) fn told(uid: u32, visitor: &Visitor, target: &str) -> Said {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}")).arg("--clear-groups");
    command.args(["curl", "-q", "-sS", "-i", "--max-time", "60", "-H", "connection: close"]);
    if let Some(cookie) = &visitor.cookie {
        command.args(["-H", &format!("cookie: {cookie}")]);
    }
    command.arg(format!("http://{}{target}", visitor.address)).env_clear().current_dir("/");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let output = command.output().expect("setpriv");
    assert!(output.status.success(), "{output:?}");
    Said::of(&output.stdout)
}

#[test]
fn p9_the_cookie_of_one_user_is_of_no_use_to_another() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let visitor = Visitor::of(&daemon);
        let policy = format!("/v1/sandboxes/{}/policy", guest.id);
        let is_refused = |visitor: &Visitor| {
            for target in ["/", "/v1/events", "/assets/app.js", &policy] {
                let said = told(OTHER, visitor, target);
                assert_eq!(said.status, 401, "{target}: {said:?}");
            }
        };
        is_refused(&visitor);
        assert_eq!(visitor.get(&policy).status, 200);
        // Whoever has an address with a token comes in, and the session is that user's.
        let (address, token) = parts(&invitation(&daemon));
        let said = told(OTHER, &Visitor::stranger(address), &token);
        assert_eq!(said.status, 200, "{said:?}");
        let cookie = said.headers["set-cookie"].split(';').next().map(str::to_owned);
        let theirs = Visitor { address, cookie };
        assert_eq!(told(OTHER, &theirs, &policy).status, 200);
        assert_eq!(theirs.get(&policy).status, 401);
        // It stays so in the next daemon.
        let next = lab.daemon().at_origin(HOST).quiet_log().control(daemon.control().to_owned());
        let next = next.option("--takeover").option(format!("--page={address}")).start();
        daemon.finish();
        is_refused(&visitor);
        assert_eq!(visitor.get(&policy).status, 200);
        assert_eq!(told(OTHER, &theirs, &policy).status, 200);
        assert_eq!(theirs.get(&policy).status, 401);
        next.finish();
    });
}

#[test]
fn p9_a_stream_ends_with_its_session() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let (first, last) = (Visitor::of(&daemon), Visitor::of(&daemon));
        let (ends, stays) = (first.follow(), last.follow());
        ends.wait_for("event: questions");
        stays.wait_for("event: questions");
        // As many as there can be: the oldest gives way.
        for _ in 0..31 {
            Visitor::of(&daemon);
        }
        assert_eq!((first.get("/").status, last.get("/").status), (401, 200));
        ends.wait_for_end();
        let beats = || stays.text().matches("\n:").count();
        let before = beats();
        assert!(until(|| beats() > before), "the other goes on: {}", stays.text());
        daemon.finish();
    });
}
