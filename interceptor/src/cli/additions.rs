//! Adds network rules, profiles and keys to the text of a policy. Values that may hold a key are
//! copied as text and never parsed.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Where a key comes from.
#[derive(Clone, Debug)]
pub(super) enum KeyFrom {
    /// A variable.
    Variable(String),
    /// A file.
    File(String),
    /// What a policy would say.
    Written(Value),
}

/// What is added to a policy.
#[derive(Debug, Default)]
pub(super) struct Additions {
    /// Allow rules.
    pub(super) allow: Vec<String>,
    /// Deny rules.
    pub(super) deny: Vec<String>,
    /// Names of profiles.
    pub(super) profiles: Vec<String>,
    /// Credentials by name, with where their keys come from.
    pub(super) keys: Vec<(String, KeyFrom)>,
}

impl Additions {
    pub(super) fn is_empty(&self) -> bool {
        self.allow.is_empty()
            && self.deny.is_empty()
            && self.profiles.is_empty()
            && self.keys.is_empty()
    }
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// A valid document (strict JSON) with the additions.
///
/// # Errors
/// If it is not an object, or a field has the wrong type.
pub(super) fn joined(
    document: &str,
    additions: &Additions,
) -> Result<Zeroizing<String>, serde_json::Error> {
    let mut fields: Fields<'_> = serde_json::from_str(document)?;
    let network = network(&fields, additions)?;
    let profiles = profiles(&fields, additions)?;
    // Text that holds keys is built in memory that is wiped.
    let (simple, credentials) = credentials(&fields, additions)?;
    let own = [
        ("network", network.as_ref()),
        ("network_profile", profiles.as_ref()),
        ("credentials", simple.as_ref()),
        ("credentials_v2", credentials.as_ref()),
    ];
    let mut raw: Vec<(&str, &RawValue)> = Vec::new();
    for (name, text) in own {
        if let Some(text) = text {
            raw.push((name, serde_json::from_str(text)?));
        }
    }
    fields.extend(raw.into_iter().map(|(name, value)| (name.to_owned(), value)));
    written(&fields)
}

/// The fields as text, allocated up front: growing would leave copies of keys behind.
fn written(fields: &Fields<'_>) -> Result<Zeroizing<String>, serde_json::Error> {
    let length: usize =
        fields.iter().map(|(name, value)| 6 * name.len() + value.get().len() + 4).sum();
    let mut out = Zeroizing::new(String::with_capacity(length + 2));
    out.push('{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(name)?);
        out.push(':');
        out.push_str(value.get());
    }
    out.push('}');
    Ok(out)
}

fn network(
    fields: &Fields<'_>,
    additions: &Additions,
) -> Result<Option<Zeroizing<String>>, serde_json::Error> {
    if additions.allow.is_empty() && additions.deny.is_empty() {
        return Ok(None);
    }
    let mut network: BTreeMap<String, Vec<String>> = match fields.get("network") {
        Some(network) => serde_json::from_str(network.get())?,
        None => BTreeMap::new(),
    };
    for (name, rules) in [("allow", &additions.allow), ("deny", &additions.deny)] {
        if !rules.is_empty() {
            network.entry(name.to_owned()).or_default().extend(rules.iter().cloned());
        }
    }
    serde_json::to_string(&network).map(|text| Some(Zeroizing::new(text)))
}

fn profiles(
    fields: &Fields<'_>,
    additions: &Additions,
) -> Result<Option<Zeroizing<String>>, serde_json::Error> {
    if additions.profiles.is_empty() {
        return Ok(None);
    }
    let mut names = match fields.get("network_profile") {
        Some(named) => match serde_json::from_str(named.get())? {
            Value::Array(names) => names,
            name => vec![name],
        },
        None => Vec::new(),
    };
    for name in &additions.profiles {
        let name = Value::from(name.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(Some(Zeroizing::new(Value::from(names).to_string())))
}

/// `credentials` without those whose key is replaced, and `credentials_v2` with them.
type Credentials = (Option<Zeroizing<String>>, Option<Zeroizing<String>>);

fn credentials(
    fields: &Fields<'_>,
    additions: &Additions,
) -> Result<Credentials, serde_json::Error> {
    if additions.keys.is_empty() {
        return Ok((None, None));
    }
    let read = |name: &str| -> Result<Fields<'_>, serde_json::Error> {
        fields.get(name).map(|field| serde_json::from_str(field.get())).unwrap_or(Ok(Fields::new()))
    };
    let (mut simple, mut long) = (read("credentials")?, read("credentials_v2")?);
    // A later option for the same service wins.
    let keys: BTreeMap<&str, &KeyFrom> =
        additions.keys.iter().map(|(name, from)| (name.as_str(), from)).collect();
    let mut made: Vec<(String, Zeroizing<String>)> = Vec::new();
    for (name, from) in keys {
        simple.remove(name);
        let source = match from {
            KeyFrom::Variable(variable) => json!({ "env": variable }),
            KeyFrom::File(path) => json!({ "file": path }),
            KeyFrom::Written(source) => source.clone(),
        }
        .to_string();
        let mut credential: Fields<'_> = long
            .get(name)
            .map(|field| serde_json::from_str(field.get()))
            .unwrap_or(Ok(Fields::new()))?;
        credential.insert("key".to_owned(), serde_json::from_str(&source)?);
        made.push((name.to_owned(), written(&credential)?));
    }
    for (name, text) in &made {
        long.insert(name.clone(), serde_json::from_str(text)?);
    }
    let simple = fields.contains_key("credentials").then(|| written(&simple)).transpose()?;
    Ok((simple, Some(written(&long)?)))
}
