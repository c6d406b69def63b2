//! Building shards from text: in shares, in parallel, in bounded memory, finished by one rename.
//!
//! Block `b` of the text becomes shard `b`, or a run of shards if it is a file that cannot be cut; no block reaches over
//! the border of two sources. Share `i` of `n` builds the blocks with `b % n == i`. Lines are encoded in parallel and written in order. Memory per process: two
//! batches of lines with their tokens, one document, and 12 bytes per sentence of the shard that is being written.
//!
//! A finished build is reused if text (content and order, not paths), tokenizer, language, lexicon and shard
//! size are what is asked for. Otherwise the answer is an error by default: silently other data would make a
//! resumed run another run. [`WhenStale::Rebuild`] replaces the old shards instead.

mod block;

use super::lock::BuildLock;
use super::manifest::{Counts, MANIFEST_NAME, Manifest, ShardRecord, SourceRecord, SourceShards, json_error};
use super::{Verify, check_files};
use crate::error::DataError;
use crate::files::{parent_of, sync_folder, write_atomically};
use crate::text::{TextBlock, TextSources};
use crate::tokenizer::Tokenizer;
use crate::words::{Language, WordSegmenter};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{BlockBuild, BlockRecord, Watch};

/// What to do with finished shards that were built from something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenStale {
    /// [`DataError::Stale`].
    Refuse,
    /// Build again and replace them.
    Rebuild,
}

/// From what, how and where to build shards.
#[derive(Clone, Debug)]
pub struct ShardBuildRequest {
    /// Files of text, folders and patterns; each is a source of its own.
    pub sources: Vec<PathBuf>,
    /// Turns lines into ids.
    pub tokenizer: Arc<Tokenizer>,
    /// How words are found.
    pub language: Language,
    /// Words to add to the Chinese segmenter, one per line.
    pub lexicon: Option<PathBuf>,
    /// The folder to make.
    pub dir: PathBuf,
    /// Text per shard, in bytes, unpacked; bounds the tokens of a shard, since a token takes at least one byte. A
    /// longer document makes its shard longer.
    pub shard_text_bytes: u64,
    /// What to do with shards that do not fit the request.
    pub when_stale: WhenStale,
    /// Whether a byte that is not UTF-8 is an error. Otherwise it is replaced by U+FFFD, and its line counted.
    pub strict: bool,
}

/// Which part of the building this process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildShare {
    /// Index of this share, below `count`.
    pub index: usize,
    /// Number of shares.
    pub count: usize,
}

impl BuildShare {
    /// One process does everything.
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

/// What one share has built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildReport {
    /// Shards of this share.
    pub num_shards: usize,
    /// Those of them that an earlier build had finished.
    pub num_reused_shards: usize,
    /// Their sizes.
    pub counts: Counts,
}

/// How far a share is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildProgress {
    /// Bytes of the files that this share has to read.
    pub num_bytes: u64,
    /// Those that are read and encoded, or were so before.
    pub num_bytes_done: u64,
    /// Those among them whose shards an earlier build had finished.
    pub num_bytes_reused: u64,
    /// Bytes of unpacked text encoded by this build.
    pub num_text_bytes_encoded: u64,
}

/// Whether shards have to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildStatus {
    /// There is no shard folder.
    Absent,
    /// The shards fit the request.
    Ready(Box<Manifest>),
    /// The shards were built from something else.
    Stale {
        /// What differs.
        what: &'static str,
        /// What is asked for.
        expected: String,
        /// What the shards were built with.
        got: String,
    },
}

/// What one share leaves for [`finish`].
#[derive(Serialize, Deserialize)]
struct Part {
    plan: String,
    blocks: Vec<BlockRecord>,
}

/// Everything that is known before a byte of text is encoded.
struct BuildPlan {
    sources: TextSources,
    blocks: Vec<TextBlock>,
    segmenter: WordSegmenter,
    /// Hash of files, sizes, blocks and settings: shares that disagree on it must not be joined.
    id: String,
}

impl BuildPlan {
    fn new(request: &ShardBuildRequest) -> Result<Self, DataError> {
        if request.shard_text_bytes == 0 {
            return Err(DataError::config("shard_text_bytes", "at least 1", 0));
        }
        let sources = TextSources::list(&request.sources)?;
        let blocks = sources.blocks(request.shard_text_bytes)?;
        let segmenter = WordSegmenter::new(request.language, request.lexicon.as_deref())?;
        let description = format!(
            "{} {:?} {:?} {} {} {} {:?} {:?}",
            env!("CARGO_PKG_VERSION"),
            sources.files(),
            blocks,
            request.shard_text_bytes,
            request.strict,
            request.tokenizer.fingerprint(),
            segmenter.language(),
            segmenter.lexicon_fingerprint()
        );
        let id = blake3::hash(description.as_bytes()).to_hex().to_string();
        Ok(Self { sources, blocks, segmenter, id })
    }
}

