//! What people do with the page.

use std::fs;
use std::path::PathBuf;

use interceptor_tests::daemon::{Cgroup, Guest, until};
use interceptor_tests::lab::Lab;
use serde_json::{Value, json};

use super::{HOST, NEW, WIDE, answers, curl, daemon, opened, status};

/// A policy that asks, in a file with a comment.
fn asking(lab: &Lab) -> (PathBuf, String) {
    let text = format!(
        "{{\n  // what the agent needs\n  \"ask\": {{}},\n  \"network\": {{\n    \
         \"allow\": [\n      \
         \"{HOST}\", // its API\n    ],\n    \"deny\": [\"*\"]\n  }}\n}}\n"
    );
    let file = lab.directory().join("policy.jsonc");
    fs::write(&file, &text).unwrap();
    let reached = ["one", "two", "three", "four"].map(|name| format!("{name}.example.test"));
    let allow = [&reached[..], &[HOST.to_owned(), NEW.to_owned()]].concat();
    lab.permits(&json!({ "network": { "allow": allow } }).to_string());
    (file, text)
}

/// A sandbox under the default policy of the daemon.
fn guest<'lab>(daemon: &interceptor_tests::daemon::Daemon<'lab>, id: &str) -> Guest<'lab> {
    let cgroup = Cgroup::new();
    let body = json!({ "cgroup": cgroup.path(), "id": id }).to_string();
    let made = daemon.call("POST", "/v1/sandboxes", &body);
    assert_eq!(made.status, 201, "{made:?}");
    daemon.guest_of(cgroup, &made.json())
}

#[test]
fn whatever_waits_is_approved_once_for_an_hour_always_or_refused() {
    Lab::test(|lab| {
        let (file, text) = asking(lab);
        let daemon = daemon(lab, &file);
        let guest = guest(&daemon, "agent-7");
        let mut browser = opened(lab, &daemon, WIDE, "light");
        let ask = |path: &str| curl(&guest, &format!("https://{NEW}/{path}"));
        let held = ask("once");
        answers(&mut browser, "/once", "Approve");
        assert_eq!(status(held), "200");
        let held = ask("refused");
        answers(&mut browser, "/refused", "Refuse");
        assert_eq!(status(held), "403");
        let held = ask("always");
        answers(&mut browser, "/always", "Always");
        assert_eq!(status(held), "200");
        let line = format!("      \"{HOST}\", // its API\n      \"{NEW}:443\",\n");
        let expected = text.replace(&format!("      \"{HOST}\", // its API\n"), &line);
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(status(ask("from-now-on")), "200");
        let other = || curl(&guest, &format!("http://{NEW}/hour"));
        let held = other();
        answers(&mut browser, "/hour", "Approve for 1 hour");
        assert_eq!(status(held), "200");
        assert_eq!(status(other()), "200", "for an hour");
        let by_page = || {
            let records = daemon.records();
            let decided = records.iter().filter(|record| record.by.as_deref() == Some("page"));
            decided.filter_map(|record| record.reason.clone()).collect::<Vec<_>>()
        };
        let wanted = ["approved", "refused", "approved", "approved"];
        assert!(until(|| by_page() == wanted), "{:?}", by_page());
        // The lease is listed with the policy, and revoked there.
        let step = "
            await page.getByRole('button', { name: 'Policy of agent-7' }).click();
            await page.locator('.leases li').filter({ hasText: ':80' }).waitFor();
            await page.getByRole('button', { name: 'Revoke' }).click();
            await page.locator('.leases li').waitFor({ state: 'detached' });
            return await page.locator('#panel .policy').innerText();";
        let policy = browser.does(step, Value::Null);
        assert!(policy.as_str().unwrap().contains(&format!("\"{NEW}:443\"")), "{policy}");
        let leases = || daemon.call("GET", "/v1/sandboxes/agent-7/leases", "").json();
        assert!(until(|| leases() == json!([])), "{}", leases());
        daemon.finish();
    });
}

