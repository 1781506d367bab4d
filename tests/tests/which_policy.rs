//! Which policy `interceptor run` has, as people meet it: found, trusted, named, made of options,
//! or an agent's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

use interceptor_tests::lab::Lab;
use interceptor_tests::people::Account;
use interceptor_tests::sandbox::binary;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the user types in a directory below the home; `$I` is the program.
fn typed(account: &Account, directory: &str, line: &str) -> (Option<i32>, String, String) {
    let program = binary("interceptor");
    let script = "cd \"$2\" && I=$1 && eval \"$3\"; exit $?";
    let words = [program.to_str().unwrap(), directory, line];
    let Output { status, stdout, stderr } = account.run(script, &words);
    (status.code(), text(&stdout), text(&stderr))
}

/// The answer to a request for this host inside: `host_denied`, or another that comes later.
fn asks(host: &str) -> String {
    format!("sh -c 'curl -s -m 20 -o /dev/null -D - http://{host}/ | grep -i decision; true'")
}

#[test]
fn without_any_policy_it_says_what_to_type() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let (status, out, said) = typed(&account, ".", "sudo $I run -- echo ran");
        assert_eq!((status, out.as_str()), (Some(125), ""), "{said}");
        for part in [
            "there is no policy",
            "interceptor init",
            "--agent",
            "--allow",
            "--profile unrestricted",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let (status, _, said) = typed(&account, ".", "sudo $I run --policy agnet -- true");
        assert_eq!(status, Some(125), "{said}");
        assert!(said.contains("there is no policy \"agnet\" in"), "{said}");
    });
}

#[test]
fn a_found_policy_holds_only_while_its_content_is_trusted() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.directory(Path::new("project/deep"));
        let policy = account.file(
            "project/interceptor.jsonc",
            "{\n  // ours\n  \"network\": { \"allow\": [\"own.test\"] },\n}\n",
        );
        let run = format!("sudo $I run -- {}", asks("other.test"));
        let (status, _, said) = typed(&account, "project/deep", &run);
        assert_eq!(status, Some(125), "{said}");
        let trusts = format!("interceptor trust {}", policy.display());
        assert!(said.contains("is not trusted yet") && said.contains("hosts: own.test"), "{said}");
        assert!(said.contains(&trusts), "{said}");
        // Options do not make it hold either.
        let (status, ..) = typed(&account, "project", "sudo $I run --allow a.test -- true");
        assert_eq!(status, Some(125));

        let (status, out, said) = typed(&account, "project/deep", "$I trust");
        assert_eq!(status, Some(0), "{said}");
        assert!(out.contains("trusted: ") && out.contains("hosts: own.test"), "{out}");
        let list = account.home().join(".local/state/interceptor/trusted");
        let metadata = fs::metadata(&list).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (account.uid(), 0o600));
        let (status, out, said) = typed(&account, "project/deep", &run);
        assert_eq!(status, Some(0), "{said}");
        assert!(out.contains("deny; reason=host_denied"), "{out} {said}");
        // With sudo it is the same list.
        let (status, ..) = typed(&account, "project", "sudo $I trust interceptor.jsonc");
        assert_eq!(status, Some(0));
        assert_eq!(fs::read_to_string(&list).unwrap().lines().count(), 1);
        assert_eq!(fs::metadata(&list).unwrap().uid(), account.uid());

        // Inside, neither the list can be read nor a change be made to hold.
        let inside = format!(
            "cat {0} 2>/dev/null; {1} trust >/dev/null 2>&1 && echo TRUSTED; \
             echo x >> {0} 2>/dev/null; echo \"{{}}\" > ../interceptor.jsonc 2>/dev/null; true",
            list.display(),
            binary("interceptor").display()
        );
        let run_inside = format!("sudo $I run -- sh -c '{inside}'");
        let (status, out, said) = typed(&account, "project/deep", &run_inside);
        assert_eq!((status, out.as_str()), (Some(0), ""), "{said}");
        assert_eq!(fs::read_to_string(&list).unwrap().lines().count(), 1);

        account.file("project/interceptor.jsonc", "{ \"network\": { \"allow\": [\"*\"] } }");
        let (status, _, said) = typed(&account, "project/deep", &run);
        assert_eq!(status, Some(125), "{said}");
        assert!(said.contains("has changed since you trusted it"), "{said}");
        // One above the home is nobody's.
        fs::remove_file(&policy).unwrap();
        let above = account.home().parent().unwrap().join("interceptor.json");
        fs::write(&above, "{}").unwrap();
        let (status, _, said) = typed(&account, "project", "sudo $I run -- true");
        fs::remove_file(above).unwrap();
        assert_eq!(status, Some(125), "{said}");
        assert!(said.contains("there is no policy"), "{said}");
    });
}

