//! The keyring as its users meet it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use interceptor_policy::CredentialId;

use super::fixture::{compile, credential, key, keyring, policy};
use super::*;

fn headers(pairs: &[(&str, String)]) -> HeaderMap {
    let pair = |(name, value): &(&str, String)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    headers.extend(pairs.iter().map(pair));
    headers
}

#[test]
fn the_environment_holds_placeholders_and_no_key() {
    let policy = policy();
    let keyring = keyring(&policy);
    let environment = keyring.environment();
    let names: HashSet<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "ANTHROPIC_API_KEY",
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "GEMINI_API_KEY",
        "BASIC_KEY",
        "FIRST_KEY",
        "SECOND_KEY",
    ] {
        assert!(names.contains(name), "{name}");
    }
    for (name, value) in &environment {
        assert!(fixture::KEYS.iter().all(|(_, key)| !value.contains(key)), "{name}");
        assert!(
            value.contains("proxy-managed")
                || value.starts_with("ghp_")
                || value.starts_with("AIza"),
            "{value}"
        );
    }
}

#[test]
fn c12_another_sandbox_has_other_placeholders() {
    let policy = policy();
    let (one, two) = (keyring(&policy), keyring(&policy));
    for (_, placeholder) in two.environment() {
        let presented =
            one.presented(&headers(&[("authorization", format!("Bearer {placeholder}"))]), None);
        assert!(presented.credentials.is_empty());
        assert!(!one.in_name(&format!("{placeholder}.example.com")));
    }
}

#[test]
fn c11_debug_shows_no_key() {
    let policy = policy();
    let keyring = keyring(&policy);
    let redactor = keyring.redactor().unwrap().unwrap();
    let shown = format!("{policy:?} {keyring:?} {redactor:?}");
    for (name, key) in fixture::KEYS {
        assert!(!shown.contains(key), "the key of {name} is shown");
    }
}

#[test]
fn c4_presented_says_which_placeholder_stands_in_which_form() {
    let policy = policy();
    let keyring = keyring(&policy);
    let (anthropic, ant) = credential(&policy, &keyring, "anthropic");
    let (github, gh) = credential(&policy, &keyring, "github");
    let (google, goog) = credential(&policy, &keyring, "google");
    let basic = |text: String| format!("Basic {}", STANDARD.encode(text));
    let odd_name = ant.to_ascii_lowercase();
    type Row<'a> = (&'a str, String, Option<String>, CredentialId, Option<usize>);
    let table: Vec<Row<'_>> = vec![
        ("x-api-key", ant.clone(), None, anthropic, Some(0)),
        ("authorization", format!("Bearer {ant}"), None, anthropic, Some(1)),
        ("authorization", format!("bearer {ant}"), None, anthropic, Some(1)),
        ("authorization", ant.clone(), None, anthropic, None),
        ("x-other", ant.clone(), None, anthropic, None),
        ("cookie", format!("a=1; b={ant}"), None, anthropic, None),
        ("user-agent", format!("agent/1.0 ({ant})"), None, anthropic, None),
        (&odd_name, "1".into(), None, anthropic, None),
        (
            "sec-websocket-protocol",
            format!("realtime, openai-insecure-api-key.{ant}"),
            None,
            anthropic,
            None,
        ),
        ("authorization", format!("Bearer {gh}"), None, github, Some(0)),
        ("authorization", format!("token {gh}"), None, github, Some(1)),
        ("authorization", format!("Token {gh}"), None, github, Some(1)),
        ("authorization", basic(format!("x-access-token:{gh}")), None, github, Some(2)),
        ("authorization", basic(format!("{gh}:x-oauth-basic")), None, github, Some(2)),
        (
            "authorization",
            basic(format!("me:{gh}")).replace("Basic", "bAsIc"),
            None,
            github,
            Some(2),
        ),
        (
            "authorization",
            basic(format!("me:{gh}")).trim_end_matches('=').to_owned(),
            None,
            github,
            Some(2),
        ),
        ("x-goog-api-key", goog.clone(), None, google, Some(0)),
        ("x-nothing", "1".into(), Some(format!("a=b&key={goog}")), google, Some(1)),
        (
            "x-nothing",
            "1".into(),
            Some(format!("%6bey={}", goog.replace("AIza", "%41Iza"))),
            google,
            Some(1),
        ),
        ("x-nothing", "1".into(), Some(format!("other={goog}")), google, None),
        ("x-goog-api-key", goog.clone(), Some(format!("key={goog}")), google, Some(0)),
    ];
    for (name, value, query, id, form) in table {
        let presented = keyring.presented(&headers(&[(name, value.clone())]), query.as_deref());
        assert_eq!(presented.credentials, [id], "{name}: {value} ? {query:?}");
        assert_eq!(presented.form(id), form, "{name}: {value} ? {query:?}");
    }
    let both =
        headers(&[("authorization", format!("Bearer {gh}")), ("x-api-key", ant), ("x-copy", gh)]);
    assert_eq!(keyring.presented(&both, None).credentials, [anthropic, github]);
    assert_eq!(
        keyring.presented(&headers(&[("accept", "*/*".into())]), Some("a=b")),
        Presented::default()
    );
}

