//! How the page looks and behaves, whatever it shows.

use interceptor_tests::browser::Browser;
use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::invitation;
use serde_json::{Value, json};

use super::made_up::{beginning, record, stream, streams};
use super::{PAGE, WIDE, assert_accessible};

/// After how many milliseconds the browser asks for another stream.
pub(super) const SOON: u64 = 100;
pub(super) const NEVER: u64 = 1_000_000_000;

/// A question about a path.
pub(super) fn question(id: &str, path: &str) -> Value {
    json!({
        "id": id, "sandbox": "agent-7", "asked_at": "2030-01-31T12:04:00Z",
        "expires_at": "2030-01-31T12:09:00Z", "host": "api.example.test", "port": 443,
        "method": "GET", "path": path, "type": "host_denied", "message": "refused", "waiting": 1,
        "patches": [{
            "patch": [{ "op": "add", "path": "/network/allow/-", "value": "api.example.test:443" }],
            "wider": false,
        }],
    })
}

/// Opens a page that gets these streams.
#[track_caller]
pub(super) fn shown(
    lab: &Lab,
    url: &str,
    size: (u32, u32),
    colours: &str,
    all: &[String],
) -> Browser {
    let mut browser = Browser::start(lab.directory(), size, colours);
    streams(&mut browser, all);
    browser.does(
        "await page.goto(args); await page.locator('#sizer [role=row]').first().waitFor();",
        json!(url),
    );
    browser
}

#[test]
fn ten_thousand_rows_are_a_few_elements_and_each_is_reached() {
    Lab::test(|lab| {
        let daemon = lab.daemon().option(PAGE).quiet_log().start();
        let mut first = beginning(&[]);
        let all: Vec<Value> = (0..10_000).map(record).collect();
        first.extend(all.chunks(500).map(|part| ("records", json!(part))));
        let mut second = beginning(&[]);
        // What was known already, and three more.
        let again = [&all[9_000..], &[record(10_000), record(10_001), record(10_002)]].concat();
        second.push(("records", json!(again)));
        let all = [stream(&first, SOON), stream(&second, NEVER)];
        let mut browser = shown(lab, &invitation(&daemon), WIDE, "light", &all);
        let step = "
            await page.getByText(/^10,000 requests/).waitFor();
            const elements = () => page.locator('#sizer [role=row]').count();
            const seen = [await elements()];
            const rows = page.locator('#rows');
            const sees = async (top, text) => {
              await rows.evaluate((grid, top) => { grid.scrollTop = top; }, top);
              await page.locator('#sizer [role=row]').filter({ hasText: text }).first().waitFor();
              seen.push(await elements());
            };
            await sees(1e9, '/items/3');
            await sees(5000 * 34, '/items/50');
            await rows.focus();
            await page.keyboard.press('End');
            await page.keyboard.press('Home');
            await page.locator('[aria-rowindex=\"2\"][aria-selected=true]').waitFor();
            // After the second stream there are three more, and ten thousand are kept.
            globalThis.goOn();
            const newest = page.locator('#sizer [role=row]').filter({ hasText: '/items/10002' });
            await rows.evaluate((grid) => { grid.scrollTop = 0; });
            await newest.waitFor();
            seen.push(await elements());
            await rows.evaluate((grid) => { grid.scrollTop = 1e9; });
            await page.locator('#sizer [role=row]').filter({ hasText: /\\/items\\/3$/ })
              .or(page.locator('#sizer [role=row]').filter({ hasText: '/items/4' }))
              .first().waitFor();
            // A filter of one in ten thousand.
            await page.getByLabel('Filter').fill('/items/4711');
            await page.getByText(/^1 of 10,000 requests/).waitFor();
            await page.getByLabel('Filter').fill('');
            await page.getByLabel('Decision').selectOption('refused');
            await page.getByText(/^1,000 of 10,000 requests/).waitFor();
            return seen;";
        let seen = browser.does(step, Value::Null);
        let most = seen.as_array().unwrap().iter().filter_map(Value::as_u64).max().unwrap();
        assert!(most <= 80, "{seen}");
        daemon.finish();
    });
}

