//! The README from its first command to a refusal, as a newcomer types it, on a host of its own:
//! an ordinary user, for whom the daemon makes the sandbox.

use interceptor_tests::host::{after, blocks, on_a_host};

/// A reader's program that makes a denied request at a base URL, so no name is looked up.
const AGENT: &str = r#"
import json, os, urllib.error, urllib.request
url = "http://169.254.169.254/proxy/openai/v1/files/f-1"
key = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
try: urllib.request.urlopen(urllib.request.Request(url, headers=key, method="DELETE"))
except urllib.error.HTTPError as refusal: print(refusal.read().decode())
print(os.environ["OPENAI_API_KEY"])
"#;

#[test]
fn the_commands_of_the_readme_show_its_refusal() {
    let install: Vec<String> = blocks("README.md", "Install")
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| !line.starts_with("cargo "))
        .map(str::to_owned)
        .collect();
    let policy = blocks("README.md", "One policy, one refusal").join("\n");
    assert!(install.len() >= 2 && policy.contains("interceptor run"), "{install:?} {policy}");
    let reader = format!(
        "export OPENAI_API_KEY=sk-CANARY-0123456789abcdef\ncat > my_agent.py \
         <<'AGENT'\n{AGENT}\nAGENT\necho '-- refusal'\n{policy}\necho '-- records'\ncat \
         audit.jsonl\necho '-- end'"
    );
    // No systemd runs here, so the daemon is started as `install daemon` says.
    let script = format!(
        "useradd -M reader; export USER=reader SUDO_USER=reader; {}\n\
         interceptor serve -q --json --config /etc/interceptor/config.json > said & daemon=$!\n\
         trap 'kill $daemon; wait $daemon' EXIT\n\
         while kill -0 $daemon && ! grep -q control said; do sleep 0.05; done; chown -R reader .\n\
         cat > reader.sh <<'READER'\n{reader}\nREADER\n\
         setpriv --reuid=reader --regid=reader --init-groups env HOME=$PWD sh -e reader.sh",
        install.join("\n")
    );
    let (success, text) = on_a_host(&script);
    assert!(success, "{text}");
    let refusal = after(&text, "refusal");
    let shown = [
        concat!(
            r#"{"error":{"type":"endpoint_denied","#,
            r#""message":"DELETE /v1/files/f-1 was refused by the endpoint"#,
        ),
        concat!(
            r#""host":"api.openai.com","method":"DELETE","path":"/v1/files/f-1","#,
            r#""credential":"openai","#,
        ),
        r#""rule":null,"request_id":""#,
        "sk-proxy-managed-",
    ];
    for part in shown {
        assert!(refusal.contains(part), "{part} in {text}");
    }
    assert!(after(&text, "records").contains(r#""type":"endpoint_denied""#), "{text}");
    assert!(!refusal.contains("CANARY") && !after(&text, "records").contains("CANARY"), "{text}");
}
