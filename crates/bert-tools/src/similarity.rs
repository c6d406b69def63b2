//! `bert similarity`: the cosine of two sentence vectors, for two texts, a file of pairs, or held-out sentences.
//!
//! Owns pairs and their printing. Vectors are the business of [`crate::sentences`].

use anyhow::Context;
use bert_train::config::{self, Config};
use serde_json::json;

use crate::{
    cli::SimilarityArguments,
    failure::ToolError,
    held_out,
    sentences::{SentenceEncoder, TextCounts, cosine},
    table::{line, warn},
    text_input::{LineForm, TextInput},
};

/// Characters of a text that are printed beside its cosine.
const SHOWN_CHARS: usize = 50;

/// Runs the command.
///
/// # Errors
///
/// If the model cannot be loaded, a line is no pair, or the run holds out too few sentences.
pub fn run(arguments: &SimilarityArguments) -> anyhow::Result<()> {
    if let Some(num_pairs) = arguments.held_out {
        return compare_poolings(num_pairs, arguments);
    }
    let mut pairs = match &arguments.pairs {
        Some(path) => Some(TextInput::open(path, LineForm::Plain)?),
        None => None,
    };
    let encoder = SentenceEncoder::load(&arguments.model)?;
    let mut counts = TextCounts::default();
    if !arguments.json {
        line("  cosine  texts");
    }
    match &mut pairs {
        None => print_pairs(&[arguments.texts.clone()], &encoder, &mut counts, arguments.json)?,
        Some(input) => loop {
            let window = next_pairs(input, encoder.window_size())?;
            if window.is_empty() {
                break;
            }
            print_pairs(&window, &encoder, &mut counts, arguments.json)?;
        },
    }
    counts.warnings(encoder.max_length()).iter().for_each(warn);
    Ok(())
}

/// The next lines of two columns, at most `num_pairs`.
fn next_pairs(input: &mut TextInput, num_pairs: usize) -> anyhow::Result<Vec<Vec<String>>> {
    let mut pairs = Vec::new();
    while pairs.len() < num_pairs {
        let Some(text) = input.next_text()? else { break };
        let columns: Vec<String> = text.split('\t').map(str::to_owned).collect();
        if columns.len() != 2 {
            let problem =
                format!("expected two texts with a tab between them, got {} columns", columns.len());
            return Err(input.damaged(&problem));
        }
        pairs.push(columns);
    }
    Ok(pairs)
}

fn print_pairs(
    pairs: &[Vec<String>],
    encoder: &SentenceEncoder,
    counts: &mut TextCounts,
    is_json: bool,
) -> anyhow::Result<()> {
    let rows = pairs
        .iter()
        .flatten()
        .map(|text| encoder.encode(text, counts))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let vectors = encoder.vectors_of(&rows, encoder.pooling(), |_| {})?;
    for (pair, vectors) in pairs.iter().zip(vectors.chunks_exact(2 * encoder.width())) {
        let (left, right) = vectors.split_at(encoder.width());
        let cosine = cosine(left, right);
        line(match is_json {
            true => json!({ "cosine": cosine, "texts": pair }).to_string(),
            false => format!("{cosine:>8.4}  {} | {}", shown(&pair[0]), shown(&pair[1])),
        });
    }
    Ok(())
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push_str("..");
    }
    shown
}

