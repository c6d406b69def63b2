//! The training instances of Google's `create_pretraining_data.py`, draw by draw.
//!
//! Reproduces `create_training_instances` of google-research/bert (as in the package bert-tensorflow 1.0.4) with
//! the generator of Python 3: same documents, pairs, masks and order for the same text, vocabulary and seed.
//! This is a test tool. Training uses [`crate::PretrainData`], which mends what this must repeat: too many
//! random pairs, neighbours labelled "random" in a single document, all instances in memory, one generator for
//! everything.
//!
//! Two things are not Google's: private-use characters are dropped (Google makes them `[UNK]`), and words of
//! 101 to 200 characters are `[UNK]` (Google still cuts them). Both are rules of `BertTokenizerFast`.

use super::PythonRandom;
use crate::error::DataError;
use crate::tokenizer::{SpecialIds, Tokenizer};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};
use std::path::Path;

/// The flags of Google's script. The default is theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct GoogleSettings {
    /// Longest instance in tokens, `[CLS]` and both `[SEP]` included.
    pub max_seq_length: usize,
    /// How many times each document is gone through.
    pub dupe_factor: usize,
    /// Share of passes over a document that aim at a shorter length.
    pub short_seq_prob: f64,
    /// Share of tokens to predict.
    pub masked_lm_prob: f64,
    /// The most tokens to predict in one instance.
    pub max_predictions_per_seq: usize,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for GoogleSettings {
    fn default() -> Self {
        Self {
            max_seq_length: 128,
            dupe_factor: 10,
            short_seq_prob: 0.1,
            masked_lm_prob: 0.15,
            max_predictions_per_seq: 20,
            seed: 12345,
        }
    }
}

/// One masked pair, Google's `TrainingInstance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleInstance {
    /// `[CLS] A [SEP] B [SEP]`, masked.
    pub ids: Vec<u32>,
    /// 0 up to the first `[SEP]`, 1 after it; one per token.
    pub segment_ids: Vec<u8>,
    /// Whether B was drawn from a random place.
    pub is_random_next: bool,
    /// Positions to predict, ascending.
    pub masked_lm_positions: Vec<usize>,
    /// The tokens that stood there.
    pub masked_lm_labels: Vec<u32>,
}

/// One document: the tokens of each line.
type Document = Vec<Vec<u32>>;

/// All instances of a text, in Google's order.
///
/// `text` is a whole file: one sentence per line, a blank line between documents. `origin` names it in messages.
///
/// # Errors
///
/// [`DataError::EmptyCorpus`] if no line has a token; [`DataError::Config`] for a length without room for a pair;
/// [`DataError::Tokenizer`].
pub fn create_training_instances(
    text: &str,
    origin: &Path,
    tokenizer: &Tokenizer,
    settings: &GoogleSettings,
) -> Result<Vec<GoogleInstance>, DataError> {
    if settings.max_seq_length < 5 {
        return Err(DataError::config("max_seq_length", "at least 5", settings.max_seq_length));
    }
    let mut documents = read_documents(text, tokenizer)?;
    if documents.is_empty() {
        return Err(DataError::EmptyCorpus { got: origin.display().to_string() });
    }
    let mut random = PythonRandom::new(settings.seed);
    random.shuffle(&mut documents);
    let mut maker = Maker {
        documents: &documents,
        special: tokenizer.special(),
        vocab_size: tokenizer.vocab_size(),
        settings,
        random,
    };
    let mut instances = Vec::new();
    for _ in 0..settings.dupe_factor {
        for document_idx in 0..documents.len() {
            maker.instances_from_document(document_idx, &mut instances);
        }
    }
    maker.random.shuffle(&mut instances);
    Ok(instances)
}

/// Documents that have a token. Line ends are those of Python's text files.
fn read_documents(text: &str, tokenizer: &Tokenizer) -> Result<Vec<Document>, DataError> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut documents = vec![Document::new()];
    for line in text.split('\n') {
        let line = line.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
        if line.is_empty() {
            documents.push(Document::new());
        }
        let ids = tokenizer.encode_line(line)?.ids;
        if let (false, Some(document)) = (ids.is_empty(), documents.last_mut()) {
            document.push(ids);
        }
    }
    documents.retain(|document| !document.is_empty());
    Ok(documents)
}

/// What `create_instances_from_document` works with.
struct Maker<'a> {
    documents: &'a [Document],
    special: SpecialIds,
    vocab_size: usize,
    settings: &'a GoogleSettings,
    random: PythonRandom,
}

