//! From one block of text to its shards, going on after those that an earlier build has finished.
//!
//! A block is one shard; a file that cannot be cut is as many as its text needs. Reading of the next lines and
//! encoding of the last ones overlap. Every finished shard leaves a record beside its files, written after they
//! are synced: a shard with a record for this plan and this text, whose files have the recorded hashes, is kept.

use super::super::indexed::TokenType;
use super::super::manifest::{ShardRecord, json_error};
use super::super::write::ShardWriter;
use super::super::{Verify, check_records};
use super::{BuildPlan, BuildProgress, ShardBuildRequest};
use crate::error::DataError;
use crate::files::write_atomically;
use crate::text::{TextBlock, TextLine, TextReader};
use crate::tokenizer::EncodedLine;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Text that is encoded at a time, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// What is known of a block that is built.
#[derive(Serialize, Deserialize)]
pub(super) struct BlockRecord {
    pub(super) block_idx: usize,
    pub(super) text_blake3: String,
    pub(super) shards: Vec<ShardRecord>,
}

/// What a finished shard leaves for a build that has to go on.
#[derive(Serialize, Deserialize)]
struct Done {
    plan: String,
    shard: ShardRecord,
    /// Documents of the text in this shard, those without tokens included.
    num_documents_read: u64,
    /// Whether the block ends here.
    is_last: bool,
}

/// Tells the caller how far this share is.
pub(super) struct Watch<'a> {
    pub(super) progress: BuildProgress,
    pub(super) report: &'a mut dyn FnMut(&BuildProgress),
}

/// Lines that are encoded together.
struct Batch {
    lines: Vec<TextLine>,
    ends_shard: bool,
}

/// Builds one block.
pub(super) struct BlockBuild<'a> {
    pub(super) request: &'a ShardBuildRequest,
    pub(super) plan: &'a BuildPlan,
    pub(super) folder: &'a Path,
    pub(super) block_idx: usize,
}

