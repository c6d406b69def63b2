//! An opened shard folder: documents, sentence lengths and tokens by position.
//!
//! Keeps one number per shard in memory, and the indices of the first shards up to a fixed number of bytes; everything
//! else is read where it is needed. Knows nothing of samples.

use crate::error::DataError;
use crate::shards::{Manifest, Shard, Verify, check_files};
use crate::tokenizer::Tokenizer;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of indices and word starts kept in memory: those of about 150 million tokens.
const INDEX_BYTES_KEPT: u64 = 32 << 20;

/// A corpus of tokenized documents. Cheap to share between threads.
pub struct Corpus {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    /// First document of each shard, and at the end the number of documents.
    first_documents: Vec<u64>,
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Corpus").field("dir", &self.dir).field("counts", &self.manifest.counts).finish()
    }
}

/// Where a document lies and how long its sentences are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    shard_idx: usize,
    first_sentence: u64,
    /// Tokens of each sentence; none is zero.
    pub sentence_lengths: Vec<u32>,
}

/// Where the tokens of a document lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    shard_idx: usize,
    /// Index in the shard.
    first_token: u64,
}

/// Sentence lengths of consecutive documents of one shard.
pub(crate) struct DocumentRun {
    first_document: u64,
    /// Borders of the documents in `lengths`.
    bounds: Vec<usize>,
    lengths: Vec<u32>,
}

impl DocumentRun {
    /// Document indices and their sentence lengths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u32])> {
        let documents = self.bounds.windows(2).zip(self.first_document..);
        documents.map(|(bounds, document)| (document, &self.lengths[bounds[0]..bounds[1]]))
    }
}

impl Corpus {
    /// Opens a shard folder and checks its files.
    ///
    /// # Errors
    ///
    /// [`DataError::Damaged`] names the file, what was expected and what was found; [`DataError::Io`].
    pub fn open(dir: &Path, verify: Verify) -> Result<Self, DataError> {
        Self::open_with(dir, Manifest::read(dir)?, verify)
    }

    /// Opens the files that a manifest speaks of.
    pub(crate) fn open_with(dir: &Path, manifest: Manifest, verify: Verify) -> Result<Self, DataError> {
        check_files(dir, &manifest, verify)?;
        let token_type = crate::shards::token_type(manifest.vocab_size);
        let mut shards = Vec::with_capacity(manifest.shards.len());
        let mut first_documents = vec![0];
        let mut num_documents = 0;
        let mut index_bytes_left = INDEX_BYTES_KEPT;
        for record in &manifest.shards {
            let mut shard = Shard::open(dir, record, token_type)?;
            index_bytes_left -= shard.keep_index(record, index_bytes_left)?;
            shards.push(shard);
            num_documents += record.counts.num_documents;
            first_documents.push(num_documents);
        }
        Ok(Self { dir: dir.to_path_buf(), manifest, shards, first_documents })
    }

    /// The shard folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the shards were built from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names the corpus: equal fingerprints mean equal tokens, words and document borders.
    pub fn fingerprint(&self) -> &str {
        &self.manifest.fingerprint
    }

    /// Number of documents.
    pub fn num_documents(&self) -> u64 {
        self.manifest.counts.num_documents
    }

    /// Number of tokens.
    pub fn num_tokens(&self) -> u64 {
        self.manifest.counts.num_tokens
    }

