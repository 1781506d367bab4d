//! The catalogue that a policy is compiled against: services, network profiles, and the groups of
//! hosts that profiles include. The built-in part is data (`data/services.json`,
//! `data/profiles.json`), embedded when the crate is built; the caller adds `profiles.d` and the
//! machine's package managers before compiling.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use super::credential::{Alphabet, CredentialHost, Form, PlaceholderShape};
use super::inject::InjectDocument;
use super::network_rule::NetworkRule;
use super::problem::Problem;
use super::strip::Keeps;

/// A service whose hosts, header form, variables and placeholder are known.
#[derive(Clone, Debug)]
pub struct Service {
    /// The name that a policy uses.
    pub name: String,
    /// Its display name.
    pub title: String,
    /// Its hosts.
    pub hosts: Vec<CredentialHost>,
    /// The hosts as written.
    pub host_texts: Vec<String>,
    /// The forms it accepts. The first is used if a client presented none.
    pub forms: Vec<Form>,
    /// The variables its clients read.
    pub env: Vec<String>,
    /// The variables that set its clients' base URL, each with the path its value ends in.
    pub base_url_env: BTreeMap<String, String>,
    /// The shape of key its clients accept.
    pub placeholder: PlaceholderShape,
    /// Headers and parameters its API needs, although their names authenticate elsewhere.
    pub keeps: Keeps,
    /// Requests that issue further credentials (`METHOD PATH`). A rule that permits one gets a
    /// warning.
    pub mints: Vec<String>,
    /// The source of each fact, by field.
    pub sources: BTreeMap<String, String>,
}

/// A named set of network rules.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One sentence for people.
    pub description: String,
    /// Allow rules. If the field is present, everything it does not list is refused, even if it is
    /// empty.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// Deny rules.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Groups whose hosts are allowed too, e.g. `registries`; a profile is a group as well.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The services and profiles that policies may name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    // Shared, since every policy keeps what it was compiled against.
    services: Arc<BTreeMap<String, Service>>,
    profiles: Arc<BTreeMap<String, Profile>>,
    groups: Arc<BTreeMap<String, Vec<String>>>,
}