#[test]
fn c1_a_placeholder_in_a_name_is_seen_in_any_case_and_over_several_labels() {
    let policy = policy();
    let keyring = keyring(&policy);
    let (_, placeholder) = credential(&policy, &keyring, "github");
    let random = &placeholder["ghp_".len()..];
    for name in [
        format!("{placeholder}.evil.test"),
        format!("{}.evil.test", random.to_ascii_lowercase()),
        format!("x{}y.evil.test", random.to_ascii_uppercase()),
        format!("{}.{}.evil.test", &random[..10], &random[10..]),
    ] {
        assert!(keyring.in_name(&name), "{name}");
    }
    for name in ["", "api.github.test", "proxy-managed.evil.test", &random[..20]] {
        assert!(!keyring.in_name(name), "{name}");
    }
}

#[test]
fn a_reload_keeps_placeholders_by_name_even_of_a_credential_that_comes_back() {
    let both = r#"{ "credentials": { "github": "ghp_real1", "google": "AIza-real" } }"#;
    let one = r#"{ "credentials": { "google": "AIza-other" } }"#;
    let first = keyring(&compile(both));
    let second = Keyring::load(&compile(one), Some(&first)).unwrap();
    let third = Keyring::load(&compile(both), Some(&second)).unwrap();
    let placeholder = |keyring: &Keyring, name: &str| {
        keyring
            .environment()
            .into_iter()
            .find(|(variable, _)| variable == name)
            .map(|(_, value)| value)
    };
    assert_eq!(placeholder(&second, "GITHUB_TOKEN"), None);
    assert!(placeholder(&first, "GITHUB_TOKEN").is_some());
    assert_eq!(placeholder(&first, "GITHUB_TOKEN"), placeholder(&third, "GITHUB_TOKEN"));
    assert_eq!(placeholder(&first, "GEMINI_API_KEY"), placeholder(&second, "GEMINI_API_KEY"));
}

#[test]
fn every_key_that_cannot_be_had_is_reported_and_none_is_shown() {
    let policy = compile(
        r#"{ "credentials_v2": {
            "github": { "key": "ghp" },
            "google": { "key": { "env": "INTERCEPTOR_TEST_NO_SUCH_VARIABLE" } },
            "anthropic": { "key": { "file": "/no/such/secret-file" } } } }"#,
    );
    let errors = Keyring::load(&policy, None).expect_err("no keys");
    let shown: Vec<String> = errors.iter().map(|error| format!("{error} {error:?}")).collect();
    assert_eq!(shown.len(), 3);
    assert!(
        shown.iter().any(|text| text.contains("`github`") && text.contains("is shorter than 4"))
    );
    assert!(
        shown.iter().any(|text| text.contains("INTERCEPTOR_TEST_NO_SUCH_VARIABLE, is not set"))
    );
    assert!(shown.iter().any(|text| text.contains("/no/such/secret-file, cannot be read")));
    assert!(shown.iter().all(|text| !text.contains("ghp")), "{shown:?}");
}

#[test]
fn a_key_that_its_placeholder_contains_is_refused() {
    let errors = Keyring::load(&compile(r#"{ "credentials": { "anthropic": "managed" } }"#), None);
    assert!(errors.expect_err("refused")[0].to_string().contains("its own placeholder"));
    // Of a proxy's credential, the password is searched for by itself.
    let proxy = r#"{ "upstream": { "proxy": "http://proxy.corp:3128",
                                   "proxy_auth": "someone:proxy-managed" } }"#;
    let errors = Keyring::load(&compile(proxy), None);
    assert!(errors.expect_err("refused")[0].to_string().contains("its own placeholder"));
}

fn file_policy(path: &Path) -> interceptor_policy::Policy {
    compile(&format!(
        r#"{{ "credentials_v2": {{ "github": {{ "key": {{ "file": "{}" }} }} }} }}"#,
        path.display()
    ))
}