#[test]
fn p9_whatever_a_sandbox_chooses_is_text() {
    Lab::test(|lab| {
        let daemon = lab.daemon().option(PAGE).quiet_log().start();
        let hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>\u{202e}\u{2066}\
                       \u{1b}[2J\u{7}\n\u{200b}\u{e0041}\"'`${alert(3)}";
        let mut asked = question("q1", hostile);
        for field in ["host", "method", "message", "sandbox", "type"] {
            asked[field] = json!(hostile);
        }
        asked["patches"] = json!([
            { "patch": [{ "op": hostile, "path": hostile, "value": hostile }], "wider": false },
            {
                "patch": [{ "op": "add", "path": "/x/-", "value": { "x": hostile } }],
                "wider": true,
            },
        ]);
        let mut bad = record(1);
        for field in ["sandbox", "host", "method", "path", "filter", "type", "rule", "credential"] {
            bad[field] = json!(hostile);
        }
        let mut events = beginning(&[asked]);
        events[1].1["sandboxes"][0]["id"] = json!(hostile);
        events[1].1["sandboxes"][0]["command"] = json!(hostile);
        events.push((
            "records",
            json!([bad.clone(), { "kind": "dns", "sandbox": hostile,
            "host": hostile, "ts": hostile, "decision": "allow" }]),
        ));
        bad["kind"] = json!("connection");
        bad["protocol"] = json!(hostile);
        events.push(("records", json!([bad])));
        let news = json!({ "event": "asked", "question": question("q2", hostile) });
        events.push(("question", news));
        let all = [stream(&events, NEVER)];
        let mut browser = shown(lab, &invitation(&daemon), WIDE, "light", &all);
        let step = "
            await page.locator('.question').nth(1).waitFor();
            await page.locator('#sizer [role=row]').nth(1).click();
            await page.locator('#panel details').waitFor();
            await page.locator('#panel summary').click();
            await page.getByLabel('Filter').fill('onerror');
            await page.getByText(/^2 requests/).waitFor();
            const steers = String.raw`[\\p{Cc}\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f`
              + String.raw`\\u{e0000}-\\u{e007f}]`;
            return await page.evaluate((source) => {
              const steers = new RegExp(source, 'u');
              const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
              const wrong = [];
              while (walk.nextNode()) {
                const text = walk.currentNode.data;
                if (steers.test(text.replaceAll('\\n', '')) && text.trim()) wrong.push(text);
              }
              const made = document.querySelectorAll(
                'body script, body img:not(.mark), [onerror], [onclick], iframe, object, base');
              return { made: made.length, wrong, text: document.body.innerText };
            }, steers);";
        let seen = browser.does(step, Value::Null);
        assert_eq!((&seen["made"], &seen["wrong"]), (&json!(0), &json!([])));
        let text = seen["text"].as_str().unwrap();
        for part in ["<img src=x onerror=alert(1)>", "<script>", "\\u{202e}\\u{2066}\\u{1b}[2J"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        daemon.finish();
    });
}

#[test]
fn it_is_readable_at_every_width_in_both_schemes_and_by_everybody() {
    Lab::test(|lab| {
        let daemon = lab.daemon().option(PAGE).quiet_log().start();
        let long = format!("/{}", "averylongsegmentwithoutabreak".repeat(30));
        let mut events = beginning(&[question("q1", "/short"), question("q2", &long)]);
        let mut all: Vec<Value> = (0..200).map(record).collect();
        all[199]["path"] = json!(long);
        all[199]["decision"] = json!("deny");
        events.push(("records", json!(all)));
        let all = [stream(&events, NEVER)];
        let mut grounds = Vec::new();
        for colours in ["light", "dark"] {
            let mut browser = shown(lab, &invitation(&daemon), WIDE, colours, &all);
            for width in [1600, 1280, 800, 400] {
                let step = "
                    await page.setViewportSize({ width: args, height: 800 });
                    await page.locator('.question').nth(1).waitFor();
                    return await page.evaluate(() => [
                      document.scrollingElement.scrollWidth,
                      getComputedStyle(document.body).backgroundColor,
                      [...document.querySelectorAll('button, select, input')].filter((one) =>
                        one.offsetParent && one.getBoundingClientRect().right > innerWidth + 1)
                        .map((one) => one.outerHTML),
                    ]);";
                let seen = browser.does(step, json!(width));
                assert!(seen[0].as_u64().unwrap() <= width, "{width} {colours}: {seen}");
                assert_eq!(seen[2], json!([]), "{width} {colours}");
                grounds.push(seen[1].clone());
                assert_accessible(&mut browser);
                let step = "
                    await page.locator('#rows').focus();
                    await page.keyboard.press('Home');
                    await page.keyboard.press('Enter');
                    await page.locator('#panel').waitFor();
                    await page.locator('#panel details').waitFor();
                    await page.waitForFunction(() =>
                      document.querySelector('#panel .permit')?.textContent !== '');
                    return await page.evaluate(() => document.scrollingElement.scrollWidth);";
                let seen = browser.does(step, Value::Null);
                assert!(seen.as_u64().unwrap() <= width, "{width} {colours}: {seen}");
                assert_accessible(&mut browser);
                browser.does(
                    "await page.keyboard.press('Escape');
                     await page.locator('#panel').waitFor({ state: 'hidden' });",
                    Value::Null,
                );
            }
        }
        assert_ne!(grounds[0], grounds[4], "dark is another ground");
        daemon.finish();
    });
}