/// Why catalogue data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is not JSON of the expected form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// An entry is invalid.
    #[error("{entry}: {message}")]
    Entry {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceEntry {
    name: String,
    title: String,
    hosts: Vec<String>,
    #[serde(default)]
    forms: Vec<InjectDocument>,
    /// Whether requests are signed, rather than carrying the key in a form.
    #[serde(default)]
    signed: bool,
    env: Vec<String>,
    #[serde(default)]
    base_url_env: BTreeMap<String, String>,
    placeholder: PlaceholderShape,
    #[serde(default)]
    keeps: Keeps,
    #[serde(default)]
    mints: Vec<String>,
    sources: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicesFile {
    #[serde(rename = "description")]
    _description: String,
    services: Vec<ServiceEntry>,
}

static BUILTIN: LazyLock<Catalogue> = LazyLock::new(|| {
    let services = include_str!("../data/services.json");
    let profiles = include_str!("../data/profiles.json");
    // Both files are embedded in this crate, and a test reads them.
    #[expect(clippy::expect_used, reason = "embedded data, read by a test")]
    Catalogue::from_json(services, profiles).expect("the embedded catalogue is valid")
});

impl Catalogue {
    /// The catalogue this crate carries. Its groups are empty until [`Catalogue::set_group`] fills
    /// them.
    pub fn builtin() -> Catalogue {
        BUILTIN.clone()
    }

    /// Reads a catalogue from the text of its two files.
    ///
    /// # Errors
    /// If a file or one of its entries is invalid.
    pub fn from_json(services: &str, profiles: &str) -> Result<Catalogue, CatalogueError> {
        let file: ServicesFile = serde_json::from_str(services)?;
        let mut catalogue = Catalogue {
            services: Arc::default(),
            profiles: Arc::default(),
            groups: Arc::default(),
        };
        let services = Arc::make_mut(&mut catalogue.services);
        for entry in file.services {
            let service = entry.check()?;
            services.insert(service.name.clone(), service);
        }
        catalogue.add_profiles(profiles)?;
        Ok(catalogue)
    }

    /// Adds profiles, replacing those of the same name: a JSON object from name to [`Profile`].
    ///
    /// # Errors
    /// If the text has another form, or one of its rules is not a network rule.
    pub fn add_profiles(&mut self, text: &str) -> Result<(), CatalogueError> {
        let profiles: BTreeMap<String, Profile> = serde_json::from_str(text)?;
        for (name, profile) in profiles {
            for rule in profile.allow.iter().flatten().chain(&profile.deny) {
                NetworkRule::parse(rule).map_err(|error| CatalogueError::Entry {
                    entry: format!("profile `{name}`, rule `{rule}`"),
                    message: error.to_string(),
                })?;
            }
            Arc::make_mut(&mut self.profiles).insert(name, profile);
        }
        Ok(())
    }

    /// Sets the hosts (network rules) of a group.
    pub fn set_group(&mut self, name: &str, rules: Vec<String>) {
        Arc::make_mut(&mut self.groups).insert(name.to_owned(), rules);
    }

    /// The services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One service.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    /// The profiles, by name.
    pub fn profiles(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.profiles.iter().map(|(name, profile)| (name.as_str(), profile))
    }

    /// One profile.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// The hosts of a group: those set by [`Catalogue::set_group`] plus the allow rules of the
    /// profile with that name, so that a file in `profiles.d` can extend a group. Empty if nothing
    /// defines it.
    pub fn group(&self, name: &str) -> Vec<String> {
        let set = self.groups.get(name).into_iter().flatten();
        let profile = self
            .profiles
            .get(name)
            .and_then(|profile| profile.allow.as_ref())
            .into_iter()
            .flatten();
        let mut rules: Vec<String> = set.chain(profile).cloned().collect();
        let mut seen = HashSet::new();
        rules.retain(|rule| seen.insert(rule.clone()));
        rules
    }

    /// The allow rules of a profile and its groups, and whether it refuses everything they do not
    /// list.
    pub fn allow_rules(&self, profile: &Profile) -> (Vec<String>, bool) {
        let closed = profile.allow.is_some() || !profile.groups.is_empty();
        let own = profile.allow.iter().flatten().cloned();
        let grouped = profile.groups.iter().flat_map(|group| self.group(group));
        (own.chain(grouped).collect(), closed)
    }
}

impl ServiceEntry {
    fn check(self) -> Result<Service, CatalogueError> {
        let wrong = |message: String| CatalogueError::Entry {
            entry: format!("service `{}`", self.name),
            message,
        };
        let mut hosts = Vec::new();
        for text in &self.hosts {
            let (rule, _) = NetworkRule::parse(text).map_err(|error| wrong(error.to_string()))?;
            hosts.push(CredentialHost { target: rule.target, port: rule.port });
        }
        let mut forms = Vec::new();
        for form in self.forms {
            forms.push(form.form().map_err(|(_, message)| CatalogueError::Entry {
                entry: format!("service `{}`", self.name),
                message,
            })?);
        }
        if self.signed {
            forms.push(Form::SigV4);
        }
        let bits = match self.placeholder.alphabet {
            // The secret that belongs to it has more.
            _ if self.signed => 128,
            // log2(62) is 5.954.
            Alphabet::Alphanumeric => 5954 * self.placeholder.random / 1000,
            Alphabet::LowerHex => 4 * self.placeholder.random,
            Alphabet::Base32 => 5 * self.placeholder.random,
        };
        let problem = if hosts.is_empty() || forms.is_empty() || self.env.is_empty() {
            Some("hosts, forms and env must not be empty")
        } else if bits < 128 {
            Some("the placeholder has fewer than 128 random bits")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(CatalogueError::Entry {
                entry: format!("service `{}`", self.name),
                message: problem.to_owned(),
            });
        }
        Ok(Service {
            name: self.name,
            title: self.title,
            hosts,
            host_texts: self.hosts,
            forms,
            env: self.env,
            base_url_env: self.base_url_env,
            placeholder: self.placeholder,
            keeps: self.keeps,
            mints: self.mints,
            sources: self.sources,
        })
    }
}

impl From<CatalogueError> for Problem {
    fn from(error: CatalogueError) -> Problem {
        Problem::new("", error.to_string())
    }
}
