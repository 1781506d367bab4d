//! The page in a real browser: everything that it offers, by mouse and by keyboard, at every width
//! and in both schemes; and what a sandbox chooses is text.

mod looks;
mod made_up;
mod moved;
mod used;

use std::process::{Child, Output};

use interceptor_tests::browser::Browser;
use interceptor_tests::daemon::{Daemon, Guest};
use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::invitation;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const NEW: &str = "new.example.test";
const PAGE: &str = "--page=127.0.0.1:0";
const WIDE: (u32, u32) = (1280, 900);

/// Opens the page of a daemon, and waits until it is live.
#[track_caller]
fn opened(lab: &Lab, daemon: &Daemon<'_>, size: (u32, u32), colours: &str) -> Browser {
    let mut browser = Browser::start(lab.directory(), size, colours);
    open(&mut browser, &invitation(daemon));
    browser
}

#[track_caller]
fn open(browser: &mut Browser, url: &str) {
    let step = "
        await page.goto(args);
        await page.waitForURL((url) => url.pathname === '/');
        await page.getByRole('status').filter({ hasText: /^Live$/ }).waitFor();";
    browser.does(step, json!(url));
}

/// A daemon whose default policy is this file, with one sandbox.
fn daemon<'lab>(lab: &'lab Lab, policy: &std::path::Path) -> Daemon<'lab> {
    lab.unordered();
    let daemon = lab.daemon().at_origin(HOST).at_origin(NEW).option(PAGE).quiet_log();
    daemon.option("--policy").option(policy).start()
}

/// Starts curl, which prints the status.
fn curl(guest: &Guest<'_>, url: &str) -> Child {
    let mut command = guest.command("curl");
    command.args(["-sS", "--max-time", "170", "-o", "/dev/null", "-w", "%{http_code}", url]);
    command.spawn().expect("curl")
}

#[track_caller]
fn status(child: Child) -> String {
    let Output { stdout, .. } = child.wait_with_output().expect("curl");
    String::from_utf8_lossy(&stdout).into_owned()
}

/// A step that answers the question about a path with a button.
#[track_caller]
fn answers(browser: &mut Browser, path: &str, button: &str) {
    let step = "
        const card = page.locator('.question').filter({ hasText: args.path });
        await card.getByRole('timer').filter({ hasText: /^\\d+:\\d\\d left$/ }).waitFor();
        await card.getByRole('button', { name: args.button, exact: true }).click();
        await card.waitFor({ state: 'detached' });";
    browser.does(step, json!({ "path": path, "button": button }));
}

/// What is found by accessibility rules and is serious.
#[track_caller]
fn assert_accessible(browser: &mut Browser) {
    let step = "
        const fs = await import('node:fs');
        const source = fs.readFileSync('node_modules/axe-core/axe.min.js', 'utf8');
        const found = await page.evaluate(`${source}; axe.run(document)`);
        return found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))
          .map((one) => [one.id, one.nodes.map((node) => node.html)]);";
    assert_eq!(browser.does(step, Value::Null), json!([]));
}
