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
    table::{line, percent, warn},
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
        None => print_pairs(std::slice::from_ref(&arguments.texts), &encoder, &mut counts, arguments.json)?,
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
        line(format!(
            "{num_pairs} held-out sentences, each with the one that follows it and those of all other pairs"
        ));
        line(format!(
            "{:<16} {:>9} {:>9} {:>13} {:>9}",
            "pooling", "adjacent", "random", "ranked above", "nearest"
        ));
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

/// What cosines say about the vectors of pairs: how far the true partner stands out from those of other pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Separation {
    /// Mean cosine of the two of a pair.
    adjacent: f64,
    /// Mean cosine of a first sentence and the second one of another pair.
    random: f64,
    /// Share of the other second sentences that are farther from a first one than its own, equal ones counted half.
    ranked_above: f64,
    /// Share of first sentences whose own second one is nearer than all others.
    nearest: f64,
}

impl Separation {
    /// Compares vectors 2i and 2i + 1 with vectors 2i and 2j + 1.
    fn of(vectors: &[Vec<f32>]) -> Self {
        let num_pairs = vectors.len() / 2;
        let (num_own, num_other) = (num_pairs as f64, (num_pairs * (num_pairs - 1)).max(1) as f64);
        let mut sums = Self { adjacent: 0.0, random: 0.0, ranked_above: 0.0, nearest: 0.0 };
        for pair in 0..num_pairs {
            let cosine_to = |other: usize| cosine(&vectors[2 * pair], &vectors[2 * other + 1]);
            let own = cosine_to(pair);
            let others: Vec<f64> = (0..num_pairs).filter(|other| *other != pair).map(cosine_to).collect();
            sums.adjacent += own / num_own;
            sums.random += others.iter().sum::<f64>() / num_other;
            sums.ranked_above += others.iter().map(|other| order_score(own, *other)).sum::<f64>() / num_other;
            sums.nearest += f64::from(others.iter().all(|other| own > *other)) / num_own;
        }
        sums
    }
}

/// 1 if the first is larger, a half if they are equal.
fn order_score(own: f64, other: f64) -> f64 {
    if own > other {
        1.0
    } else if own == other {
        0.5
    } else {
        0.0
    }
}

fn print_separation(name: &str, vectors: &[Vec<f32>], is_json: bool) {
    let Separation { adjacent, random, ranked_above, nearest } = Separation::of(vectors);
    line(match is_json {
        true => json!({
            "vectors": name,
            "num_pairs": vectors.len() / 2,
            "adjacent": adjacent,
            "random": random,
            "ranked_above": ranked_above,
            "nearest": nearest,
        })
        .to_string(),
        false => format!(
            "{name:<16} {adjacent:>9.4} {random:>9.4} {:>13} {:>9}",
            percent(ranked_above),
            percent(nearest)
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separation_compares_a_sentence_with_its_own_and_all_other_partners() {
        let (right, up, left) = (vec![1.0, 0.0], vec![0.0, 2.0], vec![-1.0, 0.0]);
        // Pairs (right, right), (up, left), (up, up): the second one stands farther apart than others.
        let vectors = [right.clone(), right, up.clone(), left, up.clone(), up];
        let separation = Separation::of(&vectors);
        assert!((separation.adjacent - 2.0 / 3.0).abs() < 1e-12);
        // right: left -1, up 0; first up: right 0, up 1; second up: right 0, left 0.
        assert!(separation.random.abs() < 1e-12);
        // right above both; first up equal to right and below up; second up above both.
        assert!((separation.ranked_above - (1.0 + 0.25 + 1.0) / 3.0).abs() < 1e-12);
        assert!((separation.nearest - 2.0 / 3.0).abs() < 1e-12);
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