#[test]
fn a_key_file_is_rotated_under_the_placeholder() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "ghp_before\n").unwrap();
    let policy = file_policy(&path);
    let keyring = keyring(&policy);
    let (id, placeholder) = credential(&policy, &keyring, "github");
    let held = keyring.key(&policy, id).unwrap();
    assert_eq!(held.expose(), "ghp_before");

    std::fs::write(&path, "ghp_after\n").unwrap();
    assert!(keyring.reload().is_empty());
    assert_eq!(keyring.key(&policy, id).unwrap().expose(), "ghp_after");
    assert_eq!(held.expose(), "ghp_before", "a request that holds the key before goes on with it");
    assert_eq!(credential(&policy, &keyring, "github").1, placeholder);
    let redactor = keyring.redactor().unwrap().unwrap();
    let clean = redactor.text(b"now ghp_after, once ghp_before").unwrap();
    assert_eq!(String::from_utf8(clean).unwrap(), format!("now {placeholder}, once {placeholder}"));

    for bad in ["", "two keys"] {
        std::fs::write(&path, bad).unwrap();
        let errors = keyring.reload();
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].to_string().contains(&path.display().to_string())
                && !errors[0].to_string().contains("two")
        );
        assert_eq!(
            keyring.key(&policy, id).unwrap().expose(),
            "ghp_after",
            "the key before stays in use"
        );
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(keyring.reload().len(), 1);
    assert_eq!(keyring.key(&policy, id).unwrap().expose(), "ghp_after");
}

#[test]
fn c3_no_request_can_carry_a_key_that_answers_are_not_searched_for_yet() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "sk-number-0-of-many").unwrap();
    let policy = file_policy(&path);
    let keyring = Arc::new(keyring(&policy));
    let (id, _) = credential(&policy, &keyring, "github");
    const LAST: &str = "sk-number-300-of-many";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=300 {
                std::fs::write(&path, format!("sk-number-{number}-of-many")).unwrap();
                assert!(keyring.reload().is_empty());
            }
        });
        let (_, mut watch) = KeyWatch::begin(&keyring, None).unwrap();
        let mut redactor = keyring.redactor().unwrap().unwrap();
        loop {
            let key = keyring.key(&policy, id).unwrap();
            redactor = watch.changed().unwrap().unwrap_or(redactor);
            assert!(redactor.text(key.expose().as_bytes()).is_some(), "{} is not", key.expose());
            if key.expose() == LAST {
                break;
            }
        }
    });
}

#[test]
fn c3_keys_of_all_keyrings_of_a_sandbox_are_searched_for_also_once_they_are_gone() {
    let of = |name: &str, key: &str| {
        compile(&format!(r#"{{ "credentials": {{ "{name}": "{key}" }} }}"#))
    };
    let first = Arc::new(keyring(&of("github", "ghp_the_first_key")));
    let (_, mut watch) = KeyWatch::begin(&first, None).unwrap();
    let mut second = Keyring::load(&of("google", "AIza-the-second-key"), Some(&first)).unwrap();
    second.join(&first);
    let redactor = watch.changed().unwrap().expect("another key");
    for key in ["ghp_the_first_key", "AIza-the-second-key"] {
        assert!(redactor.text(key.as_bytes()).is_some());
        assert!(first.may_hold(key.as_bytes()) && second.may_hold(key.as_bytes()));
    }
    // What is in force later knows what requests could carry before.
    let none = compile("{}");
    let mut third = Keyring::load(&none, Some(&second)).unwrap();
    third.join(&second);
    drop((first, second, watch));
    assert!(third.may_hold(b"ghp_the_first_key") && third.may_hold(b"AIza-the-second-key"));
    assert!(!third.may_hold(b"AIza-of-nobody") && !format!("{third:?}").contains("_key"));
    // Another sandbox does not.
    let other = Arc::new(keyring(&of("github", "ghp_of_another")));
    assert!(!other.may_hold(b"ghp_the_first_key"));
}

#[test]
fn c3_a_key_that_one_sandbox_reads_first_is_searched_for_in_answers_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let [path, other] = ["key", "other"].map(|name| directory.path().join(name));
    for path in [&path, &other] {
        std::fs::write(path, "ghp_before_any_change").unwrap();
    }
    let [first, second] = [&path, &path].map(|path| Arc::new(keyring(&file_policy(path))));
    let third = keyring(&file_policy(&other));
    let (_, mut watch) = KeyWatch::begin(&second, None).unwrap();
    std::fs::write(&path, "ghp_that_is_new").unwrap();
    assert!(first.reload().is_empty());
    assert!(watch.changed().unwrap().unwrap().text(b"ghp_that_is_new").is_some());
    assert!(second.may_hold(b"ghp_that_is_new") && !third.may_hold(b"ghp_that_is_new"));
    let policy = file_policy(&path);
    let (id, _) = credential(&policy, &second, "github");
    assert_eq!(second.key(&policy, id).unwrap().expose(), "ghp_before_any_change");
}

#[tokio::test]
async fn a_changed_key_file_is_noticed_without_being_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "ghp_before\n").unwrap();
    let policy = file_policy(&path);
    let keyring = Arc::new(keyring(&policy));
    let (id, _) = credential(&policy, &keyring, "github");
    // As an editor or a secret store does it: another file under the same name.
    std::fs::write(directory.path().join("new"), "ghp_afterx\n").unwrap();
    std::fs::rename(directory.path().join("new"), &path).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while keyring.key(&policy, id).unwrap().expose() != "ghp_afterx" {
        assert!(std::time::Instant::now() < deadline, "not noticed in half a minute");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        keyring.refresh().await;
    }
}

