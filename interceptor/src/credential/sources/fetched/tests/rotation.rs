//! Refresh tokens that die with their use.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;

use super::super::super::{Living, measured};
use super::super::doubles::living;
use super::*;

/// An endpoint that gives another refresh token with each token, and kills the one before. Whoever
/// presents a dead one kills all (RFC 9700 section 4.14.2).
fn rotating() -> (Service, Arc<Mutex<Tokens>>) {
    let tokens =
        Arc::new(Mutex::new(Tokens { living: "canary-refresh-0".to_owned(), ..Tokens::default() }));
    let own = tokens.clone();
    let service = Service::start(move |heard| {
        let presented = value(heard, "refresh_token").unwrap();
        own.lock().unwrap().present(presented)
    });
    (service, tokens)
}

#[derive(Default)]
struct Tokens {
    living: String,
    dead: HashSet<String>,
    given: usize,
    is_compromised: bool,
}

impl Tokens {
    fn present(&mut self, presented: String) -> Says {
        self.is_compromised |= self.dead.contains(&presented);
        if self.is_compromised || presented != self.living {
            return Says::json("400 x", &json!({ "error": "invalid_grant" }));
        }
        self.given += 1;
        self.living = format!("canary-refresh-{}", self.given);
        self.dead.insert(presented);
        let answer = json!({ "access_token": format!("canary-access-{}", self.given),
            "refresh_token": self.living, "expires_in": 3600 });
        Says::json("200 OK", &answer)
    }
}

fn source(service: &Service, first: &str) -> Value {
    json!({ "oauth2": { "token_url": service.url("/token").to_string(), "grant": "refresh_token",
        "client_id": "me", "refresh_token": first } })
}

fn key(living: &Arc<Living>) -> String {
    living.read().unwrap().key.expose().to_owned()
}

#[test]
fn another_process_goes_on_with_the_token_that_the_last_one_was_given() {
    let (state, home) = home();
    let (service, tokens) = rotating();
    let source = source(&service, "canary-refresh-0");
    for number in 1..=3 {
        // Each has nothing but the policy and the state, as after a crash.
        assert_eq!(ask(&source, &home), Ok((format!("canary-access-{number}"), 3600)));
    }
    let heard = service.heard();
    let presented: Vec<_> =
        heard.iter().map(|heard| value(heard, "refresh_token").unwrap()).collect();
    assert_eq!(presented, ["canary-refresh-0", "canary-refresh-1", "canary-refresh-2"]);
    // It is the user's alone, and nothing else is left.
    let kept = state.path().join("refresh-tokens");
    assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o700);
    let mut contents = Vec::new();
    for entry in std::fs::read_dir(&kept).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600, "{}", path.display());
        assert!(!path.display().to_string().contains("canary"));
        contents.push(std::fs::read_to_string(path).unwrap());
    }
    contents.sort();
    assert_eq!(contents, ["", "canary-refresh-3"]);
    // Another one in the policy begins anew, and what is dead is told so.
    let told = ask(&self::source(&service, "canary-other"), &home).unwrap_err().to_string();
    assert_eq!(told, "answered 400 (invalid_grant)");
    assert!(!tokens.lock().unwrap().is_compromised);
}

#[test]
fn without_a_place_for_the_next_token_the_one_there_is_is_not_spent() {
    let (state, home) = home();
    let (service, _) = rotating();
    let source = source(&service, "canary-refresh-0");
    // Where the directory should be is a file.
    let place = state.path().join("refresh-tokens");
    std::fs::write(&place, "").unwrap();
    let told = ask(&source, &home).unwrap_err().to_string();
    assert!(
        told.starts_with("gives refresh tokens, which cannot be kept: Not a directory"),
        "{told}"
    );
    assert_eq!(service.heard().len(), 0);
    std::fs::remove_file(&place).unwrap();
    assert_eq!(ask(&source, &home), Ok(("canary-access-1".to_owned(), 3600)));
}

#[test]
fn those_who_use_one_token_at_a_time_never_present_a_dead_one() {
    let (_state, home) = home();
    let (service, tokens) = rotating();
    let source = source(&service, "canary-refresh-0");
    // As processes that know nothing of each other.
    std::thread::scope(|scope| {
        let asking: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ask(&source, &home).unwrap().0)).collect();
        let all: HashSet<String> = asking.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(all.len(), 8);
    });
    assert!(!tokens.lock().unwrap().is_compromised);
}

#[test]
fn two_sandboxes_with_one_source_share_one_token() {
    let (_state, home) = home();
    let (service, tokens) = rotating();
    let source = source(&service, "canary-refresh-0");
    let (one, other) = (living(&source, &home), living(&source, &home));
    assert!(Arc::ptr_eq(&one, &other));
    std::thread::scope(|scope| {
        let both = [&one, &other].into_iter().cycle().take(8);
        let keys: Vec<_> = both.map(|living| scope.spawn(|| key(living))).collect();
        for key in keys {
            assert_eq!(key.join().unwrap(), "canary-access-1");
        }
    });
    assert_eq!(service.heard().len(), 1);
    assert!(measured()["lab"].fetches >= 1);
    // Another household has another, and so has another secret.
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(!Arc::ptr_eq(&one, &living(&source, &Home::at(elsewhere.path()))));
    assert!(!Arc::ptr_eq(&one, &living(&self::source(&service, "canary-other"), &home)));
    assert!(!format!("{one:?}").contains("canary"));
    assert!(!tokens.lock().unwrap().is_compromised);
}

#[test]
fn a_token_that_stays_the_same_is_not_written_again() {
    let (state, home) = home();
    let service = Service::start(|heard| {
        let same = value(heard, "refresh_token").unwrap();
        Says::json("200 OK", &json!({ "access_token": "sk-token", "refresh_token": same }))
    });
    let source = source(&service, "canary-refresh");
    assert!(ask(&source, &home).is_ok() && ask(&source, &home).is_ok());
    let kept = std::fs::read_dir(state.path().join("refresh-tokens")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(kept, [0]);
}