#[test]
fn a_named_policy_and_options_are_joined() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account
            .file(".config/interceptor/policies/agent.json", r#"{ "network": { "deny": ["*"] } }"#);
        let reason = |options: &str, host: &str| {
            let line = format!("sudo $I run {options} -- {}", asks(host));
            let (status, out, said) = typed(&account, ".", &line);
            assert_eq!(status, Some(0), "{options}: {said}");
            out.trim().to_owned()
        };
        let denied = "x-interceptor-decision: deny; reason=host_denied";
        assert_eq!(reason("--policy agent", "own.test"), denied);
        // Permitted, and not there: nothing in this test resolves it.
        let open =
            reason("--policy agent --allow own.test --resolve own.test:127.0.0.1:1", "own.test");
        assert!(open.contains("reason=upstream_unreachable"), "{open}");
        assert_eq!(reason("--allow own.test", "other.test"), denied);
        assert_eq!(reason("--profile openai --deny own.test", "own.test"), denied);

        let line = "OPENAI_API_KEY=sk-CANARY123456789 sudo --preserve-env=OPENAI_API_KEY $I run \
                    --key openai -- printenv OPENAI_API_KEY";
        let (status, out, said) = typed(&account, ".", line);
        assert_eq!(status, Some(0), "{said}");
        assert!(out.starts_with("sk-proxy-managed-"), "{out}");
        for (line, says) in [
            ("sudo $I run --key opnai -- true", "did you mean `openai`?"),
            ("sudo $I run --key openai=sk-CANARY123 -- true", "a key is never an argument"),
            ("sudo $I run --profile opnai -- true", "did you mean `openai`?"),
            ("sudo $I run --agent claude -- true", "did you mean `claude-code`?"),
            ("sudo $I run --agent codex -- true", "set OPENAI_API_KEY"),
        ] {
            let (status, _, said) = typed(&account, ".", line);
            assert_eq!(status, Some(125), "{line}: {said}");
            assert!(said.contains(says) && !said.contains("CANARY"), "{line}: {said}");
        }
    });
}

#[test]
fn an_agent_has_a_policy_without_a_file_and_init_writes_one() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let keys = "export ANTHROPIC_API_KEY=sk-ant-CANARY12345; ";
        let inside = "sh -c 'printenv ANTHROPIC_API_KEY CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC; \
                      for path in v1/messages v1/organizations; do curl -s -o /dev/null -D - -X \
                      POST https://api.anthropic.com/$path | grep -i decision; done; true'";
        let resolve = "--resolve api.anthropic.com:127.0.0.1:1";
        let line = format!("{keys} sudo $I run --agent claude-code {resolve} -- {inside}");
        let (status, out, said) = typed(&account, ".", &line);
        assert_eq!(status, Some(0), "{said}");
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("sk-ant-api03-proxy-managed-"), "{out}");
        assert_eq!(lines[1], "1", "{out}");
        assert!(lines[2].contains("upstream_unreachable"), "{out}");
        assert!(lines[3].contains("endpoint_denied"), "{out}");

        account.directory(Path::new("project"));
        account
            .file("project/.git/config", "[remote \"origin\"]\n\turl = https://git.test/o/r.git\n");
        let line = format!("{keys} $I init claude-code");
        let (status, out, said) = typed(&account, "project", &line);
        assert_eq!(status, Some(0), "{said}");
        let file = account.home().join("project/interceptor.jsonc");
        assert!(out.contains("wrote ") && out.contains("sudo interceptor run"), "{out}");
        assert_eq!(fs::metadata(&file).unwrap().uid(), account.uid());
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.contains("// the git remote origin\n      \"git.test\""), "{written}");
        assert!(!written.contains("CANARY"), "{written}");
        let line = format!("{keys} sudo $I run {resolve} -- {inside}");
        let (status, out, said) = typed(&account, "project", &line);
        assert_eq!(status, Some(0), "{said}");
        assert!(out.contains("upstream_unreachable") && out.contains("endpoint_denied"), "{out}");
        let (status, _, said) = typed(&account, "project", &format!("{keys} $I init"));
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("--force"), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), written);
        let (status, ..) = typed(&account, "project", &format!("{keys} $I init --force"));
        assert_eq!(status, Some(0));
        let (status, _, said) =
            typed(&account, "project", &format!("{keys} $I check {}", file.display()));
        assert_eq!(status, Some(0), "{said}");
    });
}
