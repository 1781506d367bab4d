//! Aider, as `agents.rs` drives the others. Its wheels are some hundred megabytes, so this runs by
//! `cargo xtask agents` alone.

use interceptor_tests::agents::{Driver, Start};
use interceptor_tests::clients::agents::aider;
use interceptor_tests::lab::Lab;

#[test]
fn aider_with_each_of_its_services() {
    Lab::test(|lab| {
        let driver = Driver::new(lab, "aider", aider(), ".aider/oauth-keys.env");
        let mut requests = Vec::new();
        for (variable, prefix, model) in [
            ("ANTHROPIC_API_KEY", "sk-ant-api03-", "anthropic/claude-sonnet-4-5"),
            ("OPENAI_API_KEY", "sk-", "openai/gpt-4.1"),
            ("OPENAI_API_KEY", "sk-", "openai/gpt-5-codex"),
            ("GEMINI_API_KEY", "AIzaSy", "gemini/gemini-2.5-flash"),
        ] {
            let command =
                ["aider", "--model", model, "--yes-always", "--no-git", "--message", "say hello"];
            requests.extend(driver.start(&Start { variable, prefix, command: &command }));
        }
        driver.used(&requests);
    });
}
