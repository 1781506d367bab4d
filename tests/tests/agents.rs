//! Real command-line agents on the policies that `interceptor init` writes for them: none is
//! refused what it needs, each sees a placeholder, and no rule is there without a reason. Aider is
//! in `agents_python.rs`.

use std::sync::atomic::Ordering;

use interceptor_tests::agents::{Driver, Start};
use interceptor_tests::clients::agents::from_npm;
use interceptor_tests::lab::Lab;

#[test]
fn claude_code() {
    Lab::test(|lab| {
        let driver = Driver::new(lab, "claude-code", from_npm(), ".claude/.credentials.json");
        let command = ["claude", "-p", "say hello"];
        driver.used(&driver.start(&Start {
            variable: "ANTHROPIC_API_KEY",
            prefix: "sk-ant-api03-",
            command: &command,
        }));
    });
}

#[test]
fn codex_over_its_websocket_and_without_one() {
    Lab::test(|lab| {
        let driver = Driver::new(lab, "codex", from_npm(), ".codex/auth.json");
        let command = ["codex", "exec", "say hello"];
        let start = Start { variable: "OPENAI_API_KEY", prefix: "sk-", command: &command };
        let mut requests = driver.start(&start);
        assert!(requests.iter().all(|(method, _)| method == "GET"), "{requests:?}");
        lab.shared().refuses_websockets.store(true, Ordering::SeqCst);
        // With these it asks for nothing that is refused.
        let command = [
            "codex",
            "exec",
            "--disable",
            "plugins",
            "--disable",
            "api_key_model_discovery",
            "-c",
            "analytics.enabled=false",
            "say hello",
        ];
        requests.extend(driver.start(&Start { command: &command, ..start }));
        driver.used(&requests);
    });
}

#[test]
fn gemini_cli() {
    Lab::test(|lab| {
        let driver = Driver::new(lab, "gemini-cli", from_npm(), ".gemini/oauth_creds.json");
        let command = ["gemini", "--skip-trust", "-m", "gemini-2.5-flash", "-p", "say hello"];
        driver.used(&driver.start(&Start {
            variable: "GEMINI_API_KEY",
            prefix: "AIzaSy",
            command: &command,
        }));
    });
}

#[test]
fn opencode_with_each_of_its_services() {
    Lab::test(|lab| {
        let driver = Driver::new(lab, "opencode", from_npm(), ".local/share/opencode/auth.json");
        let mut requests = Vec::new();
        for (variable, prefix, model) in [
            ("ANTHROPIC_API_KEY", "sk-ant-api03-", "anthropic/claude-sonnet-4-5"),
            ("OPENAI_API_KEY", "sk-", "openai/gpt-5.1"),
            ("GEMINI_API_KEY", "AIzaSy", "google/gemini-2.5-flash"),
        ] {
            let command = ["opencode", "run", "-m", model, "say hello"];
            requests.extend(driver.start(&Start { variable, prefix, command: &command }));
        }
        driver.used(&requests);
    });
}

#[test]
fn copilot_cli() {
    Lab::test(|lab| {
        let driver = Driver::new(lab, "copilot-cli", from_npm(), ".copilot/config.json");
        let command = ["copilot", "-p", "say hello", "--allow-all-tools"];
        let start = Start { variable: "GH_TOKEN", prefix: "github_pat_", command: &command };
        let mut requests = driver.start(&start);
        // Once more, with what the first start has left in the home.
        requests.extend(driver.start(&start));
        driver.used(&requests);
    });
}
