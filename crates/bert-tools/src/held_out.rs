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
    let marks = Marks::of(tokenizer);
    let mut found: Vec<Vec<u32>> = Vec::new();
    for row in rows(config, tokenizer, num_sentences)? {
        if found.len() == num_sentences {
            break;
        }
        let row = row?;
        let mut segments = row.split(|id| tokenizer.special_ids().contains(id));
        let sentence = segments.find_map(|segment| whole_sentences(segment, &marks).flatten().next());
        found.extend(sentence.filter(|sentence| !found.contains(sentence)));
    }
    enough(found, num_sentences, "sentences")
}

/// Token ids of `num_pairs` pairs of sentences that follow each other, each pair from another held-out sample.
///
/// # Errors
///
/// As [`sentences`].
pub fn adjacent_pairs(
    config: &Config,
    tokenizer: &Tokenizer,
    num_pairs: usize,
) -> anyhow::Result<Vec<[Vec<u32>; 2]>> {
    let marks = Marks::of(tokenizer);
    let mut found: Vec<[Vec<u32>; 2]> = Vec::new();
    for row in rows(config, tokenizer, num_pairs)? {
        if found.len() == num_pairs {
            break;
        }
        let row = row?;
        let mut segments = row.split(|id| tokenizer.special_ids().contains(id));
        let pair = segments.find_map(|segment| {
            let sentences: Vec<_> = whole_sentences(segment, &marks).collect();
            sentences.windows(2).find_map(|two| Some([two[0].clone()?, two[1].clone()?]))
        });
        found.extend(pair.filter(|pair| !found.contains(pair)));
    }
    enough(found, num_pairs, "pairs of adjacent sentences")
}

/// The held-out samples, those from all over the text first, not neighbours of its beginning.
fn rows(
    config: &Config,
    tokenizer: &Tokenizer,
    num_wanted: usize,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Vec<u32>>>> {
    let corpus = Corpus::open(&config.data.shards, Verify::Hashes)?;
    corpus.check_tokenizer(tokenizer)?;
    let data = PretrainData::new(Arc::new(corpus), data_settings::pretrain_data(config))?;
    let num_samples = data.num_eval_samples();
    let stride = (num_samples / num_wanted.max(1) as u64).max(1);
    let spread = (0..stride).flat_map(move |start| (start..num_samples).step_by(stride as usize));
    Ok(spread.map(move |sample_idx| Ok(data.eval_sample(sample_idx)?.original_ids)))
}

fn enough<T>(found: Vec<T>, num_wanted: usize, what: &str) -> anyhow::Result<Vec<T>> {
    if found.len() < num_wanted {
        let message =
            format!("the run holds out only {} {what} of {MIN_TOKENS} to {MAX_TOKENS} tokens", found.len());
        return Err(ToolError::Usage(message).into());
    }
    Ok(found)
}

/// Ids of the marks at the end of a sentence.
struct Marks {
    ends: Vec<u32>,
    closers: Vec<u32>,
}

impl Marks {
    fn of(tokenizer: &Tokenizer) -> Self {
        let ids_of = |words: &[&str]| {
            words.iter().filter_map(|word| tokenizer.token_to_id(word)).collect::<Vec<u32>>()
        };
        Self { ends: ids_of(&ENDS), closers: ids_of(&CLOSERS) }
    }
}

/// The pieces of a segment that begin after the end of another sentence; `None` for one that is not a whole sentence
/// of a fitting length, so that neighbours in the list are neighbours in the text.
fn whole_sentences(segment: &[u32], marks: &Marks) -> impl Iterator<Item = Option<Vec<u32>>> {
    let pieces = segment.split_inclusive(|id| marks.ends.contains(id)).skip(1);
    pieces.map(|piece| {
        let num_closers = piece.iter().take_while(|id| marks.closers.contains(id)).count();
        let piece = &piece[num_closers..];
        let is_whole = piece.last().is_some_and(|id| marks.ends.contains(id));
        (is_whole && (MIN_TOKENS..=MAX_TOKENS).contains(&piece.len())).then(|| piece.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_sentences_count_and_closing_quotes_stay_behind() {
        let marks = Marks { ends: vec![90], closers: vec![91] };
        let whole: Vec<u32> = (1..=11).chain([90]).collect();
        let of = |segment: &[u32]| whole_sentences(segment, &marks).collect::<Vec<_>>();
        let segment = [&[1, 2, 3, 90, 91][..], &whole, &[4, 5]].concat();
        assert_eq!(
            of(&segment),
            [Some(whole.clone()), None],
            "the last piece may be the beginning of a sentence"
        );
        assert!(of(&whole).is_empty(), "the first piece may be the rest of a sentence");
        // A short sentence between two others keeps them apart.
        let segment = [&[1, 90][..], &whole, &[7, 90], &whole].concat();
        assert_eq!(of(&segment), [Some(whole.clone()), None, Some(whole)]);
    }
}
