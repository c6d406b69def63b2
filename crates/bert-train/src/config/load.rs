//! Reads a configuration file and applies `--set` overrides.
//!
//! Owns the way from text to [`Config`] and the wording of what is wrong with it. Never fills in a missing key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{
    Config, check,
    schema::{SCHEMA, keys_of, nearest},
    task,
};

/// Reasons to refuse a configuration. All of them end the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each field is")]
pub enum ConfigError {
    #[error("cannot read the configuration `{path}`; give the path of a TOML file such as configs/demo.toml")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{origin}` is not a valid configuration: {message}")]
    Syntax { origin: String, message: String },
    #[error("`{origin}`: unknown section [{section}]{hint}")]
    UnknownSection { origin: String, section: String, hint: String },
    #[error("`{origin}`: unknown key `{section}.{key}`{hint}")]
    UnknownKey { origin: String, section: String, key: String, hint: String },
    #[error("`{origin}`: key `{section}.{key}` is missing; every key is written out, see configs/demo.toml")]
    MissingKey { origin: String, section: String, key: String },
    #[error("--set {argument}: {message}")]
    Override { argument: String, message: String },
    #[error("`{key}` is {got}, expected {expected}")]
    Value { key: &'static str, got: String, expected: String },
}

/// Reads `path`, applies the overrides (`section.key=value`) in order and checks every rule.
///
/// # Errors
///
/// [`ConfigError`] names the file, the key or the argument, what was expected and what was found.
pub fn load(path: &Path, overrides: &[String]) -> Result<Config, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    parse(&text, &path.display().to_string(), overrides)
}

/// [`load`] from text that is already in memory; `origin` names it in messages.
///
/// # Errors
///
/// As [`load`].
pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Config, ConfigError> {
    let mut table: Table = toml::from_str(text).map_err(|error| syntax(origin, &error))?;
    if task::is_classify(&table) {
        task::fill_unread(&mut table).map_err(|error| syntax(origin, &error))?;
        check_keys(&table, origin)?;
        Value::Table(table.clone()).try_into::<Config>().map_err(|error| syntax(origin, &error))?;
    } else {
        check_keys(&table, origin)?;
        // Read once as written, so that a wrong type is reported with its line.
        toml::from_str::<Config>(text).map_err(|error| syntax(origin, &error))?;
    }
    for argument in overrides {
        apply_override(&mut table, argument)?;
    }
    let config: Config = Value::Table(table).try_into().map_err(|error: toml::de::Error| {
        ConfigError::Override { argument: overrides.join(" --set "), message: error.message().to_string() }
    })?;
    check::check(&config)?;
    Ok(config)
}

fn syntax(origin: &str, error: &toml::de::Error) -> ConfigError {
    ConfigError::Syntax { origin: origin.to_string(), message: error.to_string().trim_end().to_string() }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn unknown_section(origin: &str, section: &str) -> ConfigError {
    let known = SCHEMA.iter().map(|(name, _)| *name);
    ConfigError::UnknownSection {
        origin: origin.to_string(),
        section: section.to_string(),
        hint: hint(nearest(section, known)),
    }
}

fn unknown_key(origin: &str, section: &str, key: &str, keys: &[&'static str]) -> ConfigError {
    ConfigError::UnknownKey {
        origin: origin.to_string(),
        section: section.to_string(),
        key: key.to_string(),
        hint: hint(nearest(key, keys.iter().copied())),
    }
}

/// Every section and key is known, and none is missing.
fn check_keys(table: &Table, origin: &str) -> Result<(), ConfigError> {
    let is_classify = task::is_classify(table);
    for (section, value) in table {
        let keys = keys_of(section, is_classify).ok_or_else(|| unknown_section(origin, section))?;
        let Value::Table(entries) = value else { return Err(unknown_section(origin, section)) };
        if let Some(key) = entries.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(unknown_key(origin, section, key, &keys));
        }
    }
    for (section, _) in SCHEMA {
        let keys = keys_of(section, is_classify).unwrap_or_default();
        let entries = table.get(*section).and_then(Value::as_table);
        let is_there = |key: &str| entries.is_some_and(|entries| entries.contains_key(key));
        if let Some(key) = keys.iter().find(|key| !is_there(key)) {
            return Err(ConfigError::MissingKey {
                origin: origin.to_string(),
                section: (*section).to_string(),
                key: (*key).to_string(),
            });
        }
    }
    Ok(())
}

/// Writes `section.key=value` (also `section.key.part=value`) into the table.
fn apply_override(table: &mut Table, argument: &str) -> Result<(), ConfigError> {
    let wrong = |message: String| ConfigError::Override { argument: argument.to_string(), message };
    let (path, value) =
        argument.split_once('=').ok_or_else(|| wrong("expected section.key=value".to_string()))?;
    let mut parts = path.trim().split('.');
    let (Some(section), Some(key)) = (parts.next(), parts.next()) else {
        return Err(wrong("expected section.key=value".to_string()));
    };
    let keys = keys_of(section, task::is_classify(table)).ok_or_else(|| unknown_section("--set", section))?;
    if !keys.contains(&key) {
        return Err(unknown_key("--set", section, key, &keys));
    }
    let mut slot = table
        .get_mut(section)
        .and_then(|section| section.get_mut(key))
        .ok_or_else(|| wrong(format!("`{section}.{key}` is missing from the file")))?;
    for part in parts {
        slot = slot.get_mut(part).ok_or_else(|| wrong(format!("`{section}.{key}` has no part `{part}`")))?;
    }
    *slot = parse_value(value.trim(), slot);
    Ok(())
}

/// A TOML value, or the bare text as a string (`--set run.name=first`); a whole number where a float stands.
fn parse_value(text: &str, replaced: &Value) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_string()));
    match (replaced, parsed) {
        (Value::Float(_), Value::Integer(number)) => Value::Float(number as f64),
        (Value::String(_), Value::Integer(_) | Value::Float(_) | Value::Boolean(_))
            if replaced.as_str() != Some("auto") =>
        {
            Value::String(text.to_string())
        }
        (_, parsed) => parsed,
    }
}
