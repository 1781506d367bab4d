//! Clicks that come as the questions change.

use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::invitation;
use serde_json::{Value, json};

use super::looks::{NEVER, SOON, question, shown};
use super::made_up::{beginning, record, stream};
use super::{PAGE, WIDE};

#[test]
fn p9_a_click_does_not_answer_a_question_that_has_just_come_to_its_place() {
    Lab::test(|lab| {
        let daemon = lab.daemon().option(PAGE).quiet_log().start();
        let (one, other) = (question("q1", "/one"), question("q2", "/other"));
        let records = || ("records", json!([record(1)]));
        let before = [beginning(&[one, other.clone()]), vec![records()]].concat();
        let after = [beginning(&[other]), vec![records()]].concat();
        let all = [stream(&before, SOON), stream(&after, NEVER)];
        let mut browser = shown(lab, &invitation(&daemon), WIDE, "light", &all);
        // The page itself clicks, at the moment when the other one takes the place.
        let step = "
            const sent = [];
            await page.route('**/v1/approvals/**', (route) => {
              sent.push(new URL(route.request().url()).pathname);
              return route.fulfill({ status: 200, contentType: 'application/json', body: '{}' });
            });
            const cards = page.locator('.question');
            const approve = cards.getByRole('button', { name: 'Approve', exact: true });
            const ready = '.question button:not([aria-disabled])';
            await page.waitForFunction(
              (ready) => document.querySelectorAll(ready).length === 8, ready);
            await page.evaluate(() => {
              const list = document.getElementById('questions');
              new MutationObserver((_, observer) => {
                observer.disconnect();
                const button = list.querySelector('.question button');
                globalThis.clicked = button.getAttribute('aria-disabled');
                button.click();
              }).observe(list, { childList: true });
            });
            globalThis.goOn();
            await cards.filter({ hasText: '/one' }).waitFor({ state: 'detached' });
            const clicked = await page.evaluate(() => globalThis.clicked);
            await approve.click();
            await cards.waitFor({ state: 'detached' });
            return [clicked, sent];";
        let told = browser.does(step, Value::Null);
        assert_eq!(told, json!(["true", ["/v1/approvals/q2"]]));
        daemon.finish();
    });
}
