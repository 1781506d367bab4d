//! The secrets that a source presents, by the fields that name them.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{ExecSource, FetchedSource, KeySource};
use zeroize::Zeroizing;

use super::super::household::Household;
use super::super::problem::SourceProblem;
use super::super::programs::{Programs, Runs};

/// The longest secret in bytes: a private key, or a file with one.
pub(in super::super) const LONGEST: usize = 64 * 1024;

/// The secrets of one source.
pub(in super::super) struct Inputs {
    by_field: BTreeMap<&'static str, Input>,
    household: Arc<dyn Household>,
}

/// A secret, or where it is read each time that it is presented.
enum Input {
    Text(Zeroizing<Vec<u8>>),
    File(PathBuf),
    Program(ExecSource, Arc<dyn Programs>),
    Missing(String),
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_field.keys()).finish()
    }
}

impl PartialEq for Inputs {
    fn eq(&self, other: &Inputs) -> bool {
        self.by_field == other.by_field
    }
}

impl PartialEq for Input {
    fn eq(&self, other: &Input) -> bool {
        match (self, other) {
            (Input::Text(one), Input::Text(other)) => one == other,
            (Input::File(one), Input::File(other)) => one == other,
            (Input::Program(one, runs), Input::Program(other, others)) => {
                one == other && runs.whose() == others.whose()
            }
            (Input::Missing(one), Input::Missing(other)) => one == other,
            _ => false,
        }
    }
}

impl Inputs {
    /// Those of a source. Variables are read now, since they are the caller's; `located` finds the
    /// file that a path means.
    pub(in super::super) fn of(
        source: &FetchedSource,
        variable: &dyn Fn(&str) -> Option<std::ffi::OsString>,
        located: &dyn Fn(&std::path::Path) -> PathBuf,
        runs: &Runs,
        household: Arc<dyn Household>,
    ) -> Inputs {
        let input = |source: &KeySource| match source {
            KeySource::Literal(text) => {
                Input::Text(Zeroizing::new(text.expose().as_bytes().to_vec()))
            }
            KeySource::Env(name) => match variable(name) {
                Some(text) => Input::Text(Zeroizing::new(text.into_vec())),
                None => Input::Missing(format!("in the variable {name}, is not set")),
            },
            KeySource::File(path) => Input::File(located(path)),
            KeySource::Exec(source) => match runs {
                Ok(programs) => Input::Program(source.clone(), programs.clone()),
                Err(why) => Input::Missing(SourceProblem::Refused(why).to_string()),
            },
            KeySource::Fetched(_) | KeySource::Aws(_) => {
                Input::Missing("comes from a service".to_owned())
            }
        };
        let by_field = source.inputs().into_iter().map(|(field, from)| (field, input(from)));
        Inputs { by_field: by_field.collect(), household }
    }

    /// The secret of a field, without one trailing line end; an error if the source has no such
    /// field.
    pub(super) fn text(&self, field: &'static str) -> Result<Zeroizing<Vec<u8>>, SourceProblem> {
        let problem = |problem: String| SourceProblem::Input { field, problem };
        let text = match self.by_field.get(field) {
            None => return Err(problem("is missing".to_owned())),
            Some(Input::Missing(why)) => return Err(problem(why.clone())),
            Some(Input::Text(text)) => text.clone(),
            Some(Input::File(path)) => self.household.read(path, LONGEST).map_err(|error| {
                problem(format!("in the file {}, cannot be read: {error}", path.display()))
            })?,
            Some(Input::Program(source, programs)) => {
                let name = source.program();
                programs
                    .run(source)
                    .map_err(|why| problem(format!("from the program {name:?}, {why}")))?
            }
        };
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = line.strip_suffix(b"\r").filter(|_| line.len() < text.len()).unwrap_or(line);
        if line.is_empty() {
            return Err(problem("is empty".to_owned()));
        }
        if line.len() > LONGEST {
            return Err(problem(format!("has more than {LONGEST} bytes")));
        }
        Ok(Zeroizing::new(line.to_vec()))
    }

    /// Whether the source has a field.
    pub(super) fn has(&self, field: &str) -> bool {
        self.by_field.contains_key(field)
    }

    /// How long its programs may take.
    pub(super) fn timeout(&self) -> Duration {
        let programs = self.by_field.values().map(|input| match input {
            Input::Program(source, _) => source.timeout,
            _ => Duration::ZERO,
        });
        programs.sum()
    }
}
