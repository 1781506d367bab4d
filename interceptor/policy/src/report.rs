//! All that can be said of the text of a policy at once: what `interceptor check` prints.

use super::Policy;
use super::catalogue::Catalogue;
use super::compile;
use super::document::Document;
use super::lint;
use super::problem::{Problem, bound};
use super::read::{self, Reading};

/// The outcome of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// The compiled policy, where there is no error.
    pub policy: Option<Policy>,
    /// Every error, in the order of the document.
    pub errors: Vec<Problem>,
    /// Every warning, in the order of the document.
    pub warnings: Vec<Problem>,
}

/// Checks the text of a policy: what is wrong in single fields, what is wrong between them, and what is doubtful. Key sources
/// are not read.
pub fn check(text: &str, catalogue: &Catalogue) -> Report {
    report(read::read(text), catalogue)
}

/// [`check`] of a document that shares its outermost object with fields that are somebody else's: these are passed over.
pub fn check_besides(text: &str, besides: &'static [&'static str], catalogue: &Catalogue) -> Report {
    report(read::read_besides(text, besides), catalogue)
}

fn report(reading: Reading, catalogue: &Catalogue) -> Report {
    let Reading { document, mut errors, mut warnings } = reading;
    let (policy, found) = compile::compile(&document, catalogue);
    // A document that is no object at all has nothing further to say.
    if !errors.iter().any(|error| error.pointer.is_empty()) {
        errors.extend(found);
    }
    let policy = errors.is_empty().then_some(policy);
    if let Some(policy) = &policy {
        warnings.extend(lint::lint(&document, policy, catalogue));
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
