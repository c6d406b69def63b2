//! `bert fill-mask`: the best guesses for [MASK], in a text or in sentences that a run has never trained on.
//!
//! Owns choosing and printing; guessing is in [`crate::predict`].

use std::path::Path;

use bert_random::{Key, Purpose};
use bert_train::config::{self, Config};
use serde_json::{Value, json};

use crate::{
    checkpoint::newest_of,
    cli::FillMaskArguments,
    failure::ToolError,
    held_out,
    predict::{Guess, MASK, Predictor},
    table::{line, percent},
};

/// Runs the command.
///
/// # Errors
///
/// If the model cannot be loaded, a text holds no [MASK], or a run holds nothing out.
pub fn run(arguments: &FillMaskArguments) -> anyhow::Result<()> {
    match (&arguments.run, arguments.held_out) {
        (Some(run), Some(num_sentences)) => fill_held_out(run, num_sentences, arguments),
        (Some(run), None) => fill_texts(&newest_of(run)?.join("model"), arguments),
        (None, _) => match &arguments.model {
            Some(model) => fill_texts(model, arguments),
            None => Err(ToolError::Usage("expected --model or --run".to_string()).into()),
        },
    }
}

fn fill_texts(model: &Path, arguments: &FillMaskArguments) -> anyhow::Result<()> {
    let predictor = Predictor::load(model, &arguments.opening)?;
    for text in &arguments.text {
        let guesses = predictor.guesses(&predictor.encode(text)?, arguments.top)?;
        if arguments.json {
            let masks: Vec<Value> = guesses.iter().map(|guesses| as_json(guesses)).collect();
            line(json!({ "text": text, "masks": masks }).to_string());
            continue;
        }
        line(text);
        for (idx, guesses) in guesses.iter().enumerate() {
            line(format!("  {MASK} {}: {}", idx + 1, describe(guesses)));
        }
    }
    Ok(())
}

/// Masks one token in each of some held-out sentences; which ones depends on the seed of the run only.
fn fill_held_out(run: &Path, num_sentences: usize, arguments: &FillMaskArguments) -> anyhow::Result<()> {
    let config: Config = config::load(&run.join("config.toml"), &[])?;
    let opening = arguments.opening.with_lowercase(config.data.lowercase);
    let predictor = Predictor::load(&newest_of(run)?.join("model"), &opening)?;
    let special = predictor.tokenizer().special();
    let key = Key::new(config.run.seed, Purpose::EvalMask).with_name("fill-mask");
    for (idx, sentence) in
        held_out::sentences(&config, predictor.tokenizer(), num_sentences)?.iter().enumerate()
    {
        let masked_idx = masked_place(sentence, predictor.tokenizer().special_ids(), key.with(idx as u64));
        let mut ids = vec![special.cls];
        ids.extend(sentence);
        ids.push(special.sep);
        ids[masked_idx + 1] = special.mask;
        let guesses = predictor.guesses(&ids, arguments.top)?.pop().unwrap_or_default();
        let truth = predictor.token(sentence[masked_idx]);
        if arguments.json {
            let text = predictor.text(&ids[1..ids.len() - 1]);
            line(json!({ "text": text, "truth": truth, "masks": [as_json(&guesses)] }).to_string());
            continue;
        }
        line(predictor.text(&ids[1..ids.len() - 1]));
        line(format!("  {MASK} was `{truth}`: {}", describe(&guesses)));
    }
    Ok(())
}

/// A place of a sentence whose token is not special; the first place if there is none.
fn masked_place(sentence: &[u32], special_ids: &[u32], key: Key) -> usize {
    let places: Vec<usize> =
        (0..sentence.len()).filter(|idx| !special_ids.contains(&sentence[*idx])).collect();
    match places.len() as u64 {
        0 => 0,
        num_places => places[key.stream().below(num_places) as usize],
    }
}

fn describe(guesses: &[Guess]) -> String {
    let parts: Vec<String> =
        guesses.iter().map(|guess| format!("{} {}", guess.token, percent(guess.probability))).collect();
    parts.join(", ")
}

/// The guesses for one masked place, best first.
fn as_json(guesses: &[Guess]) -> Value {
    guesses.iter().map(|guess| json!({ "token": guess.token, "probability": guess.probability })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_are_never_masked() {
        let key = Key::new(7, Purpose::EvalMask);
        let places: Vec<usize> =
            (0..20).map(|idx| masked_place(&[1, 9, 1, 8, 1], &[1], key.with(idx))).collect();
        assert!(places.iter().all(|place| [1, 3].contains(place)), "{places:?}");
        assert!(places.contains(&1) && places.contains(&3));
    }
}
