//! `bert convert`: weights of other formats and names to a Hugging Face folder of this project, and larger vocabularies.
//!
//! Owns what is written, and that the target appears whole or not at all. Formats are the business of
//! [`bert_model::hf`]; which pieces make up a new token that of [`crate::new_tokens`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bert_data::Tokenizer;
use bert_model::{
    ParameterLayout, grow_vocabulary,
    hf::{self, Allowed, ConfigFile, LoadedModel, Source},
};
use bert_random::{Key, Purpose};

use crate::{
    checkpoint::model_folder_of,
    cli::ConvertArguments,
    failure::ToolError,
    new_tokens::NewTokens,
    predict::recorded_lowercase,
    table::{line, thousands},
};

/// Files of a tokenizer that are copied as they are.
const TOKENIZER_FILES: [&str; 4] =
    ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Runs the command.
///
/// # Errors
///
/// If the source does not hold the model that its configuration describes, or the target is there already.
pub fn run(arguments: &ConvertArguments) -> anyhow::Result<()> {
    if arguments.to.exists() {
        let message = format!("`{}` is there already: expected a folder to be made", arguments.to.display());
        return Err(ToolError::Usage(message).into());
    }
    let source = source_of(arguments)?;
    let loaded = load(&source, arguments)?;
    report("initialised", &loaded.initialised);
    report("left out", &loaded.left_out);

    let tokenizer_folder = source.tensors.parent().unwrap_or(Path::new("."));
    let unfinished = unfinished_folder(&arguments.to);
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot create `{}`", unfinished.display()))?;
    let written = match &arguments.add_tokens {
        Some(file) => write_grown(&unfinished, &loaded, tokenizer_folder, file, arguments.lowercase),
        None => write_unchanged(&unfinished, &loaded, tokenizer_folder),
    };
    let finished = written.and_then(|config| {
        fs::rename(&unfinished, &arguments.to)
            .with_context(|| format!("cannot finish `{}`", arguments.to.display()))?;
        Ok(config)
    });
    if finished.is_err() {
        // The first error is the one to report; what stays behind is found by its name.
        let _ = fs::remove_dir_all(&unfinished);
    }
    let layout = ParameterLayout::new(finished?.model());
    let num_tensors = layout.buckets.iter().map(|bucket| bucket.parameters.len()).sum::<usize>();
    line(format!(
        "wrote {}: {num_tensors} tensors, {} parameters",
        arguments.to.display(),
        thousands(layout.num_elements() as u64)
    ));
    Ok(())
}

/// A sibling of the target, so that the last step is a rename.
fn unfinished_folder(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".unfinished-{name}-{}", std::process::id()))
}

fn source_of(arguments: &ConvertArguments) -> anyhow::Result<Source> {
    let mut source = if arguments.from.is_dir() {
        let folder = &arguments.from;
        let is_source = arguments.config.is_some();
        Source::folder(&if is_source { folder.clone() } else { model_folder_of(folder)? })?
    } else {
        Source::file(&arguments.from)
    };
    if let Some(config) = &arguments.config {
        source.config.clone_from(config);
    }
    Ok(source)
}

fn load(source: &Source, arguments: &ConvertArguments) -> anyhow::Result<LoadedModel> {
    let begins_with =
        |prefixes: &[String], name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let allowed = Allowed {
        missing: &|name| begins_with(&arguments.allow_missing, name),
        unexpected: &|name| begins_with(&arguments.allow_unexpected, name),
        init_key: arguments.seed.map(|seed| Key::new(seed, Purpose::Init)),
    };
    let step = || {
        format!(
            "cannot convert `{}` (what may be missing or left out is named by --allow-missing PREFIX --seed N and \
             --allow-unexpected PREFIX)",
            source.tensors.display()
        )
    };
    hf::load(source, &allowed).with_context(step)
}

fn report(what: &str, names: &[String]) {
    if !names.is_empty() {
        line(format!("{what} ({}): {}", names.len(), names.join(", ")));
    }
}

fn write_unchanged(folder: &Path, loaded: &LoadedModel, tokenizer: &Path) -> anyhow::Result<ConfigFile> {
    let config = loaded.config.for_pretraining(loaded.config.model().vocab_size);
    hf::save_folder_as(folder, &config, |idx, out| out.copy_from_slice(&loaded.buckets[idx]))?;
    for file in TOKENIZER_FILES.iter().filter(|file| tokenizer.join(file).is_file()) {
        fs::copy(tokenizer.join(file), folder.join(file))
            .with_context(|| format!("cannot copy `{}`", tokenizer.join(file).display()))?;
    }
    Ok(config)
}

fn write_grown(
    folder: &Path,
    loaded: &LoadedModel,
    tokenizer: &Path,
    file: &Path,
    lowercase: Option<bool>,
) -> anyhow::Result<ConfigFile> {
    let lowercase = lowercase.unwrap_or_else(|| recorded_lowercase(tokenizer));
    let old = Tokenizer::from_vocab_file(tokenizer, lowercase)?;
    let model = loaded.config.model();
    if old.vocab_size() != model.vocab_size {
        let message = format!(
            "`{}`: expected a vocabulary of {} entries, as many as the model has words, got {}",
            tokenizer.display(),
            model.vocab_size,
            old.vocab_size()
        );
        return Err(ToolError::Damaged(message).into());
    }
    let added = NewTokens::read(file, &old)?;
    let (grown, buckets) = grow_vocabulary(model, &loaded.buckets, &added.pieces);
    let config = loaded.config.for_pretraining(grown.vocab_size);
    hf::save_folder_as(folder, &config, |idx, out| out.copy_from_slice(&buckets[idx]))?;
    added.tokenizer.save_vocab(folder)?;
    line(format!(
        "added {} tokens ({} were there already): {} words",
        added.pieces.len(),
        added.num_known,
        thousands(grown.vocab_size as u64)
    ));
    Ok(config)
}