/// A file on a mount that hangs: a reader never returns.
#[tokio::test]
async fn a_key_file_that_hangs_holds_up_one_request_for_a_moment_and_no_other_key() {
    let directory = tempfile::tempdir().unwrap();
    let (hung, sound) = (directory.path().join("hung"), directory.path().join("sound"));
    std::fs::write(&hung, "ghp_before\n").unwrap();
    std::fs::write(&sound, "sk-before\n").unwrap();
    let policy = compile(&format!(
        r#"{{ "credentials_v2": {{ "github": {{ "key": {{ "file": "{}" }} }},
              "anthropic": {{ "key": {{ "file": "{}" }} }} }} }}"#,
        hung.display(),
        sound.display()
    ));
    let keyring = Arc::new(keyring(&policy));
    let ids = ["github", "anthropic"].map(|name| credential(&policy, &keyring, name).0);
    let keys = || ids.map(|id| keyring.key(&policy, id).unwrap().expose().to_owned());
    let (held, hold) = std::sync::mpsc::channel::<()>();
    let (now_held, is_held) = std::sync::mpsc::channel();
    let holder = keyring.clone();
    let holding = std::thread::spawn(move || {
        holder.while_read(ids[0], || {
            now_held.send(()).unwrap();
            let _ = hold.recv();
        });
    });
    is_held.recv().unwrap();
    std::fs::write(&hung, "ghp_after\n").unwrap();
    std::fs::write(&sound, "sk-after\n").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while keys() != ["ghp_before", "sk-after"] {
        assert!(std::time::Instant::now() < deadline, "{:?}", keys().map(|key| key.len()));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        keyring.refresh().await;
    }
    // Others are not held up either: what another process takes over, and rules that are made after
    // these.
    keyring.hand_over();
    Keyring::load(&policy, Some(&keyring)).unwrap();
    drop(held);
    holding.join().unwrap();
    while keys() != ["ghp_after", "sk-after"] {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        keyring.refresh().await;
    }
}

#[test]
fn a_redactor_is_made_once_and_finds_every_key() {
    let policy = policy();
    let keyring = keyring(&policy);
    let redactor = || keyring.redactor().unwrap().unwrap();
    assert!(Arc::ptr_eq(redactor().scanner(), redactor().scanner()));
    let (_, placeholder) = credential(&policy, &keyring, "google");
    let encoded = format!("?key={}", key("google").replace('/', "%2F").replace('+', "%2B"));
    let clean = redactor().text(encoded.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(clean).unwrap(), format!("?key={placeholder}"));
    assert!(redactor().text(key("github").as_bytes()).is_some());
}

/// Whether a text, given with every byte inverted, stands in the writable memory of this process.
fn in_memory(inverted: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut piece = vec![0; 1 << 20];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, end) =
            (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at + (inverted.len() as u64) <= end {
            let length = usize::try_from(end - at).unwrap().min(piece.len());
            // A mapping may be gone by now, or not be readable.
            let Ok(read) = memory.read_at(&mut piece[..length], at) else { break };
            let same =
                |part: &[u8]| part.iter().zip(inverted).all(|(byte, inverted)| *byte == !inverted);
            let found = piece[..read].windows(inverted.len()).any(same);
            // What was read is a copy, and must not be what the next search finds.
            piece[..read].fill(0);
            if found {
                return true;
            }
            if read < length || read <= inverted.len() {
                break;
            }
            at += (read - inverted.len() + 1) as u64;
        }
    }
    false
}

#[test]
fn c11_nothing_of_a_key_stays_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    // Written by another process, so that this one has never seen it; the part looked for is the
    // one behind what the search automaton keeps.
    let status = std::process::Command::new("sh")
        .args(["-c", "head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \\n' > \"$0\""])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    let inverted: Vec<u8> = {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(&path).unwrap();
        let byte = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            !byte[0]
        };
        (16..48).map(byte).collect()
    };
    assert!(!in_memory(&inverted), "the search finds what it looks for in itself");
    let policy = file_policy(&path);
    let keyring = keyring(&policy);
    let redactor = keyring.redactor().unwrap().unwrap();
    assert!(redactor.text(b"nothing").is_none());
    assert!(in_memory(&inverted), "a key in use is found");
    drop((keyring, redactor));
    assert!(!in_memory(&inverted), "the key is in memory after it was dropped");
}