#[test]
fn a_refusal_tells_its_story_and_is_permitted_for_an_hour() {
    Lab::test(|lab| {
        lab.unordered();
        let mut policy =
            lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/models"] }]));
        policy["network"]["deny"] = json!(["*"]);
        lab.permits(&json!({ "network": { "allow": [NEW] } }).to_string());
        let daemon =
            lab.daemon().at_origin(HOST).at_origin(NEW).option(super::PAGE).quiet_log().start();
        let (one, other) = (daemon.guest(&policy), daemon.guest(&policy));
        let mut browser = opened(lab, &daemon, WIDE, "light");
        let refused = format!("https://{NEW}/refused");
        assert_eq!(status(curl(&one, &refused)), "403");
        assert_eq!(status(curl(&one, &format!("https://{HOST}/v1/models"))), "200");
        assert_eq!(status(curl(&other, &format!("https://{HOST}/v1/models"))), "200");
        // They appear as they happen, and are filtered by host, decision and sandbox.
        let step = "
            const rows = page.locator('#sizer [role=row]');
            const shows = async (wanted) => {
              await page.waitForFunction(([wanted]) => {
                const rows = [...document.querySelectorAll('#sizer [role=row] .what')];
                return JSON.stringify(rows.map((row) => row.innerText.split(' ')[1]).sort())
                  === JSON.stringify(wanted);
              }, [wanted]);
            };
            const [own, refused] = [args.own, args.refused];
            await page.getByLabel('Decision').selectOption('refused');
            await rows.filter({ hasText: refused }).first().waitFor();
            await page.getByLabel('Decision').selectOption('allowed');
            await shows([own, own]);
            await page.getByRole('combobox', { name: 'Sandbox' }).selectOption(args.other);
            await shows([own]);
            await page.getByLabel('Decision').selectOption('all');
            await page.getByLabel('Filter').fill('new.example');
            await page.getByText('No request passes the filter.').waitFor();
            await page.getByRole('combobox', { name: 'Sandbox' }).selectOption('all');
            await rows.filter({ hasText: refused }).first().waitFor();
            await rows.filter({ hasText: own }).waitFor({ state: 'detached' });
            await page.getByRole('button', { name: args.one }).first().click();
            await rows.filter({ hasText: refused }).first().waitFor();";
        let args = json!({
            "own": format!("{HOST}/v1/models"), "refused": format!("{NEW}/refused"),
            "one": &one.id, "other": &other.id,
        });
        browser.does(step, args);
        // Its story.
        let step = "
            await page.locator('#sizer [role=row]').filter({ hasText: '/refused' }).click();
            const panel = page.locator('#panel');
            await panel.getByText('nothing left the sandbox').waitFor();
            await panel.getByRole('button', { name: 'Copy', exact: true }).click();
            await panel.getByText('Copied.').waitFor();
            const copied = await page.evaluate(() => navigator.clipboard.readText());
            await panel.getByRole('button', { name: 'Permit for 1 hour', exact: true }).click();
            await panel.getByText('Permitted for 1 hour.').waitFor();
            return copied;";
        let copied = browser.does(step, Value::Null);
        assert_eq!(copied, json!(format!("add \"{NEW}:443\" to /network/allow")));
        assert_eq!(status(curl(&one, &refused)), "200");
        // That of a permitted one: by which rule, at which line, with which credential.
        let step = "
            await page.keyboard.press('Escape');
            await page.getByLabel('Filter').fill('/v1/models');
            await page.locator('#sizer [role=row]').filter({ hasText: '/v1/models' }).first()
              .click();
            const panel = page.locator('#panel');
            await panel.locator('.steps').getByText('lab', { exact: true }).waitFor();
            await panel.getByText(/^status 200, /).waitFor();
            const text = await panel.innerText();
            await panel.getByRole('button', { name: /^line \\d+ of the policy$/ }).click();
            const marked = panel.locator('.policy .marked');
            await marked.waitFor();
            return [text, await marked.innerText(), await page.content()];";
        let told = browser.does(step, Value::Null);
        let text = told[0].as_str().unwrap();
        for part in
            ["Looked up", "Judged", "GET /v1/models", "127.0.0.1", "allowed by the endpoint"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!told[2].as_str().unwrap().contains(lab.key()));
        daemon.finish();
    });
}

