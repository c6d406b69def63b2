//! Sentences that a run has never trained on.
//!
//! Owns cutting them out of the held-out samples. Which documents are held out is decided by bert-data.

use std::sync::Arc;

use bert_data::{Corpus, PretrainData, Tokenizer, shards::Verify};
use bert_train::{config::Config, data_settings};

use crate::failure::ToolError;

/// Sentences of fewer tokens give a model little to go by.
const MIN_TOKENS: usize = 10;
/// Sentences of more tokens do not fit a line of a terminal.
const MAX_TOKENS: usize = 40;

/// Marks that end a sentence.
const ENDS: [&str; 6] = ["。", "！", "？", ".", "!", "?"];
/// Quotes and brackets that close after such a mark and belong to the sentence before.
const CLOSERS: [&str; 8] = ["”", "’", "」", "』", "）", "》", "\"", ")"];

/// Token ids of `num_sentences` sentences, each from another held-out sample.
///
/// # Errors
///
/// If the shards are not those of the run, or the run holds out too few sentences.
pub fn sentences(
    config: &Config,
    tokenizer: &Tokenizer,
    num_sentences: usize,
) -> anyhow::Result<Vec<Vec<u32>>> {
    let corpus = Corpus::open(&config.data.shards, Verify::Hashes)?;
    corpus.check_tokenizer(tokenizer)?;
    let data = PretrainData::new(Arc::new(corpus), data_settings::pretrain_data(config))?;
    let ids_of =
        |words: &[&str]| words.iter().filter_map(|word| tokenizer.token_to_id(word)).collect::<Vec<u32>>();
    let (ends, closers) = (ids_of(&ENDS), ids_of(&CLOSERS));
    let mut found: Vec<Vec<u32>> = Vec::new();
    // Samples from all over the held-out text, not neighbours of its beginning.
    let num_samples = data.num_eval_samples();
    let stride = (num_samples / num_sentences.max(1) as u64).max(1);
    let spread = (0..stride).flat_map(|start| (start..num_samples).step_by(stride as usize));
    for sample_idx in spread {
        if found.len() == num_sentences {
            break;
        }
        let row = data.eval_sample(sample_idx)?.original_ids;
        let sentence = first_sentence(&row, tokenizer, &ends, &closers);
        found.extend(sentence.filter(|sentence| !found.contains(sentence)));
    }
    if found.len() < num_sentences {
        let message = format!(
            "the run holds out only {} sentences of {MIN_TOKENS} to {MAX_TOKENS} tokens",
            found.len()
        );
        return Err(ToolError::Usage(message).into());
    }
    Ok(found)
}

/// The first whole sentence of a row: it begins after the end of another one.
fn first_sentence(row: &[u32], tokenizer: &Tokenizer, ends: &[u32], closers: &[u32]) -> Option<Vec<u32>> {
    let special_ids = tokenizer.special_ids();
    row.split(|id| special_ids.contains(id)).find_map(|segment| whole_sentence(segment, ends, closers))
}

fn whole_sentence(segment: &[u32], ends: &[u32], closers: &[u32]) -> Option<Vec<u32>> {
    let mut pieces = segment.split_inclusive(|id| ends.contains(id));
    pieces.next()?;
    pieces
        .map(|piece| &piece[piece.iter().take_while(|id| closers.contains(id)).count()..])
        .find(|piece| {
            (MIN_TOKENS..=MAX_TOKENS).contains(&piece.len())
                && piece.last().is_some_and(|id| ends.contains(id))
        })
        .map(<[u32]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_sentences_count_and_closing_quotes_stay_behind() {
        let (end, closer) = (90, 91);
        let whole: Vec<u32> = (1..=11).chain([end]).collect();
        let segment = [&[1, 2, 3, end, closer][..], &whole, &[4, 5]].concat();
        assert_eq!(whole_sentence(&segment, &[end], &[closer]), Some(whole.clone()));
        // The first piece may be the rest of a sentence, the last one the beginning of another.
        assert_eq!(whole_sentence(&whole, &[end], &[closer]), None);
    }
}
