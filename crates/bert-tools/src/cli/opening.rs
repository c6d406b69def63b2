//! How a model folder is opened, the same for every command that computes with a model.

use bert_train::config::Backend;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

/// What the folder itself does not settle.
#[derive(Clone, Copy, Debug, Args)]
pub struct Opening {
    /// Lower-case and strip accents; unless given, what the folder's tokenizer_config.json says.
    #[arg(long, value_name = "true|false")]
    pub lowercase: Option<bool>,
    /// Who computes, as `device.backend` of bert-train.
    #[arg(long, value_parser = backend(), default_value = "auto")]
    pub backend: Backend,
}

impl Opening {
    /// The same with a setting of lower case in place of what was typed.
    pub fn with_lowercase(self, lowercase: bool) -> Self {
        Self { lowercase: Some(lowercase), ..self }
    }
}

fn backend() -> impl TypedValueParser<Value = Backend> {
    PossibleValuesParser::new(Backend::NAMES.map(|(name, _)| name)).try_map(|name: String| {
        let known = Backend::NAMES.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, backend)| backend).ok_or("no such backend")
    })
}
