//! Answers that are open when their sandbox gets another key.

use std::path::PathBuf;

use interceptor_policy::redact::ranges::Range;

use super::*;
use crate::credential::fixture::compile;
use crate::credential::{KeyWatch, Keyring};

const FIRST: &str = "sk-first-0123456789-0123456789-0123456789";
/// As long as the first.
const SECOND: &str = "sk-second-abcdefghi-abcdefghi-abcdefghijk";

/// A keyring with a key in a file.
struct Keys {
    file: PathBuf,
    keyring: Arc<Keyring>,
    placeholder: String,
    _directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Keys {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, FIRST).unwrap();
        let policy = compile(
            &serde_json::json!({ "credentials_v2": { "lab": {
                "key": { "file": file }, "hosts": ["lab.test"], "env": "LAB_KEY" } } })
            .to_string(),
        );
        let keyring = Keyring::load(&policy, None).unwrap();
        let placeholder = keyring.environment()[0].1.clone();
        Keys { file, keyring: Arc::new(keyring), placeholder, _directory: directory }
    }

    fn rotate(&self, key: &str) {
        std::fs::write(&self.file, key).unwrap();
        assert!(self.keyring.reload().is_empty());
    }

    /// The answer as it is searched.
    fn answer<B>(&self, response: Response<B>, asked: Option<Range>) -> Response<RedactedBody<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (redactor, watch) = KeyWatch::begin(&self.keyring, None).unwrap();
        let redactor = redactor.unwrap();
        let asked = asked.map(|asked| asked.widened(redactor.reach()));
        let mut response = redactor.answer(response, asked).unwrap();
        response.body_mut().follow(watch);
        response
    }
}

/// What is left of a body, with its trailers.
fn rest(body: RedactedBody<Feed>) -> (String, HeaderMap) {
    let collected = block_on(body.collect()).unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
}

#[test]
fn c3_a_key_that_becomes_known_is_searched_for_in_the_rest_of_an_answer_and_its_trailers() {
    let longer = format!("{SECOND}-and-longer");
    for (second, coding, fixed) in [
        (SECOND, "identity", false),
        (SECOND, "identity", true),
        (SECOND, "gzip", false),
        (&longer, "identity", false),
        (&longer, "identity", true),
        (&longer, "zstd", false),
    ] {
        let keys = Keys::new();
        let text = format!("it was {FIRST}, it is {second}; and {second} ");
        let (sender, mut response) = fed(coding);
        if fixed {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        }
        let response = keys.answer(response, None);
        let known = response.headers().get(CONTENT_LENGTH).cloned();
        assert_eq!(known, fixed.then(|| HeaderValue::from(text.len())));
        let cut = text.find(second).unwrap() + 20;
        let pieces = encoded(coding, text.as_bytes(), &[cut]);
        let pieces = if coding == "identity" {
            vec![text.as_bytes()[..cut].to_vec(), text.as_bytes()[cut..].to_vec()]
        } else {
            pieces
        };
        sender.send(data(&pieces[0])).unwrap();
        let mut body = response.into_body();
        let first = block_on(body.frame()).unwrap().unwrap().into_data().unwrap();
        let held = format!("it was {}, it is ", keys.placeholder);
        assert_eq!(first, held, "{coding}");
        keys.rotate(second);
        pieces[1..].iter().for_each(|piece| sender.send(data(piece)).unwrap());
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-key"),
            HeaderValue::from_str(second).unwrap(),
        )]);
        sender.send(Frame::trailers(trailers)).unwrap();
        drop(sender);
        let (rest, trailers) = rest(body);
        let shown = if fixed {
            format!("{:-<1$.1$}", keys.placeholder, second.len())
        } else {
            keys.placeholder.clone()
        };
        assert_eq!(rest, format!("{shown}; and {shown} "), "{coding} {fixed}");
        assert!(!trailers["x-key"].to_str().unwrap().contains("second"));
        if fixed {
            assert_eq!(first.len() + rest.len(), text.len());
        }
    }
}

#[test]
fn an_answer_ends_that_cannot_be_searched_for_the_new_key() {
    let long = "sk-long-".repeat(40);
    for (before, second, asked) in [
        // Its margins are narrower than the new key.
        ("0123456789", &long[..], Some("bytes=0-9")),
        // The new key may have begun with what has passed.
        ("{\"a\":1}", "sk-\"unusual\"-0123456789", None),
    ] {
        let keys = Keys::new();
        let asked = asked.map(|asked: &str| Range::parse(asked.as_bytes()).unwrap());
        let (sender, mut response) = fed("identity");
        if asked.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = HeaderValue::from_static("bytes 0-4999/100000");
            response.headers_mut().insert(CONTENT_RANGE, range);
        }
        let mut body = keys.answer(response, asked).into_body();
        sender.send(data(before.as_bytes())).unwrap();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while Pin::new(&mut body).poll_frame(&mut context).is_ready() {}
        keys.rotate(second);
        sender.send(data(b" and more ")).unwrap();
        let ended = block_on(body.frame()).unwrap().unwrap_err();
        assert!(matches!(ended, BodyError::Late(_)), "{ended:?}");
        assert!(block_on(body.frame()).is_none());
    }
}