/// Compares the shards in the folder with the request. Reads all text once to hash it, if there are shards.
///
/// # Errors
///
/// Those of listing and reading text; [`DataError::Damaged`] if the manifest is not readable or the folder
/// holds something that is no shards.
pub fn status(request: &ShardBuildRequest) -> Result<BuildStatus, DataError> {
    let dir = &request.dir;
    if !dir.join(MANIFEST_NAME).is_file() {
        let is_free = !dir.exists() || crate::files::sorted_entries(dir)?.is_empty();
        if is_free {
            return Ok(BuildStatus::Absent);
        }
        return Err(DataError::damaged(
            dir,
            "content",
            "shards with a manifest.json, or nothing",
            "other files (if these were shards, delete the folder)",
        ));
    }
    let manifest = match read_manifest(request) {
        Ok(manifest) => manifest,
        Err(DataError::Stale { what, expected, got, .. }) => {
            return Ok(BuildStatus::Stale { what, expected, got });
        }
        // What is to be replaced where it does not fit may as well be damaged.
        Err(DataError::Damaged { what, expected, got, .. }) if request.when_stale == WhenStale::Rebuild => {
            return Ok(BuildStatus::Stale { what, expected, got });
        }
        Err(error) => return Err(error),
    };
    let segmenter = WordSegmenter::new(request.language, request.lexicon.as_deref())?;
    let text = |size: u64| format!("{size} bytes of text per shard");
    let lexicon = |fingerprint: Option<&str>| fingerprint.unwrap_or("none").to_owned();
    let language = |language: Language| format!("{language:?}");
    let mut pairs = vec![
        ("tokenizer", request.tokenizer.fingerprint().to_owned(), manifest.tokenizer_fingerprint.clone()),
        ("language", language(request.language), language(manifest.language)),
        (
            "lexicon",
            lexicon(segmenter.lexicon_fingerprint()),
            lexicon(manifest.lexicon_fingerprint.as_deref()),
        ),
        ("shard size", text(request.shard_text_bytes), text(manifest.shard_text_bytes)),
        ("number of sources", request.sources.len().to_string(), manifest.num_sources().to_string()),
    ];
    if request.strict {
        pairs.push((
            "number of invalid lines",
            "0".to_owned(),
            manifest.counts.num_invalid_lines.to_string(),
        ));
    }
    if pairs.iter().all(|(_, expected, got)| expected == got) {
        let sources = TextSources::list(&request.sources)?;
        let blocks = sources.blocks(request.shard_text_bytes)?;
        let hash = |block: &TextBlock| Ok(sources.hash_block(block)?.to_hex().to_string());
        let hashes: Vec<String> = blocks.par_iter().map(hash).collect::<Result<_, DataError>>()?;
        let text = text_fingerprint(hashes.iter().map(String::as_str));
        pairs.push(("text", text, manifest.text_fingerprint.clone()));
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let expected = texts_by_source(&sources, &blocks, &hashes).join(" ");
        let got: Vec<&str> =
            manifest.by_source.iter().map(|source| source.text_fingerprint.as_str()).collect();
        pairs.push(("text of each source", expected, got.join(" ")));
    }
    match pairs.into_iter().find(|(_, expected, got)| expected != got) {
        Some((what, expected, got)) => Ok(BuildStatus::Stale { what, expected, got }),
        None => Ok(BuildStatus::Ready(Box::new(manifest))),
    }
}

/// The manifest; where a rebuild is wanted, of files that are whole.
fn read_manifest(request: &ShardBuildRequest) -> Result<Manifest, DataError> {
    let manifest = Manifest::read(&request.dir)?;
    if request.when_stale == WhenStale::Rebuild {
        check_files(&request.dir, &manifest, Verify::Hashes)?;
    }
    Ok(manifest)
}

/// Builds this share's shards into `<dir>.building`, keeping those that an earlier build of the same text and
/// settings has finished there. Every share must call it before one of them calls [`finish`].
///
/// # Errors
///
/// Those of reading text and tokenizing; [`DataError::Io`]; [`DataError::Config`] for an impossible share.
pub fn build(request: &ShardBuildRequest, share: BuildShare) -> Result<BuildReport, DataError> {
    build_watched(request, share, &mut |_| {})
}

