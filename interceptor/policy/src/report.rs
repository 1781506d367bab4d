//! Every finding about the text of a policy: the output of `interceptor check`.

use std::sync::Arc;

use super::Policy;
use super::catalogue::Catalogue;
use super::compile;
use super::document::Document;
use super::lint;
use super::problem::{Problem, bound};
use super::read::{self, ReadResult};
use super::written::Written;

/// The outcome of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// The compiled policy, if there is no error.
    pub policy: Option<Policy>,
    /// Every error, in the order of the document.
    pub errors: Vec<Problem>,
    /// Every warning, in the order of the document.
    pub warnings: Vec<Problem>,
}

/// Checks the text of a policy file: errors in single fields, contradictions between fields, and
/// lints. Does not read key sources.
pub fn check(text: &str, catalogue: &Catalogue) -> Report {
    report(text, read::read(text), catalogue, None)
}

/// As [`check`], for a document that shares its outermost object with another reader's fields,
/// which are skipped.
pub fn check_besides(
    text: &str,
    besides: &'static [&'static str],
    catalogue: &Catalogue,
) -> Report {
    report(text, read::read_besides(text, besides), catalogue, Some(besides))
}

/// `besides` is given for a document that is not a file.
fn report(
    text: &str,
    reading: ReadResult,
    catalogue: &Catalogue,
    besides: Option<&[&str]>,
) -> Report {
    let of_file = besides.is_none();
    let ReadResult { document, mut errors, mut warnings } = reading;
    let (policy, found) = compile::compile(&document, catalogue);
    // If the document is not an object, there is nothing further to check.
    if !errors.iter().any(|error| error.pointer.is_empty()) {
        errors.extend(found);
    }
    let policy = errors.is_empty().then(|| {
        let written = Written::new(text, besides.unwrap_or_default(), catalogue);
        Policy { written: written.map(Arc::new), ..policy }
    });
    if let Some(policy) = &policy {
        warnings.extend(lint::lint(&document, policy, catalogue));
        warnings.extend(of_file.then(|| lint::habits(&document, policy)).into_iter().flatten());
    }
    for problems in [&mut errors, &mut warnings] {
        problems.iter_mut().for_each(|problem| place(problem, &document));
        problems.sort_by_key(|problem| problem.line);
        bound(problems);
    }
    Report { policy, errors, warnings }
}

fn place(problem: &mut Problem, document: &Document) {
    if problem.line.is_none() {
        problem.line = document.line(&problem.pointer);
    }
}
