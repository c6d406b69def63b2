//! Which stored tensor is which parameter.
//!
//! Older checkpoints spell names differently or carry tensors that are no parameters, and Google's original files
//! name variables by their scopes and keep linear weights as `[in, out]`. Everything else is an error and reported
//! by name.

/// What a stored name means for a `BertForPreTraining`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The parameter with this name.
    Parameter(String),
    /// The parameter with this name, stored with its dimensions in the opposite order.
    Transposed(String),
    /// The decoder's copy of a parameter it is tied to.
    TiedTo(&'static str),
    /// A buffer without information, or state of an optimizer.
    Ignored,
}

pub(crate) const WORD_TABLE: &str = "bert.embeddings.word_embeddings.weight";
pub(crate) const DECODER_BIAS: &str = "cls.predictions.bias";

/// Translates a stored name.
pub(super) fn meaning(stored: &str) -> Meaning {
    match stored {
        "cls.predictions.decoder.weight" => return Meaning::TiedTo(WORD_TABLE),
        "cls.predictions.decoder.bias" => return Meaning::TiedTo(DECODER_BIAS),
        name if name.ends_with("embeddings.position_ids") => return Meaning::Ignored,
        name if name.ends_with("embeddings.token_type_ids") => return Meaning::Ignored,
        name if name.contains('/') || name == "global_step" => return google_meaning(name),
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

/// Translates a variable of Google's original checkpoints (google-research/bert, `modeling.py` and
/// `run_pretraining.py`), such as `bert/encoder/layer_0/output/dense/kernel`.
fn google_meaning(stored: &str) -> Meaning {
    let stored = stored.strip_suffix(":0").unwrap_or(stored);
    if stored == "global_step" || stored.ends_with("/adam_m") || stored.ends_with("/adam_v") {
        return Meaning::Ignored;
    }
    match stored {
        "cls/predictions/output_bias" => return Meaning::Parameter(DECODER_BIAS.into()),
        // The one matrix that Google keeps as [out, in].
        "cls/seq_relationship/output_weights" => {
            return Meaning::Parameter("cls.seq_relationship.weight".into());
        }
        "cls/seq_relationship/output_bias" => return Meaning::Parameter("cls.seq_relationship.bias".into()),
        _ => {}
    }
    let (scope, variable) = stored.rsplit_once('/').unwrap_or(("", stored));
    let scope = scope.replace("/layer_", "/layer.").replace('/', ".");
    match variable {
        "kernel" => Meaning::Transposed(format!("{scope}.weight")),
        "gamma" => Meaning::Parameter(format!("{scope}.weight")),
        "beta" | "bias" => Meaning::Parameter(format!("{scope}.bias")),
        table if table.ends_with("_embeddings") => Meaning::Parameter(format!("{scope}.{table}.weight")),
        other => Meaning::Parameter(format!("{scope}.{other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str) -> Meaning {
        Meaning::Parameter(name.to_owned())
    }

    #[test]
    fn old_spellings_are_understood() {
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
        assert_eq!(meaning("classifier.weight"), parameter("classifier.weight"));
    }

    #[test]
    fn variables_of_google_are_understood() {
        assert_eq!(meaning("bert/embeddings/word_embeddings"), parameter(WORD_TABLE));
        assert_eq!(
            meaning("bert/encoder/layer_11/attention/self/query/kernel"),
            Meaning::Transposed("bert.encoder.layer.11.attention.self.query.weight".into())
        );
        assert_eq!(
            meaning("bert/encoder/layer_0/output/LayerNorm/gamma:0"),
            parameter("bert.encoder.layer.0.output.LayerNorm.weight")
        );
        assert_eq!(meaning("bert/pooler/dense/bias"), parameter("bert.pooler.dense.bias"));
        assert_eq!(meaning("cls/predictions/output_bias"), parameter(DECODER_BIAS));
        assert_eq!(meaning("cls/seq_relationship/output_weights"), parameter("cls.seq_relationship.weight"));
        assert_eq!(meaning("bert/pooler/dense/kernel/adam_m"), Meaning::Ignored);
        assert_eq!(meaning("global_step"), Meaning::Ignored);
    }
}
