//! A real browser, headless, outside every sandbox: Chromium, driven by playwright-core, which does
//! what a test tells it step by step.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{NODE, browser_packages, text};

/// Debian's browser.
const CHROMIUM: &str = "/usr/bin/chromium";
/// How long its end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts one with a window of this size, which prefers these colours (`light` or `dark`). Its
    /// files are below `place`.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start(place: &Path, (width, height): (u32, u32), colours: &str) -> Browser {
        let packages = browser_packages();
        let place = place.join(format!("browser-{width}-{colours}"));
        fs::create_dir_all(place.join("tmp")).expect("own directory");
        fs::write(place.join("drive.mjs"), text("browser/drive.mjs")).expect("own directory");
        let modules = place.join("node_modules");
        if fs::symlink_metadata(&modules).is_err() {
            let target = packages.join("node_modules");
            std::os::unix::fs::symlink(target, &modules).expect("own directory");
        }
        let options = json!({
            "viewport": { "width": width, "height": height },
            "colorScheme": colours,
            "permissions": ["clipboard-read", "clipboard-write"],
        });
        let mut command = Command::new(NODE);
        command.arg("drive.mjs").arg(CHROMIUM).arg(options.to_string()).current_dir(&place);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", &place);
        command.env("TMPDIR", place.join("tmp"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("node");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut browser = Browser { child, stdin, stdout };
        assert_eq!(browser.line(), "ready", "the browser did not start");
        browser
    }

    /// Does a step: the body of an async function of `page`, `context` and `args`. Returns what it
    /// returns.
    ///
    /// # Panics
    /// If it fails, or the page broke a rule: an uncaught error, a dialog, a violated policy.
    #[track_caller]
    pub fn does(&mut self, code: &str, args: Value) -> Value {
        let step = json!({ "code": code, "args": args });
        let stdin = self.stdin.as_mut().expect("it is closed at the end");
        writeln!(stdin, "{step}").expect("the browser's driver reads");
        let answer = self.line();
        assert!(answer["error"].is_null(), "{code}\n{}", answer["error"].as_str().unwrap_or(""));
        assert_eq!(answer["problems"], json!([]), "{code}");
        answer["value"].clone()
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let late = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
