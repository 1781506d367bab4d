//! The files of the page, which are part of the program.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::control::ApiProblem;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal: $kind:expr),+ $(,)?) => {
        /// Each file's name, type and content.
        const FILES: &[(&str, &str, &str)] =
            &[$(($name, $kind, include_str!(concat!("../../page/", $name)))),+];
    };
}

files! {
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "approvals.js": SCRIPT,
    "chart.js": SCRIPT,
    "dom.js": SCRIPT,
    "icon.svg": PICTURE,
    "page.css": STYLE,
    "panel.js": SCRIPT,
    "policy.js": SCRIPT,
    "requests.js": SCRIPT,
    "rows.css": STYLE,
    "sandboxes.js": SCRIPT,
    "store.js": SCRIPT,
    "story.js": SCRIPT,
    "stream.js": SCRIPT,
    "text.js": SCRIPT,
}

/// The page itself.
pub(super) async fn index() -> Html<&'static str> {
    Html(include_str!("../../page/index.html"))
}

/// A file.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => ([(header::CONTENT_TYPE, *kind)], *content).into_response(),
        None => {
            let title = "There is no such file";
            let detail = "the page names all that there are";
            ApiProblem::new(StatusCode::NOT_FOUND, "no_such_file", title, detail).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::FILES;

    #[test]
    fn every_file_of_the_page_is_part_of_the_program() {
        let own: BTreeSet<String> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let there = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let there: BTreeSet<String> = there
            .map(|name| name.into_string().unwrap())
            .filter(|name| !name.ends_with(".html"))
            .collect();
        assert_eq!(own, there);
    }

    #[test]
    fn nothing_of_the_page_comes_from_elsewhere_or_makes_markup_of_text() {
        let index = include_str!("../../page/index.html");
        let documents = ["index.html", "welcome.html", "stale.html", "locked.html"];
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let texts = documents.map(|name| fs::read_to_string(directory.join(name)).unwrap());
        let all = FILES.iter().map(|(_, _, content)| *content);
        for text in all.chain(texts.iter().map(String::as_str)) {
            let plain = text.replace("http://www.w3.org/2000/svg", "");
            for wrong in [
                "http:",
                "https:",
                "//cdn",
                "@import",
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "new Function",
                "javascript:",
                "srcdoc",
                " style=",
                "<style",
                " onclick",
                " onload",
                " onerror",
                "DOMParser",
            ] {
                assert!(!plain.contains(wrong), "{wrong}: {plain}");
            }
        }
        // A script stands in no document.
        assert!(index.matches("<script").count() == index.matches("></script>").count());
    }
}
