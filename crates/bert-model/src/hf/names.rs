//! Which stored tensor is which parameter.
//!
//! Older checkpoints spell names differently or carry tensors that are no parameters; everything else is an error
//! and reported by name.

/// What a stored name means for a `BertForPreTraining`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The parameter with this name.
    Parameter(String),
    /// The decoder's copy of a parameter it is tied to.
    TiedTo(&'static str),
    /// A buffer without information.
    Ignored,
}

pub(super) const WORD_TABLE: &str = "bert.embeddings.word_embeddings.weight";
pub(super) const DECODER_BIAS: &str = "cls.predictions.bias";

/// Translates a stored name.
pub(super) fn meaning(stored: &str) -> Meaning {
    match stored {
        "cls.predictions.decoder.weight" => return Meaning::TiedTo(WORD_TABLE),
        "cls.predictions.decoder.bias" => return Meaning::TiedTo(DECODER_BIAS),
        name if name.ends_with("embeddings.position_ids") => return Meaning::Ignored,
        name if name.ends_with("embeddings.token_type_ids") => return Meaning::Ignored,
        _ => {}
    }
    let has_prefix = ["bert.", "cls.", "classifier."].iter().any(|prefix| stored.starts_with(prefix));
    let name = if has_prefix { stored.to_owned() } else { format!("bert.{stored}") };
    let name = match name.strip_suffix("LayerNorm.gamma") {
        Some(start) => format!("{start}LayerNorm.weight"),
        None => name,
    };
    match name.strip_suffix("LayerNorm.beta") {
        Some(start) => Meaning::Parameter(format!("{start}LayerNorm.bias")),
        None => Meaning::Parameter(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_spellings_are_understood() {
        let parameter = |name: &str| Meaning::Parameter(name.to_owned());
        assert_eq!(meaning(WORD_TABLE), parameter(WORD_TABLE));
        assert_eq!(meaning("embeddings.word_embeddings.weight"), parameter(WORD_TABLE));
        assert_eq!(meaning("bert.embeddings.LayerNorm.gamma"), parameter("bert.embeddings.LayerNorm.weight"));
        assert_eq!(
            meaning("cls.predictions.transform.LayerNorm.beta"),
            parameter("cls.predictions.transform.LayerNorm.bias")
        );
        assert_eq!(meaning("cls.predictions.decoder.weight"), Meaning::TiedTo(WORD_TABLE));
        assert_eq!(meaning("bert.embeddings.position_ids"), Meaning::Ignored);
        assert_eq!(meaning("embeddings.position_ids"), Meaning::Ignored);
    }
}