/// [`build`] that tells how far it is after about every megabyte of text.
///
/// # Errors
///
/// Those of [`build`].
pub fn build_watched(
    request: &ShardBuildRequest,
    share: BuildShare,
    report: &mut dyn FnMut(&BuildProgress),
) -> Result<BuildReport, DataError> {
    if share.index >= share.count {
        let got = format!("share {} of {}", share.index, share.count);
        return Err(DataError::config("build share", "an index below the number of shares", got));
    }
    let plan = BuildPlan::new(request)?;
    let folder = &building_folder(&request.dir);
    fs::create_dir_all(folder).map_err(DataError::io("create folder", folder))?;
    let part_path = folder.join(part_name(share));
    if part_path.exists() {
        fs::remove_file(&part_path).map_err(DataError::io("remove", &part_path))?;
    }
    let own = || (share.index..plan.blocks.len()).step_by(share.count);
    let spans = own().flat_map(|block_idx| &plan.blocks[block_idx].spans);
    let num_bytes = spans.map(|span| span.end - span.start).sum();
    let mut watch = Watch { progress: BuildProgress { num_bytes, ..BuildProgress::default() }, report };
    let mut result = BuildReport::default();
    let mut blocks = Vec::new();
    for block_idx in own() {
        let (block, num_kept) = BlockBuild { request, plan: &plan, folder, block_idx }.run(&mut watch)?;
        result.num_shards += block.shards.len();
        result.num_reused_shards += num_kept;
        block.shards.iter().for_each(|shard| result.counts.add(&shard.counts));
        blocks.push(block);
    }
    let json = serde_json::to_vec(&Part { plan: plan.id, blocks }).map_err(|e| json_error(&part_path, &e))?;
    write_atomically(&part_path, &json)?;
    Ok(result)
}

/// Joins what all shares have built: writes the manifest and renames `<dir>.building` to `<dir>`. One process
/// calls it, after all shares are done.
///
/// # Errors
///
/// [`DataError::Damaged`] if a share is missing or was built from other text or settings;
/// [`DataError::EmptyCorpus`] if there is no token at all; [`DataError::Io`].
pub fn finish(request: &ShardBuildRequest, num_shares: usize) -> Result<Manifest, DataError> {
    let plan = BuildPlan::new(request)?;
    let folder = building_folder(&request.dir);
    let mut blocks = Vec::new();
    for index in 0..num_shares {
        let path = folder.join(part_name(BuildShare { index, count: num_shares }));
        let bytes = fs::read(&path).map_err(DataError::io("read the result of a share", &path))?;
        let part: Part = serde_json::from_slice(&bytes).map_err(|e| json_error(&path, &e))?;
        if part.plan != plan.id {
            return Err(DataError::damaged(&path, "build plan", &plan.id, part.plan));
        }
        blocks.extend(part.blocks);
        fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
    }
    blocks.sort_by_key(|block| block.block_idx);
    if blocks.len() != plan.blocks.len() {
        return Err(DataError::damaged(&folder, "blocks of text", plan.blocks.len(), blocks.len()));
    }
    let mut manifest = manifest_of(request, &plan, blocks);
    if manifest.counts.num_tokens == 0 {
        let names: Vec<String> = request.sources.iter().map(|s| format!("`{}`", s.display())).collect();
        return Err(DataError::EmptyCorpus { got: names.join(", ") });
    }
    remove_strangers(&folder, &manifest)?;
    manifest.seal_and_write(&folder)?;
    move_into_place(&folder, &request.dir)?;
    Ok(manifest)
}

/// One process: reuses finished shards, or builds them all.
///
/// # Errors
///
/// [`DataError::Stale`] if there are shards of something else and the request refuses them; [`DataError::InUse`] if
/// another process builds them; those of [`status`], [`build`] and [`finish`].
pub fn prepare(request: &ShardBuildRequest) -> Result<Manifest, DataError> {
    prepare_watched(request, &mut |_| {})
}

/// [`prepare`] that tells how far it is, if there is something to build.
///
/// # Errors
///
/// Those of [`prepare`].
pub fn prepare_watched(
    request: &ShardBuildRequest,
    report: &mut dyn FnMut(&BuildProgress),
) -> Result<Manifest, DataError> {
    if let Some(manifest) = ready(request)? {
        return Ok(manifest);
    }
    let _lock = BuildLock::take(&request.dir)?;
    if let Some(manifest) = ready(request)? {
        return Ok(manifest);
    }
    build_watched(request, BuildShare::WHOLE, report)?;
    finish(request, 1)
}

/// Returns the manifest of the shards, or nothing if they are to be built.
///
/// # Errors
///
/// [`DataError::Stale`] if they are there, do not fit the request, and it says to refuse those; the others as [`status`].
pub fn ready(request: &ShardBuildRequest) -> Result<Option<Manifest>, DataError> {
    match status(request)? {
        BuildStatus::Ready(manifest) => Ok(Some(*manifest)),
        BuildStatus::Stale { what, expected, got } if request.when_stale == WhenStale::Refuse => {
            Err(DataError::Stale { path: request.dir.clone(), what, expected, got })
        }
        BuildStatus::Stale { .. } | BuildStatus::Absent => Ok(None),
    }
}