    /// First document of each source, and at the end the number of documents.
    pub fn source_borders(&self) -> Vec<u64> {
        let by_source = &self.manifest.by_source;
        if by_source.is_empty() {
            return vec![0, self.num_documents()];
        }
        let mut first_shard = 0;
        let ends = by_source.iter().map(|source| {
            first_shard += source.num_shards as usize;
            self.first_documents[first_shard]
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Refuses a tokenizer other than the one the shards were built with.
    ///
    /// # Errors
    ///
    /// [`DataError::Stale`] with both fingerprints.
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<(), DataError> {
        let (expected, got) = (tokenizer.fingerprint(), &self.manifest.tokenizer_fingerprint);
        if expected == got {
            return Ok(());
        }
        let path = self.dir.clone();
        Err(DataError::Stale { path, what: "tokenizer", expected: expected.to_owned(), got: got.clone() })
    }

    /// One document.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if the index cannot be read.
    ///
    /// # Panics
    ///
    /// If there is no such document.
    pub fn document(&self, document: u64) -> Result<Document, DataError> {
        let (shard_idx, local) = self.find(document);
        let shard = &self.shards[shard_idx];
        let bounds = shard.document_bounds(local..local + 1)?;
        let sentence_lengths = shard.sentence_lengths(bounds[0]..bounds[1])?;
        Ok(Document { shard_idx, first_sentence: bounds[0], sentence_lengths })
    }

    /// Appends ids and word starts of a range of a document's tokens, counted from its first.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if the shard cannot be read.
    pub fn read_tokens(
        &self,
        document: &Document,
        tokens: Range<u64>,
        ids: &mut Vec<u32>,
        word_starts: &mut Vec<bool>,
    ) -> Result<(), DataError> {
        self.read_at(self.place_of(document)?, tokens, ids, word_starts)
    }

    /// Where the tokens of a document lie, without the lengths of its sentences.
    pub(crate) fn place(&self, document: u64) -> Result<Place, DataError> {
        let (shard_idx, local) = self.find(document);
        let shard = &self.shards[shard_idx];
        let first_sentence = shard.document_bounds(local..local + 1)?[0];
        Ok(Place { shard_idx, first_token: shard.first_token(first_sentence)? })
    }

    /// The same of a document that was looked up.
    pub(crate) fn place_of(&self, document: &Document) -> Result<Place, DataError> {
        let Document { shard_idx, first_sentence, .. } = *document;
        Ok(Place { shard_idx, first_token: self.shards[shard_idx].first_token(first_sentence)? })
    }

    /// [`Corpus::read_tokens`] of the document at a place.
    pub(crate) fn read_at(
        &self,
        place: Place,
        tokens: Range<u64>,
        ids: &mut Vec<u32>,
        word_starts: &mut Vec<bool>,
    ) -> Result<(), DataError> {
        let shard = &self.shards[place.shard_idx];
        let range = place.first_token + tokens.start..place.first_token + tokens.end;
        shard.read_tokens(range.clone(), self.manifest.vocab_size, ids)?;
        shard.read_word_starts(range, word_starts)
    }

    /// Runs of whole documents with about `num_sentences` sentences, each inside one shard. The first
    /// document of each run, and at the end the number of documents.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] if an index cannot be read.
    pub(crate) fn document_runs(&self, num_sentences: u64) -> Result<Vec<u64>, DataError> {
        const DOCUMENTS_AT_ONCE: u64 = 1 << 16;
        let mut starts = Vec::new();
        for (shard, &first_document) in self.shards.iter().zip(&self.first_documents) {
            let mut run_end = 0;
            let mut document = 0;
            while document < shard.num_documents() {
                let end = (document + DOCUMENTS_AT_ONCE).min(shard.num_documents());
                let bounds = shard.document_bounds(document..end)?;
                for (&first_sentence, idx) in bounds[..bounds.len() - 1].iter().zip(document..) {
                    if idx == 0 || first_sentence >= run_end {
                        starts.push(first_document + idx);
                        run_end = first_sentence + num_sentences;
                    }
                }
                document = end;
            }
        }
        starts.push(self.num_documents());
        Ok(starts)
    }

    /// Sentence lengths of consecutive documents of one shard.
    pub(crate) fn run(&self, documents: Range<u64>) -> Result<DocumentRun, DataError> {
        let (shard_idx, local) = self.find(documents.start);
        let shard = &self.shards[shard_idx];
        let borders = shard.document_bounds(local..local + (documents.end - documents.start))?;
        let first = borders[0];
        let lengths = shard.sentence_lengths(first..borders[borders.len() - 1])?;
        let bounds = borders.iter().map(|border| (border - first) as usize).collect();
        Ok(DocumentRun { first_document: documents.start, bounds, lengths })
    }

    /// The end of the shard that a document is in, as a document index.
    pub(crate) fn shard_end(&self, document: u64) -> u64 {
        self.first_documents[self.find(document).0 + 1]
    }

    /// Reads everything about consecutive documents once, in runs, and forgets it: what follows finds it in the
    /// page cache.
    pub(crate) fn read_ahead(&self, documents: Range<u64>) -> Result<(), DataError> {
        let mut start = documents.start;
        while start < documents.end {
            let (shard_idx, local) = self.find(start);
            let end = self.first_documents[shard_idx + 1].min(documents.end);
            self.shards[shard_idx].read_ahead(local..local + (end - start))?;
            start = end;
        }
        Ok(())
    }

    /// Shard of a document, and its index there.
    fn find(&self, document: u64) -> (usize, u64) {
        assert!(document < self.num_documents(), "document {document} of {}", self.num_documents());
        let shard_idx = self.first_documents.partition_point(|&first| first <= document) - 1;
        (shard_idx, document - self.first_documents[shard_idx])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A document that lies nowhere, for tests of what is computed from sentence lengths.
    pub(crate) fn document() -> Document {
        Document { shard_idx: 0, first_sentence: 0, sentence_lengths: vec![] }
    }
}
