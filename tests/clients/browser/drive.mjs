// A browser that does what a test tells it: each line of standard input is a step, the body of an
// async function that gets `page`, `context` and the step's arguments, and is answered by a line.

import readline from 'node:readline';
import { chromium } from 'playwright-core';

const PATIENCE = 60_000;
const [, , program, given] = process.argv;
const Step = Object.getPrototypeOf(async () => {}).constructor;

const browser = await chromium.launch({
  executablePath: program,
  // Tests run as root, where the browser's own sandbox does not.
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'],
  timeout: PATIENCE,
});
const context = await browser.newContext(JSON.parse(given));
context.setDefaultTimeout(PATIENCE);
const page = await context.newPage();
const problems = [];
page.on('pageerror', (error) => problems.push(`error: ${error.message}`));
page.on('dialog', (dialog) => {
  problems.push(`dialog: ${dialog.message()}`);
  dialog.dismiss();
});
page.on('console', (message) => {
  if (/Content Security Policy|Trusted ?Type/i.test(message.text())) problems.push(message.text());
});

process.stdout.write('"ready"\n');
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { code, args } = JSON.parse(line);
  let answer;
  try {
    const value = await new Step('page', 'context', 'args', code)(page, context, args);
    answer = { value: value ?? null, problems };
  } catch (error) {
    const seen = await page.evaluate(() => document.body.innerText).catch(() => '');
    answer = { error: `${error.stack}\n--- the page shows ---\n${seen.slice(0, 4000)}`, problems };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
