//! `bert corpus`: what a text consists of.
//!
//! Owns counting; reading text and tokens is the business of bert-data.

use std::path::PathBuf;

use bert_data::{
    Tokenizer,
    text::{InvalidText, TextLine, TextReader, TextSources},
};

use crate::{
    cli::{CorpusCommand, StatsArguments},
    google_pairs,
    table::{megabytes, percent, row, thousands},
};

/// What is counted while reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    num_documents: u64,
    num_sentences: u64,
    num_chars: u64,
    longest_sentence_chars: u64,
    num_tokens: u64,
    num_unknown: u64,
    num_text_bytes: u64,
    invalid: InvalidText,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.num_documents += other.num_documents;
        self.num_sentences += other.num_sentences;
        self.num_chars += other.num_chars;
        self.longest_sentence_chars = self.longest_sentence_chars.max(other.longest_sentence_chars);
        self.num_tokens += other.num_tokens;
        self.num_unknown += other.num_unknown;
        self.num_text_bytes += other.num_text_bytes;
        self.invalid.num_lines += other.invalid.num_lines;
        self.invalid.first = self.invalid.first.or(other.invalid.first);
    }
}

/// Runs the command.
///
/// # Errors
///
/// What bert-data refuses: no text, a file that is not what its name says, a vocabulary without its special tokens; an
/// output that cannot be written.
pub fn run(command: CorpusCommand) -> anyhow::Result<()> {
    match command {
        CorpusCommand::Stats(arguments) => stats(&arguments),
        CorpusCommand::GooglePairs(arguments) => google_pairs::run(&arguments),
    }
}

fn stats(arguments: &StatsArguments) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = arguments.input.iter().map(PathBuf::from).collect();
    let sources = TextSources::list(&paths)?;
    let tokenizer = open_tokenizer(arguments)?;
    let by_source = count(&sources, tokenizer.as_ref())?;
    let mut counts = Counts::default();
    by_source.iter().for_each(|own| counts.add(own));
    row("files", thousands(sources.files().len() as u64));
    row("size", megabytes(sources.num_bytes()));
    row("text", megabytes(counts.num_text_bytes));
    row("documents", thousands(counts.num_documents));
    row("sentences", thousands(counts.num_sentences));
    row("characters", thousands(counts.num_chars));
    row("longest sentence", format!("{} characters", thousands(counts.longest_sentence_chars)));
    if let Some(first) = counts.invalid.first {
        let (num_lines, path) = (thousands(counts.invalid.num_lines), &sources.files()[first.file_idx].path);
        row(
            "not UTF-8",
            format!("{num_lines} lines; the first at byte {} of {}", first.byte, path.display()),
        );
    }
    if tokenizer.is_some() {
        let unknown_share = counts.num_unknown as f64 / counts.num_tokens.max(1) as f64;
        row("tokens", thousands(counts.num_tokens));
        row("[UNK]", format!("{} ({})", thousands(counts.num_unknown), percent(unknown_share)));
    }
    if by_source.len() > 1 {
        for (own, name) in by_source.iter().zip(&arguments.input) {
            let (documents, text) = (thousands(own.num_documents), megabytes(own.num_text_bytes));
            row("source", format!("{name}: {documents} documents, {text}"));
        }
    }
    Ok(())
}

fn open_tokenizer(arguments: &StatsArguments) -> anyhow::Result<Option<Tokenizer>> {
    let open = |path: &PathBuf| Tokenizer::from_vocab_file(path, arguments.lowercase);
    Ok(arguments.tokenizer.as_ref().map(open).transpose()?)
}

/// Counts each source.
fn count(sources: &TextSources, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<Counts>> {
    let mut by_source = vec![Counts::default(); sources.num_sources()];
    for block in sources.blocks(u64::MAX)? {
        let counts = &mut by_source[sources.source_of_block(&block)];
        let mut reader = TextReader::new(sources, &block).replacing_invalid();
        while let Some(text) = reader.next_line()? {
            match text {
                TextLine::DocumentEnd => counts.num_documents += 1,
                TextLine::Sentence(sentence) => count_sentence(counts, &sentence, tokenizer)?,
            }
        }
        counts.num_text_bytes += reader.num_text_bytes();
        let invalid = reader.take_invalid();
        counts.invalid.num_lines += invalid.num_lines;
        counts.invalid.first = counts.invalid.first.or(invalid.first);
    }
    Ok(by_source)
}

fn count_sentence(counts: &mut Counts, sentence: &str, tokenizer: Option<&Tokenizer>) -> anyhow::Result<()> {
    let num_chars = sentence.chars().count() as u64;
    counts.num_sentences += 1;
    counts.num_chars += num_chars;
    counts.longest_sentence_chars = counts.longest_sentence_chars.max(num_chars);
    if let Some(tokenizer) = tokenizer {
        let ids = tokenizer.encode_line(sentence)?.ids;
        let unk = tokenizer.special().unk;
        counts.num_tokens += ids.len() as u64;
        counts.num_unknown += ids.iter().filter(|id| **id == unk).count() as u64;
    }
    Ok(())
}