/// The manifest of a finished build, not sealed yet.
fn manifest_of(request: &ShardBuildRequest, plan: &BuildPlan, blocks: Vec<BlockRecord>) -> Manifest {
    let hashes: Vec<&str> = blocks.iter().map(|block| block.text_blake3.as_str()).collect();
    let text_fingerprint = text_fingerprint(hashes.iter().copied());
    let texts = texts_by_source(&plan.sources, &plan.blocks, &hashes);
    let by_source = texts.into_iter().enumerate().map(|(source_idx, text_fingerprint)| {
        let is_own =
            |block: &&BlockRecord| plan.sources.source_of_block(&plan.blocks[block.block_idx]) == source_idx;
        let num_shards = blocks.iter().filter(is_own).map(|block| block.shards.len() as u64).sum();
        SourceShards { num_shards, text_fingerprint }
    });
    let by_source = by_source.collect();
    let shards: Vec<ShardRecord> = blocks.into_iter().flat_map(|block| block.shards).collect();
    let mut counts = Counts::default();
    shards.iter().for_each(|shard| counts.add(&shard.counts));
    let source = |file: &crate::text::TextFile| SourceRecord {
        path: file.path.display().to_string(),
        num_bytes: file.num_bytes,
    };
    Manifest {
        format_version: 0,
        fingerprint: String::new(),
        text_fingerprint,
        tokenizer_fingerprint: request.tokenizer.fingerprint().to_owned(),
        vocab_size: request.tokenizer.vocab_size() as u64,
        special: request.tokenizer.special(),
        special_ids: request.tokenizer.special_ids().to_vec(),
        language: request.language,
        lexicon_fingerprint: plan.segmenter.lexicon_fingerprint().map(str::to_owned),
        shard_text_bytes: request.shard_text_bytes,
        counts,
        shards,
        by_source,
        sources: plan.sources.files().iter().map(source).collect(),
    }
}

/// Fingerprint of the text of each source, by the hashes of all blocks; none if there is one source.
fn texts_by_source(sources: &TextSources, blocks: &[TextBlock], hashes: &[&str]) -> Vec<String> {
    let num_sources = if sources.num_sources() > 1 { sources.num_sources() } else { 0 };
    let text_of = |source_idx| {
        let own = blocks.iter().zip(hashes).filter(|(block, _)| sources.source_of_block(block) == source_idx);
        text_fingerprint(own.map(|(_, hash)| *hash))
    };
    (0..num_sources).map(text_of).collect()
}

/// Hash over the hashes of blocks.
fn text_fingerprint<'a>(block_hashes: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for hash in block_hashes {
        hasher.update(hash.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Deletes what an earlier, interrupted build left behind.
fn remove_strangers(folder: &Path, manifest: &Manifest) -> Result<(), DataError> {
    let known: BTreeSet<String> =
        manifest.shards.iter().flat_map(|shard| shard.files().map(|(name, _)| name)).collect();
    for entry in crate::files::sorted_entries(folder)? {
        let name = entry.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !known.contains(&name) {
            fs::remove_file(&entry).map_err(DataError::io("remove", &entry))?;
        }
    }
    Ok(())
}

/// Renames the finished folder, replacing older shards.
fn move_into_place(folder: &Path, dir: &Path) -> Result<(), DataError> {
    sync_folder(folder)?;
    let old = sibling(dir, "old");
    let replaces = dir.join(MANIFEST_NAME).is_file();
    if old.join(MANIFEST_NAME).is_file() {
        // Left behind by a replacement that was interrupted.
        fs::remove_dir_all(&old).map_err(DataError::io("remove", &old))?;
    }
    if replaces {
        fs::rename(dir, &old).map_err(DataError::io("set aside", dir))?;
    }
    fs::rename(folder, dir).map_err(DataError::io("rename to", dir))?;
    sync_folder(parent_of(dir))?;
    if replaces {
        fs::remove_dir_all(&old).map_err(DataError::io("remove", &old))?;
    }
    Ok(())
}

/// Where shards are built before they are complete.
fn building_folder(dir: &Path) -> PathBuf {
    sibling(dir, "building")
}

/// `<dir>.<suffix>`
pub(super) fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let name =
        dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| "shards".to_owned());
    parent_of(dir).join(format!("{name}.{suffix}"))
}

/// Name of the file in which a share says what it has built.
fn part_name(share: BuildShare) -> String {
    format!("part-{:05}-of-{:05}.json", share.index, share.count)
}