impl Maker<'_> {
    /// Google's `create_instances_from_document`.
    fn instances_from_document(&mut self, document_idx: usize, instances: &mut Vec<GoogleInstance>) {
        let document = &self.documents[document_idx];
        let max_num_tokens = self.settings.max_seq_length - 3;
        let mut target_len = max_num_tokens;
        if self.random.random() < self.settings.short_seq_prob {
            target_len = self.random.randint(2, max_num_tokens);
        }
        let mut chunk_start = 0;
        let mut chunk_len = 0;
        let mut i = 0;
        while i < document.len() {
            chunk_len += document[i].len();
            i += 1;
            if i < document.len() && chunk_len < target_len {
                continue;
            }
            let chunk = &document[chunk_start..i];
            let num_a = if chunk.len() >= 2 { self.random.randint(1, chunk.len() - 1) } else { 1 };
            let mut a = chunk[..num_a].concat();
            let is_random_next = chunk.len() == 1 || self.random.random() < 0.5;
            let mut b = if is_random_next {
                i -= chunk.len() - num_a;
                self.random_segment(document_idx, target_len as i64 - a.len() as i64)
            } else {
                chunk[num_a..].concat()
            };
            self.truncate(&mut a, &mut b, max_num_tokens);
            instances.push(self.masked(&a, &b, is_random_next));
            chunk_start = i;
            chunk_len = 0;
        }
    }

    /// Lines from a random place of a document that is, within ten draws, another one. A wanted length below one
    /// still takes a line.
    fn random_segment(&mut self, document_idx: usize, wanted_len: i64) -> Vec<u32> {
        let mut drawn = document_idx;
        for _ in 0..10 {
            drawn = self.random.randint(0, self.documents.len() - 1);
            if drawn != document_idx {
                break;
            }
        }
        let document = &self.documents[drawn];
        let start = self.random.randint(0, document.len() - 1);
        let mut b = Vec::new();
        for line in &document[start..] {
            b.extend_from_slice(line);
            if b.len() as i64 >= wanted_len {
                break;
            }
        }
        b
    }

    /// Google's `truncate_seq_pair`: B loses a token when both are equally long.
    fn truncate(&mut self, a: &mut Vec<u32>, b: &mut Vec<u32>, max_num_tokens: usize) {
        while a.len() + b.len() > max_num_tokens {
            let longer = if a.len() > b.len() { &mut *a } else { &mut *b };
            if self.random.random() < 0.5 {
                longer.remove(0);
            } else {
                longer.pop();
            }
        }
    }

    /// Google's `create_masked_lm_predictions` on `[CLS] A [SEP] B [SEP]`.
    fn masked(&mut self, a: &[u32], b: &[u32], is_random_next: bool) -> GoogleInstance {
        let SpecialIds { cls, sep, mask, .. } = self.special;
        let tokens = [&[cls], a, &[sep], b, &[sep]].concat();
        let mut segment_ids = vec![0; a.len() + 2];
        segment_ids.resize(tokens.len(), 1);
        let is_candidate = |position: &usize| tokens[*position] != cls && tokens[*position] != sep;
        let mut candidates: Vec<usize> = (0..tokens.len()).filter(is_candidate).collect();
        self.random.shuffle(&mut candidates);
        let asked = (tokens.len() as f64 * self.settings.masked_lm_prob).round_ties_even() as usize;
        candidates.truncate(asked.max(1).min(self.settings.max_predictions_per_seq));

        let mut ids = tokens.clone();
        for &position in &candidates {
            if self.random.random() < 0.8 {
                ids[position] = mask;
            } else if self.random.random() >= 0.5 {
                ids[position] = self.random.randint(0, self.vocab_size - 1) as u32;
            }
        }
        candidates.sort_unstable();
        let masked_lm_labels = candidates.iter().map(|&position| tokens[position]).collect();
        GoogleInstance { ids, segment_ids, is_random_next, masked_lm_positions: candidates, masked_lm_labels }
    }
}

/// An instance as people read it, in the order of Google's fields.
#[derive(Serialize)]
struct JsonInstance<'a> {
    tokens: Vec<&'a str>,
    segment_ids: &'a [u8],
    is_random_next: bool,
    masked_lm_positions: &'a [usize],
    masked_lm_labels: Vec<&'a str>,
}

impl GoogleInstance {
    /// Writes one line of JSON with the tokens as text, byte by byte what Python's
    /// `json.dumps(instance, ensure_ascii=False)` gives for Google's fields, and a line end.
    ///
    /// # Errors
    ///
    /// What `out` refuses.
    ///
    /// # Panics
    ///
    /// If the instance was made with another vocabulary and an id is outside this one.
    pub fn write_json(&self, tokenizer: &Tokenizer, out: &mut impl Write) -> io::Result<()> {
        let text = |id: &u32| tokenizer.id_to_token(*id).expect("instance and tokenizer belong together");
        let instance = JsonInstance {
            tokens: self.ids.iter().map(text).collect(),
            segment_ids: &self.segment_ids,
            is_random_next: self.is_random_next,
            masked_lm_positions: &self.masked_lm_positions,
            masked_lm_labels: self.masked_lm_labels.iter().map(text).collect(),
        };
        instance.serialize(&mut Serializer::with_formatter(&mut *out, PythonFormat))?;
        out.write_all(b"\n")
    }
}

/// Python's separators: a space after each comma and colon.
struct PythonFormat;

impl Formatter for PythonFormat {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}