impl BlockBuild<'_> {
    /// Keeps the finished shards of the block and builds the missing ones. Also says how many were kept.
    pub(super) fn run(&self, watch: &mut Watch) -> Result<(BlockRecord, usize), DataError> {
        let block = self.block();
        let text_blake3 = self.plan.sources.hash_block(block)?.to_hex().to_string();
        let num_bytes: u64 = block.spans.iter().map(|span| span.end - span.start).sum();
        let num_bytes_before = watch.progress.num_bytes_done;
        let kept = self.finished(&text_blake3);
        let num_kept = kept.len();
        let is_whole = kept.last().is_some_and(|done| done.is_last);
        let num_documents: u64 = kept.iter().map(|done| done.num_documents_read).sum();
        let mut shards: Vec<ShardRecord> = kept.into_iter().map(|done| done.shard).collect();
        if is_whole {
            watch.progress.num_bytes_reused += num_bytes;
        } else {
            let mut reader = self.reader();
            skip_documents(&mut reader, num_documents)?;
            watch.progress.num_bytes_reused += reader.num_file_bytes();
            loop {
                let done =
                    self.build_shard(shards.len(), &mut reader, &text_blake3, num_bytes_before, watch)?;
                shards.push(done.shard);
                if done.is_last {
                    break;
                }
            }
        }
        watch.progress.num_bytes_done = num_bytes_before + num_bytes;
        (watch.report)(&watch.progress);
        Ok((BlockRecord { block_idx: self.block_idx, text_blake3, shards }, num_kept))
    }

    fn block(&self) -> &TextBlock {
        &self.plan.blocks[self.block_idx]
    }

    fn reader(&self) -> TextReader<'_> {
        let reader = TextReader::new(&self.plan.sources, self.block());
        if self.request.strict { reader } else { reader.replacing_invalid() }
    }

    /// Name of a shard of this block.
    fn name(&self, shard_idx: usize) -> String {
        match self.plan.sources.is_whole_file(self.block()) {
            true => format!("shard-{:05}-{shard_idx:05}", self.block_idx),
            false => format!("shard-{:05}", self.block_idx),
        }
    }

    fn done_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.done"))
    }

    /// The shards that an earlier build has finished and that still are what it recorded.
    fn finished(&self, text_blake3: &str) -> Vec<Done> {
        let mut kept: Vec<Done> = Vec::new();
        while kept.last().is_none_or(|done| !done.is_last) {
            let name = self.name(kept.len());
            let Ok(bytes) = fs::read(self.done_path(&name)) else { break };
            let Ok(done) = serde_json::from_slice::<Done>(&bytes) else { break };
            let is_this =
                done.plan == self.plan.id && done.shard.name == name && done.shard.text_blake3 == text_blake3;
            if !is_this
                || check_records(self.folder, std::slice::from_ref(&done.shard), Verify::Hashes).is_err()
            {
                break;
            }
            kept.push(done);
        }
        kept
    }

    /// Encodes text into one shard, to the end of the block or until a file that cannot be cut has given enough.
    fn build_shard(
        &self,
        shard_idx: usize,
        reader: &mut TextReader,
        text_blake3: &str,
        num_bytes_before: u64,
        watch: &mut Watch,
    ) -> Result<Done, DataError> {
        let tokenizer = &self.request.tokenizer;
        let name = self.name(shard_idx);
        let done_path = self.done_path(&name);
        if done_path.exists() {
            fs::remove_file(&done_path).map_err(DataError::io("remove", &done_path))?;
        }
        let token_type = TokenType::for_vocab(tokenizer.vocab_size());
        let mut writer = ShardWriter::create(self.folder, &name, token_type, tokenizer.special().unk)?;
        let start = reader.num_text_bytes();
        let is_whole_file = self.plan.sources.is_whole_file(self.block());
        let end = if is_whole_file { start.saturating_add(self.request.shard_text_bytes) } else { u64::MAX };
        let mut num_documents_read = 0;
        let mut next = Some(read_batch(reader, end)?);
        while let Some(batch) = next.take() {
            let (encoded, read) = rayon::join(
                || self.encode(&batch.lines),
                || if batch.ends_shard { Ok(None) } else { read_batch(reader, end).map(Some) },
            );
            for line in encoded? {
                match line {
                    Some((line, num_misaligned)) => {
                        writer.sentence(&line.ids, &line.word_starts, num_misaligned)?
                    }
                    None => {
                        writer.end_document();
                        num_documents_read += 1;
                    }
                }
            }
            next = read?;
            watch.progress.num_text_bytes_encoded += text_bytes(&batch.lines);
            watch.progress.num_bytes_done = num_bytes_before + reader.num_file_bytes();
            (watch.report)(&watch.progress);
        }
        let num_text_bytes = reader.num_text_bytes() - start;
        let shard = writer.finish(text_blake3.to_owned(), num_text_bytes, reader.take_invalid())?;
        let done =
            Done { plan: self.plan.id.clone(), shard, num_documents_read, is_last: !reader.has_more()? };
        let json = serde_json::to_vec(&done).map_err(|e| json_error(&done_path, &e))?;
        write_atomically(&done_path, &json)?;
        Ok(done)
    }

    /// Tokens of sentences with their words marked, in order; `None` for the end of a document.
    fn encode(&self, lines: &[TextLine]) -> Result<Vec<Option<(EncodedLine, usize)>>, DataError> {
        let encode = |line: &TextLine| {
            let TextLine::Sentence(text) = line else { return Ok(None) };
            let mut encoded = self.request.tokenizer.encode_line(text)?;
            let num_misaligned = self.plan.segmenter.mark(text, &mut encoded);
            Ok(Some((encoded, num_misaligned)))
        };
        lines.par_iter().with_min_len(16).map(encode).collect()
    }
}

/// Reads lines up to the size of a batch, the end of the block, or the first document end from byte `end` of the
/// text on.
fn read_batch(reader: &mut TextReader, end: u64) -> Result<Batch, DataError> {
    let mut lines = Vec::new();
    let mut num_bytes = 0;
    while num_bytes < BATCH_BYTES {
        let Some(line) = reader.next_line()? else { return Ok(Batch { lines, ends_shard: true }) };
        let ends_document = line == TextLine::DocumentEnd;
        num_bytes += if let TextLine::Sentence(text) = &line { text.len() } else { 0 };
        lines.push(line);
        if ends_document && reader.num_text_bytes() >= end {
            return Ok(Batch { lines, ends_shard: true });
        }
    }
    Ok(Batch { lines, ends_shard: false })
}

/// Reads over documents that are in finished shards.
fn skip_documents(reader: &mut TextReader, num_documents: u64) -> Result<(), DataError> {
    let mut num_skipped = 0;
    while num_skipped < num_documents {
        match reader.next_line()? {
            Some(TextLine::DocumentEnd) => num_skipped += 1,
            Some(TextLine::Sentence(_)) => {}
            None => break,
        }
    }
    reader.take_invalid();
    Ok(())
}

fn text_bytes(lines: &[TextLine]) -> u64 {
    lines.iter().map(|line| if let TextLine::Sentence(text) = line { text.len() as u64 } else { 0 }).sum()
}
