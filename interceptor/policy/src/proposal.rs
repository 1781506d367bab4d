//! What a person is asked to approve: the smallest edit of the policy that permits a request, and
//! one that is wider by the template of its path.

use super::Policy;
use super::overlay::Patch;
use super::permit::{Aim, Edit};
use super::recorded::Subject;

/// An edit that permits a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The edit.
    pub patch: Patch,
    /// Whether it permits similar paths too.
    pub wider: bool,
}

impl Policy {
    /// The edits that permit what the policy refuses for want of a rule, the smallest first. Each
    /// was judged: laid over the policy, it permits `subject`. None, if no such edit does.
    pub fn proposals(&self, subject: &Subject) -> Vec<Proposal> {
        let Some(written) = &self.written else { return Vec::new() };
        let document = written.document();
        let mut proposals: Vec<Proposal> = Vec::new();
        for wider in [false, true] {
            let edit = Edit::aimed(&document, &written.catalogue, subject, Aim::Answer { wider });
            let Some(patch) = edit.and_then(|edit| edit.operations(&document)) else { continue };
            let Ok(patch) = Patch::from_value(patch.into()) else { continue };
            let is_new = proposals.iter().all(|known| known.patch != patch);
            let permits =
                self.overlay(&patch).is_ok_and(|policy| subject.judge(&policy).is_allow());
            if is_new && permits {
                proposals.push(Proposal { patch, wider });
            }
        }
        proposals
    }

    /// The template of a path, by which similar requests are one question.
    pub fn path_template(path: &str) -> String {
        let path = super::path::CanonicalPath::parse(path);
        path.map(|path| super::learn::template::of(&path)).unwrap_or_default()
    }
}