/// How well each pooling tells adjacent held-out sentences from sentences of different places.
fn compare_poolings(num_pairs: usize, arguments: &SimilarityArguments) -> anyhow::Result<()> {
    let run = arguments.model.run.as_deref().ok_or_else(|| ToolError::Usage("expected --run".to_owned()))?;
    let config: Config = config::load(&run.join("config.toml"), &[])
        .with_context(|| format!("no run in `{}`", run.display()))?;
    let encoder = SentenceEncoder::load(&arguments.model)?;
    let pairs = held_out::adjacent_pairs(&config, encoder.tokenizer(), num_pairs)?;
    let longest = encoder.max_length() - encoder.framed(&[]).len();
    let rows: Vec<Vec<u32>> =
        pairs.iter().flatten().map(|ids| encoder.framed(&ids[..ids.len().min(longest)])).collect();

    if !arguments.json {
        line(format!("{num_pairs} pairs of adjacent held-out sentences, as many from different places"));
        line(format!("{:<16} {:>9} {:>9} {:>7}", "pooling", "adjacent", "random", "AUC"));
    }
    let vocab_size = encoder.tokenizer().vocab_size();
    let special_ids = encoder.tokenizer().special_ids();
    let bags: Vec<Vec<f32>> = rows.iter().map(|row| bag_of_tokens(row, special_ids, vocab_size)).collect();
    print_separation("bag of tokens", &bags, arguments.json);
    for pooling in encoder.poolings() {
        let vectors = encoder.vectors_of(&rows, pooling, |_| {})?;
        let vectors: Vec<Vec<f32>> = vectors.chunks_exact(encoder.width()).map(<[f32]>::to_vec).collect();
        print_separation(pooling.name(), &vectors, arguments.json);
    }
    Ok(())
}

/// How often each token stands in a row: what can be known of two sentences without a model.
fn bag_of_tokens(row: &[u32], special_ids: &[u32], vocab_size: usize) -> Vec<f32> {
    let mut counts = vec![0.0; vocab_size];
    row.iter().filter(|id| !special_ids.contains(id)).for_each(|&id| counts[id as usize] += 1.0);
    counts
}

/// Prints mean cosines of adjacent vectors (2i, 2i + 1) and of vectors half the list apart, and their separation.
fn print_separation(name: &str, vectors: &[Vec<f32>], is_json: bool) {
    let num_pairs = vectors.len() / 2;
    let compare = |distance: usize| -> Vec<f64> {
        let partner = |idx: usize| (idx + distance) % num_pairs;
        (0..num_pairs).map(|idx| cosine(&vectors[2 * idx], &vectors[2 * partner(idx) + 1])).collect()
    };
    let (adjacent, random) = (compare(0), compare((num_pairs / 2).max(1)));
    let mean = |cosines: &[f64]| cosines.iter().sum::<f64>() / cosines.len() as f64;
    let (mean_adjacent, mean_random) = (mean(&adjacent), mean(&random));
    let auc = area_under_curve(&adjacent, &random);
    line(match is_json {
        true => json!({
            "vectors": name, "num_pairs": num_pairs, "adjacent": mean_adjacent, "random": mean_random, "auc": auc
        })
        .to_string(),
        false => format!("{name:<16} {mean_adjacent:>9.4} {mean_random:>9.4} {auc:>7.3}"),
    });
}

/// Share of (positive, negative) pairs in which the positive one is larger; equal ones count half.
fn area_under_curve(positive: &[f64], negative: &[f64]) -> f64 {
    let wins = |value: f64| -> f64 {
        let scores = negative.iter().map(|other| match value.total_cmp(other) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        });
        scores.sum()
    };
    positive.iter().map(|&value| wins(value)).sum::<f64>() / (positive.len() * negative.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_the_share_of_right_orders() {
        assert_eq!(area_under_curve(&[3.0, 4.0], &[1.0, 2.0]), 1.0);
        assert_eq!(area_under_curve(&[1.0, 4.0], &[2.0, 3.0]), 0.5);
        assert_eq!(area_under_curve(&[2.0], &[2.0, 1.0]), 0.75);
    }

    #[test]
    fn bags_count_tokens_and_leave_special_ones_out() {
        assert_eq!(bag_of_tokens(&[2, 5, 4, 5, 3], &[0, 1, 2, 3], 6), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn long_texts_are_shown_by_their_beginning() {
        assert_eq!(shown("话说天下大势"), "话说天下大势");
        assert_eq!(shown(&"下".repeat(51)), format!("{}..", "下".repeat(50)));
    }
}