#[test]
fn pausing_holds_the_list_and_a_takeover_does_not_sign_out() {
    Lab::test(|lab| {
        let (file, _) = asking(lab);
        let daemon = daemon(lab, &file);
        let guest = guest(&daemon, "agent-7");
        let mut browser = opened(lab, &daemon, WIDE, "light");
        let get = |path: &str| status(curl(&guest, &format!("https://{HOST}/{path}")));
        assert_eq!(get("before"), "200");
        let step = "
            await page.locator('#sizer [role=row]').filter({ hasText: '/before' }).waitFor();
            await page.getByRole('button', { name: 'Pause', exact: true }).click();
            await page.getByRole('button', { name: 'Pause', pressed: true }).waitFor();";
        browser.does(step, Value::Null);
        assert_eq!(get("meanwhile"), "200");
        let step = "
            await page.getByText(/paused, 1 new one/).waitFor();
            const shown = await page.locator('#sizer').innerText();
            await page.getByRole('button', { name: 'Pause', exact: true }).click();
            await page.locator('#sizer [role=row]').filter({ hasText: '/meanwhile' }).waitFor();
            return shown;";
        let shown = browser.does(step, Value::Null);
        assert!(!shown.as_str().unwrap().contains("/meanwhile"), "{shown}");

        let address = daemon.call("GET", "/v1/page", "").json()["address"].clone();
        let address = address.as_str().unwrap().trim_start_matches("http://").trim_end_matches('/');
        let next = lab.daemon().at_origin(HOST).at_origin(NEW).quiet_log();
        let next = next.control(daemon.control().to_owned()).option("--takeover");
        let next =
            next.option("--policy").option(&file).option(format!("--page={address}")).start();
        daemon.finish();
        assert_eq!(get("after"), "200");
        let step = "
            await page.locator('#sizer [role=row]').filter({ hasText: '/after' }).waitFor();
            await page.getByRole('status').filter({ hasText: /^Live$/ }).waitFor();
            return await page.locator('#sizer [role=row]').count();";
        assert_eq!(browser.does(step, Value::Null), 3, "what was known stays, once");
        // When the daemon has gone, the page says so.
        next.finish();
        browser.does("await page.getByText('Connecting again…').waitFor();", Value::Null);
    });
}

#[test]
fn everything_is_done_by_keyboard_alone() {
    Lab::test(|lab| {
        let (file, _) = asking(lab);
        let daemon = daemon(lab, &file);
        let guest = guest(&daemon, "agent-7");
        let mut browser = opened(lab, &daemon, WIDE, "light");
        let ask = |path: &str| curl(&guest, &format!("https://{NEW}/{path}"));
        let (refused, approved) = (ask("no"), ask("yes"));
        // Tab goes to a control of this name in the card of this path.
        let tab = "
            const tabTo = async (path, name) => {
              for (let at = 0; at < 60; at += 1) {
                await page.keyboard.press('Tab');
                const found = await page.evaluate(([path, name]) => {
                  const element = document.activeElement;
                  const text = element.closest('.question')?.innerText ?? '';
                  return text.includes(path) && element.textContent === name;
                }, [path, name]);
                if (found) return;
              }
              throw new Error(`Tab does not lead to ${name} of ${path}`);
            };
            // A card that has just appeared or moved waits.
            const settled = () => page.waitForFunction(
              () => !document.activeElement.hasAttribute('aria-disabled'));";
        let step = format!(
            "{tab}
            const cards = page.locator('.question');
            await cards.nth(1).waitFor();
            await tabTo('/no', 'Refuse');
            await settled();
            await page.keyboard.press('Enter');
            await cards.filter({{ hasText: '/no' }}).waitFor({{ state: 'detached' }});
            await page.waitForFunction(() => document.activeElement.id === 'waiting-title');
            await tabTo('/yes', 'Approve');
            await settled();
            await page.keyboard.press('Space');
            await page.locator('#waiting').waitFor({{ state: 'hidden' }});
            await page.waitForFunction(() => document.activeElement.id === 'rows');"
        );
        browser.does(&step, Value::Null);
        assert_eq!((status(refused), status(approved)), ("403".to_owned(), "200".to_owned()));
        let step = "
            await page.locator('#sizer [role=row]').filter({ hasText: '/yes' }).waitFor();
            await page.keyboard.press('/');
            await page.waitForFunction(() => document.activeElement.id === 'filter');
            await page.keyboard.type('/no');
            const rows = page.locator('#sizer [role=row]');
            await rows.filter({ hasText: '/yes' }).waitFor({ state: 'detached' });
            for (let at = 0; at < 10; at += 1) {
              await page.keyboard.press('Tab');
              if (await page.evaluate(() => document.activeElement.id === 'rows')) break;
            }
            await page.keyboard.press('ArrowDown');
            await page.locator('[role=row][aria-selected=true]').waitFor();
            const active = await page.locator('#rows').getAttribute('aria-activedescendant');
            await page.keyboard.press('Enter');
            await page.waitForFunction(() => document.activeElement.id === 'panel-title');
            const title = await page.locator('#panel-title').innerText();
            await page.keyboard.press('Escape');
            await page.locator('#panel').waitFor({ state: 'hidden' });
            await page.waitForFunction(() => document.activeElement.id === 'rows');
            await page.keyboard.press('p');
            await page.getByRole('button', { name: 'Pause', pressed: true }).waitFor();
            return [active, title];";
        let told = browser.does(step, Value::Null);
        assert!(told[0].as_str().is_some_and(|id| id.starts_with("row-")), "{told}");
        assert_eq!(told[1], json!(format!("GET {NEW}/no")));
        daemon.finish();
    });
}
